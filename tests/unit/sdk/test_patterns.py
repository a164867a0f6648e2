"""Patterns of names; the vectors are tried by the helper, too."""

import json
from pathlib import Path

import pytest

from sealos_devbox import Patterns, Prune, check_pattern

VECTORS = json.loads(
    (Path(__file__).parents[3] / "sdk/testvectors/patterns.json").read_text(encoding="utf-8")
)


def _text(written: str) -> str:
    return bytes.fromhex(written).decode("utf-8", "surrogateescape")


@pytest.mark.parametrize("vector", VECTORS["matches"], ids=lambda v: _text(v["pattern"])[:12])
def test_match(vector: dict[str, object]) -> None:
    path = bytes.fromhex(str(vector["path"]))
    patterns = Patterns([_text(str(vector["pattern"]))])
    assert patterns.match(path.rpartition(b"/")[2], lambda: path) is vector["match"]


@pytest.mark.parametrize("written", VECTORS["refused"])
def test_nonsense_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        check_pattern(_text(written))
    with pytest.raises(ValueError, match=r"."):
        Prune(directories=(_text(written),))


def test_a_plain_name_does_not_need_the_path() -> None:
    patterns = Patterns([".venv", "*.tmp"])

    def never() -> bytes:
        raise AssertionError

    assert patterns.match(b".venv", never)
    assert patterns.match(b"a.tmp", never)
    assert not patterns.match(b"other", never)
    assert patterns
    assert not patterns.anchored
    assert Patterns(["/a"]).anchored
    assert not Patterns([])


def test_patterns_begin_at_a_base() -> None:
    prune = Prune(("x",), ("/y",), b"base")
    assert prune.matches(b"base/a/x")
    assert prune.matches(b"base/y")
    assert not prune.matches(b"base/a/y")
    assert not prune.matches(b"x")
    assert not prune.matches(b"y")
    assert not Prune((), (), b"base")
    assert prune.wire() == [b"base", [b"x"], [b"/y"]]
