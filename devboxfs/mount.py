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
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyfuse3
import trio

from devboxfs import mountpoint
from devboxfs.config import ExitCode, MountConfig, MountError
from devboxfs.control import ControlServer
from devboxfs.fuse.echoing import EchoingOperations
from devboxfs.fuse.notify import Notifier
from devboxfs.vfs.content_cache import ContentCache
from devboxfs.vfs.filesystem import FileSystem, Settings
from devboxfs.vfs.link import BoxLink
from devboxfs.vfs.numbers import Numbers
from devboxfs.vfs.presentation import LinkTargets, Presentation
from devboxfs.way import WayToBox, is_weak, way
from devboxfs.writeback.conflict_log import Conflict
from devboxfs.writeback.limits import Limits
from devboxfs.writeback.writeback import WriteBack
from sealos_devbox import (
    AsyncBox,
    AsyncDevbox,
    Attributes,
    BoxFileError,
    BoxNotFoundError,
    DevboxConfig,
    DevboxError,
    FileTransport,
)

__all__ = ["MountStatus", "serve", "service_of"]

log = logging.getLogger(__name__)

Json = dict[str, Any]
Progress = Callable[[Json], None]

MAX_TASKS = 1000
"""Requests answered at once. Tasks are cheap; the limit on work for the box is at the transport."""
READ_AGAIN = 0.5
"""Seconds after which a read of /dev/fuse that found nothing is given up."""
LET_GO = 2.0
"""Seconds for which the main loop may go on when nothing is mounted any more."""
MEASURE = 1.5
"""Seconds that `status` takes to measure local trees: it is given up after five."""
READ_AHEAD_KB = 1024
"""Kernel read-ahead per file: reads then arrive in up to 1 MiB instead of 128 KiB."""


@dataclass(frozen=True, slots=True)
class MountStatus:
    """What `devboxfs status` is told; sizes in bytes, times in seconds."""

    mountpoint: str
    box: str
    box_uid: str
    location: str
    pid: int
    state: str
    state_seconds: float
    read_only: bool
    consistency: str
    pending_operations: int
    pending_bytes: int
    oldest_pending_seconds: float | None
    trouble: str
    refused: list[Json] = field(default_factory=list)
    """What the box does not take for now, while the rest goes on."""
    conflicts: list[Json] = field(default_factory=list)
    link: Json = field(default_factory=dict)
    cache: Json = field(default_factory=dict)
    journal: Json = field(default_factory=dict)
    tree: Json = field(default_factory=dict)
    reader: Json = field(default_factory=dict)
    watchers: Json = field(default_factory=dict)
    options: Json = field(default_factory=dict)
    """What was asked for that changes what is shown; only what is not the default."""
    local_trees: list[Json] = field(default_factory=list)
    """Directories of this box that live on this machine."""
    locks: Json = field(default_factory=dict)
    """Of git: how many were made, how many the box refused, how often one was waited for."""

    def to_json(self) -> Json:
        """Return it as a JSON object."""
        return asdict(self)


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
            async with box, _Mount.open(config, box, control) as mount:
                await mount.run(ready)
    except BoxNotFoundError as exc:
        raise MountError(f"{exc} {exc.hint}".rstrip(), ExitCode.NO_BOX) from exc
    except ValueError as exc:
        raise MountError(f"The service cannot be told: {exc}.", ExitCode.USAGE) from exc
    except DevboxError as exc:
        hint = f" {exc.hint}" if exc.hint else ""
        raise MountError(f"The box {config.name} cannot be mounted: {exc}{hint}") from exc


def service_of(config: MountConfig) -> DevboxConfig:
    """Return what the SDK is told of the service."""
    return DevboxConfig(
        embedded=True if config.embedded else None,
        profile=config.profile,
        api_url=config.endpoint,
        kubeconfig=config.kubeconfig,
        context=config.context,
        namespace=config.namespace,
        transport=config.transport,
        data_dir=config.data_dir,
    )


class _Mount:
    """The parts of one mount, and its life."""

    def __init__(
        self,
        config: MountConfig,
        box: AsyncBox,
        control: ControlServer,
        link: BoxLink,
        writeback: WriteBack,
        cache: ContentCache,
        numbers: Numbers,
    ) -> None:
        self.config = config
        self.box = box
        self.read_only = config.read_only
        """Also when the only way to the box is a weak one, and that was not accepted."""
        self.control = control
        self.link = link
        self.writeback = writeback
        self.cache = cache
        self.numbers = numbers
        self.notifier = Notifier()
        self.filesystem: FileSystem | None = None
        self._table_exists = trio.Event()
        self._serving = trio.CancelScope()
        self._served = trio.Event()
        """Requests are answered no longer."""
        self._unmounted = trio.Event()
        self._left = ""
        """Why the flush before unmounting left something in the journal."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, config: MountConfig, box: AsyncBox, control: ControlServer
    ) -> AsyncIterator[_Mount]:
        """Open what is local: the journal, the inode numbers, the cache."""
        state = config.state_dir / "mounts" / box.uid
        try:
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            writeback = WriteBack.open(
                state,
                box_uid=box.uid,
                box_name=box.name,
                limits=Limits(journal_bytes=config.journal_limit),
            )
            numbers = Numbers.open(state)
            cache = ContentCache.open(config.cache_dir / box.uid, disk_limit=config.cache_size)
            if _on_one_disk(state, config.cache_dir / box.uid):
                writeback.on_full_disk(cache.give_way)
        except OSError as exc:
            raise MountError(
                f"The files of the mount cannot be used: {exc.strerror}: {exc.filename}."
            ) from exc
        try:
            yield cls(
                config,
                box,
                control,
                BoxLink(WayToBox(box), timeout=config.timeout),
                writeback,
                cache,
                numbers,
            )
        finally:
            with trio.move_on_after(10, shield=True):
                await cache.aclose()
            # In a thread: they sync files, which takes long when the disk is busy, and `umount`
            # wants to be answered meanwhile. Not given up: the lock is released at their end.
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_close, numbers, writeback)

    # -- life --------------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None]) -> None:
        """Connect, recover, mount, serve until unmounted."""
        # A tree is hundreds of thousands of objects that live as long as the mount, and what dies
        # does so by its reference count: looking for cycles that often would only cost time.
        gc.set_threshold(100_000, 20, 100)
        failure: MountError | DevboxError | None = None
        async with trio.open_nursery() as nursery:
            try:
                await nursery.start(self.link.run, self._session)
                transport = await self.link.wait_transport()
                self._look_at_way(transport)
                await self._recover()
                transport = await self.link.wait_transport()
                self.filesystem = self._file_system(transport, await self._top(transport))
                await nursery.start(self.filesystem.run)
                self._table_exists.set()
                await nursery.start(self.writeback.run, self.link, self.filesystem.pending)
                nursery.start_soon(self.writeback.run_ticker)
                nursery.start_soon(self.numbers.run)
                self._mount(transport, self.filesystem)
            except (MountError, DevboxError) as exc:
                failure = exc
            except OSError as exc:
                failure = MountError(
                    f"The box {self.box.name} cannot be mounted: {exc.strerror or exc}."
                )
            if failure is None:
                await self._serve(nursery, ready)
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def _look_at_way(self, transport: FileTransport) -> None:
        """Decide whether the mount is written to."""
        rung = self.box.rung
        if rung is not None:
            self.control.say(f"It is reached by {rung.description}.")
            for name, reason in rung.passed_over:
                self.control.say(f"Not by {name}: {reason}")
        weak = is_weak(transport)
        if weak and not self.config.allow_weak and not self.read_only:
            self.read_only = True
            self.control.say(
                "That way is weaker than the helper, so the mount is read-only: --allow-weak "
                "makes it writable all the same, and devboxfs status says what it lacks."
            )
        if isinstance(self.link.box, WayToBox):
            self.link.box.takes_weak = weak

    async def _recover(self) -> None:
        for path, reason in self.writeback.unreadable:
            self.control.say(
                f"Journal {path.name[:8]} is left as it is: {reason}. Mount with the version that "
                "wrote it; see devboxfs journal list."
            )
        for damage in self.writeback.damage:
            self.control.say(f"Part of a journal cannot be read: {damage}.")
        if not self.writeback.has_backlog:
            return
        if self.read_only and not self.config.read_only:
            self.control.say("Changes that the last mount left in its journal wait there.")
            return
        self.control.say(
            "Bringing the changes that the last mount left in its journal to the box ...",
            passing=True,
        )
        for conflict in await self.writeback.recover(self.link):
            self.control.say(
                f"Conflict: {os.fsdecode(conflict.path)} was changed in the box too; "
                "see devboxfs conflicts."
            )
        for path, number in self.writeback.set_aside:
            self.control.say(
                f"The box does not take the changes in journal {path.name[:8]} "
                f"({os.strerror(number)}): they wait, see devboxfs journal list."
            )

    async def _top(self, transport: FileTransport) -> Attributes | None:
        """Return the attributes of the directory below the workspace that is to be mounted."""
        if not self.config.subpath:
            return None
        try:
            _event, top = await transport.stat(os.fsencode(self.config.subpath))
        except BoxFileError as exc:
            raise MountError(
                f"The box {self.box.name} has no directory {self.config.subpath} that can be "
                f"mounted: {os.strerror(exc.errno or errno.EIO)}.",
                ExitCode.NO_BOX,
            ) from exc
        if not stat.S_ISDIR(top.mode):
            raise MountError(
                f"{self.config.subpath} is no directory in the box {self.box.name}.",
                ExitCode.NO_BOX,
            )
        return top

    def _file_system(self, transport: FileTransport, top: Attributes | None) -> FileSystem:
        settings = Settings(
            self.read_only,
            self.config.timeout,
            self.config.state_dir,
            strict=self.config.consistency == "strict",
            offline_fsync=self.config.offline_fsync,
            mounted=os.fsencode(self.config.subpath),
            local=self.config.local,
            exclude=self.config.exclude,
            local_directory=self.config.state_dir / "mounts" / self.box.uid / "local",
        )
        return FileSystem(
            settings,
            self.link,
            transport,
            self.writeback,
            self.cache,
            self.numbers,
            self.notifier,
            top=top,
        )

    def _mount(self, transport: FileTransport, filesystem: FileSystem) -> None:
        peer = transport.peer
        filesystem.table.watchers = self.notifier.echo
        self.notifier.echo.drop = filesystem.table.drop_if_unused
        self.notifier.echo.mounted = filesystem.table.root.name
        config = self.config
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
                EchoingOperations(filesystem, owners, self.notifier.echo),
                str(self.config.mountpoint),
                set(self.config.fuse_options),
            )
        except RuntimeError as exc:
            raise MountError(
                f"{self.config.mountpoint} cannot be mounted: {exc}.", ExitCode.NO_FUSE
            ) from exc

    async def _serve(self, nursery: trio.Nursery, ready: Callable[[], None]) -> None:
        self.control.register("status", self._on_status)
        self.control.register("sync", self._on_sync)
        self.control.register("catch-up", self._on_catch_up)
        self.control.register("configuration", self._on_configuration)
        self.control.register("unmount", self._on_unmount)
        self.control.register("journal-retry", self._on_journal_retry)
        self.control.register("journal-discard", self._on_journal_discard)
        nursery.start_soon(self._stop_when_asked)
        async with trio.open_nursery() as inner:
            inner.start_soon(self.notifier.run)
            inner.start_soon(self.notifier.echo.run, self.config.mountpoint)
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
        with trio.move_on_after(self.config.timeout if not self._left else 0):
            await self.writeback.drain()
        pyfuse3.close(unmount=False)
        self._unmounted.set()

    async def _tune(self) -> None:
        """Tune the mount once it answers: asking for its device is a request to this process."""
        await trio.to_thread.run_sync(_tune, self.config.mountpoint, abandon_on_cancel=True)

    async def _session(self, transport: FileTransport) -> None:
        """Beside each connection: watch and snapshot, as soon as there is a table to keep true."""
        await self._table_exists.wait()
        if self.filesystem is None:
            raise RuntimeError("the table exists with the file system")
        self.filesystem.clock.learn(transport.peer.clock_ns)
        await self.filesystem.remote.session(transport)

    async def _stop_when_asked(self) -> None:
        """Unmount lazily when the control server asks for the end without flushing."""
        await self.control.wait_stop()
        with suppress(OSError):
            await trio.to_thread.run_sync(
                lambda: mountpoint.unmount(self.config.mountpoint, lazy=True)
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

    # -- what commands ask -------------------------------------------------------------------------

    async def _on_status(self, _params: Json, _progress: Progress) -> Json:
        if self.filesystem is None:
            raise MountError("The mount is still starting.")
        figures = self.writeback.statistics()
        link = self.link.statistics()
        trouble = self.filesystem.pending.trouble_errno
        remote = self.filesystem.remote.statistics()
        trees = await trio.to_thread.run_sync(self.filesystem.local.store.sizes, MEASURE)
        return MountStatus(
            mountpoint=str(self.config.mountpoint),
            box=self.box.name,
            box_uid=self.box.uid,
            location=self.box.location,
            pid=os.getpid(),
            state=link.state,
            state_seconds=trio.current_time() - link.since,
            read_only=self.read_only,
            consistency=self.config.consistency,
            pending_operations=figures.pending_operations,
            pending_bytes=figures.pending_bytes,
            oldest_pending_seconds=figures.oldest_pending_age,
            trouble=f"the box refuses changes: {os.strerror(trouble)}" if trouble else "",
            refused=[
                {
                    "path": os.fsdecode(one.path),
                    "errno": errno.errorcode.get(one.errno, str(one.errno)),
                    "text": os.strerror(one.errno),
                    "seconds": one.age,
                    "operations": one.operations,
                }
                for one in self.writeback.refusals()
            ],
            conflicts=[_conflict(one) for one in self.writeback.conflict_log.list()],
            link={
                **way(self.box.rung),
                "connections": link.connections,
                "round_trips": link.round_trips,
                "bytes_sent": link.bytes_sent,
                "bytes_received": link.bytes_received,
                "last_error": link.last_error,
            },
            cache=asdict(self.cache.statistics()),
            journal={
                "path": str(self.writeback.path),
                "bytes": figures.journal_bytes,
                "batches_sent": figures.batches_sent,
                "batches_in_flight": figures.batches_in_flight,
                "wire_operations_sent": figures.wire_operations_sent,
                "last_error": figures.last_error or "",
            },
            tree={"nodes": len(self.filesystem.table.nodes), **asdict(remote)},
            watchers=asdict(self.notifier.echo.statistics()),
            reader=asdict(self.filesystem.reader.statistics()),
            locks=asdict(self.filesystem.locks.statistics()),
            options=self.config.presentation,
            local_trees=[
                {
                    **asdict(tree),
                    "path": os.fsdecode(tree.path),
                    "stored_at": str(tree.stored_at.parent),
                }
                for tree in trees
            ],
        ).to_json()

    async def _on_sync(self, _params: Json, progress: Progress) -> Json:
        started = time.monotonic()
        before = self.writeback.conflict_count
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report_progress, progress)
            number = await self.writeback.sync_all()
            nursery.cancel_scope.cancel()
        if number and (new := self.writeback.conflict_count - before):
            objects = "one object was" if new == 1 else f"{new} objects were"
            raise OSError(number, f"{objects} changed by both sides, see devboxfs conflicts")
        if number:
            raise OSError(number, os.strerror(number))
        return {"seconds": time.monotonic() - started}

    async def _on_configuration(self, _params: Json, _progress: Progress) -> Json:
        """Tell a command that goes to the box itself how this mount does; no secrets are in it."""
        transport = self.link.transport
        if transport is None:
            raise MountError("The box cannot be reached for now.", ExitCode.NO_ANSWER)
        return {
            "config": self.config.to_json(),
            "box_uid": self.box.uid,
            "root": os.fsdecode(transport.peer.root),
        }

    async def _on_catch_up(self, _params: Json, _progress: Progress) -> Json:
        """End when what the box has now is visible here: of what ran there, all that it did."""
        if self.filesystem is None:
            raise MountError("The mount is still starting.")
        with trio.move_on_after(self.config.timeout) as scope:
            await self.filesystem.remote.catch_up()
            await self.notifier.delivered()
        return {"caught_up": not scope.cancelled_caught}

    async def _on_journal_retry(self, _params: Json, _progress: Progress) -> Json:
        """Send again what the box has refused, and the journals of mounts that died."""
        self.writeback.try_again()
        link = BoxLink(self.link.box, timeout=self.config.timeout)
        reason = ""
        with trio.move_on_after(self.config.timeout) as scope:
            number = await self.writeback.sync_all()
            reason = os.strerror(number) if number else ""
            async with trio.open_nursery() as nursery:
                # A way of its own: what comes by it is told to this mount as anybody's changes.
                await nursery.start(link.run, _nothing_beside)
                await self.writeback.recover_others(link)
                nursery.cancel_scope.cancel()
        if scope.cancelled_caught:
            reason = "the box does not answer"
        for _path, number in self.writeback.set_aside:
            reason = reason or os.strerror(number)
        return {
            "operations": self.writeback.statistics().pending_operations,
            "journals": len(self.writeback.set_aside),
            "reason": reason,
        }

    async def _on_journal_discard(self, params: Json, _progress: Progress) -> Json:
        """Give up what the box refuses: all of it, or what concerns some paths."""
        top = self.config.subpath
        paths = [os.fsencode(os.path.join(top, str(path))) for path in params.get("paths") or ()]
        return {"operations": self.writeback.discard(paths)}

    async def _on_unmount(self, params: Json, progress: Progress) -> Json:
        timeout = params.get("timeout")
        reason = self._left = await self._flush(progress, timeout)
        await self.notifier.echo.pause()
        try:
            await trio.to_thread.run_sync(mountpoint.unmount, self.config.mountpoint)
        except BaseException:
            self.notifier.echo.resume()
            raise
        # The kernel ends the main loop, unless another mount namespace has a copy of this mount: a
        # container that was started meanwhile. It stays there, dead.
        with trio.move_on_after(LET_GO):
            await self._served.wait()
        await self._end_serving()
        with trio.move_on_after(self.config.timeout + 5):
            await self._unmounted.wait()
        figures = self.writeback.statistics()
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
                before = self.writeback.statistics()
                drained = False
                with trio.move_on_after(self.config.timeout) as patience:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._report_progress, progress)
                        drained = await self.writeback.drain()
                        nursery.cancel_scope.cancel()
                if not patience.cancelled_caught:
                    return "" if drained else self._refusal()
                after = self.writeback.statistics()
                if (after.pending_operations, after.pending_bytes) == (
                    before.pending_operations,
                    before.pending_bytes,
                ):
                    break
        if scope.cancelled_caught:
            return f"not done within {limit:.0f} s"
        trouble = self.filesystem.pending.trouble_errno if self.filesystem is not None else 0
        if trouble:
            return f"the box refuses changes: {os.strerror(trouble)}"
        return "the box cannot be reached" if not self.link.online else "the box does not answer"

    def _refusal(self) -> str:
        refused = self.writeback.refusals()
        if not refused:
            return ""
        return f"the box refuses {os.fsdecode(refused[0].path)}: {os.strerror(refused[0].errno)}"

    async def _report_progress(self, progress: Progress) -> None:
        while True:
            figures = self.writeback.statistics()
            progress({"operations": figures.pending_operations, "bytes": figures.pending_bytes})
            await trio.sleep(0.2)


async def _nothing_beside(_transport: FileTransport) -> None:
    """Be the session of a connection that is only written to."""
    await trio.sleep_forever()


def _nothing(_number: int, _frame: object) -> None:
    """Handle a signal whose only purpose is to interrupt a system call."""


def _on_one_disk(one: Path, other: Path) -> bool:
    try:
        return one.stat().st_dev == other.stat().st_dev
    except OSError:
        return False


def _close(numbers: Numbers, writeback: WriteBack) -> None:
    numbers.close()
    writeback.close()


def _conflict(one: Conflict) -> Json:
    return {**asdict(one), "errno": errno.errorcode.get(one.errno, str(one.errno))}


def _tune(path: Path) -> None:
    """Let the kernel read ahead in larger pieces, where this user may say so."""
    with suppress(OSError):
        minor = os.minor(os.stat(path).st_dev)
        Path(f"/sys/class/bdi/0:{minor}/read_ahead_kb").write_text(str(READ_AHEAD_KB))
