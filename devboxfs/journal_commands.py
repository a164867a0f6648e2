"""`devboxfs journal`: what waits on this machine, and what is to become of it.

A journal is named by the first letters of its id, by its box, or by the mount point of the mount
that owns it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devboxfs import control_client, mountpoint
from devboxfs.config import ExitCode, MountError, Places
from devboxfs.overview import collect, journals, plural, size

if TYPE_CHECKING:
    from devboxfs.writeback.inspection import Inspection

__all__ = ["Found", "discard", "export", "find", "render", "retry"]

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """A journal, and the mount that owns it."""

    path: Path
    box: str
    box_uid: str
    mount: Json | None
    """The status of the mount that owns it; None: it waits for one."""
    contents: Inspection | None
    error: str = ""
    """Why it cannot be read."""

    @property
    def ident(self) -> str:
        """Its name."""
        return self.path.name

    def to_json(self) -> Json:
        """Return what `journal list --json` prints of it."""
        contents = self.contents
        return {
            "journal": self.ident,
            "path": str(self.path),
            "box": self.box,
            "box_uid": self.box_uid,
            "mountpoint": self.mount["mountpoint"] if self.mount else None,
            "operations": contents.operations if contents else None,
            "damage": contents.damage if contents else None,
            "error": self.error,
            "refused": self.mount.get("refused", []) if self.mount else [],
            "objects": [
                {
                    "path": os.fsdecode(one.path),
                    "changes": one.words,
                    "operations": len(one.changes),
                    "size": one.image.size if one.image is not None and one.whole else None,
                    "whole": one.whole if one.image is not None else None,
                }
                for one in (contents.objects if contents else [])
            ],
        }


def find(places: Places, name: str | None = None) -> list[Found]:
    """Read the journals that hold something; `name` picks from them.

    Raises:
        MountError: nothing has that name.
    """
    from devboxfs.core.records import RecordError
    from devboxfs.writeback.inspection import inspect_journal

    mounts = {entry["journal"]["path"]: entry for entry in collect(places).mounts if _owns(entry)}
    found = []
    for journal in journals(places.state):
        path = Path(journal.path)
        mount = mounts.get(journal.path)
        if name is not None and not _is_meant(name, path, journal.box, mount):
            continue
        contents, error = None, ""
        try:
            contents = inspect_journal(path)
        except (RecordError, OSError) as exc:
            error = str(exc)
        if name is None and contents is not None and not contents.operations:
            continue
        found.append(Found(path, journal.box, journal.box_uid, mount, contents, error))
    if name is not None and not found:
        raise MountError(f"There is no journal {name}; see devboxfs journal list.")
    return found


def _owns(entry: Json) -> bool:
    return isinstance(entry.get("journal"), dict) and bool(entry["journal"].get("path"))


def _is_meant(name: str, path: Path, box: str, mount: Json | None) -> bool:
    if mount is not None and os.path.abspath(name) == mount["mountpoint"]:
        return True
    return name == box or (len(name) >= 4 and path.name.startswith(name))


def render(found: list[Found]) -> Iterable[str]:
    """Write journals as lines."""
    if not found:
        yield "Nothing waits: everything is in the boxes."
    for journal in found:
        where = f"mounted on {journal.mount['mountpoint']}" if journal.mount else "not mounted"
        yield f"{journal.ident[:8]}  {journal.box or journal.box_uid} ({where})"
        if journal.error:
            yield f"  cannot be read: {journal.error}"
        if journal.contents is None:
            continue
        if journal.contents.damage:
            yield f"  damaged: {journal.contents.damage}"
        for one in journal.contents.objects:
            held = f", {size(one.image.size)}" if one.image is not None and one.whole else ""
            yield f"  {os.fsdecode(one.path)}: {one.words}{held}"
        for refused in (journal.mount or {}).get("refused", []):
            waits = plural(int(refused["operations"]), "operation")
            yield f"  refused: {refused['path']}: {refused['text']}; {waits} for it"
        if journal.mount is None:
            yield f"  devboxfs mount {journal.box or 'BOX'} MOUNTPOINT sends them."


def retry(places: Places, name: str | None) -> list[str]:
    """Have the mounts send what waits; returns what to tell."""
    told: list[str] = []
    done: set[str] = set()
    for journal in find(places, name):
        entry = journal.mount or _mount_of(places, journal.box_uid)
        if entry is None:
            told.append(
                f"{journal.ident[:8]} waits for a mount: devboxfs mount {journal.box or 'BOX'} "
                "MOUNTPOINT sends it."
            )
        elif entry["mountpoint"] not in done:
            done.add(entry["mountpoint"])
            left = _ask(places, entry, "journal-retry", {})
            count = int(left["operations"])
            reason = f" ({left['reason']})" if left.get("reason") else ""
            told.append(
                f"{entry['mountpoint']}: everything is in the box."
                if not count and not left["journals"]
                else f"{entry['mountpoint']}: {plural(count, 'operation')} and "
                f"{plural(int(left['journals']), 'journal')} still wait{reason}."
            )
    return told or ["Nothing waits."]


def _mount_of(places: Places, box_uid: str) -> Json | None:
    for entry in collect(places).mounts:
        if entry.get("box_uid") == box_uid:
            return entry
    return None


def export(places: Places, name: str, directory: Path) -> str:
    """Write what a journal holds into a new directory; returns what to tell."""
    found = find(places, name)
    target = directory
    if target.exists() and any(target.iterdir()):
        raise MountError(f"{target} is not empty.", ExitCode.USAGE)
    count = 0
    for journal in found:
        if journal.contents is None:
            raise MountError(f"Journal {journal.ident[:8]} cannot be read: {journal.error}.")
        try:
            count += journal.contents.export(target / journal.ident[:8] if found[1:] else target)
        except OSError as error:
            raise MountError(f"{target} cannot be written: {error.strerror}.") from error
    return f"{plural(count, 'file')} and the list of changes are in {target}."


def discard(places: Places, found: list[Found], paths: list[str]) -> str:
    """Give up what journals hold; returns what to tell.

    Of a mount that lives only what the box refuses can be given up: the rest is on its way.
    """
    from devboxfs.writeback.journal_directory import JournalInUseError, remove_journal

    count = 0
    for journal in found:
        if journal.mount is not None:
            top = Path(journal.mount["mountpoint"])
            inside = [_inside(path, top) for path in paths]
            left = _ask(places, journal.mount, "journal-discard", {"paths": inside})
            count += int(left["operations"])
        elif paths:
            raise MountError(
                "A journal without a mount is given up as a whole; name no paths.", ExitCode.USAGE
            )
        else:
            try:
                remove_journal(journal.path)
            except JournalInUseError as error:
                raise MountError(f"{journal.ident[:8]} is in use by now.", ExitCode.BUSY) from error
            count += journal.contents.operations if journal.contents else 0
    if not count:
        raise MountError("The box refuses none of that; nothing was given up.")
    return f"{plural(count, 'operation')} given up."


def _inside(path: str, top: Path) -> str:
    absolute = Path(os.path.abspath(path))
    return str(absolute.relative_to(top)) if absolute.is_relative_to(top) else path


def _ask(places: Places, entry: Json, op: str, params: Json) -> Json:
    mount = mountpoint.find_mount(entry["mountpoint"])
    client = control_client.connect_mount(Path(entry["mountpoint"]), places.runtime)
    if client is None or mount is None:
        raise MountError(f"The daemon of {entry['mountpoint']} is gone.", ExitCode.NO_ANSWER)
    with client:
        return client.call(op, params)


def moment(time_ns: int) -> str:
    """Write a time for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_ns // 1_000_000_000))
