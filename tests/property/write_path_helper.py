"""What a helper does in the write path's machine: see write_path.py."""

from __future__ import annotations

from collections.abc import Iterator

from tests.property.write_path_state import (
    TORN,
    Batch,
    Content,
    Helper,
    Side,
    State,
    Wire,
    replaced,
)


class HelperSide(Side):
    """Take batches, check, change, verify, log and answer."""

    def _helper(self, state: State, helper: Helper) -> Iterator[tuple[str, State]]:
        box = state.box
        if not helper.linked and not helper.work and not any(w for _, w in helper.inbox):
            ended = tuple(h for h in state.helpers if h is not helper)
            yield "a helper without a link ends", state._replace(helpers=ended)
        for index, (batch, whole) in enumerate(helper.inbox):
            if not whole and helper.linked:
                inbox = (*helper.inbox[:index], (batch, True), *helper.inbox[index + 1 :])
                yield "a batch has arrived", replaced(state, helper, helper._replace(inbox=inbox))
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
        yield "a batch is accepted", replaced(state._replace(box=after), helper, new)

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
            return replaced(new, helper, helper._replace(work=(batch, index, step, found)))

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
        return replaced(state._replace(box=box), helper, new)

    def _finish(self, state: State, helper: Helper, batch: Batch) -> State:
        outcomes = tuple(
            next((o for i, o, _ in helper.known if i == wire.identity), "done")
            for wire in batch.wires
        )
        box = state.box._replace(
            lock=0, accepted=None, applied=max(state.box.applied, batch.number)
        )
        new = helper._replace(work=None, done=(*helper.done, batch.number))
        after = replaced(state._replace(box=box), helper, new)
        daemon = state.daemon
        if (
            daemon is not None
            and daemon.helper == helper.generation
            and batch.number in daemon.sent
        ):
            answers = (*daemon.answers, (batch.number, outcomes))
            after = after._replace(daemon=daemon._replace(answers=answers))
        return after
