"""How long a script holds the server at its largest chunk, by the server's own clock (SLOWLOG)."""

from __future__ import annotations

import hashlib
import time
from importlib.resources import files
from statistics import median

from benchmarks import load
from benchmarks.results import Context, Result
from benchmarks.stage import Stage
from config.settings import load as load_settings
from worker.core.model import RETRYABLE, Status
from worker.engine.cancelling import end_waiting
from worker.store import open_store
from worker.store import scripts as store_scripts
from worker.store.control import Named
from worker.store.outcomes import Filter

#: Milliseconds that no script may hold the server for.
LIMIT_MS = 5


def scripts(context: Context) -> Result:
    """The longest run of each script while the largest chunks go through: a chunk in, 5000 deliveries out."""
    result = Result("scripts")
    rounds = context.scaled(20, 2)
    with Stage() as stage:
        stage.volley()
        load.warm(stage)
        stage.redis.config_set("slowlog-log-slower-than", 0)
        stage.redis.config_set("slowlog-max-len", 200_000)
        stage.redis.slowlog_reset()
        five = tuple(range(load.CAMPAIGN, load.CAMPAIGN + 5))
        for title, triggers, deliveries in (
            ("singles of shared content", list(load.singles(1000 * rounds)), 1000 * rounds),
            (
                "singles, every content its own",
                [load.trigger([load.person(i)], mark=f"own {i}") for i in range(1000 * rounds)],
                1000 * rounds,
            ),
            (
                "1000 recipients, five campaigns",
                list(load.crowds(1000 * rounds, campaigns=five, mark="five")),
                5000 * rounds,
            ),
        ):
            context.say(title)
            load.let_wait(stage, triggers, deliveries, pipelined=100)
            load.go(stage)
            stage.until(lambda: not stage.store.status().live)
            _add(result, stage, title)
        context.say("operators and the sweep")
        _operate(stage, 1000 * rounds)
        _add(result, stage, "operators and the sweep")
    return result


def _add(result: Result, stage: Stage, title: str) -> None:
    for name, times in _times(stage).items():
        if max(times) > 0.5:
            result.add(f"{name}, {title}: longest", max(times), "ms", LIMIT_MS, at_least=False)
            result.add(f"{name}, {title}: median", median(times), "ms")
    stage.redis.slowlog_reset()


def _operate(stage: Stage, count: int) -> None:
    """What waits is cancelled, sent again and cancelled, its keys lapse, and all of it is forgotten."""
    store, everything = stage.store, [Named.all()]
    load.let_wait(stage, load.singles(count, mark="operated", dedupe_window=1), count)
    for _ in range(2):
        for cancel in store.control.begin_cancel(everything):
            for _ in end_waiting(store, cancel):
                pass
        ended = list(store.outcomes.select(Filter(statuses=frozenset({Status.CANCELLED}))))
        for first in range(0, len(ended), 100):
            items = [(store.deliveries.ending_of(each), 1) for each in ended[first : first + 100]]
            store.deliveries.requeue(RETRYABLE, items)
    for cancel in store.control.begin_cancel(everything):
        for _ in end_waiting(store, cancel):
            pass
    time.sleep(1.5)
    root = "volley:{default}:"
    for slot in stage.redis.zrange(f"{root}lapse", 0, -1):
        stage.redis.zadd(f"{root}lapse", {slot: 0})
    while store.deliveries.lapse()[1]:
        pass
    forgetful = open_store(load_settings({**stage.environ, "VOLLEY_RETENTION": "1"}), "default")
    while forgetful.deliveries.retire()[1]:
        pass
    forgetful.close()


def _times(stage: Stage) -> dict[str, list[float]]:
    """Milliseconds of each run of each script, by its name."""
    folder = files("worker.store").joinpath("lua")
    names = [file.name.removesuffix(".lua") for file in folder.iterdir() if not file.name.startswith("_")]
    digests = {_digest(store_scripts.source(name)): name for name in names}
    times: dict[str, list[float]] = {}
    for entry in stage.redis.slowlog_get(200_000):
        words = entry["command"].split(b" ")
        if words[0].lower() == b"evalsha" and words[1] in digests:
            times.setdefault(digests[words[1]], []).append(entry["duration"] / 1000)
    return times


def _digest(source: str) -> bytes:
    """By which the server knows a script."""
    return hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest().encode()
