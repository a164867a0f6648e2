"""The seam under the shell: one script, run to its end.

What carries it is the exec stream or the box's agent. A script runs in a POSIX sh, in the
workspace, as the user whose files are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from sealos_devbox._transport.base import CommandStream
from sealos_devbox.types import Content

__all__ = ["Runner", "ShellOutput"]


@dataclass(frozen=True, slots=True)
class ShellOutput:
    """What a script said, whole and byte for byte."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class Runner(Protocol):
    """Runs scripts in one box. Raises TransportError when the way to it broke."""

    max_data: int
    """Bytes of input and of output that one script may have."""

    streams: bool
    """Whether input may be a Content of any size, and a command's output is bytes as they come."""

    async def run(
        self, script: bytes, data: bytes | Content = b"", *, timeout: float = 60.0
    ) -> ShellOutput:
        """Run a script with `data` as its standard input.

        Its input may not end after `data`: a script takes as many bytes as it knows there are.
        timeout: of a Content, for each of its pieces to be taken.
        """
        ...

    def command(
        self, argv: list[bytes], *, cwd: bytes | None, env: Mapping[str, str]
    ) -> CommandStream:
        """Return a command whose streams the caller handles."""
        ...

    async def aclose(self) -> None:
        """Release what the runner holds."""
        ...
