"""Vectors of paths, versions, and the archives of contents."""

from __future__ import annotations

import errno
import io
import tarfile

from msgpack_encoder import Json, bin_, pack


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
