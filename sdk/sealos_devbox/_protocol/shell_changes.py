"""The operations of a batch (sdk/PROTOCOL.md section 6) as a shell script. Without any IO.

Weaker than the helper's: between a precondition's check and the change is a moment in which another
process may change the object, and nothing is logged, so that a batch whose answer was lost may be
applied twice. The order, the preconditions and the outcomes are the same.

Each operation answers with a line ``//op//SEQ STATUS``, then what its tool complained, then
``//is//`` and a description of the object as it is now, if it is there.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Mapping, Sequence
from typing import Final

from sealos_devbox._protocol import shell
from sealos_devbox.batch import RENAME_EXCHANGE, RENAME_NOREPLACE, Batch
from sealos_devbox.errors import ProtocolError
from sealos_devbox.types import Outcome, Version

__all__ = ["outcomes", "prelude", "script"]

_CHECKED: Final = frozenset(
    (
        errno.ENOENT,
        errno.EEXIST,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EINVAL,
        errno.EOPNOTSUPP,
        errno.ECANCELED,
    )
)
"""Statuses that the script itself gives; 1 and others are a tool's, with its complaint."""

_CONFLICTS: Final = {102: errno.ENOENT, 117: errno.EEXIST, 216: errno.ESTALE}
"""Statuses of a precondition that does not hold."""

_SAME_CONTENT: Final = 200
"""Status for `put` of what is there already."""


def prelude(dialect: shell.Dialect, stage: bytes) -> bytes:
    """Return the functions that the operations use."""
    return b"""S=%s
v() { %s 2>/dev/null; }
there() { [ -e "$1" ] || [ -h "$1" ]; }
dir() { [ -d "$1" ] && [ ! -h "$1" ]; }
up() {
    u=$1
    while case $u in ./*/*) ;; *) false ;; esac; do
        u=${u%%/*}
        [ -h "$u" ] && return 1
    done
    return 0
}
is() {
    c=$(v "$1")
    [ "$c" ] || return 102
    if dir "$1"; then
        [ "${c%%%% *}" = "${2%%%% *}" ] && return 0
    else
        [ "$c" = "$2" ] && return 0
    fi
    [ "$3" ] && [ ! -h "$1" ] && [ -f "$1" ] && [ "$(sha256sum <"$1")" = "$3  -" ] && return 0
    return 216
}
inode() {
    c=$(v "$1")
    [ "$c" ] || return 102
    [ "${c%%%% *}" = "$2" ] || return 216
}
free() { ! there "$1" || return 117; }
say() { printf '//op//%%s %%s\\n%%s\\n//is//\\n' "$1" "$2" "$M"; }
""" % (shell.quote(stage), dialect.version(b'"$1"'))


def script(
    dialect: shell.Dialect, batch: Batch, operations: Sequence[tuple[object, ...]],
    known: Mapping[int, Version | None],
) -> bytes:  # fmt: skip
    """Return the script for some operations of a batch, which come after those in `known`.

    `known`: what earlier operations left, None for nothing; of those that failed there is none.
    """
    writer = _Writer(dialect, batch, known)
    return b"".join(writer.operation(operation) for operation in operations)


def outcomes(
    dialect: shell.Dialect, output: bytes, operations: Sequence[tuple[object, ...]]
) -> list[Outcome]:
    """Read what the script answered."""
    parts = output.split(b"//op//")[1:]
    if len(parts) != len(operations):
        raise ProtocolError("a script of changes ended in the middle")
    found = []
    for part, operation in zip(parts, operations, strict=True):
        head, _, rest = part.partition(b"\n")
        said, _, described = rest.partition(b"\n//is//\n")
        try:
            seq, status = map(int, head.split())
        except ValueError as error:
            raise ProtocolError(f"not an outcome: {head[:100]!r}") from error
        if seq != operation[0]:
            raise ProtocolError("a script of changes answered another operation")
        entries = dialect.parse(described)
        attributes = entries[0][1] if entries else None
        conflict = status in _CONFLICTS
        number = _number(status, said)
        if number and not conflict:
            attributes = None
        found.append(Outcome(seq, number, attributes, int(conflict)))
    return found


def _number(status: int, said: bytes) -> int:
    if status in (0, _SAME_CONTENT):
        return 0
    if status in _CONFLICTS:
        return _CONFLICTS[status]
    if not said.strip() and status in _CHECKED:
        return status
    return shell.errno_of(said)


class _Writer:
    def __init__(
        self, dialect: shell.Dialect, batch: Batch, known: Mapping[int, Version | None]
    ) -> None:
        self._dialect = dialect
        self._batch = batch
        self._known = known
        self._here: set[int] = set()
        """Operations of this script: what they left is in a variable."""

    def operation(self, operation: tuple[object, ...]) -> bytes:
        seq, kind, path, pre = operation[:4]
        if not isinstance(seq, int) or not isinstance(path, bytes) or not isinstance(pre, tuple):
            raise ProtocolError(f"not an operation: {operation!r}")
        arguments = operation[4:]
        wrong = shell.check_path(path)
        steps = [b"exit %d" % wrong] if wrong in _CHECKED else []
        p = shell.quote(shell.relative(path))
        if not wrong:
            same = self._content(arguments[0]) if kind == "put" else None
            steps = [b"up %s || exit 20" % p, *self._pre(p, pre, same)]
            steps += self._change(str(kind), p, arguments)
        elif not steps:
            steps = [b"echo 'x: File name too long' >&2; exit 1"]
        # In a subshell, so that each step can end the operation.
        self._here.add(seq)
        return b"""
M=$({
%s
} 2>&1 >/dev/null)
E=$?
[ $E = 200 ] && E=0
e%d=$E
v%d=$(v %s)
say %d $E
%s 2>/dev/null
""" % (b"\n".join(steps), seq, seq, p, seq, self._dialect.describe([path]))

    def _pre(self, p: bytes, pre: tuple[object, ...], same: bytes | None) -> list[bytes]:
        """Return the steps that end the operation when its precondition does not hold.

        `same`: a staged content that, if it is there already, is no conflict.
        """
        equal = b""
        if same is not None:
            test = b"[ -f %s ] && [ ! -h %s ] && cmp -s %s %s && exit 200; "
            equal = test % (p, p, same, p)
        failed = b"|| { r=$?; %sexit $r; }" % equal
        match pre:
            case (0, *_):
                return [b"free %s %s" % (p, failed)]
            case (1, int(ino), int(ctime), int(mtime), int(size), *rest):
                digest = rest[0] if rest and isinstance(rest[0], bytes) else None
                text = self._dialect.version_text(Version(ino, ctime, mtime, size))
                return [self._is(p, text, digest, failed)]
            case (2, int(seq), *_):
                return self._as_left(p, seq, failed)
            case (4, int(ino), *_):
                return [b"inode %s %d %s" % (p, ino, failed)]
            case (3, *_):
                return []
        raise ProtocolError(f"not a precondition: {pre!r}")

    def _is(self, p: bytes, text: bytes, digest: bytes | None, failed: bytes) -> bytes:
        return b"is %s '%s' '%s' %s" % (
            p,
            text,
            digest.hex().encode() if digest else b"",
            failed,
        )

    def _as_left(self, p: bytes, seq: int, failed: bytes) -> list[bytes]:
        if seq in self._here:
            return [
                b"[ $e%d = 0 ] || exit 125" % seq,
                b'if [ "$v%d" ]; then is %s "$v%d" "" %s; else free %s %s; fi'
                % (seq, p, seq, failed, p, failed),
            ]
        if seq not in self._known:
            return [b"exit 125"]
        version = self._known[seq]
        if version is None:
            return [b"free %s %s" % (p, failed)]
        text = self._dialect.version_text(version)
        return [self._is(p, text, version.sha256, failed)]

    def _content(self, number: object) -> bytes:
        return b'"$S"/%d' % _int(number)

    def _time(self, ns: object) -> bytes:
        """Return a time as `touch -d` takes it."""
        seconds, fraction = divmod(_int(ns), 1_000_000_000)
        if not self._dialect.nanoseconds or not fraction:
            return b"@%d" % seconds
        return b"@%d.%09d" % (seconds, fraction)

    def _touch(self, p: bytes, ns: object, what: bytes = b"m") -> bytes:
        return b"touch -h -c -%s -d %s %s" % (what, self._time(ns), p)

    def _change(self, kind: str, p: bytes, arguments: tuple[object, ...]) -> list[bytes]:
        maker = getattr(self, f"_{kind}", None)
        if maker is None:
            return [b"exit 95"]
        steps: list[bytes] = maker(p, *arguments)
        # The last one's status is the operation's; a failure before it ends it.
        return [b"%s || exit" % step for step in steps[:-1]] + steps[-1:]

    def _put(self, p: bytes, number: object) -> list[bytes]:
        content = self._content(number)
        member = self._batch.members[_int(number)]
        return [
            b"{ ! dir %s || (exit 21); }" % p,
            b"chmod %o %s" % (member.mode, content),
            self._touch(content, member.mtime_ns),
            b"mv -fT %s %s" % (content, p),
        ]

    def _write(self, p: bytes, ranges: object, size: object, mtime_ns: object) -> list[bytes]:
        steps = [b"{ ! dir %s || (exit 21); }" % p, b"[ -f %s ]" % p]
        for offset, number in ranges if isinstance(ranges, (list, tuple)) else ():
            steps.append(
                b"{ M=$(dd if=%s of=%s bs=1048576 conv=notrunc oflag=seek_bytes seek=%d 2>&1) || "
                b'{ printf "%%s\\n" "$M" | grep -v records >&2; false; }; }'
                % (self._content(number), p, offset)
            )
        if size is not None:
            steps.append(b"truncate -c -s %d %s" % (_int(size), p))
        if mtime_ns is not None:
            steps.append(self._touch(p, mtime_ns))
        return [*steps, b":"]

    def _mkdir(self, p: bytes, mode: object, parents: object = False) -> list[bytes]:
        if parents:
            return [b"dir %s || { mkdir -p %s && chmod %o %s; }" % (p, p, _int(mode), p)]
        return [b"mkdir -m %o %s" % (_int(mode), p)]

    def _symlink(self, p: bytes, target: object, mtime_ns: object) -> list[bytes]:
        made = b'"$S"/link'
        steps = [
            b"{ ! dir %s || (exit 21); }" % p,
            b"rm -f %s" % made,
            b"ln -s %s %s" % (shell.quote(_bytes(target)), made),
        ]
        if mtime_ns is not None:
            steps.append(self._touch(made, mtime_ns))
        return [*steps, b"mv -fT %s %s" % (made, p)]

    def _link(self, p: bytes, existing: object, existing_pre: object) -> list[bytes]:
        e = shell.quote(shell.relative(_bytes(existing)))
        if not isinstance(existing_pre, tuple):
            raise ProtocolError("not a precondition")
        return [
            b"{ up %s || (exit 20); }" % e,
            *self._pre(e, existing_pre, None),
            b"{ ! dir %s || { echo 'x: Operation not permitted' >&2; false; }; }" % e,
            b"{ ! there %s || (exit 17); }" % p,
            b"ln %s %s" % (e, p),
        ]

    def _mknod(self, p: bytes, mode: object, rdev: object, mtime_ns: object) -> list[bytes]:
        kind, device = stat.S_IFMT(_int(mode)), _int(rdev)
        permissions = stat.S_IMODE(_int(mode))
        if kind == stat.S_IFIFO:
            steps = [b"mkfifo -m %o %s" % (permissions, p)]
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            letter = b"c" if kind == stat.S_IFCHR else b"b"
            major, minor = (device >> 8) & 0xFFF, (device & 0xFF) | ((device >> 12) & 0xFFF00)
            steps = [b"mknod -m %o %s %s %d %d" % (permissions, p, letter, major, minor)]
        else:
            return [b"(exit 95)"]
        return steps if mtime_ns is None else [*steps, self._touch(p, mtime_ns)]

    def _unlink(self, p: bytes) -> list[bytes]:
        return [
            b"{ ! dir %s || (exit 21); }" % p,
            b"{ there %s || (exit 2); }" % p,
            b"rm -f %s" % p,
        ]

    def _rmdir(self, p: bytes) -> list[bytes]:
        return [b"{ there %s || (exit 2); }" % p, b"{ dir %s || (exit 20); }" % p, b"rmdir %s" % p]

    def _rename(self, p: bytes, source: object, source_pre: object, flags: object) -> list[bytes]:
        s = shell.quote(shell.relative(_bytes(source)))
        if not isinstance(source_pre, tuple):
            raise ProtocolError("not a precondition")
        if _int(flags) & RENAME_EXCHANGE:
            return [b"(exit 95)"]
        steps = [b"{ up %s || (exit 20); }" % s, *self._pre(s, source_pre, None)]
        steps.append(b"{ there %s || (exit 2); }" % s)
        if _int(flags) & RENAME_NOREPLACE:
            steps.append(b"{ ! there %s || (exit 17); }" % p)
        steps.append(b"if dir %s; then case %s in %s/*) exit 22 ;; esac; fi" % (s, p, s))
        # rename(2) replaces an empty directory, which mv will not.
        steps.append(b"if dir %s; then dir %s || exit 21; rmdir %s || exit; fi" % (p, s, p))
        steps.append(b"if dir %s && there %s; then exit 20; fi" % (s, p))
        return [*steps, b"mv -fT %s %s" % (s, p)]

    def _setattr(
        self, p: bytes, mode: object, uid: object, gid: object, atime_ns: object, mtime_ns: object
    ) -> list[bytes]:
        steps = [b"{ there %s || (exit 2); }" % p]
        if uid is not None or gid is not None:
            owner = b"" if uid is None else b"%d" % _int(uid)
            owner += b"" if gid is None else b":%d" % _int(gid)
            steps.append(b"chown -h %s %s" % (owner, p))
        if mode is not None:
            steps.append(b"{ [ ! -h %s ] || (exit 95); }" % p)
            steps.append(b"chmod %o %s" % (_int(mode) & 0o7777, p))
        if atime_ns is not None:
            steps.append(self._touch(p, atime_ns, b"a"))
        if mtime_ns is not None:
            steps.append(self._touch(p, mtime_ns))
        return [*steps, b":"]

    def _dirtime(self, p: bytes, mtime_ns: object) -> list[bytes]:
        return [b"{ dir %s && %s; } 2>/dev/null; :" % (p, self._touch(p, mtime_ns))]

    def _copy(self, p: bytes, source: object, source_pre: object, recursive: object) -> list[bytes]:
        s = shell.quote(shell.relative(_bytes(source)))
        if not isinstance(source_pre, tuple):
            raise ProtocolError("not a precondition")
        copied = b'"$S"/copy'
        return [
            b"{ up %s || (exit 20); }" % s,
            *self._pre(s, source_pre, None),
            b":" if recursive else b"{ ! dir %s || (exit 21); }" % s,
            b"rm -rf %s" % copied,
            b"cp -a %s %s" % (s, copied),
            b"if dir %s && there %s; then rmdir %s || exit; fi" % (copied, p, p),
            b"mv -fT %s %s" % (copied, p),
        ]

    def _rmtree(self, p: bytes) -> list[bytes]:
        return [b"{ there %s || (exit 2); }" % p, b"{ dir %s || (exit 20); }" % p, b"rm -rf %s" % p]


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise ProtocolError(f"a number was expected, not {value!r}")
    return value


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise ProtocolError(f"a path was expected, not {value!r}")
    return value
