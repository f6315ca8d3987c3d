"""A decision becomes outcomes: each delivery of a batch gets its
fate, and the door is told what was learnt.
"""

from __future__ import annotations

import logging

from config.observability import MASK, mask
from worker.core.decisions import Accept, By, Decision, Park, Reject, Retry, Split
from worker.core.door import CAUSES, Fine, Lesson, Nothing, Parked, Trouble, lesson
from worker.core.model import FREES_KEY, Reason, Status
from worker.core.planning import View
from worker.core.retry import MAY_HAVE_BEEN_SENT, fate
from worker.engine.parts import Parts
from worker.store.batches import Batch, Ending, FateRow, SplitBy
from worker.store.cells import Told
from worker.store.taken import recipients_of

log = logging.getLogger("volley")

#: Recipients of so few characters are not looked for in the vendor's words: they stand in every other word.
SHORT = 3


class Settling:
    """Settles the batches of one account."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._store = parts.store

    def settle(self, batch: Batch, decision: Decision, now_ms: int, *, view: View | None = None) -> bool:
        """Records what became of a batch, in one step. False: somebody
        else has it by now, and nothing changed.

        With the view that it was planned from, the door learns from it too; without one, nothing was sent.
        """
        split = _halves(batch, decision)
        text = self._scrubbed(batch, decision.text)
        rows = [FateRow(Status.ACCEPTED, Reason.NONE, 1, None)]
        assignment = b"\x01"
        freed: list[Ending] = []
        if not isinstance(decision, Accept) or decision.rejected:
            rows, assignment, freed = self._fates(batch, decision, now_ms, split=split is not None)
        settled = self._store.deliveries.settle(
            batch,
            http=decision.http,
            text=text,
            fates=rows,
            assignment=assignment,
            freed=freed,
            split=split,
            budget=self._parts.settings.split_calls,
        )
        if not settled:
            log.warning("batch %d was taken over before its answer could be recorded", batch.number)
            return False
        if isinstance(decision, Reject) and decision.reason is Reason.INVALID_RECIPIENT:
            window_ms = self._parts.settings.bad_recipient_window_seconds * 1000
            self._store.door.remember_bad(recipients_of(batch.members), window_ms)
        if view is not None:
            self._teach(batch, decision, view, text)
        return True

    def no_call(self, view: View) -> None:
        """Gives the turn of a probe back that was used for no call."""
        if view.probe:
            self._store.door.report(
                Nothing(), permits=self._parts.permits, began_ms=view.now_ms, probe=view.probe
            )

    def _scrubbed(self, batch: Batch, text: str) -> str:
        """The vendor's words without the recipients and secrets that they may repeat."""
        if not text:
            return text
        for recipient in recipients_of(batch.members):
            if recipient.value in text and len(recipient.value) > SHORT:
                text = text.replace(recipient.value, MASK)
        return mask(text, self._parts.settings)

    def _fates(
        self, batch: Batch, decision: Decision, now_ms: int, *, split: bool
    ) -> tuple[list[FateRow], bytes, list[Ending]]:
        """The distinct fates, the number of each delivery's (from 1), and
        the deliveries whose keys are freed.
        """
        uniform = self._parts.uniform()
        known: dict[tuple[Told, int | None], int] = {}
        rows: list[FateRow] = []
        assignment = bytearray()
        freed: list[Ending] = []
        for member in batch.members:
            expires = member.row.expires_at_ms
            for delivery, told, own in zip(member.deliveries, member.told, member.rows, strict=True):
                number = known.get((told, expires))
                if number is None:
                    row = (
                        _to_split(told)
                        if split
                        else self._fate(
                            batch, decision, told, expires=expires, now_ms=now_ms, uniform=uniform
                        )
                    )
                    if row not in rows:
                        rows.append(row)
                    number = known[told, expires] = rows.index(row) + 1
                assignment.append(number)
                if rows[number - 1].status in FREES_KEY:
                    freed.append(self._store.deliveries.key_of(delivery, told.campaign, own, batch.digest))
        return rows, bytes(assignment), freed

    def _fate(
        self,
        batch: Batch,
        decision: Decision,
        told: Told,
        *,
        expires: int | None,
        now_ms: int,
        uniform: float,
    ) -> FateRow:
        match decision:
            case Accept(rejected=parked) if told.campaign in parked:
                if not self._parts.drops_when_parked(told.campaign):
                    return FateRow(Status.PENDING, _remembering(told, Reason.CAMPAIGN_NOT_READY), 0, None)
            case Park(campaigns=frozenset()) if self._parts.drops_when_parked(told.campaign):
                decision = Reject(decision.reason, decision.http, decision.text)
            case _:
                pass
        # Who only waits has not been given up: whether it is sent in time is seen when it is claimed.
        waits = isinstance(decision, Park) or (isinstance(decision, Retry) and not decision.counts)
        found = fate(
            decision,
            campaign=told.campaign,
            attempts=told.attempts,
            age_ms=max(0, now_ms - told.first_ms),
            expires_in_ms=None if expires is None or waits else max(0, expires - now_ms),
            policy=self._parts.policy(told.campaign, batch.priority),
            uniform=uniform,
            before=told.reason,
        )
        counted = found.attempts - told.attempts
        if found.status is Status.RETRYING and not counted:
            # Nobody's failure: it goes on waiting where it was, and the door says when calls are made again.
            return FateRow(Status.PENDING, found.reason, 0, None)
        return FateRow(found.status, found.reason, counted, found.due_in_ms)

    def _teach(self, batch: Batch, decision: Decision, view: View, text: str) -> None:
        """Tells the door what this call has taught; what is parked by it is reported once, and not again.

        ``text``: the vendor's words, scrubbed.
        """
        learnt = lesson(decision, batch.campaigns)
        if view.normal and isinstance(learnt, Fine | Nothing):
            return
        for each, drop in self._by_policy(learnt):
            parked = self._store.door.report(
                each,
                permits=self._parts.permits,
                began_ms=view.now_ms,
                probe=view.probe,
                http=decision.http,
                text=text,
                drop=drop,
            )
            for name in parked:
                what = f"account {self._parts.account.name}" if name == "*" else f"campaign {name}"
                reason = each.reason if isinstance(each, Parked | Trouble) else Reason.NONE
                log.error(
                    "%s is parked (%s): likely %s; it is probed now and then, `volley status` tells more",
                    what,
                    reason.label,
                    CAUSES.get(reason, text),
                )

    def _by_policy(self, learnt: Lesson) -> list[tuple[Lesson, bool]]:
        """Campaigns that park, apart by what their policy says of their
        deliveries: end (True) or wait (False).
        """
        if not isinstance(learnt, Parked) or learnt.campaigns is None:
            return [(learnt, False)]
        parts: list[tuple[Lesson, bool]] = []
        for drop in (True, False):
            names = frozenset(c for c in learnt.campaigns if self._parts.drops_when_parked(c) is drop)
            if names:
                parts.append((Parked(learnt.reason, names), drop))
        return parts


def _halves(batch: Batch, decision: Decision) -> SplitBy | None:
    """How a refused batch is split: the few campaigns first, when both may be at fault."""
    if not isinstance(decision, Split):
        return None
    if len(batch.campaigns) > 1 and (decision.by is not By.RECIPIENTS or len(batch.members) == 1):
        return SplitBy.CAMPAIGNS
    return SplitBy.RECIPIENTS


def _to_split(told: Told) -> FateRow:
    """A delivery of a refused batch waits for the call of its half. No
    attempt: it may not have been its fault.
    """
    return FateRow(Status.PENDING, _remembering(told, Reason.SPLITTING), 0, None)


def _remembering(told: Told, reason: Reason) -> Reason:
    """The reason, unless an earlier attempt may have been sent: that is never forgotten."""
    return told.reason if told.reason in MAY_HAVE_BEEN_SENT else reason
