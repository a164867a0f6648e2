"""The journal's standing with the box: attached, known to it, or forgotten by it.

Attaching says who owns the journal (a generation, higher than any before) and learns which batch
the box has applied last. The two sides may disagree about that after either lost its power, or
after the box forgot a journal that had come to its end: `attach` makes the numbers agree.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable

import msgspec

from devboxfs.core import records
from devboxfs.core.batch_records import LinkRecord
from devboxfs.writeback.ledger import Ledger
from sealos_devbox import BoxFileError, FileTransport

__all__ = ["Attachment"]

_log = logging.getLogger(__name__)

_LAST_DOUBLED = 1 << 40
"""A generation that is refused is doubled up to this; beyond, something else is wrong."""


class Attachment:
    """See the module. One per journal."""

    def __init__(self, ledger: Ledger) -> None:
        self.attached = False
        """On the connection that is up."""
        self.detached = True
        """The helper knows nothing of the journal, and need not."""
        self.held_locks: Callable[[], list[bytes]] = list
        """The paths of locks that are held here: their leases stop running once it is said."""
        self._ledger = ledger

    async def attach(self, transport: FileTransport) -> int:
        """Attach the journal, and make the numbers of batches agree.

        Returns the last applied one. Raises DevboxError, and OSError when the journal cannot be
        written.
        """
        ledger, journal = self._ledger, self._ledger.journal
        applied, durable, boot_id = await self._attach_once(transport)
        self.detached = False
        held = self.held_locks()
        if held and "locks" in transport.peer.capabilities:
            await transport.locks(journal.ident, held)
        settled = max((batch.number for batch in ledger.retained), default=0)
        if applied < settled and ledger.boot_id and boot_id != ledger.boot_id:
            count = ledger.replay_after(applied)
            _log.warning("box lost its power, %d batches are sent again", count)
        if not applied and settled and boot_id == ledger.boot_id and not ledger.batches:
            # It has forgotten the journal, which had come to its end, or lost what it knew of it.
            await transport.sync()
            durable = settled
        first = ledger.batches[0].number if ledger.batches else journal.next_batch
        if applied and first > applied + 1:
            if ledger.batches or settled > applied:
                # It has forgotten what it has applied, and would wait for batches that nobody has.
                _log.warning("box has forgotten batches %d to %d", applied + 1, first - 1)
                await transport.detach(journal.ident)
                applied, durable, boot_id = await self._attach_once(transport)
            else:
                journal.next_batch = applied + 1
        journal.next_batch = max(journal.next_batch, applied + 1)
        if boot_id != ledger.boot_id:
            ledger.boot_id = boot_id
            self._write_down(boot_id)
        ledger.note_durable(durable)
        self.attached = True
        return applied

    async def _attach_once(self, transport: FileTransport) -> tuple[int, int, str]:
        journal = self._ledger.journal
        while True:
            journal.generation += 1
            self._write_down(self._ledger.boot_id)
            try:
                return await transport.attach(journal.ident, journal.generation)
            except BoxFileError as error:
                if error.errno != errno.ESTALE or journal.generation > _LAST_DOUBLED:
                    raise
                # A generation that this disk has forgotten (it lost its power) was higher.
                journal.generation *= 2

    def _write_down(self, boot_id: str) -> None:
        journal = self._ledger.journal
        record = LinkRecord(journal.generation, boot_id)
        journal.append_control(records.LINK, 0, msgspec.msgpack.encode(record))

    async def detach(self, transport: FileTransport) -> None:
        """Have the box forget a journal of which nothing is pending."""
        journal = self._ledger.journal
        # The box is about to forget what it has done: nobody may ask it about that again.
        journal.begin_anew()
        await transport.detach(journal.ident)
        self.detached = True
        self.attached = False
