"""Accepting alone, beside the raw floors of the same server: appending, reading, reading with a script."""

from __future__ import annotations

import time

from benchmarks import load
from benchmarks.results import Context, Result
from benchmarks.runners import GO
from benchmarks.stage import Stage

#: What runs in the measured processes, and how it is shown.
_KINDS = {
    "read": "floor: XREADGROUP, XACK, XDEL",
    "script": "floor: XREADGROUP and a minimal script",
    "parse": "the same with the JSON read",
    "volley": "Volley",
}


def accept(context: Context) -> Result:
    """Triggers per second into waiting deliveries, with one process and with two."""
    result = Result("accept")
    count = context.scaled(200_000, 10_000)
    with Stage() as stage:
        began = time.monotonic()
        load.append(stage, load.singles(count))
        result.add("floor: XADD pipelined, with encoding", count / (time.monotonic() - began), "triggers/s")
    rates = {}
    for kind, title in _KINDS.items():
        for processes in (1, 2):
            context.say(f"{title}, {processes} process(es)")
            shares = result.shares.setdefault(f"{title}, {processes}", {})
            rates[kind, processes] = _rate(kind, processes, count, shares)
            result.add(f"{title}, {processes} process(es)", rates[kind, processes], "triggers/s")
    result.add("Volley against the floor", rates["volley", 1] / rates["script", 1] * 100, "%", 60)
    result.add("Volley, two processes against one", rates["volley", 2] / rates["volley", 1], "x", 1.8)
    result.add("the floor, two processes against one", rates["script", 2] / rates["script", 1], "x")
    return result


def _rate(kind: str, processes: int, count: int, shares: dict[str, float]) -> float:
    with Stage(settings={"VOLLEY_ACCEPT_TASKS": str(processes)}) as stage:
        for _ in range(processes):
            stage.python("accepting", "-m", "benchmarks.runners", kind, environ=stage.environ)
        stage.until(lambda: stage.redis.get(f"{GO}:ready") == str(processes).encode())
        load.append(stage, load.singles(count))
        with stage.shares(shares):
            began = time.monotonic()
            stage.redis.rpush(GO, *("go" for _ in range(processes)))
            stage.until(lambda: not stage.redis.xlen(load.STREAM), pause=0.005)
            return count / (time.monotonic() - began)
