"""How soon a trigger is on the wire: in an idle system, and behind a million bulk deliveries."""

from __future__ import annotations

import random
import time
from typing import Any

from benchmarks import load
from benchmarks.results import Context, Result, percentile
from benchmarks.stage import Stage


def idle(context: Context) -> Result:
    """From XADD to the first byte of the POST, one trigger at a time, nothing else to do."""
    result = Result("idle")
    count = context.scaled(400, 100)
    chance = random.Random(7)  # noqa: S311  # pauses
    with Stage() as stage:
        stage.volley()
        load.warm(stage)
        time.sleep(2)  # the system comes to rest
        stage.api.forget()
        took = []
        with stage.shares(result.shares.setdefault("Volley", {})):
            for i in range(count):
                took.append(_to_the_wire(stage, i, {}))
                time.sleep(chance.uniform(0.02, 0.06))
    result.add("XADD to first byte, p50", percentile(took, 0.5) * 1000, "ms", 10, at_least=False)
    result.add("XADD to first byte, p99", percentile(took, 0.99) * 1000, "ms", 30, at_least=False)
    result.add("XADD to first byte, longest", max(took) * 1000, "ms")
    return result


def _to_the_wire(stage: Stage, number: int, keys: dict[str, Any]) -> float:
    """Appends one trigger; seconds until the first byte of its POST."""
    before = len(stage.api.calls())
    began = time.monotonic()
    load.append(stage, [load.trigger([load.person(number)], mark=f"alone {number}", **keys)])
    stage.until(lambda: len(stage.api.calls()) > before, pause=0.005, seconds=30)
    return stage.api.calls()[-1].first_byte - began


def urgent(context: Context) -> Result:
    """From XADD to the first byte of an urgent trigger's POST, while a million bulk deliveries are sent."""
    result = Result("urgent")
    bulk = context.scaled(1_000_000, 20_000)
    count = max(20, min(150, int(bulk / 15_000 / 0.3)))
    chance = random.Random(11)  # noqa: S311  # pauses
    with Stage() as stage:
        stage.volley()
        load.warm(stage)
        context.say(f"{bulk} bulk deliveries are accepted")
        crowds = (
            load.trigger(
                [load.person(i) for i in range(first, first + 1000)],
                mark=f"bulk {first % 20_000}",
                priority="bulk",
            )
            for first in range(0, bulk, 1000)
        )
        load.let_wait(stage, crowds, bulk, pipelined=10)
        stage.api.latency(200)
        load.go(stage)
        stage.until(lambda: len(stage.api.calls()) > 6)
        context.say(f"{count} urgent ones between them")
        began = {}
        with stage.shares(result.shares.setdefault("Volley", {})):
            for i in range(count):
                mark = f"urgent {i}"
                began[mark] = time.monotonic()
                load.append(stage, [load.trigger([load.person(bulk + i)], mark=mark, priority="urgent")])
                time.sleep(chance.uniform(0.1, 0.4))
            stage.until(lambda: sum(c.mark in began for c in stage.api.calls()) >= count, pause=0.2)
        calls = stage.api.calls()
        took = [c.first_byte - began[c.mark] for c in calls if c.mark in began]
        others = sum(c.mark not in began for c in calls)
    result.add("urgent behind bulk, p50", percentile(took, 0.5) * 1000, "ms")
    result.add("urgent behind bulk, p99", percentile(took, 0.99) * 1000, "ms", 250, at_least=False)
    result.add("urgent behind bulk, longest", max(took) * 1000, "ms")
    result.notes.append(f"{count} urgent triggers beside {others} bulk calls")
    return result
