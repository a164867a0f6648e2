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

from tests.property.write_path_daemon import DaemonSide
from tests.property.write_path_helper import HelperSide
from tests.property.write_path_state import RULES, TORN, State, Violation, X, disconnected

__all__ = ["RULES", "Machine", "explore"]


class Machine(DaemonSide, HelperSide):
    """The machine with some rules left out."""

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
                    after = after._replace(daemon=disconnected(daemon))
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
                yield new if daemon is None else new._replace(daemon=disconnected(daemon))

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
