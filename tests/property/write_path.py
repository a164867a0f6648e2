"""The write path's rules as a machine with explicit states.

One file `f`, and the name of its conflict copy. The user changes the file (each change adds a
token); the daemon journals, batches and sends; the helper stages, checks, changes, verifies, logs
and answers; a second actor in the box writes `f` at any moment. Daemon, helper and link fail at
every step. Every rule that the design states has a name and can be left out: `RULES`.

`explore` visits every state that can be reached, and says what is wrong in the first one that
breaks a promise, with the steps that lead to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
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


class Machine:
    """The machine with some rules left out."""

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

    # -- everything that can happen next

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        """Everything that happens by itself."""
        if state.daemon is not None:
            yield from self._daemon(state, state.daemon)
        else:
            yield "the daemon is started", self._open(state)
        for helper in state.helpers:
            yield from self._helper(state, helper)

    def faults(self, state: State) -> Iterator[tuple[str, State]]:
        """What goes wrong, as often as `faults` has it."""
        for fault in sorted(set(state.faults)):
            left = list(state.faults)
            left.remove(fault)
            after = state._replace(faults=tuple(left))
            yield from ((fault, new) for new in self._fault(after, fault))

    def _fault(self, state: State, fault: str) -> Iterator[State]:
        daemon, box = state.daemon, state.box
        if fault == "foreign":
            seen = state.overwritten + ((box.f,) if box.f is not None else ())
            yield state._replace(box=box._replace(f=(X,)), overwritten=seen)
        elif fault == "same":
            ops = state.journal.ops
            if any(helper.work for helper in state.helpers):
                return  # a race that ends in a conflict copy, which is no loss
            for index in range(len(ops)):
                if index not in state.journal.settled:
                    seen = state.overwritten + ((box.f,) if box.f is not None else ())
                    wrote = box._replace(f=self._payload(ops, index))
                    yield state._replace(box=wrote, overwritten=seen)
                    break
        elif fault == "daemon" and daemon is not None:
            yield self._unlink(state, daemon)._replace(daemon=None)
        elif fault == "link" and daemon is not None and daemon.helper:
            yield self._unlink(state, daemon)
        elif fault == "helper":
            for helper in state.helpers:
                rest = tuple(h for h in state.helpers if h is not helper)
                freed = box._replace(lock=0 if box.lock == helper.generation else box.lock)
                after = state._replace(helpers=rest, box=freed)
                if daemon is not None and daemon.helper == helper.generation:
                    after = after._replace(daemon=_disconnected(daemon))
                yield after
        elif fault == "local power":
            kept = state.synced
            names = tuple(op.token for op in kept.ops)
            after = state if daemon is None else self._unlink(state, daemon)
            promised = tuple(token for token in state.promised if token in names)
            # A batch that is made up again has other numbers: it may conflict with ourselves.
            lost = [b for b in state.journal.batches if b not in kept.batches]
            confused = (*state.confused, *(w.token for b in lost for w in b.wires))
            yield after._replace(
                daemon=None, journal=kept, promised=promised, unjournalled=0, confused=confused
            )
        elif fault == "box power":
            f, copy, applied = box.saved
            trusted = tuple(entry for entry in box.log if self._batch_of(state, entry) <= applied)
            for log in {box.log, trusted}:
                after = box._replace(
                    f=f, copy=copy, log=log, applied=applied if log == trusted else box.applied,
                    boot=box.boot + 1, lock=0, cut=None, accepted=None,
                )  # fmt: skip
                new = state._replace(box=after, helpers=(), applied=(), lost_power=True)
                yield new if daemon is None else new._replace(daemon=_disconnected(daemon))

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
        return state._replace(helpers=helpers, daemon=_disconnected(daemon))

    # -- the daemon

    def _open(self, state: State) -> State:
        journal = state.journal
        # Random, so never one that was lost with the power.
        openings = state.openings + 1
        opened = openings if self.rule("incarnation") else journal.opened
        new = journal._replace(opened=opened)
        return state._replace(
            daemon=Daemon(ready=False), journal=new, unjournalled=0, openings=openings
        )

    def _in_flight(self, state: State, daemon: Daemon) -> list[Batch]:
        journal = state.journal
        return [
            batch
            for batch in (*journal.batches, *daemon.memory)
            if batch.number not in journal.results
        ]

    def _waiting(self, state: State, daemon: Daemon) -> list[int]:
        flying = {w.index for b in self._in_flight(state, daemon) for w in b.wires}
        settled = state.journal.settled
        return [i for i in range(len(state.journal.ops)) if i not in flying and i not in settled]

    def _daemon(self, state: State, daemon: Daemon) -> Iterator[tuple[str, State]]:
        journal = state.journal
        waiting, flying = self._waiting(state, daemon), self._in_flight(state, daemon)
        if daemon.ready and state.made < self.changes:
            yield from self._change(state, daemon, idle=not waiting and not flying)
        if state.unjournalled:
            yield "it is journalled late", self._append(state, daemon)._replace(unjournalled=0)
        if "local power" in state.faults and state.synced != journal:
            yield "the journal is synced", state._replace(synced=journal)
        if not daemon.helper:
            yield from self._connect(state, daemon)
            return
        if waiting and len(flying) < 2:
            for count in range(1, len(waiting) + 1):
                yield "a batch is cut", self._cut(state, daemon, waiting[:count], flying)
        unsent = [b for b in flying if b.number not in daemon.sent]
        if unsent:
            yield "a batch is sent", self._send(state, daemon, unsent[0])
        yield from self._answers(state, daemon)
        if not daemon.ready and not waiting and not flying:
            shown = journal._replace(left=state.box.f)
            yield "recovered", state._replace(daemon=daemon._replace(ready=True), journal=shown)

    def _change(self, state: State, daemon: Daemon, *, idle: bool) -> Iterator[tuple[str, State]]:
        token = f"{state.made + 1}"
        if self.rule("journal-first"):
            after = self._append(state._replace(made=state.made + 1), daemon)
            yield "a change is acknowledged", after._replace(promised=(*after.promised, token))
        else:
            yield (
                "a change is acknowledged",
                state._replace(
                    made=state.made + 1, promised=(*state.promised, token), unjournalled=1
                ),
            )

    def _append(self, state: State, daemon: Daemon) -> State:
        journal = state.journal
        idle = not self._waiting(state, daemon) and not self._in_flight(state, daemon)
        base: Content | None = None
        copied = bool(journal.ops) and journal.ops[-1].copy
        if idle and not copied:
            base = journal.left if journal.left is not None else ("0",)
        op = Op(f"{state.made}", base, copied)
        return state._replace(journal=journal._replace(ops=(*journal.ops, op)))

    @staticmethod
    def _payload(ops: tuple[Op, ...], index: int) -> Content:
        tokens: list[str] = []
        for op in reversed(ops[: index + 1]):
            tokens.insert(0, op.token)
            if op.base is not None:
                return (*op.base, *tokens)
        return ("0", *tokens)

    def _cut(self, state: State, daemon: Daemon, indices: list[int], flying: list[Batch]) -> State:
        journal = state.journal
        seq = 1 + max(
            (w.identity[1] for b in (*journal.batches, *flying) for w in b.wires), default=0
        )
        number = 1 + max((b.number for b in (*journal.batches, *flying)), default=0)
        wires: list[Wire] = []
        for index in indices:
            op = journal.ops[index]
            target = "copy" if op.copy else "f"
            identity = (journal.opened, seq)
            seq += 1
            before = [w for b in flying for w in b.wires if w.target == target] + [
                w for w in wires if w.target == target
            ]
            pre: tuple[object, ...]
            if before:
                pre = ("left", before[-1].identity)
            elif op.copy:
                settled = [i for i in journal.settled if journal.ops[i].copy]
                pre = ("is", self._payload(journal.ops, settled[-1])) if settled else ("is", None)
            elif op.base is not None:
                pre = ("is", op.base)
            else:
                pre = ("is", journal.left if journal.left is not None else ("0",))
            wires.append(
                Wire(index, op.token, identity, target, self._payload(journal.ops, index), pre)
            )
        floor = flying[0].number if flying else number
        batch = Batch(number, tuple(wires), floor)
        if self.rule("batch-record"):
            return state._replace(journal=journal._replace(batches=(*journal.batches, batch)))
        return state._replace(daemon=daemon._replace(memory=(*daemon.memory, batch)))

    def _connect(self, state: State, daemon: Daemon) -> Iterator[tuple[str, State]]:
        box, journal = state.box, state.journal
        if len(state.helpers) >= 2 or (self.rule("lock") and box.lock):
            return
        generation = 1 + max([journal.generation, *(h.generation for h in state.helpers)])
        if box.boot != journal.boot and self.rule("distrust"):
            trusted = tuple(e for e in box.log if self._batch_of(state, e) <= box.saved[2])
            box = box._replace(log=trusted, applied=box.saved[2])
        box = box._replace(generation=generation)
        helper = Helper(generation, known=box.log)
        if box.accepted is not None and not any(h.work for h in state.helpers):
            first = next(
                (i for i, w in enumerate(box.accepted.wires) if self._logged(helper, w) is None),
                len(box.accepted.wires),
            )
            helper = helper._replace(work=(box.accepted, first, 10, None))
            box = box._replace(lock=generation)
        new = daemon._replace(helper=generation, sent=())
        if state.lost_power and journal.boot != box.boot:
            again = [n for n in journal.results if n > box.applied and self.rule("watermark")]
            lost = {w.index for b in journal.batches if b.number in again for w in b.wires}
            journal = journal._replace(
                results=tuple(n for n in journal.results if n not in again),
                settled=tuple(i for i in journal.settled if i not in lost),
            )
        journal = journal._replace(generation=generation, boot=box.boot)
        yield (
            "a helper is attached",
            state._replace(box=box, journal=journal, daemon=new, helpers=(*state.helpers, helper)),
        )

    def _send(self, state: State, daemon: Daemon, batch: Batch) -> State:
        power = "local power" in self.start.faults
        durable = state.synced if power and self.rule("result-durable") else state.journal
        acked = max((*durable.results, 0))
        if self.rule("floor"):
            acked = min(acked, batch.floor - 1)
        forgotten = {
            w.identity
            for b in (*state.journal.batches, *daemon.memory)
            if b.number <= acked
            for w in b.wires
        }

        def arrive(helper: Helper) -> Helper:
            known = tuple(e for e in helper.known if e[0] not in forgotten)
            return helper._replace(inbox=(*helper.inbox, (batch, False)), known=known)

        log = tuple(e for e in state.box.log if e[0] not in forgotten)
        helpers = tuple(arrive(h) if h.generation == daemon.helper else h for h in state.helpers)
        sent = daemon._replace(sent=(*daemon.sent, batch.number))
        return state._replace(daemon=sent, helpers=helpers, box=state.box._replace(log=log))

    def _answers(self, state: State, daemon: Daemon) -> Iterator[tuple[str, State]]:
        """The oldest batch's answer is worked in; in the order of the batches."""
        flying = self._in_flight(state, daemon)
        for number, outcomes in daemon.answers:
            if flying and flying[0].number == number:
                yield "the result is journalled", self._settle(state, daemon, flying[0], outcomes)

    def _settle(
        self, state: State, daemon: Daemon, batch: Batch, outcomes: tuple[str, ...]
    ) -> State:
        journal = state.journal
        settled, left, ops = list(journal.settled), journal.left, list(journal.ops)
        for wire, outcome in zip(batch.wires, outcomes, strict=True):
            if outcome == "done":
                settled.append(wire.index)
                if wire.target == "f":
                    left = wire.payload
            elif outcome == "conflict" and wire.target == "f":
                if self.rule("follow"):
                    for later in range(wire.index, len(ops)):
                        ops[later] = ops[later]._replace(copy=True)
                else:
                    # Only this one; what comes later is planned upon what the box has now.
                    ops[wire.index] = ops[wire.index]._replace(copy=True)
                    left = state.box.f
            elif outcome == "conflict":
                raise Violation("a conflict copy met a conflict")
        batches = journal.batches
        if batch not in batches:
            batches = (*batches, batch)
        new = journal._replace(
            settled=tuple(sorted(settled)), results=(*journal.results, batch.number),
            left=left, ops=tuple(ops), batches=batches,
        )  # fmt: skip
        rest = tuple(a for a in daemon.answers if a[0] != batch.number)
        memory = tuple(b for b in daemon.memory if b.number != batch.number)
        return state._replace(journal=new, daemon=daemon._replace(answers=rest, memory=memory))

    # -- the helper

    def _logged(self, helper: Helper, wire: Wire) -> str | None:
        if not self.rule("outcome-log"):
            return None
        return next(
            (outcome for identity, outcome, _ in helper.known if identity == wire.identity), None
        )

    def _helper(self, state: State, helper: Helper) -> Iterator[tuple[str, State]]:
        box = state.box
        if not helper.linked and not helper.work and not any(w for _, w in helper.inbox):
            ended = tuple(h for h in state.helpers if h is not helper)
            yield "a helper without a link ends", state._replace(helpers=ended)
        for index, (batch, whole) in enumerate(helper.inbox):
            if not whole and helper.linked:
                inbox = (*helper.inbox[:index], (batch, True), *helper.inbox[index + 1 :])
                yield "a batch has arrived", _with(state, helper, helper._replace(inbox=inbox))
                break
        if helper.work is not None:
            yield from self._apply(state, helper, helper.work)
        elif helper.inbox:
            batch, whole = helper.inbox[0]
            if whole or not self.rule("whole"):
                yield from self._begin(state, helper, batch, whole)
        if "box power" in state.faults and box.accepted is None:
            saved = (box.f, box.copy, box.applied)
            if box.saved != saved:
                yield "the box syncs", state._replace(box=box._replace(saved=saved))

    def _begin(
        self, state: State, helper: Helper, batch: Batch, whole: bool
    ) -> Iterator[tuple[str, State]]:
        box = state.box
        if self.rule("lock") and box.lock:
            return
        if self.rule("generation") and helper.generation != box.generation:
            ended = tuple(h for h in state.helpers if h is not helper)
            yield "a superseded helper ends", state._replace(helpers=ended)
            return
        if not whole:
            torn = tuple(w._replace(payload=(*w.payload[:-1], TORN)) for w in batch.wires)
            batch = batch._replace(wires=torn)
        first = next(
            (i for i, w in enumerate(batch.wires) if self._logged(helper, w) is None),
            len(batch.wires),
        )
        new = helper._replace(work=(batch, first, 0, None), inbox=helper.inbox[1:])
        after = box._replace(lock=helper.generation, accepted=batch, cut=None)
        yield "a batch is accepted", _with(state._replace(box=after), helper, new)

    def _apply(
        self, state: State, helper: Helper, work: tuple[Batch, int, int, Content | None]
    ) -> Iterator[tuple[str, State]]:
        batch, index, step, found = work
        box = state.box
        if index == len(batch.wires):
            yield "a batch is finished", self._finish(state, helper, batch)
            return
        wire = batch.wires[index]
        there = box.copy if wire.target == "copy" else box.f

        def goto(new: State, step: int, found: Content | None = None) -> State:
            return _with(new, helper, helper._replace(work=(batch, index, step, found)))

        if step == 10:  # what a crash cut
            if box.cut is not None and box.cut[0] == wire.identity and self.rule("doubt"):
                step_to = 2 if self.rule("doubt-verify") else 3
                expected = self._expected(state, helper, wire)
                yield "an operation is found done", goto(state, step_to, expected)
            else:
                yield "an operation is begun again", goto(state, 0)
        elif step == 0:
            pre = wire.pre
            if pre[0] == "left" and self.rule("cancel"):
                outcome = next((o for i, o, _ in helper.known if i == pre[1]), None)
                if outcome not in (None, "done"):
                    yield (
                        "an operation is cancelled",
                        self._log(state, helper, batch, index, "cancelled"),
                    )
                    return
            if self.comparable and there == wire.payload and self.rule("equal"):
                yield "it is there already", self._log(state, helper, batch, index, "done")
            elif self._matches(state, helper, wire, there):
                yield "an operation is checked", goto(state, 1, there)
            else:
                yield "an operation is refused", self._log(state, helper, batch, index, "conflict")
        elif step == 1:
            target = {wire.target: wire.payload}
            changed = box._replace(cut=(wire.identity, there), **target)
            made = (*state.applied, wire.token)
            yield "an operation is made", goto(state._replace(box=changed, applied=made), 2, found)
        elif step == 2:
            displaced = box.cut[1] if box.cut is not None else None
            if self.rule("verify") and displaced != found:
                token = wire.token
                undone = list(state.applied)
                if token in undone:
                    undone.remove(token)
                back = box._replace(**{wire.target: displaced})
                yield (
                    "it is taken back",
                    self._log(
                        state._replace(box=back, applied=tuple(undone)),
                        helper,
                        batch,
                        index,
                        "conflict",
                    ),
                )
            else:
                yield "it is verified", goto(state, 3)
        else:
            yield "it is logged", self._log(state, helper, batch, index, "done")

    def _matches(self, state: State, helper: Helper, wire: Wire, there: Content | None) -> bool:
        if not self.rule("precondition"):
            return True
        if wire.pre[0] == "left" and not self.rule("cancel"):
            outcome = next((o for i, o, _ in helper.known if i == wire.pre[1]), None)
            if outcome not in (None, "done"):
                return True
        return there == self._expected(state, helper, wire)

    @staticmethod
    def _expected(state: State, helper: Helper, wire: Wire) -> Content | None:
        if wire.pre[0] == "is":
            return wire.pre[1]  # type: ignore[return-value]
        for identity, _, left in helper.known:
            if identity == wire.pre[1]:
                return left
        return ("forgotten",)

    def _log(self, state: State, helper: Helper, batch: Batch, index: int, outcome: str) -> State:
        wire = batch.wires[index]
        entry = (wire.identity, outcome, wire.payload)
        log = tuple(e for e in state.box.log if e[0] != wire.identity)
        known = tuple(e for e in helper.known if e[0] != wire.identity)
        box = state.box._replace(log=(*log, entry), cut=None)
        new = helper._replace(known=(*known, entry), work=(batch, index + 1, 0, None))
        return _with(state._replace(box=box), helper, new)

    def _finish(self, state: State, helper: Helper, batch: Batch) -> State:
        outcomes = tuple(
            next((o for i, o, _ in helper.known if i == wire.identity), "done")
            for wire in batch.wires
        )
        box = state.box._replace(
            lock=0, accepted=None, applied=max(state.box.applied, batch.number)
        )
        new = helper._replace(work=None, done=(*helper.done, batch.number))
        after = _with(state._replace(box=box), helper, new)
        daemon = state.daemon
        if (
            daemon is not None
            and daemon.helper == helper.generation
            and batch.number in daemon.sent
        ):
            answers = (*daemon.answers, (batch.number, outcomes))
            after = after._replace(daemon=daemon._replace(answers=answers))
        return after

    # -- what must be true

    def check(self, state: State) -> None:
        """In every state."""
        box = state.box
        for content in (box.f, box.copy):
            if content is not None and TORN in content:
                raise Violation("a file is not whole")
        for token in set(state.applied):
            if state.applied.count(token) > 1 and token not in state.confused:
                raise Violation(f"change {token} was made twice")

    def check_end(self, state: State) -> None:
        """When nothing happens by itself any more."""
        box, journal = state.box, state.journal
        everything = [c for c in (box.f, box.copy) if c is not None]
        mine = [*everything, *state.overwritten]
        for token in state.promised:
            if not any(token in content for content in mine):
                raise Violation(f"change {token} was acknowledged and is lost")
        if "foreign" in self.start.faults and "foreign" not in state.faults:
            if not any(X in content for content in everything):
                raise Violation("what the second actor wrote is lost")
        elif box.copy is not None and not state.confused:
            raise Violation("a conflict, and nobody else changed anything")
        if len(set(journal.settled)) != len(journal.ops):
            raise Violation("it stands still with changes that are not in the box")


def _disconnected(daemon: Daemon) -> Daemon:
    return daemon._replace(helper=0, sent=(), answers=())


def _with(state: State, old: Helper, new: Helper) -> State:
    helpers = tuple(new if h.generation == old.generation else h for h in state.helpers)
    return state._replace(helpers=helpers)


class Found(NamedTuple):
    """What was found."""

    states: int
    violation: str
    trace: list[str]


def explore(machine: Machine, limit: int = 2_000_000) -> Found:
    """Visit every state, nearest first."""
    origin: dict[State, tuple[State, str] | None] = {machine.start: None}
    waiting = deque([machine.start])
    while waiting:
        state = waiting.popleft()
        try:
            machine.check(state)
            steps = list(machine.steps(state))
            if not steps:
                machine.check_end(state)
        except Violation as violation:
            return Found(len(origin), str(violation), _trace(origin, state))
        for name, new in (*steps, *machine.faults(state)):
            if new not in origin:
                origin[new] = (state, name)
                waiting.append(new)
        assert len(origin) <= limit, "too many states"
    return Found(len(origin), "", [])


def _trace(origin: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    names: list[str] = []
    before = origin[state]
    while before is not None:
        names.insert(0, before[1])
        before = origin[before[0]]
    return names
