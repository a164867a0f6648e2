"""Reading, writing, sizes, allocation, extended attributes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from tests.posix.stage import BAD_ADDRESS, Case, Thing, syscall

AT_THE_END = "the kernel answers a read at the end by itself: atime stays"
CREATE, EXCLUSIVE, TRUNCATE, APPEND = os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND


def flags() -> Iterator[Case]:
    """Every combination of flags of open(2), on what is there and what is not."""
    accesses = {"r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR, "3": 3}
    extras = {
        "creat": CREATE,
        "excl": EXCLUSIVE,
        "trunc": TRUNCATE,
        "append": APPEND,
        "nofollow": os.O_NOFOLLOW,
        "directory": os.O_DIRECTORY,
    }
    scene = (
        Thing("file", "file"),
        Thing("directory", "directory"),
        Thing("symlink", "link", target="file"),
        Thing("symlink", "dangling", target="nowhere"),
    )
    for target in ("file", "directory", "link", "dangling", "missing"):
        for access_name, access in accesses.items():
            for choice in range(1 << len(extras)):
                names = [name for bit, name in enumerate(extras) if choice >> bit & 1]
                value = access
                for name in names:
                    value |= extras[name]
                yield Case(
                    f"{target} {access_name} {' '.join(names)}".strip(),
                    scene,
                    lambda target=target, value=value: _open_and_use(target, value),
                    differs=AT_THE_END if access == 0 and value & TRUNCATE else "",
                )


def _open_and_use(path: str, value: int) -> list[object]:
    descriptor = os.open(path, value, 0o640)
    try:
        return [
            _try(os.write, descriptor, b"new"),
            _try(os.pread, descriptor, 100, 0),
            os.lseek(descriptor, 0, os.SEEK_CUR) if not os.path.isdir(path) else 0,
        ]
    finally:
        os.close(descriptor)


def _try(call: Callable[..., object], *arguments: object) -> object:
    try:
        result = call(*arguments)
        return result if isinstance(result, int | str | None) else repr(result)
    except OSError as error:
        return f"errno {error.errno}"


_OFFSETS = (-1, 0, 1, 6, 7, 8, 4095, 4096, 1 << 20, (1 << 31) - 1, 1 << 31, 1 << 32, 1 << 40)


def offsets() -> Iterator[Case]:
    """Reads, writes and sizes at odd places."""
    for offset in _OFFSETS:
        for name, call in {
            "pread": lambda file, at: os.pread(file, 10, at),
            "pwrite": lambda file, at: os.pwrite(file, b"new", at),
            "pwrite nothing": lambda file, at: os.pwrite(file, b"", at),
            "ftruncate": os.ftruncate,
            "seek and write": lambda file, at: (
                os.lseek(file, at, os.SEEK_SET) and os.write(file, b"x")
            ),
            "seek from the end": lambda file, at: os.lseek(file, at, os.SEEK_END),
            "append there": lambda file, at: os.pwrite(file, b"x", at),
        }.items():
            flags_ = os.O_RDWR | (APPEND if name == "append there" else 0)
            yield Case(
                f"{name} at {offset}",
                (Thing("file", "file"),),
                lambda call=call, offset=offset, flags_=flags_: _with_file(flags_, call, offset),
                differs=AT_THE_END if name == "pread" and offset >= 7 else "",
            )
    for size in (0, 7, 8, 5000, 1 << 33):
        yield Case(
            f"truncate to {size}",
            (Thing("file", "file"),),
            lambda size=size: os.truncate("file", size),
        )


def _with_file(flags_: int, call: Callable[..., object], *arguments: object) -> list[object]:
    descriptor = os.open("file", flags_)
    try:
        answer = _try(call, descriptor, *arguments)
        return [answer, os.fstat(descriptor).st_size, os.lseek(descriptor, 0, os.SEEK_CUR)]
    finally:
        os.close(descriptor)


def descriptors() -> Iterator[Case]:
    """EBADF, EINVAL, EISDIR, ESPIPE, EFAULT, ETXTBSY: calls on the wrong descriptor."""
    scene = (Thing("file", "file"), Thing("directory", "directory"), Thing("fifo", "fifo"))
    calls: dict[str, Callable[[int], object]] = {
        "read": lambda file: os.read(file, 3),
        "write": lambda file: os.write(file, b"x"),
        "pread": lambda file: os.pread(file, 3, 0),
        "ftruncate": lambda file: os.ftruncate(file, 2),
        "ftruncate below 0": lambda file: os.ftruncate(file, -2),
        "fsync": os.fsync,
        "fdatasync": os.fdatasync,
        "seek": lambda file: os.lseek(file, 0, os.SEEK_SET),
        "seek before the start": lambda file: os.lseek(file, -1, os.SEEK_SET),
        "posix_fallocate": lambda file: os.posix_fallocate(file, 0, 100),
        "posix_fallocate of nothing": lambda file: os.posix_fallocate(file, 0, 0),
        "posix_fallocate below 0": lambda file: os.posix_fallocate(file, -1, 10),
        "write from a bad address": lambda file: syscall("write", file, BAD_ADDRESS, 10),
        "read to a bad address": lambda file: syscall("read", file, BAD_ADDRESS, 10),
        "list": lambda file: sorted(os.listdir(file)),
        "chdir": os.fchdir,
        "open below": lambda file: os.close(os.open("x", os.O_RDONLY, dir_fd=file)),
        "mkdir below": lambda file: os.mkdir("x", dir_fd=file),
        "fstatvfs": lambda file: os.fstatvfs(file).f_namemax,
    }
    opened = {
        "to read": ("file", os.O_RDONLY),
        "to write": ("file", os.O_WRONLY),
        "both ways": ("file", os.O_RDWR),
        "to append": ("file", os.O_RDWR | APPEND),
        "by path": ("file", os.O_PATH),
        "a directory": ("directory", os.O_RDONLY),
        "a directory by path": ("directory", os.O_PATH),
        "a fifo": ("fifo", os.O_RDWR | os.O_NONBLOCK),
    }
    for how, (path, flags_) in opened.items():
        for name, call in calls.items():
            if how == "a fifo" and name in {"read", "write", "read to a bad address"}:
                continue
            yield Case(
                f"{name}: {how}",
                scene,
                lambda path=path, flags_=flags_, call=call: _called(path, flags_, call),
                differs=_why_a_descriptor_differs(how, name),
            )


def _why_a_descriptor_differs(how: str, call: str) -> str:
    if call == "write from a bad address":
        return "ext4 moves mtime although nothing is written"
    if (how, call) == ("to append", "posix_fallocate"):
        return "without fallocate(2) glibc writes, which it cannot to a file open to append"
    return ""


def _called(path: str, flags_: int, call: Callable[[int], object]) -> object:
    descriptor = os.open(path, flags_)
    try:
        return _try(call, descriptor)
    finally:
        os.close(descriptor)


def reading() -> Iterator[Case]:
    """What reading does to the time of access."""
    things = (
        Thing("file", "file"),
        Thing("file", "empty", data=b""),
        Thing("directory", "directory"),
        Thing("file", "directory/inner"),
        Thing("symlink", "link", target="file"),
    )
    calls: dict[str, Callable[[], object]] = {
        "read": lambda: _called("file", os.O_RDONLY, lambda file: os.read(file, 3)),
        "read twice": lambda: _called(
            "file", os.O_RDONLY, lambda file: [os.read(file, 3), os.read(file, 3)]
        ),
        "read at the end": lambda: _called("file", os.O_RDONLY, lambda file: os.pread(file, 3, 7)),
        "read nothing": lambda: _called("file", os.O_RDONLY, lambda file: os.read(file, 0)),
        "read an empty file": lambda: _called("empty", os.O_RDONLY, lambda file: os.read(file, 3)),
        "read without atime": lambda: _called(
            "file", os.O_RDONLY | os.O_NOATIME, lambda file: os.read(file, 3)
        ),
        "open and close": lambda: os.close(os.open("file", os.O_RDONLY)),
        "list": lambda: os.listdir("directory"),
        "open a directory": lambda: os.close(os.open("directory", os.O_RDONLY)),
        "readlink": lambda: os.readlink("link"),
        "follow": lambda: os.stat("link").st_size,
        "read through a link": lambda: _called("link", os.O_RDONLY, lambda file: os.read(file, 3)),
        "write and read": lambda: _called(
            "file", os.O_RDWR, lambda file: [os.pwrite(file, b"x", 0), os.read(file, 3)]
        ),
        "read and write": lambda: _called(
            "file", os.O_RDWR, lambda file: [os.read(file, 3), os.pwrite(file, b"x", 0)]
        ),
        "chmod and read": lambda: [
            _called("file", os.O_RDONLY, lambda file: os.read(file, 3)),
            os.chmod("file", 0o600),
            _called("file", os.O_RDONLY, lambda file: os.read(file, 3)),
        ],
    }
    for name, call in calls.items():
        at_the_end = name in {"read at the end", "read an empty file"}
        yield Case(name, things, call, differs=AT_THE_END if at_the_end else "")


def xattrs() -> Iterator[Case]:
    """Extended attributes: names, sizes, flags, kinds of objects."""
    here = {"user.there": b"value", "user.empty": b""}
    names = {
        "user.": "user.",
        "user.there": "user.there",
        "user.empty": "user.empty",
        "user.missing": "user.missing",
        "255 bytes": "user." + "n" * 250,
        "256 bytes": "user." + "n" * 251,
        "no namespace": "there",
        "unknown namespace": "nonsense.there",
        "empty": "",
        "UTF-8": "user.ä",
    }
    for kind in ("file", "directory"):
        scene = (Thing(kind, "it", xattrs=here),)
        for label, name in names.items():
            for call_name, call in {
                "get": lambda name: os.getxattr("it", name),
                "get its size": lambda name: syscall("getxattr", b"it", os.fsencode(name), None, 0),
                "get too little": lambda name: syscall(
                    "getxattr", b"it", os.fsencode(name), bytes(2), 2
                ),
                "set": lambda name: os.setxattr("it", name, b"new"),
                "set to nothing": lambda name: os.setxattr("it", name, b""),
                "remove": lambda name: os.removexattr("it", name),
            }.items():
                yield Case(
                    f"{call_name}: {label} of a {kind}",
                    scene,
                    lambda call=call, name=name: [_try(call, name), _attributes("it")],
                    differs="ctime stays on ext4; here only while the old value is known"
                    if (call_name, label) == ("set to nothing", "user.empty")
                    else "",
                )
        for flag_name, flag in (("CREATE", os.XATTR_CREATE), ("REPLACE", os.XATTR_REPLACE)):
            for label in ("user.there", "user.missing"):
                refused = (flag_name == "CREATE") == (label == "user.there")
                yield Case(
                    f"set with {flag_name}: {label} of a {kind}",
                    scene,
                    lambda label=label, flag=flag: os.setxattr("it", label, b"new", flag),
                    differs="pyfuse3 does not pass the flags on" if refused else "",
                )
        for size in (1, 1000, 4000):
            yield Case(
                f"set {size} bytes of a {kind}",
                scene,
                lambda size=size: [
                    os.setxattr("it", "user.large", b"v" * size),
                    len(os.getxattr("it", "user.large")),
                ],
            )
        yield Case(
            f"set 65537 bytes of a {kind}",
            scene,
            lambda: os.setxattr("it", "user.large", bytes(65537)),
        )


def _attributes(path: str) -> list[object]:
    names = sorted(name for name in os.listxattr(path) if name.startswith("user."))
    return [[name, repr(os.getxattr(path, name))] for name in names]
