"""Boxes as directories."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sealos_devbox import BoxExistsError, BoxNotFoundError, DevboxError
from sealos_devbox.server.store import BoxStore, check_name

SDK = Path(__file__).parents[3] / "sdk"


@pytest.fixture
def store(tmp_path: Path) -> BoxStore:
    return BoxStore(tmp_path / "data")


def test_a_box_is_a_directory_of_its_owners(store: BoxStore, tmp_path: Path) -> None:
    box = store.create("my-box")
    directory = tmp_path / "data" / "boxes" / "my-box"
    assert box.workspace == directory / "workspace"
    assert box.workspace.is_dir()
    assert directory.stat().st_mode & 0o7777 == 0o700
    described = json.loads((directory / "box.json").read_text())
    assert described["uid"] == box.uid
    assert described["name"] == "my-box"
    assert store.get("my-box") == box
    assert store.list() == [box]
    assert sorted(os.listdir(directory.parent)) == ["my-box"]


def test_a_box_is_made_once(store: BoxStore) -> None:
    box = store.get_or_create("my-box")
    assert store.get_or_create("my-box") == box
    with pytest.raises(BoxExistsError, match="my-box"):
        store.create("my-box")
    assert store.get("my-box") == box


def test_a_box_made_again_is_another(store: BoxStore) -> None:
    first = store.create("my-box")
    (first.workspace / "file").write_text("old")
    store.delete("my-box")
    with pytest.raises(BoxNotFoundError):
        store.get("my-box")
    second = store.create("my-box")
    assert second.uid != first.uid
    assert os.listdir(second.workspace) == []


def test_no_such_box(store: BoxStore) -> None:
    for look in (store.get, store.delete):
        with pytest.raises(BoxNotFoundError, match="my-box"):
            look("my-box")
    store.create("my-box")
    with pytest.raises(BoxNotFoundError) as caught:
        store.get("mybox")
    assert "my-box" in caught.value.hint
    assert store.list() == [store.get("my-box")]


@pytest.mark.parametrize("name", ["a", "0", "my-box-2", "a" * 63])
def test_names(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("", None),
        ("My Box", "'my-box'"),
        ("my_box", "'my-box'"),
        ("-box-", "'box'"),
        ("../../etc", "'etc'"),
        ("box\n", "'box'"),
        (".", None),
        ("a" * 64, repr("a" * 63)),
        ("böx", "'b-x'"),
    ],
)
def test_names_that_cannot_be(store: BoxStore, name: str, suggestion: str | None) -> None:
    for use in (store.create, store.get, store.get_or_create, store.delete):
        with pytest.raises(ValueError, match="cannot be a box's name") as caught:
            use(name)
        assert ("would do" in str(caught.value)) == (suggestion is not None)
        assert suggestion is None or suggestion in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"format": 1, "uid": "x", "name": "my-box", "created": "2026-01-01T00:00:00Z"}',
        b'{"format": 2, "uid": "6a0d5bb4-5e69-4f2a-9d5e-0d7f2f4d8a5b", "name": "my-box",'
        b' "created": "2026-01-01T00:00:00Z"}',
        b'{"format": 1, "uid": "6a0d5bb4-5e69-4f2a-9d5e-0d7f2f4d8a5b", "name": "other",'
        b' "created": "2026-01-01T00:00:00Z"}',
        None,
    ],
)
def test_a_damaged_box_is_said_to_be(
    store: BoxStore, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    whole = store.create("whole")
    box = store.create("my-box")
    path = box.workspace.parent / "box.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    for look in (store.get, store.get_or_create):
        with pytest.raises(DevboxError, match=r"damaged|another version") as caught:
            look("my-box")
        assert str(path) in str(caught.value)
    assert store.list() == [whole]
    assert "my-box" in caplog.text
    store.delete("my-box")
    assert not path.parent.exists()


def test_deleting_removes_what_rm_would_not(store: BoxStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    box = store.create("my-box")
    locked = box.workspace / "locked" / "deeper"
    locked.mkdir(parents=True)
    (locked / "file").write_text("x")
    (box.workspace / "link").symlink_to(outside)
    locked.chmod(0)
    locked.parent.chmod(0)
    store.delete("my-box")
    assert os.listdir(tmp_path / "data" / "boxes") == []
    assert (outside / "kept").read_text() == "kept"


def test_what_a_dying_delete_has_left_goes_with_the_next(store: BoxStore, tmp_path: Path) -> None:
    left = tmp_path / "data" / "boxes" / ".deleted-left"
    left.mkdir(parents=True)
    (left / "file").write_text("x")
    store.create("my-box")
    assert [box.name for box in store.list()] == ["my-box"]
    store.delete("my-box")
    assert not left.exists()


RACE = """
import sys
from pathlib import Path
from sealos_devbox import BoxExistsError
from sealos_devbox.server.store import BoxStore
store = BoxStore(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(20):
    if sys.argv[2] == "get_or_create":
        print(store.get_or_create(f"box-{number}").uid)
    else:
        try:
            print(store.create(f"box-{number}").uid)
        except BoxExistsError:
            print("exists")
"""


@pytest.mark.parametrize("method", ["get_or_create", "create"])
@pytest.mark.slow
def test_processes_that_race_get_one_box(tmp_path: Path, method: str) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, tmp_path / "data", method],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(SDK)},
        )
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    answers = [racer.communicate()[0].split() for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 4
    uids = [
        box.uid
        for number in range(20)
        for box in [BoxStore(tmp_path / "data").get(f"box-{number}")]
    ]
    for number, got in enumerate(zip(*answers, strict=True)):
        if method == "get_or_create":
            assert set(got) == {uids[number]}
        else:
            assert sorted(got, key=lambda uid: uid == "exists")[1:] == ["exists"] * 3
            assert uids[number] in got
    assert len(os.listdir(tmp_path / "data" / "boxes")) == 20  # nothing half-made is left
