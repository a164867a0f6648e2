from __future__ import annotations

import msgspec
import pytest

from sealos_devbox._protocol import messages
from sealos_devbox.errors import ProtocolError
from sealos_devbox.types import Attributes, Version
from tests.fakes.vectors import load, native

MSGPACK = load("msgpack")
VERSIONS = load("versions")

ATTR = [0o100644, 1, 1000, 1000, 5, 12, -3, 2, 1, 8, 0, None, None]


@pytest.mark.parametrize("row", MSGPACK["values"], ids=range(len(MSGPACK["values"])))
def test_writes_and_reads_the_vector(row):
    value = native(row["value"])
    assert messages.encode(value).hex() == row["hex"]
    assert msgspec.msgpack.decode(bytes.fromhex(row["hex"])) == value


@pytest.mark.parametrize("row", MSGPACK["accepted"], ids=lambda row: row["hex"])
def test_reads_longer_forms(row):
    assert msgspec.msgpack.decode(bytes.fromhex(row["hex"])) == native(row["value"])


@pytest.mark.parametrize("row", MSGPACK["refused"], ids=lambda row: row["why"])
@pytest.mark.parametrize(
    "decoder", [messages.ERROR, messages.WELCOME, messages.OUTCOMES, messages.DIRECTORY_RECORDS]
)
def test_refuses_the_vector(row, decoder):
    with pytest.raises(ProtocolError):
        messages.decode(decoder, bytes.fromhex(row["hex"]))


@pytest.mark.parametrize("row", VERSIONS["pairs"], ids=range(len(VERSIONS["pairs"])))
def test_versions_match_as_the_vectors_say(row):
    one = msgspec.convert(native(row["one"]), Version)
    other = msgspec.convert(native(row["other"]), Version)
    assert one.matches(other) is row["match"]
    assert other.matches(one) is row["match"]


def test_surplus_elements_are_ignored_and_absent_ones_defaulted():
    raw = messages.encode([5, [*ATTR, "new"], "newer"])
    assert messages.decode(messages.ATTR_REPLY, raw).result.ino == 12
    short = messages.decode(messages.ATTR_REPLY, messages.encode([5, ATTR[:9]])).result
    assert (short.blocks, short.rdev, short.target, short.sha256) == (0, 0, None, None)


@pytest.mark.parametrize(
    "value",
    [None, [], [1], [1, None], [1, ATTR[:8]], ["1", ATTR], [1.0, ATTR], [1, [*ATTR[:8], "x"]]],
)
def test_refuses_a_reply_of_another_shape(value):
    with pytest.raises(ProtocolError, match="malformed"):
        messages.decode(messages.ATTR_REPLY, messages.encode(value))


def test_refuses_trailing_bytes():
    with pytest.raises(ProtocolError):
        messages.decode(messages.ATTR_REPLY, messages.encode([1, ATTR]) + b"\xc0")


def test_a_name_that_is_not_utf_8_stays_as_it_is():
    raw = messages.encode([3, [[b"\xff\xfe", ATTR]]])
    [(name, attr)] = messages.decode(messages.LIST_RECORD, raw).entries
    assert name == b"\xff\xfe"
    assert isinstance(attr, Attributes)


def test_an_unreadable_directory():
    raw = messages.encode([[7, b"secret", True, None, 13]])
    [record] = messages.decode(messages.DIRECTORY_RECORDS, raw)
    assert record.entries is None
    assert record.errno == 13
