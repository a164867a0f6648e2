"""Our changes between their acknowledgement and the box's outcome.

What they hold in the table, and what the outcome does to it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from errno import EIO

import msgspec
import trio

from devboxfs.core.event_log import UNDATED
from devboxfs.core.node import Directory, Doubt, Node
from devboxfs.core.ops import ANY_CTIME, Operation
from devboxfs.vfs.clock import BoxClock
from devboxfs.vfs.content_cache import ContentCache, ContentKey
from devboxfs.vfs.table import Table
from devboxfs.writeback.seams import ConflictReport, Settled
from devboxfs.writeback.writeback import WriteBack
from sealos_devbox import Attributes, Version

__all__ = ["Pending"]

log = logging.getLogger(__name__)

CARRIED = 1 << 20
"""Contents up to this size are kept under a new version: an index of git's of 10,000 files."""

Names = tuple[tuple[Directory, bytes], ...]


@dataclass(frozen=True, slots=True)
class _Held:
    """What one operation holds until it is settled."""

    nodes: tuple[Node, ...]
    names: Names
    move: bool


class Pending:
    """Registers operations, and hears what became of them (a writeback.seams.Listener)."""

    def __init__(
        self, table: Table, writeback: WriteBack, cache: ContentCache, clock: BoxClock
    ) -> None:
        self.table = table
        self.writeback = writeback
        self.cache = cache
        self.clock = clock
        self.conflicts: list[ConflictReport] = []
        self.trouble_errno = 0
        self.watch_session = 0
        """Counts the connections of which events were heard."""
        self._troubled: set[int] = set()
        self._copies: dict[int, Directory] = {}
        """Files that were made for a conflict, and where they will appear."""
        self._held: dict[int, _Held] = {}
        self._kept: dict[int, tuple[Directory, bytes]] = {}
        self._moves = 0
        self._late_moves: list[tuple[int, int, Directory]] = []
        """Directories whose rename is settled: of which connection, and the last event that does
        not know of it."""
        self.moved_names: set[tuple[Directory, bytes]] = set()
        """Names that directories have got or lost since a snapshot began, which empties it."""
        self._no_moves = trio.Event()
        self._no_moves.set()
        table.touched = self._carry_content

    # -- before the outcome ------------------------------------------------------------------------

    def oid(self, node: Node) -> int:
        """Return the object's identity in the journal, a new one when nothing is pending on it."""
        if not node.oid:
            node.oid = self.writeback.next_oid()
            self.table.by_oid[node.oid] = node
        return node.oid

    def base(self, node: Node) -> Version | None:
        """Return the box version that an operation on the object starts from.

        None when earlier ones are pending.
        """
        if node.pending or node.box is None:
            return None
        version = node.box.version
        if node.doubt:
            # An operation on another name of it has changed its ctime, which no outcome told.
            return msgspec.structs.replace(version, ctime_ns=ANY_CTIME)
        return version

    def append(
        self,
        operation: Operation,
        nodes: tuple[Node, ...],
        names: Names = (),
        *,
        move: bool = False,
    ) -> None:
        """Journal an operation, then let it hold its objects and names.

        Raises OSError(ENOSPC) with nothing changed.
        """
        self.writeback.append(operation)
        self.hold(operation.seq, nodes, names, move=move)

    def hold(
        self, seq: int, nodes: tuple[Node, ...], names: Names = (), *, move: bool = False
    ) -> None:
        """An operation was journalled: it holds its objects and names from now on."""
        for node in nodes:
            node.pending += 1
            node.last_seq = seq
            node.unsynced = True
        for directory, name in names:
            directory.hold(name)
        if move:
            self._moves += 1
            self.moved_names.update(names)
            if self._no_moves.is_set():
                self._no_moves = trio.Event()
        self._held[seq] = _Held(nodes, names, move)

    @property
    def moving(self) -> bool:
        """Whether a directory's rename is unsettled, or younger than events on their way.

        Paths below it differ between here and the box, or did then.
        """
        late = self._late_moves
        if late:
            now, table = self.watch_session, self.table
            late[:] = [one for one in late if one[0] == now and table.on_its_way(one[1])]
        return self._moves > 0 or bool(late)

    def moved(self) -> list[Directory]:
        """Return the directories of which that is so."""
        unsettled = [
            node
            for held in self._held.values()
            if held.move
            for node in held.nodes
            if isinstance(node, Directory)
        ]
        return unsettled + [directory for _session, _event, directory in self._late_moves]

    async def wait_moves(self) -> None:
        """Wait until no directory's rename is unsettled."""
        while self._moves:
            await self._no_moves.wait()

    async def settle(self, node: Node) -> None:
        """Have everything up to the object's last operation flushed."""
        await self.writeback.sync([], node.last_seq, sync_box=False)

    # -- the outcome -------------------------------------------------------------------------------

    def settled(self, batch: Settled) -> None:
        """Take note of a batch's outcomes (Listener)."""
        touched: dict[int, Node] = {}
        names: list[tuple[Directory, bytes, int]] = []
        events: dict[int, int] = {}
        for seq in batch.seqs:
            held = self._held.pop(seq, None)
            if held is None:
                continue
            event = batch.events.get(seq, batch.event)
            for node in held.nodes:
                node.pending -= 1
                touched[id(node)] = node
                other = events.get(id(node), event)
                events[id(node)] = UNDATED if UNDATED in (event, other) else max(event, other)
            names.extend((directory, name, event) for directory, name in held.names)
            if held.move:
                self._late_moves += [
                    (self.watch_session, event, node)
                    for node in held.nodes
                    if isinstance(node, Directory)
                ]
                self._moves -= 1
                if self._moves == 0:
                    self._no_moves.set()
        for oid in self._copies.keys() & batch.objects.keys():
            self.table.rescan(self._copies.pop(oid))
        for oid, attr in batch.objects.items():
            known = self.table.by_oid.get(oid)
            if known is not None:
                touched[id(known)] = known
                self._object_outcome(known, attr, batch)
        for oid, number in batch.locks_refused.items():
            known = self.table.by_oid.get(oid)
            if known is not None and known.lock is not None:
                known.lock.refused = number
                if known.parent is not None:
                    known.parent.hold(known.name)  # ours is shown until its maker gives it up
        for oid, error in batch.errors.items():
            self._failed(oid, error)
        for oid, error in batch.refused.items():
            known = self.table.by_oid.get(oid)
            if known is not None:
                _note_error(known, error)
        for report in batch.conflicts:
            self._conflict(report)
        for directory, name, event in names:
            self.table.name_settled(directory, name, event)
        last = max(batch.event, *batch.events.values(), 0)
        for directory in {id(directory): directory for directory, _name, _event in names}.values():
            at = batch.directories.get(directory.path(), 0)
            self.table.times_settled(directory, at or last)
        for node in touched.values():
            if not node.pending:
                told = node.oid in batch.objects and node.oid not in batch.touched
                if node.parent is not None and node.oid and not told:
                    # The other side of an exchange, or what is left of several names: its state
                    # in the box is not among the outcomes.
                    node.doubt = max(node.doubt, Doubt.TOUCHED)
                    self.table.rescan(node.parent)
                if node.box is not None:
                    node.content = None
                if node.oid and (node.box is not None or node.parent is None):
                    self.table.by_oid.pop(node.oid, None)
                    node.oid = 0
                self.table.object_settled(node, events.get(id(node), batch.event))

    async def base_content(self, version: Version, size: int) -> bytes | None:
        """Return the whole content of a version, if the cache has it (Listener)."""
        if not size:
            return b""
        found = await self.cache.load(ContentKey.of(version), 0, size)
        return found if found is not None and len(found) == size else None

    def trouble(self, errno: int, oids: set[int]) -> None:
        """The box refuses changes, or takes them again (Listener)."""
        self.trouble_errno = errno
        if not errno:
            self._troubled.clear()
        for oid in oids - self._troubled:
            # Once, however often the box is asked again.
            node = self.table.by_oid.get(oid)
            if node is not None:
                _note_error(node, errno)
        self._troubled |= oids

    def _object_outcome(self, node: Node, attr: Attributes | None, batch: Settled) -> None:
        kept = self._kept.pop(node.oid, None)
        if kept is not None:
            self.table.name_settled(*kept, batch.event)
            node.doubt = Doubt.NONE
        if attr is None:
            if node.parent is None:
                node.box = None
                return
            # It has other names, and was changed by losing one.
            node.doubt = max(node.doubt, Doubt.TOUCHED)
            self.table.rescan(node.parent)
            attr = batch.before.get(node.oid)
            if attr is None:
                return
        content = node.content
        image = batch.contents.get(node.oid)
        if image is not None:
            base = content.base if content is not None else None
            self.cache.put_image(
                ContentKey.of(attr.version),
                image,
                base=ContentKey.of(base) if base is not None else None,
            )
        if image is None and node.box is not None:
            self._carry_content(node.box.version, attr.version)
        if node.lock is not None and not node.lock.answered:
            node.lock.answered = True
            node.lock.seen, node.lock.session = batch.seen, self.watch_session
        self.table.box_state(node, attr)
        if attr.ino != node.ino or attr.ctime_ns != node.ctime_ns:
            self.table.numbers.record(attr, node.ino, node.ctime_ns)
        if content is not None:
            # The extents that were flushed stay: their bytes equal those of the new base, which is
            # what base regions are read from.
            content.base = attr.version

    def _carry_content(self, old: Version, new: Version) -> None:
        """A change of ours that is none of the content (a rename): what is cached stays good."""
        same = (old.ino, old.mtime_ns, old.size) == (new.ino, new.mtime_ns, new.size)
        if same and old != new and 0 < new.size <= CARRIED:
            content = self.cache.get(ContentKey.of(old), 0, old.size)
            if content is not None:
                self.cache.put(ContentKey.of(new), 0, content, new.size)

    def _failed(self, oid: int, error: int) -> None:
        """The box refused an operation for good: what it has is shown again."""
        node = self.table.by_oid.get(oid)
        if node is None:
            return
        _note_error(node, error)
        node.doubt = Doubt.REFUSED
        for directory, _name in node.names():
            self.table.rescan(directory)

    def _conflict(self, report: ConflictReport) -> None:
        """The box's version keeps the name; ours moves to its conflict name with its open files."""
        self.conflicts.append(report)
        log.warning(
            "conflict on %r: the box's version keeps the name; ours: %r",
            report.path,
            report.kept_as or report.stored_at,
        )
        table = self.table
        parent_path, _, name = report.path.rpartition(b"/")
        parent = table.resolve(parent_path)
        node = table.by_oid.get(report.oid)
        if node is not None:
            _note_error(node, EIO)
            node.doubt = Doubt.REFUSED
        if not isinstance(parent, Directory):
            return
        if report.copy_oid:
            self._copies[report.copy_oid] = parent
        elif node is not None and parent.children.get(name) is node:
            if report.kept_as is not None:
                self._move_aside(node, parent, name, report.kept_as)
            elif report.stored_at is not None:
                table.detach(parent, name)
            table.kernel.entry(parent, name)
        table.rescan(parent)

    def _move_aside(self, node: Node, parent: Directory, name: bytes, path: bytes) -> None:
        """Give the object its conflict name, which is held until the box has it."""
        table = self.table
        where, _, kept = path.rpartition(b"/")
        target = table.resolve(where)
        if not isinstance(target, Directory):
            table.detach(parent, name)
            return
        node.pending += 1  # detach() must not forget it
        table.detach(parent, name)
        node.pending -= 1
        if parent.stash is not None:
            parent.stash.pop(name, None)  # the listing that follows says it
        table.attach(target, kept, node)
        node.box = None
        target.hold(kept)
        self._kept[node.oid] = (target, kept)
        table.kernel.entry(target, kept)


def _note_error(node: Node, error: int) -> None:
    node.error = error
    node.error_count += 1
