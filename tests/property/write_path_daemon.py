"""What a daemon does in the write path's machine: see write_path.py."""

from __future__ import annotations

from collections.abc import Iterator

from tests.property.write_path_state import (
    Batch,
    Content,
    Daemon,
    Helper,
    Op,
    Side,
    State,
    Violation,
    Wire,
)


class DaemonSide(Side):
    """Journal, batch, send, and work in what is answered."""

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
