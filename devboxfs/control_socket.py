"""Where control sockets are, how they are reached, and who has a mount point."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from devboxfs.config import ExitCode, MountError, key_of

__all__ = ["CREDENTIALS", "Claim", "connect_socket", "listen_at", "private_directory"]

CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid: struct ucred, unix(7)
_SUN_PATH: Final = 107  # sizeof(sun_path) less the terminating NUL, unix(7)


@contextlib.contextmanager
def _address_of(path: Path) -> Iterator[str]:
    """Give an address for `path`, however long it is: sun_path holds 107 bytes only."""
    if len(os.fsencode(path)) <= _SUN_PATH:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def private_directory(candidates: Iterable[Path]) -> Path:
    """Return the first candidate that is, or can be made, this user's own and closed to others."""
    candidates = list(candidates)
    for place in candidates:
        last = place == candidates[-1]
        with contextlib.suppress(OSError):
            # All but the last are inside a directory that the session manager makes and owns.
            if last:
                place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            elif place.parent.stat().st_uid != os.getuid():
                continue
            place.mkdir(mode=0o700, exist_ok=True)
            status = place.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
                place.chmod(0o700)
                return place
    raise MountError(f"No directory for the control socket could be made in {candidates[-1]}.")


def connect_socket(path: Path, timeout: float) -> socket.socket | None:
    """Connect, or return None when nobody listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        with _address_of(path) as address:
            connection.connect(address)
    except (ConnectionRefusedError, FileNotFoundError, NotADirectoryError):
        connection.close()
        return None
    except OSError:
        # It exists but does not answer (a full backlog, no permission): not ours to judge.
        connection.close()
        raise
    return connection


def listen_at(path: Path) -> socket.socket:
    """Make a socket that listens at `path`, for this user alone; raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with _address_of(path) as address:
            listener.bind(address)
        path.chmod(0o600)
        listener.listen(16)
    except OSError:
        listener.close()
        raise
    return listener


class Claim:
    """Keeps others from mounting at a place, from before it is mounted until all is flushed.

    A lock in the state directory, which unlike the runtime directory is never taken away.

    Raises:
        MountError: another daemon has it.
    """

    def __init__(self, directory: Path, mountpoint: Path) -> None:
        private_directory([directory])
        self._path = directory / f"{key_of(mountpoint)}.lock"
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise MountError(
                    f"Another devboxfs is mounting or unmounting {mountpoint}: "
                    "try again when it has ended.",
                    ExitCode.BUSY,
                ) from None
            if os.fstat(descriptor).st_nlink:
                self._descriptor = descriptor
                return
            # The daemon before removed the file between our opening it and our locking it.
            os.close(descriptor)

    def release(self) -> None:
        """Let others mount there."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
