"""Files: open, read, write, truncate, unlink while open. What a tmpfs answers is what is right."""

import errno
import mmap
import os
import socket
import stat
import threading
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fuse.conftest import Place
from tests.support.accounts import Account
from tests.support.posix import opened, outcome
from tests.support.trees import differences, wait_until_equal

pytestmark = pytest.mark.each_account

READ, WRITE, BOTH = os.O_RDONLY, os.O_WRONLY, os.O_RDWR
CREATE, EXCLUSIVE, TRUNCATE, APPEND = os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND


def unlinked_while_open(top: Path) -> list[object]:
    with opened(top / "file", BOTH | CREATE) as file:
        os.write(file, b"before")
        os.unlink(top / "file")
        seen = [os.pread(file, 100, 0), os.fstat(file).st_nlink, (top / "file").exists()]
        os.write(file, b" and after")
        seen += [os.pread(file, 100, 0), os.fstat(file).st_size, outcome(os.fsync, file)]
        os.ftruncate(file, 3)
        os.fchmod(file, 0o600)
        (top / "file").write_bytes(b"another file of that name")
        seen += [os.pread(file, 100, 0), oct(os.fstat(file).st_mode), os.listdir(top)]
    return [*seen, (top / "file").read_bytes()]


def linked_again_while_open(top: Path) -> list[object]:
    (top / "file").write_bytes(b"content")
    os.link(top / "file", top / "second")
    with opened(top / "file", BOTH) as file:
        os.unlink(top / "file")
        os.pwrite(file, b"CON", 0)
        return [os.fstat(file).st_nlink, (top / "second").read_bytes()]


def renamed_over_while_open(top: Path) -> list[object]:
    (top / "old").write_bytes(b"old content")
    (top / "new").write_bytes(b"new content!")
    with opened(top / "old", BOTH) as old, opened(top / "new", BOTH) as new:
        os.rename(top / "new", top / "old")
        os.pwrite(old, b"OLD", 0)
        os.pwrite(new, b"NEW", 0)
        seen = [os.pread(one, 100, 0) for one in (old, new)]
        links = [os.fstat(one).st_nlink for one in (old, new)]
    return [seen, links, (top / "old").read_bytes(), os.listdir(top)]


def renamed_while_open(top: Path) -> list[object]:
    (top / "directory").mkdir()
    with opened(top / "file", BOTH | CREATE) as file:
        os.write(file, b"first,")
        os.rename(top / "file", top / "directory" / "moved")
        os.write(file, b"second,")
        os.rename(top / "directory", top / "elsewhere")
        os.write(file, b"third")
        return [(top / "elsewhere" / "moved").read_bytes(), sorted(os.listdir(top))]


def open_flags(top: Path) -> dict[str, object]:
    (top / "file").write_bytes(b"0123456789")
    (top / "directory").mkdir()
    (top / "link").symlink_to("file")
    (top / "dangling").symlink_to("made-through-a-link")
    calls = {
        "exclusive new": ("new", WRITE | CREATE | EXCLUSIVE),
        "exclusive existing": ("file", WRITE | CREATE | EXCLUSIVE),
        "exclusive link": ("link", WRITE | CREATE | EXCLUSIVE),
        "exclusive dangling": ("dangling", WRITE | CREATE | EXCLUSIVE),
        "create through dangling": ("dangling", WRITE | CREATE),
        "missing": ("missing", READ),
        "missing parent": ("missing/file", WRITE | CREATE),
        "below a file": ("file/below", READ),
        "create below a file": ("file/below", WRITE | CREATE),
        "directory to write": ("directory", WRITE),
        "create a directory": ("directory", READ | CREATE),
        "file as directory": ("file", READ | os.O_DIRECTORY),
        "nofollow": ("link", READ | os.O_NOFOLLOW),
        "trailing slash": ("file/", READ),
        "create with trailing slash": ("new2/", WRITE | CREATE),
        "path of link": ("link", os.O_PATH | os.O_NOFOLLOW),
        "truncate read-only": ("file", READ | TRUNCATE),
    }
    found: dict[str, object] = {}
    for name, (path, flags) in calls.items():
        with opened_or_error(f"{top}/{path}", flags) as file:
            found[name] = file if isinstance(file, str) else oct(os.fstat(file).st_mode)
    return found | {"left": sorted(os.listdir(top)), "size": (top / "file").stat().st_size}


@contextmanager
def opened_or_error(path: str, flags: int):
    file = outcome(os.open, path, flags, 0o644)
    try:
        yield file
    finally:
        if isinstance(file, int):
            os.close(file)


def access_modes(top: Path) -> list[object]:
    (top / "file").write_bytes(b"content")
    seen: list[object] = []
    for flags in (READ, WRITE, BOTH):
        with opened(top / "file", flags) as file:
            seen += [outcome(os.read, file, 3), outcome(os.write, file, b"X")]
            seen += [outcome(os.ftruncate, file, 5), outcome(os.fsync, file)]
    with opened(top, READ | os.O_DIRECTORY) as directory:
        seen += [outcome(os.read, directory, 3), outcome(os.fsync, directory)]
        seen += [outcome(os.fdatasync, directory)]
    return [*seen, (top / "file").read_bytes()]


def truncate_on_open(top: Path) -> list[object]:
    path = top / "file"
    path.write_bytes(b"a longer content" * 1000)
    with opened(path, READ) as reader:
        with opened(path, WRITE | TRUNCATE) as writer:
            seen = [os.fstat(reader).st_size, os.read(reader, 10)]
            os.write(writer, b"short")
        seen += [os.fstat(reader).st_size, os.pread(reader, 100, 0)]
    with opened(path, BOTH | CREATE | TRUNCATE) as file:
        seen += [os.fstat(file).st_size, path.stat().st_size]
    return seen


def append(top: Path) -> list[object]:
    path = top / "file"
    path.write_bytes(b"begin,")
    with opened(path, BOTH | APPEND) as one, opened(path, BOTH | APPEND) as two:
        for number in range(6):
            os.write((one, two)[number % 2], b"%d," % number)
        os.lseek(one, 0, os.SEEK_SET)
        os.write(one, b"end,")
        # Linux appends although an offset is given.
        os.pwrite(two, b"pwrite", 0)
        return [os.pread(one, 100, 0), os.lseek(one, 0, os.SEEK_CUR), path.stat().st_size]


def holes_and_ends(top: Path) -> list[object]:
    path = top / "file"
    with opened(path, BOTH | CREATE) as file:
        os.pwrite(file, b"start", 0)
        os.pwrite(file, b"far", 1_000_000)
        seen: list[object] = [os.fstat(file).st_size, os.pread(file, 10, 0)]
        seen += [os.pread(file, 10, 500_000), os.pread(file, 10, 999_998)]
        seen += [os.pread(file, 10, 1_000_003), os.pread(file, 10, 5_000_000)]
        for size in (500_000, 3, 8, 0, 70_000):
            os.ftruncate(file, size)
            seen += [os.fstat(file).st_size, os.pread(file, 16, 0), os.pread(file, 5, 69_998)]
        seen += [outcome(os.ftruncate, file, -1), outcome(os.pread, file, 1, -1)]
        seen += [os.write(file, b""), os.lseek(file, 5, os.SEEK_END)]
        seen += [os.write(file, b"past the end"), os.fstat(file).st_size]
    return [*seen, path.read_bytes()]


def vectors_and_offsets(top: Path) -> list[object]:
    with opened(top / "file", BOTH | CREATE) as file:
        os.writev(file, [b"one,", b"", b"two,", b"three"])
        second = os.dup(file)
        try:
            os.lseek(second, 4, os.SEEK_SET)
            seen: list[object] = [os.read(file, 3), os.lseek(file, 0, os.SEEK_CUR)]
        finally:
            os.close(second)
        parts = [bytearray(3), bytearray(100)]
        seen += [os.preadv(file, parts, 1), [bytes(part) for part in parts]]
        seen += [os.sendfile(file, file, 0, 0)]
    return seen


def many_small_writes(top: Path) -> list[object]:
    path = top / "file"
    with opened(path, BOTH | CREATE) as file:
        for number in range(300):
            os.pwrite(file, b"%03d" % number, number * 2)
            if number % 50 == 0:
                os.ftruncate(file, number)
        seen = os.fstat(file).st_size
    return [seen, path.read_bytes()]


def copies_between_files(top: Path) -> list[object]:
    (top / "source").write_bytes(bytes(range(256)) * 2000)
    with opened(top / "source", READ) as source, opened(top / "copy", BOTH | CREATE) as copy:
        seen = [os.copy_file_range(source, copy, 100_000, 5_000, 7)]
        seen += [os.sendfile(copy, source, 0, 1000)]
    return [seen, (top / "copy").read_bytes()]


def synchronous_writes(top: Path) -> list[object]:
    for name, flag in (("sync", os.O_SYNC), ("dsync", os.O_DSYNC)):
        with opened(top / name, WRITE | CREATE | flag) as file:
            os.write(file, b"first")
            os.write(file, b"second")
    return [(top / name).read_bytes() for name in ("sync", "dsync")]


def direct_io(top: Path) -> list[object]:
    buffer = mmap.mmap(-1, 8192)
    buffer.write(b"d" * 8192)
    with opened(top / "file", BOTH | CREATE | os.O_DIRECT) as file:
        seen = [os.pwritev(file, [buffer], 0), os.preadv(file, [buffer], 4096)]
    return [seen, (top / "file").read_bytes() == b"d" * 8192]


def fifo(top: Path) -> list[object]:
    path = top / "fifo"
    os.mkfifo(path, 0o640)
    info = path.lstat()
    seen = [oct(info.st_mode), info.st_size, outcome(os.open, path, WRITE | os.O_NONBLOCK)]
    writer = threading.Thread(target=path.write_bytes, args=(b"through the pipe",))
    writer.start()
    seen.append(path.read_bytes())
    writer.join(10)
    os.rename(path, top / "renamed")
    return [*seen, stat.S_ISFIFO((top / "renamed").lstat().st_mode)]


def unix_socket(top: Path) -> list[object]:
    # The path of a socket is limited to 107 bytes: by way of the directory's descriptor.
    with opened(top, os.O_PATH) as directory, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{directory}/socket")
        server.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"/proc/self/fd/{directory}/socket")
            peer, _ = server.accept()
            with peer:
                client.sendall(b"hello")
                seen = [peer.recv(10), stat.S_ISSOCK((top / "socket").stat().st_mode)]
        with socket.socket(socket.AF_UNIX) as other:
            taken = outcome(other.bind, f"/proc/self/fd/{directory}/socket")
    return [*seen, taken]


def made_by_mknod(top: Path) -> list[object]:
    os.mknod(top / "regular", stat.S_IFREG | 0o600)
    os.mknod(top / "pipe", stat.S_IFIFO | 0o600)
    taken = outcome(os.mknod, top / "pipe", stat.S_IFREG | 0o600)
    return [taken, *(oct((top / name).lstat().st_mode) for name in ("regular", "pipe"))]


SCENARIOS: list[Callable[[Path], object]] = [
    unlinked_while_open,
    linked_again_while_open,
    renamed_over_while_open,
    renamed_while_open,
    open_flags,
    access_modes,
    truncate_on_open,
    append,
    holes_and_ends,
    vectors_and_offsets,
    many_small_writes,
    copies_between_files,
    synchronous_writes,
    direct_io,
    fifo,
    unix_socket,
    made_by_mknod,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.__name__)
def test_files_behave_as_on_a_tmpfs(
    account: Account, place: Place, scenario: Callable[[Path], object]
) -> None:
    assert scenario(place.mount) == scenario(place.local)
    assert differences(place.mount, place.local, times="") == []
    wait_until_equal(place.mount, place.box, timeout=10)


def test_a_sparse_file_of_5_gib(account: Account, place: Place) -> None:
    """Neither writing nor reading it moves its holes over the link."""
    path, far = place.mount / "sparse", 5 << 30
    before = place.owner.status()["link"]
    with opened(path, BOTH | CREATE) as file:
        os.pwrite(file, b"start", 0)
        os.ftruncate(file, far)
        os.pwrite(file, b"the end", far)
        os.fsync(file)
        assert os.fstat(file).st_size == far + 7
        assert os.pread(file, 100, far - 4) == b"\0\0\0\0the end"
        assert os.pread(file, 6, 0) == b"start\0"
        assert os.pread(file, 4096, 3 << 30) == bytes(4096)
    there = place.box / "sparse"
    assert there.stat().st_size == far + 7
    assert there.stat().st_blocks * 512 < 1 << 20
    with there.open("rb") as file:
        file.seek(far)
        assert file.read() == b"the end"
    after = place.owner.status()["link"]
    for way in ("bytes_sent", "bytes_received"):
        assert after[way] - before[way] < 8 << 20
    os.truncate(path, (4 << 30) + 1)
    place.sync()
    assert there.stat().st_size == (4 << 30) + 1


def test_more_than_a_file_may_hold(account: Account, place: Place) -> None:
    """Refused at once, and nothing waits for it."""
    with (place.mount / "file").open("w+b", buffering=0) as file:
        for offset in (1 << 44, 1 << 62, (1 << 63) - 2):
            for call in (
                lambda at=offset: os.pwrite(file.fileno(), b"x", at),
                lambda at=offset: os.ftruncate(file.fileno(), at),
            ):
                with pytest.raises(OSError) as refused:  # noqa: PT011 - the errno is compared
                    call()
                assert refused.value.errno == errno.EFBIG
        os.ftruncate(file.fileno(), (1 << 44) - 4096)
        os.pwrite(file.fileno(), b"end", (1 << 44) - 4096 - 3)
        os.ftruncate(file.fileno(), 2)
        os.fsync(file.fileno())
    assert (place.box / "file").read_bytes() == b"\0\0"


def test_what_cannot_be_had_says_so(account: Account, place: Place) -> None:
    """DESIGN.md 9: the errors that make programs take another way; posix_fallocate does."""
    if place.mount == place.box:
        pytest.skip("a local disk has all of it")
    with opened(place.mount / "file", BOTH | CREATE) as file:
        os.posix_fallocate(file, 0, 100_000)
        assert os.fstat(file).st_size == 100_000
        assert os.lseek(file, 0, os.SEEK_DATA) == 0
        assert os.lseek(file, 0, os.SEEK_HOLE) == 100_000
    with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
        os.open(place.mount, BOTH | os.O_TMPFILE)
