"""A file tree in memory: `History` does what operations say, `ModelBox` what wire ones say.

Both are written from the texts (core/ops.py, sdk/PROTOCOL.md section 6) and share only the tree.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

from devboxfs.core.ops import Kind, Operation

BOX_USER = 1000
EXCHANGE = 2


@dataclass(eq=False)
class Node:
    kind: str
    ino: int = 0
    mode: int = 0o644
    uid: int = BOX_USER
    mtime: int = 0
    ctime: int = 0
    content: bytearray = field(default_factory=bytearray)
    target: bytes = b""
    rdev: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    children: dict[bytes, Node] = field(default_factory=dict)
    nlink: int = 1
    oid: int = 0

    @property
    def version(self) -> tuple[int, int, int, int]:
        return (self.ino, self.ctime, self.mtime, len(self.content))


class Tree:
    def __init__(self) -> None:
        self.root = Node("dir", ino=1, mode=0o755)

    def find(self, path: bytes) -> Node | None:
        node = self.root
        for part in path.split(b"/") if path else []:
            found = node.children.get(part) if node.kind == "dir" else None
            if found is None:
                return None
            node = found
        return node

    def parent(self, path: bytes) -> tuple[Node, bytes]:
        above, _, name = path.rpartition(b"/")
        node = self.find(above)
        assert node is not None, f"no directory {above!r}"
        assert node.kind == "dir", above
        return node, name

    def picture(self, *, directory_times: bool = True) -> dict[bytes, tuple[object, ...]]:
        """Everything that can be seen, by path."""
        seen: dict[bytes, tuple[object, ...]] = {}
        names: dict[int, list[bytes]] = {}

        def walk(path: bytes, node: Node) -> None:
            names.setdefault(id(node), []).append(path)
            mtime: int | None = node.mtime
            if node.kind == "dir" and not directory_times:
                mtime = None
            seen[path] = (
                node.kind,
                node.mode,
                node.uid,
                mtime,
                bytes(node.content),
                node.target,
                node.rdev,
                tuple(sorted(node.xattrs.items())),
                tuple(names[id(node)]),
            )
            for name, child in sorted(node.children.items()):
                walk(path + b"/" + name if path else name, child)

        walk(b"", self.root)
        return seen


class History(Tree):
    """The tree as acknowledged."""

    def __init__(self) -> None:
        super().__init__()
        self.by_oid: dict[int, Node] = {}

    def add(self, path: bytes, node: Node, oid: int, mtime: int | None = None) -> None:
        parent, name = self.parent(path)
        assert name not in parent.children, path
        parent.children[name] = node
        node.oid = oid
        self.by_oid[oid] = node
        if mtime is not None:
            parent.mtime = mtime

    def _take(self, path: bytes, time_ns: int) -> Node:
        parent, name = self.parent(path)
        parent.mtime = time_ns
        return parent.children.pop(name)

    def do(self, op: Operation) -> None:
        kind, when = op.kind, op.time_ns
        node = self.by_oid.get(op.oid)
        if kind is Kind.CREATE:
            self.add(op.path, Node("file", mode=op.mode or 0, mtime=when), op.oid, when)
        elif kind is Kind.MKDIR:
            self.add(op.path, Node("dir", mode=op.mode or 0, mtime=when), op.oid, when)
        elif kind is Kind.SYMLINK:
            self.add(
                op.path, Node("link", mode=0o777, target=op.data or b"", mtime=when), op.oid, when
            )
        elif kind is Kind.MKNOD:
            made = Node("node", mode=op.mode or 0, rdev=op.size, mtime=when)
            self.add(op.path, made, op.oid, when)
        elif kind is Kind.RENAME:
            self._rename(op)
        else:
            assert node is not None
            if kind not in (Kind.LINK,):
                assert self.find(op.path) is node, (op, "is not at its path")
            if kind is Kind.WRITE:
                assert op.source is not None
                data = op.source.blob.read(op.source.offset, op.length)
                if op.offset > len(node.content):
                    node.content.extend(bytes(op.offset - len(node.content)))
                node.content[op.offset : op.offset + op.length] = data
                node.mtime = when
            elif kind is Kind.TRUNCATE:
                if op.size < len(node.content):
                    del node.content[op.size :]
                else:
                    node.content.extend(bytes(op.size - len(node.content)))
                node.mtime = when
            elif kind is Kind.SETATTR:
                if op.mode is not None:
                    node.mode = op.mode
                if op.uid is not None:
                    node.uid = op.uid
                if op.mtime_ns is not None:
                    node.mtime = op.mtime_ns
            elif kind is Kind.LINK:
                assert self.find(op.other) is node
                self.add(op.path, node, op.oid, when)
                node.nlink += 1
            elif kind in (Kind.UNLINK, Kind.RMDIR):
                assert self._take(op.path, when) is node
                assert not node.children
                node.nlink -= 1
            elif kind is Kind.SETXATTR:
                if op.data is None:
                    del node.xattrs[op.name]
                else:
                    node.xattrs[op.name] = op.data

    def _rename(self, op: Operation) -> None:
        when = op.time_ns
        node = self._take(op.other, when)
        assert node is self.by_oid[op.oid], "rename of another object"
        if op.replaced:
            replaced = self._take(op.path, when)
            assert replaced is self.by_oid[op.replaced]
            if op.flags & EXCHANGE:
                parent, name = self.parent(op.other)
                parent.children[name] = replaced
            else:
                assert not replaced.children
                replaced.nlink -= 1
        parent, name = self.parent(op.path)
        assert name not in parent.children
        parent.children[name] = node
        parent.mtime = when


class Refused(Exception):
    def __init__(self, number: int, *, conflict: bool = False) -> None:
        super().__init__(errno.errorcode.get(number, str(number)))
        self.errno = number
        self.conflict = conflict


class ModelBox(Tree):
    """The box: carries out wire operations, with preconditions, at times of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = 10**15
        self.next_ino = 2
        self.left: dict[int, tuple[tuple[int, int, int, int] | None, bool, object]] = {}
        self.failed: set[int] = set()

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def new(self, kind: str, **values: object) -> Node:
        node = Node(kind, ino=self.next_ino, ctime=self.tick(), **values)  # type: ignore[arg-type]
        self.next_ino += 1
        return node

    def place(self, path: bytes, node: Node) -> None:
        parent, name = self.parent(path)
        parent.children[name] = node
        parent.mtime = parent.ctime = self.tick()

    def take(self, path: bytes) -> Node:
        parent, name = self.parent(path)
        parent.mtime = parent.ctime = self.tick()
        return parent.children.pop(name)

    def check(self, pre: tuple[object, ...], found: Node | None) -> None:
        kind = pre[0]
        if kind == 3:
            return
        if kind == 0:
            if found is not None:
                raise Refused(errno.EEXIST, conflict=True)
            return
        if kind == 2:
            if pre[1] in self.failed:
                raise Refused(errno.ECANCELED)
            version, _, other = self.left[pre[1]]  # type: ignore[index]
            if version is None:
                self.check((0,), found)
                return
            if found is None:
                raise Refused(errno.ENOENT, conflict=True)
            allowed = [version] + ([other] if other is not None else [])
            if found.version in allowed:
                return
            if found.kind == "dir" and found.ino in [one[0] for one in allowed]:  # type: ignore[index]
                return
            raise Refused(errno.ESTALE, conflict=True)
        if found is None:
            raise Refused(errno.ENOENT, conflict=True)
        if kind == 4:
            if found.ino != pre[1]:
                raise Refused(errno.ESTALE, conflict=True)
            return
        if found.version != tuple(pre[1:5]):
            raise Refused(errno.ESTALE, conflict=True)

    def apply(
        self, operations: list[tuple[object, ...]], contents: list[tuple[bytes, int, int]]
    ) -> list[tuple[int, int]]:
        outcomes = []
        last = 0
        for operation in operations:
            seq = operation[0]
            assert isinstance(seq, int)
            assert seq > last
            last = seq
            number = 0
            try:
                node, other = self._one(operation, contents)
                self.left[seq] = (
                    None if node is None else node.version,
                    node is not None and node.kind == "dir",
                    None if other is None else other.version,
                )
            except Refused as refused:
                number = refused.errno
                self.failed.add(seq)
            outcomes.append((seq, number))
        return outcomes

    def _one(
        self, operation: tuple[object, ...], contents: list[tuple[bytes, int, int]]
    ) -> tuple[Node | None, Node | None]:
        _, kind, path, pre, *rest = operation
        assert isinstance(path, bytes)
        assert isinstance(pre, tuple)
        if self.find(path.rpartition(b"/")[0]) is None:
            raise Refused(errno.ENOENT)
        found = self.find(path)
        if kind == "dirtime":
            if found is not None and found.kind == "dir":
                found.mtime = rest[0]
                found.ctime = self.tick()
            return found, None
        if kind == "rename":
            return self._rename(path, pre, *rest)
        self.check(pre, found)
        if kind == "put":
            data, mode, mtime = contents[rest[0]]
            if found is not None:
                assert found.kind in ("file", "link"), found.kind
                assert found.nlink == 1, "a put would cut a hard link"
                assert found.uid == BOX_USER, "a put would change the owner"
                assert not found.xattrs, "a put would lose extended attributes"
                parent, name = self.parent(path)
                del parent.children[name]
                found.nlink -= 1
                made = self.new("file", mode=mode, mtime=mtime, content=bytearray(data))
                # A real box gives the directory a new time here, which no operation of ours did:
                # the one difference between box and history that is accepted.
                parent.children[name] = made
                return made, None
            made = self.new("file", mode=mode, mtime=mtime, content=bytearray(data))
            self.place(path, made)
            return made, None
        if kind in ("mkdir", "symlink", "mknod"):
            if found is not None:
                raise Refused(errno.EEXIST, conflict=True)
            if kind == "mkdir":
                made = self.new("dir", mode=rest[0], mtime=self.tick())
            elif kind == "symlink":
                made = self.new("link", mode=0o777, target=rest[0], mtime=rest[1])
            else:
                made = self.new("node", mode=rest[0], rdev=rest[1], mtime=rest[2])
            self.place(path, made)
            return made, None
        if kind == "link":
            node = self.find(rest[0])
            self.check(rest[1], node)
            assert node is not None
            assert found is None
            node.nlink += 1
            node.ctime = self.tick()
            self.place(path, node)
            return node, None
        if found is None:
            raise Refused(errno.ENOENT)
        if kind == "write":
            ranges, size, mtime = rest
            for offset, number in ranges:
                data = contents[number][0]
                if offset > len(found.content):
                    found.content.extend(bytes(offset - len(found.content)))
                found.content[offset : offset + len(data)] = data
            if size is not None:
                if size < len(found.content):
                    del found.content[size:]
                else:
                    found.content.extend(bytes(size - len(found.content)))
            found.mtime = self.tick() if mtime is None else mtime
        elif kind == "setattr":
            mode, uid, _gid, _atime, mtime = rest
            found.mode = found.mode if mode is None else mode
            found.uid = found.uid if uid is None else uid
            found.mtime = found.mtime if mtime is None else mtime
        elif kind == "setxattr":
            name, value, _ = rest
            if value is None:
                del found.xattrs[name]
            else:
                found.xattrs[name] = value
        elif kind in ("unlink", "rmdir"):
            assert (found.kind == "dir") == (kind == "rmdir")
            if found.children:
                raise Refused(errno.ENOTEMPTY)
            self.take(path)
            found.nlink -= 1
            found.ctime = self.tick()
            return None, None
        else:
            raise AssertionError(kind)
        found.ctime = self.tick()
        return found, None

    def _rename(
        self,
        path: bytes,
        pre: tuple[object, ...],
        source: bytes,
        source_pre: tuple[object, ...],
        flags: int,
    ) -> tuple[Node | None, Node | None]:
        node, found = self.find(source), self.find(path)
        self.check(source_pre, node)
        self.check(pre, found)
        if node is None:
            raise Refused(errno.ENOENT)
        if flags & EXCHANGE:
            assert found is not None
            self.take(source)
            self.take(path)
            self.place(path, node)
            self.place(source, found)
            node.ctime = self.tick()
            found.ctime = self.tick()
            return node, found
        if found is not None:
            assert found is not node
            if found.children:
                raise Refused(errno.ENOTEMPTY)
            assert (found.kind == "dir") == (node.kind == "dir")
            self.take(path)
            found.nlink -= 1
            found.ctime = self.tick()
        self.take(source)
        self.place(path, node)
        node.ctime = self.tick()
        return node, None
