"""Extended attributes: what is asked of the box, and what is known until an object changes."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio

from devboxfs.core.node import Directory, Node
from devboxfs.core.permissions import BoxUser
from devboxfs.vfs.xattrs import XATTR_AHEAD, ExtendedAttributes
from sealos_devbox import BoxFileError
from tests.unit.vfs.tables import DIRECTORY, attributes, listing
from tests.unit.vfs.test_settling import Mount

FILES = 200


class Box(Mount):
    """A directory of files, and a transport that counts who waits for it at the same time."""

    def __init__(self) -> None:
        super().__init__()
        listing(self.table, self.table.root, {b"d": attributes(10, mode=DIRECTORY, nlink=2)})
        directory = self.table.root.children[b"d"]
        assert isinstance(directory, Directory)
        self.directory = directory
        files = {b"f%03d" % n: attributes(100 + n) for n in range(FILES)}
        listing(self.table, directory, files)
        self.asked: list[bytes] = []
        self.waits = 0
        self.errno = 0
        self.xattrs = ExtendedAttributes(
            cast(Any, self),
            cast(Any, self),
            BoxUser(0, 0, frozenset()),
            cast(Any, None),
            cast(Any, None),
        )

    def deadline(self) -> float:
        return trio.current_time() + 30

    async def wait_moves(self) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_transport(self, _previous: object = None) -> Box:
        return self

    async def listxattr(self, path: bytes) -> list[bytes]:
        self.asked.append(path)
        await trio.sleep(1)
        if self.errno and path == b"d/f005":
            raise BoxFileError(self.errno, "refused", path)
        return [b"user.one", b"security.capability"]

    async def names(self, *files: Node) -> list[list[bytes]]:
        return [await self.xattrs.names(file) for file in files]

    def run(self, *files: Node) -> list[list[bytes]]:
        """Return what is listed; `waits` are the round trips, of one second each."""

        async def main() -> list[list[bytes]]:
            began = trio.current_time()
            result = await self.names(*files)
            self.waits = round(trio.current_time() - began)
            return result

        return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.fixture
def box() -> Box:
    return Box()


def test_one_object_is_asked_about_alone_and_once(box: Box) -> None:
    file = box.directory.children[b"f007"]
    assert box.run(file, file) == [[b"user.one"]] * 2
    assert box.asked == [b"d/f007"]


def test_entries_that_are_asked_about_one_after_the_other(box: Box) -> None:
    files = list(box.directory.children.values())
    assert box.run(*files) == [[b"user.one"]] * FILES
    assert sorted(box.asked) == [b"d/f%03d" % n for n in range(FILES)]
    assert box.waits <= 6 + -(-FILES // XATTR_AHEAD) + 1
    assert box.run(*files) == [[b"user.one"]] * FILES
    assert box.waits == 0


def test_an_error_is_told_to_who_asks_for_that_object(box: Box) -> None:
    box.errno = 13
    files = list(box.directory.children.values())
    box.run(*files[:5])
    with pytest.raises(BoxFileError):
        box.run(files[5])
    assert box.run(files[6]) == [[b"user.one"]]


def test_what_changes_is_asked_about_again(box: Box) -> None:
    for node, name in ((box.directory.children[b"f001"], b"f001"), (box.directory, b"d")):
        box.run(node)
        node.xattrs = {b"user.one": b"value"}
        parent = node.parent
        assert parent is not None
        attr = attributes(node.ino, mode=node.mode, nlink=node.nlink, time=7)
        box.table.remote_name(parent, name, attr, 2)
        assert (node.xattrs, node.xattr_names) == (None, None)
