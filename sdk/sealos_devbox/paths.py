"""Paths of a box as callers write them, and as the wire wants them.

On the wire a path is bytes relative to the workspace root, without leading slash; the root is
``b""`` (sdk/PROTOCOL.md section 1). Callers write str, bytes or path objects, relative to the
workspace or absolute. Everything here is pure: nothing touches a file system.

Names that are not UTF-8 become str by surrogateescape and come back unchanged.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from sealos_devbox.errors import file_error
from sealos_devbox.types import Attributes

__all__ = [
    "BoxPath",
    "Resolution",
    "box_path",
    "names_alias",
    "parent",
    "path_text",
    "prefixes",
    "resolve",
]

BoxPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]
"""A path in a box: relative to the workspace, or absolute."""

WORKSPACE_ALIAS = b"/workspace"
"""Means the workspace of every box, whatever its path in the box is."""

# As Linux: MAXSYMLINKS (include/linux/namei.h).
_MAX_LINKS = 40


def path_bytes(path: BoxPath) -> bytes:
    """Return the path's bytes as the box sees them; what this machine's locale says is ignored."""
    given = os.fspath(path)
    return given if isinstance(given, bytes) else given.encode("utf-8", "surrogateescape")


def path_text(path: bytes) -> str:
    """Return the str for a path from the box; the workspace itself is ``"."``."""
    return path.decode("utf-8", "surrogateescape") if path else "."


def box_path(path: BoxPath, root: bytes, *, alias: bool = True) -> bytes:
    """Return the path on the wire for one that a caller wrote; `root` is the workspace's own path.

    ``.`` and doubled or trailing slashes mean nothing; ``..`` is taken away together with the
    component before it, without regard to symbolic links. `alias`: whether ``/workspace`` means the
    workspace. Raises ValueError when the path is empty, holds a NUL, or leads out of the workspace.
    """
    given = path_bytes(path)
    if not given:
        raise ValueError("a path in a box cannot be empty; the workspace itself is '.'")
    if b"\0" in given:
        raise ValueError(f"a path cannot contain a NUL: {os.fspath(path)!r}")
    relative = _below_root(given, root, alias)
    if relative is None and not alias and _below(given, WORKSPACE_ALIAS) is not None:
        raise ValueError(
            f"{os.fspath(path)!r} is outside of the workspace: the box has a directory /workspace "
            f"of its own, and its workspace is {path_text(root)!r}"
        )
    if relative is None:
        raise ValueError(
            f"{os.fspath(path)!r} is outside of the workspace: write it relative to the workspace, "
            f"or below {path_text(root)!r} or '/workspace'"
        )
    done: list[bytes] = []
    for name in relative.split(b"/"):
        if name == b"..":
            if not done:
                raise ValueError(f"{os.fspath(path)!r} leads out of the workspace")
            done.pop()
        elif name not in (b"", b"."):
            done.append(name)
    return b"/".join(done)


def parent(path: bytes) -> bytes:
    """Return the path of the directory that holds `path`; that of the root is the root."""
    return path.rpartition(b"/")[0]


def prefixes(path: bytes) -> list[bytes]:
    """Return every path on the way to `path`, itself included, the root not."""
    names = path.split(b"/") if path else []
    return [b"/".join(names[: count + 1]) for count in range(len(names))]


@dataclass(frozen=True, slots=True)
class Resolution:
    """What `resolve` came to: a path, or the paths whose attributes it has to know first."""

    path: bytes | None
    unknown: list[bytes]


def resolve(
    path: bytes, known: Mapping[bytes, Attributes | int], root: bytes, *, final: bool
) -> Resolution:
    """Replace symbolic links in a wire path, as far as `known` (attributes or errno by path) goes.

    Links are followed beneath the root only, and below its absolute path, as the helper does
    (PROTOCOL.md section 4); what comes after a name that does not exist is kept as it is. `final`
    says whether the last component is replaced too. Raises BoxFileError: ELOOP after 40 links,
    EXDEV when a link leads out of the workspace, ENOENT when it goes up from a name that does not
    exist (path_resolution(7)), or the errno that is known of a component.
    """
    pending = deque(path.split(b"/") if path else ())
    done: list[bytes] = []
    links = 0
    absent = False
    while pending:
        name = pending.popleft()
        if name in (b"", b"."):
            continue
        if name == b"..":
            if absent:  # of a link: a path that was given has no ".." left
                raise file_error(errno.ENOENT, path)
            if not done:
                raise file_error(errno.EXDEV, path)
            done.pop()
            continue
        candidate = b"/".join([*done, name])
        if absent or (not pending and not final):
            done.append(name)
            continue
        found = known.get(candidate)
        if found is None:
            rest = [name, *(n for n in pending if n not in (b"", b".", b".."))]
            ahead = [b"/".join([*done, *rest[: count + 1]]) for count in range(len(rest))]
            return Resolution(None, ahead)
        if isinstance(found, int):
            if found != errno.ENOENT:
                raise file_error(found, path)
            absent = True
            done.append(name)
        elif found.target is None:
            done.append(name)
        else:
            links += 1
            if links > _MAX_LINKS:
                raise file_error(errno.ELOOP, path)
            target = found.target
            if target.startswith(b"/"):
                below = _below(target, root)
                if below is None:
                    raise file_error(errno.EXDEV, path)
                done.clear()
                target = below
            pending.extendleft(reversed(target.split(b"/")))
    return Resolution(b"/".join(done), [])


def _below(path: bytes, directory: bytes) -> bytes | None:
    """Return the rest of an absolute path below a directory, None when it is not below."""
    directory = directory.rstrip(b"/")
    if path == directory:
        return b""
    return path[len(directory) + 1 :] if path.startswith(directory + b"/") else None


def names_alias(path: BoxPath, root: bytes) -> bool:
    """Whether a path is written below ``/workspace``, and that is not where the workspace is."""
    given = path_bytes(path)
    return _below(given, WORKSPACE_ALIAS) is not None and _below(given, root) is None


def _below_root(given: bytes, root: bytes, alias: bool) -> bytes | None:
    if not given.startswith(b"/"):
        return given
    relative = _below(given, root)
    return relative if relative is not None or not alias else _below(given, WORKSPACE_ALIAS)
