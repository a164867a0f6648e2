"""How every FileTransport runs commands."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import anyio
import pytest

from sealos_devbox.errors import (
    BoxFileError,
    BoxFileNotFoundError,
    CapabilityError,
)
from tests.contract.transport_suite import TransportSuite


def is_running(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return False


class CommandContract(TransportSuite):
    """Streams, signals, terminals, and the end of commands."""

    async def run(self, transport, argv, stdin=b"", **options):
        out = {1: b"", 2: b""}
        async with transport.exec(argv, **options) as command:
            if stdin:
                await command.send(stdin)
            await command.send_eof()
            with anyio.fail_after(20):
                while (piece := await command.receive()) is not None:
                    out[piece[0]] += piece[1]
            return (*command.status, out[1], out[2])

    async def test_exec(self, transport, root):
        self.require(transport, "exec")
        script = b'cat; echo "$COLOUR" >&2; pwd >&2; exit 3'
        code, number, out, err = await self.run(
            transport, [b"sh", b"-c", script], b"input", env={"COLOUR": "blue"}
        )
        assert (code, number, out) == (3, None, b"input")
        assert err == b"blue\n" + os.fsencode(root) + b"\n"

    async def test_exec_in_a_directory(self, transport, root):
        self.require(transport, "exec")
        (root / "dir").mkdir()
        assert (await self.run(transport, [b"pwd"], cwd=b"dir"))[2] == os.fsencode(
            root / "dir"
        ) + b"\n"

    async def test_exec_of_what_does_not_exist(self, transport):
        self.require(transport, "exec")
        with pytest.raises(BoxFileNotFoundError):
            await self.run(transport, [b"no-such-program"])
        with pytest.raises((BoxFileNotFoundError, CapabilityError)):  # no text, as agents want it
            await self.run(transport, [b"./\xffno-text"])
        assert (await self.run(transport, [b"true"]))[0] == 0  # the connection has not suffered

    async def test_exec_much_in_and_out(self, transport):
        self.require(transport, "exec")
        content = os.urandom(6_000_000)
        received = bytearray()
        async with transport.exec([b"cat"]) as command:

            async def feed() -> None:
                for start in range(0, len(content), 70_000):
                    await command.send(content[start : start + 70_000])
                await command.send_eof()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(feed)
                while (piece := await command.receive()) is not None:
                    received += piece[1]
        assert bytes(received) == content

    async def test_signals_and_status(self, transport):
        self.require(transport, "exec")
        async with transport.exec([b"sh", b"-c", b"echo up; exec sleep 1000"]) as command:
            with pytest.raises(RuntimeError):
                _ = command.status
            assert await command.receive() == (1, b"up\n")
            await command.signal(signal.SIGTERM)
            with anyio.fail_after(20):
                assert await command.receive() is None
            assert command.status == (None, signal.SIGTERM)

    async def test_sending_to_a_command_that_has_ended(self, transport):
        self.require(transport, "exec")
        async with transport.exec([b"true"]) as command:
            assert await command.receive() is None
            with pytest.raises(BoxFileError) as caught:
                await command.send(b"x")
            assert caught.value.errno == errno.EPIPE

    async def test_a_terminal(self, transport):
        self.require(transport, "pty")
        script = b"stty size; read line; stty size; echo $TERM"
        async with transport.exec([b"sh", b"-c", script], pty=(30, 90, "dumb")) as command:
            out = b""
            with anyio.fail_after(20):
                while b"30 90" not in out:
                    piece = await command.receive()
                    assert piece is not None
                    out += piece[1]
                await command.resize(40, 100)
                await command.send(b"\n")
                while (piece := await command.receive()) is not None:
                    out += piece[1]
        assert b"40 100" in out
        assert b"dumb" in out

    async def test_leaving_kills_the_command(self, transport, root):
        self.require(transport, "exec")
        script = b"echo $$; trap '' TERM; sleep 1000 & wait"
        async with transport.exec([b"sh", b"-c", script]) as command:
            piece = await command.receive()
            assert piece is not None
            pid = int(piece[1])
        with anyio.fail_after(20):
            while is_running(pid):
                await transport.stat(b"")
