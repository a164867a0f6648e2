"""What a mount is asked to be, the places of its files, and how a command fails.

`MountConfig` is checked when it is made: whoever holds one holds a mount that makes sense, though
not yet one that this machine can do; that is `preflight`'s question.
"""

from __future__ import annotations

import enum
import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

__all__ = ["EXIT_CODES", "ExitCode", "MountConfig", "MountError", "Places", "key_of", "parse_size"]


class ExitCode(enum.IntEnum):
    """The exit codes of every command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    MOUNT_POINT = 3
    NO_FUSE = 4
    BUSY = 5
    NO_BOX = 6
    PENDING = 7
    NOT_MOUNTED = 8
    NO_ANSWER = 9
    DIED = 10
    EXISTS = 11
    DENIED = 12
    UNAVAILABLE = 13
    STATE = 14
    QUOTA = 15
    UNSUPPORTED = 16
    NOT_FOUND = 17
    NO_SERVICE = 18
    INTERRUPTED = 130


EXIT_CODES: Final[dict[ExitCode, str]] = {
    ExitCode.OK: "done; after umount and sync: everything is in the box",
    ExitCode.FAILED: "it failed for a reason that has no number of its own",
    ExitCode.USAGE: "wrong arguments",
    ExitCode.MOUNT_POINT: "the mount point cannot be used",
    ExitCode.NO_FUSE: "this machine, or this user, cannot mount with FUSE",
    ExitCode.BUSY: "the mount point is mounted already, or its mount is in use",
    ExitCode.NO_BOX: "there is no such box, or it cannot be used",
    ExitCode.PENDING: "changes are not in the box yet; the journal keeps them",
    ExitCode.NOT_MOUNTED: "no box is mounted there",
    ExitCode.NO_ANSWER: "no answer in time",
    ExitCode.DIED: "the daemon ended unexpectedly",
    ExitCode.EXISTS: "there is one of that name already",
    ExitCode.DENIED: "the service does not accept the credential, or it has no right to do that",
    ExitCode.UNAVAILABLE: "the service or the box cannot be reached, or failed itself",
    ExitCode.STATE: "the state of the box does not allow that now",
    ExitCode.QUOTA: "the account or the quota does not allow that, or requests came too fast",
    ExitCode.UNSUPPORTED: "the service cannot do that",
    ExitCode.NOT_FOUND: "there is no such release, port, variable or profile",
    ExitCode.NO_SERVICE: "the service, profile or credential that is meant cannot be used",
    ExitCode.INTERRUPTED: "interrupted from the keyboard",
}


class MountError(Exception):
    """A command cannot do what it was asked; the text is one sentence that says what to do."""

    def __init__(self, text: str, exit_code: int = ExitCode.FAILED) -> None:
        super().__init__(text)
        self.text = text
        self.exit_code = int(exit_code)


def key_of(mountpoint: Path) -> str:
    """Name the mount point in file names: short, and the same in every process."""
    return hashlib.blake2s(os.fsencode(mountpoint), digest_size=8).hexdigest()


# RFC 1123 label, which is what the control plane accepts as the name of a box.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Read a size such as `512M` or `8GiB` as bytes; units are powers of 1024.

    Raises:
        ValueError: it is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size; write for example 512M or 8G.")
    return int(float(match[1]) * 1024.0 ** " kmgt".index(match[2].lower() or " "))


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where a user's files are. Nothing is created by asking."""

    data: Path
    """The boxes of the embedded engine."""
    state: Path
    """Journals, conflicts, logs: nothing in it can be had again."""
    cache: Path
    """May be removed while nothing is mounted."""
    runtime: tuple[Path, ...]
    """Where control sockets may be, best first."""

    @classmethod
    def from_environment(cls) -> Places:
        """Take DEVBOX_DATA_DIR, DEVBOX_STATE_DIR, DEVBOX_CACHE_DIR, else the platform's places."""
        # The package's front door imports every platform's module: 40 ms against 12.
        from platformdirs.unix import Unix

        dirs = Unix("devbox")
        state = _place("DEVBOX_STATE_DIR", dirs.user_state_dir)
        runtime = []
        if os.environ.get("XDG_RUNTIME_DIR", "").startswith("/"):
            runtime.append(Path(os.environ["XDG_RUNTIME_DIR"]))
        runtime.append(Path(f"/run/user/{os.getuid()}"))
        places = [place / "devboxfs" for place in dict.fromkeys(runtime)]
        return cls(
            data=_place("DEVBOX_DATA_DIR", dirs.user_data_dir),
            state=state,
            cache=_place("DEVBOX_CACHE_DIR", dirs.user_cache_dir),
            runtime=(*places, state / "run"),
        )


def _place(variable: str, default: str) -> Path:
    return Path(os.path.abspath(os.environ.get(variable) or default))


CONSISTENCIES: Final = ("relaxed", "strict")
OFFLINE_FSYNCS: Final = ("fail", "journal")
DEFAULT_TIMEOUT: Final = 30.0
DEFAULT_CACHE_SIZE: Final = 4 << 30  # guessed: several node_modules
DEFAULT_JOURNAL_LIMIT: Final = 8 << 30
MIN_CACHE_SIZE: Final = 16 << 20
MIN_JOURNAL_LIMIT: Final = 64 << 20  # four segments: with fewer, none could be dropped while used


@dataclass(frozen=True, slots=True, kw_only=True)
class MountConfig:
    """One mount. Sizes are in bytes, times in seconds, paths absolute.

    Raises:
        MountError: a value makes no sense; the text says which and why.
    """

    name: str
    mountpoint: Path
    state_dir: Path
    cache_dir: Path
    data_dir: Path
    runtime_dirs: tuple[Path, ...] = ()
    embedded: bool = False
    """Whether the embedded engine was asked for; else the SDK's rule chooses the service."""
    profile: str | None = None
    endpoint: str | None = None
    kubeconfig: Path | None = None
    """The credential as a file; a credential itself is never in here."""
    context: str | None = None
    namespace: str | None = None
    transport: str | None = None
    """The way to the box; None for what the environment or the profile says, else the best."""
    allow_weak: bool = False
    """Whether the box is written to also by a way that cannot do all that the helper can."""
    foreground: bool = False
    allow_other: bool = False
    read_only: bool = False
    local: tuple[str, ...] = ()
    """Patterns of directories that live on this machine."""
    exclude: tuple[str, ...] = ()
    """Patterns of names that do not exist in the mount."""
    subpath: str = ""
    """The directory of the workspace that is mounted; all of it if empty."""
    uid: int | None = None
    gid: int | None = None
    """Whose everything is shown to be; None: the workspace's user is shown as who mounts."""
    umask: int = 0
    """Permission bits that are not shown."""
    transform_symlinks: bool = False
    offline_fsync: str = "fail"
    consistency: str = "relaxed"
    """One of `CONSISTENCIES`: whether a change is acknowledged by the journal or by the box."""
    timeout: float = DEFAULT_TIMEOUT
    """How long an operation may wait for the box."""
    cache_size: int = DEFAULT_CACHE_SIZE
    journal_limit: int = DEFAULT_JOURNAL_LIMIT
    log_file: Path | None = None
    """None: in the foreground none, in the background `default_log_file`."""
    debug: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise MountError(
                f"{self.name!r} is not the name of a box: a name has 1 to 63 lower-case letters, "
                "digits and dashes, and neither starts nor ends with a dash.",
                ExitCode.NO_BOX,
            )
        for path in (self.mountpoint, self.state_dir, self.cache_dir, self.data_dir):
            if not path.is_absolute():
                raise MountError(f"{str(path)!r} is not an absolute path.", ExitCode.USAGE)
        if not 0.1 <= self.timeout <= 86_400:
            raise MountError("The timeout must be 0.1 to 86400 seconds.", ExitCode.USAGE)
        if self.embedded and (self.profile or self.endpoint or self.kubeconfig):
            raise MountError("--embedded and another service exclude each other.", ExitCode.USAGE)
        if self.offline_fsync not in OFFLINE_FSYNCS:
            raise MountError("An offline fsync can fail or journal.", ExitCode.USAGE)
        if self.consistency not in CONSISTENCIES:
            raise MountError("The consistency is relaxed or strict.", ExitCode.USAGE)
        self._check_patterns()
        if self.subpath and {"", ".", ".."} & set(self.subpath.split("/")):
            raise MountError(
                f"{self.subpath!r} is no path below the root of the workspace: write it relative "
                "to that root, as in src/app.",
                ExitCode.USAGE,
            )
        if not 0 <= self.umask <= 0o777:
            raise MountError("The umask must be octal, 0 to 777.", ExitCode.USAGE)
        owners = (number for number in (self.uid, self.gid) if number is not None)
        if not all(0 <= number < 2**32 - 1 for number in owners):
            raise MountError("Users and groups are numbers from 0 to 4294967294.", ExitCode.USAGE)
        if self.cache_size < MIN_CACHE_SIZE:
            raise MountError("The cache size must be at least 16 MiB.", ExitCode.USAGE)
        if self.journal_limit < MIN_JOURNAL_LIMIT:
            raise MountError("The journal limit must be at least 64 MiB.", ExitCode.USAGE)

    def _check_patterns(self) -> None:
        if not self.local and not self.exclude:
            return
        from sealos_devbox import check_pattern  # the SDK takes its time to import

        try:
            for pattern in (*self.local, *self.exclude):
                check_pattern(pattern)
        except ValueError as error:
            raise MountError(str(error), ExitCode.USAGE) from None
        if excepting := [one for one in (*self.local, *self.exclude) if one.startswith("!")]:
            raise MountError(
                f"{excepting[0]!r}: a pattern cannot except anything from the others. Write "
                f"'\\{excepting[0]}' for names that begin with an exclamation mark.",
                ExitCode.USAGE,
            )

    @property
    def presentation(self) -> dict[str, object]:
        """What was asked for of what is shown, and of what is not; without defaults."""
        asked: dict[str, object] = {
            "subpath": self.subpath or None,
            "local": list(self.local) or None,
            "exclude": list(self.exclude) or None,
            "uid": self.uid,
            "gid": self.gid,
            "umask": f"{self.umask:03o}" if self.umask else None,
            "transform_symlinks": self.transform_symlinks or None,
        }
        return {name: value for name, value in asked.items() if value is not None}

    @property
    def default_log_file(self) -> Path:
        """The log of a daemon in the background: one per mount point, since each is rotated."""
        return self.state_dir / "log" / f"{self.name}-{key_of(self.mountpoint)}.log"

    @property
    def fuse_options(self) -> set[str]:
        """The options for pyfuse3: mountinfo shows `fuse.devboxfs` and `devbox:<name>`.

        `ro` is not among them: changes in the box are made known to local watchers by operations
        on the mount, which a read-only mount would refuse. The handlers enforce it.
        """
        options = {
            "default_permissions",
            f"fsname=devbox:{self.name}",
            "subtype=devboxfs",
            "nosuid",
            "nodev",
        }
        if self.allow_other:
            options.add("allow_other")
        return options

    def to_json(self) -> str:
        """Write it in one line, for the process that will serve the mount."""
        values = asdict(self)
        return json.dumps(values, default=os.fspath)

    @classmethod
    def from_json(cls, text: str) -> MountConfig:
        """Read what `to_json` wrote."""
        values = json.loads(text)
        for field in fields(cls):
            if str(field.type).startswith("Path") and values[field.name] is not None:
                values[field.name] = Path(values[field.name])
        values["runtime_dirs"] = tuple(Path(place) for place in values["runtime_dirs"])
        values["local"], values["exclude"] = tuple(values["local"]), tuple(values["exclude"])
        return cls(**values)
