"""Names: links, renames, directories, symbolic links. What a tmpfs answers is what is right."""

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuse.conftest import Place
from tests.support.accounts import Account
from tests.support.posix import RENAME_EXCHANGE, RENAME_NOREPLACE, opened, outcome, renameat2
from tests.support.trees import differences, wait_until_equal
from tests.support.waiting import wait_until

pytestmark = pytest.mark.each_account


def furnish(top: Path) -> None:
    """Two of everything."""
    for number in "12":
        (top / f"file{number}").write_bytes(b"file " + number.encode())
        (top / f"empty{number}").mkdir()
        (top / f"full{number}").mkdir()
        (top / f"full{number}" / "inner").write_bytes(b"inner " + number.encode())
        (top / f"link{number}").symlink_to(f"file{number}")


def shape(top: Path) -> list[tuple[str, str, int]]:
    found = []
    for path in sorted(top.glob("**/*")):
        info = path.lstat()
        found.append((str(path.relative_to(top)), stat.filemode(info.st_mode), info.st_nlink))
    return found


def renames(top: Path) -> dict[str, object]:
    """Every kind over every kind."""
    found: dict[str, object] = {}
    for source in ("file1", "empty1", "full1", "link1", "missing"):
        for target in ("file2", "empty2", "full2", "link2", "new", "missing/new", source):
            place = top / f"{source}-{target}".replace("/", "-")
            place.mkdir()
            furnish(place)
            said = outcome(os.rename, place / source, place / target)
            found[f"{source} to {target}"] = (said, shape(place))
    return found


def renames_with_flags(top: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for flags in (RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_NOREPLACE | RENAME_EXCHANGE, 1 << 20):
        for target in ("file2", "full2", "link2", "new"):
            for source in ("file1", "full1"):
                place = top / f"{flags}-{source}-{target}"
                place.mkdir()
                furnish(place)
                said = outcome(renameat2, place / source, place / target, flags)
                found[place.name] = (said, shape(place))
    return found


def renames_that_cannot_be(top: Path) -> list[object]:
    furnish(top)
    (top / "full1" / "deep").mkdir()
    os.link(top / "file1", top / "same-file")
    seen = [
        outcome(os.rename, top / "full1", top / "full1" / "deep" / "below"),
        outcome(os.rename, top / "full1", top / "full1"),
        outcome(os.rename, top / "full1" / "deep", top / "full1"),
        outcome(os.rename, top / "file1", top / "same-file"),
        outcome(os.rename, top / "file1", top / "file2" / "x"),
        outcome(os.rename, f"{top}/file1", f"{top}/new/"),
        outcome(os.rename, f"{top}/empty1/", f"{top}/empty3/"),
        outcome(os.rename, f"{top}/full1/.", f"{top}/other"),
        outcome(os.rename, top / "file1", "/proc/on-another-file-system"),
        outcome(renameat2, top / "full1", top / "full1" / "deep", RENAME_EXCHANGE),
    ]
    return [seen, shape(top)]


def exchanged_directories(top: Path) -> list[object]:
    furnish(top)
    with opened(top / "full1" / "inner", os.O_RDWR) as file:
        renameat2(top / "full1", top / "full2", RENAME_EXCHANGE)
        os.write(file, b"OPEN")
    renameat2(top / "file1", top / "full1" / "inner", RENAME_EXCHANGE)
    return [shape(top), (top / "full2" / "inner").read_bytes(), (top / "file1").read_bytes()]


def hard_links(top: Path) -> list[object]:
    furnish(top)
    seen = [
        outcome(os.link, top / "file1", top / "second"),
        outcome(os.link, top / "file1", top / "full1" / "third"),
        outcome(os.link, top / "file1", top / "file2"),
        outcome(os.link, top / "full1", top / "directory"),
        outcome(os.link, top / "missing", top / "other"),
        outcome(os.link, top / "file1", top / "missing" / "other"),
        outcome(os.link, top / "link1", top / "link-to-link", follow_symlinks=False),
    ]
    (top / "second").write_bytes(b"through the second name")
    (top / "full1" / "third").chmod(0o600)
    same = {os.stat(top / name).st_ino for name in ("file1", "second", "full1/third")}
    (top / "file1").unlink()
    (top / "second").rename(top / "renamed")
    return [seen, len(same), shape(top), (top / "full1" / "third").read_bytes()]


def link_counts_of_directories(top: Path) -> list[object]:
    seen = [top.stat().st_nlink]
    for name in ("a", "b", "a/c", "a/d"):
        (top / name).mkdir()
        seen += [top.stat().st_nlink, (top / "a").stat().st_nlink]
    (top / "a" / "c").rename(top / "b" / "c")
    seen += [(top / name).stat().st_nlink for name in ("a", "b")]
    (top / "b" / "c").rename(top / "a" / "d")
    seen += [(top / name).stat().st_nlink for name in ("a", "b")]
    (top / "a" / "d").rmdir()
    return [*seen, (top / "a").stat().st_nlink]


def removals(top: Path) -> list[object]:
    furnish(top)
    seen = [
        outcome(os.unlink, top / "full1"),
        outcome(os.unlink, top / "empty1"),
        outcome(os.rmdir, top / "file1"),
        outcome(os.rmdir, top / "full1"),
        outcome(os.rmdir, top / "link1"),
        outcome(os.rmdir, top / "missing"),
        outcome(os.unlink, top / "missing"),
        outcome(os.unlink, f"{top}/file1/"),
        outcome(os.rmdir, f"{top}/empty1/."),
        outcome(os.rmdir, f"{top}/empty1/.."),
        outcome(os.rmdir, f"{top}/empty1/"),
        outcome(os.rmdir, top / "empty2"),
        outcome(os.unlink, top / "link1"),
    ]
    return [seen, shape(top)]


def creations(top: Path) -> list[object]:
    furnish(top)
    seen = [
        outcome(os.mkdir, top / "file1"),
        outcome(os.mkdir, top / "full1"),
        outcome(os.mkdir, top / "link1"),
        outcome(os.mkdir, f"{top}/new/"),
        outcome(os.mkdir, f"{top}/."),
        outcome(os.mkdir, f"{top}/.."),
        outcome(os.mkdir, top / "missing" / "new"),
        outcome(os.symlink, "x", top / "file1"),
        outcome(os.symlink, "", top / "nowhere"),
        outcome(os.mkfifo, top / "full1"),
    ]
    return [seen, shape(top)]


def symbolic_links(top: Path) -> list[object]:
    furnish(top)
    targets = ["loop", "../" + top.name + "/file1", "full1/inner", "file1/", "a" * 300, ".", "/"]
    for number, target in enumerate(targets):
        (top / f"to{number}").symlink_to(target)
    (top / "loop").symlink_to("to0")
    (top / "chain0").symlink_to("file1")
    for number in range(1, 50):
        (top / f"chain{number}").symlink_to(f"chain{number - 1}")
    seen: list[object] = [outcome(os.readlink, top / "file1"), outcome(os.readlink, top / "full1")]
    for number in range(len(targets)):
        path = top / f"to{number}"
        seen += [os.readlink(path), path.lstat().st_size, outcome(path.read_bytes)]
    seen += [outcome((top / f"chain{number}").read_bytes) for number in (5, 39, 40, 45)]
    (top / "via").symlink_to("full1")
    (top / "via" / "made").write_bytes(b"through a link to a directory")
    return [*seen, sorted(os.listdir(top / "via")), shape(top / "full1")]


def a_directory_removed_while_open(top: Path) -> list[object]:
    (top / "gone").mkdir()
    with opened(top / "gone", os.O_RDONLY | os.O_DIRECTORY) as directory:
        os.rmdir(top / "gone")
        seen = [
            outcome(os.listdir, directory),
            outcome(os.open, "new", os.O_CREAT | os.O_WRONLY, dir_fd=directory),
            outcome(os.mkdir, "new", dir_fd=directory),
            os.fstat(directory).st_nlink,
            outcome(os.stat, "..", dir_fd=directory),
        ]
    return seen[:4]


def inode_numbers(top: Path) -> list[object]:
    furnish(top)
    listed = {entry.name: entry.inode() for entry in os.scandir(top)}
    stated = {path.name: path.lstat().st_ino for path in top.iterdir()}
    kinds = {entry.name: (entry.is_dir(), entry.is_file(), entry.is_symlink())
             for entry in os.scandir(top)}  # fmt: skip
    before = (top / "file1").stat().st_ino
    (top / "file1").write_bytes(b"another content")
    (top / "file1").rename(top / "moved")
    kept = (top / "moved").stat().st_ino == before
    parent = os.stat(top / "full1" / "..").st_ino == os.stat(top).st_ino
    return [listed == stated, len(set(stated.values())), kept, parent, sorted(kinds.items())]


def names_that_differ_in_case(top: Path) -> list[object]:
    for name in ("name", "Name", "NAME"):
        (top / name).write_text(name)
    (top / "name").rename(top / "nAME")
    return [(path.name, path.read_text()) for path in sorted(top.iterdir())]


def trees_removed_and_made_again(top: Path) -> list[object]:
    for round_ in range(5):
        (top / "tree" / "deep" / "er").mkdir(parents=True)
        for number in range(20):
            (top / "tree" / "deep" / "er" / f"file{number}").write_bytes(b"%d" % round_)
        if round_ < 4:
            shutil.rmtree(top / "tree")
    return shape(top)


SCENARIOS: list[Callable[[Path], object]] = [
    renames,
    renames_with_flags,
    renames_that_cannot_be,
    exchanged_directories,
    hard_links,
    link_counts_of_directories,
    removals,
    creations,
    symbolic_links,
    a_directory_removed_while_open,
    inode_numbers,
    names_that_differ_in_case,
    trees_removed_and_made_again,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.__name__)
def test_names_behave_as_on_a_tmpfs(
    account: Account, place: Place, scenario: Callable[[Path], object]
) -> None:
    # Links name the directory they are in: it has the same name on both sides.
    here, there = place.mount / "top", place.local / "top"
    here.mkdir()
    there.mkdir()
    assert scenario(here) == scenario(there)
    assert differences(place.mount, place.local, times="") == []
    wait_until_equal(place.mount, place.box, timeout=10)


def test_listing_while_names_come_and_go(account: Account, place: Place) -> None:
    """What was there all the time is listed once, whatever happens around it."""
    stay = {f"stay{number}" for number in range(400)}
    for name in sorted(stay):
        (place.mount / name).touch()
    for number in range(400):
        (place.mount / f"go{number}").touch()
    seen = []
    with os.scandir(place.mount) as entries:
        for count, entry in enumerate(entries):
            seen.append(entry.name)
            if count % 2 == 0 and count < 800:
                (place.mount / f"go{count // 2}").unlink(missing_ok=True)
                (place.mount / f"new{count}").touch()
    assert [name for name in seen if name in stay] != []
    assert sorted(name for name in seen if name in stay) == sorted(stay)
    assert len(set(seen)) == len(seen)
    for path in place.mount.glob("go*"):
        path.unlink()
    now = sorted(os.listdir(place.mount))
    assert now == sorted(stay | {name for name in now if name.startswith("new")})
    assert len(now) > len(stay)
    wait_until(lambda: sorted(os.listdir(place.box)) == now, timeout=10)


def test_a_large_directory(account: Account, place: Place) -> None:
    names = sorted(f"{number:04}-{'n' * (number % 200)}" for number in range(3000))
    for name in names:
        os.close(os.open(place.mount / name, os.O_CREAT | os.O_WRONLY))
    assert sorted(os.listdir(place.mount)) == names
    with opened(place.mount, os.O_RDONLY | os.O_DIRECTORY) as directory:
        assert sorted(os.listdir(directory)) == names
        (place.mount / names[0]).unlink()
        assert sorted(os.listdir(directory)) == names[1:]
    place.sync()
    assert sorted(os.listdir(place.box)) == names[1:]
