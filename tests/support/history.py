"""A seeded history of changes, carried out by `writer.py`, and the states that it passes through.

The same seed gives the same operations, so the number of operations that were acknowledged says
everything about what must be there. Pure: it touches no file.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

Operation = tuple[object, ...]
"""Kind, path, further arguments; see `_Planner`."""


@dataclass(eq=False)
class Object:
    """What a name stands for; two names of a hard link stand for the same one."""

    kind: str
    mode: int
    content: bytearray = field(default_factory=bytearray)
    mtime_ns: int | None = None
    """None: whatever the clock said."""
    attributes: dict[str, bytes] = field(default_factory=dict)


State = dict[str, Object]


def apply(state: State, operation: Operation) -> None:
    """Change `state` the way a local file system would."""
    kind, path, *rest = operation
    assert isinstance(path, str)
    match kind:
        case "mkdir":
            state[path] = Object("d", rest[0])
        case "create":
            state[path] = Object("-", rest[0])
        case "symlink":
            state[path] = Object("l", 0o777, bytearray(rest[0].encode()))
        case "write":
            offset, data = rest[0], contents(*rest[1:])
            content = state[path].content
            content.extend(bytes(max(0, offset - len(content))))
            content[offset : offset + len(data)] = data
            state[path].mtime_ns = None
        case "append":
            state[path].content.extend(contents(*rest))
            state[path].mtime_ns = None
        case "truncate":
            content = state[path].content
            content.extend(bytes(max(0, rest[0] - len(content))))
            del content[rest[0] :]
            state[path].mtime_ns = None
        case "chmod":
            state[path].mode = rest[0]
        case "utime":
            state[path].mtime_ns = rest[0]
        case "setxattr":
            state[path].attributes[rest[0]] = rest[1].encode()
        case "removexattr":
            del state[path].attributes[rest[0]]
        case "rename":
            _rename(state, path, rest[0])
        case "link":
            state[rest[0]] = state[path]
        case "unlink" | "rmdir":
            del state[path]
        case "unpack":
            _unpack(state, path, rest[0])
        case "open" | "open-append" | "close" | "fsync" | "fsyncdir" | "wait" | "scribble":
            pass
        case _:
            raise AssertionError(operation)


def _rename(state: State, source: str, target: str) -> None:
    moved = {name: found for name, found in state.items() if name.startswith(source + "/")}
    state[target] = state.pop(source)
    for name, found in moved.items():
        del state[name]
        state[target + name[len(source) :]] = found


def _unpack(state: State, top: str, seed: int) -> None:
    for member in members(seed):
        path = f"{top}/{member.name}"
        if member.kind == "h":
            state[path] = state[f"{top}/{member.content.decode()}"]
        else:
            content = bytearray(member.content)
            mtime_ns = None if member.kind == "d" else member.mtime * 10**9
            state[path] = Object(member.kind, member.mode, content, mtime_ns)


@dataclass(frozen=True)
class Member:
    """Of an archive; the content of a link (l) or a hard link (h) is where it leads."""

    kind: str
    name: str
    mode: int
    content: bytes
    mtime: int


def members(seed: int) -> list[Member]:
    """What is in an archive, in its order."""
    when = 1_500_000_000 + seed
    return [
        Member("d", "src", 0o755, b"", when),
        Member("-", "src/one", 0o644, contents(seed, 700), when + 1),
        Member("-", "src/two", 0o755, contents(seed + 1, 40_000), when + 2),
        Member("h", "src/three", 0o644, b"src/one", when + 1),
        Member("l", "src/four", 0o777, b"two", when + 3),
        Member("d", "src/deep", 0o700, b"", when),
        Member("-", "src/deep/five", 0o600, b"", when + 4),
    ]


def contents(seed: int, size: int) -> bytes:
    """The bytes of a write."""
    return random.Random(seed).randbytes(size)


def states(operations: list[Operation]) -> Iterator[tuple[State, str | None]]:
    """Every state of a history, the first one empty; and the file that is open in it.

    One that the box does not have yet is kept back while it is open, also when it was opened again.
    The state is changed in place when the iterator goes on.
    """
    state: State = {}
    unpublished: str | None = None
    yield state, unpublished
    for operation in operations:
        apply(state, operation)
        if operation[0] in ("create", "open"):
            unpublished = str(operation[1])
        elif operation[0] in ("close", "fsync"):
            unpublished = None
        yield state, unpublished


_HARMLESS = (
    "open", "open-append", "close", "utime", "chmod", "link", "fsync", "fsyncdir", "setxattr",
    "removexattr", "wait", "scribble",
)  # fmt: skip
"""Operations that leave contents where they are."""


def fsynced(operations: list[Operation], acknowledged: int) -> dict[str, bytes]:
    """Names and contents that were fsynced, and not touched by anything afterwards."""
    durable: dict[str, bytes] = {}
    for number, (state, _) in enumerate(states(operations)):
        if number == 0:
            continue
        kind, path, *rest = operations[number - 1]
        if kind == "fsync" and number <= acknowledged:
            durable[str(path)] = bytes(state[str(path)].content)
        elif kind not in _HARMLESS:
            for touched in (str(path), *(str(one) for one in rest if kind == "rename")):
                for name in list(durable):
                    same = name in state and state[name] is state.get(touched)
                    if name == touched or name.startswith(touched + "/") or same:
                        del durable[name]
    return durable


def plan(seed: int, length: int, *, fsync: bool = False) -> list[Operation]:
    """At least `length` valid operations; each file is closed before anything else happens."""
    planner = _Planner(seed, fsync)
    while len(planner.operations) < length:
        planner.episode()
    return planner.operations


class _Planner:
    def __init__(self, seed: int, fsync: bool) -> None:
        self.random = random.Random(seed)
        self.fsync = fsync
        self.state: State = {}
        self.operations: list[Operation] = []
        self.count = 0

    def do(self, kind: str, path: str, *rest: object) -> None:
        self.operations.append((kind, path, *rest))
        apply(self.state, self.operations[-1])

    def episode(self) -> None:
        choices = [(12, self.new_file), (2, self.directory), (1, self.symlink), (1, self.link)]
        choices += [(2, self.rewrite), (2, self.save), (2, self.rename), (2, self.remove)]
        choices += [(1, self.attributes), (1, self.in_and_out)]
        weights, actions = zip(*choices, strict=True)
        self.random.choices(actions, weights)[0]()

    def name(self) -> str:
        """A new name in a directory that exists."""
        parents = ["", *(path + "/" for path in self.names("d"))]
        self.count += 1
        return f"{self.random.choice(parents[-6:])}n{self.count}"

    def names(self, kind: str) -> list[str]:
        return [path for path, found in self.state.items() if found.kind == kind]

    def size(self) -> int:
        """Mostly small, sometimes more than the journal takes into a record (256 KiB)."""
        if self.random.random() < 0.03:
            return self.random.randint(250_000, 400_000)
        return self.random.randint(1, 4000)

    def content(self, path: str, offset: int) -> None:
        self.do("write", path, offset, self.random.randrange(1 << 30), self.size())

    def when(self) -> int:
        return 1_600_000_000_000_000_000 + self.random.randrange(10**17)

    def finish(self, path: str) -> None:
        if self.random.random() < 0.5:
            self.do("utime", path, self.when())
        if self.random.random() < 0.3:
            self.do("chmod", path, self.random.choice([0o600, 0o644, 0o755]))
        if self.fsync and self.random.random() < 0.2:
            self.do("fsync", path)
        self.do("close", path)

    def new_file(self, path: str | None = None) -> str:
        path = path or self.name()
        self.do("create", path, self.random.choice([0o600, 0o644]))
        for _ in range(self.random.randint(0, 3)):
            self.content(path, len(self.state[path].content))
        self.finish(path)
        return path

    def rewrite(self) -> None:
        for path in self.random.sample(self.names("-"), min(1, len(self.names("-")))):
            self.do("open", path)
            if self.random.random() < 0.3:
                self.do("truncate", path, self.random.randint(0, 5000))
            self.content(path, self.random.randint(0, len(self.state[path].content) + 100))
            self.finish(path)

    def save(self) -> None:
        """The way editors save: a new file takes the place of the old one."""
        files = self.names("-")
        if files:
            target = self.random.choice(files)
            temporary = self.new_file(f"{target}.tmp{self.count}")
            self.do("rename", temporary, target)

    def directory(self) -> None:
        self.do("mkdir", self.name(), self.random.choice([0o700, 0o755]))

    def symlink(self) -> None:
        self.do("symlink", self.name(), self.random.choice(["nowhere", "../up", "n1"]))

    def link(self) -> None:
        files = self.names("-")
        if files:
            self.do("link", self.random.choice(files), self.name())

    def rename(self) -> None:
        names = list(self.state)
        if names:
            source = self.random.choice(names)
            target = self.name()
            if not target.startswith(source + "/"):
                self.do("rename", source, target)

    def remove(self) -> None:
        for path in self.random.sample(list(self.state), min(1, len(self.state))):
            if self.state[path].kind != "d":
                self.do("unlink", path)
            elif not any(name.startswith(path + "/") for name in self.state):
                self.do("rmdir", path)

    def attributes(self) -> None:
        for path in self.random.sample(self.names("-"), min(1, len(self.names("-")))):
            self.do("chmod", path, self.random.choice([0o600, 0o640, 0o755]))
            self.do("utime", path, self.when())

    def in_and_out(self) -> None:
        self.do("unlink", self.new_file())
