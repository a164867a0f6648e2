"""Write the protocol's test vectors. Run without arguments; `--check` compares instead of writing.

The vectors must not come from either implementation, or both could agree on the same mistake: this
file has an encoder of its own, written from the specifications, and lets `tarfile` and `zlib` of the
standard library make what they make.

How a MessagePack value is written in JSON: null, booleans, integers and arrays as themselves; a JSON
string is a str; {"bin": hex} is a bin; {"map": [[key, value], ...]} is a map in that order.
"""

from __future__ import annotations

import errno
import io
import json
import struct
import sys
import tarfile
import zlib
from pathlib import Path

Json = None | bool | int | str | list["Json"] | dict[str, "Json"]

MAX_PAYLOAD = 131072


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


def path_vectors() -> Json:
    long_name, limit = b"n" * 255, b"/".join([b"d" * 254] * 16)
    good = [
        b"",
        b"a",
        b"a/b",
        b".hidden",
        b"...",
        b"..a",
        b"a..",
        b"-rf",
        b"new\nline",
        b'it\'s "quoted"',
        b"\xff\xfe",
        b" ",
        b"\\",
    ]
    good += [
        "日本".encode(),
        long_name,
        long_name + b"/" + long_name,
        limit + b"/" + b"x" * (4095 - len(limit) - 1),
    ]
    invalid = [
        b"/",
        b"/a",
        b"a/",
        b"a//b",
        b".",
        b"..",
        b"a/.",
        b"a/..",
        b"./a",
        b"../a",
        b"a/./b",
        b"a/../b",
        b"a\0b",
        b"\0",
    ]
    too_long = [
        b"n" * 256,
        b"a/" + b"n" * 256,
        b"n" * 256 + b"/a",
        limit + b"/" + b"x" * (4096 - len(limit) - 1),
    ]
    rows: list[Json] = [{"path": path.hex(), "errno": 0} for path in good]
    rows += [{"path": path.hex(), "errno": errno.EINVAL} for path in invalid]
    rows += [{"path": path.hex(), "errno": errno.ENAMETOOLONG} for path in too_long]
    return {"paths": rows}


def version_vectors() -> Json:
    one, two = bin_(b"\x01" * 32), bin_(b"\x02" * 32)
    base: list[Json] = [12, 1_700_000_000_000_000_001, -5, 7]
    rows = [
        (base + [None], base + [None], True),
        (base + [one], base + [one], True),
        (base + [one], base + [None], True),
        (base + [None], base + [two], True),
        (base + [one], base + [two], False),
        ([13, *base[1:], None], base + [None], False),
        ([13, *base[1:], one], base + [one], False),
        ([*base[:3], 8, None], base + [None], False),
        ([12, 1_700_000_000_000_000_002, -5, 7, None], base + [None], False),
        ([12, 1_700_000_000_000_000_001, -6, 7, None], base + [None], False),
        (base, base + [None], True),
        (base + [one, 99], base + [one], True),
    ]
    return {"pairs": [{"one": one_, "other": other, "match": match} for one_, other, match in rows]}


Member = tuple[str, bytes, int, int]


def nanoseconds(mtime_ns: int) -> str:
    """Write nanoseconds as decimal seconds; the sign belongs to the whole number."""
    seconds, rest = divmod(abs(mtime_ns), 10**9)
    text = f"{seconds}.{rest:09d}".rstrip("0").rstrip(".") if rest else str(seconds)
    return "-" + text if mtime_ns < 0 else text


def tar(members: list[Member], end: bool = True, size_in_pax: bool = False) -> bytes:
    out = io.BytesIO()
    archive = tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
    for name, content, mode, mtime_ns in members:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(content), mode
        entry.mtime = max(0, mtime_ns // 10**9)
        entry.pax_headers = {"mtime": nanoseconds(mtime_ns)}
        if size_in_pax:
            entry.pax_headers["size"] = str(len(content))
        archive.addfile(entry, io.BytesIO(content))
    raw = out.getvalue()
    archive.close()
    return raw + bytes(1024) if end else raw


def tar_vectors() -> Json:
    stamp = 1_700_000_000_123_456_789
    put: Json = [1, "put", bin_(b"dir/file"), [0], 0]
    cases: list[tuple[str, list[Json], Json, list[Member], bool]] = [
        ("no operation", [], None, [], False),
        ("one file", [put], None, [("0", b"hello\n", 0o644, stamp)], False),
        ("size in the extended header", [put], None, [("0", b"x" * 513, 0o600, stamp)], True),
        ("empty file, mode with set-id bits", [put], True, [("0", b"", 0o6755, 0)], False),
        ("one nanosecond", [put], None, [("0", b"a", 0o644, 1)], False),
        ("before the epoch", [put], None, [("0", b"a", 0o644, -1)], False),
        ("1.5 s before the epoch", [put], None, [("0", b"a", 0o644, -1_500_000_000)], False),
        (
            "whole seconds before the epoch",
            [put],
            None,
            [("0", b"a", 0o644, -86400 * 10**9)],
            False,
        ),
        ("the year 2262", [put], None, [("0", b"a", 0o644, 2**63 - 1)], False),
        ("the first time there is", [put], None, [("0", b"a", 0o644, -(2**63))], False),
        (
            "members in another order",
            [
                [1, "put", bin_(b"a"), [0], 0],
                [2, "write", bin_(b"b"), [3], [[4096, 1], [0, 2]], 8192, -7],
                [3, "mkdir", bin_(b"\xff"), [0], 0o755],
            ],
            [bin_(b"a"), bin_(b"b")],
            [
                ("2", b"two", 0o644, stamp),
                ("0", b"zero" * 300, 0o644, stamp),
                ("1", b"one", 0o644, stamp),
            ],
            False,
        ),
    ]
    rows: list[Json] = []
    for name, operations, sync, members, size_in_pax in cases:
        manifest: Json = [operations, sync]
        raw = tar([("manifest", pack(manifest), 0o600, 0), *members], size_in_pax=size_in_pax)
        rows.append(
            {
                "name": name,
                "hex": raw.hex(),
                "manifest": manifest,
                "members": [
                    {"name": n, "mode": m, "mtime_ns": t, "content": c.hex()}
                    for n, c, m, t in members
                ],
            }
        )
    manifest_member: Member = ("manifest", pack([[put], None]), 0o600, 0)
    content: Member = ("0", b"hello", 0o644, stamp)
    whole = tar([manifest_member, content])
    garbled = bytearray(whole)
    garbled[0] ^= 1
    refused = [
        (b"", "empty"),
        (bytes(1024), "no manifest"),
        (whole[:-1024], "no end"),
        (whole[:-512], "half an end"),
        (whole[:700], "cut"),
        (tar([content, manifest_member]), "the manifest is not first"),
        (bytes(garbled), "wrong checksum"),
        (tar([manifest_member]), "content 0 is missing"),
        (tar([manifest_member, content, content]), "content 0 twice"),
        (tar([manifest_member, content, ("x", b"", 0o644, 0)]), "a member that is no number"),
        (tar([("manifest", b"\xc1", 0o600, 0), content]), "a manifest that is no MessagePack"),
        (whole + b"x" * 512, "bytes after the end"),
        (
            whole.replace(b"mtime=1700000000.123456789", b"mtime=1700000000.12345678x"),
            "mtime that is no number",
        ),
        (
            whole.replace(b"mtime=1700000000.123456789", b"mtime=17000000.123456789e2"),
            "mtime as a float",
        ),
    ]
    return {"tars": rows, "refused": [{"hex": raw.hex(), "why": why} for raw, why in refused]}


def pattern_vectors() -> Json:
    """What matches, written by hand: a pattern, a path, whether the last name of it is meant."""
    rows: list[tuple[str, bytes, bool]] = [
        ("node_modules", b"node_modules", True),
        ("node_modules", b"a/b/node_modules", True),
        ("node_modules", b"a/node_modules2", False),
        ("node_modules", b"node_modules/a", False),
        ("node_modules/", b"a/node_modules", True),
        ("**/target", b"target", True),
        ("**/target", b"x/y/target", True),
        ("**/**/target/", b"x/y/target", True),
        ("/target", b"target", True),
        ("/target/", b"target", True),
        ("/target", b"x/target", False),
        ("/**/target", b"x/y/target", True),
        ("a/b", b"a/b", True),
        ("a/b", b"x/a/b", False),
        ("a/b", b"a/b/c", False),
        ("**/a/b", b"x/a/b", True),
        ("**/a/b", b"a/b", True),
        ("**/a/b", b"xa/b", False),
        ("a/**/b", b"a/b", True),
        ("a/**/b", b"a/x/y/b", True),
        ("a/**/b", b"a/x/yb", False),
        ("a/**/**/b", b"a/b", True),
        ("a/**/b/**/c", b"a/b/x/b/y/c", True),
        ("a/**/b/**/c", b"a/x/c/b", False),
        ("a/**", b"a/x/y", True),
        ("a/**", b"a", False),
        ("a/**/**", b"a/x", True),
        ("**/a/**", b"x/a/y", True),
        ("**/a/**", b"x/a", False),
        ("*/**", b"x/y/z", True),
        ("*/**", b"x", False),
        ("a/b**", b"a/bc", True),
        ("a/b**", b"a/b/c", False),
        ("*.log", b"x/y.log", True),
        ("*.log", b"x/.log", True),
        ("*.log", b"x/y.logs", False),
        ("a*b*c", b"axbxbxc", True),
        ("a*b*c", b"acb", False),
        ("***x", b"x", True),
        ("a/*/c", b"a/b/c", True),
        ("a/*/c", b"a/b/d/c", False),
        ("a/*/c", b"a/c", False),
        ("?.o", b"x/a.o", True),
        ("?.o", b"x/ab.o", False),
        ("?", "ü".encode(), True),
        ("??", "ü".encode(), False),
        ("*??", "€".encode(), False),
        ("*??", "a€".encode(), True),
        ("???", b"\xe2\x82x", True),
        ("??", b"\xe2\x82x", False),
        ("???", b"\xed\xa0\x80", True),
        ("?", b"\xff", True),
        ("[!a]", "ü".encode(), True),
        ("[!a]x", b"\xffx", True),
        ("[ab].o", b"b.o", True),
        ("[!ab].o", b"b.o", False),
        ("[!ab].o", b"c.o", True),
        ("[^ab].o", b"c.o", True),
        ("[a-c]x", b"bx", True),
        ("[a-c]x", b"-x", False),
        ("[a-]", b"-", True),
        ("[-a]", b"-", True),
        ("[a-c-e]", b"-", True),
        ("[a-c-e]", b"d", False),
        ("[+--]", b",", True),
        ("[]x]", b"]", True),
        ("[!]x]", b"]", False),
        ("[^]x]", b"y", True),
        ("[]]", b"]", True),
        ("[\\]", b"\\", True),
        ("[^-]", b"-", False),
        ("[[]", b"[", True),
        ("[&&~|]", b"|", True),
        ("\\*", b"*", True),
        ("\\*", b"x", False),
        ("\\ü", "ü".encode(), True),
        ("a\\[b", b"a[b", True),
        ("ünder", "x/ünder".encode(), True),
        ("\xff\udcff", "\xff".encode() + b"\xff", True),
        ("a.b", b"axb", False),
        ("a\nb", b"a\nb", True),
        ("*", b"a\nb", True),
        ("$(x)", b"$(x)", True),
        ("-name", b"-name", True),
    ]
    refused = [
        "",
        "/",
        "//",
        "a//b",
        "../a",
        "a/./b",
        "**",
        "**/**",
        "/**",
        "a\\",
        "[a",
        "[",
        "[]",
        "[!]",
    ]
    refused += ["[z-a]", "[ü]", "a\0b", "[a/b]"]
    return {
        "matches": [
            {
                "pattern": pattern.encode("utf-8", "surrogateescape").hex(),
                "path": path.hex(),
                "match": match,
            }
            for pattern, path, match in rows
        ],
        "refused": [pattern.encode().hex() for pattern in refused],
    }


def main() -> int:
    here = Path(__file__).parent
    vectors = {
        "msgpack": msgpack_vectors(),
        "frames": frame_vectors(),
        "paths": path_vectors(),
        "patterns": pattern_vectors(),
        "versions": version_vectors(),
        "apply_tar": tar_vectors(),
    }
    stale = 0
    for name, content in vectors.items():
        assert isinstance(content, dict)
        lines = []
        for key, rows in content.items():
            if isinstance(rows, list):
                body = ",\n".join("  " + json.dumps(row, ensure_ascii=True) for row in rows)
                lines.append(f'"{key}": [\n{body}\n]')
            else:
                lines.append(f'"{key}": {json.dumps(rows)}')
        text = "{\n" + ",\n".join(lines) + "\n}\n"
        target = here / f"{name}.json"
        if sys.argv[1:] == ["--check"]:
            if target.read_text() != text:
                stale = 1
                print(f"{target} is not what {Path(__file__).name} writes", file=sys.stderr)
        else:
            target.write_text(text)
    return stale


if __name__ == "__main__":
    sys.exit(main())
