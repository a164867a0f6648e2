"""Batches through a shell: contents are staged first, then the operations follow in order."""

from __future__ import annotations

import errno
import secrets
from dataclasses import dataclass, field
from typing import Final

import anyio

from sealos_devbox._protocol import shell, shell_changes
from sealos_devbox._transport.shell.runner import Runner
from sealos_devbox.batch import Batch
from sealos_devbox.errors import file_error
from sealos_devbox.types import ApplyResult, Content, Outcome, Version

__all__ = ["PRIVATE", "ShellChanges"]

PRIVATE: Final = b".devbox-helper-tmp-"
"""How the name of the staging directory begins: neither listed nor watched."""
SCRIPT_SIZE: Final = 90 * 1024
"""Bytes of one script, which may have to fit into one argument of 128 KiB."""
FIGURES: Final = b"//figures//"
STREAMED: Final = 1 << 20
"""Contents larger than this have a script of their own, which they flow into where they can."""
STALL: Final = 120.0
"""Seconds for a piece of such a content to be taken by the box."""


class ShellChanges:
    """Applies batches, one at a time; a small one is one script."""

    def __init__(self, runner: Runner, dialect: shell.Dialect) -> None:
        self._runner = runner
        self._dialect = dialect
        self._stage = b"./" + PRIVATE + secrets.token_hex(8).encode()
        self._lock = anyio.Lock()
        self._left: dict[bytes, dict[int, Version | None]] = {}
        """What the operations of each incarnation left."""

    async def apply(self, batch: Batch) -> ApplyResult:
        """Apply a batch; a failure while contents are staged has changed nothing."""
        async with self._lock:
            done = False
            try:
                result = await self._apply(batch)
                done = True
            finally:
                if not done:
                    with anyio.move_on_after(20, shield=True):
                        await self._runner.run(b"rm -rf %s" % self._stage)
        return result

    async def _apply(self, batch: Batch) -> ApplyResult:
        known = self._left.setdefault(batch.incarnation, {}) if batch.journal else {}
        pending = _Script(b"mkdir -p -m 700 %s || exit\n" % self._stage)
        for number, member in enumerate(batch.members):
            await self._stage_content(pending, b"%s/%d" % (self._stage, number), member.content)
        outcomes: list[Outcome] = []
        prelude = shell_changes.prelude(self._dialect, self._stage)
        waiting = list(batch.operations)
        while waiting:
            some = []
            pending.text += prelude
            while waiting and len(pending.text) < SCRIPT_SIZE:
                some.append(waiting.pop(0))
                text = shell_changes.script(self._dialect, batch, some, known)
                if len(pending.text) + len(text) > SCRIPT_SIZE and len(some) > 1:
                    waiting.insert(0, some.pop())
                    break
            pending.text += shell_changes.script(self._dialect, batch, some, known)
            stdout = await self._run(pending) if waiting else await self._finish(pending, batch)
            for outcome in shell_changes.outcomes(
                self._dialect, stdout.partition(FIGURES)[0], some
            ):
                outcomes.append(outcome)
                if not outcome.errno:
                    known[outcome.seq] = None if outcome.attr is None else outcome.attr.version
        if not batch.operations:
            stdout = await self._finish(pending, batch)
        status, _, figures = stdout.partition(FIGURES)[2].partition(b"\n")
        usage = shell.parse_usage(figures.partition(FIGURES)[0])
        complaint = figures.partition(FIGURES)[2]
        sync_errno = shell.errno_of(complaint) if int(status) else 0
        return ApplyResult(outcomes, 0, usage.bavail * usage.frsize, usage.ffree, 0, sync_errno)

    async def _finish(self, pending: _Script, batch: Batch) -> bytes:
        """Run the last script: what is to be durable, and how much room is left."""
        if batch.sync is True:
            sync = b"sync"
        else:
            words = [shell.quote(shell.relative(path)) for path in batch.sync or ()]
            # What has been removed since is not missed.
            sync = b" && ".join(b"{ [ ! -e %s ] || sync %s; }" % (word, word) for word in words)
        pending.text += b"""rm -rf %s
M=$( { %s; } 2>&1 >/dev/null )
printf '%s%%s\\n' $?
stat -f -c '%%s %%S %%b %%f %%a %%c %%d %%l' .
printf '%s%%s' "$M"
""" % (self._stage, sync or b":", FIGURES, FIGURES)
        return await self._run(pending)

    async def _run(self, pending: _Script) -> bytes:
        script, data = shell.PRELUDE + pending.text, bytes(pending.data)
        pending.text, pending.data = b"", bytearray()
        output = await self._runner.run(script, data, timeout=300)
        if output.exit_code:
            raise file_error(shell.errno_of(output.stderr), None)
        return output.stdout

    async def _stage_content(self, pending: _Script, target: bytes, content: Content) -> None:
        if content.size > STREAMED and self._runner.streams:
            await self._stream_content(pending, target, content)
            return
        done = 0
        if not content.size:
            pending.text += b": > %s || exit\n" % target
        for chunk in content.chunks():
            view = memoryview(chunk)
            while view:
                piece = view[: self._runner.max_data - len(pending.data)]
                view = view[len(piece) :]
                pending.text += _store(target, done, len(piece))
                pending.data += piece
                done += len(piece)
                full = len(pending.data) == self._runner.max_data
                if full or len(pending.text) > SCRIPT_SIZE:
                    await self._run(pending)
        if done != content.size:
            raise file_error(errno.EIO, None)

    async def _stream_content(self, pending: _Script, target: bytes, content: Content) -> None:
        """Send a content as it is read; what waits goes before it, in its script or one before."""
        if pending.data:
            await self._run(pending)
        script = shell.PRELUDE + pending.text + _store(target, 0, content.size)
        # A server that goes away may end the input early, which dd takes for its end.
        script += (
            b"[ \"$(wc -c <%s)\" -eq %d ] || { echo 'x: Input/output error' >&2; exit 1; }"
            % (
                target,
                content.size,
            )
        )
        pending.text = b""
        output = await self._runner.run(script, content, timeout=STALL)
        if output.exit_code:
            raise file_error(shell.errno_of(output.stderr), None)


@dataclass(slots=True)
class _Script:
    """A script that is being written, with the input of its commands."""

    text: bytes
    data: bytearray = field(default_factory=bytearray)


def _store(target: bytes, offset: int, size: int) -> bytes:
    """Return the command that takes exactly so many bytes from the script's input."""
    return (
        b"dd of=%s bs=%d iflag=fullblock,count_bytes oflag=seek_bytes conv=notrunc "
        b"seek=%d count=%d 2>%s.err || { cat %s.err >&2; exit 1; }\n"
        % (target, max(4096, min(size, 1 << 20)), offset, size, target, target)
    )
