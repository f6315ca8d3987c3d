"""What goes wrong, and when: a pure function of the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

#: Seconds of the lease and of a request's deadline in a run: short, so that leases end often.
DEADLINE_SECONDS, LEASE_SECONDS = 2.0, 7.0
#: Seconds between two faults.
GAP_SECONDS = (0.5, 2.2)
#: Nothing happens in the first seconds: the processes start.
CALM_SECONDS = 2.0


class Kind(StrEnum):
    """What a fault does."""

    KILL_WORKER = "kill worker"  #: SIGKILL to a worker and its children
    KILL_PARENT = "kill parent"  #: SIGKILL to a worker alone: its children are left behind
    KILL_CHILD = "kill child"  #: SIGKILL to a child of a prefork pool
    KILL_BEAT = "kill beat"  #: SIGKILL to beat
    STOP_WORKER = "stop worker"  #: SIGTERM, as in a rolling restart
    FREEZE = "freeze"  #: SIGSTOP until the leases have ended, then SIGCONT
    CLOCK = "clock"  #: a worker's wall clock jumps
    SERVER = "server"  #: SIGKILL to the server; it comes back with its append-only file
    FULL = "full"  #: the server's memory is filled up to maxmemory, and freed
    EVERYSEC = "everysec"  #: from here on `appendfsync everysec`, and what was not synced is lost in a crash
    ERRORS = "api 503"  #: the API answers some calls with 503
    CUT_CALLS = "api cut"  #: the API cuts some connections instead of answering, having accepted or not
    API_LATENCY = "api latency"  #: between worker and API: every piece of data comes late
    API_RESET = "api reset"  #: all connections are reset
    API_HALF_OPEN = "api half-open"  #: connections stay open and lead nowhere; then they are reset
    API_BLACK_HOLE = "api black hole"  #: nothing comes through, and then all of it
    API_TRICKLE = "api trickle"  #: a few bytes at a time
    REDIS_LATENCY = "redis latency"  #: the same between workers, beat and Redis
    REDIS_RESET = "redis reset"  #: ...
    REDIS_HALF_OPEN = "redis half-open"  #: ...
    REDIS_BLACK_HOLE = "redis black hole"  #: ...
    REDIS_TRICKLE = "redis trickle"  #: ...


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong."""

    at_seconds: float
    kind: Kind
    #: How long it lasts; 0 for what happens at once.
    seconds: float
    #: Which of the processes that there are then, or how much: in [0, 1).
    dice: float


#: How often each kind comes, and how long it lasts.
_KINDS: dict[Kind, tuple[int, tuple[float, float]]] = {
    Kind.KILL_WORKER: (32, (0, 0)),
    Kind.KILL_PARENT: (5, (0, 0)),
    Kind.KILL_CHILD: (22, (0, 0)),
    Kind.KILL_BEAT: (7, (0, 0)),
    Kind.STOP_WORKER: (8, (0, 0)),
    Kind.FREEZE: (5, (LEASE_SECONDS + 1, LEASE_SECONDS + 5)),
    Kind.CLOCK: (4, (0, 0)),
    Kind.SERVER: (4, (0.1, 2)),
    Kind.FULL: (3, (1, 4)),
    Kind.ERRORS: (3, (0, 0)),
    Kind.CUT_CALLS: (3, (0, 0)),
    Kind.API_LATENCY: (3, (1, 4)),
    Kind.API_RESET: (3, (0, 0)),
    Kind.API_HALF_OPEN: (2, (0.5, 4)),
    Kind.API_BLACK_HOLE: (2, (0.5, 4)),
    Kind.API_TRICKLE: (2, (1, 4)),
    Kind.REDIS_LATENCY: (3, (1, 4)),
    Kind.REDIS_RESET: (4, (0, 0)),
    Kind.REDIS_HALF_OPEN: (2, (0.5, 6)),
    Kind.REDIS_BLACK_HOLE: (2, (0.5, LEASE_SECONDS + 3)),
    Kind.REDIS_TRICKLE: (2, (1, 4)),
}
#: Kinds that need the same thing for themselves while they last.
_ALONE: dict[Kind, str] = {
    **{kind: "api" for kind in Kind if kind.value.startswith("api ") and kind is not Kind.ERRORS},
    **{kind: "redis" for kind in Kind if kind.value.startswith("redis ")},
    Kind.SERVER: "redis",
    Kind.FULL: "redis",
    Kind.FREEZE: "freeze",
}


def make_plan(seed: int, seconds: float) -> list[Fault]:
    """The faults of a run, in order. In its second half the server syncs its file every second only."""
    dice = random.Random(seed)
    plan: list[Fault] = []
    busy_until: dict[str, float] = {}
    kinds, weights = list(_KINDS), [weight for weight, _ in _KINDS.values()]
    at, everysec = CALM_SECONDS, False
    while at < seconds:
        if not everysec and at >= seconds / 2:
            everysec = True
            plan.append(Fault(at, Kind.EVERYSEC, 0, 0))
        (kind,) = dice.choices(kinds, weights)
        lasts, share, gap = dice.uniform(*_KINDS[kind][1]), dice.random(), dice.uniform(*GAP_SECONDS)
        alone = _ALONE.get(kind, "")
        if at < busy_until.get(alone, 0):
            continue
        if alone:
            busy_until[alone] = at + lasts + 0.2
        plan.append(Fault(round(at, 3), kind, round(lasts, 3), share))
        at += gap
    return plan
