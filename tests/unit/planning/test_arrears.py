"""What the objects of a cluster say of an account in arrears."""

from __future__ import annotations

from typing import Any

import pytest

from sealos_devbox import Arrears
from sealos_devbox._planning.arrears import read_arrears

QUOTA = {"metadata": {"name": "debt-limit0"}, "spec": {"hard": {"limits.cpu": "0"}}}


def namespace(status: str) -> dict[str, Any]:
    return {"metadata": {"name": "ns-test", "annotations": {"debt.sealos/status": status}}}


@pytest.mark.parametrize("status", ["Normal", "Resume", "ResumeCompleted", ""])
def test_a_workspace_that_is_well(status):
    assert read_arrears(namespace(status), None) is None


@pytest.mark.parametrize("there", [None, {}, {"metadata": {}}, {"metadata": {"annotations": None}}])
def test_what_is_not_there_or_not_marked_says_nothing(there):
    assert read_arrears(there, None) is None


@pytest.mark.parametrize(
    ("status", "deletes"),
    [
        ("Suspend", False),
        ("SuspendCompleted", False),
        ("TerminateSuspendCompleted", False),
        ("FinalDeletion", True),
        ("FinalDeletionCompleted", True),
        ("SomethingNew", False),
    ],
)
def test_a_mark(status, deletes):
    found = read_arrears(namespace(status), None)
    assert found == Arrears(status)
    assert found.deletes is deletes


def test_a_quota_alone():
    assert read_arrears(None, QUOTA) == Arrears("", no_pods=True)
    # It goes only when resuming has come to its end.
    assert read_arrears(namespace("Resume"), QUOTA) == Arrears("", no_pods=True)
    assert read_arrears(namespace("Suspend"), QUOTA) == Arrears("Suspend", no_pods=True)
