"""`devboxfs conflicts` and `devboxfs resolve`: what both sides changed, and which of it stays.

Whatever is chosen is done through the mount, so that it is checked and carried to the box like any
other change.
"""

from __future__ import annotations

import difflib
import errno
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from devboxfs.config import MountError, Places
from devboxfs.journal_commands import moment
from devboxfs.mountpoint import Mount
from devboxfs.overview import collect
from devboxfs.writeback.conflict_log import Conflict, ConflictLog

__all__ = ["Mounted", "diff", "find", "mounted", "pick", "render", "resolve", "to_json"]

Json = dict[str, Any]

DIFF_LIMIT = 16 << 20


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount and the conflicts of its box."""

    mountpoint: Path
    box: str
    log: ConflictLog
    conflicts: list[Conflict]
    """Those in what is mounted."""
    subpath: str = ""
    """The directory of the workspace that is mounted; paths of conflicts are the workspace's."""

    def _here(self, path: str) -> Path:
        return self.mountpoint / Path(path).relative_to(self.subpath)

    def ours(self, conflict: Conflict) -> Path | None:
        """Return where our version can be read."""
        if conflict.kept_as is not None:
            return self._here(conflict.kept_as)
        return Path(conflict.stored_at) if conflict.stored_at else None

    def theirs(self, conflict: Conflict) -> Path:
        """Return where the box's version can be read."""
        return self._here(conflict.path)


def find(places: Places, only: Path | None = None) -> list[Mounted]:
    """Return the mounts that live, with the conflicts that are not resolved."""
    found = []
    for entry in collect(places, only=only).mounts:
        if entry.get("box_uid"):
            found.append(mounted(places, entry))
    return found


def mounted(places: Places, entry: Json) -> Mounted:
    """Return what is known of one mount."""
    log = ConflictLog(places.state / "mounts" / str(entry["box_uid"]))
    subpath = str((entry.get("options") or {}).get("subpath", ""))
    inside = [one for one in log.list() if Path(one.path).is_relative_to(subpath)]
    return Mounted(Path(entry["mountpoint"]), str(entry["box"]), log, inside, subpath)


def to_json(found: list[Mounted]) -> list[Json]:
    """Return what `conflicts --json` prints."""
    return [
        {"mountpoint": str(one.mountpoint), "box": one.box, **asdict(conflict)}
        for one in found
        for conflict in one.conflicts
    ]


def render(found: list[Mounted]) -> Iterable[str]:
    """Write conflicts as lines."""
    if not any(one.conflicts for one in found):
        yield "No conflicts."
    for one in found:
        for conflict in one.conflicts:
            ours = one.ours(conflict)
            yield f"{one.theirs(conflict)} ({moment(conflict.time_ns)}): {_why(conflict)}"
            yield f"  ours: {ours}" if ours else "  ours: nothing to keep"


def _why(conflict: Conflict) -> str:
    if conflict.kind == "refused":
        return f"the box does not take it: {os.strerror(conflict.errno)}"
    if conflict.errno == errno.ENOENT:
        return "changed here, removed or moved there"
    return "changed here and there"


def pick(places: Places, mount: Mount, path: str) -> tuple[Mounted, Conflict]:
    """Return the conflict that a path means: that of either version.

    Raises:
        MountError: there is none.
    """
    wanted = Path(os.path.abspath(path))
    for one in find(places, mount.path):
        for conflict in reversed(one.conflicts):
            if wanted in (one.theirs(conflict), one.ours(conflict)) or path in (
                conflict.path,
                conflict.kept_as,
            ):
                return one, conflict
    raise MountError(f"{path} is in no conflict; see devboxfs conflicts.")


def diff(one: Mounted, conflict: Conflict) -> str:
    """Return what tells our version from the box's."""
    theirs, ours = one.theirs(conflict), one.ours(conflict)
    old = _lines(theirs)
    new = _lines(ours) if ours is not None else []
    if old is None or new is None:
        return f"{theirs} and {ours} differ, and are no text (or too long).\n"
    return "".join(difflib.unified_diff(old, new, str(theirs), str(ours or "(nothing)")))


def _lines(path: Path) -> list[str] | None:
    try:
        if path.stat().st_size > DIFF_LIMIT:
            return None
        text = path.read_bytes().decode()
    except FileNotFoundError:
        return []
    except (UnicodeDecodeError, IsADirectoryError):
        return None
    except OSError as error:
        raise MountError(f"{path} cannot be read: {error.strerror}.") from error
    if "\0" in text:
        return None
    return [line if line.endswith("\n") else line + "\n" for line in text.splitlines(True)]


def resolve(one: Mounted, conflict: Conflict, keep: str) -> str:
    """Do what was chosen: `mine`, `theirs` or `both`; returns what to tell.

    Raises:
        MountError: it cannot be done; the conflict stays listed.
    """
    theirs, ours = one.theirs(conflict), one.ours(conflict)
    try:
        told = _carry_out(conflict, theirs, ours, keep)
    except OSError as error:
        raise MountError(
            f"{theirs} stays in conflict: {error.strerror}: {error.filename}."
        ) from error
    one.log.remove([conflict.ident])
    if conflict.stored_at and keep != "both":
        Path(conflict.stored_at).unlink(missing_ok=True)
        Path(conflict.stored_at + ".json").unlink(missing_ok=True)
    return told


def _carry_out(conflict: Conflict, theirs: Path, ours: Path | None, keep: str) -> str:
    if keep == "both":
        return f"Both stay: {theirs}" + (f" and {ours}." if ours else ".")
    if keep == "theirs":
        if conflict.kept_as is not None and ours is not None:
            _remove(ours)
        return f"{theirs} stays as the box has it."
    if ours is None:
        # What we had done was to remove it.
        _remove(theirs)
        return f"{theirs} is removed."
    if conflict.kept_as is not None:
        if theirs.is_dir() and not theirs.is_symlink():
            raise IsADirectoryError(errno.EISDIR, "the box has a directory there", str(theirs))
        ours.rename(theirs)
    else:
        _put_back(ours, theirs)
    return f"{theirs} has our version."


def _put_back(stored: Path, target: Path) -> None:
    """Bring a file of the store to its place: whole by replacing, parts by writing them."""
    import json

    facts = json.loads(Path(f"{stored}.json").read_text(encoding="utf-8"))
    if facts["whole"]:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name[:200]}.resolve-{os.getpid()}")
        try:
            shutil.copyfile(stored, temporary)
            temporary.rename(target)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        return
    with stored.open("rb") as source, target.open("r+b") as file:
        for offset, length in facts["ranges"]:
            source.seek(offset)
            file.seek(offset)
            left = length
            while left:
                part = source.read(min(left, 1 << 20))
                if not part:
                    raise OSError(errno.EIO, "the stored copy is too short", str(stored))
                file.write(part)
                left -= len(part)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
