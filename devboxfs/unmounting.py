"""`devboxfs umount` and `devboxfs sync`: what they ask the daemon, and what they do without one."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from devboxfs import control_client, mountpoint
from devboxfs.config import ExitCode, MountError, Places
from devboxfs.control_client import ControlClient
from devboxfs.mountpoint import Mount
from devboxfs.overview import plural, size, waiting_journals

__all__ = ["detach", "sync", "umount"]

Json = dict[str, Any]
Progress = Callable[[Json], None]

AFTER_FLUSH: Final = 60.0
"""How long the daemon may take for all that comes after flushing, the last flush included."""
EXIT_TIME: Final = 30.0
"""How long a daemon may take to end after its mount has gone: it syncs files on a busy disk."""
FORCE_EXIT_TIME: Final = 2.0
"""The same after `--force`, before it is killed."""
FORCE_TIME: Final = 5.0
"""How long `--force` lets the daemon try by itself, unless told otherwise."""


def _places(mount: Mount, places: Places) -> tuple[Path, ...]:
    # Root looks where the mount's own user has the sockets.
    return (*places.runtime, Path(f"/run/user/{mount.user_id}/devboxfs"))


def umount(mount: Mount, places: Places, *, timeout: float | None, on_progress: Progress) -> str:
    """Have the daemon flush and unmount; returns once it has ended, with what to tell.

    Raises:
        MountError: the mount stays, or something is left in the journal; the text says which.
    """
    client = control_client.connect_mount(mount.path, _places(mount, places))
    if client is None:
        return _without_daemon(mount, places)
    with client, _Process(client.pid) as process:
        try:
            result = client.call(
                "unmount",
                {"timeout": timeout},
                on_progress=on_progress,
                timeout=None if timeout is None else timeout + AFTER_FLUSH,
            )
        except ConnectionError:
            if process.ended(EXIT_TIME) and mountpoint.wait_gone(mount, timeout=0):
                raise MountError(
                    f"{mount.path} is unmounted, but its daemon ended without saying whether all "
                    "is in the box; devboxfs status shows what waits.",
                    ExitCode.PENDING,
                ) from None
            return _without_daemon(mount, places)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise _busy(mount, client.pid) from error
            raise MountError(
                f"{mount.path} cannot be unmounted: {error.strerror}.", ExitCode.FAILED
            ) from error
        gone = mountpoint.wait_gone(mount, timeout=EXIT_TIME)
        if not (gone and process.ended(EXIT_TIME)):
            left = f"its daemon (pid {client.pid}) has not ended" if gone else "it is still mounted"
            raise MountError(
                f"{mount.path} was flushed, but {left} after {EXIT_TIME:.0f} s.",
                ExitCode.NO_ANSWER,
            )
    if result.get("operations"):
        reason = f" ({result['reason']})" if result.get("reason") else ""
        raise MountError(
            f"{mount.path} is unmounted, but {plural(int(result['operations']), 'operation')} "
            f"({size(int(result.get('bytes') or 0))}) could not be brought to the box{reason}: "
            f"the journal keeps them until {mount.box} is mounted again.",
            ExitCode.PENDING,
        )
    return f"{mount.path} is unmounted; everything is in the box {mount.box}."


class _Process:
    """A process, whatever becomes of its number; usable as a context manager."""

    def __init__(self, pid: int) -> None:
        try:
            self._descriptor: int | None = os.pidfd_open(pid)
        except ProcessLookupError:
            self._descriptor = None

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def ended(self, timeout: float) -> bool:
        """Wait for its end; tells whether it came."""
        if self._descriptor is None:
            return True
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._descriptor is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)


def _busy(mount: Mount, daemon: int) -> MountError:
    nested = mountpoint.mounts_below(mount.path)
    users = [user for user in mountpoint.users(mount.path) if user.pid != daemon]
    if nested:
        who = "there are mounts inside it: " + ", ".join(str(other.path) for other in nested)
    elif users:
        shown = ", ".join(str(user) for user in users[:5])
        more = f" and {len(users) - 5} more" if len(users) > 5 else ""
        who = f"it is used by {shown}{more}"
    else:
        who = "processes that you may not see use it"
    return MountError(f"{mount.path} stays mounted: {who}.", ExitCode.BUSY)


def _without_daemon(mount: Mount, places: Places) -> str:
    health = mountpoint.probe(mount.path)
    if health == "dead":
        mountpoint.repair(mount)
        return _tell_journal(
            f"The daemon of {mount.path} had ended; the mount is removed", mount, places
        )
    if health == "hung":
        raise MountError(
            f"The daemon of {mount.path} does not answer: try devboxfs umount --force "
            f"{mount.path}, which leaves in the journal what is not in the box.",
            ExitCode.NO_ANSWER,
        )
    raise MountError(
        f"{mount.path} is mounted, but the control socket of its daemon is gone: send SIGTERM to "
        "the daemon, which unmounts it.",
        ExitCode.NO_ANSWER,
    )


def _tell_journal(done: str, mount: Mount, places: Places) -> str:
    waiting = [journal for journal in waiting_journals(places.state) if journal.box == mount.box]
    if not waiting:
        return f"{done}, and no journal of {mount.box} waits."
    held = size(sum(journal.bytes for journal in waiting))
    raise MountError(
        f"{done}; changes that may not be in the box ({held}) are in its journal, which the next "
        f"mount of {mount.box} replays.",
        ExitCode.PENDING,
    )


def detach(mount: Mount, places: Places, *, timeout: float | None, on_progress: Progress) -> str:
    """Be rid of the mount whatever its daemon and its users do; the daemon is asked first.

    A daemon that does not end when its mount is gone is killed: processes that wait for it wait on
    otherwise where fusectl is out of reach, and its journal is made for that.

    Raises:
        MountError: it cannot be detached, or something is left in the journal.
    """
    limit = FORCE_TIME if timeout is None else timeout
    reason = ""
    client = control_client.connect_mount(mount.path, _places(mount, places), timeout=limit)
    if client is None:
        mountpoint.repair(mount)
    else:
        with client, _Process(client.pid) as process:
            reason = _try_unmount(client, limit, on_progress)
            if not mountpoint.wait_gone(mount, timeout=0):
                mountpoint.repair(mount)
            if not process.ended(FORCE_EXIT_TIME):
                process.kill()
                if not process.ended(EXIT_TIME):
                    raise MountError(
                        f"{mount.path} is detached, but its daemon (pid {client.pid}) cannot be "
                        "killed: something still waits in its mount.",
                        ExitCode.NO_ANSWER,
                    )
    told = f"{mount.path} is detached" + (f" by force ({reason.rstrip('.')})" if reason else "")
    return _tell_journal(told, mount, places)


def _try_unmount(client: ControlClient, timeout: float, on_progress: Progress) -> str:
    """Have the daemon unmount; returns why it did not, or what it could not flush."""
    try:
        result = client.call(
            "unmount", {"timeout": timeout}, on_progress=on_progress, timeout=timeout + 1.0
        )
    except MountError as error:
        return error.text
    except OSError as error:
        return error.strerror or str(error)
    return str(result.get("reason") or "")


def sync(mount: Mount, places: Places, *, on_progress: Progress) -> str:
    """Return once everything pending is fsynced in the box.

    Raises:
        MountError: it is not, and why.
    """
    client = control_client.connect_mount(mount.path, _places(mount, places))
    if client is None:
        raise MountError(
            f"The daemon of {mount.path} cannot be asked: see devboxfs status.", ExitCode.NO_ANSWER
        )
    with client:
        try:
            client.call("sync", on_progress=on_progress)
        except ConnectionError as error:
            raise MountError(
                f"The daemon of {mount.path} ended meanwhile; its journal keeps what is not in "
                "the box.",
                ExitCode.DIED,
            ) from error
        except OSError as error:
            raise MountError(
                f"Not everything in {mount.path} is in the box: {error.strerror}.",
                ExitCode.PENDING,
            ) from error
    return f"Everything in {mount.path} is in the box {mount.box}."
