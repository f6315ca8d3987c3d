"""What an operator tells an account: which campaigns are held back."""

from __future__ import annotations

from worker.store import keys
from worker.store.connection import RedisClient

#: Stands for every campaign of the account, those that come later included.
ALL = "*"


class Control:
    """The switches of one account. Errors: redis.exceptions.RedisError."""

    def __init__(self, client: RedisClient, account: str) -> None:
        self._client = client
        self._paused = f"{keys.root(account)}paused"

    def pause(self, name: str) -> bool:
        """Holds a campaign back (its number, or ``ALL``) from the next call on; False: it was paused already.

        Calls that are on the wire end as they end. What is held back keeps its place, and may expire.
        """
        return bool(self._client.sadd(self._paused, name))

    def resume(self, name: str) -> bool:
        """Lets a campaign (its number, or ``ALL``) go on; False: it was not paused.

        ``ALL`` takes back only a pause of all: campaigns that were paused by number stay so. What waits needs
        a hint after this, or it waits for the next sweep.
        """
        return bool(self._client.srem(self._paused, name))

    def paused(self) -> frozenset[str]:
        """The campaigns that are held back, perhaps with ``ALL`` among them."""
        return frozenset(name.decode() for name in self._client.smembers(self._paused))
