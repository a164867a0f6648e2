"""The first process of an enclosure: it starts and stops daemons when asked.

    unshare --mount --pid --fork --mount-proc ... python init.py DIRECTORY (--hold | --stay)

As process 1 of its own process and mount namespaces it takes everything with it when it ends, down
to the last container and mount, however it ended. It ends at the end of its standard input
(`--hold`: with the process that started it) or when it is killed (`--stay`).

A request is a line of JSON on the socket `init.sock`, answered by another. Only the standard
library is used, and one thread: a process 1 has to reap whatever is handed to it.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# What daemons write outside their own directories goes into the enclosure's, unseen by others.
PRIVATE = {"/var/lib": "var-lib", "/var/log": "var-log"}


def main(directory: Path, *, hold: bool) -> None:
    for fd in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # the one that listed
            os.set_inheritable(fd, fd <= 2)
    prepare_mounts(directory)
    daemons = Daemons(directory / "logs")
    wake, wakened = socket.socketpair()
    for end in (wake, wakened):
        end.setblocking(False)
    signal.set_wakeup_fd(wakened.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(directory / "init.sock"))
    listener.listen()
    print("ready", flush=True)

    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(wake, selectors.EVENT_READ)
    if hold:
        selector.register(0, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is wake:
                with contextlib.suppress(BlockingIOError):
                    wake.recv(4096)
                daemons.reap()
            elif key.fileobj is listener:
                client, _ = listener.accept()
                with client:
                    client.settimeout(5)
                    with contextlib.suppress(OSError):
                        serve(client, daemons)
            elif not os.read(0, 4096):
                return


def prepare_mounts(directory: Path) -> None:
    def mount(*arguments: object) -> None:
        subprocess.run(["mount", *map(str, arguments)], check=True)

    for shared, private in PRIVATE.items():
        (directory / private).mkdir()
        mount("--bind", directory / private, shared)
    mount("-t", "tmpfs", "tmpfs", "/run")
    # A place where nothing can be executed, for boxes whose /tmp is like that.
    (directory / "noexec").mkdir()
    mount("-t", "tmpfs", "-o", "noexec,nosuid,nodev,mode=1777", "tmpfs", directory / "noexec")


class Daemons:
    """The children that were asked for, by name."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, int] = {}

    def start(self, name: str, argv: list[str], env: dict[str, str]) -> dict[str, Any]:
        self.reap()
        if name in self._running:
            return {"error": f"{name} is running"}
        log = str(self._logs / f"{name}.log")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        try:
            pid = os.posix_spawnp(
                argv[0],
                argv,
                os.environ | env,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, log, flags, 0o644),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,
                setsigdef=[signal.SIGPIPE, signal.SIGINT],
            )
        except OSError as error:
            return {"error": f"{argv[0]}: {error.strerror}"}
        self._running[name] = pid
        return {"pid": pid}

    def stop(self, name: str, signal_number: int, patience: float) -> dict[str, Any]:
        """Send a signal, and SIGKILL to whoever has not ended after `patience` seconds."""
        pid = self._running.get(name)
        if pid is None:
            return {"killed": False}
        killed = False
        os.kill(pid, signal_number)
        deadline = time.monotonic() + patience
        while name in self._running:
            if time.monotonic() > deadline and not killed:
                os.kill(pid, signal.SIGKILL)
                killed = True
            time.sleep(0.01)
            self.reap()
        return {"killed": killed}

    def running(self) -> dict[str, int]:
        self.reap()
        return dict(self._running)

    def reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, _ = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                for name in [name for name, it in self._running.items() if it == pid]:
                    del self._running[name]


def serve(client: socket.socket, daemons: Daemons) -> None:
    line = client.makefile("rb").readline()
    if not line:
        return
    request = json.loads(line)
    match request["do"]:
        case "start":
            answer = daemons.start(request["name"], request["argv"], request["env"])
        case "stop":
            answer = daemons.stop(request["name"], request["signal"], request["patience"])
        case "running":
            answer = {"running": daemons.running()}
        case other:
            answer = {"error": f"cannot {other}"}
    client.sendall(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), hold=sys.argv[2] == "--hold")
