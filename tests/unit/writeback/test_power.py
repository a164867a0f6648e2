"""The box, or this machine, loses its power: what was not durable there is sent again."""

from __future__ import annotations

import shutil

import pytest
import trio

from devboxfs.core.ops import Kind
from devboxfs.writeback.seams import Link
from sealos_devbox import ApplyResult, Batch, FileTransport
from tests.unit.writeback.conftest import BoxLink, Ears, Place, User
from tests.unit.writeback.test_flusher import settled

pytestmark = pytest.mark.anyio


class Machine:
    """A transport to a machine whose boot id the test chooses: the kernel's own is fixed."""

    def __init__(self, transport: FileTransport, boot_id: str) -> None:
        self._transport = transport
        self._boot_id = boot_id

    async def attach(self, journal: bytes, generation: int) -> tuple[int, int, str]:
        batch, durable, _ = await self._transport.attach(journal, generation)
        return batch, durable, self._boot_id

    async def apply(self, batch: Batch) -> ApplyResult:
        return await self._transport.apply(batch)

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)


class Machines:
    """A Link whose machine is another one after each reboot."""

    def __init__(self, link: BoxLink) -> None:
        self.link = link
        self.boots = 1
        self._seen: dict[int, tuple[FileTransport, Machine]] = {}

    @property
    def online(self) -> bool:
        return self.link.online

    async def wait_transport(self, previous: FileTransport | None = None) -> FileTransport:
        inner = previous._transport if isinstance(previous, Machine) else None
        transport = await self.link.wait_transport(inner)
        return Machine(transport, f"boot {self.boots}")  # type: ignore[return-value]


async def test_what_the_box_lost_is_sent_again(place: Place) -> None:
    link = place.link()
    machines: Link = Machines(link)
    assert isinstance(machines, Machines)
    ears, writeback = Ears(), place.open()
    user = User(writeback, place.box)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await link.wait_transport()
        await nursery.start(writeback.run, machines, ears)
        first = user.create(b"f", b"one")
        await writeback.sync([], writeback.last_seq, sync_box=False)
        user.mkdir(b"d")
        second = user.create(b"d/g", b"two")
        await writeback.sync([], writeback.last_seq, sync_box=False)
        before = ears.objects[first]
        assert before is not None
        # Nothing of that was durable: the box comes back empty, and so does the helper's state.
        await link.lose()
        for name in ("box", "helper-state"):
            shutil.rmtree(place.directory / name)
            (place.directory / name).mkdir(mode=0o700)
        machines.boots = 2
        user.write(first, b"f", b"!", offset=3, mode=0o644, base=before.version)
        third = user.create(b"h", b"three")
        link.turn(up=True)
        assert await writeback.sync([b"f"], writeback.last_seq) == 0
        assert (place.box / "f").read_bytes() == b"one!"
        assert (place.box / "d/g").read_bytes() == b"two"
        assert (place.box / "h").read_bytes() == b"three"
        assert (ears.conflicts, ears.errors) == ([], {})
        assert sorted(ears.seqs) == list(range(1, writeback.last_seq + 1))
        attr = ears.objects[second]
        assert attr is not None
        assert attr.ino == (place.box / "d/g").stat().st_ino
        assert ears.objects[third] is not None
        await writeback.drain()
        nursery.cancel_scope.cancel()
    writeback.close()
    assert list(place.mounts.iterdir()) == []


async def test_a_helper_that_forgot_the_journal_is_no_loss(place: Place) -> None:
    """Its state was removed, the box was not: nothing is done twice."""
    async with place.mounted() as m:
        oid = m.user.create(b"f", b"one")
        await settled(m)
        m.user.do(Kind.RENAME, oid, b"g", other=b"f", base=m.ears.objects[oid].version)  # type: ignore[union-attr]
        await settled(m)
        await m.link.lose()
        shutil.rmtree(place.directory / "helper-state")
        (place.directory / "helper-state").mkdir(mode=0o700)
        m.link.turn(up=True)
        m.user.create(b"h", b"two")
        await settled(m)
        assert sorted(p.name for p in place.box.iterdir()) == ["g", "h"]
        assert (m.ears.conflicts, m.ears.errors) == ([], {})
        await m.writeback.drain()


async def test_a_journal_that_lost_its_end_goes_on(place: Place) -> None:
    """This machine lost its power: the box has applied batches that the journal does not know."""
    async with place.mounted() as m:
        m.user.create(b"a", b"1")
        assert await m.writeback.sync([b"a"], m.writeback.last_seq) == 0
        (journal,) = place.mounts.iterdir()
        m.writeback._journal.sync(m.writeback._journal.sync_plan())
        kept = (journal / "segment-1").read_bytes()
        for number in range(3):
            m.user.create(b"b%d" % number, b"2")
            assert await m.writeback.sync([], m.writeback.last_seq, sync_box=False) == 0
    (journal / "segment-1").write_bytes(kept)
    async with place.mounted() as m:
        m.user.create(b"c", b"3")
        await settled(m)
        names = sorted(p.name for p in place.box.iterdir())
        assert names == ["a", "b0", "b1", "b2", "c"]
        assert (m.ears.conflicts, m.ears.errors) == ([], {})
        await m.writeback.drain()
    assert list(place.mounts.iterdir()) == []
