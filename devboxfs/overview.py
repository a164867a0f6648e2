"""What `devboxfs status` knows: mounts that live, mounts whose daemon is dead, journals that wait.

Daemons are found by their control sockets, dead mounts in mountinfo, journals in the state
directory. Nothing here touches a mount.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from devboxfs import control_client, mountpoint
from devboxfs.config import ExitCode, MountError, Places, key_of

__all__ = [
    "Journal",
    "Overview",
    "collect",
    "duration",
    "journals",
    "plural",
    "render",
    "require_mount",
    "size",
    "waiting_journals",
]

Json = dict[str, Any]

ANSWER_TIME: Final = 5.0
PROBE_TIME: Final = 2.0
"""Less: it is what the daemon has failed to do already in most cases."""


@dataclass(frozen=True, slots=True)
class Journal:
    """A journal with changes in it that no running mount owns."""

    box_uid: str
    box: str
    path: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Overview:
    """All of one user's mounts, sorted by mount point."""

    mounts: list[Json]
    journals: list[Journal]

    def to_json(self) -> Json:
        """Return what `status --json` prints."""
        return {"mounts": self.mounts, "journals": [asdict(journal) for journal in self.journals]}


def collect(places: Places, *, only: Path | None = None) -> Overview:
    """Ask every daemon for its status and look for what is dead; sockets of the dead are removed.

    `only` restricts it to one mount point.
    """
    found: dict[str, Json] = {}
    silent: dict[str, int] = {}
    for path in control_client.sockets(places.runtime):
        key = path.name.partition("-")[0]
        if only is not None and key != key_of(only):
            continue
        entry = _ask(path)
        if isinstance(entry, dict):
            found[entry["mountpoint"]] = entry
        elif entry is not None:
            silent[key] = entry
    for mount in mountpoint.mounts():
        if not mount.ours or str(mount.path) in found or only not in {None, mount.path}:
            continue
        if os.getuid() not in {0, mount.user_id}:
            continue
        health = mountpoint.probe(mount.path, timeout=PROBE_TIME)
        entry = {
            "mountpoint": str(mount.path),
            "box": mount.box,
            "state": "unknown" if health == "alive" else health,
        }
        if health != "dead" and key_of(mount.path) in silent:
            entry["pid"] = silent[key_of(mount.path)]
        found[str(mount.path)] = entry
    return Overview([found[key] for key in sorted(found)], waiting_journals(places.state))


def _ask(path: Path) -> Json | int | None:
    """Return a daemon's status, the pid of one that does not answer, or None for one that died."""
    try:
        client = control_client.connect(path, timeout=ANSWER_TIME)
    except OSError:
        return None
    if client is None:
        return None
    with client:
        try:
            hello = client.call("hello", silence=ANSWER_TIME, timeout=ANSWER_TIME)
        except (MountError, OSError):
            return client.pid
        entry: Json = {
            "mountpoint": hello["mountpoint"],
            "box": hello["name"],
            "state": "starting",
            "pid": client.pid,
        }
        if hello["serving"]:
            try:
                entry |= client.call("status", silence=ANSWER_TIME, timeout=ANSWER_TIME)
            except (MountError, OSError) as error:
                entry |= {"state": "unknown", "error": str(error)}
        return entry


def journals(state: Path, *, waiting: bool = False) -> list[Journal]:
    """List the journals that hold something; `waiting`: only those whose owner is dead."""
    locked = _locked_inodes() if waiting else set()
    found = []
    for owner in sorted(state.glob("mounts/*/*/owner")):
        journal = owner.parent
        if not _JOURNAL_ID.fullmatch(journal.name):
            continue
        with contextlib.suppress(OSError):
            if owner.stat().st_ino in locked:
                continue
            held = sum(_content(path) for path in journal.iterdir())
            if held:
                found.append(Journal(journal.parent.name, _name_of(journal), str(journal), held))
    return found


def waiting_journals(state: Path) -> list[Journal]:
    """List the journals that hold something and whose owner is dead."""
    return journals(state, waiting=True)


# As in writeback/journal.py and core/records.py, which load the SDK; a test compares them.
_JOURNAL_ID = re.compile(r"[0-9a-f]{32}")
_SEGMENT_HEADER = 96


def _locked_inodes() -> set[int]:
    """Return the inodes of all files that somebody holds a flock on.

    Trying the lock instead would, for a moment, keep a mount that begins just now from adopting
    the journal. Device numbers are not compared: btrfs shows others here than stat does.
    """
    locked = set()
    for line in Path("/proc/locks").read_bytes().splitlines():
        fields = line.split()
        if b"FLOCK" in fields[1:3]:
            locked.add(int(fields[-3].rpartition(b":")[2]))
    return locked


def _content(path: Path) -> int:
    if path.name.startswith("spool-"):
        return path.stat().st_size
    if path.name.startswith("segment-"):
        return max(0, path.stat().st_size - _SEGMENT_HEADER)
    return 0


def _name_of(journal: Path) -> str:
    import json

    try:
        name = json.loads((journal / "meta").read_bytes())["box_name"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return str(name)


# ---------------------------------------------------------------------------------- for people


def size(count: float) -> str:
    """Write a number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float) -> str:
    """Write a time span for people, in one unit."""
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def plural(count: int, noun: str) -> str:
    """Count things: `1 operation`, `2 operations`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def render(overview: Overview) -> Iterable[str]:
    """Write the overview as lines."""
    for entry in overview.mounts:
        yield f"{entry['box']} on {entry['mountpoint']}: {_state(entry)}"
        yield from (f"  {title:<10} {text}" for title, text in _details(entry) if text)
    if not overview.mounts:
        yield "Nothing is mounted."
    for journal in overview.journals:
        yield (
            f"Waiting: changes to {journal.box or 'a box'} ({size(journal.bytes)}) are in "
            f"{journal.path}; mounting the box sends them."
        )


def _state(entry: Json) -> str:
    state = str(entry["state"])
    if state == "dead":
        return "dead (its daemon has ended; devboxfs mount repairs it, devboxfs umount removes it)"
    if state == "hung":
        return "hung (its daemon does not answer; devboxfs umount --force removes it)"
    if state == "unknown":
        return "mounted, but its daemon cannot be asked" + (
            f": {entry['error']}" if entry.get("error") else ""
        )
    since = entry.get("state_seconds")
    return state if since is None else f"{state} for {duration(float(since))}"


def _details(entry: Json) -> Iterable[tuple[str, str]]:
    if entry.get("read_only"):
        yield "access", "read-only"
    if entry.get("consistency") == "strict":
        yield "consistency", "strict: changes wait for the box"
    yield from _presentation(entry.get("options") or {})
    yield "files", str(entry.get("location") or "")
    if "pending_operations" in entry:
        yield "pending", _pending(entry)
    if entry.get("trouble"):
        yield "trouble", str(entry["trouble"])
    for refused in entry.get("refused") or ():
        since = duration(float(refused["seconds"]))
        yield (
            "refused",
            (
                f"{refused['path']}: {refused['text']}, for {since}; "
                f"{plural(int(refused['operations']), 'operation')} wait in the journal"
            ),
        )
    for conflict in entry.get("conflicts") or ():
        kept = conflict.get("kept_as") or conflict.get("stored_at")
        yield "conflict", f"{conflict['path']}" + (f", our version is {kept}" if kept else "")
    for tree in entry.get("local_trees") or ():
        yield "local tree", _tree(tree)
    yield from _way(entry.get("link") or {})
    for name in ("cache", "link"):
        figures = entry.get(name)
        if isinstance(figures, dict):
            known = (
                (key, value)
                for key, value in figures.items()
                if value not in (None, "") and value is not True and key not in _WAY
            )
            yield name, ", ".join(_figure(key, value) for key, value in known)


def _presentation(options: Json) -> Iterable[tuple[str, str]]:
    if "subpath" in options:
        yield "shows", f"{options['subpath']} of the workspace"
    for name in ("local", "exclude"):
        if name in options:
            yield name, " ".join(map(str, options[name]))
    shown = [f"{name} {options[name]}" for name in ("uid", "gid", "umask") if name in options]
    if shown:
        yield "ownership", ", ".join(shown)
    if options.get("transform_symlinks"):
        yield "symlinks", "absolute targets in the workspace are shown relative"


def _tree(tree: Json) -> str:
    more = "" if tree.get("complete") else "more than "
    return (
        f"{tree['path'].lstrip('/')}: {more}{size(int(tree['bytes']))} in "
        f"{more}{plural(int(tree['files']), 'file')}, at {tree['stored_at']}"
    )


_WAY = ("rung", "way", "weaker", "passed_over")


def _way(link: Json) -> Iterable[tuple[str, str]]:
    yield "way", str(link.get("way") or "")
    for lack in link.get("weaker") or ():
        yield "weaker", str(lack)
    for rung, reason in (link.get("passed_over") or {}).items():
        yield "not by", f"{rung}: {reason}"


def _pending(entry: Json) -> str:
    count = int(entry["pending_operations"])
    if not count:
        return "nothing"
    text = f"{plural(count, 'operation')}, {size(int(entry.get('pending_bytes') or 0))}"
    age = entry.get("oldest_pending_seconds")
    return text if age is None else f"{text}, the oldest from {duration(float(age))} ago"


def _figure(key: str, value: object) -> str:
    name = key.removesuffix("_bytes").removesuffix("_seconds").replace("_", " ")
    if value is False:
        return f"{name}: no"
    if isinstance(value, int | float) and ("bytes" in key or key == "limit"):
        return f"{name} {size(value)}"
    if isinstance(value, int | float) and key.endswith("_seconds"):
        return f"{name} {value:.3g} s"
    return f"{name} {value}"


def require_mount(path: str | Path) -> mountpoint.Mount:
    """Return the devboxfs mount that holds `path`.

    Raises:
        MountError: there is none, or it is another user's.
    """
    mount = mountpoint.find_mount(path)
    if mount is None or not mount.ours:
        raise MountError(f"{path} is not in a devboxfs mount.", ExitCode.NOT_MOUNTED)
    if os.geteuid() not in {0, mount.user_id}:
        raise MountError(f"The mount at {mount.path} is another user's.", ExitCode.NOT_MOUNTED)
    return mount
