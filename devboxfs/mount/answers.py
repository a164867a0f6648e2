"""What commands ask of a mount that lives: all but to end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import trio

from devboxfs.config import ExitCode, MountError
from devboxfs.mount.parts import Parts
from devboxfs.mount.status import status_of
from devboxfs.vfs.link import BoxLink
from devboxfs.writeback.writeback import WriteBack
from sealos_devbox import FileTransport

__all__ = ["Answers", "report_progress"]

Json = dict[str, Any]
Progress = Callable[[Json], None]


class Answers:
    """Answers requests on the control socket."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def register(self) -> None:
        """Take requests from now on."""
        for name, handler in (
            ("status", self._on_status),
            ("sync", self._on_sync),
            ("catch-up", self._on_catch_up),
            ("configuration", self._on_configuration),
            ("journal-retry", self._on_journal_retry),
            ("journal-discard", self._on_journal_discard),
        ):
            self._parts.control.register(name, handler)

    async def _on_status(self, _params: Json, _progress: Progress) -> Json:
        return (await status_of(self._parts)).to_json()

    async def _on_sync(self, _params: Json, progress: Progress) -> Json:
        started = time.monotonic()
        before = self._parts.writeback.conflict_count
        async with trio.open_nursery() as nursery:
            nursery.start_soon(report_progress, self._parts.writeback, progress)
            number = await self._parts.writeback.sync_all()
            nursery.cancel_scope.cancel()
        if number and (new := self._parts.writeback.conflict_count - before):
            objects = "one object was" if new == 1 else f"{new} objects were"
            raise OSError(number, f"{objects} changed by both sides, see devboxfs conflicts")
        if number:
            raise OSError(number, os.strerror(number))
        return {"seconds": time.monotonic() - started}

    async def _on_configuration(self, _params: Json, _progress: Progress) -> Json:
        """Tell a command that goes to the box itself how this mount does; no secrets are in it."""
        transport = self._parts.link.transport
        if transport is None:
            raise MountError("The box cannot be reached for now.", ExitCode.NO_ANSWER)
        return {
            "config": self._parts.config.to_json(),
            "box_uid": self._parts.box.uid,
            "root": os.fsdecode(transport.peer.root),
        }

    async def _on_catch_up(self, _params: Json, _progress: Progress) -> Json:
        """End when what the box has now is visible here: of what ran there, all that it did."""
        filesystem = self._parts.require_filesystem()
        with trio.move_on_after(self._parts.config.timeout) as scope:
            await filesystem.remote.catch_up()
            await self._parts.notifier.delivered()
        return {"caught_up": not scope.cancelled_caught}

    async def _on_journal_retry(self, _params: Json, _progress: Progress) -> Json:
        """Send again what the box has refused, and the journals of mounts that died."""
        self._parts.writeback.try_again()
        link = BoxLink(self._parts.link.box, timeout=self._parts.config.timeout)
        reason = ""
        with trio.move_on_after(self._parts.config.timeout) as scope:
            number = await self._parts.writeback.sync_all()
            reason = os.strerror(number) if number else ""
            async with trio.open_nursery() as nursery:
                # A way of its own: what comes by it is told to this mount as anybody's changes.
                await nursery.start(link.run, _nothing_beside)
                await self._parts.writeback.recover_others(link)
                nursery.cancel_scope.cancel()
        if scope.cancelled_caught:
            reason = "the box does not answer"
        for _path, number in self._parts.writeback.set_aside:
            reason = reason or os.strerror(number)
        return {
            "operations": self._parts.writeback.statistics().pending_operations,
            "journals": len(self._parts.writeback.set_aside),
            "reason": reason,
        }

    async def _on_journal_discard(self, params: Json, _progress: Progress) -> Json:
        """Give up what the box refuses: all of it, or what concerns some paths."""
        top = self._parts.config.subpath
        paths = [os.fsencode(os.path.join(top, str(path))) for path in params.get("paths") or ()]
        return {"operations": self._parts.writeback.discard(paths)}


async def report_progress(writeback: WriteBack, progress: Progress) -> None:
    """Tell how much is pending, until cancelled."""
    while True:
        figures = writeback.statistics()
        progress({"operations": figures.pending_operations, "bytes": figures.pending_bytes})
        await trio.sleep(0.2)


async def _nothing_beside(_transport: FileTransport) -> None:
    """Be the session of a connection that is only written to."""
    await trio.sleep_forever()
