"""Death at a chosen place, for tests.

``DEVBOXFS_FAULT=exit:POINT:N`` in the environment makes the process kill itself (SIGKILL, as the
kernel's out-of-memory killer would) when it passes POINT for the N-th time. The points are where
`passing` is called with their names; without the variable it does nothing.
"""

from __future__ import annotations

import os
import signal
from typing import Final

__all__ = ["POINTS", "passing"]

POINTS: Final = (
    "append-before",
    "append-after",
    "batch-before",
    "batch-after",
    "send-before",
    "outcome-before",
    "outcome-after",
    "delete-before",
    "delete-after",
)


class _Fault:
    def __init__(self, setting: str) -> None:
        action, _, rest = setting.partition(":")
        self.point, _, count = rest.partition(":")
        if action != "exit" or self.point not in POINTS or not count.isdecimal():
            raise ValueError(f"DEVBOXFS_FAULT: expected exit:POINT:N, got {setting!r}")
        self.left = int(count)

    def passing(self, point: str) -> None:
        if point == self.point:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def _nothing(_point: str) -> None:
    """Pass."""


_setting = os.environ.get("DEVBOXFS_FAULT")
passing = _Fault(_setting).passing if _setting else _nothing
"""Note that the program passes a point."""
