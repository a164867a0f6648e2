"""An encoder of MessagePack for the vectors, written from the specification.

How a MessagePack value is written in JSON: null, booleans, integers and arrays as themselves; a JSON
string is a str; {"bin": hex} is a bin; {"map": [[key, value], ...]} is a map in that order.
"""

from __future__ import annotations

import struct

Json = None | bool | int | str | list["Json"] | dict[str, "Json"]


def bin_(content: bytes) -> Json:
    return {"bin": content.hex()}


def map_(**entries: Json) -> Json:
    return {"map": [[key, value] for key, value in entries.items()]}


def pack(value: Json) -> bytes:
    """Encode in the shortest form, as both sides must."""
    if value is None:
        return b"\xc0"
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return pack_int(value)
    if isinstance(value, str):
        raw = value.encode()
        return head(len(raw), (0xA0, 31), 0xD9, 0xDA, 0xDB) + raw
    if isinstance(value, list):
        return head(len(value), (0x90, 15), None, 0xDC, 0xDD) + b"".join(map(pack, value))
    if "bin" in value:
        raw = bytes.fromhex(str(value["bin"]))
        return head(len(raw), None, 0xC4, 0xC5, 0xC6) + raw
    pairs = value["map"]
    assert isinstance(pairs, list)
    body = b"".join(pack(part) for pair in pairs if isinstance(pair, list) for part in pair)
    return head(len(pairs), (0x80, 15), None, 0xDE, 0xDF) + body


def head(count: int, fix: tuple[int, int] | None, c8: int | None, c16: int, c32: int) -> bytes:
    if fix is not None and count <= fix[1]:
        return bytes([fix[0] | count])
    if c8 is not None and count < 1 << 8:
        return bytes([c8, count])
    if count < 1 << 16:
        return struct.pack(">BH", c16, count)
    return struct.pack(">BI", c32, count)


def pack_int(value: int) -> bytes:
    if 0 <= value < 128:
        return bytes([value])
    if -32 <= value < 0:
        return struct.pack(">b", value)
    unsigned = ((8, 0xCC, "B"), (16, 0xCD, "H"), (32, 0xCE, "I"), (64, 0xCF, "Q"))
    signed = ((8, 0xD0, "b"), (16, 0xD1, "h"), (32, 0xD2, "i"), (64, 0xD3, "q"))
    if value >= 0:
        _, code, letter = next(row for row in unsigned if value < 1 << row[0])
    else:
        _, code, letter = next(row for row in signed if value >= -(1 << (row[0] - 1)))
    return struct.pack(">B" + letter, code, value)
