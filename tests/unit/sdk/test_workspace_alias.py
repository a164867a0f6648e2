"""``/workspace`` means the workspace, unless the box has such a directory itself."""

import time
from dataclasses import dataclass, field
from types import SimpleNamespace, TracebackType
from typing import Any, Self

import pytest

from sealos_devbox import BoxFileNotFoundError, CapabilityError
from sealos_devbox._async.connection import Link
from sealos_devbox.paths import names_alias

ROOT = b"/home/devbox/project"


@dataclass
class Answer:
    """A command that ends with an exit code, or cannot be run."""

    code: int | Exception

    @property
    def status(self) -> tuple[int | None, int | None]:
        assert isinstance(self.code, int)
        return self.code, None

    async def receive(self) -> None:
        if isinstance(self.code, Exception):
            raise self.code

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass


@dataclass
class Box:
    """The far end, as far as a Link needs it."""

    code: int | Exception
    root: bytes = ROOT
    commands: list[Any] = field(default_factory=list)

    @property
    def peer(self) -> SimpleNamespace:
        return SimpleNamespace(root=self.root, clock_ns=time.time_ns())

    def exec(self, argv: list[bytes]) -> Answer:
        self.commands.append(argv)
        return Answer(self.code)


def link(box: Box, **options: Any) -> Link:
    return Link(box, **options)  # type: ignore[arg-type]


async def test_a_box_without_such_a_directory_is_asked_once() -> None:
    box = Box(1)
    one = link(box)
    assert await one.wire("a/b") == b"a/b"
    assert await one.wire("/home/devbox/project/a") == b"a"
    assert box.commands == []  # nobody wrote /workspace
    assert await one.wire("/workspace/a") == b"a"
    assert await one.wire(b"/workspace") == b""
    assert len(box.commands) == 1


async def test_a_box_with_such_a_directory() -> None:
    one = link(Box(0))
    with pytest.raises(ValueError, match="a directory /workspace of its own"):
        await one.wire("/workspace/a")
    assert await one.wire("/home/devbox/project/a") == b"a"


async def test_a_box_whose_workspace_it_is() -> None:
    box = Box(0, root=b"/workspace")
    assert await link(box).wire("/workspace/a") == b"a"
    assert box.commands == []
    assert not names_alias("/workspace/a", b"/workspace")


@pytest.mark.parametrize("error", [CapabilityError("no exec"), BoxFileNotFoundError(2, "x")])
async def test_a_box_that_cannot_be_asked(error: Exception) -> None:
    assert await link(Box(error)).wire("/workspace/a") == b"a"


async def test_an_embedded_box_is_not_asked() -> None:
    box = Box(0)
    assert await link(box, alias=True).wire("/workspace/a") == b"a"
    assert box.commands == []
