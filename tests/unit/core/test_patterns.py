"""Patterns of names."""

import pytest

from devboxfs.core.patterns import Patterns, check_pattern


def matches(pattern: str, path: str) -> bool:
    name = path.rpartition("/")[2]
    return Patterns([pattern]).match(name.encode(), path.encode)


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("node_modules", "node_modules", True),
        ("node_modules", "a/b/node_modules", True),
        ("node_modules", "a/node_modules2", False),
        ("node_modules/", "a/node_modules", True),
        ("**/target", "target", True),
        ("**/target", "x/y/target", True),
        ("/target", "target", True),
        ("/target", "x/target", False),
        ("a/b", "a/b", True),
        ("a/b", "x/a/b", False),
        ("**/a/b", "x/a/b", True),
        ("**/a/b", "a/b", True),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("a/**", "a/x/y", True),
        ("a/**", "a", False),
        ("*.log", "x/y.log", True),
        ("*.log", "x/.log", True),
        ("*.log", "x/y.logs", False),
        ("a/*/c", "a/b/c", True),
        ("a/*/c", "a/b/d/c", False),
        ("?.o", "x/a.o", True),
        ("?.o", "x/ab.o", False),
        ("[ab].o", "b.o", True),
        ("[!ab].o", "b.o", False),
        ("[!ab].o", "c.o", True),
        ("[a-c]x", "bx", True),
        ("[]x]", "]", True),
        (r"\*", "*", True),
        (r"\*", "x", False),
        ("ünder", "x/ünder", True),
        ("a.b", "axb", False),
        ("a\nb", "a\nb", True),
    ],
)
def test_match(pattern: str, path: str, expected: bool) -> None:
    assert matches(pattern, path) is expected


@pytest.mark.parametrize(
    "pattern", ["", "/", "//", "a//b", "../a", "a/./b", "**", "**/**", "a\\", "[a", "[z-a]", "a\0b"]
)
def test_nonsense_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        check_pattern(pattern)


def test_a_plain_name_does_not_need_the_path() -> None:
    patterns = Patterns([".venv", "*.tmp"])

    def never() -> bytes:
        raise AssertionError

    assert patterns.match(b".venv", never)
    assert patterns.match(b"a.tmp", never)
    assert not patterns.match(b"other", never)
    assert patterns
    assert not Patterns([])
