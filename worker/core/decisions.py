"""What an answer means for the batch that was sent, as a closed sum type.

    Decision = Accept | Reject | Retry | Unsure | Split | Park

``decide`` (``decision_table.py``) makes one from an answer; ``fate`` (``retry.py``) says what it means for
one delivery. Each carries ``http`` (0 where nothing answered) and ``text`` (the vendor's text, cut and free
of addresses).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from worker.core.model import Reason


class By(StrEnum):
    """Along what a refused batch may be split."""

    RECIPIENTS = "recipients"
    CAMPAIGNS = "campaigns"
    BOTH = "both"  #: the text does not tell which; only the sides that hold more than one can be split


@dataclass(frozen=True, slots=True)
class Accept:
    """CleverTap queued the batch, except for the campaigns in ``rejected`` (CAMPAIGN_NOT_READY)."""

    rejected: frozenset[int]
    http: int
    text: str


@dataclass(frozen=True, slots=True)
class Reject:
    """Refused, and it would be refused again: every delivery of the batch ends."""

    reason: Reason
    http: int
    text: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Surely not accepted, may be later. ``counts`` says whether it costs each delivery an attempt."""

    reason: Reason
    counts: bool
    not_before_ms_from_now: int | None  #: what ``Retry-After`` asked for; None if it did not come
    http: int
    text: str


@dataclass(frozen=True, slots=True)
class Unsure:
    """May have been accepted. The policy ``unknown`` decides: hold or resend."""

    reason: Reason
    http: int
    text: str


@dataclass(frozen=True, slots=True)
class Split:
    """Refused, perhaps for only some of its deliveries. Given only if there is something to split."""

    reason: Reason
    by: By
    http: int
    text: str


@dataclass(frozen=True, slots=True)
class Park:
    """Refused for all that would be sent to these campaigns (None: the account). Costs no attempt."""

    reason: Reason
    campaigns: frozenset[int] | None
    http: int
    text: str


Decision = Accept | Reject | Retry | Unsure | Split | Park


def costs_an_attempt(decision: Decision) -> bool:
    """Whether each delivery of the batch has one attempt more after this decision."""
    match decision:
        case Park() | Split():
            return False
        case Retry(counts=counts):
            return counts
        case Accept() | Reject() | Unsure():
            return True


def describe(decision: Decision) -> str:
    """The decision in a few words, as the documentation shows it."""
    match decision:
        case Accept(rejected=rejected):
            return "accept; reject the listed campaigns (campaign_not_ready)" if rejected else "accept"
        case Reject(reason=reason):
            return f"reject ({reason.label})"
        case Retry(reason=reason, counts=counts):
            return f"{'retry' if counts else 'wait'} ({reason.label})"
        case Unsure(reason=reason):
            return f"unknown ({reason.label})"
        case Split(reason=reason, by=by):
            return f"split by {'recipients or campaigns' if by is By.BOTH else by} ({reason.label})"
        case Park(reason=reason, campaigns=campaigns):
            return f"park the {'account' if campaigns is None else 'campaign'} ({reason.label})"
