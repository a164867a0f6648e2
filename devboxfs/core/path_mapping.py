"""Writes the paths in a command's output as those of the mount."""

from __future__ import annotations

import re

__all__ = ["PathMapper"]


class PathMapper:
    """One stream of output, as it comes.

    A path counts where neither a part of a name nor another directory surrounds it. Output with a
    NUL in it is no text: from there on it is left as it is.
    """

    def __init__(self, there: bytes, here: bytes, *, wait: bool) -> None:
        self._there = there
        self._here = here.replace(b"\\", b"\\\\")
        self._wait = wait
        """Hold back what may be the beginning of a path: not for a terminal, where every
        character is waited for."""
        self._pattern = re.compile(rb"(?<![\w./-])" + re.escape(there) + rb"(?![\w-]|\.\w)")
        self._before = b""
        self._held = b""
        self._binary = False

    def feed(self, data: bytes) -> bytes:
        """Take output; return what can be passed on."""
        data = self._held + data
        self._held = b""
        if self._binary or b"\0" in data:
            self._binary = True
            return data
        if self._wait:
            for length in range(min(len(data), len(self._there) + 1), 0, -1):
                if (self._there + b".").startswith(data[-length:]):
                    data, self._held = data[:-length], data[-length:]
                    break
        return self._mapped(data)

    def finish(self) -> bytes:
        """Return what was held back when there will be no more."""
        held, self._held = self._held, b""
        return held if self._binary else self._mapped(held)

    def _mapped(self, data: bytes) -> bytes:
        if not data:
            return data
        before, self._before = self._before, data[-1:]
        return self._pattern.sub(self._here, before + data)[len(before) :]
