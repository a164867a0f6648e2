"""Every call that takes a path, on every shape of path and every kind of object."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator

from tests.posix.stage import (
    AT_FDCWD,
    BAD_ADDRESS,
    LONG_AGO,
    Case,
    Thing,
    renameat2,
    syscall,
)
from tests.posix.tables.objects import DEVICES, KINDS, a

PATH_MAX = 4096


def _open(path: str, flags: int) -> None:
    os.close(os.open(path, flags, 0o644))


def _read(path: str) -> object:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(descriptor, 100)
    finally:
        os.close(descriptor)


ON_AN_OBJECT: dict[str, Callable[[str], object]] = {
    "stat": lambda path: stat.filemode(os.stat(path).st_mode),
    "lstat": lambda path: stat.filemode(os.lstat(path).st_mode),
    "open to read": lambda path: _open(path, os.O_RDONLY | os.O_NONBLOCK),
    "open to write": lambda path: _open(path, os.O_WRONLY | os.O_NONBLOCK),
    "open both ways": lambda path: _open(path, os.O_RDWR | os.O_NONBLOCK),
    "open a directory": lambda path: _open(path, os.O_RDONLY | os.O_DIRECTORY),
    "open without following": lambda path: _open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK),
    "open and truncate": lambda path: _open(path, os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK),
    "open to append": lambda path: _open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK),
    "open the path only": lambda path: _open(path, os.O_PATH | os.O_NOFOLLOW),
    "create": lambda path: _open(path, os.O_CREAT | os.O_WRONLY | os.O_NONBLOCK),
    "create to read": lambda path: _open(path, os.O_CREAT | os.O_RDONLY | os.O_NONBLOCK),
    "create and truncate": lambda path: _open(
        path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_NONBLOCK
    ),
    "create anew": lambda path: _open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY),
    "create a directory by open": lambda path: _open(
        path, os.O_CREAT | os.O_DIRECTORY | os.O_RDONLY
    ),
    "read": _read,
    "list": lambda path: sorted(os.listdir(path)),
    "readlink": os.readlink,
    "mkdir": lambda path: os.mkdir(path, 0o755),
    "mkfifo": lambda path: os.mkfifo(path, 0o644),
    "mknod a file": lambda path: os.mknod(path, stat.S_IFREG | 0o644),
    "symlink": lambda path: os.symlink("target", path),
    "unlink": os.unlink,
    "rmdir": os.rmdir,
    "chmod": lambda path: os.chmod(path, 0o700),
    "chown": lambda path: os.chown(path, os.getuid(), os.getgid()),
    "lchown": lambda path: os.lchown(path, os.getuid(), os.getgid()),
    "chown nothing": lambda path: os.chown(path, -1, -1),
    "truncate": lambda path: os.truncate(path, 3),
    "truncate up": lambda path: os.truncate(path, 30),
    "truncate below 0": lambda path: os.truncate(path, -1),
    "utimensat": lambda path: os.utime(path, ns=(LONG_AGO + 1, LONG_AGO + 2)),
    "utimensat of a link": lambda path: os.utime(
        path, ns=(LONG_AGO + 1, LONG_AGO + 2), follow_symlinks=False
    ),
    "utimensat now": lambda path: os.utime(path),
    "access": lambda path: os.access(path, os.R_OK),
    "chdir": os.chdir,
    "statvfs": lambda path: os.statvfs(path).f_namemax,
    "rename from": lambda path: os.rename(path, "renamed"),
    "rename to": lambda path: os.rename("other", path),
    "link from": lambda path: os.link(path, "linked", follow_symlinks=False),
    "link to": lambda path: os.link("other", path),
    "getxattr": lambda path: os.getxattr(path, "user.missing"),
    "setxattr": lambda path: os.setxattr(path, "user.one", b"1"),
    "setxattr of a link": lambda path: os.setxattr(path, "user.one", b"1", follow_symlinks=False),
    "listxattr": lambda path: [n for n in os.listxattr(path) if n.startswith("user.")],
    "removexattr": lambda path: os.removexattr(path, "user.missing"),
}


def _long(name: str, size: int) -> str:
    """Return a path of that many bytes that means the same as `name`."""
    padding = size - len(name)
    return (".//" if padding % 2 else "") + "./" * ((padding - padding % 2 * 3) // 2) + name


SHAPES: dict[str, str] = {
    "nothing": "",
    "a trailing slash": "file/",
    "a slash after a directory": "full/",
    "a slash after a link": "link/",
    "a slash after a link to a directory": "there/",
    "a slash after what is missing": "missing/",
    "a dot": ".",
    "a dot in a directory": "full/.",
    "two dots": "empty/..",
    "two dots and a name": "empty/../file",
    "a dot below a file": "file/.",
    "dots below a file": "file/..",
    "below a file": "file/x",
    "below what is missing": "missing/x",
    "below a dangling link": "dangling/x",
    "below a loop": "loop/x",
    "below a link": "there/inner",
    "below a link, new": "there/new",
    "below a fifo": "fifo/x",
    "255 bytes": "n" * 255,
    "256 bytes": "n" * 256,
    "255 bytes of UTF-8": "ä" * 127 + "n",
    "256 bytes of UTF-8": "ä" * 128,
    "a directory of 256 bytes": "n" * 256 + "/x",
    "a path of 4095 bytes": _long("file", PATH_MAX - 1),
    "a path of 4096 bytes": _long("file", PATH_MAX),
    "a new path of 4095 bytes": _long("absent", PATH_MAX - 1),
    "a new path of 4096 bytes": _long("absent", PATH_MAX),
    "a name of odd bytes": "\udcff\udc80 \n*",
    "a name that starts with two dots": "..a",
    "three dots": "...",
}

_SCENE = (
    Thing("file", "file"),
    Thing("file", "other"),
    *a("full", "full"),
    *a("empty", "empty"),
    Thing("symlink", "link", target="file"),
    Thing("symlink", "there", target="full"),
    *a("dangling", "dangling"),
    *a("loop", "loop"),
    *a("fifo", "fifo"),
)


def shapes() -> Iterator[Case]:
    """Every call on every shape of path."""
    for shape, path in SHAPES.items():
        for name, call in ON_AN_OBJECT.items():
            yield Case(f"{name}: {shape}", _SCENE, lambda call=call, path=path: call(path))


def kinds() -> Iterator[Case]:
    """Every call on every kind of object."""
    for kind in ("missing", *KINDS, *DEVICES):
        for name, call in ON_AN_OBJECT.items():
            if kind in DEVICES and ("open" in name or "create" in name or name == "read"):
                continue  # mounted nodev, the mount refuses to open devices: as every such mount
            things = (*a(kind, "it"), Thing("file", "other"))
            yield Case(f"{name}: {kind}", things, lambda call=call: call("it"))


def chains() -> Iterator[Case]:
    """Links to links: 40 are followed."""
    for depth in (1, 39, 40, 41, 60):
        things = [Thing("file", "file"), Thing("symlink", "to0", target="file")]
        things += [Thing("symlink", f"to{n}", target=f"to{n - 1}") for n in range(1, depth)]
        for name in ("stat", "read", "open and truncate", "chmod", "truncate", "lstat", "unlink"):
            call = ON_AN_OBJECT[name]
            yield Case(
                f"{name}: {depth} links",
                tuple(things),
                lambda call=call, depth=depth: call(f"to{depth - 1}"),
            )
    for target in ("n" * 256, "n/" * 2000 + "n", "n" * 255, ".", "..", "/", "file/", "a//b"):
        yield Case(
            f"symlink to {target[:20]} of {len(target)}",
            (),
            lambda target=target: os.symlink(target, "made"),
        )
    for size in (4095, 4096):
        yield Case(f"symlink to {size} bytes", (), lambda size=size: os.symlink("n" * size, "made"))


def addresses() -> Iterator[Case]:
    """EFAULT for every call that takes a path."""
    bad = BAD_ADDRESS
    at = AT_FDCWD
    calls: dict[str, tuple[object, ...]] = {
        "open": (bad, 0),
        "mkdir": (bad, 0o755),
        "rmdir": (bad,),
        "unlink": (bad,),
        "chmod": (bad, 0o644),
        "chown": (bad, 0, 0),
        "lchown": (bad, 0, 0),
        "truncate": (bad, 0),
        "mkfifo": (bad, 0o644),
        "readlink": (b"link", bad, 100),
        "symlink": (bad, b"x"),
        "symlinkat": (b"x", at, bad),
        "link": (bad, b"x"),
        "linkat": (at, b"file", at, bad, 0),
        "rename": (bad, b"x"),
        "renameat": (at, b"file", at, bad),
        "utimensat": (at, b"file", bad, 0),
        "getxattr": (b"file", bad, None, 0),
        "setxattr": (b"file", b"user.x", bad, 10, 0),
    }
    things = (Thing("file", "file"), Thing("symlink", "link", target="file"))
    for function, arguments in calls.items():
        yield Case(
            f"{function} of a bad address {sum(argument is bad for argument in arguments)}",
            things,
            lambda function=function, arguments=arguments: syscall(function, *arguments),
        )


def two_names() -> Iterator[Case]:
    """Rename and link, every kind onto every kind, with every flag."""
    every = ("missing", *KINDS, *DEVICES)
    for source in every:
        for target in every:
            things = (*a(source, "from"), *a(target, "to"))
            for flags, flag in ((0, ""), (1, "NOREPLACE"), (2, "EXCHANGE"), (3, "both"), (8, "8")):
                if flags > 2 and (source, target) != ("file", "file"):
                    continue
                yield Case(
                    f"rename {source} to {target} {flag}".strip(),
                    things,
                    lambda flags=flags: renameat2("from", "to", flags),
                )
            yield Case(
                f"link {source} to {target}",
                things,
                lambda: os.link("from", "to", follow_symlinks=False),
            )
            yield Case(
                f"link followed {source} to {target}",
                things,
                lambda: syscall("linkat", AT_FDCWD, b"from", AT_FDCWD, b"to", 0x400),
            )


def across() -> Iterator[Case]:
    """Rename and link from one directory into another, below themselves, and on themselves."""
    scene = (
        Thing("directory", "one"),
        Thing("directory", "two"),
        Thing("file", "one/file"),
        Thing("directory", "one/sub"),
        Thing("directory", "one/sub/deep"),
        Thing("file", "two/file"),
        Thing("directory", "two/sub"),
        Thing("link", "two/same", target="one/file"),
        Thing("symlink", "two/link", target="../one/file"),
    )
    pairs = [
        ("one/file", "two/new"),
        ("one/file", "two/file"),
        ("one/file", "two/same"),
        ("one/file", "one/file"),
        ("one/file", "two/sub"),
        ("one/file", "two/link"),
        ("one/sub", "two/new"),
        ("one/sub", "two/sub"),
        ("two/sub", "one/sub"),
        ("one/sub", "two/file"),
        ("one/sub", "one/sub"),
        ("one", "one/sub/new"),
        ("one", "one/sub/deep"),
        ("one/sub", "one/sub/deep/new"),
        ("one/sub/deep", "one"),
        ("one/sub/deep", "one/sub"),
        ("one/sub/deep", "two/deep"),
        ("two/link", "one/link"),
        ("two/same", "one/file"),
        ("one/sub/", "two/new/"),
        ("one/file", "two/new/"),
        ("one/sub/.", "two/new"),
        ("one/sub/..", "two/new"),
        ("one/sub", "two/."),
        ("one/sub", "two/.."),
        ("two/sub", "one/sub/../new"),
        (".", "two/new"),
        ("one/file", "/proc/devboxfs-test"),
        ("/proc/self/stat", "two/new"),
        ("one/file", "n" * 256),
        ("n" * 256, "two/new"),
        ("one/file", "two/" + "n" * 255),
    ]
    for source, target in pairs:
        for flags, flag in ((0, ""), (1, "NOREPLACE"), (2, "EXCHANGE")):
            yield Case(
                f"rename {source[:40]} to {target[:40]} of {len(target)} {flag}".strip(),
                scene,
                lambda source=source, target=target, flags=flags: renameat2(source, target, flags),
            )
        yield Case(
            f"link {source[:40]} to {target[:40]} of {len(target)}",
            scene,
            lambda source=source, target=target: os.link(source, target),
        )
