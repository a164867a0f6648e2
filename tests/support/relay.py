"""Standard streams carried by TCP: what an exec stream is to a program, with a network between.

    relay.py serve ADDRESS PORT                    starts what clients ask for, there
    relay.py connect ADDRESS PORT PROGRAM [ARG]... has it started, and passes its streams on

A network that says nothing is not noticed here: that is the business of who uses the streams.
"""

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading

CHUNK = 65_536
CONNECT_TIMEOUT = 5


def serve(address: str, port: int) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    listener = socket.create_server((address, port), backlog=128)
    print("ready", flush=True)
    while True:
        client, _ = listener.accept()
        threading.Thread(target=_start, args=[client], daemon=True).start()


def _start(client: socket.socket) -> None:
    with client, contextlib.suppress(OSError):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        (length,) = struct.unpack("!I", _exactly(client, 4))
        argv = json.loads(_exactly(client, length))
        subprocess.Popen(argv, stdin=client, stdout=client, stderr=subprocess.DEVNULL)


def _exactly(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = source.recv(size - len(data))
        if not more:
            raise ConnectionError
        data += more
    return data


def connect(address: str, port: int, argv: list[str]) -> None:
    with socket.create_connection((address, port), timeout=CONNECT_TIMEOUT) as server:
        server.settimeout(None)
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wanted = json.dumps(argv).encode()
        server.sendall(struct.pack("!I", len(wanted)) + wanted)
        threading.Thread(target=_upwards, args=[server], daemon=True).start()
        while data := server.recv(CHUNK):
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(1, rest) :]
    os._exit(0)


def _upwards(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := os.read(0, CHUNK):
            server.sendall(data)
        server.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    command, to, at, *rest = sys.argv[1:]
    if command == "serve":
        serve(to, int(at))
    else:
        connect(to, int(at), rest)
