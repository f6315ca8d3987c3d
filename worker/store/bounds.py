"""How much an account may take in before its producers are told to wait.

A bound is looked at where an append is made, in the same step. What has found room goes in whole, so a bound
may be passed by one append. Raw ``XADD`` asks nobody: there the backlog's bound works one step later, since
the intake is not read while it is reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from redis.exceptions import RedisError

from worker.core.errors import VolleyError
from worker.store import keys
from worker.store.connection import RedisClient


class Bound(StrEnum):
    """What may run full."""

    INTAKE = "intake"  #: triggers wait in the intake
    INTAKE_BYTES = "intake_bytes"  #: bytes of Redis's memory, about, are taken by the intake
    BACKLOG = "backlog"  #: deliveries are under way
    MEMORY = "memory"  #: bytes of Redis's memory are in use


#: The setting of each bound, and what it counts.
_WORDS: dict[Bound, tuple[str, str]] = {
    Bound.INTAKE: ("VOLLEY_MAX_INTAKE", "triggers wait in the intake"),
    Bound.INTAKE_BYTES: ("VOLLEY_MAX_INTAKE_BYTES", "bytes are taken by the intake"),
    Bound.BACKLOG: ("VOLLEY_MAX_BACKLOG", "deliveries are under way"),
    Bound.MEMORY: ("VOLLEY_MAX_MEMORY_SHARE", "bytes of Redis's memory are in use"),
}


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of one account; 0 is none."""

    entries: int = 0  #: triggers in the intake
    bytes: int = 0  #: of the server's memory, taken by the intake
    backlog: int = 0  #: live deliveries
    memory_share: float = 0.0  #: of the server's maxmemory, where it has one

    @property
    def arguments(self) -> tuple[int, int, int, float]:
        """As the script takes them."""
        return self.entries, self.bytes, self.backlog, self.memory_share

    def reached(
        self,
        *,
        entries: int,
        entry_bytes: int,
        live: int,
        memory: int,
        max_memory: int,
        from_share: float = 1.0,
    ) -> list[Reached]:
        """The bounds that these figures reach, by the same rules as the script's; or that share of them."""
        share = int(max_memory * self.memory_share) if 0 < self.memory_share < 1 else 0
        looked_at = (
            Reached(Bound.INTAKE, entries, self.entries),
            Reached(Bound.INTAKE_BYTES, entry_bytes, self.bytes),
            Reached(Bound.BACKLOG, live, self.backlog),
            Reached(Bound.MEMORY, memory, share),
        )
        return [each for each in looked_at if 0 < each.most * from_share <= each.value]


@dataclass(frozen=True, slots=True)
class Reached:
    """A bound that is reached: nothing more is appended for now."""

    bound: Bound
    value: int
    most: int

    def __str__(self) -> str:
        setting, counted = _WORDS[self.bound]
        return f"{self.value:,} {counted}, the most is {self.most:,} ({setting})"


class FullError(VolleyError):
    """Nothing was appended, since a bound is reached; the same append may be made later."""

    def __init__(self, reached: Reached) -> None:
        super().__init__(reached)
        self.reached = reached

    def __str__(self) -> str:
        return f"{self.reached}: nothing more is taken in until some of it is done"


def read_reached(client: RedisClient, account: str, bounds: Bounds) -> list[Reached]:
    """The bounds that an account has reached now. What the user may not ask for counts as nothing."""
    pipe = client.pipeline(transaction=False)
    pipe.xlen(keys.intake(account))
    pipe.memory_usage(keys.intake(account), samples=5)
    pipe.get(f"{keys.root(account)}live")
    pipe.info("memory")
    entries, size, live, memory = pipe.execute(raise_on_error=False)
    for answer in (entries, live):
        if isinstance(answer, RedisError):
            raise answer
    known = memory if isinstance(memory, dict) else {}
    return bounds.reached(
        entries=entries,
        entry_bytes=size if isinstance(size, int) and entries else 0,
        live=int(live or 0),
        memory=known.get("used_memory", 0),
        max_memory=known.get("maxmemory", 0),
    )
