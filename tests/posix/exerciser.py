"""An exerciser of one file: random operations, each checked against a copy in memory.

What fsx is for other file systems: reads, writes, appends, mapped reads and writes, truncation
both ways, allocation, copies within the file, reopening, flushing. A seed gives the same operations
every time; a failure tells the last of them.

`python -m tests.posix.exerciser FILE [SEED [COUNT [SHAPE]]]` runs it on any file system.
"""

from __future__ import annotations

import mmap
import os
import random
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

PAGE = mmap.PAGESIZE


@dataclass(frozen=True)
class Shape:
    """What kind of file, and which operations."""

    name: str
    size: int = 256 * 1024
    """Operations stay below this size, counted from `base`."""
    longest: int = 64 * 1024
    base: int = 0
    """Everything before this offset stays a hole."""
    mapped: bool = True
    direct: bool = False
    reopen_always: bool = False
    flush_every: int = 500


SHAPES = (
    Shape("mixed"),
    Shape("small", size=10_000, longest=500),
    Shape("large", size=4 << 20, longest=400_000, flush_every=300),
    Shape("reopened", reopen_always=True),
    Shape("direct", mapped=False, direct=True),
    Shape("sparse", base=(5 << 30) + 12_345, mapped=False),
    Shape("sparse-mapped", base=5 << 30),
)


class Exerciser:
    """One file and what it should hold."""

    def __init__(
        self, path: str, seed: int, shape: Shape, flush: Callable[[], None] | None = None
    ) -> None:
        self.path = path
        self.shape = shape
        self._flush = flush
        self._random = random.Random(seed)
        self._oracle = bytearray()
        self._log: deque[str] = deque(maxlen=30)
        self._count = 0
        self._descriptor = -1
        self._open(os.O_CREAT | os.O_TRUNC)
        if shape.base:
            os.ftruncate(self._descriptor, shape.base)
        self._operations: list[tuple[int, Callable[[], None]]] = [
            (20, self._read),
            (25, self._write),
            (5, self._append),
            (6, self._truncate),
            (3, self._allocate),
            (3, self._copy),
            (4, self._reopen),
            (2, self._fsync),
            (2, self._drop_pages),
            (1, self._replace),
            (1, self._check),
        ]
        if shape.mapped:
            self._operations += [(12, self._mapped_read), (12, self._mapped_write)]

    def run(self, count: int) -> None:
        """Perform `count` operations; raises AssertionError for a wrong file."""
        weights = [weight for weight, _ in self._operations]
        calls = [call for _, call in self._operations]
        try:
            for _ in range(count):
                self._count += 1
                self._random.choices(calls, weights)[0]()
                if self.shape.reopen_always:
                    self._reopen()
                if self._flush is not None and self._count % self.shape.flush_every == 0:
                    self._note("flush")
                    self._flush()
                    self._check()
            self._check()
        except OSError as error:
            raise AssertionError(f"{error}; {self._history()}") from error
        finally:
            os.close(self._descriptor)

    @property
    def content(self) -> bytes:
        """What the file holds from `base` on."""
        return bytes(self._oracle)

    # -- operations --------------------------------------------------------------------------------

    def _range(self, end: int) -> tuple[int, int]:
        start = self._random.randrange(end) if end else 0
        if self._random.random() < 0.1:
            start -= start % PAGE
        length = self._random.randint(1, self.shape.longest)
        return start, min(length, end - start)

    def _bytes(self, length: int) -> bytes:
        return self._random.randbytes(length)

    def _read(self) -> None:
        start, length = self._range(self.shape.size)
        self._note(f"read {start} {length}")
        if self.shape.direct:
            start -= start % PAGE
            length = max(PAGE, length - length % PAGE)
            buffer = mmap.mmap(-1, length)
            found = buffer[: os.preadv(self._descriptor, [buffer], start)]
        else:
            found = os.pread(self._descriptor, length, self.shape.base + start)
        self._same(start, found, bytes(self._oracle[start : start + length]))

    def _write(self) -> None:
        start, length = self._range(self.shape.size)
        if self.shape.direct:
            start -= start % PAGE
            length = max(PAGE, length - length % PAGE)
            buffer = mmap.mmap(-1, length)
            buffer.write(self._bytes(length))
            self._note(f"write {start} {length}")
            assert os.pwritev(self._descriptor, [buffer], start) == length
            self._put(start, buffer[:])
            return
        data = self._bytes(length)
        self._note(f"write {start} {length}")
        assert os.pwrite(self._descriptor, data, self.shape.base + start) == length
        self._put(start, data)

    def _append(self) -> None:
        length = self._random.randint(1, min(self.shape.longest, 5000))
        if len(self._oracle) + length > self.shape.size:
            return
        data = self._bytes(length)
        self._note(f"append {length} to {len(self._oracle)}")
        other = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            assert os.write(other, data) == length
        finally:
            os.close(other)
        self._put(len(self._oracle), data)

    def _truncate(self) -> None:
        size = self._random.choice(
            [0, self._random.randrange(self.shape.size), self._random.randrange(self.shape.size)]
        )
        self._note(f"truncate {len(self._oracle)} to {size}")
        if self._random.random() < 0.5:
            os.ftruncate(self._descriptor, self.shape.base + size)
        else:
            os.truncate(self.path, self.shape.base + size)
        del self._oracle[size:]
        self._oracle.extend(bytes(size - len(self._oracle)))
        self._check_size()

    def _allocate(self) -> None:
        start, length = self._range(self.shape.size)
        self._note(f"allocate {start} {length}")
        os.posix_fallocate(self._descriptor, self.shape.base + start, length)
        self._oracle.extend(bytes(max(0, start + length - len(self._oracle))))
        self._check_size()

    def _copy(self) -> None:
        if self.shape.direct or len(self._oracle) < 2:
            return
        start, length = self._range(len(self._oracle) // 2)
        target = self._random.randrange(len(self._oracle) // 2, self.shape.size - length)
        if target < start + length:
            return
        self._note(f"copy {start} {length} to {target}")
        done = 0
        while done < length:
            done += os.copy_file_range(
                self._descriptor,
                self._descriptor,
                length - done,
                self.shape.base + start + done,
                self.shape.base + target + done,
            )
        self._put(target, bytes(self._oracle[start : start + length]))

    def _mapped_read(self) -> None:
        if not self._oracle:
            return
        start, length = self._range(len(self._oracle))
        self._note(f"mapped read {start} {length}")
        offset = start - start % mmap.ALLOCATIONGRANULARITY
        access = self._random.choice([mmap.ACCESS_READ, mmap.ACCESS_COPY])
        with mmap.mmap(
            self._descriptor,
            start + length - offset,
            offset=self.shape.base + offset,
            access=access,
        ) as mapping:
            found = mapping[start - offset : start - offset + length]
            if access == mmap.ACCESS_COPY:
                mapping[start - offset] = ~found[0] & 255  # private: nobody else sees it
        self._same(start, found, bytes(self._oracle[start : start + length]))

    def _mapped_write(self) -> None:
        if not self._oracle:
            return
        start, length = self._range(len(self._oracle))
        data = self._bytes(length)
        self._note(f"mapped write {start} {length}")
        offset = start - start % mmap.ALLOCATIONGRANULARITY
        with mmap.mmap(
            self._descriptor, start + length - offset, offset=self.shape.base + offset
        ) as mapping:
            mapping[start - offset : start - offset + length] = data
            if self._random.random() < 0.3:
                mapping.flush()
        self._put(start, data)

    def _reopen(self) -> None:
        os.close(self._descriptor)
        self._open(0)
        self._check_size()

    def _fsync(self) -> None:
        self._note("fsync")
        self._random.choice([os.fsync, os.fdatasync])(self._descriptor)

    def _drop_pages(self) -> None:
        self._note("drop pages")
        os.fsync(self._descriptor)
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def _replace(self) -> None:
        """Write the whole file anew and rename it over the old one, as editors do."""
        if self.shape.base:
            return
        self._note("replace")
        with open(self.path + ".new", "wb") as file:
            file.write(self._oracle)
        os.rename(self.path + ".new", self.path)
        self._reopen()

    # -- checks ------------------------------------------------------------------------------------

    def _check(self) -> None:
        self._check_size()
        with open(self.path, "rb") as file:
            file.seek(self.shape.base)
            self._same(0, file.read(), self.content)
            if self.shape.base:
                file.seek(self._random.randrange(self.shape.base - 8192))
                self._same(-1, file.read(8192), bytes(8192))

    def _check_size(self) -> None:
        wanted = self.shape.base + len(self._oracle)
        for found in (os.fstat(self._descriptor).st_size, os.stat(self.path).st_size):
            assert found == wanted, f"size {found}, not {wanted}; {self._history()}"

    def _same(self, start: int, found: bytes, wanted: bytes) -> None:
        if found == wanted:
            return
        at = next(
            (n for n, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b),
            min(len(found), len(wanted)),
        )
        raise AssertionError(
            f"byte {start + at} differs ({len(found)} of {len(wanted)} bytes); {self._history()}"
        )

    def _put(self, start: int, data: bytes) -> None:
        self._oracle.extend(bytes(max(0, start - len(self._oracle))))
        self._oracle[start : start + len(data)] = data

    def _open(self, flags: int) -> None:
        direct = os.O_DIRECT if self.shape.direct else 0
        self._descriptor = os.open(self.path, os.O_RDWR | flags | direct, 0o644)

    def _note(self, text: str) -> None:
        self._log.append(text)

    def _history(self) -> str:
        return f"operation {self._count} of shape {self.shape.name}, after " + ", ".join(self._log)


def main() -> None:
    """Run as a program."""
    path, *rest = sys.argv[1:]
    seed, count = (int(rest[0]) if rest else 0), (int(rest[1]) if len(rest) > 1 else 10_000)
    chosen = [shape for shape in SHAPES if len(rest) < 3 or shape.name == rest[2]]
    for shape in chosen:
        Exerciser(path, seed, shape).run(count)
        print(f"{shape.name}: {count} operations of seed {seed}: right")


if __name__ == "__main__":
    main()
