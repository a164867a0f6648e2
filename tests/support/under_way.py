"""How a tree differs from a history of which one operation was under way.

That one may be done, or not, or in part: an archive's members come one after another, and the
kernel hands a write on in pieces that end where pages do. And a lock of git's index, which is made
here before the box has it, is given up by the next mount if the box never had it: who wanted it is
gone.
"""

from tests.support.history import Operation, State, states
from tests.support.script import UNPACKED
from tests.support.tree_state import Found, mismatches

PAGE = 4096
INDEX_LOCK = ".git/index.lock"


def differences(
    found: dict[str, Found], operations: list[Operation], acknowledged: int
) -> list[str]:
    """Compare with what is allowed, and return the least difference."""
    allowed: list[list[str]] = []
    before: dict[str, bytes] = {}
    for number, (state, _) in enumerate(states(operations[: acknowledged + 1])):
        if number >= acknowledged:
            allowed.append(mismatches(found, state))
            without = {name: one for name, one in state.items() if not name.endswith(INDEX_LOCK)}
            if len(without) < len(state):
                allowed.append(mismatches(found, without))
        if number == acknowledged:
            before = {name: bytes(one.content) for name, one in state.items()}
        elif number > acknowledged:
            kind, path = operations[acknowledged][:2]
            if kind == "unpack":
                allowed.append(_partly_unpacked(found, state))
            elif kind in ("write", "append"):
                allowed += _partly_written(found, state, str(path), before[str(path)])
    return min(allowed, key=len)


def _partly_written(
    found: dict[str, Found], state: State, path: str, old: bytes
) -> list[list[str]]:
    new = bytes(state[path].content)
    allowed = []
    for cut in range(PAGE, len(new), PAGE):
        state[path].content[:] = new[:cut] + old[cut:]
        allowed.append(mismatches(found, state))
    return allowed


def _partly_unpacked(found: dict[str, Found], whole: State) -> list[str]:
    below = UNPACKED + "/"
    begun = [name for name in whole if name.startswith(below) and name in found]
    expected = {name: one for name, one in whole.items() if not name.startswith(below)}
    finished = {name: whole[name] for name in begun[:-1] if whole[name].kind != "d"}
    inside = {name: found[name] for name in finished}
    outside = {name: one for name, one in found.items() if name not in begun}
    lines = mismatches(outside, expected)
    # A link that is not there yet is not counted.
    lines += [line for line in mismatches(inside, finished) if "links instead" not in line]
    for name in begun[-1:]:
        if not bytes(whole[name].content).startswith(found[name].content):
            lines.append(f"{name}: other content")
    return lines
