"""Paths as the agent takes them, confined to the box.

``.`` and ``..`` are taken away before links are looked at, as the real agent does. Unlike there,
nothing outside of the workspace is reachable: a path that leads out, by itself or over a symbolic
link, is refused like a file without permission. Between the check and the use another process of
the box could change a link; such a process runs as this user anyway and needs no agent for that.

Commands are not confined, and clients put what they need for them beside the workspace: names that
only they use are let through.
"""

from __future__ import annotations

import errno
import os
import posixpath
import re
from pathlib import Path

from sealos_devbox.server.templates import WORKING_DIR

__all__ = ["Workspace"]

_CLIENTS = re.compile(r"^/(tmp|var/tmp|dev/shm|.*/\.cache)/devbox-(helper|shell)-[^/]*(/|$)")


class Workspace:
    """One box's directory."""

    def __init__(self, root: Path) -> None:
        self.root = os.path.realpath(root)

    def lexical(self, given: str) -> str:
        """Return the absolute path on this machine that is meant, links not looked at."""
        if "\0" in given:
            raise OSError(errno.EINVAL, "Invalid argument", given)
        if given == WORKING_DIR or given.startswith(WORKING_DIR + "/"):
            given = "." + given[len(WORKING_DIR) :]
        try:
            given.encode()
        except UnicodeEncodeError:
            raise OSError(errno.ENOENT, "No such file or directory", given) from None
        path = posixpath.normpath(posixpath.join(self.root, given))
        # Two leading slashes mean the same as one, which normpath leaves open.
        return self._inside("/" + path.lstrip("/"), given)

    def entry(self, given: str) -> str:
        """Return the path of a name in its directory: a link that it may be is not followed."""
        path = self.lexical(given)
        if path == self.root:
            return path
        parent = self._inside(os.path.realpath(os.path.dirname(path)), given)
        return os.path.join(parent, os.path.basename(path))

    def target(self, given: str) -> str:
        """Return the path that is reached through all links."""
        return self._inside(os.path.realpath(self.lexical(given)), given)

    def contains(self, path: str) -> bool:
        """Whether an absolute path without links is in the box."""
        return path == self.root or path.startswith(self.root + "/")

    def _inside(self, path: str, given: str) -> str:
        if not self.contains(path) and not _CLIENTS.search(path):
            raise PermissionError(errno.EACCES, "Permission denied", given)
        return path
