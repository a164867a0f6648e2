"""What the tests of reading share: a real helper, a link to it, and a tree in reading order."""

import os
import random
import stat
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import trio

from devboxfs.core.prefetch import Candidate
from sealos_devbox import CapabilityError, FileTransport, Version
from sealos_devbox._transport.delayed import open_delayed_channel
from sealos_devbox._transport.helper import open_helper_transport
from sealos_devbox._transport.helper_bundle import find_helper
from sealos_devbox._transport.subprocess import SubprocessChannel

SOURCE = Path(__file__).resolve().parents[2] / "sdk" / "helper"


@cache
def helper_executable() -> Path:
    """Return the helper that the package carries, else one built from the checkout."""
    try:
        return find_helper()
    except CapabilityError:
        target = SOURCE / ".built" / f"devbox-helper-{os.getpid()}"
        subprocess.run(
            ["go", "build", "-o", target, "./cmd/devbox-helper"],
            cwd=SOURCE,
            env={**os.environ, "CGO_ENABLED": "0"},
            check=True,
        )
        return target


@asynccontextmanager
async def open_box(root: Path, *, delay: float = 0.0) -> AsyncIterator[FileTransport]:
    """Yield a transport to a helper process that serves `root`, `delay` seconds away each way."""
    async with AsyncExitStack() as stack:
        channel = await SubprocessChannel.open([helper_executable(), "serve", "--root", root])
        if delay:
            channel = await stack.enter_async_context(open_delayed_channel(channel, delay))
        yield await stack.enter_async_context(open_helper_transport(channel, compress=False))


class Line:
    """A Link whose transport the test sets."""

    def __init__(self, transport: FileTransport | None = None) -> None:
        self.transport = transport
        self._changed = trio.Event()

    @property
    def online(self) -> bool:
        return self.transport is not None

    def set(self, transport: FileTransport | None) -> None:
        self.transport = transport
        self._changed.set()
        self._changed = trio.Event()

    async def wait_transport(self, previous: FileTransport | None = None) -> FileTransport:
        while self.transport is None or self.transport is previous:
            await self._changed.wait()
        return self.transport


def version_of(path: Path) -> Version:
    found = path.lstat()
    return Version(found.st_ino, found.st_ctime_ns, found.st_mtime_ns, found.st_size)


@dataclass(frozen=True)
class File:
    """A file as the table would have it."""

    path: bytes
    version: Version

    @classmethod
    def at(cls, root: Path, path: str) -> "File":
        return cls(os.fsencode(path), version_of(root / path))


class DiskTree:
    """The tree below a directory, as it was when this was made, in the order of listing."""

    def __init__(self, root: Path) -> None:
        self.entries: dict[bytes, list[tuple[bytes, Version | None]]] = {}
        self._read(os.fsencode(root), b"")

    def _read(self, root: bytes, path: bytes) -> None:
        found: list[tuple[bytes, Version | None]] = []
        self.entries[path] = found
        for entry in os.scandir(os.path.join(root, path)):
            where = os.path.join(path, entry.name)
            if entry.is_dir(follow_symlinks=False):
                found.append((where, None))
                self._read(root, where)
            elif stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
                info = entry.stat(follow_symlinks=False)
                version = Version(info.st_ino, info.st_ctime_ns, info.st_mtime_ns, info.st_size)
                found.append((where, version))

    def following(self, path: bytes) -> Iterator[Candidate]:
        directory = os.path.dirname(path)
        entries = self.entries.get(directory, [])
        names = [name for name, _ in entries]
        if path not in names:
            return
        at = names.index(path)
        for name, version in entries[at + 1 :] + entries[:at]:
            if version is not None:
                yield Candidate(name, version)
        for name, version in entries:
            if version is None:
                yield from self._below(name)
        while directory:
            parent = os.path.dirname(directory)
            siblings = [name for name, version in self.entries[parent] if version is None]
            for sibling in siblings[siblings.index(directory) + 1 :]:
                yield from self._below(sibling)
            directory = parent

    def inside(self, directory: bytes, *, recursive: bool) -> Iterator[Candidate]:
        if recursive:
            yield from self._below(directory)
            return
        for name, version in self.entries.get(directory, []):
            if version is not None:
                yield Candidate(name, version)

    def _below(self, directory: bytes) -> Iterator[Candidate]:
        entries = self.entries.get(directory, [])
        for name, version in entries:
            if version is not None:
                yield Candidate(name, version)
        for name, version in entries:
            if version is None:
                yield from self._below(name)

    def walk(self, directory: bytes = b"") -> Iterator[File]:
        """Yield the files as `grep -r` reads them: subdirectories when they are come across."""
        for name, version in self.entries[directory]:
            if version is None:
                yield from self.walk(name)
            else:
                yield File(name, version)


class NoTree:
    """A tree that knows nothing."""

    def following(self, path: bytes) -> Iterator[Candidate]:
        return iter(())

    def inside(self, directory: bytes, *, recursive: bool) -> Iterator[Candidate]:
        return iter(())


def make_tree(root: Path, *, files: int, directories: int, total: int, seed: int) -> None:
    """Make a tree of source-like files: sizes spread around the mean, directories nested."""
    rng = random.Random(seed)
    places = [root]
    root.mkdir(parents=True, exist_ok=True)
    while len(places) < directories:
        place = rng.choice(places[-40:]) / f"dir{len(places)}"
        place.mkdir()
        places.append(place)
    weights = [rng.lognormvariate(0, 1) for _ in range(files)]
    scale = total / sum(weights)
    for number, weight in enumerate(weights):
        content = rng.randbytes(max(1, int(weight * scale)))
        (rng.choice(places) / f"file{number}.c").write_bytes(content)
