"""How well the three slots are used: permits busy while work is due, and calls against the least possible."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from benchmarks import load
from benchmarks.results import Context, Result
from benchmarks.stage import Seen, Stage, StuckError
from worker.core.model import Status

PERMITS = 3
#: Recipients that one call may name.
CALL = 1000
PUSH, MAIL = 1709550110, 1709550111


def permits(context: Context) -> Result:
    """Permits in use while work is due, one worker, calls of 200 ms and of 1 s, full and of one recipient."""
    result = Result("permits")
    for latency, seconds, target in ((200, 20, 98.0), (1000, 30, 99.5)):
        calls = max(15, int(context.scale * seconds * PERMITS * 1000 / latency))
        for title, size in (("1000 recipients", CALL), ("1 recipient", 1)):
            context.say(f"calls of {latency} ms, {title}")
            with Stage() as stage:
                stage.volley()
                load.warm(stage)
                stage.api.latency(latency)
                if size == 1:
                    many = (load.trigger([load.person(i)], mark=f"order {i}") for i in range(calls))
                    load.let_wait(stage, many, calls)
                else:
                    load.let_wait(stage, load.crowds(calls * size), calls * size, pipelined=10)
                before = stage.count(Status.ACCEPTED)
                load.go(stage)
                with stage.shares(result.shares.setdefault(f"{latency} ms, {title}", {})):
                    stage.until(lambda b=before, n=calls * size: stage.count(Status.ACCEPTED) >= b + n)  # type: ignore[misc]
                busy = _busy(stage.api.calls())
            result.add(f"permits busy, calls of {latency} ms, {title}", busy * 100, "%", target)
    return result


def _busy(calls: Sequence[Seen]) -> float:
    """Share of the permits that carried a call, from the first call until no more work waited.

    Work waits until the last call has begun; a call is on the wire from its first byte to its answer.
    """
    began, ended = min(c.first_byte for c in calls), max(c.first_byte for c in calls)
    busy = sum(min(c.answered, ended) - c.first_byte for c in calls)
    return busy / (PERMITS * (ended - began))


def calls(context: Context) -> Result:
    """Calls made for what was due, against the least possible."""
    result = Result("calls")
    count = context.scaled(20_500, 500) + 1
    context.say("one campaign")
    with Stage() as stage:
        stage.volley()
        load.warm(stage)
        load.let_wait(stage, load.singles(count), count)
        made = _sent(stage, count)
    least = math.ceil(count / CALL)
    result.add("calls beyond the least, one campaign", made - least, f"of {least}", 0, at_least=False)
    context.say("several campaigns")
    chance = random.Random(5)  # noqa: S311  # the same mixture in every run
    contents = 6
    mixtures = [tuple(chance.randrange(100, 2600) for _ in range(3)) for _ in range(contents)]
    deliveries = sum(2 * both + push + mail for both, push, mail in mixtures)
    with Stage() as stage:
        stage.volley()
        load.warm(stage)
        load.let_wait(stage, _mixed(mixtures, chance), deliveries)
        made = _sent(stage, deliveries)
    least = sum(_least(*mixture) for mixture in mixtures)
    beyond = (made - least) / contents
    result.add("calls beyond the least per content, two campaigns", beyond, f"of {least}", 1, at_least=False)
    result.notes.append(
        "two campaigns, 6 contents: people who want both, only the first, only the second, mixed"
    )
    return result


def _mixed(mixtures: Sequence[tuple[int, ...]], chance: random.Random) -> list[object]:
    """Single triggers of several contents, in any order: for both campaigns, or for one of them."""
    triggers: list[object] = []
    for content, counts in enumerate(mixtures):
        first = 0
        for wanted, count in zip(((PUSH, MAIL), (PUSH,), (MAIL,)), counts, strict=True):
            triggers += (
                load.trigger([load.person(i)], mark=f"content {content}", campaigns=wanted)
                for i in range(first, first + count)
            )
            first += count
    chance.shuffle(triggers)
    return triggers


def _least(both: int, push: int, mail: int) -> int:
    """The least calls for people who want both campaigns, the first alone, the second alone.

    A call for both carries none but the first; what of them is left is sent twice, with the others.
    """
    return min(
        shared + math.ceil((rest + push) / CALL) + math.ceil((rest + mail) / CALL)
        for shared in range(math.ceil(both / CALL) + 1)
        for rest in [max(0, both - shared * CALL)]
    )


def _sent(stage: Stage, deliveries: int) -> int:
    """Lets it go; calls made for it. Raises StuckError unless each delivery was sent once."""
    wanted = stage.count(Status.ACCEPTED) + deliveries
    load.go(stage)
    stage.until(lambda: stage.count(Status.ACCEPTED) >= wanted)
    audit = stage.api.audit()
    # Not `distinct`: in a mixture of contents the same people are in each.
    if audit["deliveries"] != deliveries:
        raise StuckError(f"{audit} at the API, {deliveries} were enqueued")
    return audit["calls"]


def personalised(context: Context) -> Result:
    """Every order a content of its own, two campaigns an order, calls of 200 ms."""
    result = Result("personalised")
    orders = context.scaled(450, 30)
    for title, apart in (("in one trigger", False), ("in two triggers", True)):
        context.say(f"two campaigns {title}")
        with Stage() as stage:
            stage.volley()
            load.warm(stage)
            stage.api.latency(200)
            wanted = ((PUSH,), (MAIL,)) if apart else ((PUSH, MAIL),)
            triggers = [
                load.trigger([load.person(i)], mark=f"order {i}", campaigns=campaigns)
                for i in range(orders)
                for campaigns in wanted
            ]
            load.let_wait(stage, triggers, 2 * orders)
            with stage.shares(result.shares.setdefault(title, {})):
                made = _sent(stage, 2 * orders)
            seen = stage.api.calls()
        span = max(c.first_byte for c in seen) - min(c.first_byte for c in seen)
        result.add(f"two campaigns {title}: share of 15 calls/s", (made - 1) / span / 15 * 100, "%", 98)
        result.add(f"two campaigns {title}: calls an order", made / orders, "calls", 1, at_least=False)
    return result
