"""The daemon's control socket: what `devboxfs status`, `sync` and `umount` speak with it.

A Unix socket, 0600 in a directory that is 0700; its name is `<key of the mount point>-<pid>.sock`.
One JSON object per line. A request is `{"op": NAME, "params": {...}}`; the answer is any number of
`{"progress": {...}}` and, once a second while the operation runs, `{"waiting": true}`, then
`{"result": {...}}` or `{"error": {"text": ..., "exit_code": ...}}`. Requests of one connection are
answered one after another. An operation runs to its end even if its client is gone.

The operations and what their answers hold (sizes in bytes, ages in seconds):

``hello``
    Answered here: `pid`, `mountpoint`, `name`, `serving` (false while it starts), `uptime`.
``status``
    See `MountStatus` in mount/status.py.
``sync``
    Ends when all that was pending is fsynced in the box, or with an error.
    Progress: `operations`, `bytes` that are left.
``catch-up``
    Ends when the mount shows what the box had when it was asked. The result holds `caught_up`,
    false if the box did not answer in time.
``configuration``
    How the mount goes to the box: `config` (as MountConfig.to_json writes it; no secrets are in
    it), `box_uid`, and `root`, the workspace's path in the box.
``unmount``
    Param `timeout` (or null). Flushes, unmounts. Progress as with `sync`. An error leaves the mount
    as it was; OSError EBUSY among them. The result holds `operations` and `bytes` that stay in the
    journal (0 when all is in the box) and `reason`, why they do.
``journal-retry``
    Sends what waits once more, other journals of the box too. The result holds `operations` and
    `journals` that still wait, and `reason`.
``journal-discard``
    Param `paths`, relative to the mount; none: all that the box refuses. The result holds
    `operations`, how many were given up.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from devboxfs.config import ExitCode, MountConfig, MountError, key_of
from devboxfs.control_socket import CREDENTIALS, Claim, listen_at, private_directory

if TYPE_CHECKING:
    import trio

__all__ = ["ControlServer", "Handler", "Json", "Progress"]

_logger = logging.getLogger(__name__)

Json = dict[str, Any]
Progress = Callable[[Json], None]
Handler = Callable[[Json, Progress], Awaitable[Json]]

HEARTBEAT: Final = 1.0
NAME_CHECK: Final = 15.0
MAX_REQUEST: Final = 64 << 10


class ControlServer:
    """The daemon's end. Made before the mount; the mount registers its operations."""

    def __init__(
        self, config: MountConfig, announce: Callable[[str, bool], None] | None = None
    ) -> None:
        import trio

        self._config = config
        self._announce = announce or (lambda _text, _passing: None)
        self._handlers: dict[str, Handler] = {"hello": self._hello}
        self._stop = trio.Event()
        self._listener: socket.socket | None = None
        self._claim: Claim | None = None
        self._busy = 0
        self._idle = trio.Event()
        self._started = time.monotonic()
        self.serving = False
        """Whether the mount answers; set by the daemon when `ready` was called."""
        self.path: Path | None = None
        """The socket, while there is one."""

    def register(self, name: str, handler: Handler) -> None:
        """Answer requests for `name` with `handler`, replacing one that was there.

        The handler may raise MountError, OSError and DevboxError: their text is the answer.
        """
        self._handlers[name] = handler

    def say(self, text: str, *, passing: bool = False) -> None:
        """Tell whoever waits for the mount to be ready; a passing text replaces the one before.

        Also tells that the start goes on: the command gives up when it hears nothing for long.
        """
        _logger.info("%s", text)
        self._announce(text, passing)

    def request_stop(self) -> None:
        """Ask `serve` to end without unmounting politely: it unmounts lazily and returns."""
        self._stop.set()

    @property
    def stop_requested(self) -> bool:
        """Whether `request_stop` was called."""
        return self._stop.is_set()

    async def wait_stop(self) -> None:
        """Wait until `request_stop` is called."""
        await self._stop.wait()

    def handles(self, name: str) -> bool:
        """Whether requests for `name` are answered."""
        return name in self._handlers

    async def invoke(self, name: str, params: Json, progress: Progress) -> Json:
        """Run an operation as if a client had asked for it; raises what the handler raises."""
        return await self._handlers[name](params, progress)

    async def _hello(self, _params: Json, _progress: Progress) -> Json:
        return {
            "pid": os.getpid(),
            "name": self._config.name,
            "mountpoint": str(self._config.mountpoint),
            "serving": self.serving,
            "uptime": time.monotonic() - self._started,
        }

    def bind(self) -> None:
        """Claim the mount point and make the socket; clients wait until `listen` runs.

        Raises:
            MountError: it cannot be made anywhere, or another daemon has the mount point.
        """
        if self._claim is None:
            self._claim = Claim(self._config.state_dir / "run", self._config.mountpoint)
        candidates = self._config.runtime_dirs or (self._config.state_dir / "run",)
        directory = private_directory(candidates)
        key = key_of(self._config.mountpoint)
        path = directory / f"{key}-{os.getpid()}.sock"
        try:
            # Nobody else has the mount point, so these are of daemons that were killed.
            for stale in directory.glob(f"{key}-*.sock"):
                stale.unlink(missing_ok=True)
            self._listener = listen_at(path)
        except OSError as error:
            raise MountError(
                f"The control socket {path} cannot be made: {error.strerror}."
            ) from error
        self.path = path

    async def listen(self) -> None:
        """Answer clients until cancelled.

        A socket whose name disappears is made anew: the session manager removes /run/user/UID at
        the user's last logout, and the mount outlives that.
        """
        import trio

        try:
            async with trio.open_nursery() as clients:
                while True:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._accept, clients)
                        await self._wait_nameless()
                        nursery.cancel_scope.cancel()
                    await self._bind_again()
        finally:
            self.remove_socket()

    async def _accept(self, clients: trio.Nursery) -> None:
        import trio

        if self._listener is None:
            raise RuntimeError("bind() comes first")
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._listener))
        self._listener = None
        await trio.serve_listeners(self._serve_client, [listener], handler_nursery=clients)

    async def _wait_nameless(self) -> None:
        import trio

        # inotify would tell, at the price of a descriptor and a thread for something so rare.
        while self.path is not None and self.path.exists():  # noqa: ASYNC110
            await trio.sleep(NAME_CHECK)
        self.path = None

    async def _bind_again(self) -> None:
        import trio

        while True:
            try:
                self.bind()
            except MountError as error:
                _logger.warning("%s", error.text)
                await trio.sleep(NAME_CHECK)
            else:
                _logger.info("the control socket was removed and is %s now", self.path)
                return

    def remove_socket(self) -> None:
        """Take the socket's name away and let others mount; also without unwinding."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            self.path = None
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    async def drain(self, timeout: float = 5.0) -> None:
        """Let the answers under way be sent: the mount may end before `umount` has heard so."""
        import trio

        with trio.move_on_after(timeout):
            while self._busy:
                self._idle = trio.Event()
                await self._idle.wait()

    async def _serve_client(self, stream: trio.SocketStream) -> None:
        import trio

        _pid, uid = _peer_of(stream)
        if uid not in {os.getuid(), 0}:
            await stream.aclose()
            return
        try:
            async for line in _lines(stream):
                self._busy += 1
                try:
                    await _Exchange(stream, self._handlers).answer(line)
                finally:
                    self._busy -= 1
                    if not self._busy:
                        self._idle.set()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(stream)


def _peer_of(stream: trio.SocketStream) -> tuple[int, int]:
    raw = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    pid, uid, _gid = CREDENTIALS.unpack(raw)
    return pid, uid


async def _lines(stream: trio.SocketStream) -> AsyncIterator[bytes]:
    """Split what arrives; a line that is too long ends the connection."""
    buffer = b""
    while True:
        line, separator, rest = buffer.partition(b"\n")
        if separator:
            buffer = rest
            yield line
            continue
        if len(buffer) > MAX_REQUEST:
            return
        data = await stream.receive_some(65536)
        if not data:
            return
        buffer += data


class _Exchange:
    """One request and its answer."""

    def __init__(self, stream: trio.SocketStream, handlers: dict[str, Handler]) -> None:
        import trio

        self._stream = stream
        self._handlers = handlers
        self._progress: Json | None = None
        self._wake = trio.Event()
        self._answer: Json | None = None

    async def answer(self, line: bytes) -> None:
        import trio

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send)
            self._answer = await self._run(line)
            self._wake.set()

    def _note(self, progress: Json) -> None:
        # Only the newest is kept: a client that does not read must not make the daemon grow.
        self._progress = progress
        self._wake.set()

    async def _send(self) -> None:
        """Write progress, signs of life and the answer; a client that is gone is no error."""
        import trio

        try:
            while True:
                with trio.move_on_after(HEARTBEAT):
                    await self._wake.wait()
                self._wake = trio.Event()
                answer, progress, self._progress = self._answer, self._progress, None
                if progress is not None:
                    await self._write({"progress": progress})
                if answer is not None:
                    await self._write(answer)
                    return
                if progress is None:
                    await self._write({"waiting": True})
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def _write(self, message: Json) -> None:
        await self._stream.send_all(json.dumps(message).encode() + b"\n")

    async def _run(self, line: bytes) -> Json:
        from sealos_devbox import DevboxError

        try:
            request = json.loads(line)
            name, params = str(request["op"]), dict(request.get("params") or {})
        except (ValueError, TypeError, KeyError, RecursionError):
            return _error("That is no request.", ExitCode.FAILED)
        handler = self._handlers.get(name)
        if handler is None:
            return _error(
                "The mount is still starting; try again when it is ready.", ExitCode.NO_ANSWER
            )
        try:
            return {"result": await handler(params, self._note)}
        except MountError as error:
            return _error(error.text, error.exit_code)
        except OSError as error:
            answer = _error(error.strerror or str(error), ExitCode.FAILED)
            answer["error"]["errno"] = error.errno
            return answer
        except DevboxError as error:
            return _error(f"{error} {error.hint}".strip(), ExitCode.FAILED)
        except Exception:
            _logger.exception("control request %s failed", name)
            return _error("The daemon met a bug of its own; its log has it.", ExitCode.FAILED)


def _error(text: str, exit_code: int) -> Json:
    return {"error": {"text": text, "exit_code": int(exit_code)}}
