"""Where the daemon's log goes, and what does not get into it.

Records of devboxfs and sealos_devbox hold names, numbers and paths: never contents, tokens or
kubeconfigs. The libraries below them log requests with their headers when they are asked for
details, so they are never asked.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Final

from devboxfs.config import ExitCode, MountError

if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["configure", "open_log"]

MAX_SIZE: Final = 8 << 20
BACKUPS: Final = 2
FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
OURS: Final = ("devboxfs", "sealos_devbox")


def open_log(path: Path) -> int:
    """Open the log for appending, readable by its owner alone; returns a descriptor.

    Raises:
        MountError: it cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _open_private(path)
    except OSError as error:
        raise MountError(
            f"The log {path} cannot be written ({error.strerror}): name another with --log-file.",
            ExitCode.FAILED,
        ) from error


def _open_private(path: str | Path) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(path, flags, 0o600)


class _RotatingLog(logging.handlers.RotatingFileHandler):
    """A rotated log that takes standard output and standard error along.

    libfuse, the interpreter and its fault handler write there, past `logging`.
    """

    def __init__(self, path: Path, *, with_output: bool) -> None:
        self._with_output = with_output
        super().__init__(path, maxBytes=MAX_SIZE, backupCount=BACKUPS, encoding="utf-8")

    def _open(self) -> TextIOWrapper:
        descriptor = _open_private(self.baseFilename)
        if self._with_output:
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
        return open(descriptor, "a", encoding="utf-8", errors="backslashreplace")


def configure(*, file: Path | None, stream: TextIO | None, debug: bool) -> None:
    """Send log records to a file, a stream, or both, until the process ends."""
    handlers: list[logging.Handler] = []
    if file is not None:
        os.close(open_log(file))
        handlers.append(_RotatingLog(file, with_output=stream is None))
    if stream is not None:
        handlers.append(logging.StreamHandler(stream))
    formatter = logging.Formatter(FORMAT)
    for handler in handlers:
        handler.setFormatter(formatter)
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.DEBUG if debug else logging.INFO)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_unhandled


def _log_unhandled(kind: type[BaseException], error: BaseException, trace: object) -> None:
    logging.getLogger("devboxfs").critical("unhandled", exc_info=(kind, error, error.__traceback__))
