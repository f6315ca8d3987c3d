"""What becomes of one delivery after an attempt, and when the next one is due.

An attempt ends with a decision about the batch. ``Accept`` and ``Reject`` end its deliveries. ``Retry``
sends them back to wait, longer each time, until the last attempt or the greatest age, or until
``expires_at`` would come first. ``Unsure`` is the dangerous one: the message may be out. Held, the delivery
waits as ``unknown`` for an operator; resent, it waits like a retry, but from then on it can never end as if
it had not been sent. That memory is its reason (``MAY_HAVE_BEEN_SENT``), which later waiting keeps.

Waiting that is nobody's failure (429, a parked account or campaign) costs no attempt, and no delivery is
given up for it: the greatest age is looked at only when an attempt is counted. ``expires_at`` always holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from worker.core.decisions import Accept, Decision, Park, Reject, Retry, Split, Unsure
from worker.core.model import Reason, Status

#: The longest wait that a ``Retry-After`` may ask for, in milliseconds: one hour.
RETRY_AFTER_MAX_MS = 3_600_000

#: Reasons of a delivery whose message may be out.
MAY_HAVE_BEEN_SENT = frozenset({Reason.NO_ANSWER, Reason.UNREADABLE_ANSWER, Reason.WORKER_DIED})


class Unknown(StrEnum):
    """What happens to a delivery that may have been sent."""

    HOLD = "hold"  #: it ends as unknown; an operator decides
    RESEND = "resend"  #: it is tried again: a message may arrive twice


@dataclass(frozen=True, slots=True)
class Policy:
    """When to give up, and how long to wait. Raises ValueError where the numbers make no sense."""

    max_attempts: int  #: attempts that a delivery may cost, the first included; >= 1
    max_age_ms: int  #: no retry is due later than this after the delivery first was due
    backoff_base_ms: int  #: upper bound of the first wait; it doubles each time; >= 1
    backoff_cap_ms: int  #: upper bound of every wait; >= backoff_base_ms
    unknown: Unknown

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError("max_attempts must be at least 1")
        if self.max_age_ms < 0:
            raise ValueError("max_age_ms must not be negative")
        if not 1 <= self.backoff_base_ms <= self.backoff_cap_ms:
            raise ValueError("backoff_base_ms must be between 1 and backoff_cap_ms")


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of one delivery. ``due_in_ms`` is set exactly when the status is retrying; it is >= 0."""

    status: Status
    reason: Reason
    attempts: int
    due_in_ms: int | None = None


def backoff_ms(attempt: int, policy: Policy, *, uniform: float, retry_after_ms: int | None = None) -> int:
    """How long to wait after attempt number ``attempt`` (from 1), in milliseconds.

    Full jitter: anything between 0 and ``base * 2 ** (attempt - 1)``, at most the cap; ``uniform`` in [0,
    1) picks. So the retries of an outage spread instead of coming back as one wave. ``retry_after_ms`` is a
    floor, itself at most RETRY_AFTER_MAX_MS, and may exceed the cap: the vendor asked for it.
    """
    doublings = min(max(attempt, 1) - 1, 62)
    bound = min(policy.backoff_cap_ms, policy.backoff_base_ms << doublings)
    floor = min(max(retry_after_ms or 0, 0), RETRY_AFTER_MAX_MS)
    return max(int(bound * uniform), floor)


def parked_ms(policy: Policy, *, uniform: float) -> int:
    """How long a delivery of something parked waits: between half the cap and the cap."""
    half = policy.backoff_cap_ms // 2
    return half + int((policy.backoff_cap_ms - half) * uniform)


def fate(
    decision: Decision,
    *,
    campaign: int,
    attempts: int,
    age_ms: int,
    expires_in_ms: int | None,
    policy: Policy,
    uniform: float,
    before: Reason = Reason.NONE,
) -> Fate:
    """What becomes of one delivery of the batch that ``decision`` is about.

    ``campaign`` is the delivery's own; ``attempts`` those before this one; ``age_ms`` the time since it
    first was due; ``expires_in_ms`` the time until its ``expires_at`` (None: never); ``before`` its reason
    until now. Deliveries that agree in all of these share a fate, so one call serves many.

    ``Split`` ends as ``Reject`` (without an attempt) and ``Park`` waits, for a caller that does neither.
    """
    counted = attempts + 1
    out = before in MAY_HAVE_BEEN_SENT

    def ended(status: Status, reason: Reason, attempts: int) -> Fate:
        # Ending as not sent frees the dedupe key: a second message could follow one that may be out.
        return Fate(Status.UNKNOWN, before, attempts) if out else Fate(status, reason, attempts)

    def wait(reason: Reason, due_in_ms: int, attempts: int) -> Fate:
        if expires_in_ms is not None and due_in_ms >= expires_in_ms:
            if reason in MAY_HAVE_BEEN_SENT:
                return Fate(Status.UNKNOWN, reason, attempts)
            return ended(Status.EXPIRED, Reason.EXPIRED, attempts)
        return Fate(Status.RETRYING, before if out else reason, attempts, due_in_ms)

    match decision:
        case Accept(rejected=rejected) if campaign in rejected:
            return ended(Status.REJECTED, Reason.CAMPAIGN_NOT_READY, counted)
        case Accept():
            return Fate(Status.ACCEPTED, Reason.NONE, counted)
        case Reject(reason=reason):
            return ended(Status.REJECTED, reason, counted)
        case Split(reason=reason):
            return ended(Status.REJECTED, reason, attempts)
        case Park(reason=reason):
            return wait(reason, parked_ms(policy, uniform=uniform), attempts)
        case Retry(reason=reason, counts=False, not_before_ms_from_now=floor):
            due = backoff_ms(counted, policy, uniform=uniform, retry_after_ms=floor)
            return wait(reason, due, attempts)
        case Retry(reason=reason, not_before_ms_from_now=floor):
            due = backoff_ms(counted, policy, uniform=uniform, retry_after_ms=floor)
            if _given_up(counted, age_ms + due, policy):
                return ended(Status.FAILED, reason, counted)
            return wait(reason, due, counted)
        case Unsure(reason=reason):
            due = backoff_ms(counted, policy, uniform=uniform)
            if policy.unknown is Unknown.HOLD or _given_up(counted, age_ms + due, policy):
                return Fate(Status.UNKNOWN, reason, counted)
            return wait(reason, due, counted)


def _given_up(attempts: int, age_when_due_ms: int, policy: Policy) -> bool:
    return attempts >= policy.max_attempts or age_when_due_ms > policy.max_age_ms
