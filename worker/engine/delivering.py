"""Deliveries become calls: take a permit, plan the best call that is due, claim it, mark it, POST it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from secrets import token_hex

from config.settings import Endpoint
from worker.clevertap import wire
from worker.clevertap.client import Door
from worker.core.answers import Answered
from worker.core.decision_table import decide
from worker.core.decisions import By, Decision, Reject, Retry, Split, describe
from worker.core.model import Reason, Recipient, Status
from worker.core.planning import Limits, View, plan
from worker.engine.parts import Parts, Stopping
from worker.engine.settling import Settling
from worker.store import AWAY
from worker.store.batches import Batch, HeldBackError, KeptOut, PermitLostError
from worker.store.taken import Member, first_expiry, recipients_of

log = logging.getLogger("volley")

#: What the lease must still hold beyond the request's deadline when a request is begun, seconds.
LEASE_MARGIN_SECONDS = 2.0
#: What a probe of something parked carries: one small call of real work.
PROBE = Limits(recipients=1, campaigns=1)


class Delivering:
    """Sends what is due for one account."""

    def __init__(self, parts: Parts, settling: Settling) -> None:
        self._parts = parts
        self._store = parts.store
        self._settling = settling
        account = parts.account
        self._door = Door(
            base_url=account.base_url,
            account_id=account.account_id,
            passcode=account.passcode.get_secret_value(),
            token=account.token.get_secret_value() if account.token else None,
            connect_timeout_seconds=account.connect_timeout_seconds,
            read_timeout_seconds=account.read_timeout_seconds,
        )
        self._endpoint: wire.Endpoint = 2 if account.endpoint is Endpoint.MULTIPLE else 1
        self._limits = Limits(1000, 5) if self._endpoint == 2 else Limits(account.single_recipients, 1)
        self._bad: tuple[int, dict[Recipient, int]] = (0, {})
        #: Tokens that a batch may be on the wire with, unsettled.
        self._sending: set[str] = set()
        self._tests = bool(parts.settings.in_test_mode(account.name))
        if self._tests:
            log.warning("account %s is in test mode: `volley status` tells which campaigns", account.name)

    def deliver(self, seconds: float, stopping: Stopping) -> None:
        """Takes a permit and sends what is due until nothing is, for
        ``seconds`` at most; hints if work is left.

        Ends at once when no permit is free: whoever holds one sees the work. Where the hint cannot be sent
        (the broker is away, or full), it goes on by itself.
        """
        while self._deliver(seconds, stopping):
            continue

    def _deliver(self, seconds: float, stopping: Stopping) -> bool:
        """Delivers for so long; True when work is left and nobody could be told.

        After an error (Redis was away for a moment) the permit is given back where Redis allows. Not while a
        request may be out: then it ends with its lease, as the batch does.
        """
        token = token_hex(8)
        try:
            return self._deliver_with(token, seconds, stopping)
        except BaseException:
            if token not in self._sending:
                with suppress(*AWAY):
                    self._store.permits.release(token)
            raise
        finally:
            self._sending.discard(token)

    def _deliver_with(self, token: str, seconds: float, stopping: Stopping) -> bool:
        permits, parts = self._store.permits, self._parts
        if not permits.acquire(token, parts.permits, parts.lease_ms):
            return False
        end = parts.monotonic() + seconds
        called_for_help = False
        while not stopping() and parts.monotonic() < end:
            view = self._store.deliveries.view()
            if view is None:
                rest = permits.rest(token)
                if rest.kept:
                    continue
                if not rest.nap_ms:
                    return False
                # Something may be sent in a moment. The permit is free meanwhile.
                parts.sleep(rest.nap_ms / 1000)
                if stopping() or not permits.acquire(token, parts.permits, parts.lease_ms):
                    return False
                called_for_help = False
                continue
            if view.over:
                break
            try:
                batch, more = self._claim(view, token)
            except PermitLostError:
                break
            if more and not called_for_help:
                called_for_help = True
                parts.hint()
            if batch is not None and not self._attempt(batch, view):
                break
        return permits.release(token) and parts.hint() is False and not stopping()

    def _claim(self, view: View, token: str) -> tuple[Batch | None, bool]:
        """The batch to send next, and whether the view shows more work behind it."""
        if not view.flow:
            return self._store.deliveries.claim_part(view.priority, token), True
        planned = plan(self._of_one_list(view), PROBE if view.probe else self._limits_in(view))
        if planned is None:
            return None, False
        charge = 1 / self._parts.weight(planned.flow)
        batch = self._store.deliveries.claim(planned, token, view.probe, charge, free=view.drop)
        return batch, not view.probe and planned.leaves_work(view)

    def _limits_in(self, view: View) -> Limits:
        """What the next call may carry, with what the rules let through now."""
        if view.room is None or view.room >= self._limits.recipients:
            return self._limits
        return Limits(view.room, self._limits.campaigns)

    def _attempt(self, batch: Batch, view: View) -> bool:
        """One POST of a batch and its settlement. False: the permit or the batch was lost on the way."""
        settling = self._settling
        if view.drop:
            return settling.settle(
                batch, Reject(Reason.CAMPAIGN_NOT_READY, 0, "the campaign is parked"), view.now_ms
            )
        if batch.job and batch.job.calls >= batch.job.budget:
            text = f"not isolated within {batch.job.budget} calls"
            return settling.settle(batch, Reject(Reason.NOT_ISOLATED, 0, text), view.now_ms)
        if self._lists_differ(batch.campaigns):
            # Formed before test mode was set: its campaigns are called apart.
            apart = Split(Reason.SPLITTING, By.CAMPAIGNS, 0, "")
            settling.no_call(view)
            return settling.settle(batch, apart, view.now_ms)
        members, kept_out = self._sift(batch, view)
        body = b""
        try:
            if members:
                body = wire.encode(self._endpoint, recipients_of(members), batch.campaigns, batch.content)
        except Exception:
            # One report for each poison, when it stands alone; its batches on the way there are only noted.
            log.log(
                logging.ERROR if len(batch) == 1 else logging.WARNING,
                "batch %d could not be encoded",
                batch.number,
                exc_info=len(batch) == 1,
            )
            settling.no_call(view)
            return settling.settle(batch, _poisoned(batch), view.now_ms)
        parts = self._parts
        before = parts.monotonic()
        # Also when the reply is lost: then nobody knows whether it is marked.
        self._sending.add(batch.token)
        try:
            expires_ms = first_expiry(members)
            marked = self._store.deliveries.mark(batch, parts.lease_ms, kept_out, expires_ms=expires_ms)
        except HeldBackError:
            self._sending.discard(batch.token)
            settling.no_call(view)
            return True
        if not (marked and members):
            self._sending.discard(batch.token)
        if not marked:
            log.warning("batch %d was lost before it was sent", batch.number)
            return False
        if not members:
            settling.no_call(view)
            return True
        batch = batch.of(members)
        deadline = parts.account.request_deadline_seconds
        left = parts.account.permit_lease_seconds - (parts.monotonic() - before)
        if left < deadline + LEASE_MARGIN_SECONDS:
            # This process was held up just here: the permit might end before the answer comes.
            decision: Decision = Retry(Reason.NOT_CONNECTED, False, None, 0, "held up before it began")
        else:
            answer = parts.client.post(self._door, body, endpoint=self._endpoint, deadline_seconds=deadline)
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
        until = before + parts.account.permit_lease_seconds
        settled = self._settle_surely(batch, decision, view, until=until)
        self._sending.discard(batch.token)
        return settled

    def _settle_surely(self, batch: Batch, decision: Decision, view: View, *, until: float) -> bool:
        """Settles, and keeps trying while Redis is away: what the answer said must not be lost with it."""
        pause = 0.05
        while True:
            try:
                return self._settling.settle(batch, decision, view.now_ms, view=view)
            except AWAY:
                if self._parts.monotonic() + pause > until:
                    raise
                self._parts.sleep(pause)
                pause = min(1.0, pause * 2)

    def _sift(self, batch: Batch, view: View) -> tuple[Sequence[Member], list[KeptOut]]:
        """The members to send, and the deliveries to keep out: expired ones, recipients known as bad, and in
        test mode whoever is not on the allow-list.
        """
        bad = self._known_bad(view.bad)
        allowed = self._parts.allowed(batch.campaigns[0])
        if allowed is None and not bad and first_expiry(batch.members) is None:
            return batch.members, []
        members: list[Member] = []
        kept_out: list[KeptOut] = []
        for member in batch.members:
            expires = member.row.expires_at_ms
            if expires is not None and expires <= view.now_ms:
                kept_out += self._keep_out(batch, member, Status.EXPIRED, Reason.EXPIRED)
            elif allowed is not None and _named(member.row.recipient) not in allowed:
                kept_out += self._keep_out(batch, member, Status.SUPPRESSED, Reason.SUPPRESSED)
            elif bad.get(member.row.recipient, 0) > view.now_ms:
                kept_out += self._keep_out(batch, member, Status.REJECTED, Reason.KNOWN_BAD_RECIPIENT)
            else:
                members.append(member)
        return members, kept_out

    def _keep_out(self, batch: Batch, member: Member, status: Status, reason: Reason) -> Iterator[KeptOut]:
        for delivery, told, row in zip(member.deliveries, member.told, member.rows, strict=True):
            ending = self._store.deliveries.key_of(delivery, told.campaign, row, batch.digest)
            yield KeptOut(ending, status, reason)

    def _of_one_list(self, view: View) -> View:
        """The view without campaigns whose allow-list is another one than that of the first whose turn it is:
        who may be sent to would not be the same for the whole call.
        """
        if not self._tests:
            return view
        allowed = self._parts.allowed
        mine = next((allowed(campaign) for campaign in view.flow if campaign not in view.blocked), None)
        seen = {campaign for group in view.groups for lane in group.lanes for campaign in lane.campaigns}
        others = frozenset(campaign for campaign in seen if allowed(campaign) != mine)
        return replace(view, blocked=view.blocked | others)

    def _lists_differ(self, campaigns: tuple[int, ...]) -> bool:
        first = self._parts.allowed(campaigns[0])
        return self._tests and any(self._parts.allowed(campaign) != first for campaign in campaigns[1:])

    def _known_bad(self, version: int) -> dict[Recipient, int]:
        """Recipients that CleverTap called invalid, and until when; read again only when the list changed."""
        if version != self._bad[0]:
            self._bad = version, self._store.door.bad_recipients()
        return self._bad[1]


def _named(recipient: Recipient) -> tuple[str, str]:
    """As an allow-list names it."""
    return recipient.kind.value, recipient.value


def _poisoned(batch: Batch) -> Decision:
    """A batch that the worker itself fails on: its halves are tried apart, until the guilty one is alone."""
    text = "the worker failed on it"
    if len(batch) == 1:
        return Reject(Reason.POISON, 0, text)
    return Split(Reason.POISON, By.RECIPIENTS if len(batch.members) > 1 else By.CAMPAIGNS, 0, text)
