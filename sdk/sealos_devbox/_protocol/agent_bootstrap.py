"""How the helper is put into a box by way of its agent: the scripts, and what they say. No IO.

The same places and names as over an exec stream (`bootstrap`), so that what one way has put there
the other finds. The agent gives a command no input, so the helper is written as files, and one
script checks and names it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sealos_devbox._protocol import helper_place
from sealos_devbox.errors import ProtocolError

__all__ = ["Missing", "Present", "Unusable", "finish", "look", "parse"]

_COMMON: Final = (
    """\
say() { printf '@devbox-agent-bootstrap %s\\n' "$*"; }
no() { say refused "$*"; exit 0; }
umask 022
me=$(id -u) || me=x
"""
    + helper_place.SUM
    + helper_place.GOOD
)

_LOOK: Final = (
    """\
[ -d "$root" ] || no "there is no directory $root in the box, or its user may not see it"
"""
    + helper_place.MACHINE
    + helper_place.OWN
    + """\
why=
set -- PLACES
for d do
p=$d/devbox-helper-$me f=$p/$h
[ -n "$d" ] && own && [ -x "$f" ] && [ -O "$f" ] && good "$f" && { say have "$f"; exit 0; }
done
for d do
[ -n "$d" ] || continue
p=$d/devbox-helper-$me t=$p/.new-NONCE
"""
    + helper_place.TRY
    + """\
rm -f "$t"
z=plain
command -v gzip >/dev/null 2>&1 && z=gzip
say need "$a" "$z" "$p"
exit 0
done
no "there is no place for the helper${why}"
"""
)

_FINISH: Final = (
    """\
t=$p/.new-NONCE f=$p/$h
trap 'rm -f "$t" "$t".*' EXIT
if [ "$z" = gzip ]; then cat PARTS | gzip -dc >"$t"; else cat PARTS >"$t"; fi
good "$t" || no 'the helper did not arrive whole'
chmod 755 "$t"
e=$("$t" --version 2>&1) || no "the helper does not run in $p: $e"
mv -f "$t" "$f" || no "the helper cannot be put into $p"
"""
    + helper_place.SWEEP
    + """\
say have "$f"
"""
)


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
    hashes: Mapping[str, str], *, root: str, nonce: str, places: Sequence[str] = helper_place.PLACES
) -> str:
    """Return the script that looks for the helper, or for a place for it.

    hashes: of the helpers that can be sent, by architecture.
    """
    text = _LOOK.replace("ARCHITECTURES", helper_place.machine_cases(hashes)).replace(
        "NONCE", nonce
    )
    text = text.replace("PLACES", helper_place.place_words(places))
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
        if kind == "need" and architecture in helper_place.MACHINES:
            return Missing(architecture, encoding == "gzip", directory)
    raise ProtocolError(f"no shell answers through the agent: {(stderr or stdout)[:300]!r}")
