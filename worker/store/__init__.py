"""The only place that knows Redis: key names, scripts, and one method for each transition of a delivery."""

from __future__ import annotations

from dataclasses import replace

from redis.exceptions import OutOfMemoryError, RedisError

from config.settings import Endpoint, Settings
from worker.store.batches import Windows
from worker.store.bounds import Bounds, FullError, read_reached
from worker.store.connection import AWAY, LayoutError, OldLayoutError, RedisClient, connect
from worker.store.control import Control
from worker.store.deliveries import Deliveries
from worker.store.door import Door
from worker.store.firings import Firings
from worker.store.intake import NO_BOUNDS, Intake
from worker.store.outcomes import Outcomes
from worker.store.permits import Permits, Rules
from worker.store.progress import Progress, read_progress
from worker.store.rules import AccountRules, Ruled, RuleText
from worker.store.schema import Schema
from worker.store.scripts import Scripts
from worker.store.status import Snapshot, read_status

#: Of an account of which nothing is configured.
DEFAULT_RULES = Rules()

__all__ = [
    "AWAY",
    "FullError",
    "LayoutError",
    "OldLayoutError",
    "OutOfMemoryError",
    "RedisError",
    "Rules",
    "Store",
    "bounds_of",
    "open_store",
]


class Store:
    """Everything of one account in Redis."""

    def __init__(
        self,
        client: RedisClient,
        account: str,
        *,
        windows: Windows,
        retention_ms: int,
        rules: Rules = DEFAULT_RULES,
        bounds: Bounds = NO_BOUNDS,
    ) -> None:
        self.schema = Schema(client, account)
        scripts = Scripts(client, self.schema)
        self._client = client
        self._rules = rules
        self._bounds = bounds
        self.account = account
        self.intake = Intake(client, scripts, account, bounds)
        self.deliveries = Deliveries(
            client, scripts, account, windows=windows, retention_ms=retention_ms, rules=rules
        )
        self.permits = Permits(client, scripts, account, rules)
        self.ruled = Ruled(client, scripts, account, rules.text)
        self.door = Door(client, scripts, account)
        self.firings = Firings(client, scripts, account, bounds)
        self.outcomes = Outcomes(client, account, retention_ms=retention_ms)
        self.control = Control(client, scripts, account, retention_ms=retention_ms)

    def status(self) -> Snapshot:
        """The account at a glance, in two round trips, and one more where there are rules."""
        full = read_reached(self._client, self.account, self._bounds)
        return replace(read_status(self._client, self.account), full=tuple(full), waits=self.ruled.waits())

    def progress(self) -> Progress:
        """Whether the account's work moves."""
        seen = read_progress(self._client, self.account, self.deliveries, self.permits, self._rules.permits)
        # What waits in the intake while the backlog is full waits on purpose.
        return replace(seen, intake_since_ms=None) if self.intake.backlog_reached() else seen

    def ping(self) -> None:
        """Returns if Redis answers and the account's data is of this version. Raises one of AWAY."""
        self._client.ping()
        self.schema.verify()

    def close(self) -> None:
        """Closes the connections to Redis."""
        self._client.close()


def bounds_of(settings: Settings) -> Bounds:
    """How much an account may take in."""
    return Bounds(
        entries=settings.max_intake,
        bytes=settings.max_intake_bytes,
        backlog=settings.max_backlog,
        memory_share=settings.max_memory_share,
    )


def open_store(settings: Settings, account: str) -> Store:
    """The store of an account; connects at first use. Raises SettingsError when no Redis is given."""
    known = settings.accounts.get(account)
    return Store(
        connect(settings.redis_address()),
        account,
        windows=Windows(settings.dedupe_key_window_seconds, settings.dedupe_window_seconds),
        retention_ms=settings.retention_seconds * 1000,
        rules=Rules(
            permits=known.max_in_flight if known else 1,
            reserve=known.reserve if known else 0,
            aging_ms=settings.aging_seconds * 1000,
            text=RuleText(_rules(settings, account)),
        ),
        bounds=bounds_of(settings),
    )


def _rules(settings: Settings, account: str) -> AccountRules:
    """The rules of an account; of one that is not configured here, those of its campaigns."""
    known = settings.accounts.get(account)
    full = known.single_recipients if known and known.endpoint is Endpoint.SINGLE else 1000
    return AccountRules(
        calls_per_second=known.calls_per_second if known else 0,
        recipients_per_second=known.recipients_per_second if known else 0,
        full_call=full,
        default=settings.default_policy.rules,
        campaigns={
            campaign: policy.rules
            for (name, campaign), policy in settings.policies.items()
            if name == account
        },
    )
