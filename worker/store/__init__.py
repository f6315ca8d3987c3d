"""The only place that knows Redis: key names, scripts, and one method for each transition of a delivery."""

from __future__ import annotations

from config.settings import Settings
from worker.store.batches import Windows
from worker.store.connection import AWAY, RedisClient, connect
from worker.store.control import Control
from worker.store.deliveries import Deliveries
from worker.store.door import Door
from worker.store.intake import Intake
from worker.store.outcomes import Outcomes
from worker.store.permits import Permits, Rules
from worker.store.scripts import Scripts
from worker.store.status import Snapshot, read_status

#: Of an account of which nothing is configured.
DEFAULT_RULES = Rules()

__all__ = ["AWAY", "Rules", "Store", "open_store"]


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
    ) -> None:
        scripts = Scripts(client)
        self._client = client
        self.account = account
        self.intake = Intake(client, scripts, account)
        self.deliveries = Deliveries(
            client, scripts, account, windows=windows, retention_ms=retention_ms, rules=rules
        )
        self.permits = Permits(client, scripts, account, rules)
        self.door = Door(client, scripts, account)
        self.outcomes = Outcomes(client, account)
        self.control = Control(client, account)

    def status(self) -> Snapshot:
        """The account at a glance, in one round trip."""
        return read_status(self._client, self.account)

    def close(self) -> None:
        """Closes the connections to Redis."""
        self._client.close()


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
        ),
    )
