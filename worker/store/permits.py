"""Leases shared by all workers of all machines: permits for requests in flight, and places at an intake.

A lease is a member of a sorted set with the end of its time by the server's clock. It is taken by a token
that nobody else has, and ends by itself when its holder died.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from worker.store import keys
from worker.store.connection import RedisClient
from worker.store.scripts import Scripts

#: Somebody stays and looks again when work waits for time alone and for so long at most, ms; beat sees the
#: rest.
STAY_MS = 1_000
#: The longest pause between two of those looks, ms.
NAP_MS = 100


def no_rules() -> str:
    """The text of an account without rules."""
    return ""


class Rest(NamedTuple):
    """What to do for someone who finds nothing to send."""

    kept: bool  #: there is work after all, and the permit is kept
    nap_ms: int  #: when not kept: look again after so long; 0: there is no need to


@dataclass(frozen=True, slots=True)
class Rules:
    """How an account's permits are shared out among what waits."""

    permits: int = 3  #: requests in flight that the account has
    reserve: int = 0  #: permits that bulk leaves to the others
    aging_ms: int = 30_000  #: a priority that waits so long without a call gets one before more urgent ones

    text: Callable[[], str] = no_rules  #: the rules of time and pace, see store/rules.py

    @property
    def arguments(self) -> tuple[int, int, int, str]:
        """As the scripts take them."""
        return self.permits, self.reserve, self.aging_ms, self.text()


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

    def rest(self, token: str) -> Rest:
        """Gives the permit back when nothing may be sent now, in one step with looking; what to do then.

        Work may wait for time alone: for a pace, for company, for the end of quiet hours. One of those who
        find nothing is asked to nap and look again.
        """
        return self._released(token, "")

    def _released(self, token: str, always: str) -> Rest:
        work, nap_ms = self._scripts.run(
            "release", [self._root], token, always, *self._rules.arguments, STAY_MS, NAP_MS
        )
        return Rest(bool(work), int(nap_ms))

    def release(self, token: str) -> bool:
        """Gives the permit back in any case; whether work is due, or will be within ``STAY_MS``."""
        rest = self._released(token, "1")
        return rest.kept or rest.nap_ms > 0

    def free(self, most: int) -> int:
        """How many permits could be taken now: of ``most``, or of fewer while the account is throttled."""
        return int(self._scripts.run("held", [self._root, f"{self._root}permits"], most))

    def seated(self) -> int:
        """How many accept tasks wait at the intake."""
        return int(self._scripts.run("held", [self._root, f"{self._root}acceptors"], ""))

    def sit(self, token: str, most: int, lease_ms: int) -> bool:
        """Takes (or renews) a place among the waiting accept tasks."""
        return bool(
            self._scripts.run("acquire", [self._root, f"{self._root}acceptors"], token, most, lease_ms, "")
        )

    def stand_up(self, token: str) -> None:
        """Gives the place among the accept tasks back."""
        self._client.zrem(f"{self._root}acceptors", token)
