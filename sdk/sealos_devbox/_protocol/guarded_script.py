"""A script run over an exec stream so that nothing of its output is lost. No IO.

When a program ends, servers of the exec stream write its status and close the connection at once; a
frame of the client that arrives after that, be it a ping, makes the kernel throw away what was not
sent yet. So the program must not end before the client has all of its output: a wrapper says, in
both outputs, that the script has ended, and waits for an answer. The same wait notices that the
client has gone, and ends the script, which the server does not do.

Version 4 of the stream has no end of the input: the wrapper passes on as many bytes as it was told.
"""

from __future__ import annotations

import re
import shlex
from typing import Final

__all__ = ["Collector", "answer", "wrapper"]

# The first half of the pipeline feeds the script's input, then listens for the client's answer; its
# end is that of the connection. The script is ended with the process group, which is the exec's own
# where the shell leads it. Its user: `setpriv` changes nothing else; `su` is everywhere, but may
# put the script into a session of its own, which then ends by itself only. What the shell says
# itself of a script that was killed is not the script's.
_WRAPPER: Final = """\
exec 3<&0
cd DIRECTORY || exit 125
c=SCRIPT
u=USER
g=
h=
lead() { IFS= read -r l </proc/$$/stat && set -- ${l##*) } && [ "$3" = "$$" ]; }
end='exit 1'
lead 2>/dev/null && end='kill -s KILL 0'
if [ -n "$u" ] && [ "$(id -u)" = 0 ]
then
while IFS=: read -r n p i j x h s
do [ "$n" = "$u" ] && { g=$j; break; }
done </etc/passwd
fi
run() {
if [ -z "$g" ]; then set -- /bin/sh -c "$c"
elif setpriv --reuid "$u" --regid "$g" --init-groups true
then
export HOME="$h" USER="$u" LOGNAME="$u"
set -- setpriv --reuid "$u" --regid "$g" --init-groups /bin/sh -c "$c"
else set -- su -s /bin/sh "$u" -c "$c"
fi
( exec 2>&4 4>&-; exec "$@" )
}
{
FEED
exec >&-
while IFS= read -r x <&3; do [ "$x" = NONCE ] && exit 0; done
eval "$end"
} | {
exec 3<&- 4>&2 2>/dev/null
run
s=$?
printf '\\n%s %d\\n' NONCE "$s"
printf '\\n%s\\n' NONCE >&4
}
"""


def wrapper(script: str, *, size: int, directory: str, user: str, nonce: str) -> bytes:
    """Return the line that a shell which evaluates one is to be sent.

    size: bytes of input, which follow the line. directory: empty to stay. user: whom root becomes;
    nobody where there is no such user.
    """
    values = {
        "DIRECTORY": shlex.quote(directory or "."),
        "SCRIPT": shlex.quote(script),
        "USER": shlex.quote(user),
        "NONCE": nonce,
        "FEED": f"head -c {size} <&3" if size else ":",
    }
    # In one pass: the script may hold the names of the others.
    names = r"\b(?:DIRECTORY|SCRIPT|USER(?==)|(?<==)USER|NONCE|FEED)\b"
    text = re.sub(names, lambda found: values.get(found[0], found[0]), _WRAPPER)
    return text.replace("\\", "\\\\").replace("\n", "\\n").encode(errors="surrogateescape") + b"\n"


def answer(nonce: str) -> bytes:
    """Return what lets the wrapper end. It may follow input that the script has not taken."""
    return f"\n{nonce}\n".encode()


class Collector:
    """Both outputs, until the wrapper has said that they are complete."""

    def __init__(self, nonce: str) -> None:
        self._end = re.compile(rb"\n%s (\d+)\n" % nonce.encode())
        self._error_end = b"\n%s\n" % nonce.encode()
        self._longest = len(nonce) + 16
        self._stdout = bytearray()
        self._stderr = bytearray()
        self._out_size: int | None = None
        self._err_size: int | None = None
        self.exit_code: int | None = None

    @property
    def size(self) -> int:
        """Bytes so far."""
        return len(self._stdout) + len(self._stderr)

    @property
    def complete(self) -> bool:
        """Whether all has arrived."""
        return self._out_size is not None and self._err_size is not None

    @property
    def stdout(self) -> bytes:
        """What the script wrote to its standard output."""
        return bytes(self._stdout[: self._out_size])

    @property
    def stderr(self) -> bytes:
        """What the script wrote to its standard error."""
        return bytes(self._stderr[: self._err_size])

    def add_stdout(self, data: bytes) -> None:
        """Take some of the standard output."""
        start = max(0, len(self._stdout) - self._longest)
        self._stdout += data
        found = self._end.search(self._stdout, start) if self._out_size is None else None
        if found:
            self._out_size = found.start()
            self.exit_code = int(found[1])

    def add_stderr(self, data: bytes) -> None:
        """Take some of the standard error."""
        start = max(0, len(self._stderr) - self._longest)
        self._stderr += data
        if self._err_size is None:
            found = self._stderr.find(self._error_end, start)
            self._err_size = found if found >= 0 else None
