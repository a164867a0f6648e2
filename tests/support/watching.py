"""What a program that watches a directory hears, by inotify-tools."""

import contextlib
import os
import selectors
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path


class Heard:
    """The events of one `inotifywait`."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self._rest = b""
        self.events: list[str] = []
        """`EVENT,EVENT path`, the path relative to what is watched."""

    def take(self) -> list[str]:
        """Return what was heard since the last time."""
        events, self.events = self.events, []
        return events

    def until(self, wanted: str, *, timeout: float = 20) -> list[str]:
        """Wait for an event; returns it with all before it."""
        deadline = time.monotonic() + timeout
        while wanted not in self.events:
            left = deadline - time.monotonic()
            assert left > 0, f"Not heard within {timeout} s: {wanted}; heard: {self.events[-40:]}"
            self._read(left)
        end = self.events.index(wanted) + 1
        heard, self.events = self.events[:end], self.events[end:]
        return heard

    def rest(self, quiet: float) -> list[str]:
        """Return what is heard until nothing is for so many seconds."""
        while self._read(quiet):
            pass
        return self.take()

    def _read(self, timeout: float) -> bool:
        stream = self._process.stdout
        assert stream is not None
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            if not selector.select(timeout):
                return False
        *lines, self._rest = (self._rest + os.read(stream.fileno(), 1 << 16)).split(b"\n")
        self.events += [os.fsdecode(line) for line in lines]
        return True


@contextlib.contextmanager
def watching(top: Path, *, recursive: bool = False, name: str = ".") -> Iterator[Heard]:
    """Watch a directory, or what has this name in it, while the block runs."""
    argv = ["inotifywait", "-m", "--format", "%e %w%f", *(["-r"] if recursive else []), name]
    process = subprocess.Popen(argv, cwd=top, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        while (line := process.stderr.readline()) and b"established" not in line:
            pass
        assert line, "inotifywait did not start"
        yield Heard(process)
    finally:
        process.kill()
        process.communicate()
