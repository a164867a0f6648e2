"""Starts the helper in a box, over one exec where it is there already; else it is uploaded first.

The script that runs in the box is in sealos_devbox._protocol.bootstrap. One upload per version and
box: the file is named by its SHA-256, and takes its name only once it is whole.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
import anyio.lowlevel
import anyio.to_thread

from sealos_devbox._protocol import bootstrap
from sealos_devbox._protocol.exec_stream import OFFERED
from sealos_devbox._protocol.helper_place import PLACES
from sealos_devbox._transport.helper_files import HelperFile, find_helpers
from sealos_devbox._transport.kube.access import KubernetesAccess
from sealos_devbox._transport.kube.exec_channel import ExecChannel, ExecTarget, open_exec_channel
from sealos_devbox.errors import CapabilityError, ConnectError

__all__ = ["BootstrapOptions", "HelperChannel", "open_helper_channel"]

_log = logging.getLogger(__name__)

ANSWER_WAIT: Final = 30.0
"""For the shell in the box; a box under load is slow to start one."""
UPLOAD_WAIT: Final = 600.0
"""For the helper to get there: a megabyte, at 2 KB/s."""


@dataclass(frozen=True, slots=True)
class BootstrapOptions:
    """How the helper is to be started."""

    root: str = ""
    """The workspace; empty for the directory in which exec starts programs."""
    user: str = "devbox"
    """Whom the helper is to become where exec is root's. Where there is no such user, the
    workspace's owner; empty to stay root."""
    helper: Path | None = None
    """In place of the helpers in this package."""
    places: tuple[str, ...] = PLACES
    """Where the helper may be put, best first; shell words."""
    offered: tuple[str, ...] = field(default=OFFERED)
    """Versions of the exec stream."""


class HelperChannel:
    """A ByteChannel to a helper that has begun to speak."""

    def __init__(self, inner: ExecChannel, first: bytes, uploaded: int) -> None:
        self._inner = inner
        self._first = first
        self.uploaded = uploaded
        """Bytes that were sent to put the helper there; 0 when it was there."""
        self.on_end: Callable[[], None] | None = None
        """Called once nothing more will be received."""

    @property
    def can_half_close(self) -> bool:
        """Whether send_eof() reaches the helper."""
        return self._inner.can_half_close

    @property
    def subprotocol(self) -> str:
        """The version of the exec stream."""
        return self._inner.subprotocol

    async def send(self, data: bytes) -> None:
        """Send all of data."""
        await self._inner.send(data)

    async def receive(self) -> bytes:
        """Return at least one byte."""
        if self._first:
            await anyio.lowlevel.checkpoint()
            first, self._first = self._first, b""
            return first
        try:
            return await self._inner.receive()
        except BaseException:
            if self.on_end is not None:
                self.on_end()
            raise

    async def send_eof(self) -> None:
        """End the helper's input where that is possible."""
        await self._inner.send_eof()

    async def aclose(self) -> None:
        """Close the connection, which ends the helper."""
        self._first = b""
        await self._inner.aclose()

    def diagnostics(self) -> str:
        """Return what the helper said on its standard error."""
        return self._inner.diagnostics()


@asynccontextmanager
async def open_helper_channel(
    access: KubernetesAccess, target: ExecTarget, options: BootstrapOptions
) -> AsyncIterator[HelperChannel]:
    """Start the helper in a container; leaving the block ends it.

    Raises CapabilityError, with the reason, where it may not run; ConnectError where the way broke.
    """
    helpers = await anyio.to_thread.run_sync(find_helpers, options.helper)
    skipped: list[str] = []
    for _ in range(len(options.places) + 1):
        async with open_exec_channel(
            access, target, bootstrap.COMMAND, offered=options.offered
        ) as channel:
            answer, uploaded = await _start(channel, helpers, options, skipped)
            if isinstance(answer, bootstrap.Started):
                yield HelperChannel(channel, answer.first, uploaded)
                return
            if isinstance(answer, bootstrap.Refused):
                raise CapabilityError(f"The helper cannot run in the box: {answer.reason}.")
            _log.warning("the helper did not arrive whole in %s of %s", answer.place, target.pod)
            skipped.append(answer.place)
    raise CapabilityError("The helper cannot be put into the box: no upload arrived whole.")


async def _start(
    channel: ExecChannel,
    helpers: Mapping[str, HelperFile],
    options: BootstrapOptions,
    skipped: list[str],
) -> tuple[bootstrap.Started | bootstrap.Refused | bootstrap.Failed, int]:
    hashes = {name: helper.digest for name, helper in helpers.items()}
    line = bootstrap.script(
        hashes,
        root=options.root,
        user=options.user,
        nonce=secrets.token_hex(8),
        skipped=skipped,
        places=options.places,
    )
    try:
        with anyio.fail_after(ANSWER_WAIT):
            await channel.send(line)
            answer = await _answer(channel)
        if not isinstance(answer, bootstrap.Needed):
            return answer, 0
        helper, compressed = helpers[answer.architecture], answer.compressed
        content = await anyio.to_thread.run_sync(lambda: helper.content(compressed=compressed))
        _log.info("uploading the helper, %d bytes, into %s", len(content), answer.place)
        with anyio.fail_after(UPLOAD_WAIT):
            await channel.send(b"%d\n" % len(content))
            await channel.send(content)
            answer = await _answer(channel)
    except TimeoutError:
        raise ConnectError("The shell in the box does not answer.", hop="box") from None
    except anyio.BrokenResourceError as error:
        said = channel.diagnostics() or str(error)
        raise ConnectError(
            f"The connection broke while the helper was started{f': {said}' if said else '.'}",
            hop="cluster",
        ) from error
    if isinstance(answer, bootstrap.Needed):
        raise ConnectError("The bootstrap in the box asked for the helper twice.", hop="box")
    return answer, len(content)


async def _answer(channel: ExecChannel) -> bootstrap.Answer:
    received = b""
    while True:
        answer = bootstrap.parse_answer(received)
        if answer is not None:
            return answer
        try:
            received += await channel.receive()
        except anyio.EndOfStream:
            said = channel.diagnostics() or "it ended without a word"
            raise CapabilityError(
                f"The helper cannot be started in the box: {said}", hop="box"
            ) from None
