"""The tar stream of `apply` (sdk/PROTOCOL.md section 6).

The format is POSIX.1-2017 pax, "pax Interchange Format".

Every member is an extended header with `mtime` (and `size` where ustar has no room for it), a ustar
header, the content and its padding. A member costs a few microseconds, not the fifty of `tarfile`:
all but four fields are the same in every header, so their part of the checksum is too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sealos_devbox._protocol import messages
from sealos_devbox.batch import Batch
from sealos_devbox.errors import DevboxError
from sealos_devbox.types import Content

__all__ = ["ContentSizeError", "manifest", "member_header", "stream"]

BLOCK: Final = 512
END_OF_ARCHIVE: Final = bytes(2 * BLOCK)
CHUNK: Final = 64 * 1024

_USTAR_LIMIT: Final = 8**11
_ZEROS: Final = bytes(BLOCK)
_MANIFEST_MODE: Final = 0o600


class ContentSizeError(DevboxError):
    """A content yielded more or fewer bytes than its size: it was changed while it was read."""

    retryable = True


def _header(name: bytes, mode: int, size: int, seconds: int, kind: bytes) -> bytes:
    varying = b"%07o\0" % mode
    sizes = b"%011o\0%011o\0" % (size, seconds)
    # Checksum: the sum of all bytes with the checksum field as eight spaces. The constant part is
    # "0000000\0" twice (uid and gid), "ustar\0" "00" and the spaces.
    checksum = _CONSTANT_SUM + sum(name) + sum(varying) + sum(sizes) + kind[0]
    return b"%b%b0000000\x000000000\0%b%06o\0 %b%b" % (
        name.ljust(100, b"\0"),
        varying,
        sizes,
        checksum,
        kind,
        _TAIL,
    )


_TAIL: Final = (bytes(100) + b"ustar\x0000").ljust(BLOCK - 157, b"\0")
_CONSTANT_SUM: Final = sum(_TAIL) + 14 * ord("0") + 8 * ord(" ")

# An extended header differs from another of the same length in nothing.
_extended_headers: Final[dict[int, bytes]] = {}


def _record(key: str, value: str) -> str:
    """Return one record of an extended header; the length at its front counts itself."""
    size = len(key) + len(value) + 3
    digits = len(str(size))
    if len(str(size + digits)) > digits:
        digits += 1
    return f"{size + digits} {key}={value}\n"


def member_header(name: str, mode: int, size: int, mtime_ns: int) -> bytes:
    """Return what stands before a member's content: whole blocks."""
    seconds, fraction = divmod(abs(mtime_ns), 1_000_000_000)
    sign = "-" if mtime_ns < 0 else ""
    records = _record("mtime", f"{sign}{seconds}.{fraction:09d}")
    if size >= _USTAR_LIMIT:
        records += _record("size", str(size))
        size = 0
    length = len(records)
    extended = _extended_headers.get(length)
    if extended is None:
        extended = _extended_headers[length] = _header(b"pax", 0o600, length, 0, b"x")
    # The ustar time is for people who look at a stream with tar; the helper reads the extended one.
    shown = min(seconds, _USTAR_LIMIT - 1) if mtime_ns >= 0 else 0
    plain = _header(name.encode(), mode, size, shown, b"0")
    return extended + records.encode().ljust(BLOCK, b"\0") + plain


def manifest(batch: Batch) -> bytes:
    """Return the first member, whole."""
    content = messages.encode((batch.operations, batch.sync))
    return (
        member_header("manifest", _MANIFEST_MODE, len(content), 0)
        + content
        + _ZEROS[: -len(content) % BLOCK]
    )


def _checked(number: int, content: Content) -> Iterator[bytes]:
    left = content.size
    for chunk in content.chunks():
        left -= len(chunk)
        if left < 0:
            break
        yield chunk
    if left:
        raise ContentSizeError(
            f"content {number} is not of its {content.size} bytes: it was changed meanwhile"
        )


def stream(batch: Batch, bulk: int) -> Iterator[bytes | Iterator[bytes]]:
    """Yield the stream in pieces of about CHUNK bytes.

    A content of more than `bulk` bytes comes as an iterator of its own, which is to be used up
    before the next piece is asked for, wherever reading may take its time. A content that yields
    more or fewer bytes than its size raises ContentSizeError.
    """
    parts = [manifest(batch)]
    held = len(parts[0])
    for number, member in enumerate(batch.members):
        content = member.content
        size = content.size
        parts.append(member_header(str(number), member.mode, size, member.mtime_ns))
        if size > bulk:
            yield b"".join(parts)
            parts.clear()
            held = 0
            yield _checked(number, content)
        else:
            parts.extend(_checked(number, content))
            held += 4 * BLOCK + size
        parts.append(_ZEROS[: -size % BLOCK])
        if held >= CHUNK:
            yield b"".join(parts)
            parts.clear()
            held = 0
    parts.append(END_OF_ARCHIVE)
    yield b"".join(parts)
