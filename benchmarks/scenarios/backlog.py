"""Whether what waits slows down what moves: a backlog of five million against one of fifty thousand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from statistics import median

from benchmarks import load
from benchmarks.results import Context, Result
from benchmarks.stage import Stage
from worker.core.model import Kind, Status
from worker.store.outcomes import Filter

#: The smaller one is not scaled: a drain of less would be over before it could be measured.
SMALL, LARGE = 50_000, 5_000_000
#: Drains of each.
DRAINS = 7


def backlog(context: Context) -> Result:
    """Drain rate with 50,000 deliveries waiting and with 5,000,000; the time of looking at the larger one."""
    result = Result("backlog")
    large = context.scaled(LARGE, 500_000)
    rates = {}
    for size in (SMALL, large):
        with Stage() as stage:
            stage.volley()
            load.warm(stage)
            context.say(f"{size} deliveries are accepted")
            began = time.monotonic()
            load.let_wait(stage, load.crowds(size), size, pipelined=10)
            result.add(f"{size} accepted into waiting", size / (time.monotonic() - began), "deliveries/s")
            if size == large:
                _look(stage, result, size)
            context.say("drained")
            rates[size] = median(_drains(stage, size, result.shares.setdefault(f"{size} waiting", {})))
            result.add(f"drain rate, {size} waiting", rates[size], "deliveries/s")
    result.add("drain rate, large against small", rates[large] / rates[SMALL] * 100, "%", 90)
    result.notes.append(
        f"drain rate: the median of {DRAINS} drains of {SMALL} deliveries each, what was drained being "
        "enqueued anew before the next, while the server rewrites no append-only file"
    )
    return result


def _drains(stage: Stage, size: int, shares: dict[str, float]) -> Iterator[float]:
    """Deliveries per second of some drains, each of ``SMALL`` out of ``size`` that wait."""
    for drain in range(DRAINS):
        if drain:
            waits = stage.count(Status.PENDING)
            load.let_wait(stage, load.crowds(size - waits, first=size * drain), size - waits, pipelined=10)
        stage.until(lambda: not stage.redis.info("persistence")["aof_rewrite_in_progress"])
        time.sleep(1.5)  # what was appended is on the disk: it is once a second
        stage.api.forget()
        wanted = stage.count(Status.ACCEPTED) + SMALL
        load.go(stage)
        with stage.shares(shares):
            stage.until(lambda w=wanted: stage.count(Status.ACCEPTED) >= w, pause=0.005)  # type: ignore[misc]
        stage.store.control.pause("*")
        stage.until(lambda: not stage.count(Status.IN_FLIGHT))
        calls = sorted(stage.api.calls(), key=lambda call: call.first_byte)[: SMALL // 1000]
        # From the first call's first byte to the last one's.
        yield (SMALL - 1000) / (calls[-1].first_byte - calls[0].first_byte)


def _look(stage: Stage, result: Result, size: int) -> None:
    """Times of status and of outcome queries, the slowest of five each."""
    outcomes = stage.store.outcomes
    someone = load.person(size // 2)
    found = next(iter(outcomes.by_recipient(someone, Kind.EMAIL)))
    looks: dict[str, Callable[[], object]] = {
        "status": stage.store.status,
        "outcomes of a recipient": lambda: list(outcomes.by_recipient(someone, Kind.EMAIL)),
        "outcomes of a trigger": lambda: list(outcomes.by_trigger(found.trigger)),
        "the newest 100 outcomes": lambda: list(islice(outcomes.select(Filter()), 100)),
        "outcomes of a status that none has": lambda: list(
            outcomes.select(Filter(statuses=frozenset({Status.FAILED})))
        ),
    }
    for name, look in looks.items():
        slowest = 0.0
        for _ in range(5):
            began = time.monotonic()
            look()
            slowest = max(slowest, time.monotonic() - began)
        result.add(f"{name}, {size} kept", slowest * 1000, "ms", 1000, at_least=False)
