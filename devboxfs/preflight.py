"""What has to be true before a mount is tried; each failure is one sentence that says what to do.

libfuse would find most of it too, but says it on standard error and in its own terms, after the
box has been connected to.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from devboxfs import mountpoint
from devboxfs.config import ExitCode, MountConfig, MountError

__all__ = ["check", "check_fuse", "check_overlap", "real_mountpoint"]

DEVICE: Final = Path("/dev/fuse")
FUSE_CONF: Final = Path("/etc/fuse.conf")


def real_mountpoint(path: str, *, make: bool = False, timeout: float = 5.0) -> Path:
    """Return the absolute path of the mount point, links of its parents resolved.

    The mount point itself is not followed when it is mounted: it may not answer. With `make`, it is
    created in a parent that exists.

    Raises:
        MountError: there is no such directory.
    """
    lexical = Path(os.path.abspath(path))
    parent = _answered(lexical.parent, timeout)
    candidate = parent / lexical.name if lexical.name else parent
    if _is_mounted(candidate):
        return candidate
    real = _answered(candidate, timeout)
    if _is_mounted(real):
        return real
    try:
        if make and not real.exists():
            real.mkdir(mode=0o700)
        return real.resolve(strict=True)
    except FileNotFoundError:
        if parent.is_dir():
            advice = f"{lexical} does not exist: make it first (mkdir {lexical}), or give --mkdir."
        else:
            advice = f"{lexical.parent} does not exist: make it first."
        raise MountError(advice, ExitCode.MOUNT_POINT) from None
    except OSError as error:
        raise MountError(
            f"{lexical} cannot be used: {error.strerror}.", ExitCode.MOUNT_POINT
        ) from error


def _answered(path: Path, timeout: float) -> Path:
    real = mountpoint.resolve(path, timeout=timeout)
    if real is None:
        raise MountError(
            f"{path} does not answer: a mount on the way to it hangs.", ExitCode.MOUNT_POINT
        )
    return real


def _is_mounted(path: Path) -> bool:
    return any(mount.path == path for mount in mountpoint.mounts())


def check(
    config: MountConfig,
    say: Callable[[str], None],
    *,
    device: Path = DEVICE,
    search_path: str | None = None,
) -> None:
    """Check this machine and the mount point; a dead mount of ours is taken away and `say` told.

    `device` and `search_path` (in place of PATH) are parameters for tests.

    Raises:
        MountError: the mount cannot be made.
    """
    check_fuse(allow_other=config.allow_other, device=device, search_path=search_path)
    _clear_mounts(config.mountpoint, say)
    _check_directory(config.mountpoint)
    check_overlap(
        config.mountpoint,
        {
            "the state directory": config.state_dir,
            "the cache directory": config.cache_dir,
            "the directory of the embedded engine": config.data_dir,
        },
    )


def check_fuse(
    *, allow_other: bool = False, device: Path = DEVICE, search_path: str | None = None
) -> None:
    """Check that this user can mount; raises MountError."""
    try:
        if not stat.S_ISCHR(device.stat().st_mode):
            raise MountError(f"{device} is not a device: FUSE is broken here.", ExitCode.NO_FUSE)
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise MountError(
            f"{device} does not exist: load the kernel module (sudo modprobe fuse), or start the "
            "container with --device /dev/fuse --cap-add SYS_ADMIN.",
            ExitCode.NO_FUSE,
        ) from None
    except OSError as error:
        advice = (
            "start the container with --device /dev/fuse"
            if os.geteuid() == 0
            else f"run: sudo chmod 0666 {device}"
        )
        raise MountError(
            f"{device} cannot be opened ({error.strerror}): {advice}.", ExitCode.NO_FUSE
        ) from error
    if os.geteuid() == 0:
        return
    if shutil.which("fusermount3", path=search_path) is None:
        raise MountError(
            "fusermount3 is missing: install the package fuse3 (sudo apt-get install fuse3).",
            ExitCode.NO_FUSE,
        )
    if allow_other and not _allows_other(FUSE_CONF):
        raise MountError(
            f"--allow-other is not permitted here: add the line user_allow_other to {FUSE_CONF}.",
            ExitCode.NO_FUSE,
        )


def _allows_other(path: Path) -> bool:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


def _clear_mounts(path: Path, say: Callable[[str], None]) -> None:
    """Refuse what is mounted there and lives; detach what is ours and dead, one after the other."""
    while there := [mount for mount in mountpoint.mounts() if mount.path == path]:
        mount = there[-1]
        if not mount.ours:
            raise MountError(
                f"Something else ({mount.fstype}) is mounted on {path}: choose another directory.",
                ExitCode.BUSY,
            )
        health = mountpoint.probe(path)
        if health == "alive":
            raise MountError(
                f"The box {mount.box} is mounted on {path} already: unmount it first "
                f"(devboxfs umount {path}).",
                ExitCode.BUSY,
            )
        if health == "hung":
            raise MountError(
                f"The box {mount.box} is mounted on {path} and its daemon does not answer: "
                f"try devboxfs umount --force {path}.",
                ExitCode.BUSY,
            )
        if os.geteuid() not in {0, mount.user_id}:
            raise MountError(
                f"A dead mount of another user is on {path}: choose another directory.",
                ExitCode.BUSY,
            )
        mountpoint.repair(mount)
        say(f"A dead mount of the box {mount.box} was taken off {path}.")
        # One mount fewer, or repair() would have raised; mounts made meanwhile are looked at too.


def _check_directory(path: Path) -> None:
    try:
        status = path.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise MountError(f"{path} is not a directory.", ExitCode.MOUNT_POINT)
        if os.geteuid() not in {0, status.st_uid}:
            raise MountError(
                f"{path} does not belong to you: choose a directory of your own.",
                ExitCode.MOUNT_POINT,
            )
        with os.scandir(path) as entries:
            if next(entries, None) is not None:
                raise MountError(
                    f"{path} is not empty, and a mount would hide what is in it: "
                    "choose an empty directory.",
                    ExitCode.MOUNT_POINT,
                )
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise MountError(
            f"{path} cannot be used: {error.strerror}.", ExitCode.MOUNT_POINT
        ) from error


def check_overlap(mount: Path, directories: Mapping[str, Path]) -> None:
    """Refuse a mount that would hide, or lie inside, directories that the daemon itself uses.

    A daemon that needs its own mount waits for itself.

    Raises:
        MountError: one of `directories` (by a description) is inside the mount point, or it in it.
    """
    for description, directory in directories.items():
        real = Path(os.path.realpath(directory))
        if real.is_relative_to(mount):
            raise MountError(
                f"{mount} holds {description} ({real}), which the mount would hide: "
                "choose another directory.",
                ExitCode.MOUNT_POINT,
            )
        if mount.is_relative_to(real):
            raise MountError(
                f"{mount} is inside {description} ({real}): choose another directory.",
                ExitCode.MOUNT_POINT,
            )
