"""No test session starts or ends with a mount that an aborted one left behind.

Asynchronous tests run on asyncio and on trio, which is the default of anyio's plugin; a directory
whose tests need one of them overrides the fixture `anyio_backend`.
"""

import errno
import os
import re
import signal
import subprocess
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.accounts import Account
from tests.support.long import LONG

ASKED_FOR = ["cluster", "node"]

# An example may take as long as a busy machine makes it: a whole test has a time limit.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_configure() -> None:
    """Take Ctrl-C as on a terminal: a background job ignores SIGINT, and tests send it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the tests on real clusters and runtimes to those who name them."""
    if collection_path.parent == Path(__file__).parent and collection_path.name in ASKED_FOR:
        named = [Path(config.invocation_params.dir, it.split("::")[0]) for it in config.args]
        if not any(path.resolve().is_relative_to(collection_path) for path in named):
            return True
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run a test with one account, half of them as root, unless it is about accounts.

    DEVBOX_TEST_LONG=1 runs every test with each account.
    """
    twins: dict[str, list[pytest.Item]] = {}
    for item in items:
        account = account_of(item)
        if account is not None and item.get_closest_marker("each_account") is None and not LONG:
            twins.setdefault(item.nodeid.replace(f"as_{account.label}", ""), []).append(item)
    left = set()
    for name, each in twins.items():
        chosen = zlib.crc32(name.encode()) % len(each)
        left |= {item for item in each if item is not each[chosen]}
    if left:
        config.hook.pytest_deselected(items=[item for item in items if item in left])
        items[:] = [item for item in items if item not in left]


def account_of(item: pytest.Item) -> Account | None:
    account = item.callspec.params.get("account") if hasattr(item, "callspec") else None
    return account if isinstance(account, Account) else None


def pytest_sessionstart(session: pytest.Session) -> None:
    # Once, before the workers of pytest-xdist begin: to one of them, a mount that is dead because
    # the other one's test wants it so would look like a left-over.
    if not hasattr(session.config, "workerinput"):
        unmount(mount for mount in temporary_mounts() if is_dead(mount))


@pytest.fixture(scope="session", autouse=True)
def _sweep_mounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    yield
    ours = tmp_path_factory.getbasetemp()
    unmount(mount for mount in temporary_mounts() if mount.is_relative_to(ours))


def temporary_mounts() -> list[Path]:
    """Mounts below the directory for temporary files: a user's own are somewhere else."""
    mounts = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields, _, source = line.partition(b" - ")
        if source.startswith(b"fuse.devboxfs "):
            escaped = fields.split()[4]
            name = re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), escaped)
            mounts.append(Path(os.fsdecode(name)))
    return [mount for mount in mounts if mount.is_relative_to(tempfile.gettempdir())]


def is_dead(mount: Path) -> bool:
    """Whether no daemon answers; unlike `stat`, `statvfs` is never answered from a cache."""
    try:
        os.statvfs(mount)
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def unmount(mounts: Iterable[Path]) -> None:
    for mount in mounts:
        subprocess.run(["fusermount3", "-u", "-z", mount], check=True)
