"""The helper's side of the protocol, by hand: what a test wants said is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from sealos_devbox._protocol import frames
from sealos_devbox._protocol.session import ClientSession
from tests.fakes.memory_channel import MemoryChannel

ATTR = [0o100644, 1, 1000, 1000, 5, 12, 1_700_000_000_000_000_001, 2, 3, 8, 0, None, None]


def pack(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


def unpack(payload: bytes | memoryview) -> Any:
    return msgspec.msgpack.decode(payload)


def welcome(**changes: object) -> bytes:
    """The mark and a WELCOME."""
    fields: dict[str, object] = {
        "protocol": 1,
        "version": "test",
        "capabilities": ["apply", "watch", "exec", "pty", "xattr"],
        "root": b"/box",
        "uid": 1000,
        "gid": 1000,
        "groups": [1000],
        "umask": 0o22,
        "hostname": "box",
        "clock_ns": 1,
        "boot_id": "boot",
        "epoch": "epoch",
        "pid": 1,
        "helper": b"/helper",
        "window": 4 << 20,
        "max_requests": 256,
        "max_payload": 131072,
        "root_attr": ATTR,
        "statvfs": [4096, 4096, 100, 50, 40, 1000, 900, 800, 0, 255],
        "compress": True,
        "surplus": "ignored",
        **changes,
    }
    return frames.MAGIC + frames.encode(frames.WELCOME, 0, pack(fields))


def reply(id: int, result: object = None, event: int = 0) -> bytes:
    return frames.encode(frames.REPLY, id, pack([event, result]))


def error(id: int, errno: int, message: str = "") -> bytes:
    return frames.encode(frames.ERROR, id, pack([errno, message]))


def data(id: int, payload: bytes, substream: int = 0) -> bytes:
    return frames.encode(frames.DATA, id, payload, substream << 4)


def parse(raw: bytes) -> list[frames.Frame]:
    parser = frames.FrameParser()
    parser.feed(raw)
    found = []
    while (frame := parser.next_frame()) is not None:
        found.append(frame)
    assert parser.pending == 0
    return found


def written(session: ClientSession, now: float = 0.0) -> list[frames.Frame]:
    """Everything the session wants to send, as frames."""
    raw = b""
    while part := session.next_write(now):
        raw += part
    return parse(raw)


def new_session(**options: object) -> ClientSession:
    defaults: dict[str, object] = {
        "client": "test",
        "compress": True,
        "heartbeat": 10.0,
        "now": 0.0,
    }
    return ClientSession(**{**defaults, **options})  # type: ignore[arg-type]


def greeted(**changes: object) -> ClientSession:
    """A session that has heard the WELCOME and sent its first words."""
    session = new_session(compress=False)
    session.receive_data(welcome(**changes), 0.0)
    assert [frame.kind for frame in written(session)] == [frames.HELLO, frames.PING]
    return session


class Peer:
    """A scripted helper at the other end of a memory channel."""

    def __init__(self, channel: MemoryChannel) -> None:
        self.channel = channel
        self._parser = frames.FrameParser()

    async def greet(self, **changes: object) -> None:
        await self.channel.send(welcome(**changes))

    async def next(self, *, skip_pings: bool = True) -> frames.Frame:
        """The next frame from the client."""
        while True:
            frame = self._parser.next_frame()
            if frame is None:
                self._parser.feed(await self.channel.receive())
            elif frame.kind == frames.PING and skip_pings:
                pong = pack([bytes(frame.payload), 1, 2, 3, 4, 5])
                await self.channel.send(frames.encode(frames.PONG, 0, pong))
            else:
                return frame

    async def expect(self, kind: int) -> frames.Frame:
        frame = await self.next()
        assert frame.kind == kind, frame
        return frame

    async def request(self) -> tuple[int, list[Any]]:
        frame = await self.expect(frames.REQUEST)
        return frame.id, unpack(frame.payload)

    async def say(self, *parts: bytes) -> None:
        await self.channel.send(b"".join(parts))

    async def answer(self, handle: Callable[[int, list[Any]], bytes]) -> None:
        """Answer every request until the client goes."""
        import anyio

        try:
            while True:
                frame = await self.next()
                if frame.kind == frames.REQUEST:
                    await self.say(handle(frame.id, unpack(frame.payload)))
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            pass
