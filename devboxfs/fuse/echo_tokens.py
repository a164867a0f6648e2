"""Changes of the table that are to be repeated for local watchers, until they have been.

The table has changed already. A **token** stands for one change until another process
(fuse/repeater.py) has performed the operation that raises the same inotify events. Meanwhile

* that process sees the names concerned as they were before (`before`), everybody else sees the
  table, but the kernel is told not to keep it (`volatile`);
* an operation of that process that is not the one of a token is refused with ECANCELED, and none
  of them reaches the box (fuse/echoing.py).

The operation makes the kernel know the new state, so names need no invalidation when it succeeds.
When it has not arrived after `PATIENCE`, or fails, they are invalidated as usual.

Invariant: a token is in `_all`, and the kernel's count of lookups of what it `holds` is one higher,
from `add()` until it is done; names, keys and numbers refer to tokens that are not done.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from devboxfs.core.node import Directory, Node

__all__ = ["EchoStatistics", "Token", "Tokens"]

log = logging.getLogger(__name__)

PATIENCE = 0.1
"""Seconds after which a name is invalidated although its operation has not been performed."""
LIFETIME = 5.0
"""Seconds after which a change is given up."""
AHEAD = 16
"""Operations that the process is given at once."""

Key = tuple[int, bytes]


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


class Tokens:
    """See the module."""

    def __init__(
        self, queue: Callable[[Token], None], invalidate: Callable[[Node, bytes], None]
    ) -> None:
        """`queue` hands a token back to submit() once the kernel heard what was said before it."""
        self.pid: int | None = None
        """Of the process that performs the operations, None while there is none. Not 0: that is
        what the kernel says of every process of another PID namespace."""
        self.drop: Callable[[Node], None] = lambda _node: None
        """Forgets a node that nobody refers to any more; the table's."""
        self.busy = trio.Event()
        """Something waits, so that the clock has to be looked at."""
        self.given_up = 0
        self._queue = queue
        self._invalidate = invalidate
        self._names: dict[Key, deque[Token]] = {}
        self._expected: dict[tuple[object, ...], Token] = {}
        self._changes: dict[int, Token] = {}
        self._ready: deque[Token] = deque()
        self._sent: dict[int, Token] = {}
        self._all: dict[int, Token] = {}
        self._numbers = 0
        self._wanted = trio.Event()
        self._performed = 0
        self._refused = 0

    def __len__(self) -> int:
        return len(self._all)

    def statistics(self) -> EchoStatistics:
        """Return a frozen snapshot."""
        return EchoStatistics(self._performed, self._refused, self.given_up, len(self._all))

    def add(
        self,
        operation: str,
        arguments: tuple[object, ...],
        node: Node,
        before: dict[Key, Node | None],
        parents: tuple[Directory, ...],
        key: tuple[object, ...],
    ) -> Token:
        """Take note of a change; `key` is how its operation will arrive."""
        token = Token(operation, arguments, node, before, parents, trio.current_time(), key)
        self._numbers += 1
        token.number = self._numbers
        self._all[token.number] = token
        self.busy.set()
        for name in before:
            self._names.setdefault(name, deque()).append(token)
        # As if the kernel held them: their numbers mean the same objects until the token is done,
        # and what appears in a directory that is about to be made is told of, too.
        token.holds = (node, *(there for there in before.values() if there is not None), *parents)
        for held in token.holds:
            held.lookups += 1
        self._queue(token)
        return token

    def add_change(
        self, operation: str, arguments: tuple[object, ...], node: Node, directory: Directory
    ) -> None:
        """Take note of a change of an object itself."""
        token = self.add(operation, arguments, node, {}, (directory,), ("set", node.ino))
        self._changes[node.ino] = token

    def change_of(self, node: Node) -> Token | None:
        """Return the newest change of an object's attributes or content that waits."""
        return self._changes.get(node.ino)

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
            self._refused += 1
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
            self.given_up += 1
        else:
            self._performed += 1
        if not token.arrived or not performed:
            self._invalidate_names(token)
        for held in token.holds:
            held.lookups -= 1
            self.drop(held)

    async def wait_wanted(self) -> None:
        """Wait until to_perform() is worth another look."""
        await self._wanted.wait()
        self._wanted = trio.Event()

    def to_perform(self) -> list[Token]:
        """Return those that the process may be given now; their operations are expected then."""
        given: list[Token] = []
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
            given.append(token)
        return given

    def ended(self, number: int, code: int) -> None:
        """Take note of what the process says of an operation; 0 when it was performed."""
        token = self._sent.get(number)
        if token is not None:
            log.debug("%s: %d", token.operation, code)
            self._finish(token, performed=code == 0)
        self._wanted.set()

    def give_up(self) -> None:
        """Finish everything: names are invalidated."""
        for token in list(self._all.values()):
            self._finish(token, performed=False)
        self._ready.clear()

    def show(self) -> None:
        """Have the kernel forget the names of every change now, before it is repeated."""
        for token in list(self._all.values()):
            self._invalidate_names(token)

    def expire(self) -> None:
        """Invalidate the names of what waits too long, and give up what is too old."""
        now = trio.current_time()
        for token in list(self._all.values()):
            age = now - token.since
            if age < PATIENCE:
                break
            if not token.invalidated and not token.arrived:
                self._invalidate_names(token)
            if age > LIFETIME:
                self._finish(token, performed=False)
