"""One mount from connecting to unmounting: the order of things, and who owns what.

When NOT to unmount: when the daemon dies of anything but a requested unmount, the mount point
stays, dead (ENOTCONN). If it turned into the empty directory below it, a mirror job that runs at
that moment would take everything for deleted.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import signal
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyfuse3
import trio

from devboxfs import mountpoint
from devboxfs.config import ExitCode, MountConfig, MountError
from devboxfs.control import ControlServer
from devboxfs.fuse.echo import Echo
from devboxfs.fuse.echoing import EchoingOperations
from devboxfs.fuse.repeater import Repeater
from devboxfs.mount.answers import Answers, report_progress
from devboxfs.mount.parts import Parts, service_of
from devboxfs.vfs.filesystem import FileSystem, Settings
from devboxfs.vfs.presentation import LinkTargets, Presentation
from devboxfs.way import WayToBox, is_weak
from sealos_devbox import (
    AsyncDevbox,
    Attributes,
    BoxFileError,
    BoxNotFoundError,
    DevboxError,
    FileTransport,
)

__all__ = ["serve"]

log = logging.getLogger(__name__)

Json = dict[str, Any]
Progress = Callable[[Json], None]

MAX_TASKS = 1000
"""Requests answered at once. Tasks are cheap; the limit on work for the box is at the transport."""
READ_AGAIN = 0.5
"""Seconds after which a read of /dev/fuse that found nothing is given up."""
LET_GO = 2.0
"""Seconds for which the main loop may go on when nothing is mounted any more."""
READ_AHEAD_KB = 1024
"""Kernel read-ahead per file: reads then arrive in up to 1 MiB instead of 128 KiB."""


async def serve(config: MountConfig, ready: Callable[[], None], control: ControlServer) -> None:
    """Serve a mount until it is unmounted. Calls `ready` when the mount answers.

    Raises MountError with one sentence when it cannot be mounted.
    """
    try:
        async with AsyncDevbox(service_of(config)) as devbox:
            # Boxes of the embedded engine are made at their first use; elsewhere they cost money.
            find = devbox.get_or_create if devbox.is_embedded else devbox.get
            box = await find(config.name)
            control.say(f"{config.name} is served by {box.location} ({devbox.reason}).")
            async with box, Parts.open(config, box, control) as parts:
                await _Life(parts).run(ready)
    except BoxNotFoundError as exc:
        raise MountError(f"{exc} {exc.hint}".rstrip(), ExitCode.NO_BOX) from exc
    except ValueError as exc:
        raise MountError(f"The service cannot be told: {exc}.", ExitCode.USAGE) from exc
    except DevboxError as exc:
        hint = f" {exc.hint}" if exc.hint else ""
        raise MountError(f"The box {config.name} cannot be mounted: {exc}{hint}") from exc


class _Life:
    """From connecting to the end."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._echo = Echo(parts.notifier.tokens)
        self._repeater = Repeater(self._echo)
        self._table_exists = trio.Event()
        self._serving = trio.CancelScope()
        self._served = trio.Event()
        """Requests are answered no longer."""
        self._unmounted = trio.Event()
        self._left = ""
        """Why the flush before unmounting left something in the journal."""

    async def run(self, ready: Callable[[], None]) -> None:
        """Connect, recover, mount, serve until unmounted."""
        # A tree is hundreds of thousands of objects that live as long as the mount, and what dies
        # does so by its reference count: looking for cycles that often would only cost time.
        gc.set_threshold(100_000, 20, 100)
        failure: MountError | DevboxError | None = None
        async with trio.open_nursery() as nursery:
            try:
                await nursery.start(self._parts.link.run, self._session)
                transport = await self._parts.link.wait_transport()
                self._look_at_way(transport)
                await self._recover()
                transport = await self._parts.link.wait_transport()
                self._parts.filesystem = self._file_system(transport, await self._top(transport))
                await nursery.start(self._parts.filesystem.run)
                self._table_exists.set()
                await nursery.start(
                    self._parts.writeback.run, self._parts.link, self._parts.filesystem.pending
                )
                nursery.start_soon(self._parts.writeback.run_ticker)
                nursery.start_soon(self._parts.numbers.run)
                self._mount(transport, self._parts.filesystem)
            except (MountError, DevboxError) as exc:
                failure = exc
            except OSError as exc:
                failure = MountError(
                    f"The box {self._parts.box.name} cannot be mounted: {exc.strerror or exc}."
                )
            if failure is None:
                await self._serve(nursery, ready)
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def _look_at_way(self, transport: FileTransport) -> None:
        """Decide whether the mount is written to."""
        rung = self._parts.box.rung
        if rung is not None:
            self._parts.control.say(f"It is reached by {rung.description}.")
            for name, reason in rung.passed_over:
                self._parts.control.say(f"Not by {name}: {reason}")
        weak = is_weak(transport)
        if weak and not self._parts.config.allow_weak and not self._parts.read_only:
            self._parts.read_only = True
            self._parts.control.say(
                "That way is weaker than the helper, so the mount is read-only: --allow-weak "
                "makes it writable all the same, and devboxfs status says what it lacks."
            )
        if isinstance(self._parts.link.box, WayToBox):
            self._parts.link.box.takes_weak = weak

    async def _recover(self) -> None:
        for path, reason in self._parts.writeback.unreadable:
            self._parts.control.say(
                f"Journal {path.name[:8]} is left as it is: {reason}. Mount with the version that "
                "wrote it; see devboxfs journal list."
            )
        for damage in self._parts.writeback.damage:
            self._parts.control.say(f"Part of a journal cannot be read: {damage}.")
        if not self._parts.writeback.has_backlog:
            return
        if self._parts.read_only and not self._parts.config.read_only:
            self._parts.control.say("Changes that the last mount left in its journal wait there.")
            return
        self._parts.control.say(
            "Bringing the changes that the last mount left in its journal to the box ...",
            passing=True,
        )
        for conflict in await self._parts.writeback.recover(self._parts.link):
            self._parts.control.say(
                f"Conflict: {os.fsdecode(conflict.path)} was changed in the box too; "
                "see devboxfs conflicts."
            )
        for path, number in self._parts.writeback.set_aside:
            self._parts.control.say(
                f"The box does not take the changes in journal {path.name[:8]} "
                f"({os.strerror(number)}): they wait, see devboxfs journal list."
            )

    async def _top(self, transport: FileTransport) -> Attributes | None:
        """Return the attributes of the directory below the workspace that is to be mounted."""
        subpath, box = self._parts.config.subpath, self._parts.box.name
        if not subpath:
            return None
        try:
            _event, top = await transport.stat(os.fsencode(subpath))
        except BoxFileError as exc:
            raise MountError(
                f"{subpath!r} cannot be mounted from the box {box}: "
                f"{os.strerror(exc.errno or errno.EIO)}.",
                ExitCode.NO_BOX,
            ) from exc
        if stat.S_ISLNK(top.mode):
            raise MountError(
                f"{subpath!r} is a symbolic link in the box {box}: name the directory that it "
                "leads to.",
                ExitCode.NO_BOX,
            )
        if not stat.S_ISDIR(top.mode):
            raise MountError(f"{subpath!r} is no directory in the box {box}.", ExitCode.NO_BOX)
        return top

    def _file_system(self, transport: FileTransport, top: Attributes | None) -> FileSystem:
        settings = Settings(
            self._parts.read_only,
            self._parts.config.timeout,
            self._parts.config.state_dir,
            strict=self._parts.config.consistency == "strict",
            offline_fsync=self._parts.config.offline_fsync,
            mounted=os.fsencode(self._parts.config.subpath),
            local=self._parts.config.local,
            exclude=self._parts.config.exclude,
            local_directory=self._parts.config.state_dir / "mounts" / self._parts.box.uid / "local",
        )
        return FileSystem(
            settings,
            self._parts.link,
            transport,
            self._parts.writeback,
            self._parts.cache,
            self._parts.numbers,
            self._parts.notifier,
            top=top,
        )

    def _mount(self, transport: FileTransport, filesystem: FileSystem) -> None:
        peer = transport.peer
        filesystem.table.watchers = self._echo
        self._echo.tokens.drop = filesystem.table.drop_if_unused
        self._echo.mounted = filesystem.table.root.name
        config = self._parts.config
        mountpoint_bytes, subpath = os.fsencode(config.mountpoint), os.fsencode(config.subpath)
        owners = Presentation(
            peer.uid,
            peer.gid,
            os.getuid(),
            os.getgid(),
            shown_uid=config.uid,
            shown_gid=config.gid,
            umask=config.umask,
            links=LinkTargets(peer.root, subpath, mountpoint_bytes)
            if config.transform_symlinks
            else None,
        )
        try:
            pyfuse3.init(
                EchoingOperations(filesystem, owners, self._echo.tokens),
                str(self._parts.config.mountpoint),
                set(self._parts.config.fuse_options),
            )
        except RuntimeError as exc:
            raise MountError(
                f"{self._parts.config.mountpoint} cannot be mounted: {exc}.", ExitCode.NO_FUSE
            ) from exc

    async def _serve(self, nursery: trio.Nursery, ready: Callable[[], None]) -> None:
        Answers(self._parts).register()
        self._parts.control.register("unmount", self._on_unmount)
        nursery.start_soon(self._stop_when_asked)
        async with trio.open_nursery() as inner:
            inner.start_soon(self._parts.notifier.run)
            inner.start_soon(self._repeater.run, self._parts.config.mountpoint)
            inner.start_soon(self._tune)
            ready()
            # pyfuse3 polls /dev/fuse and then reads it blocking. A process that is killed in
            # between takes its request back, and the read waits for the next one while everything
            # else stands still: a signal ends it (EINTR), after which pyfuse3 polls again.
            signal.signal(signal.SIGALRM, _nothing)
            signal.setitimer(signal.ITIMER_REAL, READ_AGAIN, READ_AGAIN)
            try:
                with self._serving:
                    await pyfuse3.main(min_tasks=4, max_tasks=MAX_TASKS)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                self._served.set()
            inner.cancel_scope.cancel()
        # Unmounted. What was written between the last flush and that moment is still on its way;
        # when that flush did not get through, another wait would not either.
        with trio.move_on_after(self._parts.config.timeout if not self._left else 0):
            await self._parts.writeback.drain()
        pyfuse3.close(unmount=False)
        self._unmounted.set()

    async def _tune(self) -> None:
        """Tune the mount once it answers: asking for its device is a request to this process."""
        await trio.to_thread.run_sync(_tune, self._parts.config.mountpoint, abandon_on_cancel=True)

    async def _session(self, transport: FileTransport) -> None:
        """Beside each connection: watch and snapshot, as soon as there is a table to keep true."""
        await self._table_exists.wait()
        if self._parts.filesystem is None:
            raise RuntimeError("the table exists with the file system")
        self._parts.filesystem.clock.learn(transport.peer.clock_ns)
        await self._parts.filesystem.remote.session(transport)

    async def _stop_when_asked(self) -> None:
        """Unmount lazily when the control server asks for the end without flushing."""
        await self._parts.control.wait_stop()
        with suppress(OSError):
            await trio.to_thread.run_sync(
                lambda: mountpoint.unmount(self._parts.config.mountpoint, lazy=True)
            )
        await self._end_serving()

    async def _end_serving(self) -> None:
        """Have the main loop end, which waits for handlers that nobody waits for any more."""
        if self._served.is_set():
            return
        pyfuse3.terminate()
        with trio.move_on_after(LET_GO):
            await self._served.wait()
        self._serving.cancel()

    # -- the end

    async def _on_unmount(self, params: Json, progress: Progress) -> Json:
        timeout = params.get("timeout")
        reason = self._left = await self._flush(progress, timeout)
        await self._repeater.pause()
        try:
            await trio.to_thread.run_sync(mountpoint.unmount, self._parts.config.mountpoint)
        except BaseException:
            self._repeater.resume()
            raise
        # The kernel ends the main loop, unless another mount namespace has a copy of this mount: a
        # container that was started meanwhile. It stays there, dead.
        with trio.move_on_after(LET_GO):
            await self._served.wait()
        await self._end_serving()
        with trio.move_on_after(self._parts.config.timeout + 5):
            await self._unmounted.wait()
        figures = self._parts.writeback.statistics()
        if not figures.pending_operations:
            reason = ""
        return {
            "operations": figures.pending_operations,
            "bytes": figures.pending_bytes,
            "reason": reason,
        }

    async def _flush(self, progress: Progress, timeout: float | None) -> str:
        """Bring everything to the box; returns why not all of it got there."""
        limit = timeout if timeout is not None else float("inf")
        with trio.move_on_after(limit) as scope:
            while True:
                # As long as it advances it may take; without a link, or in trouble, it does not
                # wait for ever.
                before = self._parts.writeback.statistics()
                drained = False
                with trio.move_on_after(self._parts.config.timeout) as patience:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(report_progress, self._parts.writeback, progress)
                        drained = await self._parts.writeback.drain()
                        nursery.cancel_scope.cancel()
                if not patience.cancelled_caught:
                    return "" if drained else self._refusal()
                after = self._parts.writeback.statistics()
                if (after.pending_operations, after.pending_bytes) == (
                    before.pending_operations,
                    before.pending_bytes,
                ):
                    break
        if scope.cancelled_caught:
            return f"not done within {limit:.0f} s"
        filesystem = self._parts.filesystem
        trouble = filesystem.pending.trouble_errno if filesystem is not None else 0
        if trouble:
            return f"the box refuses changes: {os.strerror(trouble)}"
        if not self._parts.link.online:
            return "the box cannot be reached"
        return "the box does not answer"

    def _refusal(self) -> str:
        refused = self._parts.writeback.refusals()
        if not refused:
            return ""
        return f"the box refuses {os.fsdecode(refused[0].path)}: {os.strerror(refused[0].errno)}"


def _nothing(_number: int, _frame: object) -> None:
    """Handle a signal whose only purpose is to interrupt a system call."""


def _tune(path: Path) -> None:
    """Let the kernel read ahead in larger pieces, where this user may say so."""
    with suppress(OSError):
        minor = os.minor(os.stat(path).st_dev)
        Path(f"/sys/class/bdi/0:{minor}/read_ahead_kb").write_text(str(READ_AHEAD_KB))
