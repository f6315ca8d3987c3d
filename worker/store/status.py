"""One account at a glance, read in one round trip."""

from __future__ import annotations

from dataclasses import dataclass, field

from worker.core.model import LIVE, Priority, Status
from worker.store import keys
from worker.store.bounds import Reached
from worker.store.connection import RedisClient
from worker.store.control import Cancel, Named, read_cancels, read_held
from worker.store.door import ParkedThing, read_parked
from worker.store.outcomes import read_counts
from worker.store.rules import Wait


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How an account stands. Counts are of deliveries unless said otherwise; times are epoch ms."""

    counts: dict[tuple[int, Status], int]  #: by (campaign, status): what is kept in Redis
    intake: int  #: triggers that wait to be accepted
    dead_letters: int  #: triggers that could not be understood
    permits_held: int  #: requests in flight, or about to be
    accept_tasks: int  #: accept tasks that wait at the intake; 0 for long means that no worker runs
    next_due_ms: int | None  #: when the next retrying or scheduled delivery is due
    paused: frozenset[str]  #: campaigns that are held back, or ``*``
    parked: tuple[ParkedThing, ...]  #: what the API's refusals keep shut
    permits_usable: int | None  #: fewer than the account has while others use its slots; None: all
    held_until_ms: int | None  #: no call before then (throttled)
    splitting: int  #: parts of refused batches that wait
    calls: dict[int, int]  #: calls that each campaign had a part in
    swept_ms: int | None  #: when a sweep last ran; old or None means that beat does not run
    now_ms: int
    held: dict[Named, int] = field(default_factory=dict)  #: triggers that are held back, and since when
    cancels: tuple[Cancel, ...] = ()  #: cancels that are not complete yet
    #: Campaigns in test mode, and how many recipients each names; 0: all others.
    testing: dict[int, int] = field(default_factory=dict)
    full: tuple[Reached, ...] = ()  #: bounds that are reached: appends are refused
    waits: tuple[Wait, ...] = ()  #: campaigns whose due work waits for a rule

    def total(self, status: Status) -> int:
        """Deliveries of this status over all campaigns."""
        return sum(count for (_, each), count in self.counts.items() if each is status)

    def share(self, campaign: int) -> float:
        """Its part of all calls, 0 to 1. A call for several campaigns is counted for each of them."""
        return self.calls.get(campaign, 0) / max(1, sum(self.calls.values()))

    @property
    def live(self) -> int:
        """Deliveries that still move by themselves."""
        return sum(self.total(status) for status in LIVE)


def read_status(client: RedisClient, account: str) -> Snapshot:
    """The account as it stands now."""
    root = keys.root(account)
    pipe = client.pipeline(transaction=False)
    pipe.time()
    pipe.hgetall(f"{root}counts")
    pipe.xlen(keys.intake(account))
    pipe.xlen(f"{root}dead")
    pipe.zrange(f"{root}permits", 0, -1, withscores=True)
    pipe.zrange(f"{root}acceptors", 0, -1, withscores=True)
    pipe.zrange(f"{root}due", 0, 0, withscores=True)
    pipe.smembers(f"{root}paused")
    pipe.get(f"{root}swept")
    pipe.hgetall(f"{root}parked")
    pipe.hmget(f"{root}door", "limit", "hold")
    pipe.hgetall(f"{root}calls")
    pipe.hgetall(f"{root}held")
    pipe.hgetall(f"{root}cancels")
    for priority in Priority:
        pipe.llen(f"{root}split:{priority.value[0]}")
    (seconds, micros), counts, intake, dead, permits, acceptors, due, paused, swept, *door = pipe.execute()
    parked, (limit, hold), calls, held, cancels, *parts = door
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    return Snapshot(
        counts=read_counts(counts),
        intake=intake,
        dead_letters=dead,
        permits_held=sum(score > now_ms for _, score in permits),
        accept_tasks=sum(score > now_ms for _, score in acceptors),
        next_due_ms=int(due[0][1]) if due else None,
        paused=frozenset(name.decode() for name in paused),
        parked=tuple(read_parked(parked)),
        permits_usable=int(limit) if limit else None,
        held_until_ms=int(float(hold)) if hold and float(hold) > now_ms else None,
        splitting=sum(parts),
        calls={int(campaign): int(count) for campaign, count in calls.items()},
        swept_ms=int(swept) if swept else None,
        now_ms=now_ms,
        held=read_held(held),
        cancels=tuple(read_cancels(cancels)),
    )
