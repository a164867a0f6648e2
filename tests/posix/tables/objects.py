"""What the tables make their cases of."""

from __future__ import annotations

from tests.posix.stage import Actor, Thing

KINDS = ("file", "empty", "full", "link", "link-to-directory", "dangling", "loop", "fifo", "socket")
DEVICES = ("character", "block")


def a(
    kind: str, path: str, *, owner: Actor | None = None, mode: int | None = None
) -> tuple[Thing, ...]:
    """Return an object of a kind, with what belongs to it."""
    match kind:
        case "missing":
            return ()
        case "empty":
            return (Thing("directory", path, mode, owner),)
        case "full":
            return (Thing("directory", path, mode, owner), Thing("file", f"{path}/inner"))
        case "link":
            return (
                Thing("file", f"{path}.target", mode, owner),
                _link(path, f"{path}.target", owner),
            )
        case "link-to-directory":
            target = f"{path}.target"
            return (Thing("directory", target, mode, owner), _link(path, target, owner))
        case "dangling":
            return (_link(path, f"{path}.nowhere", owner),)
        case "loop":
            return (_link(path, path, owner),)
        case other:
            return (Thing(other, path, mode, owner),)


def _link(path: str, target: str, owner: Actor | None) -> Thing:
    return Thing("symlink", path, None, owner, target=target)
