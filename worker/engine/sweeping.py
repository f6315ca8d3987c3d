"""What has come due, and what the dead left: each part is safe to run twice, at once, or never."""

from __future__ import annotations

import logging
from secrets import token_hex

from worker.core.decisions import Reject, Unsure
from worker.core.model import Reason, Status
from worker.engine.parts import Parts
from worker.engine.settling import Settling
from worker.store.batches import Batch

log = logging.getLogger("volley")

#: States that a delivery may expire from.
WAITING = (Status.SCHEDULED, Status.PENDING, Status.RETRYING)
#: Seconds after which the name of a consumer that reads no more is forgotten.
CONSUMER_SECONDS = 3600


class Sweeping:
    """Beat's work for one account."""

    def __init__(self, parts: Parts, settling: Settling) -> None:
        self._parts = parts
        self._store = parts.store
        self._settling = settling

    def sweep(self) -> None:
        """Wakes what is due, takes over what the dead left, ends what
        expired, and sends a hint that was lost.
        """
        more = True
        while more:
            _, more = self._store.deliveries.promote()
        self._recover()
        self._expire()
        self._store.deliveries.swept()
        if self._store.permits.free(self._parts.permits) and self._store.deliveries.view():
            self._parts.hint()

    def _recover(self) -> None:
        """Batches whose lease has ended: only claimed, they are pending
        again; on the wire, they may have been sent.
        """
        while found := self._store.deliveries.recover(token_hex(8), self._parts.lease_ms):
            if not isinstance(found, Batch):
                continue
            if found.sent:
                log.warning(
                    "batch %d was on the wire when its worker died: %d deliveries", found.number, len(found)
                )
                decision: Unsure | Reject = Unsure(Reason.WORKER_DIED, 0, "")
            else:
                log.error("batch %d has ended its workers, one after the other: set apart", found.number)
                decision = Reject(Reason.POISON, 0, "workers died with it, one after the other")
            self._settling.settle(found, decision, self._store.deliveries.now_ms())

    def _expire(self) -> None:
        deliveries = self._store.deliveries
        while (due := deliveries.due_ending()) is not None:
            found = self._store.outcomes.of(due.deliveries)
            waiting = [outcome for outcome in found if outcome.status in WAITING]
            if waiting:
                endings = [deliveries.ending_of(outcome) for outcome in waiting]
                deliveries.finish(Status.EXPIRED, Reason.EXPIRED, WAITING, endings)
            # One on the wire may come back to wait: it is looked at again.
            on_the_wire = any(outcome.status is Status.IN_FLIGHT for outcome in found)
            deliveries.ending_done(due, self._parts.lease_ms if on_the_wire else 0)

    def retain(self) -> None:
        """Forgets what is older than the retention."""
        more = True
        while more:
            _, more = self._store.deliveries.retire()
        self._store.intake.forget_consumers(CONSUMER_SECONDS)
