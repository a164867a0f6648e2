"""Which of git's files exclude the other side, and when that is waited for."""

import pytest

from devboxfs.core.git_paths import LockKind, lock_kind

REPOSITORY = (b"HEAD", b"objects", b"refs", b"index")
WORKTREE = (b"HEAD", b"commondir", b"gitdir")
WAITS, INDEX = LockKind.WAITS, LockKind.INDEX


@pytest.mark.parametrize(
    ("name", "directory", "holders", "kind"),
    [
        (b"HEAD.lock", b".git", [REPOSITORY, ()], WAITS),
        (b"packed-refs.lock", b".git", [REPOSITORY, ()], WAITS),
        (b"ORIG_HEAD.lock", b".git", [REPOSITORY, ()], WAITS),
        (b"index.lock", b".git", [REPOSITORY, ()], INDEX),
        (b"index.lock", b"tree", [WORKTREE, (), REPOSITORY], INDEX),
        (b"index.lock", b"heads", [(), (), REPOSITORY], WAITS),
        (b"main.lock", b"heads", [(), (), REPOSITORY], WAITS),
        (b"maintenance.lock", b"objects", [(), REPOSITORY], INDEX),
        (b"maintenance.lock", b"objects", [(), (), REPOSITORY], WAITS),
        (b"git-rebase-todo.lock", b"rebase-merge", [(), REPOSITORY], None),
        (b"git-rebase-todo.lock", b"rebase-merge", [(), WORKTREE, (), REPOSITORY], None),
        (b"topic.lock", b"rebase-merge", [(), (), (), REPOSITORY], WAITS),
        (b"MERGE_MSG.lock", b".git", [REPOSITORY], None),
        (b"MERGE_MSG.lock", b"heads", [(), (), REPOSITORY], WAITS),
        (b"Cargo.lock", b"project", [(), ()], None),
        (b".lock", b".git", [REPOSITORY], None),
        (b"HEAD", b".git", [REPOSITORY], None),
    ],
)
def test_kinds(
    name: bytes, directory: bytes, holders: list[tuple[bytes, ...]], kind: LockKind | None
) -> None:
    assert lock_kind(name, list(holders), directory) is kind
