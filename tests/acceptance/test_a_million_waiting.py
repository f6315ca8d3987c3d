"""A million bulk deliveries wait; what is urgent passes them all."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import pytest

from worker.core.model import Status

if TYPE_CHECKING:
    from tests.acceptance.conftest import Stack

NEWSLETTER, CODE = 1709550110, 1709550120
URGENT = 100
#: Calls that a million deliveries take at least, 1000 in each.
CALLS_OF_ALL = 1000


@pytest.mark.timeout(300)
def test_an_urgent_delivery_waits_for_a_few_calls_and_not_for_a_million_bulk_ones(stack: Stack) -> None:
    stack.sandbox.change(latency_ms=(200, 200))
    stack.environ["VOLLEY_AGING"] = "600"
    worker = stack.worker()
    stack.beat()
    stack.store.control.pause(str(NEWSLETTER))
    for first in range(0, 1_000_000, 50_000):
        stack.append(
            stack.trigger(
                *(f"p{n}@example.com" for n in range(start, start + 1000)),
                campaign=NEWSLETTER,
                priority="bulk",
            )
            for start in range(first, first + 50_000, 1000)
        )
    stack.eventually(lambda: stack.store.status().total(Status.PENDING) == 1_000_000, 200)
    assert stack.sandbox.ledger.totals().requests == 0
    stack.store.control.resume(str(NEWSLETTER))
    stack.await_requests(3)

    ledger, begun_before = stack.sandbox.ledger, []
    for n in range(URGENT):
        begun_before.append(ledger.totals().requests)
        code = {"Name": f"code {n}"}
        stack.append(
            [stack.trigger(f"u{n}@example.com", campaign=CODE, priority="urgent", ExternalTrigger=code)]
        )
        time.sleep(0.06)
    stack.eventually(lambda: stack.store.status().counts.get((CODE, Status.ACCEPTED)) == URGENT)

    left = stack.store.status().counts[NEWSLETTER, Status.PENDING]
    assert left > 500_000, "most of the million waits still"
    sent = {
        record.recipients["email"][0]: record.sequence
        for record in ledger.requests()
        if str(CODE) in record.campaigns
    }
    assert len(sent) == URGENT
    # Calls begun between the append and the urgent call: its own, and what the permits took just before.
    passed = [sent[f"u{n}@example.com"] - before for n, before in enumerate(begun_before)]
    assert statistics.median(passed) <= 8
    assert max(passed) <= CALLS_OF_ALL // 10
    assert stack.most_in_flight <= 3
    stack.end(worker)
    assert not ledger.totals().duplicates
