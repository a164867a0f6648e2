"""Local watchers hear of changes in the box: each is repeated on the mount by another process.

Which operation repeats a change, so that inotify tells of the same, and which changes are repeated
at all. echo_tokens.py has those that wait, repeater.py the process, echoing.py what it is answered.
"""

from __future__ import annotations

import os
import stat

from devboxfs.core.git_tree import in_git_directory
from devboxfs.core.node import Directory, Node
from devboxfs.fuse.echo_tokens import Tokens
from devboxfs.vfs.nodes import ROOT_INO
from devboxfs.vfs.observers import Watchers

__all__ = ["Echo"]

MOST = 2000
"""Changes that wait. What goes beyond is made known by one ATTRIB of its directory."""

IN_MODIFY, IN_ATTRIB, IN_CLOSE_WRITE = 0x2, 0x4, 0x8
IN_MOVED_TO, IN_CREATE = 0x80, 0x100
WRITTEN = IN_MODIFY | IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE


class Echo(Watchers):
    """The vfs.observers.Watchers of a mount."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.mask: int | None = None
        """inotify's bits in the event that is being worked in; None for a listing."""
        self.mounted = b""
        """The directory of the workspace that is mounted: the process works below that."""
        self.missed: dict[int, Directory] = {}
        """Directories in which changes were not repeated, and will not be."""

    def _below(self, path: bytes) -> str:
        """Return a path of the workspace as the process knows it."""
        return os.fsdecode(path[len(self.mounted) + 1 :] if self.mounted else path)

    def appeared(self, directory: Directory, name: bytes, node: Node) -> bool:
        """Take note of a new name; True when its invalidation is taken over."""
        if not self._takes(directory):
            return False
        operation, arguments = self._making(self._below(directory.child_path(name)), node)
        if not operation:
            return False
        self.tokens.add(
            operation,
            arguments,
            node,
            {(directory.ino, name): None},
            (directory,),
            (operation, directory.ino, name),
        )
        return True

    def _making(self, path: str, node: Node) -> tuple[str, tuple[object, ...]]:
        kind, mode = stat.S_IFMT(node.mode), stat.S_IMODE(node.mode)
        if kind == stat.S_IFREG:
            written = bool(self.mask & WRITTEN) if self.mask is not None else True
            return "create", (path, mode, written and node.size > 0)
        if kind == stat.S_IFDIR:
            return "mkdir", (path, mode)
        if kind == stat.S_IFLNK:
            return "symlink", (path, os.fsdecode(node.target or b"unknown"))
        if kind in (stat.S_IFIFO, stat.S_IFSOCK):
            return "mknod", (path, node.mode)
        return "", ()

    def vanishing(self, directory: Directory, name: bytes, node: Node) -> bool:
        """Take note of a name that is about to be taken away, before what lies below it is."""
        if not self._takes(directory):
            return False
        waiting = [(directory, name, node)]
        found: list[tuple[Directory, bytes, Node]] = []
        while waiting:
            found.append(waiting.pop())
            child = found[-1][2]
            if isinstance(child, Directory) and self._takes(child):
                waiting.extend((child, below, there) for below, there in child.children.items())
        for parent, gone, there in reversed(found):
            operation = "rmdir" if there.is_dir else "unlink"
            self.tokens.add(
                operation,
                (self._below(parent.child_path(gone)),),
                there,
                {(parent.ino, gone): there},
                (parent,),
                (operation, parent.ino, gone),
            )
        return True

    def moving(
        self, source: Directory, old: bytes, target: Directory, new: bytes, node: Node
    ) -> bool:
        """Take note of a rename that is about to be worked in."""
        if not (self._takes(source) and self._takes(target)):
            return False
        paths = (self._below(source.child_path(old)), self._below(target.child_path(new)))
        before = {(source.ino, old): node, (target.ino, new): target.children.get(new)}
        self.tokens.add(
            "rename",
            paths,
            node,
            before,
            (source, target),
            ("rename", source.ino, old, target.ino, new),
        )
        return True

    def changed(self, node: Node, *, content: bool) -> None:
        """Take note of other attributes, or other content; the kernel is told besides."""
        directory = node.parent
        if directory is None or not (node.is_file or node.is_dir) or not self._takes(directory):
            return
        if node.is_dir and not (self.mask or 0) & IN_ATTRIB:
            return  # its entries came or went, and they raise the events
        waiting = self.tokens.change_of(node)
        if (
            waiting is not None
            and not waiting.sent
            and (waiting.operation == "modify" or not content)
        ):
            return
        if self.mask is not None:
            content = content and bool(self.mask & WRITTEN)
            if not content and not self.mask & IN_ATTRIB:
                return  # it was only moved
        path = self._below(directory.child_path(node.name))
        arguments: tuple[object, ...]
        if content and node.is_file:
            complete = self.mask is None or bool(self.mask & ~(IN_MODIFY | IN_ATTRIB))
            operation, arguments = "modify", (path, complete)
        else:
            operation, arguments = "attributes", (path, stat.S_IMODE(node.mode))
        self.tokens.add_change(operation, arguments, node, directory)

    def _takes(self, directory: Directory) -> bool:
        """Whether anybody can watch there, and the change can still be repeated in time."""
        if self.tokens.pid is None:
            return False
        if directory.lookups <= 0 and directory.ino != ROOT_INO:
            return False
        if in_git_directory(directory):
            # Its files exclude one another by their names: nobody else may touch these.
            self.missed[directory.ino] = directory
            self.tokens.busy.set()
            return False
        if len(self.tokens) >= MOST:
            self.missed[directory.ino] = directory
            self.tokens.given_up += 1
            return False
        return True

    def tell_of_missed(self) -> None:
        """Make known by an ATTRIB what was not repeated, once little waits."""
        if not self.missed or len(self.tokens) >= MOST // 2:
            return
        missed, self.missed = self.missed, {}
        for directory in missed.values():
            if directory.ino == ROOT_INO or (
                directory.lookups > 0 and directory.parent is not None
            ):
                self.tokens.add(
                    "attributes",
                    (self._below(directory.path()), stat.S_IMODE(directory.mode)),
                    directory,
                    {},
                    (),
                    ("set", directory.ino),
                )
