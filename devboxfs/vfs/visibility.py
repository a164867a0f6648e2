"""Which of the box's names a mount shows: all but what `--exclude` and `--local` take away.

`--exclude`: names that match do not exist here. They are neither listed nor looked up nor fetched,
and making one is EPERM.

`--local`: a directory whose name matches is one of this machine (vfs/local_tree.py); the box's own
directory of that name is hidden, and so is anything of that name once the local one is there. A
file that has such a name is the box's like any other.

What is hidden keeps its parent from being removed: the box would refuse that, later.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence

from devboxfs.core.node import Directory
from devboxfs.vfs.local_store import LocalStore
from sealos_devbox import Attributes, Patterns, Prune

__all__ = ["Visibility"]


class Visibility:
    """The rules of one mount."""

    def __init__(
        self,
        store: LocalStore,
        *,
        local: Sequence[str] = (),
        exclude: Sequence[str] = (),
        root: bytes = b"",
    ) -> None:
        self.store = store
        self._local = Patterns(local)
        self._exclude = Patterns(exclude)
        self._prune = Prune(tuple(exclude), tuple(local), root)
        self._skip = len(root) + 1 if root else 0
        """Patterns begin at the root of the mount, paths at that of the workspace."""

    @property
    def prune(self) -> Prune | None:
        """What the box need not look into for this mount; None when it is to tell of everything."""
        return self._prune or None

    @property
    def anchored(self) -> bool:
        """Whether what is shown of a directory depends on where that is."""
        return self._prune.patterns.anchored

    @property
    def hides_anything(self) -> bool:
        """Whether there is any rule."""
        return bool(self._local) or bool(self._exclude)

    @property
    def has_local(self) -> bool:
        """Whether directories may be local."""
        return bool(self._local)

    def excluded(self, directory: Directory, name: bytes) -> bool:
        """Whether the name does not exist here."""
        return bool(self._exclude) and self._exclude.match(
            name, lambda: directory.child_path(name)[self._skip :]
        )

    def is_local(self, directory: Directory, name: bytes) -> bool:
        """Whether a directory of this name belongs to this machine."""
        return (
            bool(self._local)
            and self._local.match(name, lambda: directory.child_path(name)[self._skip :])
            and not self.excluded(directory, name)
        )

    def is_local_path(self, path: bytes) -> bool:
        """As is_local, for a path in the workspace."""
        name = path.rpartition(b"/")[2]
        return bool(self._local) and self._local.match(name, lambda: path[self._skip :])

    def tree(self, directory: Directory, name: bytes) -> bytes | None:
        """Return the path of the local tree of this name, None when there is none."""
        if not self.is_local(directory, name):
            return None
        path = directory.child_path(name)
        return path if self.store.exists(path) else None

    def trees(self, directory: Directory) -> list[bytes]:
        """List the names of the local trees in a directory."""
        if not self._local:
            return []
        names = self.store.names(directory.path())
        return sorted(name for name in names if self.is_local(directory, name))

    def hides(self, directory: Directory, name: bytes, attr: Attributes) -> bool:
        """Whether the box's object of this name is not shown."""
        if self.excluded(directory, name):
            return True
        return self.is_local(directory, name) and (
            stat.S_ISDIR(attr.mode) or self.store.exists(directory.child_path(name))
        )
