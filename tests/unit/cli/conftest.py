import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from devboxfs.config import MountConfig


@pytest.fixture
def anyio_backend() -> str:
    """The daemon is trio's."""
    return "trio"


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory with a short path: tests bind sockets in it, and sun_path holds 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="devbox-") as place:
        yield Path(place)


@pytest.fixture
def config(tmp_path: Path) -> MountConfig:
    """A mount on an empty directory, with all its places beside that."""
    (tmp_path / "mnt").mkdir()
    return MountConfig(
        name="my-box",
        mountpoint=tmp_path / "mnt",
        state_dir=tmp_path / "state",
        cache_dir=tmp_path / "cache",
        data_dir=tmp_path / "data",
        runtime_dirs=(tmp_path / "run" / "devboxfs", tmp_path / "state" / "run"),
        timeout=0.5,
    )
