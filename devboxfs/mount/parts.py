"""What a mount consists of, and how what is local of it is opened and closed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from devboxfs.config import MountConfig, MountError
from devboxfs.control import ControlServer
from devboxfs.fuse.notify import Notifier
from devboxfs.vfs.content_cache import ContentCache
from devboxfs.vfs.filesystem import FileSystem
from devboxfs.vfs.link import BoxLink
from devboxfs.vfs.numbers import Numbers
from devboxfs.way import WayToBox
from devboxfs.writeback.limits import Limits
from devboxfs.writeback.writeback import WriteBack
from sealos_devbox import AsyncBox, DevboxConfig

__all__ = ["Parts", "service_of"]


@dataclass(slots=True)
class Parts:
    """See the module."""

    config: MountConfig
    box: AsyncBox
    control: ControlServer
    link: BoxLink
    writeback: WriteBack
    cache: ContentCache
    numbers: Numbers
    read_only: bool
    """Also when the only way to the box is a weak one, and that was not accepted."""
    notifier: Notifier = field(default_factory=Notifier)
    filesystem: FileSystem | None = None
    """There is one once the box was asked what it is."""

    def require_filesystem(self) -> FileSystem:
        """Return the file system; raises MountError while there is none."""
        if self.filesystem is None:
            raise MountError("The mount is still starting.")
        return self.filesystem

    @classmethod
    @asynccontextmanager
    async def open(
        cls, config: MountConfig, box: AsyncBox, control: ControlServer
    ) -> AsyncIterator[Parts]:
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
                writeback.on_full_disk(cache.giving_way.give_way)
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
                config.read_only,
            )
        finally:
            with trio.move_on_after(10, shield=True):
                await cache.aclose()
            # In a thread: they sync files, which takes long when the disk is busy, and `umount`
            # wants to be answered meanwhile. Not given up: the lock is released at their end.
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_close, numbers, writeback)


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


def _on_one_disk(one: Path, other: Path) -> bool:
    try:
        return one.stat().st_dev == other.stat().st_dev
    except OSError:
        return False


def _close(numbers: Numbers, writeback: WriteBack) -> None:
    numbers.close()
    writeback.close()
