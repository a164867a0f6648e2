import errno
import inspect
import logging

import pyfuse3
import pytest
import trio

from devboxfs.fuse.boundary import handler
from sealos_devbox import (
    CapabilityError,
    ConnectError,
    DeadlineExceededError,
    DevboxError,
    ProtocolError,
    TransportError,
    file_error,
)


class Operations:
    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    @handler
    async def lookup(self, parent_inode: int, name: bytes, ctx: object = None) -> str:
        """Find a name."""
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        return "found"


async def test_results_and_signatures_pass():
    assert await Operations().lookup(1, b"x") == "found"
    assert await Operations().lookup(parent_inode=1, name=b"x", ctx=None) == "found"
    assert list(inspect.signature(Operations.lookup).parameters) == [
        "self",
        "parent_inode",
        "name",
        "ctx",
    ]
    assert inspect.iscoroutinefunction(Operations.lookup)
    assert Operations.lookup.__doc__ == "Find a name."


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (FileNotFoundError(errno.ENOENT, "gone"), errno.ENOENT),
        (file_error(errno.EACCES, b"/x"), errno.EACCES),
        (file_error(errno.ESTALE, b"/x", conflict=True), errno.ESTALE),
        (OSError(errno.ENOSYS, "the kernel would never ask again"), errno.EOPNOTSUPP),
        (DeadlineExceededError("late"), errno.ETIMEDOUT),
        (TimeoutError("late"), errno.ETIMEDOUT),
        (trio.TooSlowError(), errno.ETIMEDOUT),
        (TransportError("broken"), errno.EIO),
        (ConnectError("refused"), errno.EIO),
        (ProtocolError("nonsense"), errno.EIO),
        (CapabilityError("cannot"), errno.EOPNOTSUPP),
        (ExceptionGroup("", [OSError(errno.ENOSPC, "full")]), errno.ENOSPC),
        (pyfuse3.FUSEError(errno.EXDEV), errno.EXDEV),
    ],
)
async def test_errors_become_numbers_silently(error, code, caplog):
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await Operations(error).lookup(1, b"x")
    assert caught.value.errno == code
    assert not caplog.records


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError(),
        KeyError("x"),
        OSError("no number"),
        DevboxError("a new kind"),
        ExceptionGroup("", [OSError(errno.ENOSPC, "full"), KeyError("x")]),
    ],
)
async def test_a_bug_is_eio_and_logged_once(error, caplog):
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await Operations(error).lookup(7, b"secret")
    assert caught.value.errno == errno.EIO
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "lookup(7) failed" in record.getMessage()
    assert record.exc_info is not None
    assert "secret" not in record.getMessage()


async def test_cancellation_passes():
    with trio.CancelScope() as scope:
        scope.cancel()
        await Operations().lookup(1, b"x")
    assert scope.cancelled_caught


async def test_bytes_are_never_logged(caplog):
    caplog.set_level(logging.DEBUG)
    await Operations().lookup(b"secret", b"secret")
    (record,) = caplog.records
    assert record.getMessage() == "lookup(bytes): done"


class OnFullDisk:
    """Requests that find this machine's disk full until somebody has made room."""

    def __init__(self, *, room: bool) -> None:
        self.room = room
        self.calls: list[str] = []

    async def relieved(self) -> bool:
        await trio.lowlevel.checkpoint()
        self.calls.append("relieved")
        return self.room

    async def _try(self, name: str) -> str:
        self.calls.append(name)
        await trio.lowlevel.checkpoint()
        if "relieved" not in self.calls or not self.room:
            raise OSError(errno.ENOSPC, "full")
        return "done"

    @handler
    async def mkdir(self, parent_inode: int) -> str:
        return await self._try("mkdir")

    @handler
    async def flush(self, fh: int) -> str:
        return await self._try("flush")


async def test_a_request_is_repeated_when_room_was_made():
    operations = OnFullDisk(room=True)
    assert await operations.mkdir(1) == "done"
    assert operations.calls == ["mkdir", "relieved", "mkdir"]


@pytest.mark.parametrize(
    ("name", "room", "calls"),
    [("mkdir", False, ["mkdir", "relieved"]), ("flush", True, ["flush"])],
)
async def test_a_request_is_not_repeated(name: str, room: bool, calls: list[str]):
    """Without room; or when it is a report, which is made once, of what happened before."""
    operations = OnFullDisk(room=room)
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await getattr(operations, name)(1)
    assert caught.value.errno == errno.ENOSPC
    assert operations.calls == calls
