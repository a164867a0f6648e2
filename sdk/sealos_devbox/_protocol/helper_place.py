"""Where the helper may be in a box, and the parts of a shell script that look for it. No IO.

Every way into a box puts it into the same places by the same name, its SHA-256, so that what one
way has put there the other finds. The parts run with any POSIX shell, dash and busybox among them;
`say` and `no` (which ends the script with a reason) are the whole script's.

Executed by root in many boxes, whose other users may write to some of the places: only what this
user made, in a directory of its own, is executed. 755, because the helper becomes another user and
then executes itself again. A place is tried with a script first: on a noexec mount the upload would
be for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

__all__ = [
    "GOOD",
    "MACHINE",
    "MACHINES",
    "OWN",
    "PLACES",
    "SUM",
    "SWEEP",
    "TRY",
    "machine_cases",
    "place_words",
]

MACHINES: Final = {"amd64": ("x86_64", "amd64"), "arm64": ("aarch64", "arm64")}
"""What `uname -m` says, by the name that Go uses."""

PLACES: Final = ("${HOME:+${XDG_CACHE_HOME:-$HOME/.cache}}", "/dev/shm", "/tmp", "/var/tmp")  # noqa: S108
"""The first survives the box's restart; the others are for boxes whose root is read-only."""

MACHINE: Final = """\
m=$(uname -m 2>/dev/null) || no 'the box has no uname, so its processor is unknown'
case $m in
ARCHITECTURES
*) no "there is no helper for the processor $m"
esac
"""
"""Sets a, the architecture, and h, the helper's digest. ARCHITECTURES: of machine_cases."""

SUM: Final = """\
if command -v sha256sum >/dev/null 2>&1
then sum() { sha256sum <"$1"; }
elif command -v openssl >/dev/null 2>&1
then sum() { openssl dgst -sha256 -r <"$1"; }
else no 'the box has neither sha256sum nor openssl'
fi
"""

GOOD: Final = """\
good() { s=$(sum "$1" 2>/dev/null) && [ "${s%% *}" = "$h" ]; }
"""

OWN: Final = """\
own() { [ -d "$p" ] && [ ! -L "$p" ] && [ -O "$p" ]; }
"""
"""Whether p, a directory for the helper, is this user's."""

TRY: Final = """\
[ "$d" = "$1" ] && mkdir -p "$d" 2>/dev/null
[ -d "$d" ] || { why="$why; $d: there is none"; continue; }
own || mkdir -m 700 "$p" 2>/dev/null
own || { why="$why; $d: not writable"; continue; }
{ printf '#!/bin/sh\\nexit 0\\n' >"$t"; } 2>/dev/null && chmod 755 "$t" 2>/dev/null \
|| { rm -f "$t" 2>/dev/null; why="$why; $d: not writable"; continue; }
"$t" 2>/dev/null || { rm -f "$t"; why="$why; $d: nothing may be run there (noexec)"; continue; }
"""
"""In a loop over the places, d: goes on with the next unless t, a file in p, can be run there."""

SWEEP: Final = """\
find "$p" -type f ! -name "$h" \\( -name '.new-*' -mmin +60 -o -mtime +30 \\) \
-exec rm -f {} + 2>/dev/null
"""
"""Removes what interrupted uploads and old versions left."""


def machine_cases(hashes: Mapping[str, str]) -> str:
    """Return the branches for the helpers that can be sent: their digests by architecture."""
    return "\n".join(
        f"{'|'.join(MACHINES[architecture])}) a={architecture} h={digest};;"
        for architecture, digest in hashes.items()
    )


def place_words(places: Sequence[str]) -> str:
    """Return the places, shell words that the box expands."""
    return " ".join(f'"{place}"' for place in places)
