"""What a tree holds, and how that differs from a state of a history (see history.py)."""

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from tests.support.history import Object, State


@dataclass(frozen=True)
class Found:
    """What a name stands for."""

    kind: str
    mode: int
    content: bytes
    mtime_ns: int
    twin: str
    """The first name of the same object."""
    links: int
    attributes: dict[str, bytes]


def found_in(top: Path) -> dict[str, Found]:
    """Return what is below `top`."""
    twins: dict[int, str] = {}
    found = {}
    for directory, directories, files in os.walk(os.fsencode(top)):
        directories.sort()
        for name in sorted(directories + files):
            path = os.path.join(directory, name)
            relative = os.fsdecode(os.path.relpath(path, os.fsencode(top)))
            found[relative] = _look(path, relative, twins)
    return found


def _look(path: bytes, name: str, twins: dict[int, str]) -> Found:
    info = os.lstat(path)
    kind = stat.filemode(info.st_mode)[0]
    content = b""
    if kind == "-":
        with open(path, "rb") as file:
            content = file.read()
    elif kind == "l":
        content = os.readlink(path)
    twin = twins.setdefault(info.st_ino, name) if kind != "d" else name
    links = 1 if kind == "d" else info.st_nlink
    mode = stat.S_IMODE(info.st_mode)
    return Found(kind, mode, content, info.st_mtime_ns, twin, links, _attributes(path))


def _attributes(path: bytes) -> dict[str, bytes]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
        return {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in names
            if name.startswith("user.")
        }
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return {}


def mismatches(found: dict[str, Found], state: State) -> list[str]:
    """Say how a tree differs from a state of the history."""
    lines = [f"{name}: missing" for name in sorted(state.keys() - found.keys())]
    lines += [f"{name}: should not be there" for name in sorted(found.keys() - state.keys())]
    groups: dict[str, Object] = {}
    for name in sorted(state.keys() & found.keys()):
        is_, wanted = found[name], state[name]
        links = sum(other is wanted for other in state.values())
        if is_.kind != wanted.kind or is_.content != wanted.content:
            sizes = f"{len(wanted.content)} bytes wanted, {len(is_.content)} found"
            lines.append(f"{name}: {wanted.kind}/{is_.kind} content differs, {sizes}")
        elif is_.mode != wanted.mode:
            lines.append(f"{name}: mode {is_.mode:o} instead of {wanted.mode:o}")
        elif wanted.mtime_ns is not None and is_.mtime_ns != wanted.mtime_ns:
            lines.append(f"{name}: mtime {is_.mtime_ns} instead of {wanted.mtime_ns}")
        elif is_.attributes != wanted.attributes:
            lines.append(f"{name}: attributes {is_.attributes} instead of {wanted.attributes}")
        elif is_.links != links:
            lines.append(f"{name}: {is_.links} links instead of {links}")
        if is_.kind != "d" and groups.setdefault(is_.twin, wanted) is not wanted:
            lines.append(f"{name}: is the same object as {is_.twin}")
    return lines
