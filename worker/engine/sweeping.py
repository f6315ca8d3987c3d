"""What has come due, and what the dead left: each part is safe to run twice, at once, or never."""

from __future__ import annotations

import logging
from secrets import token_hex

from worker.core.decisions import Reject, Unsure
from worker.core.model import WAITING, Reason, Status
from worker.engine.cancelling import PAGE, end_waiting
from worker.engine.parts import Parts
from worker.engine.settling import Settling
from worker.store.batches import Batch
from worker.store.permits import STAY_MS
from worker.store.rules import Why

log = logging.getLogger("volley")

#: Deliveries of one cancel that one sweep ends, about: the next one goes on.
CANCELLED_AT_ONCE = 5_000
#: Times that one sweep takes dedupe keys out, a thousand or more each: the next one goes on.
LAPSED_AT_ONCE = 100
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
        self._cancel()
        self._expire()
        self._lapse()
        self._store.deliveries.swept()
        self._report()
        if self._store.permits.free(self._parts.permits):
            found = self._store.deliveries.look()
            # A worker that is told of what waits for a moment stays for it.
            if found is not None and (not isinstance(found, int) or found <= STAY_MS):
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

    def _cancel(self) -> None:
        """Cancels that are not complete: their command was interrupted, or something came back from the wire
        or out of the intake since.
        """
        for cancel in self._store.control.cancels():
            ended = 0
            for count in end_waiting(self._store, cancel):
                ended += count
                if ended > CANCELLED_AT_ONCE:
                    break

    def _report(self) -> None:
        """Tells once of each guard and canary that holds a campaign."""
        for wait in self._store.ruled.fresh():
            if wait.why is Why.CANARY:
                rest = "waits for its time, or for" if wait.until_ms else "waits for"
                text = "campaign %d: its canary of %d is out; the rest %s `volley resume %d`"
                log.error(text, wait.campaign, wait.most, rest, wait.campaign)
            else:
                text = (
                    "campaign %d has reached its guard: %d of %d recipients %s; it goes on as that allows, "
                    "or with `volley resume %d --beyond-guard N` for N more at once"
                )
                span = "in an hour" if wait.why is Why.HOUR else "in a day"
                log.error(text, wait.campaign, wait.count, wait.most, span, wait.campaign)

    def _expire(self) -> None:
        deliveries = self._store.deliveries
        while (due := deliveries.due_ending()) is not None:
            found = self._store.outcomes.of(due.deliveries)
            waiting = [outcome for outcome in found if outcome.status in WAITING]
            ended = 0
            if waiting:
                endings = [deliveries.ending_of(outcome) for outcome in waiting]
                for first in range(0, len(endings), PAGE):
                    page = endings[first : first + PAGE]
                    ended += deliveries.finish(Status.EXPIRED, Reason.EXPIRED, WAITING, page)
            # One that is in flight, or went there since it was read, may come back to wait: look again.
            again = ended < len(waiting) or any(outcome.status is Status.IN_FLIGHT for outcome in found)
            deliveries.ending_done(due, self._parts.lease_ms if again else 0)

    def _lapse(self) -> None:
        """Dedupe keys whose window is over. They count for nothing already: this is for the memory."""
        for _ in range(LAPSED_AT_ONCE):
            _, more = self._store.deliveries.lapse()
            if not more:
                return

    def retain(self) -> None:
        """Forgets what is older than the retention."""
        more = True
        while more:
            _, more = self._store.deliveries.retire()
        self._store.intake.forget_consumers(CONSUMER_SECONDS)
        if self._store.control.let_strays_go(self._store.outcomes):
            self._parts.hint()
