"""Whether what waits slows down what moves: a backlog of five million against one of fifty thousand."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice

from benchmarks import load
from benchmarks.results import Context, Result
from benchmarks.stage import Stage
from worker.core.model import Kind, Status
from worker.store.outcomes import Filter

SMALL, LARGE = 50_000, 5_000_000


def backlog(context: Context) -> Result:
    """Drain rate of the first deliveries of each, and the time of looking at the larger one."""
    result = Result("backlog")
    small, large = context.scaled(SMALL, 10_000), context.scaled(LARGE, 100_000)
    rates = {}
    for size in (small, large):
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
            rates[size] = _drain(stage, small, result.shares.setdefault(f"{size} waiting", {}))
            result.add(f"drain rate, {size} waiting", rates[size], "deliveries/s")
    result.add("drain rate, large against small", rates[large] / rates[small] * 100, "%", 90)
    return result


def _drain(stage: Stage, count: int, shares: dict[str, float]) -> float:
    """Deliveries per second of the first ``count``, from the first call's first byte to the last one's."""
    wanted = stage.count(Status.ACCEPTED) + count
    load.go(stage)
    with stage.shares(shares):
        stage.until(lambda: stage.count(Status.ACCEPTED) >= wanted)
    calls = sorted(stage.api.calls(), key=lambda call: call.first_byte)[: count // 1000]
    return (count - 1000) / (calls[-1].first_byte - calls[0].first_byte)


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
