"""Processes that die at any instant: nothing is lost, and only what was on the wire is unknown."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from worker.clevertap.sandbox import Fault, FaultKind
from worker.core.model import Reason, Status

if TYPE_CHECKING:
    from tests.acceptance.conftest import Stack


def test_a_worker_killed_in_mid_request_leaves_only_that_batch_unknown(stack: Stack) -> None:
    # Of two calls that get no answer the vendor accepts one: nobody on our side can tell which.
    taken = Fault(kind=FaultKind.HANG, campaign="71", after_accepting=True)
    lost = Fault(kind=FaultKind.HANG, campaign="72")
    for fault in (taken, lost):
        stack.sandbox.add_fault(fault)
    first = stack.worker()
    stack.beat()
    stack.append(stack.trigger(f"p{n}@example.com", ExternalTrigger={"Name": f"{n}"}) for n in range(50))
    stack.await_ended(50)
    hung = [
        stack.trigger(*(f"{name}{n}@example.com" for n in range(3)), campaign=campaign)
        for name, campaign in (("a", 71), ("b", 72))
    ]
    stack.append(hung)
    stack.eventually(lambda: stack.calls_in(taken) == 2)
    first.kill()
    stack.sandbox.clear_faults()
    # The third permit is free, the others are not: work goes on beside the calls of the dead worker.
    assert stack.store.status().permits_held == 2
    stack.append(stack.trigger(f"q{n}@example.com", ExternalTrigger={"Name": f"{n}"}) for n in range(50))
    stack.worker()
    stack.await_ended(106)

    assert stack.tally() == {Status.ACCEPTED: 100, Status.UNKNOWN: 6}
    unknown = stack.outcomes(Status.UNKNOWN)
    assert {outcome.reason for outcome in unknown} == {Reason.WORKER_DIED}
    assert {outcome.campaign for outcome in unknown} == {71, 72}
    assert not stack.disagreements()
    assert stack.sandbox.ledger.totals().accepted == 103
    # Both permits have come back, and an unknown delivery is not sent again by its producer's repetition.
    stack.eventually(lambda: stack.store.status().permits_held == 0)
    stack.append(hung)
    stack.await_ended(112)
    assert stack.tally()[Status.DUPLICATE] == 6
    assert stack.sandbox.ledger.totals().accepted == 103


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("pool", "workers", "seconds"), [("threads", 3, 15), ("prefork", 2, 8)])
def test_random_kills_under_load_lose_nothing_and_send_nothing_twice(
    stack: Stack, pool: str, workers: int, seconds: float
) -> None:
    stack.environ |= {
        "VOLLEY_POOL": pool,
        "VOLLEY_REQUEST_DEADLINE": "1.5",
        "VOLLEY_PERMIT_LEASE": "6.5",
    }
    stack.sandbox.change(latency_ms=(10, 150))
    seed = int(os.environ.get("TEST_SEED", "0")) or random.randrange(1, 10**9)
    sys.stdout.write(f"TEST_SEED={seed} repeats the choices of this run\n")
    dice = random.Random(seed)
    running = [stack.worker() for _ in range(workers)]
    stack.beat()
    stack.await_waiting()

    appended = 0
    kills = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        # Some for one person each, some for many, in and out of shared calls.
        stack.append(_some_triggers(stack, appended, dice))
        appended += 1
        if appended % 8 == 0:
            kills += 1
            at = dice.randrange(workers)
            victim = dice.choice([running[at].pid, *_children(running[at].pid)])
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        for at, worker in enumerate(running):
            # As a supervisor does; a worker also ends when its pool dies under it. What is left of its
            # process group goes with it, as with a container's end.
            if not worker.is_running:
                worker.kill()
                running[at] = stack.worker()
        # The rhythm of the load, not a wait for an effect.
        threading.Event().wait(dice.uniform(0.05, 0.25))
    deliveries = appended * 24
    stack.await_ended(deliveries, seconds=60)

    tally = stack.tally()
    sys.stdout.write(f"{kills} kills, {deliveries} deliveries: {tally}, {stack.sandbox.ledger.totals()}\n")
    assert sum(tally.values()) == deliveries
    assert set(tally) <= {Status.ACCEPTED, Status.UNKNOWN}
    assert not stack.disagreements()
    assert stack.most_in_flight <= 3
    unknown = stack.outcomes(Status.UNKNOWN)
    assert {outcome.reason for outcome in unknown} <= {Reason.WORKER_DIED, Reason.NO_ANSWER}
    # At each kill three calls at most were on the wire.
    assert len({outcome.batch for outcome in unknown}) <= 3 * kills
    assert stack.store.status().dead_letters == 0
    stack.eventually(lambda: stack.store.status().permits_held == 0)


def _some_triggers(stack: Stack, serial: int, dice: random.Random) -> list[dict[str, object]]:
    """24 deliveries: 4 of one person each, and a bulk of 10 people to 2 campaigns."""
    single = [
        stack.trigger(f"s{serial}-{n}@example.com", ExternalTrigger={"Name": f"{serial} {n}"})
        for n in range(4)
    ]
    people = [f"m{serial}-{n}@example.com" for n in range(10)]
    return [*single, stack.trigger(*people, campaign=[71, 72], priority=dice.choice(["normal", "bulk"]))]


def _children(pid: int) -> list[int]:
    """The child processes of a process (Linux; elsewhere none are found)."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
