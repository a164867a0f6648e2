"""Mounted boxes for tests, as root and as an ordinary user.

A test that uses the fixture `account`, directly or through another fixture, has its body run
with that account's credentials. Fixtures of module scope are made once per account; a test that
breaks its mount uses `box` or `make_box`.
"""

import functools
import itertools
import os
import re
import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fuse.lifecycle_box import StandIn
from tests.support.accounts import ACCOUNTS, LAUNCHER, Account
from tests.support.commands import run
from tests.support.mounts import PLAIN, TMPFS, MountedBox, remove_tree

MakeBox = Callable[..., MountedBox]
_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.fuse)
            if not PLAIN and not os.path.exists("/dev/fuse"):
                item.add_marker(pytest.mark.skip(reason="there is no /dev/fuse here"))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    account = pyfuncitem.funcargs.get("account")
    body = pyfuncitem.obj
    if isinstance(account, Account) and account.uid != LAUNCHER:
        pyfuncitem.obj = functools.partial(account.perform, body)
    try:
        return (yield)
    finally:
        pyfuncitem.obj = body


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for value in item.funcargs.values():
            if isinstance(value, MountedBox) and value.home.exists():
                report.sections.append((f"log of {value.mount}", value.log_tail()))
    return report


@pytest.fixture(scope="module", params=ACCOUNTS, ids=lambda account: f"as_{account.label}")
def account(request: pytest.FixtureRequest) -> Account:
    """Who does what the test does."""
    chosen: Account = request.param
    if chosen.is_root and LAUNCHER != 0:
        pytest.skip("only root can do this")
    return chosen


def _close(box: MountedBox) -> None:
    log = box.log_tail()
    complaints = box.close()
    if complaints:
        pytest.fail("\n".join([*complaints, "The daemon's log:", log]), pytrace=False)


@pytest.fixture(scope="module")
def shared(account: Account) -> Iterator[MountedBox]:
    """A mount for all tests of a module that leave it as they found it."""
    box = MountedBox(account)
    try:
        box.start()
        yield box
    finally:
        _close(box)


@pytest.fixture
def make_box(account: Account) -> Iterator[MakeBox]:
    """Make boxes that are not mounted yet."""
    made: list[MountedBox] = []

    def make(**options: object) -> MountedBox:
        made.append(MountedBox(account, **options))
        return made[-1]

    yield make
    for box in made:
        _close(box)


@pytest.fixture
def standin(account: Account) -> Iterator[StandIn]:
    """A mount without a box behind it, for what is about daemons and mount points."""
    made = StandIn(account)
    yield made
    complaints = made.close()
    assert not complaints


@pytest.fixture
def box(account: Account) -> Iterator[MountedBox]:
    """A mount of the test's own."""
    one = MountedBox(account)
    try:
        yield one.start()
    finally:
        _close(one)


@dataclass(frozen=True)
class Place:
    """A directory of one test: seen through the mount, seen in the box, and its local twin."""

    mount: Path
    box: Path
    local: Path
    """An empty directory of a local file system, for what is to be compared."""
    owner: MountedBox

    def sync(self) -> None:
        self.owner.sync()

    def run(self, *argv: str | os.PathLike[str], **options: object):
        """Run a program in the mounted directory, with the mount's environment."""
        return run(*argv, **{"cwd": self.mount, "env": self.owner.environment, **options})


@pytest.fixture
def second(box: MountedBox, account: Account) -> Iterator[Path]:
    """Another mount of the box of this test."""
    place = box.home / "second"
    account.perform(place.mkdir)
    box.devboxfs("mount", box.name, place)
    try:
        yield place
    finally:
        box.devboxfs("umount", place)


@pytest.fixture
def place(shared: MountedBox, request: pytest.FixtureRequest) -> Iterator[Place]:
    """A fresh directory in the shared mount."""
    account = shared.account
    name = f"{next(_numbers)}-" + re.sub(r"\W+", "-", request.node.name)[:60]
    local = Path(tempfile.mkdtemp(prefix="devboxfs-test-", dir=TMPFS if TMPFS.is_dir() else None))
    try:
        account.own(local)
        account.perform((shared.mount / name).mkdir)
        yield Place(shared.mount / name, shared.box / name, local, shared)
    finally:
        remove_tree(local)
