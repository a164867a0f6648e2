"""Boxes as directories.

::

    <data>/boxes/<name>/box.json      {"format": 1, "uid": ..., "name": ..., "created": ...}
    <data>/boxes/<name>/workspace/    the box's workspace

Invariant: a directory under a box's name is a whole box. One is made under another name and renamed
into place, and renamed away before it is removed, so that two processes that create, or one that
creates while one deletes, always see all of a box or none of it. The names used meanwhile begin
with a dot, which no box's name does. A box that is made again under a name has another uid.
"""

from __future__ import annotations

import difflib
import errno
import logging
import os
import re
import shutil
import tempfile
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from sealos_devbox.errors import BoxExistsError, BoxNotFoundError, DevboxError

__all__ = ["BoxExistsError", "BoxStore", "StoredBox", "check_name"]

_log = logging.getLogger(__name__)

# RFC 1123 label, as Kubernetes demands of a Devbox's name.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_NAME_MAX = 63


class _Description(msgspec.Struct, frozen=True):
    """The content of box.json."""

    format: int
    uid: uuid.UUID
    name: str
    created: datetime


# Made while one thread imports: msgspec crashes when two threads use a type for the first time
# at once (0.22, `decode(..., type=T)`).
_DECODER = msgspec.json.Decoder(_Description)


@dataclass(frozen=True, slots=True)
class StoredBox:
    """One box of the store."""

    name: str
    uid: str
    created: datetime
    workspace: Path


def check_name(name: str) -> None:
    """Raise ValueError, with a suggestion, unless `name` can be a box's name."""
    if len(name) <= _NAME_MAX and _NAME.fullmatch(name):
        return
    nearest = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_NAME_MAX].strip("-")
    suggestion = f"; {nearest!r} would do" if nearest else ""
    raise ValueError(
        f"{name!r} cannot be a box's name: 1 to 63 lower-case letters, digits and hyphens, "
        f"beginning and ending with a letter or digit{suggestion}"
    )


class BoxStore:
    """The boxes below one data directory. Every method blocks on the file system only."""

    def __init__(self, data_dir: Path) -> None:
        self._boxes = data_dir / "boxes"

    def create(self, name: str) -> StoredBox:
        """Make a box; raises BoxExistsError when there is one, whoever made it."""
        check_name(name)
        self._boxes.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=self._boxes))  # made with mode 0700
        try:
            description = _Description(1, uuid.uuid4(), name, datetime.now(UTC))
            (fresh / "workspace").mkdir(mode=0o755)
            _write_durably(fresh / "box.json", msgspec.json.encode(description) + b"\n")
            # A directory replaces no directory that holds something: of two, one wins.
            fresh.rename(self._boxes / name)
        except OSError as error:
            shutil.rmtree(fresh, ignore_errors=True)
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise BoxExistsError(f"There is a box {name!r} already.") from None
            raise
        _sync_directory(self._boxes)
        return self._stored(description)

    def get(self, name: str) -> StoredBox:
        """Return a box; raises BoxNotFoundError, naming boxes of a similar name."""
        check_name(name)
        path = self._boxes / name / "box.json"
        raw = _read(path)
        if raw is None and path.parent.is_dir():
            raw = _read(path)  # it may have been made between the two looks
            if raw is None:
                raise DevboxError(
                    f"The box {name!r} is damaged: {path} is missing.", hint=_damage_hint(path)
                )
        if raw is None:
            raise BoxNotFoundError(f"There is no box {name!r}.", hint=self._suggestion(name))
        try:
            description = _DECODER.decode(raw)
        except msgspec.DecodeError as error:
            raise DevboxError(
                f"The box {name!r} is damaged: {path}: {error}", hint=_damage_hint(path)
            ) from error
        if description.format != 1:
            raise DevboxError(
                f"The box {name!r} was made by another version: {path} has format "
                f"{description.format}, and this version knows format 1."
            )
        if description.name != name:
            # A copied or renamed directory would carry the uid of another box, and with it that
            # box's pending changes.
            raise DevboxError(
                f"The box {name!r} is damaged: {path} describes a box {description.name!r}.",
                hint=_damage_hint(path),
            )
        return self._stored(description)

    def get_or_create(self, name: str) -> StoredBox:
        """Return the box, which is made if need be; any number of processes get the same one."""
        while True:
            try:
                return self.get(name)
            except BoxNotFoundError:
                pass
            try:
                return self.create(name)
            except BoxExistsError:
                continue  # another process was faster, or has deleted it since: look again

    def list(self) -> list[StoredBox]:
        """Return the boxes by name; a damaged one is logged and left out."""
        try:
            names = sorted(os.listdir(self._boxes))
        except FileNotFoundError:
            return []
        found = []
        for name in names:
            if not _NAME.fullmatch(name):
                continue
            try:
                found.append(self.get(name))
            except BoxNotFoundError:
                continue  # deleted since
            except DevboxError as error:
                _log.warning("left out of the list of boxes: %s", error)
        return found

    def delete(self, name: str) -> None:
        """Remove a box with all its files; raises BoxNotFoundError when there is none.

        Does not need the box to be whole, so that a damaged one can be removed. When a file cannot
        be removed, the OSError for it is raised; the box is gone from its name all the same.
        """
        check_name(name)
        doomed = Path(tempfile.mkdtemp(prefix=".deleted-", dir=self._existing(name)))
        try:
            (self._boxes / name).rename(doomed)  # onto the empty directory just made
        except FileNotFoundError:
            doomed.rmdir()
            raise BoxNotFoundError(
                f"There is no box {name!r}.", hint=self._suggestion(name)
            ) from None
        _sync_directory(self._boxes)
        _remove_tree(doomed)
        for left in self._boxes.glob(".deleted-*"):
            # What a process that died while deleting has left.
            shutil.rmtree(left, ignore_errors=True)

    def _existing(self, name: str) -> Path:
        if not self._boxes.is_dir():
            raise BoxNotFoundError(f"There is no box {name!r}.")
        return self._boxes

    def _stored(self, description: _Description) -> StoredBox:
        return StoredBox(
            name=description.name,
            uid=str(description.uid),
            created=description.created,
            workspace=self._boxes / description.name / "workspace",
        )

    def _suggestion(self, name: str) -> str:
        near = difflib.get_close_matches(name, [box.name for box in self.list()], n=3)
        return f"Did you mean {' or '.join(repr(other) for other in near)}?" if near else ""


def _damage_hint(path: Path) -> str:
    return (
        f"The files of the box are in {path.parent / 'workspace'}; deleting the box removes them."
    )


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_tree(path: Path) -> None:
    try:
        shutil.rmtree(path)
    except PermissionError:
        # A directory in the box that its owner may not write: `rm -rf` fails there too, but the
        # box goes as a whole.
        _make_writable(path)
        shutil.rmtree(path)


def _make_writable(path: Path) -> None:
    pending = [path]
    while pending:
        directory = pending.pop()
        directory.chmod(0o700)
        with os.scandir(directory) as entries:
            pending += [Path(e.path) for e in entries if e.is_dir(follow_symlinks=False)]
