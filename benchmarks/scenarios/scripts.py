"""How long a script holds the server at its largest chunk, by the server's own clock (SLOWLOG)."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from statistics import median

from benchmarks import load
from benchmarks.results import Context, Result
from benchmarks.stage import Stage
from worker.store import scripts as store_scripts

#: Milliseconds that no script may hold the server for.
LIMIT_MS = 5


def scripts(context: Context) -> Result:
    """The longest run of each script while the largest chunks go through: 1000 deliveries in, 5000 out."""
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
            for name, times in _times(stage).items():
                if max(times) > 0.5:
                    result.add(f"{name}, {title}: longest", max(times), "ms", LIMIT_MS, at_least=False)
                    result.add(f"{name}, {title}: median", median(times), "ms")
            stage.redis.slowlog_reset()
    return result


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
