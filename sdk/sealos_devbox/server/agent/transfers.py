"""The agent's routes that move contents: read, write, batch-upload, batch-download."""

from __future__ import annotations

import base64
import binascii
import os
import queue
import re
import secrets
import stat
import tarfile
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import IO, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from sealos_devbox.server.agent.answers import (
    AgentError,
    FrameworkRefusal,
    invalid,
    limited_body,
    missing,
    os_failure,
    run,
    success,
)
from sealos_devbox.server.agent.files import make_parents
from sealos_devbox.server.agent.multipart import (
    Data,
    MultipartError,
    MultipartReader,
    Part,
    boundary_of,
)
from sealos_devbox.server.agent.workspace import Workspace

__all__ = ["DownloadForm", "WriteForm", "batch_download", "batch_upload", "read", "write"]

_PIECE = 256 * 1024
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class WriteForm(msgspec.Struct):
    """Body of `files/write` as JSON."""

    path: str
    content: str
    encoding: str | None = None


class DownloadForm(msgspec.Struct):
    """Body of `files/batch-download`."""

    paths: list[str]
    format: str | None = None


async def read(workspace: Workspace, request: Request) -> Response:
    """Send a whole file; follows links."""
    given = request.query_params.get("path")
    if given is None:
        raise FrameworkRefusal(400, "Failed to deserialize query string: missing field `path`")
    path = await run(workspace.target, given)
    file, size = await run(_open, path)
    name = os.path.basename(workspace.lexical(given))
    if _CONTROL.search(name):
        file.close()
        raise FrameworkRefusal(500)
    response = StreamingResponse(_pieces(file, size), media_type="application/octet-stream")
    response.headers["content-length"] = str(size)
    disposition = f'attachment; filename="{name}"'.encode()
    response.raw_headers.append((b"content-disposition", disposition))
    return response


def _open(path: str) -> tuple[IO[bytes], int]:
    if not os.path.exists(path):
        raise missing("File not found")
    if os.path.isdir(path):
        raise invalid("Path is a directory, not a file")
    # Non-blocking: a FIFO without writer reads as empty instead of holding a thread for ever.
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    return file, os.fstat(file.fileno()).st_size


async def _pieces(file: IO[bytes], size: int) -> AsyncIterator[bytes]:
    """Yield as many bytes as the file had when it was opened, fewer if it has shrunk."""
    try:
        while size > 0:
            piece = await run(file.read, min(size, _PIECE))
            if not piece:
                return
            size -= len(piece)
            yield piece
    finally:
        file.close()


async def write(workspace: Workspace, request: Request, limit: int) -> Response:
    """Write a file in one of three forms; in place, not atomic."""
    content_type = request.headers.get("content-type", "")
    if content_type.startswith("application/json"):
        return await _write_json(workspace, request, limit)
    if content_type.startswith("multipart/form-data"):
        return await _write_form(workspace, request, limit)
    given = request.query_params.get("path")
    if given is None:
        raise invalid("Path parameter required")
    target = await run(_Target.open, workspace, given, limit)
    try:
        async with aclosing(request.stream()) as stream:
            async for piece in stream:
                await run(target.write, piece)
    finally:
        target.close()
    return success({"path": target.shown, "size": target.size})


class _Target:
    """A file that is written as its content comes in."""

    def __init__(self, shown: str, path: str, file: IO[bytes], limit: int) -> None:
        self.shown, self._path, self._file, self._limit = shown, path, file, limit
        self.size = 0

    @classmethod
    def open(cls, workspace: Workspace, given: str, limit: int) -> _Target:
        """Make or truncate the file, following links."""
        shown, path = workspace.lexical(given), workspace.target(given)
        make_parents(path)
        return cls(shown, path, open(path, "wb"), limit)

    def write(self, piece: bytes) -> None:
        """Append; past the limit the file is removed, and what it held before is gone too."""
        self.size += len(piece)
        if self.size > self._limit:
            os.unlink(self._path)
            raise invalid("File too large")
        self._file.write(piece)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


async def _write_json(workspace: Workspace, request: Request, limit: int) -> Response:
    body = await limited_body(request, limit * 2 + 65536)
    try:
        form = msgspec.json.decode(body, type=WriteForm)
    except msgspec.DecodeError as error:
        raise invalid(f"Invalid JSON body: {error}") from None
    if form.encoding == "base64":
        try:
            content = base64.b64decode(form.content, validate=True)
        except (binascii.Error, ValueError):
            raise invalid("Invalid base64 content") from None
    else:
        content = form.content.encode()
    if len(content) > limit:
        raise invalid("File too large")
    target = await run(_Target.open, workspace, form.path, limit)
    try:
        await run(target.write, content)
    finally:
        target.close()
    return success({"path": target.shown, "size": target.size})


def _reader(request: Request) -> MultipartReader:
    try:
        return MultipartReader(boundary_of(request.headers.get("content-type", "")))
    except MultipartError as error:
        raise invalid(str(error)) from None


async def _write_form(workspace: Workspace, request: Request, limit: int) -> Response:
    reader = _reader(request)
    target: _Target | None = None
    part: Part | None = None
    named = bytearray()
    try:
        async with aclosing(request.stream()) as stream:
            async for piece in stream:
                for event in reader.feed(piece):
                    if isinstance(event, Part):
                        part = event
                        if part.name in ("file", "files") and target is None:
                            given = named.decode("utf-8", "replace") or part.filename
                            if not given:
                                raise invalid("Path parameter required")
                            target = await run(_Target.open, workspace, given, limit)
                    elif isinstance(event, Data) and part is not None:
                        if part.name == "path" and target is None:
                            named += event.data
                        elif part.name in ("file", "files") and target is not None:
                            await run(target.write, event.data)
    except MultipartError as error:
        raise invalid(str(error)) from None
    finally:
        if target is not None:
            target.close()
    if target is None:
        raise invalid("Missing file field")
    return success({"path": target.shown, "size": target.size})


async def batch_upload(workspace: Workspace, request: Request, limit: int) -> Response:
    """Write many files; a part's file name is its path, and each has its own result."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise FrameworkRefusal(400, "Invalid `boundary` for `multipart/form-data` request")
    reader = _reader(request)
    upload = _Upload(workspace, limit)
    try:
        async with aclosing(request.stream()) as stream:
            async for piece in stream:
                for event in reader.feed(piece):
                    await run(upload.take, event)
        if not reader.complete:
            raise invalid("Error parsing `multipart/form-data` request")
    except MultipartError as error:
        raise invalid(str(error)) from None
    finally:
        upload.close()
    good = sum(result["success"] for result in upload.results)
    return success(
        {"results": upload.results, "totalFiles": len(upload.results), "successCount": good}
    )


class _Upload:
    """The files of one batch, one after the other."""

    def __init__(self, workspace: Workspace, limit: int) -> None:
        self._workspace, self._limit = workspace, limit
        self._given = ""
        self._target: _Target | None = None
        self._active = False
        self.results: list[dict[str, Any]] = []

    def take(self, event: object) -> None:
        """Follow one event of the form."""
        try:
            if isinstance(event, Part):
                self._active = event.name in ("file", "files") and event.filename is not None
                if self._active:
                    self._given = event.filename or ""
                    self._target = _Target.open(self._workspace, self._given, self._limit)
            elif isinstance(event, Data):
                if self._target is not None:
                    self._target.write(event.data)
            elif self._target is not None:
                self._target.close()
                done, self._target = self._target, None
                self.results.append({"path": done.shown, "success": True, "size": done.size})
        except (AgentError, OSError) as error:
            failure = error if isinstance(error, AgentError) else os_failure(error)
            self.close()
            self.results.append({"path": self._given, "success": False, "error": failure.message})

    def close(self) -> None:
        """Close a file that was cut off."""
        if self._target is not None:
            self._target.close()
            self._target = None


async def batch_download(workspace: Workspace, form: DownloadForm) -> Response:
    """Send files and directories as one archive, made while it is sent."""
    if not form.paths:
        raise invalid("No paths provided")
    paths = await run(_present, workspace, form.paths)
    if form.format in ("multipart", "mixed"):
        boundary = secrets.token_hex(16)
        maker: Any = lambda pipe: _mixed(pipe, workspace, paths, boundary)  # noqa: E731
        media = f"multipart/mixed; boundary={boundary}"
    else:
        mode = "w|" if form.format == "tar" else "w|gz"
        maker = lambda pipe: _archive(pipe, workspace, paths, mode)  # noqa: E731
        media = "application/x-tar" if form.format == "tar" else "application/gzip"
    return StreamingResponse(_produced(maker), media_type=media)


def _present(workspace: Workspace, given: list[str]) -> list[str]:
    """Return the files that are meant; raises AgentError when one does not exist."""
    paths = []
    for each in given:
        path = workspace.target(each)
        if not os.path.exists(path):
            raise missing(f"File not found: {each}")
        paths.append(path)
    return paths


def _archive(pipe: _Pipe, workspace: Workspace, paths: list[str], mode: Any) -> None:  # noqa: ANN401
    with tarfile.open(fileobj=pipe, mode=mode, dereference=True, bufsize=65536) as archive:  # type: ignore[call-overload]
        for path in paths:
            inside = path != workspace.root and workspace.contains(path)
            name = os.path.relpath(path, workspace.root) if inside else os.path.basename(path)
            archive.add(path, name, filter=lambda info: _checked(workspace, info))


def _checked(workspace: Workspace, info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Refuse what a link outside of the box would bring in."""
    path = os.path.realpath(os.path.join(workspace.root, info.name))
    if not workspace.contains(path):
        raise PermissionError(13, "Permission denied", info.name)
    return info


def _mixed(pipe: _Pipe, workspace: Workspace, paths: list[str], boundary: str) -> None:
    files: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            files += [os.path.join(top, name) for top, _, names in os.walk(path) for name in names]
        else:
            files.append(path)
    for path in files:
        if not workspace.contains(os.path.realpath(path)):
            raise PermissionError(13, "Permission denied", path)
        with open(path, "rb") as file:
            pipe.write(
                f"--{boundary}\r\nContent-Disposition: attachment; "
                f'filename="{path}"\r\nContent-Type: application/octet-stream\r\n\r\n'.encode(
                    "utf-8", "replace"
                )
            )
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                while piece := file.read(_PIECE):
                    pipe.write(piece)
        pipe.write(b"\r\n")
    pipe.write(f"--{boundary}--\r\n".encode())


class _Pipe:
    """Written by a thread, read by the response; at most a few pieces wait in it."""

    def __init__(self) -> None:
        self._pieces: queue.Queue[bytes | BaseException | None] = queue.Queue(8)
        self._given_up = threading.Event()

    def write(self, data: bytes) -> int:
        """Hand a piece over; raises BrokenPipeError once nobody reads any more."""
        self._put(bytes(data))
        return len(data)

    def _put(self, item: bytes | BaseException | None) -> None:
        while not self._given_up.is_set():
            try:
                self._pieces.put(item, timeout=0.2)
                return
            except queue.Full:
                continue
        raise BrokenPipeError

    def finish(self, error: BaseException | None) -> None:
        """Say that no more comes, and whether that is a failure."""
        try:
            self._put(error)
        except BrokenPipeError:
            return

    def next(self) -> bytes | BaseException | None:
        """Return the next piece, None at the end, the exception at a failure."""
        return self._pieces.get()

    def give_up(self) -> None:
        """Let the writer fail."""
        self._given_up.set()


async def _produced(maker: Any) -> AsyncIterator[bytes]:  # noqa: ANN401 - called with a pipe
    """Yield what a thread writes; its failure cuts the stream, as the status is long gone."""
    pipe = _Pipe()

    def work() -> None:
        try:
            maker(pipe)
        except BaseException as error:  # noqa: BLE001 - raised again where the response is made
            pipe.finish(error)
        else:
            pipe.finish(None)

    threading.Thread(target=work, name="batch-download", daemon=True).start()
    try:
        while True:
            piece = await run(pipe.next)
            if piece is None:
                return
            if isinstance(piece, BaseException):
                raise piece
            yield piece
    finally:
        pipe.give_up()
