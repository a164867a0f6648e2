"""The rules of prefetching: scans are recognised, windows grow and shrink."""

import zlib
from collections.abc import Iterator

from devboxfs.core.chunks import MEDIUM
from devboxfs.core.prefetch import (
    LEVELS,
    Candidate,
    Prefetch,
    Scan,
    Window,
    git_companions,
    git_directory,
    is_git_companion,
)
from sealos_devbox import Version


def candidate(path: str, size: int = 100) -> Candidate:
    return Candidate(path.encode(), Version(zlib.crc32(path.encode()), 1, 1, size))


def files(count: int, size: int = 100, directory: str = "d") -> list[Candidate]:
    return [candidate(f"{directory}/f{number}", size) for number in range(count)]


def window(prefetch: Prefetch, scan: Scan, candidates: list[Candidate]) -> Window:
    chosen = prefetch.plan(scan, iter(candidates), lambda _: False)
    begun = prefetch.begin(scan, len(chosen))
    assert begun is not None
    return begun


def test_first_window_is_small() -> None:
    prefetch = Prefetch()
    scan = prefetch.miss(b"d/f0")
    assert len(prefetch.plan(scan, files(5000)[1:], lambda _: False)) == LEVELS[1][0]


def test_a_walk_that_reads_its_guesses_is_given_more_before_they_run_out() -> None:
    prefetch = Prefetch()
    tree = files(5000)
    scan = prefetch.miss(tree[0].path)
    at = 1
    sizes = []
    current = window(prefetch, scan, tree[at:])
    while len(sizes) < 5:
        sizes.append(current.guesses)
        end = at + current.guesses
        grown = None
        while grown is None:
            grown = prefetch.used(current, tree[at].path)
            at += 1
        assert grown is scan
        assert at < end
        assert scan.position == tree[end - 1].path
        at, current = end, window(prefetch, scan, tree[end:])
    assert sizes == [32, 448, 448, 1024, 1024]


def test_a_window_asks_for_the_next_one_once() -> None:
    prefetch = Prefetch()
    scan = prefetch.miss(b"d/f0")
    begun = window(prefetch, scan, files(33)[1:])
    answers = [prefetch.used(begun, b"d/x") for _ in range(32)]
    assert [answer for answer in answers if answer is not None] == [scan]


def test_bytes_bound_a_window() -> None:
    prefetch = Prefetch()
    prefetch.most_bytes = 100_000
    scan = prefetch.miss(b"d/f0")
    chosen = prefetch.plan(scan, files(50, 30_000)[1:], lambda _: False)
    assert sum(each.size for each in chosen) <= 100_000
    assert len(chosen) == 3


def test_what_is_there_empty_or_large_is_passed_over() -> None:
    prefetch = Prefetch()
    scan = prefetch.miss(b"d/f0")
    offered = [candidate("d/a", 0), candidate("d/b", MEDIUM + 1), *files(3), candidate("d/z")]
    chosen = prefetch.plan(scan, offered, lambda each: each.path == b"d/f1")
    assert [each.path for each in chosen] == [b"d/f0", b"d/f2", b"d/z"]


def test_a_tree_that_is_there_is_not_looked_through() -> None:
    prefetch = Prefetch()
    scan = prefetch.miss(b"d/f0")
    looked: list[Candidate] = []

    def have(candidate: Candidate) -> bool:
        looked.append(candidate)
        return True

    assert prefetch.plan(scan, files(5000), have) == []
    assert len(looked) == 256


def test_a_walk_over_files_too_large_for_its_window_is_recognised() -> None:
    prefetch = Prefetch()
    tree = files(20, 2_000_000)
    scan = prefetch.miss(tree[0].path)
    at, guessed = 1, []
    for _ in range(3):
        chosen = prefetch.plan(scan, tree[at:], lambda _: False)
        guessed.append(len(chosen))
        at += len(chosen)
        assert prefetch.miss(tree[at].path) is scan
        at += 1
    assert guessed == [0, 2, 2]


def test_random_reads_shrink_to_a_handful() -> None:
    prefetch = Prefetch()
    sizes = []
    for number in range(12):
        directory = f"top{number}/middle/inner"
        scan = prefetch.miss(f"{directory}/wanted".encode())
        begun = window(prefetch, scan, files(100, directory=directory))
        begun.arrived = True
        sizes.append(begun.guesses)
    assert sizes[0] == 32
    assert sizes[-8:] == [4] * 8
    assert sum(sizes) < 150


def test_random_reads_in_one_directory_shrink_too() -> None:
    prefetch = Prefetch()
    sizes = []
    for number in range(10):
        scan = prefetch.miss(f"d/r{number}".encode())
        begun = window(prefetch, scan, files(100))
        begun.arrived = True
        sizes.append(begun.guesses)
    assert sizes[-5:] == [4] * 5


def test_a_walk_after_random_reads_grows_again() -> None:
    prefetch = Prefetch()
    for number in range(12):
        scan = prefetch.miss(f"top{number}/middle/inner/wanted".encode())
        window(prefetch, scan, files(10)).arrived = True
    tree = files(5000, directory="other/place/here")
    scan = prefetch.miss(tree[0].path)
    begun = window(prefetch, scan, tree[1:])
    assert begun.guesses == 4
    for number in range(1, 5):
        prefetch.used(begun, tree[number].path)
    assert window(prefetch, scan, tree[5:]).guesses == 32


def test_guesses_on_their_way_are_not_held_against_a_walk() -> None:
    prefetch = Prefetch()
    levels = set()
    for number in range(8):
        scan = prefetch.miss(f"d/f{number}".encode())
        window(prefetch, scan, files(100))
        levels.add(scan.level)
    assert levels == {1}


def test_a_subdirectory_continues_a_walk_and_another_tree_does_not() -> None:
    prefetch = Prefetch()
    first = prefetch.miss(b"a/b/file")
    assert prefetch.miss(b"a/b/c/file") is first
    assert prefetch.miss(b"a/d/file") is first
    assert prefetch.miss(b"other/tree/here/file") is not first


def test_a_walk_deep_in_the_tree_keeps_its_own_window() -> None:
    prefetch = Prefetch()
    one = prefetch.miss(b"x/one/deep/f")
    two = prefetch.miss(b"y/two/deep/f")
    assert one is not two
    assert prefetch.miss(b"x/one/deep/g") is one
    assert prefetch.miss(b"y/two/deep/g") is two


class Repository:
    """A source with a git directory."""

    def __init__(self, entries: list[Candidate]) -> None:
        self.entries = entries

    def following(self, path: bytes) -> Iterator[Candidate]:
        raise AssertionError("git's own files are not guessed by their order")

    def inside(self, directory: bytes, *, recursive: bool) -> Iterator[Candidate]:
        base = directory + b"/" if directory else b""
        for entry in self.entries:
            if entry.path.startswith(base):
                rest = entry.path[len(base) :]
                if recursive or b"/" not in rest:
                    yield entry


REPOSITORY = Repository(
    [
        candidate("r/.git/HEAD", 20),
        candidate("r/.git/config", 200),
        candidate("r/.git/index", 900_000),
        candidate("r/.git/packed-refs", 70_000),
        candidate("r/.git/huge", 70_000),
        candidate("r/.git/hooks/pre-commit.sample", 1000),
        candidate("r/.git/info/exclude", 240),
        candidate("r/.git/logs/HEAD", 5000),
        candidate("r/.git/logs/refs/heads/main", 5000),
        candidate("r/.git/objects/ab/cdef", 100),
        candidate("r/.git/objects/pack/pack-1.idx", 90_000),
        candidate("r/.git/objects/pack/pack-1.pack", 90_000),
        candidate("r/.git/objects/pack/pack-2.idx", 900_000),
        candidate("r/.git/refs/heads/main", 41),
        candidate("r/.gitignore", 50),
        candidate("r/src/.gitignore", 50),
        candidate("r/src/main.c", 50),
        candidate("other/.gitignore", 50),
    ]
)


def test_git_files_come_together() -> None:
    chosen = git_companions(REPOSITORY, b"r/.git", lambda _: False, first=True)
    assert {each.path[2:] for each in chosen} == {
        b".git/HEAD",
        b".git/config",
        b".git/index",
        b".git/packed-refs",
        b".git/info/exclude",
        b".git/logs/HEAD",
        b".git/objects/pack/pack-1.idx",
        b".git/refs/heads/main",
        b".gitignore",
        b"src/.gitignore",
    }


def test_the_tree_is_looked_through_once() -> None:
    chosen = git_companions(REPOSITORY, b"r/.git", lambda _: False, first=False)
    assert not any(each.path.endswith(b".gitignore") for each in chosen)


def test_git_files_that_are_there_are_left_out() -> None:
    chosen = git_companions(REPOSITORY, b"r/.git", lambda each: b"refs" in each.path, first=False)
    assert not any(b"refs" in each.path for each in chosen)


def test_git_directory() -> None:
    assert git_directory(b"r/.git/refs/heads/main") == b"r/.git"
    assert git_directory(b".git/HEAD") == b".git"
    assert git_directory(b"r/.git") is None
    assert git_directory(b"r/.github/x") is None
    assert not is_git_companion(b"r/.git", candidate("r/.git/objects/ab/cd"))
