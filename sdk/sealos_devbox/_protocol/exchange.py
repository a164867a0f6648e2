"""One request of a session: what goes out, what came in, how it ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from sealos_devbox.errors import DevboxError

__all__ = ["Exchange", "RemoteError"]


@dataclass(frozen=True, slots=True)
class RemoteError:
    """What an ERROR frame said."""

    errno: int
    message: str


class Exchange:
    """One request: what goes out, what came in, how it ended.

    Written by the session, read by its owner.
    """

    __slots__ = (
        "abandoned",
        "bulk",
        "cancellable",
        "collect",
        "consumed",
        "credit",
        "done",
        "early",
        "ended",
        "endless",
        "error",
        "expected",
        "failure",
        "granted",
        "id",
        "in_ready",
        "incoming",
        "on_change",
        "on_late_reply",
        "on_room",
        "op",
        "ordered",
        "out",
        "out_bytes",
        "out_end",
        "out_ended",
        "queued_bytes",
        "queued_wire",
        "received",
        "reply",
        "request",
        "reserved",
        "sent",
    )

    def __init__(self, id: int, op: str, request: bytes) -> None:
        self.id = id
        self.op = op
        self.request = request
        self.collect = False
        self.ordered = False
        self.cancellable = True
        self.bulk = False
        """Counts in what is outstanding, because it will be much or has become so."""
        self.endless = False
        self.expected: int | None = None
        self.on_change: Callable[[], None] | None = None
        """Called when the exchange is done, and for streams when something was received."""
        self.on_room: Callable[[], None] | None = None
        """Called when some of what was queued to be sent has been given to the channel."""
        self.on_late_reply: Callable[[bytes], None] | None = None
        """Called with the reply that arrives although the caller has gone."""

        self.sent = False
        self.early: list[bytes] = []
        """CONTROL frames that wait for the request to be sent."""
        self.abandoned = False
        self.done = False
        self.reply: bytes | None = None
        self.error: RemoteError | None = None
        self.failure: DevboxError | None = None

        self.incoming: deque[tuple[int, memoryview | bytes, int]] = deque()
        self.queued_bytes = 0
        self.queued_wire = 0
        self.received = 0
        self.granted = 0
        self.consumed = 0
        self.reserved = 0
        self.ended = 0
        """Bit set of the substreams that are over."""

        self.out: deque[tuple[bytes | memoryview, int]] = deque()
        self.out_bytes = 0
        self.out_end = False
        self.out_ended = False
        self.credit = 0
        self.in_ready = False
