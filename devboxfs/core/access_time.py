"""When reading moves the time of access: as a local mount does by default (relatime, mount(8))."""

from __future__ import annotations

from devboxfs.core.node import Node

__all__ = ["is_due"]

DAY_NS = 24 * 3600 * 10**9


def is_due(node: Node, now_ns: int) -> bool:
    """Whether an object that is read now gets a new time of access.

    The first time after a change, and once a day: that is what programs rely on which compare the
    two times (mail readers), or look for what nobody uses.
    """
    atime_ns = node.atime_ns
    return atime_ns <= node.mtime_ns or atime_ns <= node.ctime_ns or now_ns - atime_ns >= DAY_NS
