"""What to fetch beside a file that is read: the rules, without any fetching.

A **scan** is one program's walk over files that follow each other in reading order. A **window** is
what was guessed for a scan in one go. A miss, and the first read of a guessed file, are told to
`Prefetch`, which says how much to guess next: windows grow while guesses are read, and
shrink to a handful when they are not, so that random access does not download the tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from devboxfs.core.chunks import MEDIUM
from sealos_devbox import Version

__all__ = [
    "Candidate",
    "Prefetch",
    "PrefetchSource",
    "Scan",
    "Window",
    "git_companions",
    "git_directory",
    "is_git_companion",
]

LEVELS = (
    (4, 64 * 1024),
    (32, 256 * 1024),
    (448, 4 * 1024 * 1024),
    (448, 4 * 1024 * 1024),
    (1024, 8 * 1024 * 1024),
)
"""(files, bytes) of a window. 1,024 files of source code are about 4 MiB.

Who has read half of the first one walks: each size in between would cost a round trip. The next is
given twice, or a copy of 500 files out of a large tree would fetch three times as many.
"""

FIRST_LEVEL = 1

LARGE_WINDOW = 128

EXAMINED = 8
"""Candidates looked at for each file of a window: in a tree that is cached but for a few files, a
miss must not look through all of it, for nothing else runs meanwhile."""

GIT_EXAMINED = 8192

SCANS = 8
"""Walks remembered at once; a guess: more programs than that rarely read one tree."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A regular file that may be read next."""

    path: bytes
    version: Version

    @property
    def size(self) -> int:
        """Size of its content."""
        return self.version.size


class PrefetchSource(Protocol):
    """The tree as the mount shows it, in the order in which programs walk it.

    Both methods are lazy, leave out what is not a regular file and files with unflushed changes,
    know only what the metadata table knows, and never ask the box. Their iterators are used up or
    dropped before anything else runs: they need not survive a change of the tree.
    """

    def following(self, path: bytes) -> Iterator[Candidate]:
        """Yield what comes after the file at `path`, which itself is left out.

        First its siblings: those after it in the order of listing, then those before it; then the
        files below its directory's subdirectories, each directory's files before its
        subdirectories; then the later siblings of its directory with all below them, of its
        parent, and so on up to the root. Yields nothing when `path` is no longer there.
        """
        ...

    def inside(self, directory: bytes, *, recursive: bool) -> Iterator[Candidate]:
        """Yield the files in `directory`, with `recursive` those below it too (files first)."""
        ...


@dataclass(slots=True, eq=False)
class Scan:
    """One walk."""

    directory: bytes
    """Of the file that was last read in it."""
    level: int
    position: bytes
    """Where the next window goes on: the last file that was guessed."""
    latest: Window | None = None
    expected: bytes | None = None
    """The file that the latest window would have held next, had it been larger."""
    poor: int = 0
    """Windows in a row that were hardly used."""


@dataclass(slots=True, eq=False)
class Window:
    """The guesses of one fetch."""

    scan: Scan
    guesses: int
    used: int = 0
    arrived: bool = False
    """Set by the reader when the fetch is over: before, nobody could use it."""
    judged: bool = False
    continued: bool = False

    @property
    def good(self) -> bool:
        """Whether half of it was read."""
        return self.used * 2 >= self.guesses

    @property
    def bad(self) -> bool:
        """Whether hardly any of it was read."""
        return self.arrived and self.used * 8 < self.guesses

    @property
    def running_out(self) -> bool:
        """Whether the next one should be under way: what is left hides a round trip.

        A quarter of a large window does; half of it would fetch too much at the end of a walk.
        """
        if self.guesses > LARGE_WINDOW:
            return self.used * 4 >= self.guesses * 3
        return self.good


class Prefetch:
    """Recognises scans and decides on windows."""

    def __init__(self) -> None:
        self.most_bytes = LEVELS[-1][1]
        """Bounds windows: guesses must not push each other out of memory, nor keep a slow link
        busy for so long that somebody who waits for the last one gives up."""
        self._scans: list[Scan] = []  # the one used last is last
        self._luck = 2

    def miss(self, path: bytes) -> Scan:
        """Take note of a read of a file that was neither cached nor on its way."""
        directory = _parent(path)
        scan = self._find(directory)
        if scan is None:
            self._learn_from_others()
            scan = Scan(directory, FIRST_LEVEL if self._luck > 0 else 0, path)
            self._scans.append(scan)
            del self._scans[:-SCANS]
        else:
            self._judge(scan, path)
            self._scans.remove(scan)
            self._scans.append(scan)
            scan.directory = directory
        scan.position = path
        scan.expected = None
        return scan

    def used(self, window: Window, path: bytes) -> Scan | None:
        """Take note of the first read of a guess.

        Returns the scan when its next window should be requested now: most of the latest one has
        been read, so the walk is recognised, and the rest hides the round trip.
        """
        window.used += 1
        scan = window.scan
        scan.directory = _parent(path)
        if scan.latest is not window or window.continued or not window.running_out:
            return None
        window.continued = window.judged = True
        scan.poor = 0
        self._luck = min(self._luck + 1, 3)
        self._grow(scan)
        return scan

    def plan(
        self, scan: Scan, candidates: Iterable[Candidate], have: Callable[[Candidate], bool]
    ) -> list[Candidate]:
        """Choose the guesses of the scan's next window; `have` tells what needs no fetching."""
        files, budget = LEVELS[scan.level]
        budget = min(budget, self.most_bytes)
        chosen: list[Candidate] = []
        scan.expected = None
        for candidate in islice(candidates, EXAMINED * max(files, 32)):
            size = candidate.size
            if size == 0 or size > MEDIUM or have(candidate):
                continue
            if size > budget or len(chosen) == files:
                # Not passed over: guesses stay in reading order, and a walk over files that are
                # all too large for the window is recognised by its next miss.
                scan.expected = candidate.path
                break
            chosen.append(candidate)
            budget -= size
        if chosen:
            scan.position = chosen[-1].path
        return chosen

    def begin(self, scan: Scan, guesses: int) -> Window | None:
        """Return the window for so many guesses, None for none."""
        if not guesses:
            return None
        scan.latest = Window(scan, guesses)
        return scan.latest

    def _find(self, directory: bytes) -> Scan | None:
        """Return the scan that a read in `directory` goes on with."""
        for scan in reversed(self._scans):
            if scan.directory == directory:
                return scan
        for scan in reversed(self._scans):
            if _adjoins(scan.directory, directory):
                return scan
        return None

    def _judge(self, scan: Scan, path: bytes) -> None:
        """Change the level by what became of the latest window, now that something was missed."""
        window = scan.latest
        if scan.expected == path:
            self._grow(scan)
        elif window is None or window.judged:
            return
        elif window.good:
            window.judged = True
            scan.poor = 0
            self._grow(scan)
        elif window.bad:
            # Once is forgiven: a walk that enters a subdirectory before it has read the rest of
            # the directory comes back for it.
            window.judged = True
            scan.poor += 1
            if scan.poor > 1:
                scan.level = max(scan.level - 1, 0)
                self._luck = max(self._luck - 1, 0)

    def _learn_from_others(self) -> None:
        """Judge what nobody came back to: reads that never continue anything are random."""
        for scan in self._scans:
            window = scan.latest
            if window is not None and window.bad and not window.judged:
                window.judged = True
                self._luck = max(self._luck - 1, 0)

    @staticmethod
    def _grow(scan: Scan) -> None:
        scan.level = min(scan.level + 1, len(LEVELS) - 1)


def _parent(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


def _holds(directory: bytes, inner: bytes) -> bool:
    """Whether `inner` is `directory` or below it."""
    return not directory or inner == directory or inner.startswith(directory + b"/")


def _adjoins(before: bytes, directory: bytes) -> bool:
    """Whether a depth-first walk can come from directory `before` to `directory` in one step."""
    if _holds(directory, before):
        return True
    return _holds(_parent(directory), before)


GIT_SMALL = 64 * 1024
GIT_LARGEST = 1024 * 1024
GIT_TABLE = 256 * 1024
GIT_FILES = 1000
GIT_TOTAL = 4 * 1024 * 1024
_WORKTREE = frozenset([b".gitignore", b".gitattributes", b".gitmodules"])


def git_directory(path: bytes) -> bytes | None:
    """Return the git directory that `path` is in, None when it is in none."""
    parts = path.split(b"/")
    if b".git" not in parts[:-1]:
        return None
    return b"/".join(parts[: parts.index(b".git") + 1])


def is_git_companion(git: bytes, candidate: Candidate) -> bool:
    """Whether git reads the file in about every command (not objects, which come later)."""
    inner = candidate.path[len(git) + 1 :]
    size = candidate.size
    if b"/" not in inner:
        return size <= (GIT_LARGEST if inner in (b"index", b"packed-refs") else GIT_SMALL)
    if inner.startswith(b"objects/"):
        if inner.startswith(b"objects/pack/"):
            return size <= GIT_TABLE and not inner.endswith(b".pack")
        return inner.startswith(b"objects/info/") and size <= GIT_TABLE
    return size <= GIT_SMALL and inner.startswith((b"refs/", b"info/", b"logs/HEAD"))


def git_companions(
    source: PrefetchSource, git: bytes, have: Callable[[Candidate], bool], *, first: bool
) -> list[Candidate]:
    """Return what git reads together in the git directory `git`.

    `first`: the working tree's .gitignore files too, for which the tree is looked through.
    """

    def inner() -> Iterator[Candidate]:
        yield from source.inside(git, recursive=False)
        for name in (b"refs", b"info", b"objects/info", b"objects/pack"):
            yield from source.inside(git + b"/" + name, recursive=not name.startswith(b"objects"))
        yield from source.inside(git + b"/logs", recursive=False)

    chosen: list[Candidate] = []
    budget = GIT_TOTAL

    def add(candidate: Candidate) -> None:
        nonlocal budget
        if 0 < candidate.size <= budget and len(chosen) < GIT_FILES and not have(candidate):
            chosen.append(candidate)
            budget -= candidate.size

    for candidate in islice(inner(), GIT_EXAMINED):
        if is_git_companion(git, candidate):
            add(candidate)
    if first:
        tree = source.inside(_parent(git), recursive=True)
        for candidate in islice(tree, GIT_EXAMINED):
            if candidate.path.rpartition(b"/")[2] in _WORKTREE and candidate.size <= GIT_SMALL:
                add(candidate)
    return chosen
