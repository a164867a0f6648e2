"""Mounts for the suites that hold the mount to what a local disk does."""

import os
from pathlib import Path

import pytest

from tests.support.mounts import PLAIN

# pytest finds fixtures by name in the modules of the directory.
from tests.fuse.conftest import (  # isort: skip
    account,
    box,
    make_box,
    place,
    pytest_pyfunc_call,
    pytest_runtest_makereport,
    shared,
)

__all__ = [
    "account",
    "box",
    "make_box",
    "place",
    "pytest_pyfunc_call",
    "pytest_runtest_makereport",
    "shared",
]

LONG = os.environ.get("DEVBOX_TEST_LONG") == "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.fuse)
            item.add_marker(pytest.mark.slow)
            if not PLAIN and not os.path.exists("/dev/fuse"):
                item.add_marker(pytest.mark.skip(reason="there is no /dev/fuse here"))
