"""Vectors of MessagePack and of frames."""

from __future__ import annotations

import struct
import zlib

from msgpack_encoder import Json, bin_, map_, pack

MAX_PAYLOAD = 131072


def msgpack_vectors() -> Json:
    edges = [0, 1, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1]
    edges += [2**63, 2**64 - 1, -1, -32, -33, -128, -129, -32768, -32769, -(2**31), -(2**31) - 1]
    edges += [-(2**63), 1_700_000_000_123_456_789, -1_500_000_000]
    values: list[Json] = [None, True, False, *edges]
    values += [
        "",
        "stat",
        "x" * 31,
        "x" * 32,
        "é" * 100,
        "x" * 255,
        "x" * 256,
        "\x00",
        "\U0001f600",
    ]
    values += [
        bin_(b""),
        bin_(b"a/b"),
        bin_(bytes(range(256))),
        bin_(b"\xff\xfe\n'"),
        bin_(b"z" * 255),
    ]
    values += [
        bin_(b"z" * 256),
        [],
        [1, [2, [3, []]]],
        list(range(15)),
        list(range(16)),
        [None] * 300,
    ]
    values += [map_(), map_(protocol=1, window=1048576, compress=False)]
    values += [{"map": [[f"k{i}", i] for i in range(16)]}]
    attr: Json = [
        0o100644,
        1,
        1000,
        1000,
        5,
        12,
        1_700_000_000_000_000_001,
        2,
        -3,
        8,
        0,
        None,
        bin_(b"\x01" * 32),
    ]
    values += [attr, ["put", bin_(b"dir/\xe9"), [0], 0], [2**40, 0, attr, 0]]
    longer: list[tuple[Json, str]] = [
        (5, "cc05"),
        (5, "cd0005"),
        (5, "ce00000005"),
        (5, "cf0000000000000005"),
        (5, "d005"),
        (5, "d30000000000000005"),
        (-1, "d1ffff"),
        ("a", "d90161"),
        ("a", "da000161"),
        ("a", "db0000000161"),
        (bin_(b"a"), "c5000161"),
        (bin_(b"a"), "c60000000161"),
        ([1], "dc000101"),
        ([1], "dd0000000101"),
        (map_(a=1), "de0001a16101"),
        (map_(a=1), "df00000001a16101"),
    ]
    refused = [
        ("", "nothing"),
        ("c1", "a code that is never used"),
        ("ca3f800000", "float"),
        ("cb3ff0000000000000", "double"),
        ("d400ff", "extension"),
        ("d6ff00000000", "timestamp"),
        ("c70100ff", "extension with a length"),
        ("c0c0", "bytes after the value"),
        ("0100", "bytes after the value"),
        ("cc", "cut integer"),
        ("cf00000000000000", "cut integer"),
        ("a2c3", "cut str"),
        ("a1ff", "str that is not UTF-8"),
        ("a2c080", "str with an overlong form"),
        ("a3eda080", "str with a surrogate"),
        ("c402ff", "cut bin"),
        ("c6ffffffffff", "bin of 4 GiB, cut"),
        ("92c0", "cut array"),
        ("ddffffffff", "array of 4 G entries, cut"),
        ("dfffffffff", "map of 4 G entries, cut"),
        ("81a161", "map without a value"),
        ("8101c0", "map with an integer key"),
        ("81c40161c0", "map with a bin key"),
        ("81c0c0", "map with a nil key"),
        ("91" * 2000 + "c0", "nested 2,000 deep"),
    ]
    return {
        "values": [{"value": value, "hex": pack(value).hex()} for value in values],
        "accepted": [{"value": value, "hex": text} for value, text in longer],
        "refused": [{"hex": text, "why": why} for text, why in refused],
    }


TYPES = (
    "HELLO",
    "WELCOME",
    "REQUEST",
    "DATA",
    "END",
    "REPLY",
    "ERROR",
    "CREDIT",
    "CANCEL",
    "EVENTS",
    "PING",
    "PONG",
    "CONTROL",
)


def frame(kind: int, flags: int, identity: int, payload: bytes, length: int | None = None) -> bytes:
    return (
        struct.pack(">IBBI", len(payload) if length is None else length, kind, flags, identity)
        + payload
    )


def frame_vectors() -> Json:
    plain = [
        (
            1,
            0,
            0,
            pack(
                map_(protocol=1, client="test", window=1048576, compress=False, heartbeat_ms=10000)
            ),
        ),
        (3, 0, 1, pack(["stat", bin_(b"a/b"), False, 0])),
        (3, 0, 2**32 - 1, pack(["sync"])),
        (4, 0, 7, b""),
        (4, 0, 7, b"hello"),
        (4, 0x10, 7, b"to stderr"),
        (4, 0, 7, bytes(300)),
        (5, 0, 7, b""),
        (5, 0x10, 7, b""),
        (6, 0, 1, pack([0, None])),
        (7, 0, 1, pack([2, "no such file"])),
        (7, 0, 0, pack([93, "protocol 2"])),
        (8, 0, 7, struct.pack(">I", 65536)),
        (9, 0, 7, b""),
        (10, 0, 3, pack([])),
        (10, 0, 3, pack([[1, bin_(b"x"), 0x100, None, None]])),
        (11, 0, 0, b""),
        (11, 0, 0, b"e" * 64),
        (12, 0, 0, pack([bin_(b"e"), 1, 2, 3, 4, 5])),
        (13, 0, 9, pack(["signal", 15])),
        (13, 0, 9, pack(["resize", 24, 80])),
    ]
    text = b"the same again " * 1000
    deflated = [
        (4, 0x01, 7, text),
        (4, 0x11, 7, text),
        (6, 0x01, 7, pack([3, "x" * 500])),
        (4, 0x01, 7, b""),
    ]
    squeezed = zlib.compress(text)
    refused = [
        (frame(4, 0, 7, b"", MAX_PAYLOAD + 1), "longer than max_payload"),
        (frame(4, 0, 7, b"", 2**32 - 1), "4 GiB"),
        (frame(0, 0, 1, b""), "type 0"),
        (frame(14, 0, 1, b""), "type 14"),
        (frame(255, 0, 1, b""), "type 255"),
        (frame(3, 0x02, 1, pack(["sync"])), "flag bit 1"),
        (frame(4, 0x08, 1, b"x"), "flag bit 3"),
        (frame(3, 0x10, 1, pack(["sync"])), "substream of a REQUEST"),
        (frame(3, 0, 0, pack(["sync"])), "REQUEST with id 0"),
        (frame(4, 0, 0, b"x"), "DATA with id 0"),
        (frame(9, 0, 0, b""), "CANCEL with id 0"),
        (frame(11, 0, 5, b""), "PING with an id"),
        (frame(1, 0, 5, pack(map_(protocol=1))), "HELLO with an id"),
        (frame(5, 0, 7, b"x"), "END with a payload"),
        (frame(9, 0, 7, b"x"), "CANCEL with a payload"),
        (frame(8, 0, 7, b"\0\0\0"), "CREDIT of three bytes"),
        (frame(8, 0, 7, b"\0\0\0\0\0"), "CREDIT of five bytes"),
        (frame(11, 0, 0, b"e" * 65), "PING of 65 bytes"),
        (frame(4, 0x01, 7, b"not zlib"), "not a zlib stream"),
        (frame(4, 0x01, 7, squeezed[:-1]), "cut zlib stream"),
        (frame(4, 0x01, 7, squeezed + b"x"), "bytes after the zlib stream"),
        (frame(4, 0x01, 7, b""), "empty zlib stream"),
        (frame(4, 0x01, 7, zlib.compress(bytes(MAX_PAYLOAD + 1))), "inflates beyond max_payload"),
    ]
    return {
        "types": {name: number for number, name in enumerate(TYPES, 1)},
        "frames": [
            {"type": k, "flags": f, "id": i, "payload": p.hex(), "hex": frame(k, f, i, p).hex()}
            for k, f, i, p in plain
        ],
        "compressed": [
            {
                "type": k,
                "flags": f,
                "id": i,
                "payload": p.hex(),
                "hex": frame(k, f, i, zlib.compress(p)).hex(),
            }
            for k, f, i, p in deflated
        ],
        "refused": [{"hex": raw.hex(), "why": why} for raw, why in refused],
    }
