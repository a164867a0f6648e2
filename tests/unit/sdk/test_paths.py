"""Paths, as callers write them and as the wire wants them."""

import errno
import os
import stat
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealos_devbox import BoxFileError
from sealos_devbox.paths import box_path, parent, path_text, prefixes, resolve
from sealos_devbox.types import Attributes

ROOT = b"/home/devbox/project"


@pytest.mark.parametrize(
    ("given", "wire"),
    [
        (".", b""),
        ("a", b"a"),
        ("./a//b/", b"a/b"),
        ("a/../b", b"b"),
        ("/workspace", b""),
        ("/workspace/", b""),
        ("/workspace/a/b", b"a/b"),
        ("/workspace/../workspace/a", None),
        ("/home/devbox/project", b""),
        ("/home/devbox/project/a", b"a"),
        ("/home/devbox/projects", None),
        ("/workspaces/a", None),
        ("/etc/passwd", None),
        ("/", None),
        ("..", None),
        ("a/../../b", None),
        ("", None),
        ("a\0b", None),
        ("-rf", b"-rf"),
        ('it\'s "q"\n', b'it\'s "q"\n'),
        ("\udcff\udc80", b"\xff\x80"),
        (b"\xff", b"\xff"),
        (PurePosixPath("a/b"), b"a/b"),
        ("a" * 300, b"a" * 300),  # ENAMETOOLONG is for the box to say
    ],
)
def test_box_path(given: str | bytes | os.PathLike[str], wire: bytes | None) -> None:
    if wire is None:
        with pytest.raises(ValueError, match=r"path|leads out|outside"):
            box_path(given, ROOT)
    else:
        assert box_path(given, ROOT) == wire


def test_the_boxs_own_path_comes_before_the_alias() -> None:
    assert box_path("/workspace/x", b"/workspace/x") == b""
    assert box_path("/workspace/y", b"/workspace/x") == b"y"


def test_root_of_the_whole_file_system() -> None:
    assert box_path("/etc/passwd", b"/") == b"etc/passwd"
    assert box_path("/", b"/") == b""


names = st.binary(min_size=1, max_size=5).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)


@given(st.lists(names, max_size=5).map(b"/".join))
def test_text_and_wire_are_the_same_path(path: bytes) -> None:
    assert box_path(path_text(path), ROOT) == path
    assert box_path(ROOT + b"/" + path, ROOT) == path


def test_parent_and_prefixes() -> None:
    assert parent(b"a/b/c") == b"a/b"
    assert parent(b"a") == b""
    assert parent(b"") == b""
    assert prefixes(b"a/b/c") == [b"a", b"a/b", b"a/b/c"]
    assert prefixes(b"") == []


def attributes(mode: int, target: bytes | None = None) -> Attributes:
    return Attributes(mode, 1, 0, 0, 0, 1, 0, 0, 0, target=target)


DIRECTORY = attributes(stat.S_IFDIR | 0o755)
FILE = attributes(stat.S_IFREG | 0o644)


def link(target: bytes) -> Attributes:
    return attributes(stat.S_IFLNK | 0o777, target)


def resolved(path: bytes, box: dict[bytes, Attributes], *, final: bool = True) -> bytes:
    """Resolve as the client does, asking a box that is a dict; every question is new."""
    known: dict[bytes, Attributes | int] = {}
    while True:
        result = resolve(path, known, ROOT, final=final)
        if not result.unknown:
            assert result.path is not None
            return result.path
        assert not set(result.unknown) & set(known)
        for unknown in result.unknown:
            known[unknown] = box.get(unknown, errno.ENOENT)


BOX = {
    b"d": DIRECTORY,
    b"d/f": FILE,
    b"d/e": DIRECTORY,
    b"to_d": link(b"d"),
    b"d/up": link(b"../d/e"),
    b"absolute": link(ROOT + b"/d"),
    b"dangling": link(b"d/nothing/at/all"),
    b"chain": link(b"to_d/up"),
    b"out": link(b"../../x"),
    b"out_absolute": link(b"/etc"),
    b"loop": link(b"loop"),
    b"up_from_nothing": link(b"nothing/../d"),
}


@pytest.mark.parametrize(
    ("path", "final", "expected"),
    [
        (b"", True, b""),
        (b"d/f", True, b"d/f"),
        (b"to_d/f", True, b"d/f"),
        (b"to_d", True, b"d"),
        (b"to_d", False, b"to_d"),
        (b"to_d/up", False, b"d/up"),
        (b"to_d/up/new", False, b"d/e/new"),
        (b"chain", True, b"d/e"),
        (b"absolute/f", True, b"d/f"),
        (b"dangling", True, b"d/nothing/at/all"),
        (b"new/deep/name", True, b"new/deep/name"),
        (b"to_d/new", True, b"d/new"),
    ],
)
def test_resolve(path: bytes, final: bool, expected: bytes) -> None:
    assert resolved(path, BOX, final=final) == expected


@pytest.mark.parametrize(
    ("path", "number"),
    [
        (b"out/x", errno.EXDEV),
        (b"out_absolute/x", errno.EXDEV),
        (b"loop/x", errno.ELOOP),
        (b"up_from_nothing/x", errno.ENOENT),
    ],
)
def test_resolve_refuses(path: bytes, number: int) -> None:
    with pytest.raises(BoxFileError) as caught:
        resolved(path, BOX)
    assert caught.value.errno == number


letters = st.sampled_from([b"a", b"b", b"c"])
targets = st.lists(st.sampled_from([b"a", b"b", b"c", b"..", b"."]), min_size=1, max_size=4)
trees = st.dictionaries(
    st.lists(letters, min_size=1, max_size=3).map(tuple),
    st.one_of(st.just(None), targets.map(b"/".join)),
    max_size=8,
)


@given(
    tree=trees, path=st.lists(letters, min_size=1, max_size=4).map(b"/".join), final=st.booleans()
)
def test_resolve_agrees_with_the_file_system(
    tmp_path_factory: pytest.TempPathFactory,
    tree: dict[tuple[bytes, ...], bytes | None],
    path: bytes,
    final: bool,
) -> None:
    """None of `tree` is a directory, bytes a link; the truth is os.path.realpath."""
    top = tmp_path_factory.mktemp("tree", numbered=True).resolve()
    # So deep that what is made through a link like ../../../.. is still below `top`.
    root = os.fsencode(top.joinpath(*["deep"] * 16))
    os.makedirs(root)
    for names, target in sorted(tree.items()):
        place = os.path.join(root, *names)
        try:
            os.mkdir(place) if target is None else os.symlink(target, place)
        except OSError:
            continue  # below something that is no directory, or there already

    def look(unknown: bytes) -> Attributes | int:
        try:
            found = os.lstat(os.path.join(root, unknown))
        except OSError as error:
            return error.errno or errno.EIO
        is_link = stat.S_ISLNK(found.st_mode)
        return attributes(
            found.st_mode, os.readlink(os.path.join(root, unknown)) if is_link else None
        )

    known: dict[bytes, Attributes | int] = {}
    result = resolve(path, known, root, final=final)
    try:
        while result.unknown:
            known.update((unknown, look(unknown)) for unknown in result.unknown)
            result = resolve(path, known, root, final=final)
    except BoxFileError as error:
        if error.errno == errno.ELOOP:
            with pytest.raises(OSError, match="symbolic"):
                os.stat(os.path.join(root, path))
        elif error.errno == errno.ENOENT:
            with pytest.raises(FileNotFoundError):
                os.stat(os.path.join(root, path))
        elif error.errno != errno.EXDEV:
            raise
        return
    assert result.path is not None
    whole = os.path.join(root, path)
    if not final:
        whole = os.path.join(os.path.realpath(os.path.dirname(whole)), os.path.basename(whole))
    else:
        whole = os.path.realpath(whole)
    assert os.path.join(root, result.path).rstrip(b"/") == whole
