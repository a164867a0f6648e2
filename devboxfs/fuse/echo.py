"""Local watchers hear of changes in the box: each is repeated on the mount by another process.

The table has changed already. A **token** stands for one change until the other process
(fuse/echo_process.py) has performed the operation that raises the same inotify events. Meanwhile

* that process sees the names concerned as they were before (`before`), everybody else sees the
  table, but the kernel is told not to keep it (`volatile`);
* an operation of that process that is not the one of a token is refused with ECANCELED, and none
  of them reaches the box (fuse/echoing.py).

The operation makes the kernel know the new state, so names need no invalidation when it succeeds.
When it has not arrived after `PATIENCE`, or fails, they are invalidated as usual. The daemon never
waits for that process, and what it does not manage is dropped.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from devboxfs.core.git_tree import in_git_directory
from devboxfs.core.node import Directory, Node
from devboxfs.vfs.nodes import ROOT_INO
from devboxfs.vfs.observers import Watchers

__all__ = ["Echo", "EchoStatistics", "Token"]

log = logging.getLogger(__name__)

PATIENCE = 0.1
"""Seconds after which a name is invalidated although its operation has not been performed."""
LIFETIME = 5.0
"""Seconds after which a change is given up."""
MOST = 2000
"""Changes that wait. What goes beyond is made known by one ATTRIB of its directory."""
AHEAD = 16
"""Operations that the process is given at once."""
RESTART = 1.0
"""Seconds between an unexpected end of the process and the next."""
END = 2.0
"""Seconds that the process may take to end once killed: what it waits for is answered here."""

Key = tuple[int, bytes]
IN_MODIFY, IN_ATTRIB, IN_CLOSE_WRITE = 0x2, 0x4, 0x8
IN_MOVED_TO, IN_CREATE = 0x80, 0x100
WRITTEN = IN_MODIFY | IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE


@dataclass(slots=True, eq=False)
class Token:
    """One change that is to be repeated."""

    operation: str
    arguments: tuple[object, ...]
    node: Node
    before: dict[Key, Node | None]
    parents: tuple[Directory, ...]
    since: float
    key: tuple[object, ...]
    """How the operation will arrive."""
    number: int = 0
    sent: bool = False
    arrived: bool = False
    done: bool = False
    invalidated: bool = False
    holds: tuple[Node, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class EchoStatistics:
    """Counts since the mount began."""

    performed: int
    refused: int
    given_up: int
    waiting: int


class Echo(Watchers):
    """The tokens, and the process; the vfs.table.Watchers of a mount."""

    def __init__(
        self, queue: Callable[[Token], None], invalidate: Callable[[Node, bytes], None]
    ) -> None:
        """`queue` hands a token back to submit() once the kernel heard what was said before it."""
        self._queue = queue
        self._invalidate = invalidate
        self.mask: int | None = None
        """inotify's bits in the event that is being worked in; None for a listing."""
        self.pid = 0
        """Of the process; 0 while there is none."""
        self.drop: Callable[[Node], None] = lambda _node: None
        """Forgets a node that nobody refers to any more; the table's."""
        self.mounted = b""
        """The directory of the workspace that is mounted: the process works below that."""
        self._enabled = False
        self._names: dict[Key, deque[Token]] = {}
        self._expected: dict[tuple[object, ...], Token] = {}
        self._changes: dict[int, Token] = {}
        self._missed: dict[int, Directory] = {}
        self._ready: deque[Token] = deque()
        self._sent: dict[int, Token] = {}
        self._all: dict[int, Token] = {}
        self._numbers = 0
        self._wanted = trio.Event()
        self._busy = trio.Event()
        """Something waits, so that the clock has to be looked at."""
        self._process: trio.Process | None = None
        self._resumed = trio.Event()
        self._resumed.set()
        self._counts = {"performed": 0, "refused": 0, "given_up": 0}

    def statistics(self) -> EchoStatistics:
        """Return a frozen snapshot."""
        return EchoStatistics(**self._counts, waiting=len(self._all))

    def _below(self, path: bytes) -> str:
        """Return a path of the workspace as the process knows it."""
        return os.fsdecode(path[len(self.mounted) + 1 :] if self.mounted else path)

    # -- what changed in the box (vfs.table.Watchers) ----------------------------------------------

    def appeared(self, directory: Directory, name: bytes, node: Node) -> bool:
        """Take note of a new name; True when its invalidation is taken over."""
        if not self._takes(directory):
            return False
        operation, arguments = self._making(self._below(directory.child_path(name)), node)
        if not operation:
            return False
        self._add(
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
            self._add(
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
        self._add(
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
        if node.ino in self._changes:
            token = self._changes[node.ino]
            if not token.sent and (token.operation == "modify" or not content):
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
        token = self._add(operation, arguments, node, {}, (directory,), ("set", node.ino))
        self._changes[node.ino] = token

    def _takes(self, directory: Directory) -> bool:
        """Whether anybody can watch there, and the change can still be repeated in time."""
        if not self._enabled:
            return False
        if directory.lookups <= 0 and directory.ino != ROOT_INO:
            return False
        if in_git_directory(directory):
            # Its files exclude one another by their names: nobody else may touch these.
            self._missed[directory.ino] = directory
            self._busy.set()
            return False
        if len(self._all) >= MOST:
            self._missed[directory.ino] = directory
            self._counts["given_up"] += 1
            return False
        return True

    def _add(
        self,
        operation: str,
        arguments: tuple[object, ...],
        node: Node,
        before: dict[Key, Node | None],
        parents: tuple[Directory, ...],
        key: tuple[object, ...],
    ) -> Token:
        token = Token(operation, arguments, node, before, parents, trio.current_time(), key)
        self._numbers += 1
        token.number = self._numbers
        self._all[token.number] = token
        self._busy.set()
        for name in before:
            self._names.setdefault(name, deque()).append(token)
        # As if the kernel held them: their numbers mean the same objects until the token is done,
        # and what appears in a directory that is about to be made is told of, too.
        token.holds = (node, *(there for there in before.values() if there is not None), *parents)
        for held in token.holds:
            held.lookups += 1
        self._queue(token)
        return token

    # -- what requests are told --------------------------------------------------------------------

    def before(self, directory: int, name: bytes) -> tuple[bool, Node | None]:
        """Return whether a change of the name waits, and what was there before the first one."""
        tokens = self._names.get((directory, name))
        if not tokens:
            return False, None
        return True, tokens[0].before[directory, name]

    def volatile(self, directory: int, name: bytes) -> bool:
        """Whether the kernel must not keep the name: a change of it is about to be repeated."""
        return (directory, name) in self._names

    def take(self, *key: object) -> Token | None:
        """Return the token whose operation has arrived, None for what nobody asked for."""
        token = self._expected.pop(key, None)
        if token is None:
            self._counts["refused"] += 1
            return None
        token.arrived = True
        return token

    def expects(self, *key: object) -> bool:
        """As take(), for one of several requests of an operation."""
        return key in self._expected

    def forget_listed(self, directory: Directory) -> None:
        """The kernel was given names of a directory in a listing: it shall not keep these."""
        if self._names:
            for ino, name in list(self._names):
                if ino == directory.ino:
                    self._invalidate(directory, name)

    def repeated(self, token: Token) -> None:
        """The operation has made its change visible: the names are the table's again."""
        self._release_names(token)

    # -- life of a token ---------------------------------------------------------------------------

    def submit(self, token: Token) -> None:
        """The kernel was told of what came before: the process may be given the operation."""
        if not token.done:
            self._ready.append(token)
            self._wanted.set()

    def _release_names(self, token: Token) -> None:
        for name in token.before:
            tokens = self._names.get(name)
            if tokens is not None and token in tokens:
                tokens.remove(token)
                if not tokens:
                    del self._names[name]

    def _invalidate_names(self, token: Token) -> None:
        token.invalidated = True
        for ino, name in token.before:
            for parent in token.parents:
                if parent.ino == ino:
                    self._invalidate(parent, name)
                    break

    def _finish(self, token: Token, *, performed: bool) -> None:
        if token.done:
            return
        token.done = True
        del self._all[token.number]
        self._sent.pop(token.number, None)
        if self._expected.get(token.key) is token:
            del self._expected[token.key]
        if self._changes.get(token.node.ino) is token:
            del self._changes[token.node.ino]
        self._release_names(token)
        if not performed:
            self._counts["given_up"] += 1
        else:
            self._counts["performed"] += 1
        if not token.arrived or not performed:
            self._invalidate_names(token)
        for held in token.holds:
            held.lookups -= 1
            self.drop(held)

    def show(self) -> None:
        """Have the kernel forget the names of every change now, before it is repeated."""
        for token in list(self._all.values()):
            self._invalidate_names(token)

    def _expire(self) -> None:
        now = trio.current_time()
        for token in list(self._all.values()):
            age = now - token.since
            if age < PATIENCE:
                break
            if not token.invalidated and not token.arrived:
                self._invalidate_names(token)
            if age > LIFETIME:
                self._finish(token, performed=False)

    # -- the process -------------------------------------------------------------------------------

    async def run(self, mountpoint: Path) -> None:
        """Keep the process running until cancelled."""
        try:
            # In a thread: this process answers.
            root = await trio.to_thread.run_sync(os.stat, mountpoint, abandon_on_cancel=True)
            while True:
                await self._resumed.wait()
                await self._live(mountpoint, root.st_dev)
                if self._resumed.is_set():
                    log.warning("the process that repeats changes ended; another one is started")
                    await trio.sleep(RESTART)
        except OSError as exc:
            log.warning("local watchers hear nothing of changes in the box: %s", exc)
        finally:
            self.stop()

    def stop(self) -> None:
        """Give up what waits; names are invalidated from now on."""
        self._enabled = False
        self.pid = 0
        for token in list(self._all.values()):
            self._finish(token, performed=False)
        self._ready.clear()

    async def pause(self) -> None:
        """Take no more changes, and end the process: what it has open keeps the mount busy."""
        self._resumed = trio.Event()
        self.stop()
        process = self._process
        if process is not None:
            await _end(process)

    def resume(self) -> None:
        """Take changes again, by a new process."""
        self._resumed.set()

    async def _live(self, mountpoint: Path, device: int) -> None:
        program = Path(__file__).with_name("echo_process.py")
        # Isolated and without site-packages: it takes 20 ms to start and 10 MB.
        argv = [sys.executable, "-I", "-S", os.fspath(program), os.fspath(mountpoint), str(device)]
        process = await trio.lowlevel.open_process(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", start_new_session=True
        )
        try:
            if not self._resumed.is_set():
                return
            self._process = process
            self.pid = process.pid
            self._enabled = True
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._feed, process)
                nursery.start_soon(self._look_after)
                await self._collect(process)
                nursery.cancel_scope.cancel()
        finally:
            self._process = None
            self.stop()
            with trio.CancelScope(shield=True):
                await _end(process)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    await trio.aclose_forcefully(pipe)

    async def _look_after(self) -> None:
        while True:
            if not (self._all or self._missed):
                self._busy = trio.Event()
                await self._busy.wait()
            await trio.sleep(PATIENCE / 2)
            self._expire()
            if self._missed and len(self._all) < MOST // 2:
                self._tell_of_missed()

    def _tell_of_missed(self) -> None:
        missed, self._missed = self._missed, {}
        for directory in missed.values():
            if directory.ino == ROOT_INO or (
                directory.lookups > 0 and directory.parent is not None
            ):
                self._add(
                    "attributes",
                    (self._below(directory.path()), stat.S_IMODE(directory.mode)),
                    directory,
                    {},
                    (),
                    ("set", directory.ino),
                )

    async def _feed(self, process: trio.Process) -> None:
        if process.stdin is None:
            raise RuntimeError("the process was started with a pipe")
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            lines: list[bytes] = []
            while self._ready and len(self._sent) < AHEAD:
                token = self._ready.popleft()
                if token.done:
                    continue
                if token.key in self._expected:  # the one before it is still on its way
                    self._ready.appendleft(token)
                    break
                token.sent = True
                self._expected[token.key] = token
                self._sent[token.number] = token
                line = json.dumps([token.number, token.operation, *token.arguments])
                lines.append(line.encode() + b"\n")
            try:
                if lines:
                    await process.stdin.send_all(b"".join(lines))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    async def _collect(self, process: trio.Process) -> None:
        if process.stdout is None:
            raise RuntimeError("the process was started with a pipe")
        rest = b""
        while data := await process.stdout.receive_some(65536):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                number, code = map(int, line.split())
                token = self._sent.get(number)
                if token is not None:
                    log.debug("%s: %d", token.operation, code)
                    self._finish(token, performed=code == 0)
            self._wanted.set()


async def _end(process: trio.Process) -> None:
    process.kill()
    with trio.move_on_after(END):
        await process.wait()
        return
    log.warning("the process that repeats changes (pid %d) has not ended yet", process.pid)
