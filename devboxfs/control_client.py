"""The command's end of the control socket: finding daemons and asking them; see control.py."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from devboxfs.config import ExitCode, MountError, key_of
from devboxfs.control import Json, Progress
from devboxfs.control_socket import CREDENTIALS, connect_socket

__all__ = ["ControlClient", "connect", "connect_mount", "sockets"]

MAX_ANSWER: Final = 64 << 20


def _peer(connection: socket.socket) -> tuple[int, int]:
    """Return pid and uid of the process at the other end."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    pid, uid, _gid = CREDENTIALS.unpack(raw)
    return pid, uid


def sockets(places: Iterable[Path]) -> list[Path]:
    """List the control sockets in `places`; some may be of daemons that are dead."""
    found = []
    for place in places:
        with contextlib.suppress(OSError):
            if place.lstat().st_uid in {os.getuid(), 0} or os.getuid() == 0:
                found += sorted(place.glob("*.sock"))
    return found


class ControlClient:
    """The command's end of one connection. Closing it does not stop what was asked."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""
        self.pid, self.uid = _peer(connection)

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._connection.close()

    def call(
        self,
        op: str,
        params: Json | None = None,
        *,
        on_progress: Progress | None = None,
        silence: float = 10.0,
        timeout: float | None = None,
    ) -> Json:
        """Ask for an operation and wait for its result.

        A daemon that says nothing for `silence` seconds is given up, and so is an operation that
        takes longer than `timeout`, though it goes on.

        Raises:
            MountError: the daemon answered with an error, or not in time.
            OSError: the operation met one that has an errno of its own (EBUSY).
            ConnectionError: the daemon is gone.
        """
        until = None if timeout is None else time.monotonic() + timeout
        self._connection.settimeout(silence)
        try:
            request = json.dumps({"op": op, "params": params or {}})
            self._connection.sendall(request.encode() + b"\n")
            while True:
                message = self._receive(silence, until)
                if "progress" in message and on_progress:
                    on_progress(message["progress"])
                elif "result" in message:
                    result: Json = message["result"]
                    return result
                elif "error" in message:
                    raise _as_exception(message["error"])
        except TimeoutError as error:
            raise MountError(
                f"The daemon (pid {self.pid}) does not answer in time.", ExitCode.NO_ANSWER
            ) from error

    def _receive(self, silence: float, until: float | None) -> Json:
        quiet_until = time.monotonic() + silence
        deadline = quiet_until if until is None else min(until, quiet_until)
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._connection.settimeout(left)
            data = self._connection.recv(1 << 16)
            if not data or len(self._buffer) > MAX_ANSWER:
                raise ConnectionResetError("the daemon closed the connection")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: Json = json.loads(line)
        return message


def _as_exception(error: Json) -> Exception:
    if error.get("errno") is not None:
        return OSError(error["errno"], error["text"])
    return MountError(str(error["text"]), int(error["exit_code"]))


def connect(path: Path, *, timeout: float = 5.0) -> ControlClient | None:
    """Connect to a daemon's socket; removes the socket and returns None if the daemon is dead.

    Raises:
        OSError: somebody holds the socket who does not answer, or it belongs to someone else.
    """
    connection = connect_socket(path, timeout)
    if connection is None:
        with contextlib.suppress(OSError):
            path.unlink()
        return None
    client = ControlClient(connection)
    if client.uid not in {os.getuid(), 0} and os.getuid() != 0:
        connection.close()
        raise PermissionError(f"{path} is held by another user's process")
    return client


def connect_mount(
    mountpoint: Path, places: Iterable[Path], *, timeout: float = 5.0
) -> ControlClient | None:
    """Connect to the daemon that serves `mountpoint`; None when there is none that listens."""
    prefix = key_of(mountpoint) + "-"
    for path in sockets(places):
        if path.name.startswith(prefix):
            with contextlib.suppress(OSError):
                client = connect(path, timeout=timeout)
                if client is not None:
                    return client
    return None
