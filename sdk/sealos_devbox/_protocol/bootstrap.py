"""How the helper is started over a byte channel to a shell: the script, and what it says. No IO.

The shell reads one line, the script, and runs it. The script looks for the helper in the places
where it may be, by its SHA-256, and turns into it: the first bytes that come back are then the
helper's own, one round trip after the script was sent. Else it says `need`, and takes the helper
from the same stream: a line with the number of bytes, then so many bytes. Nothing in this needs an
end of the input, which version 4 of the exec stream does not have.

What the script says begins with MARK, so that a banner of the shell is no part of it. It runs with
any POSIX shell, dash and busybox among them, and needs uname, mkdir, chmod, mv, rm, head and
sha256sum (or openssl).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sealos_devbox._protocol import helper_place
from sealos_devbox.errors import ProtocolError

__all__ = [
    "COMMAND",
    "HELPER_MAGIC",
    "Failed",
    "Needed",
    "Refused",
    "Started",
    "parse_answer",
    "script",
]

COMMAND: Final = ("/bin/sh", "-c", 'IFS= read -r s; eval "$(printf %b "$s")"')
"""The builtin `read` takes no byte more than the line, and `printf %b` makes lines of it again."""
HELPER_MAGIC: Final = b"\0DBXHLP\n"
MARK: Final = b"@devbox-bootstrap "
NOISE: Final = 65536
"""Of what a shell says before; more is no shell."""
LINE: Final = 4096

# The shell waits for the upload with a limit where there is `timeout`: its input does not end when
# the network vanishes.
_SCRIPT: Final = (
    """\
say() { printf '%s%s\\n' '@devbox-bootstrap ' "$*"; }
no() { say refused "$*"; exit 0; }
umask 022
r=ROOT
[ -n "$r" ] || r=$PWD
[ -d "$r" ] || no "there is no directory $r in the box, or its user may not see it"
"""
    + helper_place.MACHINE
    + helper_place.SUM
    + """\
u=USER
me=$(id -u 2>/dev/null) || me=x
if [ "$me" = 0 ] && [ -n "$u" ]
then
k=
[ -r /etc/passwd ] && while IFS=: read -r n p i x
do if [ "$n" = "$u" ] || [ "$i" = "$u" ]; then k=1; break; fi
done </etc/passwd
if [ -z "$k" ]; then u=$(stat -c %u "$r" 2>/dev/null) || u=; [ "$u" = 0 ] && u=; fi
else u=
fi
"""
    + helper_place.GOOD
    + helper_place.OWN
    + """\
go() { if [ -n "$u" ]; then exec "$f" serve --root "$r" --user "$u"
else exec "$f" serve --root "$r"; fi; }
why=
set -- PLACES
for d
do
p=$d/devbox-helper-$me f=$p/$h
[ -n "$d" ] && own && [ -f "$f" ] && [ -x "$f" ] && [ -O "$f" ] && good "$f" && go
done
for d
do
[ -n "$d" ] || continue
case SKIPPED in *" $d "*) why="$why; $d: the helper did not arrive there whole"; continue; esac
p=$d/devbox-helper-$me f=$p/$h t=$p/.new-NONCE
"""
    + helper_place.TRY
    + """\
command -v head >/dev/null 2>&1 || { rm -f "$t"; no 'the box has no head'; }
z=plain
command -v gzip >/dev/null 2>&1 && z=gzip
l=
timeout 9 true 2>/dev/null && l='timeout 600'
say need "$a" "$z" "$d"
IFS= read -r n || { rm -f "$t"; exit 0; }
trap 'rm -f "$t"' EXIT
trap 'exit 1' HUP INT PIPE TERM
if [ "$z" = gzip ]; then $l head -c "$n" | gzip -dc >"$t" 2>/dev/null
else $l head -c "$n" >"$t" 2>/dev/null; fi
good "$t" && chmod 755 "$t" || { say failed "$d"; exit 0; }
e=$("$t" --version 2>&1) || no "the helper does not run in $d: $e"
mv -f "$t" "$f" || { say failed "$d"; exit 0; }
trap - EXIT HUP INT PIPE TERM
"""
    + helper_place.SWEEP
    + """\
go
done
no "there is no place for the helper${why}"
"""
)


@dataclass(frozen=True, slots=True)
class Started:
    """The helper runs; these are its first bytes."""

    first: bytes


@dataclass(frozen=True, slots=True)
class Needed:
    """The helper for an architecture is to be sent."""

    architecture: str
    compressed: bool
    place: str


@dataclass(frozen=True, slots=True)
class Failed:
    """What was sent did not arrive whole, or does not fit, there."""

    place: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The helper cannot run in this box."""

    reason: str


Answer = Started | Needed | Failed | Refused


def script(
    hashes: Mapping[str, str],
    *,
    root: str,
    user: str,
    nonce: str,
    skipped: Sequence[str] = (),
    places: Sequence[str] = helper_place.PLACES,
) -> bytes:
    """Return the line that is to be sent first.

    hashes: of the helpers that can be sent, by architecture. root: the workspace, empty for the
    directory in which the shell runs. user: whom the helper is to become where the shell is root's;
    where there is no such user, the workspace's owner. skipped: places where an upload failed.
    """
    values = {
        "ARCHITECTURES": helper_place.machine_cases(hashes),
        "ROOT": shlex.quote(root),
        "USER": shlex.quote(user),
        "NONCE": nonce,
        "SKIPPED": shlex.quote(f" {' '.join(skipped)} "),
        "PLACES": helper_place.place_words(places),
    }
    # In one pass: a value may hold the name of another.
    text = re.sub(r"\b[A-Z]{4,}\b", lambda found: values.get(found[0], found[0]), _SCRIPT)
    return text.replace("\\", "\\\\").replace("\n", "\\n").encode() + b"\n"


def parse_answer(received: bytes) -> Answer | None:
    """Return what was said, None as long as it is not complete.

    Raises ProtocolError when it is neither a helper nor the script.
    """
    magic = received.find(HELPER_MAGIC)
    mark = received.find(MARK)
    if magic >= 0 and (mark < 0 or magic < mark):
        return Started(received[magic:])
    if mark < 0:
        if len(received) > NOISE:
            raise ProtocolError("no shell answers in the box")
        return None
    line, end, _ = received[mark + len(MARK) :].partition(b"\n")
    if not end:
        if len(line) > LINE:
            raise ProtocolError("the bootstrap's answer has no end")
        return None
    kind, _, rest = line.decode(errors="backslashreplace").partition(" ")
    if kind == "refused":
        return Refused(rest)
    if kind == "failed":
        return Failed(rest)
    architecture, _, rest = rest.partition(" ")
    encoding, _, place = rest.partition(" ")
    if kind != "need" or architecture not in helper_place.MACHINES:
        raise ProtocolError(f"the bootstrap's answer makes no sense: {line[:200]!r}")
    return Needed(architecture, encoding == "gzip", place)
