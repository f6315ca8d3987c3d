"""Leases shared by all workers of all machines: permits to have a request in flight, and accept tasks'
places.

A lease is a member of a sorted set with the end of its time by the server's clock. It is taken by a token
that
nobody else has, and ends by itself when its holder died.
"""

from __future__ import annotations

from worker.store import keys
from worker.store.connection import RedisClient
from worker.store.scripts import Scripts


class Permits:
    """The leases of one account. Errors: redis.exceptions.RedisError."""

    def __init__(self, client: RedisClient, scripts: Scripts, account: str, most: int) -> None:
        self._client = client
        self._scripts = scripts
        self._most = most
        self._root = keys.root(account)

    def acquire(self, token: str, most: int, lease_ms: int) -> bool:
        """Takes (or renews) a permit for ``token`` unless all are held: the account's, or fewer when
        throttled.
        """
        return bool(
            self._scripts.run("acquire", [self._root, f"{self._root}permits"], token, most, lease_ms, "1")
        )

    def release_if_idle(self, token: str) -> bool:
        """Gives the permit back when nothing is due, in one step with looking; False: there is work, it is
        kept.
        """
        return not self._scripts.run("release", [self._root], token, "", self._most)

    def release(self, token: str) -> bool:
        """Gives the permit back in any case; whether work is due."""
        return bool(self._scripts.run("release", [self._root], token, "1", self._most))

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
