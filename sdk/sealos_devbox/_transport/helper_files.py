"""The helpers that can be put into a box: their architectures, digests and contents.

Read and hashed once for as long as they do not change. Every function blocks on files.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealos_devbox._protocol.helper_place import MACHINES
from sealos_devbox._transport.helper_bundle import find_helper
from sealos_devbox.errors import CapabilityError

__all__ = ["HelperFile", "find_helpers"]

ELF_MACHINES: Final = {62: "amd64", 183: "arm64"}
"""e_machine of an executable (elf.h)."""


@dataclass(frozen=True, slots=True)
class HelperFile:
    """One helper."""

    path: Path
    digest: str
    """SHA-256, in hexadecimal digits."""

    def content(self, *, compressed: bool) -> bytes:
        """Return the executable, as gzip if asked."""
        return _content(*_identity(self.path), compressed)


def find_helpers(given: Path | None) -> dict[str, HelperFile]:
    """Return the helpers by architecture: those of this package, or the one that is given.

    Raises CapabilityError when there is none, or when what is given is no helper.
    """
    if given is None:
        paths = {name: find_helper(name) for name in MACHINES}
    else:
        paths = {_architecture(given): given}
    return {name: HelperFile(path, _digest(*_identity(path))) for name, path in paths.items()}


def _architecture(helper: Path) -> str:
    try:
        with helper.open("rb") as file:
            head = file.read(20)
    except OSError as error:
        raise CapabilityError(f"The helper {helper} cannot be read: {error.strerror}.") from error
    machine = struct.unpack("<H", head[18:20])[0] if len(head) == 20 else 0
    if head[:4] != b"\x7fELF" or machine not in ELF_MACHINES:
        raise CapabilityError(f"{helper} is no helper: it is no executable for amd64 or arm64.")
    return ELF_MACHINES[machine]


def _identity(path: Path) -> tuple[Path, int, int]:
    status = path.stat()
    return path, status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=8)
def _digest(path: Path, _mtime_ns: int, _size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@functools.lru_cache(maxsize=2)
def _content(path: Path, _mtime_ns: int, _size: int, compressed: bool) -> bytes:
    content = path.read_bytes()
    return gzip.compress(content, 6, mtime=0) if compressed else content
