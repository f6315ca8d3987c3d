"""What the sandbox pretends about the vendor's side: accounts, campaigns, recipients and limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

#: How long an answer takes, in milliseconds: always the same, or uniformly between two bounds.
LatencyMs = float | tuple[float, float]


class CampaignState(StrEnum):
    """What CleverTap thinks of a campaign."""

    RUNNING = "running"  #: accepts sends
    STOPPED = "stopped"  #: was stopped; `/1` refuses it, `/2` drops it from the call
    NOT_READY = "not_ready"  #: is still being prepared; treated like a stopped one
    NEEDS_APPROVAL = "needs_approval"  #: waits for somebody's approval; treated like a stopped one
    WRONG_TYPE = "wrong_type"  #: is no External Trigger campaign; treated like a stopped one
    MISSING = "missing"  #: does not exist; the whole call is refused


@dataclass(frozen=True, slots=True)
class Credentials:
    """An account's passcode, and its token if it may use `/2`."""

    passcode: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """The vendor's side at one moment. Replaced as a whole, so a call never sees half of a change.

    Raises `ValueError` for a value that makes no sense.
    """

    #: Account id -> its credentials. None: any account, with any passcode and token that are not empty.
    credentials: Mapping[str, Credentials] | None = None
    #: HTTP code for refused credentials: the vendor's table says 401, its sample of a 400 has the same words.
    credentials_refused_with: Literal[400, 401] = 401
    #: Whether External Trigger is enabled for the accounts.
    external_trigger_enabled: bool = True
    #: Requests that an account may have in flight; the next one is answered 429.
    ceiling: int = 3
    #: Latency of every answer but the 429 of the ceiling.
    latency_ms: LatencyMs = 0
    #: Campaign id -> its state.
    campaigns: Mapping[str, CampaignState] = field(default_factory=dict)
    #: The state of a campaign that is not in `campaigns`.
    other_campaigns: CampaignState = CampaignState.RUNNING
    #: Identity values that make CleverTap refuse the whole call.
    bad_recipients: frozenset[str] = frozenset()
    #: Recipients in one call of `/1`. The vendor documents both one and several.
    single_max_recipients: int = 1

    def __post_init__(self) -> None:
        if self.ceiling < 0:
            raise ValueError("ceiling must not be negative")
        if self.single_max_recipients < 1:
            raise ValueError("single_max_recipients must be at least 1")
        check_latency(self.latency_ms)

    def state_of(self, campaign: str) -> CampaignState:
        """The state of the campaign with this id."""
        return self.campaigns.get(campaign, self.other_campaigns)


def check_latency(latency_ms: LatencyMs) -> None:
    """Raise `ValueError` unless it is a duration or a lower and an upper bound, none of them negative."""
    low, high = latency_bounds(latency_ms)
    if not 0 <= low <= high:
        raise ValueError("latency_ms must be a duration, or a lower and an upper bound, not negative")


def latency_bounds(latency_ms: LatencyMs) -> tuple[float, float]:
    """The shortest and the longest latency, in milliseconds."""
    return latency_ms if isinstance(latency_ms, tuple) else (latency_ms, latency_ms)
