"""A command over an exec stream whose input and output flow: the script around it. No IO.

The stream may have no end of the input (version 4), the server throws away what it has not sent yet
when the command ends and the client speaks, and does not end the command when the client goes. So a
wrapper takes the input in pieces, each a line with its size before it, of which 0 is the end; says
in both outputs that the command has ended; and waits for an answer, whose absence ends the
command with all that it has started.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Final

__all__ = ["END", "EndFinder", "answer", "piece", "wrapper"]

END: Final = b"0\n"
"""The end of the input."""

_SCRIPT: Final = """\
exec 3<&0
mark() { printf '\\001%s %d\\n' NONCE "$1"; }
no() { mark "$1"; mark 0 >&2; exit; }
cd DIRECTORY 2>/dev/null || no 125
u=USER
g=
h=
if [ -n "$u" ] && [ "$(id -u)" = 0 ]
then
while IFS=: read -r n p i j x h s
do [ "$n" = "$u" ] && { g=$j; break; }
done </etc/passwd
fi
set -- ARGV
command -v "$1" >/dev/null 2>&1 || no 127
lead=
command -v setsid >/dev/null 2>&1 && lead=setsid
run() {
if [ -z "$g" ]; then :
elif command -v setpriv >/dev/null 2>&1
then
export HOME="$h" USER="$u" LOGNAME="$u"
set -- setpriv --reuid "$u" --regid "$g" --init-groups "$@"
else set -- su -s /bin/sh "$u" -c 'exec "$0" "$@"' -- "$@"
fi
exec $lead sh -c 'printf "\\001%s %d\\n" NONCE $$ >&2; exec "$@"' sh "$@" 2>&4 4>&-
}
{
while IFS= read -r n <&3 && [ "$n" != 0 ]
do dd bs=65536 iflag=fullblock,count_bytes count="$n" <&3 2>/dev/null || break
done
exec >&-
while IFS= read -r x <&3; do [ "$x" = NONCE ] && exit 0; done
for d in /proc/[0-9]*
do grep -qs 'DEVBOX_COMMAND=NONCE' "$d/environ" && kill -s KILL "${d#/proc/}"
done 2>/dev/null
exit 1
} | {
exec 3<&- 4>&2 2>/dev/null
( export DEVBOX_COMMAND=NONCE; run "$@" )
s=$?
mark "$s"
mark 0 >&4
}
"""


def wrapper(
    argv: Sequence[bytes], env: Mapping[str, str], *, directory: bytes, user: str, nonce: str
) -> bytes:
    """Return the line that a shell which evaluates one is to be sent.

    directory: empty to stay. user: whom root becomes; nobody where there is no such user.
    """
    words = [word.decode(errors="surrogateescape") for word in argv]
    if env:
        words = ["env", *(f"{name}={value}" for name, value in env.items()), *words]
    values = {
        "DIRECTORY": shlex.quote(directory.decode(errors="surrogateescape") or "."),
        "USER": shlex.quote(user),
        "NONCE": nonce,
        "ARGV": shlex.join(words),
    }
    # In one pass: the arguments may hold the names of the others.
    names = r"\b(?:DIRECTORY|(?<=u=)USER|NONCE|ARGV)\b"
    text = re.sub(names, lambda found: values[found[0]], _SCRIPT)
    return text.replace("\\", "\\\\").replace("\n", "\\n").encode(errors="surrogateescape") + b"\n"


def piece(data: bytes) -> bytes:
    """Return some input as the wrapper takes it."""
    return b"%d\n" % len(data) + data


def answer(nonce: str) -> bytes:
    """Return what lets the wrapper end; it may follow input that was not taken."""
    return f"\n0\n\n{nonce}\n".encode()


class EndFinder:
    """Passes output on until the wrapper's mark, and what the mark says."""

    def __init__(self, nonce: str) -> None:
        self._mark = b"\1" + nonce.encode() + b" "
        # Its first byte ends hardly any output, so that hardly any is held back.
        self._held = b""
        self.said: int | None = None
        """The number after the mark."""

    def feed(self, data: bytes) -> bytes:
        """Return what is output; what may be the beginning of a mark is held back."""
        if self.said is not None:
            return b""
        data = self._held + data
        found = data.find(self._mark)
        if found >= 0:
            number, end, _ = data[found + len(self._mark) :].partition(b"\n")
            if end:
                self.said = int(number)
                self._held = data[found + len(self._mark) + len(number) + 1 :]
                return data[:found]
            self._held = data[found:]
            return data[:found]
        start = max(0, len(data) - len(self._mark) + 1)
        cut = data.find(self._mark[:1], start)
        while cut >= 0 and not self._mark.startswith(data[cut:]):
            cut = data.find(self._mark[:1], cut + 1)
        if cut < 0:
            cut = len(data)
        self._held = data[cut:]
        return data[:cut]

    def next(self) -> bytes:
        """Look for another mark in what follows this one; returns what of it is output."""
        self.said = None
        data, self._held = self._held, b""
        return self.feed(data)
