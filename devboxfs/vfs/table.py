"""The table.

Every known object and name, and the rules by which the box's news and our own changes meet in it.

Everything here is synchronous: a caller sees the table before or after a change, never in between.
After a change that the kernel may have cached, the kernel is told through `Kernel`, which only
queues (fuse/notify.py): the table changes first, always. The rules are one file, although a long
one, because each reads and writes the state of the others.
"""

from __future__ import annotations

import stat
from collections.abc import Callable

import msgspec

from devboxfs.core.event_log import OWN, UNDATED, EventLog
from devboxfs.core.git_tree import replaces_files
from devboxfs.core.node import Directory, Doubt, News, Node
from devboxfs.vfs.nodes import InodeNumbers, Nodes, same_object
from devboxfs.vfs.observers import Kernel, Watchers
from sealos_devbox import Attributes, Version

__all__ = ["Table"]

IN_MODIFY, IN_MOVED_TO = 0x2, 0x80


class Table(Nodes):
    """Nodes by number, names by directory, and the rules for both."""

    def __init__(self, root: Attributes, numbers: InodeNumbers, kernel: Kernel) -> None:
        super().__init__(root, numbers)
        self.kernel = kernel
        self.watchers = Watchers()
        self.log = EventLog()
        self._ahead: dict[tuple[int, bytes], int] = {}
        """Names whose outcome is younger than events that are still on their way: which ones."""
        self._connection = 0
        """Counts connections: the events of each are numbered anew."""
        self._heard = 0
        self.root_gone = False
        """Whether the directory that is mounted was removed in the box."""
        self.rescan: Callable[[Directory], None] = lambda _directory: None
        """Asks for a listing of a directory whose state is in doubt; set by vfs/listings.py."""
        self.hides: Callable[[Directory, bytes, Attributes], bool] | None = None
        """Whether an object of the box is not shown (vfs/visibility.py); None: none is hidden."""
        self.moved: Callable[[bytes, bytes], None] = lambda _old, _new: None
        """Hears of every directory that has got another path, and which."""
        self.touched: Callable[[Version, Version], None] = lambda _old, _new: None
        """Hears of objects that have another version in the box, and the same content."""

    # -- news from the box -------------------------------------------------------------------------

    def hide(self, directory: Directory, name: bytes, attr: Attributes | None) -> bool:
        """Keep count of what is not shown; whether this is not."""
        if attr is None or self.hides is None or not self.hides(directory, name, attr):
            if directory.hidden is not None:
                directory.hidden.discard(name)
            return False
        if directory.hidden is None:
            directory.hidden = set()
        directory.hidden.add(name)
        child = directory.children.get(name)
        if child is not None and not child.pending:
            self.remove_remote(directory, name)
        return True

    def update(self, node: Node, attr: Attributes, event: int) -> None:
        """Work in the state of an object that is as old as `event`."""
        if node.pending:
            age = (self._connection, event)
            if node.remote is None or node.remote.age <= age:
                node.remote = News(age, attr)
            return
        seen, old = attr, node.box
        if isinstance(node, Directory) and self._keeps_times(node, event):
            attr = msgspec.structs.replace(
                attr, mtime_ns=node.mtime_ns, ctime_ns=node.ctime_ns, nlink=node.nlink
            )
        if (
            old is not None
            and not node.doubt
            and old.mode == attr.mode
            and (node.is_dir or node.nlink == attr.nlink)
            and old.version.matches(attr.version)
        ):
            if old.sha256 is None:
                node.box = seen  # else keep the digest: the content cache knows the version with it
            return
        node.box = seen
        node.xattrs = node.xattr_names = None  # a change of them moves ctime and nothing else
        doubt, node.doubt = node.doubt, Doubt.NONE
        if doubt is Doubt.TOUCHED and old is not None and _agrees(node, old, attr):
            # What is shown stays, and what is cached stays good.
            if node.nlink != attr.nlink and not node.is_dir:
                node.nlink = attr.nlink
                self.kernel.inode(node, content=False)
            self.numbers.record(seen, node.ino, node.ctime_ns)
            self.touched(old.version, seen.version)
            return
        if isinstance(node, Directory):
            # Entries' changes of our own move the times in the box; what is shown stays while the
            # rest agrees.
            shown = (node.mode, node.uid, node.gid, node.mtime_ns)
            same = shown == (attr.mode, attr.uid, attr.gid, attr.mtime_ns)
            if same and not doubt:
                return
            nlink = node.nlink
            node.show(attr)
            if node.complete:
                node.nlink = nlink
            self.kernel.inode(node, content=False)
            self.watchers.changed(node, content=False)
            return
        changed = (
            bool(doubt)
            or old is None
            or (old.size, old.mtime_ns, old.sha256) != (attr.size, attr.mtime_ns, attr.sha256)
        )
        # What a doubtful one turns out to be may be what our own change has made of it.
        news = not doubt or (node.size, node.mtime_ns) != (attr.size, attr.mtime_ns)
        accessed = node.atime_ns
        node.show(attr)
        if not news:
            node.atime_ns = accessed  # the box knows nothing of reads through the mount
        if changed:
            node.content = None
        self.kernel.inode(node, content=changed)
        if news:
            self.watchers.changed(node, content=changed)

    def remote_name(
        self, directory: Directory, name: bytes, attr: Attributes | None, event: int
    ) -> None:
        """Work in an event: the name now has this state, or is gone."""
        if directory.held(name):
            self.stash(directory, name, event, attr)
            return
        if self.overtaken(directory, name, event):
            return
        self.log.note(directory.ino, name, event)
        if self.hides is not None and self.hide(directory, name, attr):
            return
        if attr is not None:
            # A listing under way will be too old for the name: it must be here already.
            if name in directory.children or directory.complete or self.log.under_way:
                self.put_remote(directory, name, attr, event)
            elif (known := self._linked(attr)) is not None:
                self.update(known, attr, event)
        elif (child := directory.children.get(name)) is not None:
            if child.pending:
                # What we changed of it is still to meet the box's change: that may be a conflict.
                self.stash(directory, name, event, None)
            else:
                self.remove_remote(directory, name)

    def remote_move(
        self,
        source: Directory,
        old: bytes,
        target: Directory,
        new: bytes,
        attr: Attributes,
        event: int,
    ) -> bool:
        """Work in a rename in the box.

        False when it has to be taken as a removal and an appearance.
        """
        node = source.children.get(old)
        if (
            node is None
            or node.box is None
            or node.box.ino != attr.ino
            or node.pending
            or source.held(old)
            or target.held(new)
            or ((there := target.children.get(new)) is not None and there.pending)
            or node.links is not None
            or (self.hides is not None and self.hides(target, new, attr))
            or self.overtaken(source, old, event)
            or self.overtaken(target, new, event)
        ):
            return False
        self.log.note(source.ino, old, event)
        self.log.note(target.ino, new, event)
        told = self.watchers.moving(source, old, target, new, node)
        if target.children.get(new) is not None:
            self.remove_remote(target, new, tell=False)
        if node.is_dir:
            self.moved(source.child_path(old), target.child_path(new))
        del source.children[old]
        node.parent, node.name = target, new
        target.children[new] = node
        if isinstance(node, Directory) and source is not target:
            source.nlink = max(2, source.nlink - 1) if source.nlink > 1 else source.nlink
            target.nlink += target.nlink > 1
        if not told:
            self.kernel.entry(source, old)
            self.kernel.entry(target, new)
        self.update(node, attr, event)
        return True

    def remove_remote(self, directory: Directory, name: bytes, *, tell: bool = True) -> None:
        """A name is gone in the box. `tell`: and nothing has come in its place."""
        told = tell and self.watchers.vanishing(directory, name, directory.children[name])
        node = self.detach(directory, name)
        if not told:
            self.kernel.entry(directory, name)
        if isinstance(node, Directory):
            self._abandon(node)
            directory.nlink = (
                max(2, directory.nlink - 1) if directory.nlink > 1 else directory.nlink
            )
        elif node.parent is None:
            node.nlink = 0
            self.kernel.inode(node, content=False)
        else:
            # What was told of its other names meanwhile may count this one or not: a look decides.
            node.nlink = max(1, node.nlink - 1)
            self.kernel.inode(node, content=False)
            self.rescan(node.parent)

    def put_remote(self, directory: Directory, name: bytes, attr: Attributes, event: int) -> None:
        """Work in the object that a name shown, and not held, is of."""
        child = directory.children.get(name)
        if child is not None and (
            same_object(child, attr) and (child.pending or not self._took_number(child, attr))
        ):
            self.update(child, attr, event)
            self._unite(child, attr)
            return
        if child is not None:
            if child.pending:
                # What we changed of it is still to meet the box's change: that may be a conflict.
                self.stash(directory, name, event, attr)
                return
            tell = _kind(child) != stat.S_IFMT(attr.mode)
            if child.is_file and not tell and child.links is None:
                # Watchers of the name hear of other content, those of the file of nothing else.
                self.kernel.replaced(directory, name, child)
            self.remove_remote(directory, name, tell=tell)
        node = self.adopt(attr)
        if node.parent is not None:
            self.update(node, attr, event)
        self.attach(directory, name, node)
        if isinstance(node, Directory) and directory.nlink > 1 and directory.complete:
            directory.nlink += 1
        if child is None or _kind(child) != _kind(node):
            if not self.watchers.appeared(directory, name, node):
                self.kernel.entry(directory, name)
            return
        self.kernel.entry(directory, name)
        self.watchers.changed(node, content=True)

    def _unite(self, child: Node, attr: Attributes) -> None:
        """Make one node of two that have turned out to be one object.

        A name may be told of in the moment in which it is the only one.
        """
        for known in list(self._having(attr)):
            if known is child or known.pending or child.pending:
                continue
            keep, leave = (known, child) if known.opens and not child.opens else (child, known)
            for directory, name in leave.names():
                self.detach(directory, name)
                self.attach(directory, name, keep)
                self.kernel.entry(directory, name)

    def _took_number(self, node: Node, attr: Attributes) -> bool:
        """Whether this is another file, which has the number of a removed one.

        File systems give free numbers again at once. If the node took its content, who has mapped
        the old file would be killed (SIGBUS) where the new one is shorter.
        """
        box = node.box
        if box is None or not node.is_file or node.parent is None or node.links is not None:
            return False
        if (box.size, box.mtime_ns) == (attr.size, attr.mtime_ns):
            return False
        mask = self.watchers.mask or 0
        return bool(mask & IN_MOVED_TO and not mask & IN_MODIFY) or replaces_files(node.parent)

    def stash(self, directory: Directory, name: bytes, event: int, attr: Attributes | None) -> None:
        """Keep what was heard of a name until our changes of it are settled."""
        if directory.stash is None:
            directory.stash = {}
        there, age = directory.stash.get(name), (self._connection, event)
        if there is None or there.age <= age:
            directory.stash[name] = News(age, attr)

    def _hear(self, directory: Directory, name: bytes, event: int) -> None:
        """Work in what was heard of a name meanwhile, if it is younger than `event`."""
        if directory.stash is None:
            return
        heard = directory.stash.pop(name, None)
        if not directory.stash:
            directory.stash = None
        if heard is None or heard.age <= (self._connection, event):
            return
        if event != UNDATED:
            self.remote_name(directory, name, heard.attr, heard.age[1])
        else:
            self.rescan(directory)

    def _abandon(self, directory: Directory) -> None:
        """A directory is gone: so is everything below."""
        waiting = [directory]
        while waiting:
            gone = waiting.pop()
            for name in list(gone.children):
                node = self.detach(gone, name)
                if isinstance(node, Directory):
                    waiting.append(node)
                self.kernel.entry(gone, name)

    def on_its_way(self, event: int) -> bool:
        """Whether the event, or one before it, may not have arrived."""
        return event > self._heard

    def heard(self, number: int | None) -> None:
        """All events up to this one were worked in; None: they are numbered anew."""
        self._heard = number or 0
        if number is None:
            self._connection += 1
            self._ahead.clear()
            self.log.forget()
        elif self._ahead:
            self._ahead = {key: last for key, last in self._ahead.items() if last > number}

    def _get_ahead(self, directory: Directory, name: bytes, event: int) -> None:
        """Note that an outcome knows more of a name than the events up to `event`.

        The box decides events before it sends them, and an answer may pass them on its way: one
        that says "gone" of what was there before our own would take ours away.
        """
        if event > self._heard:
            self._ahead[directory.ino, name] = max(event, self._ahead.get((directory.ino, name), 0))

    def overtaken(self, directory: Directory, name: bytes, event: int) -> bool:
        """Whether an event comes late; 0 is none."""
        return bool(self._ahead) and 0 < event <= self._ahead.get((directory.ino, name), 0)

    # -- our own changes ---------------------------------------------------------------------------

    def name_settled(self, directory: Directory, name: bytes, event: int) -> None:
        """An operation of ours on a name has its outcome, which is as old as `event`."""
        self.log.note(directory.ino, name, OWN)
        self._get_ahead(directory, name, event)
        if directory.release(name):
            self._hear(directory, name, event)

    def times_settled(self, directory: Directory, event: int) -> None:
        """The directory has got the time of our last change in it, which is as old as `event`."""
        self.log.note(directory.ino, b"", event + 1)
        self._get_ahead(directory, b"", event)

    def _keeps_times(self, directory: Directory, event: int) -> bool:
        """Whether news that is as old as `event` does not know of our last change of an entry.

        inotify tells of entries, and of directories behind them: what comes late of the directory
        is from before the change, as its times show.
        """
        return (
            directory.pending_names is not None
            or self.log.is_stale(directory.ino, b"", event)
            or self.overtaken(directory, b"", event)
        )

    def object_settled(self, node: Node, event: int) -> None:
        """All operations of ours on an object have their outcomes.

        `node.box` is the last of them.
        """
        for directory, name in node.names():
            self.log.note(directory.ino, name, OWN)
            self._get_ahead(directory, name, event)
            if not directory.held(name):
                self._hear(directory, name, event)
        heard, node.remote = node.remote, None
        if heard is not None and heard.attr is not None and heard.age > (self._connection, event):
            same = node.box is None or node.box.ino == heard.attr.ino
            if same and event != UNDATED and not self._took_number(node, heard.attr):
                self.update(node, heard.attr, heard.age[1])
            elif node.parent is not None:
                self.rescan(node.parent)
        self.drop_if_unused(node)


def _kind(node: Node) -> int:
    return stat.S_IFMT(node.mode)


def _agrees(node: Node, old: Attributes, new: Attributes) -> bool:
    """Whether the box has what is shown of an object, in everything but ctime and link count."""
    if old.ino != new.ino or (node.mode, node.uid, node.gid) != (new.mode, new.uid, new.gid):
        return False
    return node.mtime_ns == new.mtime_ns and (node.is_dir or node.size == new.size)
