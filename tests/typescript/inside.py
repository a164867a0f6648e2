"""Runs the script in a network of its own, where every name is this machine.

The SDK leaves the port out of the address that it makes for a box's agent, so the engine has to be
at port 80, and it makes one name for each box, so names have to resolve. Both are given here: in a
network namespace port 80 is free, and a name server on its loopback answers every question with
127.0.0.1.
"""

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

from sealos_devbox.server.run import ServeOptions, serving
from sealos_devbox.server.settings import EngineSettings

SIOCSIFFLAGS = 0x8914
IFF_UP_AND_RUNNING = 0x41


def loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh", b"lo", IFF_UP_AND_RUNNING)
        fcntl.ioctl(control, SIOCSIFFLAGS, request)


def answer_names(server: socket.socket) -> None:
    """Answer each question for an IPv4 address with 127.0.0.1, any other with nothing."""
    while True:
        try:
            query, client = server.recvfrom(512)
        except OSError:
            return
        end = query.index(b"\0", 12) + 5
        question = query[12:end]
        (kind,) = struct.unpack(">H", question[-4:-2])
        found = kind == 1
        header = query[:2] + struct.pack(">HHHHH", 0x8180, 1, int(found), 0, 0)
        record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + b"\x7f\0\0\1"
        server.sendto(header + question + (record if found else b""), client)


def main() -> int:
    script, data, backend = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    loopback_up()
    resolver = data / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\n")
    subprocess.run(["mount", "--bind", resolver, "/etc/resolv.conf"], check=True)
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.bind(("127.0.0.1", 53))
    threading.Thread(target=answer_names, args=(names,), daemon=True).start()
    settings = EngineSettings(data / "engine", sample_seconds=0.2, domain="engine.test")
    options = ServeOptions(port=80, backend="trio" if backend == "trio" else "asyncio")
    with serving(settings, options) as served:
        result = subprocess.run(
            ["node", script, "http://devbox.engine.test", served.kubeconfig],
            cwd=script.parent,
            env={"PATH": os.environ["PATH"], "HOME": str(data)},
            stdout=subprocess.PIPE,
            timeout=280,
        )
    names.close()
    if result.returncode == 0:
        calls = json.loads(result.stdout.splitlines()[-1])
        (data / "calls.json").write_text(json.dumps(calls))
    return result.returncode


if __name__ == "__main__":
    sys.exit(main())
