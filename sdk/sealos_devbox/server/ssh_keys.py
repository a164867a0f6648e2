"""Ed25519 key pairs in OpenSSH's format, which every box has one of.

Only the public key is computed here (RFC 8032, section 5.1.5); nothing is signed, and nothing here
runs in constant time. The private key's format is OpenSSH's PROTOCOL.key, unencrypted.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import struct

__all__ = ["generate"]

_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
_BASE_Y = 4 * pow(5, -1, _P) % _P
_Point = tuple[int, int, int, int]


def _base_point() -> _Point:
    x2 = (_BASE_Y * _BASE_Y - 1) * pow(_D * _BASE_Y * _BASE_Y + 1, -1, _P)
    x = pow(x2, (_P + 3) // 8, _P)
    if (x * x - x2) % _P:
        x = x * pow(2, (_P - 1) // 4, _P) % _P
    if x & 1:
        x = _P - x
    return x, _BASE_Y, 1, x * _BASE_Y % _P


def _add(p: _Point, q: _Point) -> _Point:
    a = (p[1] - p[0]) * (q[1] - q[0]) % _P
    b = (p[1] + p[0]) * (q[1] + q[0]) % _P
    c = 2 * p[3] * q[3] * _D % _P
    d = 2 * p[2] * q[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def public_bytes(seed: bytes) -> bytes:
    """Return the public key of a 32-byte seed."""
    digest = bytearray(hashlib.sha512(seed).digest()[:32])
    digest[0] &= 248
    digest[31] = (digest[31] & 127) | 64
    scalar = int.from_bytes(digest, "little")
    result: _Point = (0, 1, 1, 0)
    point = _base_point()
    while scalar:
        if scalar & 1:
            result = _add(result, point)
        point = _add(point, point)
        scalar >>= 1
    inverse = pow(result[2], -1, _P)
    x, y = result[0] * inverse % _P, result[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _field(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def generate(comment: str) -> tuple[str, str]:
    """Make a key pair; returns the private key as PEM and the line for authorized_keys."""
    seed = secrets.token_bytes(32)
    public = public_bytes(seed)
    blob = _field(b"ssh-ed25519") + _field(public)
    check = secrets.token_bytes(4)
    private = check + check + blob + _field(seed + public) + _field(comment.encode())
    private += bytes(range(1, -len(private) % 8 + 1))
    none = _field(b"none")
    outer = b"openssh-key-v1\0" + none + none + _field(b"") + struct.pack(">I", 1)
    encoded = base64.b64encode(outer + _field(blob) + _field(private)).decode()
    lines = [encoded[start : start + 70] for start in range(0, len(encoded), 70)]
    pem = "\n".join(
        ["-----BEGIN OPENSSH PRIVATE KEY-----", *lines, "-----END OPENSSH PRIVATE KEY-----", ""]
    )
    return pem, f"ssh-ed25519 {base64.b64encode(blob).decode()} {comment}"
