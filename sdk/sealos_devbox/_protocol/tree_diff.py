"""What changed between two looks at a tree, as the events that a watch would have sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sealos_devbox.types import Attributes, Event

__all__ = ["IN_ATTRIB", "IN_CREATE", "IN_DELETE", "IN_MODIFY", "changes"]

IN_MODIFY: Final = 0x2
IN_ATTRIB: Final = 0x4
IN_CREATE: Final = 0x100
IN_DELETE: Final = 0x200
IN_ISDIR: Final = 0x40000000


def changes(
    before: Mapping[bytes, Attributes], after: Mapping[bytes, Attributes], first: int
) -> list[Event]:
    """Return events numbered from `first`, parents before what is in them.

    A directory whose own entry alone changed (its time, when something in it came or went) is an
    event too; an object that was replaced between two looks is one that was created.
    """
    events: list[tuple[bytes, int, Attributes | None]] = []
    for path in sorted(before.keys() - after.keys(), reverse=True):
        events.append((path, IN_DELETE | _kind(before[path]), None))
    for path in sorted(after):
        now, was = after[path], before.get(path)
        if was is None or (was.ino, was.mode & 0o170000) != (now.ino, now.mode & 0o170000):
            events.append((path, IN_CREATE | _kind(now), now))
        elif (was.mtime_ns, was.size) != (now.mtime_ns, now.size):
            events.append((path, IN_MODIFY | _kind(now), now))
        elif was.ctime_ns != now.ctime_ns:
            events.append((path, IN_ATTRIB | _kind(now), now))
    return [Event(first + index, *event) for index, event in enumerate(events)]


def _kind(attributes: Attributes) -> int:
    return IN_ISDIR if attributes.is_dir else 0
