"""Paths of the box in a command's output."""

import pytest

from devboxfs.core.path_mapping import PathMapper

THERE, HERE = b"/home/devbox/project", b"/mnt/box"


def mapped(*pieces: bytes, wait: bool = True) -> bytes:
    mapper = PathMapper(THERE, HERE, wait=wait)
    return b"".join([*map(mapper.feed, pieces), mapper.finish()])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"/home/devbox/project/a.c:3: error\n", b"/mnt/box/a.c:3: error\n"),
        (b'File "/home/devbox/project/x.py", line 1', b'File "/mnt/box/x.py", line 1'),
        (b"in /home/devbox/project.", b"in /mnt/box."),
        (b"/home/devbox/project", b"/mnt/box"),
        (b"/home/devbox/project2/a", b"/home/devbox/project2/a"),
        (b"/home/devbox/project-x", b"/home/devbox/project-x"),
        (b"/home/devbox/project.old/a", b"/home/devbox/project.old/a"),
        (b"/copy/home/devbox/project/a", b"/copy/home/devbox/project/a"),
        (b"/home/devbox/project:/home/devbox/project/b", b"/mnt/box:/mnt/box/b"),
        (b"/home/devbox", b"/home/devbox"),
        (b"3/", b"3/"),
    ],
)
def test_however_it_is_cut(text: bytes, expected: bytes) -> None:
    assert mapped(text) == expected
    assert mapped(*(text[at : at + 1] for at in range(len(text)))) == expected
    for at in range(len(text)):
        assert mapped(text[:at], text[at:]) == expected


def test_a_terminal_is_not_kept_waiting() -> None:
    mapper = PathMapper(THERE, HERE, wait=False)
    assert mapper.feed(b"$ cd /") == b"$ cd /"
    assert mapper.feed(b"\n/home/devbox/project/a\n") == b"\n/mnt/box/a\n"


def test_what_is_no_text_stays() -> None:
    data = b"\x7fELF\0 /home/devbox/project/a"
    assert mapped(data) == data
    assert mapped(b"/home/devbox/pro", b"ject/a\0", b" /home/devbox/project") == (
        b"/home/devbox/project/a\0 /home/devbox/project"
    )


def test_a_backslash_in_the_mount_point_is_a_character() -> None:
    mapper = PathMapper(THERE, rb"/mnt/\1", wait=True)
    assert mapper.feed(b"/home/devbox/project/a\n") == rb"/mnt/\1/a" + b"\n"
