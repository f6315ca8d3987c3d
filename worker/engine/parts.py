"""What the use cases of one account work with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from config.allow_list import AllowList
from config.settings import Account, Settings, Stopped
from worker.clevertap import wire
from worker.clevertap.client import Door
from worker.core.answers import Answer
from worker.core.model import Priority
from worker.core.retry import Policy, Unknown
from worker.store import Store

#: Asked between steps: should this process stop taking on work?
Stopping: TypeAlias = Callable[[], bool]


class Poster(Protocol):
    """Makes calls: ``worker.clevertap.client.Client``, or what takes its place in a dry run."""

    def post(self, door: Door, body: bytes, *, endpoint: wire.Endpoint, deadline_seconds: float) -> Answer:
        """See ``Client.post``."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Settings, store, client, and what is not pure: the hint, chance, the clock, waiting."""

    settings: Settings
    account: Account
    store: Store
    client: Poster
    hint: Callable[[], bool | None]  #: False: it could not be sent
    uniform: Callable[[], float]  #: in [0, 1)
    monotonic: Callable[[], float]  #: seconds
    sleep: Callable[[float], None]  #: seconds

    @property
    def permits(self) -> int:
        """Requests in flight that the account has."""
        return self.account.max_in_flight

    @property
    def lease_ms(self) -> int:
        """How long a permit lives without its holder."""
        return int(self.account.permit_lease_seconds * 1000)

    def policy(self, campaign: int, priority: Priority) -> Policy:
        """When a delivery of this campaign and priority is given up, and what an unknown one does."""
        own = self.settings.campaign(self.account.name, campaign)
        return Policy(
            max_attempts=own.max_attempts,
            max_age_ms=own.max_age_seconds * 1000,
            backoff_base_ms=int(self.settings.backoff_base_seconds * 1000),
            backoff_cap_ms=int(self.settings.backoff_cap_seconds * 1000),
            unknown=Unknown(own.unknown_of(priority.value).value),
        )

    def weight(self, campaigns: Iterable[int]) -> int:
        """Calls for one that a flow of weight 1 gets: that of the heaviest of these campaigns."""
        return max(self.settings.campaign(self.account.name, campaign).weight for campaign in campaigns)

    def allowed(self, campaign: int) -> AllowList | None:
        """The only recipients that are really sent to in test mode; None: it is not in test mode."""
        return self.settings.campaign(self.account.name, campaign).test_recipients

    def drops_when_parked(self, campaign: int) -> bool:
        """Whether deliveries of this campaign end rejected while it is parked, instead of waiting."""
        return self.settings.campaign(self.account.name, campaign).stopped is Stopped.REJECT
