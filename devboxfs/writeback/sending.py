"""Sends batches over the connection that is up, each waited for by a task of its own."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable

import trio

from devboxfs.writeback import faults
from devboxfs.writeback.attachment import Attachment
from devboxfs.writeback.decisions import TROUBLE
from devboxfs.writeback.in_flight import InFlight
from devboxfs.writeback.ledger import Ledger
from devboxfs.writeback.setbacks import Setbacks
from sealos_devbox import BoxFileError, DevboxError, FileTransport, TransportError

__all__ = ["Sender"]

_log = logging.getLogger(__name__)

_MEASURED = 1 << 18
"""Smaller batches say more about the round trip than about the bandwidth."""


class Sender:
    """See the module. What comes back is left in the batch: its `result`, or `refused`."""

    def __init__(
        self,
        ledger: Ledger,
        attachment: Attachment,
        setbacks: Setbacks,
        monotonic: Callable[[], float],
        on_answer: Callable[[], None],
    ) -> None:
        self.bandwidth = 0.0
        """Bytes a second, as measured of late; 0: not known."""
        self.batches_sent = 0
        self.operations_sent = 0
        self.broken: DevboxError | None = None
        """Why the connection is of no use any more."""
        self._ledger = ledger
        self._attachment = attachment
        self._setbacks = setbacks
        self._monotonic = monotonic
        self._on_answer = on_answer

    def begin(self) -> None:
        """Forget the connection before: what was in flight is to be sent again."""
        self.broken = None
        for batch in self._ledger.batches:
            batch.sent = batch.result = None
            batch.refused = 0

    async def send(self, transport: FileTransport, tasks: trio.Nursery, batch: InFlight) -> None:
        """Send a batch, behind those that were sent before; its answer comes later."""
        faults.passing("send-before")
        batch.sent = self._monotonic()
        batch.result = None
        self.batches_sent += 1
        self.operations_sent += len(batch.wire)
        # start() returns when apply() has begun, so batches are sent in their order.
        await tasks.start(self._apply, transport, batch)

    async def _apply(
        self, transport: FileTransport, batch: InFlight, *, task_status: trio.TaskStatus[None]
    ) -> None:
        journal = self._ledger.journal
        value = batch.batch(journal.ident, journal.generation)
        started = self._monotonic()
        task_status.started()  # no await until apply()
        try:
            result = await transport.apply(value)
        except BoxFileError as error:
            self._refused(batch, error)
        except DevboxError as error:
            self.broken = self.broken or error
        except OSError as error:
            # Content could not be read from the journal.
            _log.exception("batch %d cannot be sent", batch.number)
            self._setbacks.local_failure(error)
            self.broken = self.broken or TransportError(str(error))
        else:
            batch.result = result
            self._measure(batch, self._monotonic() - started)
        self._on_answer()

    def _refused(self, batch: InFlight, error: BoxFileError) -> None:
        number = error.errno or errno.EIO
        self._setbacks.last_error = str(error)
        if number in TROUBLE or number == errno.ECANCELED:
            batch.refused = number
            return
        if number != errno.ESTALE:
            _log.error("box refuses batch %d: %s", batch.number, error)
            self._setbacks.pause()
        self._attachment.attached = False
        self.broken = self.broken or error

    def _measure(self, batch: InFlight, seconds: float) -> None:
        if batch.size >= _MEASURED and seconds > 0:
            rate = batch.size / seconds
            self.bandwidth = rate if not self.bandwidth else 0.7 * self.bandwidth + 0.3 * rate
