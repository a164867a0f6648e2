"""Any sequence of calls has the same outcome on the mount as on a tmpfs."""

import itertools
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.fuse.conftest import Place
from tests.support.accounts import Account
from tests.support.posix import RENAME_EXCHANGE, RENAME_NOREPLACE, outcome, renameat2
from tests.support.trees import differences, wait_until_equal

pytestmark = pytest.mark.each_account

# Few names, so that sequences meet: files become directories, links lose their targets.
NAMES = st.sampled_from(["a", "b", "c", "d"])
PATHS = st.one_of(NAMES, st.tuples(NAMES, NAMES).map("/".join))
OFFSETS = st.sampled_from([0, 1, 100, 4095, 4096, 5000, 70_000, 300_000])
DATA = st.one_of(
    st.binary(max_size=20),
    st.tuples(st.integers(0, 255), st.sampled_from([4096, 10_000, 131_073, 300_000])).map(
        lambda pair: bytes([pair[0]]) * pair[1]
    ),
)
FLAGS = st.sampled_from(
    [0, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TRUNC, os.O_CREAT | os.O_TRUNC]
)
ACCESS = st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND])
TIMES = st.sampled_from([0, 1_000_000_001, 1_600_000_000_123_456_789])
_rounds = itertools.count(1)

Pair = tuple[int, int]


class SameCalls(RuleBasedStateMachine):
    """Does everything twice: on the mount and on the model."""

    here: Path
    there: Path

    @initialize()
    def begin(self) -> None:
        name = f"round{next(_rounds)}"
        self.tops = (self.here / name, self.there / name)
        for top in self.tops:
            top.mkdir()
        self.handles: list[Pair] = []
        self.streams: list[tuple[Any, list[str], set[str]]] = []
        """The mount's directory being read: what was seen so far, what was there all the time."""

    def both(self, call, *arguments: object) -> object:
        """Call with each top; strings that are paths are joined to it."""
        seen = [outcome(call, top, *arguments) for top in self.tops]
        assert seen[0] == seen[1], f"mount: {seen[0]}, tmpfs: {seen[1]}"
        return seen[0]

    @rule(path=PATHS, access=ACCESS, flags=FLAGS, mode=st.sampled_from([0o644, 0o600]))
    def open(self, path: str, access: int, flags: int, mode: int) -> None:
        # Truncating without permission to write is undefined by POSIX.
        if access == os.O_RDONLY:
            flags &= ~os.O_TRUNC
        self._keep([outcome(os.open, top / path, access | flags, mode) for top in self.tops])

    @precondition(lambda self: self.handles)
    @rule(number=st.integers(0, 9), access=ACCESS)
    def open_again(self, number: int, access: int) -> None:
        """A second handle of what may have another name by now, or none."""
        again = [
            outcome(os.open, f"/proc/self/fd/{handle}", access) for handle in self.handle(number)
        ]
        self._keep(again)

    def _keep(self, opened: list[object]) -> None:
        if all(isinstance(one, int) for one in opened):
            self.handles.append((opened[0], opened[1]))
            return
        for one in opened:
            if isinstance(one, int):
                os.close(one)
        assert opened[0] == opened[1]

    @rule(path=PATHS, lines=st.integers(1, 4))
    def append_from_two_processes(self, path: str, lines: int) -> None:
        """Each line is there once and whole, in whatever order."""
        script = f'for n in $(seq {lines}); do printf "\\n$0 $n" >> "$1" || exit 1; done'
        seen = []
        for top in self.tops:
            started = [
                subprocess.Popen(["sh", "-c", script, who, top / path], stderr=subprocess.DEVNULL)
                for who in ("one", "other")
            ]
            ended = [process.wait(60) for process in started]
            seen.append((ended, outcome(lambda top=top: _tail(top / path, lines))))
        assert seen[0] == seen[1], f"mount: {seen[0]!r:.300}, tmpfs: {seen[1]!r:.300}"
        # The order may differ between the two: from here on they are to be the same again.
        whole = outcome((self.tops[1] / path).read_bytes)
        if seen[1][0] == [0, 0] and isinstance(whole, bytes):
            (self.tops[0] / path).write_bytes(whole)
            (self.tops[1] / path).write_bytes(whole)

    @precondition(lambda self: len(self.streams) < 3)
    @rule()
    def open_stream(self) -> None:
        """Begin to read the directory; it is read on after whatever comes between."""
        stream = os.scandir(self.tops[0])
        first = next(stream, None)
        seen = [] if first is None else [first.name]
        self.streams.append((stream, seen, set(os.listdir(self.tops[0]))))

    @precondition(lambda self: self.streams)
    @rule()
    def read_stream_to_its_end(self) -> None:
        """What was there all the time is seen once; what came or went may be."""
        stream, seen, stable = self.streams.pop(0)
        with stream:
            seen += [entry.name for entry in stream]
        assert len(seen) == len(set(seen))
        assert set(seen) >= stable, f"saw {seen}, and {stable} were there all the time"

    @invariant()
    def note_what_goes(self) -> None:
        """A name that has gone was not there all the time, though it may come back."""
        for _stream, _seen, stable in getattr(self, "streams", []):
            stable &= set(os.listdir(self.tops[0]))

    def handle(self, number: int) -> Pair:
        return self.handles[number % len(self.handles)]

    def same(self, handles: Pair, call, *arguments: object) -> None:
        seen = [outcome(call, handle, *arguments) for handle in handles]
        assert seen[0] == seen[1], f"mount: {seen[0]!r:.200}, tmpfs: {seen[1]!r:.200}"

    @precondition(lambda self: self.handles)
    @rule(number=st.integers(0, 9), offset=OFFSETS, data=DATA)
    def write(self, number: int, offset: int, data: bytes) -> None:
        self.same(self.handle(number), os.pwrite, data, offset)

    @precondition(lambda self: self.handles)
    @rule(number=st.integers(0, 9), offset=OFFSETS, size=st.sampled_from([1, 5000, 400_000]))
    def read(self, number: int, offset: int, size: int) -> None:
        self.same(self.handle(number), os.pread, size, offset)

    @precondition(lambda self: self.handles)
    @rule(number=st.integers(0, 9), data=DATA)
    def write_here(self, number: int, data: bytes) -> None:
        self.same(self.handle(number), os.write, data)

    @precondition(lambda self: self.handles)
    @rule(number=st.integers(0, 9), size=OFFSETS)
    def truncate_handle(self, number: int, size: int) -> None:
        self.same(self.handle(number), os.ftruncate, size)

    @precondition(lambda self: self.handles)
    @rule(number=st.integers(0, 9))
    def stat_handle(self, number: int) -> None:
        self.same(self.handle(number), lambda one: _facts(os.fstat(one)))

    @precondition(lambda self: self.handles)
    @rule(number=st.integers(0, 9))
    def fsync(self, number: int) -> None:
        self.same(self.handle(number), os.fsync)

    @precondition(lambda self: self.handles)
    @rule(number=st.integers(0, 9))
    def close(self, number: int) -> None:
        pair = self.handles.pop(number % len(self.handles))
        self.same(pair, os.close)

    @rule(path=PATHS, size=OFFSETS)
    def truncate(self, path: str, size: int) -> None:
        self.both(lambda top: os.truncate(top / path, size))

    @rule(path=PATHS, mode=st.sampled_from([0o755, 0o700]))
    def mkdir(self, path: str, mode: int) -> None:
        self.both(lambda top: os.mkdir(top / path, mode))

    @rule(path=PATHS)
    def rmdir(self, path: str) -> None:
        self.both(lambda top: os.rmdir(top / path))

    @rule(path=PATHS)
    def unlink(self, path: str) -> None:
        self.both(lambda top: os.unlink(top / path))

    @rule(source=PATHS, to=PATHS, flags=st.sampled_from([0, 0, 0, 1, 2]))
    def rename(self, source: str, to: str, flags: int) -> None:
        assert flags in (0, RENAME_NOREPLACE, RENAME_EXCHANGE)
        self.both(lambda top: renameat2(top / source, top / to, flags))

    @rule(source=PATHS, to=PATHS)
    def link(self, source: str, to: str) -> None:
        self.both(lambda top: os.link(top / source, top / to, follow_symlinks=False))

    @rule(path=PATHS, to=st.sampled_from(["a", "b/c", "../a", "d", "nowhere"]))
    def symlink(self, path: str, to: str) -> None:
        self.both(lambda top: os.symlink(to, top / path))

    @rule(path=PATHS, mode=st.sampled_from([0o644, 0o600, 0o755, 0o640]))
    def chmod(self, path: str, mode: int) -> None:
        # A directory must stay open to its owner, or the ordinary user's model ends here.
        self.both(lambda top: os.chmod(top / path, mode | 0o700))

    @rule(path=PATHS, when=TIMES)
    def utime(self, path: str, when: int) -> None:
        self.both(lambda top: os.utime(top / path, ns=(when, when)))
        self.both(lambda top: (top / path).stat().st_mtime_ns)

    @rule(path=PATHS, name=st.sampled_from(["user.x", "user.y"]), value=st.binary(max_size=10))
    def setxattr(self, path: str, name: str, value: bytes) -> None:
        self.both(lambda top: os.setxattr(top / path, name, value))

    @rule(path=PATHS, name=st.sampled_from(["user.x", "user.y"]))
    def getxattr(self, path: str, name: str) -> None:
        self.both(lambda top: os.getxattr(top / path, name))

    @rule(path=PATHS)
    def read_whole(self, path: str) -> None:
        self.both(lambda top: (top / path).read_bytes())

    @rule(path=st.one_of(PATHS, st.just(".")))
    def look(self, path: str) -> None:
        self.both(lambda top: _facts(os.lstat(top / path)))
        self.both(lambda top: sorted(os.listdir(top / path)))

    def teardown(self) -> None:
        if not hasattr(self, "handles"):
            return
        for stream, _seen, _stable in self.streams:
            stream.close()
        for pair in self.handles:
            for handle in pair:
                os.close(handle)
        assert differences(*self.tops, times="") == []


def _tail(path: Path, lines: int) -> tuple[list[bytes], int]:
    """The lines that two processes have appended, in order, and the size of all."""
    data = path.read_bytes()
    return sorted(data.split(b"\n")[-2 * lines :]), len(data)


def _facts(info: os.stat_result) -> tuple[object, ...]:
    """What two file systems agree on; a directory's size is a file system's own affair."""
    size = 0 if stat.S_ISDIR(info.st_mode) else info.st_size
    return stat.filemode(info.st_mode), info.st_nlink, info.st_uid, info.st_gid, size


def check(place: Place, examples: int, steps: int, *, derandomize: bool) -> None:
    class Machine(SameCalls):
        here = place.mount
        there = place.local

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=derandomize,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    wait_until_equal(place.mount, place.box, timeout=20)


def test_any_sequence_of_calls(account: Account, place: Place) -> None:
    check(place, examples=30, steps=40, derandomize=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    os.environ.get("DEVBOX_TEST_LONG") != "1", reason="takes minutes; DEVBOX_TEST_LONG=1 runs it"
)
def test_any_long_sequence_of_calls(account: Account, place: Place) -> None:
    check(place, examples=400, steps=80, derandomize=False)
