"""Reading through a shell: one script for each call."""

from __future__ import annotations

import builtins
import errno
import secrets
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

from sealos_devbox._protocol import shell
from sealos_devbox._transport.shell import stream
from sealos_devbox._transport.shell.runner import Runner, ShellOutput
from sealos_devbox.errors import CapabilityError, file_error
from sealos_devbox.patterns import Prune
from sealos_devbox.types import Attributes, DirectoryRecord, FileSystemUsage, ManyRecord, Version

__all__ = ["Lazy", "ShellReader"]

SCRIPT_SIZE: Final = 40 * 1024
"""Bytes of names in one script, which says them up to three times and may have to fit into one
argument of 128 KiB."""
TRIES: Final = 5
"""Attempts to read a file that keeps changing."""
FILES_AT_ONCE: Final = 100
"""Files whose contents one script brings: each is a process in the box."""

T = TypeVar("T")


class Lazy(Generic[T]):
    """A RecordStream over one call that brings everything at once."""

    def __init__(self, call: Callable[[], Coroutine[Any, Any, list[T]]]) -> None:
        self._call = call
        self._done = False

    async def receive(self) -> builtins.list[T] | None:
        """Return the records, then None."""
        if self._done:
            return None
        self._done = True
        return await self._call() or None

    async def __aenter__(self) -> Self:
        """Start."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing is left running."""


class ShellReader:
    """What can be read of a box by its tools."""

    def __init__(self, runner: Runner, dialect: shell.Dialect) -> None:
        self._runner = runner
        self._dialect = dialect

    async def stat_many(
        self, paths: Sequence[bytes], *, follow: bool = False
    ) -> builtins.list[Attributes | int]:
        """Return attributes, or the errno, for each path in order."""
        answers: list[Attributes | int] = []
        for some in _parts(paths):
            answers += await self._stat_some(some, follow)
        return answers

    async def _stat_some(
        self, paths: Sequence[bytes], follow: bool
    ) -> builtins.list[Attributes | int]:
        wrong = [shell.check_path(path) for path in paths]
        asked = [path for path, number in zip(paths, wrong, strict=True) if not number]
        found: dict[bytes, Attributes] = {}
        stderr = b""
        if asked:
            script = _inside(asked) if follow else b""
            script += self._dialect.describe(dict.fromkeys(asked), follow=follow)
            output = await self._runner.run(script)
            found = dict(self._dialect.parse(output.stdout))
            stderr = output.stderr
        complaints = [line for line in stderr.splitlines() if line.strip()]
        answers: list[Attributes | int] = []
        for path, number in zip(paths, wrong, strict=True):
            if number:
                answers.append(number)
            elif path in found:
                answers.append(found[path])
            else:
                answers.append(_complaint(complaints, path))
        return answers

    async def stat(self, path: bytes, *, follow: bool = False) -> Attributes:
        """Return the attributes of one path."""
        [answer] = await self._stat_some([path], follow)
        if isinstance(answer, int):
            raise file_error(answer, path)
        return answer

    async def list(
        self, path: bytes, *, follow: bool = False
    ) -> tuple[Attributes, builtins.list[tuple[bytes, Attributes]]]:
        """Return (attributes of the directory, entries)."""
        self._check(path)
        slash = path + b"/." if follow and path else path
        name = shell.quote(shell.relative(path))
        script = b"%s; %s; [ ! -e %s ] || [ -d %s ] || { echo 'x: Not a directory' >&2; exit 1; }"
        script %= (
            self._dialect.describe([path], follow=follow),
            self._dialect.tree(slash, least=1, most=1),
            name,
            name,
        )
        output = await self._runner.run(script, timeout=300)
        entries = self._dialect.parse(output.stdout)
        if output.exit_code or not entries or (output.stderr and len(entries) == 1):
            # A name that vanished meanwhile is nothing; a directory that cannot be read is.
            self._raise_unless_vanished(output, path, entries)
        own = entries[0][1]
        if not own.is_dir:
            raise file_error(errno.ENOTDIR, path)
        prefix = len(slash) + 1 if slash else 0
        return own, [(name[prefix:], attributes) for name, attributes in entries[1:]]

    async def snapshot(
        self, path: bytes, max_depth: int = 0, prune: Prune | None = None
    ) -> builtins.list[DirectoryRecord]:
        """Return the tree below path, directory by directory."""
        self._check(path)
        script = b"%s; %s" % (
            self._dialect.describe([path]),
            # What is more than a plain name is left out when it is here.
            self._dialect.tree(
                path,
                least=1,
                most=max_depth or None,
                prune=prune.patterns.plain if prune and _applies(prune, path) else (),
            ),
        )
        output = await self._runner.run(script, timeout=600)
        entries = self._dialect.parse(output.stdout)
        if not entries:
            raise file_error(shell.errno_of(output.stderr), path)
        if not entries[0][1].is_dir:
            raise file_error(errno.ENOTDIR, path)
        unreadable = {
            _named_in(line): shell.errno_of(line)
            for line in output.stderr.splitlines()
            if shell.errno_of(line) == errno.EACCES
        }
        directories: dict[bytes, list[tuple[bytes, Attributes]]] = {path: []}
        depths = {path: 0}
        left_out: set[bytes] = set()
        for name, attributes in entries[1:]:
            parent, _, last = name.rpartition(b"/")
            if parent in left_out:
                left_out.add(name)
                continue
            directories.setdefault(parent, []).append((last, attributes))
            if attributes.is_dir:
                if prune and prune.matches(name):
                    left_out.add(name)
                    continue
                depths[name] = depths.get(parent, 0) + 1
                if not max_depth or depths[name] < max_depth:
                    directories.setdefault(name, [])
        ordered = sorted(directories, key=lambda name: depths.get(name, 0))
        return [
            DirectoryRecord(0, name, True, None, unreadable[name])
            if name in unreadable and not directories[name]
            else DirectoryRecord(0, name, True, directories[name])
            for name in ordered
        ]

    async def read(
        self,
        path: bytes,
        *,
        version: Version | None = None,
        offset: int = 0,
        length: int = -1,
        follow: bool = False,
    ) -> tuple[Attributes, bytes]:
        """Return (attributes after reading, content); ESTALE when it is another version."""
        self._check(path)
        content = bytearray()
        while True:
            most = self._runner.max_data // 2
            piece = most if length < 0 else min(most, length - len(content))
            attributes, data = await self._piece(
                path, version, offset + len(content), piece, follow
            )
            content += data
            if len(data) < piece or len(content) == length:
                return attributes, bytes(content)
            # The rest has to be that of the same file.
            version = version or attributes.version

    async def _piece(
        self, path: bytes, version: Version | None, offset: int, length: int, follow: bool
    ) -> tuple[Attributes, bytes]:
        for _ in range(TRIES):
            [answer] = await self._contents([path], offset, length, follow)
            if isinstance(answer, int):
                raise file_error(answer, path)
            attributes, content = answer
            if content is None:
                if version is not None:
                    break
                continue  # it changed while it was read
            if version is not None and not self._same(version, attributes):
                break
            return attributes, content
        raise file_error(errno.ESTALE, path)

    async def _contents(
        self, paths: Sequence[bytes], offset: int, length: int, follow: bool
    ) -> builtins.list[tuple[Attributes, bytes | None] | int]:
        """Return (attributes, content), or the errno, of each; no content where it is torn."""
        mark = b"//" + secrets.token_hex(16).encode() + b"//"
        words = [shell.quote(shell.relative(path)) for path in paths]
        describe = self._dialect.describe(paths, follow=follow)
        block = max(4096, min(1 << 20, length))
        read = b'dd if="$1" bs=%d iflag=fullblock,skip_bytes,count_bytes skip=%d count=%d' % (
            block,
            offset,
            length,
        )
        if length == 0:
            read = b': < "$1"'
        links = b"false" if follow else b'[ -h "$1" ]'
        script = _inside(paths) if follow else b""
        script += b"""mark() { printf '%%s' '%s'; }
complain() { printf 'x: %%s\\n' "$1"; }
get() {
    if %s; then complain 'Too many levels of symbolic links'
    elif [ -d "$1" ]; then complain 'Is a directory'
    elif [ ! -e "$1" ]; then ls -d "$1" 2>&1
    elif [ ! -f "$1" ]; then complain 'Invalid argument'
    elif [ ! -r "$1" ]; then complain 'Permission denied'
    else mark; { %s; } 2>/dev/null || { mark; complain 'Input/output error'; }
    fi
    mark
}
%s 2>/dev/null
mark
""" % (mark, links, read, describe)
        script += b"".join(b"get %s\n" % word for word in words)
        script += describe + b" 2>/dev/null\n:"
        output = await self._runner.run(script, timeout=300)
        before, *parts = output.stdout.split(mark)
        answers: list[tuple[Attributes, bytes | None] | int] = []
        if output.exit_code or len(parts) <= len(paths):
            raise file_error(shell.errno_of(output.stderr), paths[0])
        first = dict(self._dialect.parse(before))
        last = dict(self._dialect.parse(parts[-1]))
        rest = iter(parts[:-1])
        for path in paths:
            complaint = next(rest)
            if complaint:
                answers.append(shell.errno_of(complaint))
                continue
            content = next(rest)
            if path not in first or path not in last:
                answers.append(errno.ENOENT)
                continue
            whole = first[path].version == last[path].version
            answers.append((last[path], content if whole else None))
        return answers

    def reading_script(self, path: bytes, offset: int, length: int, *, follow: bool) -> bytes:
        """Return the script that writes contents to its output, and then what the file is."""
        inside = _inside([path]) if follow else b""
        return inside + stream.reading_script(self._dialect, path, offset, length, follow=follow)

    async def read_many(
        self, files: Sequence[tuple[bytes, Version | None]], max_each: int, *, follow: bool = False
    ) -> builtins.list[ManyRecord]:
        """Return the contents of small files."""
        records: list[ManyRecord] = []
        most = max(1, min(FILES_AT_ONCE, self._runner.max_data // (max_each + 1)))
        for some in _parts([path for path, _ in files], most):
            wrong = {path for path in some if shell.check_path(path)}
            asked = list(dict.fromkeys(path for path in some if path not in wrong))
            found = dict(
                zip(asked, await self._contents(asked, 0, max_each + 1, follow), strict=True)
                if asked
                else ()
            )
            for path in some:
                index = len(records)
                answer = shell.check_path(path) or found[path]
                version = files[index][1]
                records.append(self._record(index, answer, version, max_each))
        return records

    def _record(
        self,
        index: int,
        answer: tuple[Attributes, bytes | None] | int,
        version: Version | None,
        max_each: int,
    ) -> ManyRecord:
        if isinstance(answer, int):
            return ManyRecord(index, errno.EINVAL if answer == errno.EISDIR else answer)
        attributes, content = answer
        if content is None or (version is not None and not self._same(version, attributes)):
            return ManyRecord(index, errno.ESTALE)
        if len(content) > max_each:
            return ManyRecord(index, errno.EFBIG, attributes)
        return ManyRecord(index, 0, attributes, content)

    async def readlink(self, path: bytes) -> bytes:
        """Return a symbolic link's target."""
        attributes = await self.stat(path)
        if attributes.target is None:
            raise file_error(errno.EINVAL, path)
        return attributes.target

    async def statvfs(self, path: bytes) -> FileSystemUsage:
        """Return the file system's figures."""
        self._check(path)
        name = shell.quote(shell.relative(path))
        output = await self._runner.run(b"stat -f -c '%%s %%S %%b %%f %%a %%c %%d %%l' %s" % name)
        if output.exit_code:
            raise file_error(shell.errno_of(output.stderr), path)
        return shell.parse_usage(output.stdout)

    async def hash(
        self, path: bytes, *, offset: int = 0, length: int = -1, block: int = 0
    ) -> tuple[Attributes, builtins.list[bytes]]:
        """Return (attributes, SHA-256 digests): one, or one per block of `block` bytes."""
        attributes = await self.stat(path)
        if not attributes.is_file:
            raise file_error(errno.EISDIR if attributes.is_dir else errno.EINVAL, path)
        name = shell.quote(shell.relative(path))
        end = attributes.size if length < 0 else min(attributes.size, offset + length)
        step = block or max(1, end - offset)
        if (end - offset) / step > 10_000:
            raise CapabilityError("too many blocks to hash through a shell")
        starts = list(range(offset, end, step)) if block else [offset]
        parts = [
            b"dd if=%s bs=1048576 iflag=fullblock,skip_bytes,count_bytes skip=%d count=%d "
            b"2>/dev/null | sha256sum" % (name, start, max(0, min(step, end - start)))
            for start in starts
        ]
        script = b"[ -r %s ] || { cat %s; exit 1; }\n" % (name, name) + b"\n".join(parts)
        output = await self._runner.run(script, timeout=600)
        if output.exit_code:
            raise file_error(shell.errno_of(output.stderr), path)
        return attributes, [bytes.fromhex(line.split()[0].decode()) for line in
                            output.stdout.splitlines()]  # fmt: skip

    def _same(self, version: Version, attributes: Attributes) -> bool:
        return self._dialect.version_text(version) == self._dialect.version_text(attributes.version)

    def _check(self, path: bytes) -> None:
        if number := shell.check_path(path):
            raise file_error(number, path)

    def _raise_unless_vanished(
        self, output: ShellOutput, path: bytes, entries: Sequence[tuple[bytes, Attributes]]
    ) -> None:
        if not entries:
            raise file_error(shell.errno_of(output.stderr), path)
        if not entries[0][1].is_dir:
            raise file_error(errno.ENOTDIR, path)
        for line in output.stderr.splitlines():
            number = shell.errno_of(line)
            if number != errno.ENOENT and _named_in(line) == path:
                raise file_error(number, path)


def _parts(paths: Sequence[bytes], most: int | None = None) -> Iterator[builtins.list[bytes]]:
    """Cut a list of names into what one script holds."""
    part: list[bytes] = []
    size = 0
    for path in paths:
        length = len(path) + 60  # with quotes, and what is said around it
        if part and (size + length > SCRIPT_SIZE or len(part) == most):
            yield part
            part, size = [], 0
        part.append(path)
        size += length
    if part:
        yield part


def _inside(paths: Iterable[bytes]) -> bytes:
    """Return the script that ends with EXDEV when a link leads out of the workspace."""
    return b"".join(
        b"r=$(readlink -f %s) && case $r/ in \"$(pwd -P)\"/*) ;; "
        b"*) echo 'x: Invalid cross-device link' >&2; exit 1;; esac\n" % shell.quote(
            shell.relative(path)
        )
        for path in paths
    )  # fmt: skip


def _complaint(lines: Sequence[bytes], path: bytes) -> int:
    """Return the errno that is said of a path."""
    for line in lines:
        if _named_in(line) == path:
            return shell.errno_of(line)
    return shell.errno_of(lines[-1]) if len(lines) == 1 else errno.ENOENT


def _named_in(line: bytes) -> bytes:
    """Return the path that a complaint is of: ``tool: 'path': text`` or ``tool: path: text``.

    Empty for the workspace itself, or when it cannot be told.
    """
    _, _, rest = line.partition(b": ")
    rest = rest.rpartition(b": ")[0]
    rest = (
        rest.removeprefix(b"can't open ").removeprefix(b"cannot open ").strip(b"'\xe2\x80\x98\x99")
    )
    return b"" if rest == b"." else rest.removeprefix(b"./")


def _applies(prune: Prune, path: bytes) -> bool:
    """Whether everything below a path is also below where patterns begin."""
    return not prune.base or path == prune.base or path.startswith(prune.base + b"/")
