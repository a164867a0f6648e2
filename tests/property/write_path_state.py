"""The states of the machine in write_path.py, and the rules that it can be without."""

from __future__ import annotations

from typing import NamedTuple

RULES = {
    "journal-first": "a change is journalled before it is acknowledged",
    "batch-record": "a batch is journalled, with its numbers, before it is sent",
    "whole": "a batch is applied only once it has arrived whole",
    "outcome-log": "the helper logs outcomes and answers a resend from its log",
    "doubt": "an operation that a crash cut is done if its staged content has gone",
    "doubt-verify": "what such an operation displaced is compared all the same",
    "lock": "one helper at a time, from check to outcome",
    "generation": "a helper of an older connection applies nothing any more",
    "precondition": "the object must be the one that was shown",
    "verify": "what was displaced is compared, and put back if it is another",
    "result-durable": "outcomes are on our disk before the helper may forget them",
    "floor": "outcomes that a batch in flight refers to are not forgotten",
    "equal": "equal content is no conflict",
    "cancel": "what builds on an operation that failed is cancelled",
    "follow": "later changes follow an object into its conflict copy",
    "incarnation": "numbers of an earlier opening of the journal are not taken for ours",
    "watermark": "changes are kept until the box has them on its disk",
    "distrust": "after the box lost its power its log is not believed beyond that",
}

Content = tuple[str, ...]
X = "X"
TORN = "torn"


class Op(NamedTuple):
    """A change in the journal."""

    token: str
    base: Content | None  # what was shown, if nothing was pending
    copy: bool = False  # it goes to the conflict copy


class Wire(NamedTuple):
    """An operation of a batch."""

    index: int  # of the change
    token: str
    identity: tuple[int, int]  # incarnation, seq
    target: str
    payload: Content
    pre: tuple[object, ...]


class Batch(NamedTuple):
    number: int
    wires: tuple[Wire, ...]
    floor: int


class Journal(NamedTuple):
    ops: tuple[Op, ...] = ()
    batches: tuple[Batch, ...] = ()
    settled: tuple[int, ...] = ()  # indices of changes
    results: tuple[int, ...] = ()  # numbers of batches
    opened: int = 1
    generation: int = 0
    left: Content | None = None  # what the last settled change left
    boot: int = 0


class Daemon(NamedTuple):
    """What a daemon has in memory."""

    ready: bool = True
    memory: tuple[Batch, ...] = ()  # batches without a record
    sent: tuple[int, ...] = ()  # on this connection
    answers: tuple[tuple[int, tuple[str, ...]], ...] = ()
    helper: int = 0  # its generation; 0: not connected


class Helper(NamedTuple):
    """A helper process."""

    generation: int
    linked: bool = True
    inbox: tuple[tuple[Batch, bool], ...] = ()  # whether it is whole
    known: tuple[tuple[tuple[int, int], str, Content], ...] = ()
    work: tuple[Batch, int, int, Content | None] | None = None  # batch, operation, step, found
    done: tuple[int, ...] = ()


class Box(NamedTuple):
    f: Content | None = ("0",)
    copy: Content | None = None
    log: tuple[tuple[tuple[int, int], str, Content], ...] = ()
    applied: int = 0
    accepted: Batch | None = None
    cut: tuple[tuple[int, int], Content | None] | None = None  # changed, not logged; displaced
    generation: int = 0
    lock: int = 0
    boot: int = 0
    saved: tuple[Content | None, Content | None, int] = (("0",), None, 0)


class State(NamedTuple):
    box: Box = Box()
    journal: Journal = Journal()
    daemon: Daemon | None = Daemon()
    helpers: tuple[Helper, ...] = ()
    unjournalled: int = 0
    promised: tuple[str, ...] = ()
    overwritten: tuple[Content, ...] = ()  # what the second actor replaced, having seen it
    applied: tuple[str, ...] = ()  # a token for each time that a change was made
    openings: int = 1
    lost_power: bool = False
    confused: tuple[str, ...] = ()
    synced: Journal = Journal()
    faults: tuple[str, ...] = ()
    made: int = 0


class Violation(Exception):
    """A promise was broken."""


class Side:
    """What both sides of the machine know: which rules hold, and what they look up."""

    def __init__(
        self,
        *,
        without: str = "",
        changes: int = 2,
        faults: tuple[str, ...] = (),
        comparable: bool = True,
    ) -> None:
        self.without = without
        self.comparable = comparable
        """Whether changes are contents; a rename is not."""
        self.changes = changes
        self.start = State(faults=faults)

    def rule(self, name: str) -> bool:
        assert name in RULES
        return name != self.without

    @staticmethod
    def _batch_of(state: State, entry: tuple[tuple[int, int], str, Content]) -> int:
        for batch in state.journal.batches:
            if any(wire.identity == entry[0] for wire in batch.wires):
                return batch.number
        return 0

    @staticmethod
    def _unlink(state: State, daemon: Daemon) -> State:
        helpers = tuple(
            h._replace(linked=False) if h.generation == daemon.helper else h for h in state.helpers
        )
        return state._replace(helpers=helpers, daemon=disconnected(daemon))

    def _logged(self, helper: Helper, wire: Wire) -> str | None:
        if not self.rule("outcome-log"):
            return None
        return next(
            (outcome for identity, outcome, _ in helper.known if identity == wire.identity), None
        )


def disconnected(daemon: Daemon) -> Daemon:
    return daemon._replace(helper=0, sent=(), answers=())


def replaced(state: State, old: Helper, new: Helper) -> State:
    helpers = tuple(new if h.generation == old.generation else h for h in state.helpers)
    return state._replace(helpers=helpers)
