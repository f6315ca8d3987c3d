"""The use cases of one account, in the order of a trigger's life: accept, deliver, settle, recover, send
again.

Each method says what happens; the store says how it is atomic, the core what an answer means, the client how
a call is made. A process may die between any two lines here: what it leaves is found by its lease
(``sweep``).
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from secrets import token_hex
from typing import TypeAlias

from config.settings import Account, Endpoint, Settings
from worker.clevertap import wire
from worker.clevertap.client import Client, Door
from worker.core.answers import Answered
from worker.core.decision_table import decide
from worker.core.decisions import Accept, Decision, Retry, Unsure, describe
from worker.core.errors import InvalidTrigger
from worker.core.model import FREES_KEY, RETRYABLE, Reason, Status, Trigger
from worker.core.planning import Limits, plan
from worker.core.retry import Policy, Unknown, fate
from worker.store import AWAY, Store
from worker.store.deliveries import (
    Batch,
    Ending,
    FateRow,
    Member,
    PermitLostError,
    Requeued,
    Section,
    Unreadable,
)
from worker.store.intake import Entry
from worker.store.outcomes import Outcome

log = logging.getLogger("volley")

#: Asked between steps: should this process stop taking on work?
Stopping: TypeAlias = Callable[[], bool]

#: Deliveries in one piece of a large trigger. Not a setting: a piece's number must mean the same to every
#: worker.
PIECE_DELIVERIES = 1000
#: Entries read from the intake at once.
READ_ENTRIES = 1000
#: How long the place of an accept task is leased, seconds; renewed every time round.
SEAT_SECONDS = 6.0
#: Accept tasks that wait at one intake at once.
SEATS = 1
#: A read of the intake waits at most this long, seconds.
BLOCK_SECONDS = 1.0
#: Entries that a consumer read this long ago and did not finish are taken over, seconds.
UNFINISHED_SECONDS = 5.0
#: What the lease must still hold beyond the request's deadline when a request is begun, seconds.
LEASE_MARGIN_SECONDS = 2.0


class Engine:
    """One account's use cases. ``hint`` is called when work may be waiting for a permit that is free.

    Raises one of ``worker.store.AWAY`` where Redis is away; whatever was begun is found again by ``sweep``.
    """

    def __init__(
        self,
        settings: Settings,
        account: Account,
        store: Store,
        client: Client,
        *,
        hint: Callable[[], None] = lambda: None,
        uniform: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.account = account
        self.store = store
        self._settings = settings
        self._client = client
        self._hint = hint
        self._uniform = uniform
        self._monotonic = monotonic
        self._sleep = sleep
        self._door = Door(
            base_url=account.base_url,
            account_id=account.account_id,
            passcode=account.passcode.get_secret_value(),
            token=account.token.get_secret_value() if account.token else None,
        )
        self._endpoint: wire.Endpoint = 2 if account.endpoint is Endpoint.MULTIPLE else 1
        self._limits = Limits(1000, 5) if self._endpoint == 2 else Limits(account.single_recipients, 1)
        self._lease_ms = int(account.permit_lease_seconds * 1000)

    # -- enqueue -----------------------------------------------------------------------------------------

    def enqueue(self, triggers: Sequence[bytes], *, nonce: str) -> list[str]:
        """Appends triggers (JSON) to the intake; their entry ids. Again with the same nonce: no second
        effect.
        """
        return self.store.intake.append(triggers, nonce)

    # -- accept ------------------------------------------------------------------------------------------

    def wait_and_accept(self, seconds: float, stopping: Stopping) -> bool:
        """Waits at the intake for ``seconds`` and accepts what comes. False: enough others wait there
        already.
        """
        consumer = token_hex(8)
        permits, intake = self.store.permits, self.store.intake
        if not permits.sit(consumer, SEATS, int(SEAT_SECONDS * 1000)):
            return False
        try:
            end = self._monotonic() + seconds
            self._accept_all(intake.unfinished(consumer, UNFINISHED_SECONDS, READ_ENTRIES), resumed=True)
            while not stopping() and self._monotonic() < end:
                self._accept_all(intake.read(consumer, READ_ENTRIES, BLOCK_SECONDS))
                if not permits.sit(consumer, SEATS, int(SEAT_SECONDS * 1000)):
                    break
        finally:
            permits.stand_up(consumer)
        return True

    def _accept_all(self, entries: Sequence[Entry], *, resumed: bool = False) -> None:
        """Accepts entries in chunks of at most ``chunk_deliveries``."""
        sections: list[Section] = []
        unreadable: list[Unreadable] = []
        size = 0
        for entry in entries:
            try:
                parts = list(_pieces(entry, self._parse(entry)))
            except InvalidTrigger as invalid:
                unreadable.append(Unreadable(entry.id, invalid.where, invalid.why, entry.trigger or b""))
                continue
            if resumed and len(parts) > 1:
                parts = parts[self.store.intake.progress(entry.id) :]
            for section in parts:
                deliveries = len(section.recipients) * len(section.trigger.campaigns)
                if size + deliveries > self._settings.chunk_deliveries and sections:
                    self._accept_chunk(sections, unreadable)
                    sections, unreadable, size = [], [], 0
                sections.append(section)
                size += deliveries
        if sections or unreadable:
            self._accept_chunk(sections, unreadable)

    def _parse(self, entry: Entry) -> tuple[Trigger, ...]:
        if entry.trigger is None:
            raise InvalidTrigger("", "the entry has no field `trigger`")
        return wire.parse(entry.trigger, max_bytes=self._settings.max_trigger_bytes)

    def _accept_chunk(self, sections: Sequence[Section], unreadable: Sequence[Unreadable]) -> None:
        filed = self.store.deliveries.accept(sections, unreadable, self.account.max_in_flight)
        for dead in unreadable:
            log.warning("dead letter: entry %s: %s: %s", dead.entry, dead.where or "trigger", dead.reason)
        if filed.pending and filed.free_permits > 0:
            self._hint()

    # -- deliver -----------------------------------------------------------------------------------------

    def deliver(self, seconds: float, stopping: Stopping) -> None:
        """Takes a permit and sends what is due until nothing is, for ``seconds`` at most; then hints if
        work is left.

        Ends at once when no permit is free: whoever holds one sees the work.
        """
        token, permits = token_hex(8), self.store.permits
        if not permits.acquire(token, self.account.max_in_flight, self._lease_ms):
            return
        end = self._monotonic() + seconds
        called_for_help = False
        while not stopping() and self._monotonic() < end:
            view = self.store.deliveries.view()
            planned = plan(view, self._limits) if view else None
            if view is None or planned is None:
                if permits.release_if_idle(token):
                    return
                continue
            if not called_for_help and planned.leaves_work(view):
                called_for_help = True
                self._hint()
            try:
                batch = self.store.deliveries.claim(planned, token)
            except PermitLostError:
                self._hint()
                return
            if batch is not None and not self._attempt(batch, view.now_ms):
                self._hint()
                return
        if permits.release(token):
            self._hint()

    def _attempt(self, batch: Batch, now_ms: int) -> bool:
        """One POST of a batch and its settlement. False: the permit or the batch was lost on the way."""
        members = [m for m in batch.members if m.row.expires_at_ms is None or m.row.expires_at_ms > now_ms]
        expired = (
            [ending for m in batch.members if m not in members for ending in self._endings(batch, m)]
            if len(members) < len(batch.members)
            else []
        )
        body = wire.encode(self._endpoint, [m.row.recipient for m in members], batch.campaigns, batch.content)
        before = self._monotonic()
        if not self.store.deliveries.mark(batch, self._lease_ms, expired):
            log.warning("batch %d was lost before it was sent", batch.number)
            return False
        if not members:
            return True
        batch = batch.of(members)
        deadline = self.account.request_deadline_seconds
        left = self.account.permit_lease_seconds - (self._monotonic() - before)
        if left < deadline + LEASE_MARGIN_SECONDS:
            # This process was held up just here: the permit might end before the answer comes.
            decision: Decision = Retry(
                Reason.NOT_CONNECTED, counts=False, not_before_ms_from_now=None, http=0, text=""
            )
        else:
            answer = self._client.post(self._door, body, endpoint=self._endpoint, deadline_seconds=deadline)
            decision = decide(answer, batch.campaigns, len(members))
            log.info(
                "attempt batch=%d endpoint=%d campaigns=%d recipients=%d http=%s seconds=%.3f: %s",
                batch.number,
                self._endpoint,
                len(batch.campaigns),
                len(members),
                answer.status if isinstance(answer, Answered) else "-",
                answer.seconds,
                describe(decision),
            )
        return self._settle_surely(batch, decision, now_ms, until=before + self.account.permit_lease_seconds)

    def _settle_surely(self, batch: Batch, decision: Decision, now_ms: int, *, until: float) -> bool:
        """Settles, and keeps trying while Redis is away: what the answer said must not be lost with it."""
        pause = 0.05
        while True:
            try:
                return self._settle(batch, decision, now_ms)
            except AWAY:
                if self._monotonic() + pause > until:
                    raise
                self._sleep(pause)
                pause = min(1.0, pause * 2)

    def _settle(self, batch: Batch, decision: Decision, now_ms: int) -> bool:
        if isinstance(decision, Accept) and not decision.rejected:
            fates = [FateRow(Status.ACCEPTED, Reason.NONE, 1, None)]
            assignment, freed = b"\x01", list[Ending]()
        else:
            fates, assignment, freed = self._fates(batch, decision, now_ms)
        settled = self.store.deliveries.settle(
            batch, http=decision.http, text=decision.text, fates=fates, assignment=assignment, freed=freed
        )
        if not settled:
            log.warning("batch %d was taken over before its answer could be recorded", batch.number)
        return settled

    def _fates(
        self, batch: Batch, decision: Decision, now_ms: int
    ) -> tuple[list[FateRow], bytes, list[Ending]]:
        """The distinct fates, the number of each delivery's (from 1), and the deliveries whose keys are
        freed.
        """
        uniform = self._uniform()
        known: dict[tuple[object, ...], int] = {}
        rows: list[FateRow] = []
        assignment = bytearray()
        freed: list[Ending] = []
        for member in batch.members:
            expires = member.row.expires_at_ms
            for delivery, told in zip(member.deliveries, member.told, strict=True):
                case = (told, expires)
                number = known.get(case)
                if number is None:
                    found = fate(
                        decision,
                        campaign=told.campaign,
                        attempts=told.attempts,
                        age_ms=max(0, now_ms - told.first_ms),
                        expires_in_ms=None if expires is None else max(0, expires - now_ms),
                        policy=self._policy(told.campaign),
                        uniform=uniform,
                        before=told.reason,
                    )
                    row = FateRow(found.status, found.reason, found.attempts - told.attempts, found.due_in_ms)
                    if row not in rows:
                        rows.append(row)
                    number = known[case] = rows.index(row) + 1
                assignment.append(number)
                if rows[number - 1].status in FREES_KEY:
                    freed.append(
                        self.store.deliveries.key_of(delivery, told.campaign, member.row, batch.digest)
                    )
        return rows, bytes(assignment), freed

    def _policy(self, campaign: int) -> Policy:
        own = self._settings.campaign(self.account.name, campaign)
        return Policy(
            max_attempts=own.max_attempts,
            max_age_ms=own.max_age_seconds * 1000,
            backoff_base_ms=int(self._settings.backoff_base_seconds * 1000),
            backoff_cap_ms=int(self._settings.backoff_cap_seconds * 1000),
            unknown=Unknown(own.unknown.value),
        )

    def _endings(self, batch: Batch, member: Member) -> Iterator[Ending]:
        for delivery, told in zip(member.deliveries, member.told, strict=True):
            yield self.store.deliveries.key_of(delivery, told.campaign, member.row, batch.digest)

    # -- sweep -------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Wakes what is due, takes over what the dead left, ends what expired. Safe twice, at once, or
        never.
        """
        more = True
        while more:
            _, more = self.store.deliveries.promote()
        self._recover()
        self._expire()
        self.store.deliveries.swept()
        if self.store.permits.free(self.account.max_in_flight) and self.store.deliveries.view():
            self._hint()

    def _recover(self) -> None:
        """Batches whose lease has ended: only claimed, they are pending again; on the wire, they may have
        been sent.
        """
        while True:
            found = self.store.deliveries.recover(token_hex(8), self._lease_ms)
            if found is False:
                return
            if isinstance(found, Batch):
                log.warning(
                    "batch %d was on the wire when its worker died: %d deliveries", found.number, len(found)
                )
                decision = Unsure(Reason.WORKER_DIED, http=0, text="")
                self._settle(found, decision, self.store.deliveries.now_ms())

    def _expire(self) -> None:
        while (due := self.store.deliveries.due_ending()) is not None:
            waiting = (Status.SCHEDULED, Status.PENDING, Status.RETRYING)
            endings = [self._ending(o) for o in self.store.outcomes.of(due.deliveries) if o.status in waiting]
            if endings:
                self.store.deliveries.finish(Status.EXPIRED, Reason.EXPIRED, waiting, endings)
            self.store.deliveries.ending_done(due)

    def retain(self) -> None:
        """Forgets what is older than the retention."""
        more = True
        while more:
            _, more = self.store.deliveries.retire()
        self.store.intake.forget_consumers(3600)

    # -- send again --------------------------------------------------------------------------------------

    def requeue(self, outcomes: Iterable[Outcome]) -> Requeued:
        """Makes deliveries pending again that ended without an acceptance (at most 500); the others are
        left.
        """
        items = [
            (self._ending(o), self.store.deliveries.window_of(o.row))
            for o in outcomes
            if o.status in RETRYABLE
        ]
        done = self.store.deliveries.requeue(RETRYABLE, items)
        if done.taken:
            self._hint()
        return done

    def _ending(self, outcome: Outcome) -> Ending:
        return self.store.deliveries.key_of(outcome.delivery, outcome.campaign, outcome.row, outcome.digest)


def _pieces(entry: Entry, triggers: Sequence[Trigger]) -> Iterator[Section]:
    """An entry's triggers as sections of at most ``PIECE_DELIVERIES``, numbered through; the last one is
    final.
    """
    cuts = []
    for trigger in triggers:
        step = max(1, PIECE_DELIVERIES // len(trigger.campaigns))
        cuts += [(trigger, first, step) for first in range(0, len(trigger.recipients), step)]
    for piece, (trigger, first, step) in enumerate(cuts):
        yield Section(
            entry.id, piece, piece == len(cuts) - 1, trigger, trigger.recipients[first : first + step]
        )
