"""A daemon without a mount, for tests that kill it: `python driver.py DIRECTORY COUNT`.

Carries out the first COUNT operations of `workload()`, from where an earlier run got to. Says
`accepted N` after the N-th was accepted and `synced N` after a sync that covers it, each before it
goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import trio

from devboxfs.core.ops import Kind, Operation
from devboxfs.writeback.limits import Limits
from devboxfs.writeback.seams import Settled
from sealos_devbox import Attributes, Version
from tests.unit.writeback.conftest import BoxLink, Place

LIMITS = Limits(segment_bytes=1024, durable_after=0.01, quiet=0.001, batch_operations=7)


def workload() -> Iterator[tuple[Operation, bytes]]:
    """Operations on new files, whatever their number; no object is used twice under one oid."""
    time_ns = 10**18
    oid = 0
    while True:
        oid += 1
        name = b"f%d" % oid
        directory = b"d%d" % oid
        for op, data in (
            (Operation(Kind.MKDIR, 1000 + oid, directory, 0, mode=0o755), b""),
            (Operation(Kind.CREATE, oid, name, 0, mode=0o644), b""),
            (Operation(Kind.WRITE, oid, name, 0, mode=0o644), b"first %d" % oid * 30),
            (Operation(Kind.WRITE, oid, name, 0, mode=0o644, offset=4), b"second"),
            (Operation(Kind.RENAME, oid, directory + b"/g", 0, other=name), b""),
            (
                Operation(Kind.WRITE, oid, directory + b"/g", 0, mode=0o644, offset=50),
                b"third %d" % oid,
            ),
            (Operation(Kind.TRUNCATE, oid, directory + b"/g", 0, mode=0o644, size=60 + oid), b""),
            (
                Operation(Kind.RENAME, 1000 + oid, b"e%d" % oid, 0, other=directory, is_dir=True),
                b"",
            ),
            (Operation(Kind.CREATE, 5000 + oid, name, 0, mode=0o600), b""),
            (Operation(Kind.UNLINK, 5000 + oid, name, 0), b""),
        ):
            time_ns += 1000
            op.time_ns = time_ns
            yield op, data


class Driver:
    """Knows the bases of operations, as the file system does."""

    def __init__(self) -> None:
        self.box: dict[int, Attributes | None] = {}
        self.pending: dict[int, int] = {}
        self.oids: dict[int, int] = {}

    def settled(self, batch: Settled) -> None:
        self.box.update(batch.objects)
        for seq in batch.seqs:
            oid = self.oids.pop(seq)
            self.pending[oid] -= 1

    async def base_content(self, version: Version, size: int) -> bytes | None:
        return None

    def trouble(self, errno: int, oids: set[int]) -> None:
        raise AssertionError(errno)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def main(
    directory: Path,
    count: int,
    say: Callable[[str], None] = say,
    link: BoxLink | None = None,
) -> None:
    place = Place(directory, LIMITS)
    driver, link = Driver(), link or place.link()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await link.wait_transport()
        writeback = place.open()
        if writeback.has_backlog:
            await writeback.recover(link)
            say("recovered")
        await nursery.start(writeback.run, link, driver)
        nursery.start_soon(writeback.run_ticker)
        for number, (op, data) in enumerate(workload(), 1):
            if number > count:
                break
            attr = driver.box.get(op.oid)
            if not driver.pending.get(op.oid) and attr is not None:
                op.base = attr.version
            if op.kind is Kind.WRITE:
                writeback.append_write(op, data)
            else:
                writeback.append(op)
            driver.oids[op.seq] = op.oid
            driver.pending[op.oid] = driver.pending.get(op.oid, 0) + 1
            say(f"accepted {number}")
            if number % 10 == 0:
                await trio.lowlevel.checkpoint()
            if number % 25 == 0:
                if await writeback.sync_all():
                    raise AssertionError("sync failed")
                say(f"synced {number}")
        await writeback.drain()
        nursery.cancel_scope.cancel()
    writeback.close()
    say("drained")


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
