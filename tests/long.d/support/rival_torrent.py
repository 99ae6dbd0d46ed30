"""One seeder or leecher of libtorrent on loopback: prints a line of JSON when it is ready and done."""

import json
import os
import resource
import sys
import time

import libtorrent as lt

role, torrent, directory, port = sys.argv[1:5]
settings = {}
settings |= {
    "listen_interfaces": f"127.0.0.1:{port}",
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "max_out_request_queue": 2000,
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "allow_multiple_connections_per_ip": True,
    "alert_mask": 0,
}
session = lt.session(settings)
params = lt.add_torrent_params()
params.ti = lt.torrent_info(torrent)
params.save_path = directory
if role == "seed":
    params.flags |= lt.torrent_flags.seed_mode


def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


before, begun = cpu(), time.monotonic()
handle = session.add_torrent(params)
if role == "seed":
    print(json.dumps({"ready": True}), flush=True)
    sys.stdin.read()
else:
    for other in sys.argv[5:]:
        handle.connect_peer(("127.0.0.1", int(other)))
    while not handle.status().is_seeding:
        time.sleep(0.01)
    seconds = time.monotonic() - begun
    time.sleep(1.0)
    print(json.dumps({"seconds": seconds, "cpu": cpu() - before}), flush=True)
os._exit(0)
