"""Hundreds of processes die at random instants: what each leaves is a retry or unknown, and nothing else.

A batch that was only claimed surely was not sent: it goes out again. From its mark "on the wire" on it may
have been sent: it ends as unknown. Both kinds are counted, so a window that grows between the mark and the
first byte of the request shows here, as unknown ones that the vendor never saw.
"""

from __future__ import annotations

import json
import os
import random
import sys
from typing import TYPE_CHECKING

import pytest

from worker.core.model import Reason, Status

if TYPE_CHECKING:
    from tests.acceptance.conftest import Stack

#: Forks a process that delivers, and kills it at a random instant, again and again; in between it does beat's
#: work. A fork starts in milliseconds where a worker takes a second. Prints what the dead left, as JSON.
DRIVER = """
import json, os, random, signal, sys, time

from config.settings import load
from worker.clevertap.client import Client
from worker.engine import Engine
from worker.store import open_store

kills, seed = int(sys.argv[1]), int(sys.argv[2])
settings, dice, never = load(), random.Random(seed), lambda: False

def engine():
    # Connections are made after the fork: each process has its own.
    return Engine(settings, settings.account(), open_store(settings, "default"), Client(connections=1))

def deliver_until_killed(started):
    mine = engine()
    mine.store.status()
    os.write(started, b".")
    while True:
        mine.deliver(60, never)

parent = engine()
parent.store.intake.open()
while parent.store.status().intake:
    parent.wait_and_accept(0.01, never)
raw, root, found = parent.store.permits._client, "volley:{default}:", {}
for number in range(kills):
    reads, writes = os.pipe()
    pid = os.fork()
    if not pid:
        deliver_until_killed(writes)
    os.close(writes)
    os.read(reads, 1)
    os.close(reads)
    time.sleep(dice.uniform(0, 0.03))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    # All who held a batch are dead now.
    for batch in raw.zrange(root + "flight", 0, -1):
        found[int(batch)] = raw.hget(root + "batch:" + batch.decode(), "state").decode()
    if number % 10 == 0:
        parent.sweep()
while parent.store.status().live:
    parent.sweep()
    parent.deliver(1, never)
    time.sleep(0.05)
print(json.dumps({state: [b for b, s in found.items() if s == state] for state in ("claimed", "wire")}))
"""

KILLS = 350
TRIGGERS = 3_000


@pytest.mark.timeout(180)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_hundreds_of_kills_leave_retries_and_unknown_ones_and_nothing_is_lost_or_doubled(
    stack: Stack,
) -> None:
    # The permit of each dead process comes back only with the end of its lease.
    stack.environ |= {
        "VOLLEY_MAX_IN_FLIGHT": "100",
        "VOLLEY_ALLOW_MORE_IN_FLIGHT": "1",
        "VOLLEY_REQUEST_DEADLINE": "1",
        "VOLLEY_PERMIT_LEASE": "6",
    }
    stack.sandbox.change(ceiling=1_000, latency_ms=(0, 2))
    seed = int(os.environ.get("TEST_SEED", "0")) or random.randrange(1, 10**9)
    sys.stdout.write(f"TEST_SEED={seed} repeats the choices of this run\n")
    stack.append(
        stack.trigger(f"a{n}@example.com", f"b{n}@example.com", ExternalTrigger={"Name": f"{n}"})
        for n in range(TRIGGERS)
    )
    driver = stack.processes.python("-c", DRIVER, str(KILLS), str(seed), environ=stack.environ)
    assert driver.wait(150) == 0, driver.output
    left = json.loads(driver.output.splitlines()[-1])
    claimed, wire = set(left["claimed"]), set(left["wire"])

    unknown = stack.outcomes(Status.UNKNOWN)
    totals = stack.sandbox.ledger.totals()
    sent = sum(stack.sandbox.ledger.times_accepted(str(o.campaign), o.recipient.value) for o in unknown)
    sys.stdout.write(
        f"{KILLS} kills left {len(claimed)} batches claimed and {len(wire)} on the wire; "
        f"of {len(unknown)} unknown deliveries {sent} are in the ledger\n"
    )
    assert {outcome.batch for outcome in unknown} == wire
    assert {outcome.reason for outcome in unknown} <= {Reason.WORKER_DIED}
    tally = stack.tally()
    assert tally == {Status.ACCEPTED: 2 * (TRIGGERS - len(wire)), Status.UNKNOWN: 2 * len(wire)}
    # What was only claimed cost no attempt.
    assert {outcome.attempts for outcome in stack.outcomes(Status.ACCEPTED)} == {1}
    assert (totals.accepted, totals.duplicates) == (totals.pairs, 0)
    assert not stack.disagreements()
    # The test itself: it has met both kinds.
    assert claimed
    assert wire
    assert len(claimed) + len(wire) >= KILLS / 2
