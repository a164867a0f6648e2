"""Runs the shell transport's scripts on this machine, with the tools of one kind of box."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from anyio import to_thread

from sealos_devbox._transport.shell.runner import ShellOutput
from sealos_devbox.errors import file_error
from sealos_devbox.types import Content


class LocalRunner:
    """A Runner. Its scripts' input does not end, as it does not on an older exec stream."""

    def __init__(
        self,
        root: Path,
        *,
        busybox: Path | None = None,
        max_data: int = 1 << 20,
        streams: bool = True,
    ) -> None:
        self.max_data = max_data
        self.streams = streams
        self._root = root
        self._shell = ["sh", "-c"]
        self._env = {**os.environ, "PATH": "/usr/local/bin:/usr/bin:/bin"}
        if busybox is not None:
            self._shell = [str(busybox / "sh"), "-c"]
            self._env["PATH"] = str(busybox)

    async def run(
        self, script: bytes, data: bytes | Content = b"", *, timeout: float = 60.0
    ) -> ShellOutput:
        if isinstance(data, bytes):
            assert len(data) <= self.max_data
            pieces = iter([data])
        else:
            assert self.streams
            pieces = data.chunks()
        given_up = threading.Event()
        try:
            return await to_thread.run_sync(
                self._run, script, pieces, timeout, given_up, abandon_on_cancel=True
            )
        finally:
            given_up.set()

    def _run(
        self, script: bytes, pieces: Iterator[bytes], timeout: float, given_up: threading.Event
    ) -> ShellOutput:
        reading, writing = os.pipe()
        with subprocess.Popen(
            [*self._shell, script],
            cwd=self._root,
            env=self._env,
            stdin=reading,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            os.close(reading)
            try:
                writer = _writing(writing, pieces, given_up, process)
                stdout, stderr = process.communicate(timeout=timeout)
                writer.join()
            finally:
                os.close(writing)
                process.kill()
        return ShellOutput(process.returncode, stdout, stderr)

    def command(
        self, argv: list[bytes], *, cwd: bytes | None, env: Mapping[str, str]
    ) -> LocalCommand:
        return LocalCommand(argv, self._root / os.fsdecode(cwd or b""), {**self._env, **env})

    async def aclose(self) -> None:
        pass


def _writing(
    descriptor: int,
    pieces: Iterator[bytes],
    given_up: threading.Event,
    process: subprocess.Popen[bytes],
) -> threading.Thread:
    def write() -> None:
        with contextlib.suppress(BrokenPipeError, ProcessLookupError):
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    if given_up.is_set():
                        # As the real ones do, which end the script with its connection.
                        os.killpg(process.pid, signal.SIGKILL)
                        return
                    view = view[os.write(descriptor, view[:65536]) :]

    thread = threading.Thread(target=write)
    thread.start()
    return thread


class LocalCommand:
    """A CommandStream."""

    def __init__(self, argv: list[bytes], cwd: Path, env: Mapping[str, str]) -> None:
        self._start = argv, cwd, env
        self._process: subprocess.Popen[bytes] | None = None
        self._status: tuple[int | None, int | None] | None = None
        self._output: queue.Queue[tuple[int, bytes]] = queue.Queue(10)
        self._readers: list[threading.Thread] = []
        self._open = 2

    @property
    def status(self) -> tuple[int | None, int | None]:
        if self._status is None:
            raise RuntimeError("the command has not ended yet")
        return self._status

    async def __aenter__(self) -> Self:
        with contextlib.suppress(FileNotFoundError):
            self._process = process = self._popen()
            for number, stream in ((1, process.stdout), (2, process.stderr)):
                reader = threading.Thread(target=self._read, args=(number, stream), daemon=True)
                self._readers.append(reader)
                reader.start()
        return self

    def _popen(self) -> subprocess.Popen[bytes]:
        argv, cwd, env = self._start
        return subprocess.Popen(
            argv,
            cwd=cwd,
            env=env,
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def _read(self, number: int, stream: IO[bytes]) -> None:
        while piece := os.read(stream.fileno(), 65536):
            self._output.put((number, piece))
        self._output.put((number, b""))

    async def receive(self) -> tuple[int, bytes] | None:
        if self._process is None:
            raise file_error(errno.ENOENT, self._start[0][0])
        while self._open:
            number, piece = await to_thread.run_sync(self._output.get, abandon_on_cancel=True)
            if piece:
                return number, piece
            self._open -= 1
        code = await to_thread.run_sync(self._process.wait)
        self._status = (code, None) if code >= 0 else (None, -code)
        return None

    async def send(self, data: bytes) -> None:
        gone = self._status is not None
        try:
            if not gone:
                await to_thread.run_sync(self._write, data)
        except (BrokenPipeError, ValueError):
            gone = True
        if gone:
            raise file_error(errno.EPIPE, self._start[0][0])

    def _write(self, data: bytes) -> None:
        self._process.stdin.write(data)
        self._process.stdin.flush()

    async def send_eof(self) -> None:
        if self._process is not None:
            self._process.stdin.close()

    async def signal(self, number: int) -> None:
        os.killpg(self._process.pid, number)

    async def resize(self, rows: int, columns: int) -> None:
        pass

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        while any(thread.is_alive() for thread in self._readers):
            with contextlib.suppress(queue.Empty):
                self._output.get(timeout=0.01)
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.stderr.close()
