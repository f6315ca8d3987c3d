"""Recurring sends with two real beats and real workers, killed and started again: each slot once."""

from __future__ import annotations

import os
import random
import sys
import threading
from collections import Counter, defaultdict
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from worker.core.model import Status

if TYPE_CHECKING:
    from tests.acceptance.conftest import Stack
    from tests.conftest import Process

PEOPLE = 1500
KILLS = 10
SECONDS_BETWEEN_SLOTS = 4

SEND = """
[[sends]]
name = "news"
cron = "{cron}"
campaigns = [17]
content = {{ Name = "news" }}
file = "people.csv"
missed = "all"

[[sends]]
name = "offers"
cron = "{cron}"
campaigns = [18]
content = {{ Name = "offers" }}
redis_set = "crm:offers"
kind = "identity"
missed = "all"
"""


@pytest.mark.timeout(180)
def test_two_beats_and_ten_kills_fire_each_slot_exactly_once(stack: Stack, tmp_path: Path) -> None:
    toml = tmp_path / "volley.toml"
    toml.write_text(SEND.format(cron=f"*/{SECONDS_BETWEEN_SLOTS} * * * * *"))
    (tmp_path / "people.csv").write_text("email\n" + "".join(f"p{n}@example.com\n" for n in range(PEOPLE)))
    stack.redis.sadd("crm:offers", *(f"u{n}" for n in range(PEOPLE)))
    stack.environ["VOLLEY_CONFIG"] = str(toml)
    stack.sandbox.change(latency_ms=(1, 20))
    seed = int(os.environ.get("TEST_SEED", "0")) or random.randrange(1, 10**9)
    sys.stdout.write(f"TEST_SEED={seed} repeats the choices of this run\n")
    dice = random.Random(seed)
    starts = [stack.worker, stack.worker, stack.beat, stack.beat]
    running: list[Process] = [start() for start in starts]
    firings = stack.store.firings
    stack.eventually(lambda: firings.report("news").current or firings.report("news").past, 60)

    for _ in range(KILLS):
        # The rhythm of the kills, not a wait for an effect.
        threading.Event().wait(dice.uniform(0.3, 1.5))
        at = dice.randrange(len(running))
        running[at].kill()
        running[at] = starts[at]()

    # From here on no slot comes any more; those that have come are fired to their end.
    toml.write_text(SEND.format(cron="0 0 1 1 *"))
    for process in running:
        process.kill()
    stack.worker()
    stack.beat()

    def all_fired() -> bool:
        reports = [firings.report(name) for name in ("news", "offers")]
        return all(report.past and not report.current and not report.waiting for report in reports)

    stack.eventually(all_fired, 120)
    fired = {
        name: sorted(each.slot for each in firings.report(name).past if each.state == "done")
        for name in ("news", "offers")
    }
    deliveries = PEOPLE * sum(len(slots) for slots in fired.values())
    stack.await_ended(deliveries, 120)

    sys.stdout.write(f"{fired}: {stack.tally()}\n")
    assert set(stack.tally()) <= {Status.ACCEPTED, Status.UNKNOWN}
    assert not stack.disagreements()
    got: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for outcome in stack.outcomes():
        name, _, rest = str(outcome.producer_id).partition("@")
        got[name, rest.partition("#")[0]][outcome.recipient.value] += 1
    # Every slot of the time is there, and its recipients got it once.
    assert set(got) == {(name, slot) for name, slots in fired.items() for slot in slots}
    for slot, counts in got.items():
        assert len(counts) == PEOPLE, slot
        assert set(counts.values()) == {1}, slot
    for slots in fired.values():
        moments = [datetime.fromisoformat(slot) for slot in slots]
        steps = {(later - earlier).total_seconds() for earlier, later in pairwise(moments)}
        assert steps <= {SECONDS_BETWEEN_SLOTS}
