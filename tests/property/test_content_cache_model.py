"""The content cache against a dict: it may forget, but never answers with other bytes."""

import os
import random
import shutil
import tempfile
from pathlib import Path

import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from devboxfs.core.chunks import BLOCK, ContentKey
from devboxfs.vfs.content_cache import ContentCache

SIZES = [0, 1, 5000, BLOCK, BLOCK + 1, 5 * BLOCK, 40 * BLOCK]
KEYS = [ContentKey(number, 7, -7, size) for number, size in enumerate(SIZES * 2)]
keys = st.sampled_from(KEYS)


def content(key: ContentKey) -> bytes:
    return random.Random(key.ino).randbytes(key.size)


CONTENTS = {key: content(key) for key in KEYS}


class CacheMachine(RuleBasedStateMachine):
    """Any order of calls, reopenings and damage."""

    @initialize(small=st.booleans())
    def start(self, small: bool) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.limits = (60 * BLOCK, 12 * BLOCK) if small else (10_000 * BLOCK, 1000 * BLOCK)
        self.generous = not small
        self.whole: set[ContentKey] = set()
        """What must be there, while nothing is evicted or damaged."""
        self.open()

    def open(self) -> None:
        disk, memory = self.limits
        self.cache = ContentCache.open(self.directory, disk_limit=disk, memory_limit=memory)

    def run(self, work, *arguments):  # type: ignore[no-untyped-def]
        async def main():  # type: ignore[no-untyped-def]
            return await work(*arguments)

        return trio.run(main)

    @rule(key=keys)
    def put_whole(self, key: ContentKey) -> None:
        self.cache.put(key, 0, CONTENTS[key], key.size)
        self.whole.add(key)
        if self.generous:
            assert self.cache.get(key, 0, key.size) == CONTENTS[key]

    @rule(key=keys, data=st.data())
    def put_part(self, key: ContentKey, data: st.DataObject) -> None:
        offset = data.draw(st.integers(0, key.size))
        length = data.draw(st.integers(0, key.size - offset))
        self.cache.put(key, offset, CONTENTS[key][offset : offset + length], key.size)

    @rule(key=keys, data=st.data())
    def read(self, key: ContentKey, data: st.DataObject) -> None:
        offset = data.draw(st.integers(0, key.size + 10))
        length = data.draw(st.integers(0, key.size + 10))
        expected = CONTENTS[key][offset : offset + length]
        assert self.cache.get(key, offset, length) in (None, expected)
        found = self.run(self.cache.load, key, offset, length)
        assert found in (None, expected)
        if self.generous and key in self.whole:
            assert found is not None

    @rule()
    def read_many(self) -> None:
        found = self.run(self.cache.load_many, KEYS)
        assert all(CONTENTS[key] == data for key, data in found.items())

    @rule(key=keys)
    def forget(self, key: ContentKey) -> None:
        self.cache.forget(key)
        self.whole.discard(key)
        if key.size:
            assert not self.cache.has(key)
            assert self.run(self.cache.load, key, 0, key.size) is None

    @rule()
    def write_behind(self) -> None:
        self.run(self.cache._disk.write_batch)

    @rule()
    def reopen(self) -> None:
        self.run(self.cache.aclose)
        self.open()
        if self.generous:
            assert all(self.cache.has(key) for key in self.whole)

    @precondition(lambda self: not self.generous)
    @rule(which=st.integers(0, 99), where=st.floats(0, 1), byte=st.integers(0, 255))
    def damage(self, which: int, where: float, byte: int) -> None:
        """Change any byte of any file, while nobody has it open."""
        self.run(self.cache.aclose)
        files = [path for path in sorted(self.directory.rglob("*")) if path.is_file()]
        path = files[which % len(files)]
        size = path.stat().st_size
        if size:
            with path.open("r+b") as handle:
                handle.seek(int(where * (size - 1)))
                handle.write(bytes([byte]))
        else:
            os.truncate(path, 3)
        self.open()

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            self.run(self.cache.aclose)
            assert self.cache.statistics().memory_bytes <= self.limits[1]
            shutil.rmtree(self.directory)


TestCache = CacheMachine.TestCase
TestCache.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
