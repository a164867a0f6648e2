"""How the helper is put into a box by way of its agent: the scripts, and what they say. No IO.

The same places and names as over an exec stream (`bootstrap`), so that what one way has put there
the other finds. The agent gives a command no input, so the helper is written as files, and one
script checks and names it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sealos_devbox._protocol.bootstrap import MACHINES, PLACES
from sealos_devbox.errors import ProtocolError

__all__ = ["Missing", "Present", "Unusable", "finish", "look", "parse"]

_COMMON = """\
say() { printf '@devbox-agent-bootstrap %s\\n' "$*"; }
no() { say refused "$*"; exit 0; }
umask 022
me=$(id -u) || me=x
if command -v sha256sum >/dev/null 2>&1
then sum() { sha256sum <"$1"; }
elif command -v openssl >/dev/null 2>&1
then sum() { openssl dgst -sha256 -r <"$1"; }
else no 'the box has neither sha256sum nor openssl'
fi
good() { s=$(sum "$1" 2>/dev/null) && [ "${s%% *}" = "$h" ]; }
"""

_LOOK = """\
[ -d "$root" ] || no "there is no directory $root in the box, or its user may not see it"
m=$(uname -m 2>/dev/null) || no 'the box has no uname, so its processor is unknown'
case $m in
ARCHITECTURES
*) no "there is no helper for the processor $m";;
esac
own() { [ -d "$p" ] && [ ! -L "$p" ] && [ -O "$p" ]; }
why=
set -- PLACES
for d do
p=$d/devbox-helper-$me f=$p/$h
[ -n "$d" ] && own && [ -x "$f" ] && [ -O "$f" ] && good "$f" && { say have "$f"; exit 0; }
done
for d do
[ -n "$d" ] || continue
p=$d/devbox-helper-$me t=$p/.new-NONCE
[ "$d" = "$1" ] && mkdir -p "$d" 2>/dev/null
[ -d "$d" ] || { why="$why; $d: there is none"; continue; }
own || mkdir -m 700 "$p" 2>/dev/null
own || { why="$why; $d: not writable"; continue; }
{ printf '#!/bin/sh\\nexit 0\\n' >"$t"; } 2>/dev/null && chmod 755 "$t" 2>/dev/null \
|| { rm -f "$t" 2>/dev/null; why="$why; $d: not writable"; continue; }
"$t" 2>/dev/null || { rm -f "$t"; why="$why; $d: nothing may be run there (noexec)"; continue; }
rm -f "$t"
z=plain
command -v gzip >/dev/null 2>&1 && z=gzip
say need "$a" "$z" "$p"
exit 0
done
no "there is no place for the helper${why}"
"""

_FINISH = """\
t=$p/.new-NONCE f=$p/$h
trap 'rm -f "$t" "$t".*' EXIT
if [ "$z" = gzip ]; then cat PARTS | gzip -dc >"$t"; else cat PARTS >"$t"; fi
good "$t" || no 'the helper did not arrive whole'
chmod 755 "$t"
e=$("$t" --version 2>&1) || no "the helper does not run in $p: $e"
mv -f "$t" "$f" || no "the helper cannot be put into $p"
find "$p" -type f ! -name "$h" \\( -name '.new-*' -mmin +60 -o -mtime +30 \\) \
-exec rm -f {} + 2>/dev/null
say have "$f"
"""


@dataclass(frozen=True, slots=True)
class Present:
    """The helper is there, whole."""

    path: str


@dataclass(frozen=True, slots=True)
class Missing:
    """The helper is to be put into a directory of its own."""

    architecture: str
    compressed: bool
    directory: str


@dataclass(frozen=True, slots=True)
class Unusable:
    """The helper cannot run in this box."""

    reason: str


def look(
    hashes: Mapping[str, str], *, root: str, nonce: str, places: Sequence[str] = PLACES
) -> str:
    """Return the script that looks for the helper, or for a place for it.

    hashes: of the helpers that can be sent, by architecture.
    """
    architectures = "\n".join(
        f"{'|'.join(MACHINES[architecture])}) a={architecture} h={digest};;"
        for architecture, digest in hashes.items()
    )
    text = _LOOK.replace("ARCHITECTURES", architectures).replace("NONCE", nonce)
    text = text.replace("PLACES", " ".join(f'"{place}"' for place in places))
    return f"root={shlex.quote(root)}\n{_COMMON}{text}"


def finish(missing: Missing, digest: str, *, nonce: str, parts: int) -> str:
    """Return the script that makes the helper of the parts ``.new-NONCE.0`` and so on."""
    names = " ".join(f'"$t".{number}' for number in range(parts))
    text = _FINISH.replace("NONCE", nonce).replace("PARTS", names)
    encoding = "gzip" if missing.compressed else "plain"
    return f"p={shlex.quote(missing.directory)} h={digest} z={encoding}\n{_COMMON}{text}"


def parse(stdout: str, stderr: str) -> Present | Missing | Unusable:
    """Return what a script said."""
    for line in stdout.splitlines():
        mark, _, rest = line.partition(" ")
        if mark != "@devbox-agent-bootstrap":
            continue
        kind, _, rest = rest.partition(" ")
        if kind == "have":
            return Present(rest)
        if kind == "refused":
            return Unusable(rest)
        architecture, _, rest = rest.partition(" ")
        encoding, _, directory = rest.partition(" ")
        if kind == "need" and architecture in MACHINES:
            return Missing(architecture, encoding == "gzip", directory)
    raise ProtocolError(f"no shell answers through the agent: {(stderr or stdout)[:300]!r}")
