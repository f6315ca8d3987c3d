"""Leases shared by all workers of all machines: permits for requests in flight, and places at an intake.

A lease is a member of a sorted set with the end of its time by the server's clock. It is taken by a token
that nobody else has, and ends by itself when its holder died.
"""

from __future__ import annotations

from dataclasses import dataclass

from worker.store import keys
from worker.store.connection import RedisClient
from worker.store.scripts import Scripts


@dataclass(frozen=True, slots=True)
class Rules:
    """How an account's permits are shared out among what waits."""

    permits: int = 3  #: requests in flight that the account has
    reserve: int = 0  #: permits that bulk leaves to the others
    aging_ms: int = 30_000  #: a priority that waits so long without a call gets one before more urgent ones

    @property
    def arguments(self) -> tuple[int, int, int]:
        """As the scripts take them."""
        return self.permits, self.reserve, self.aging_ms


class Permits:
    """The leases of one account. Errors: redis.exceptions.RedisError."""

    def __init__(self, client: RedisClient, scripts: Scripts, account: str, rules: Rules) -> None:
        self._client = client
        self._scripts = scripts
        self._rules = rules
        self._root = keys.root(account)

    def acquire(self, token: str, most: int, lease_ms: int) -> bool:
        """Takes (or renews) a permit for ``token`` unless all are held:
        the account's, or fewer when throttled.
        """
        return bool(
            self._scripts.run("acquire", [self._root, f"{self._root}permits"], token, most, lease_ms, "1")
        )

    def release_if_idle(self, token: str) -> bool:
        """Gives the permit back when nothing is due, in one step with
        looking; False: there is work, it is kept.
        """
        return not self._scripts.run("release", [self._root], token, "", *self._rules.arguments)

    def release(self, token: str) -> bool:
        """Gives the permit back in any case; whether work is due."""
        return bool(self._scripts.run("release", [self._root], token, "1", *self._rules.arguments))

    def free(self, most: int) -> int:
        """How many permits could be taken now."""
        return max(0, most - int(self._scripts.run("held", [self._root, f"{self._root}permits"])))

    def seated(self) -> int:
        """How many accept tasks wait at the intake."""
        return int(self._scripts.run("held", [self._root, f"{self._root}acceptors"]))

    def sit(self, token: str, most: int, lease_ms: int) -> bool:
        """Takes (or renews) a place among the waiting accept tasks."""
        return bool(
            self._scripts.run("acquire", [self._root, f"{self._root}acceptors"], token, most, lease_ms, "")
        )

    def stand_up(self, token: str) -> None:
        """Gives the place among the accept tasks back."""
        self._client.zrem(f"{self._root}acceptors", token)
