"""Several workers and producers at once: nobody is sent to twice, never more than three calls at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from worker.core.model import Status

if TYPE_CHECKING:
    from tests.acceptance.conftest import Stack

#: A producer of its own: appends the same triggers `times` over, all in one burst.
PRODUCER = """
import json, sys
from redis import Redis

url, times = sys.argv[1], int(sys.argv[2])
with Redis.from_url(url) as client:
    for _ in range(times):
        pipe = client.pipeline(transaction=False)
        for n in range(200):
            pipe.xadd("volley:{default}:intake", {"trigger": json.dumps({
                "to": {"email": [f"p{n}@example.com"]}, "campaign_id": "1709550110",
                "ExternalTrigger": {"Name": f"A{n % 20}"}, "id": f"order-{n}"})})
        pipe.execute()
"""


def test_two_workers_send_personalised_triggers_once_and_three_at_a_time(stack: Stack) -> None:
    stack.sandbox.change(latency_ms=(2, 30))
    # Too few threads in each for all three calls beside the accept task, so that both are needed.
    stack.environ["VOLLEY_CONCURRENCY"] = "2"
    first, second = stack.worker(), stack.worker()
    stack.beat()
    stack.eventually(lambda: "ready." in first.output and "ready." in second.output)
    for burst in range(8):
        stack.append(
            stack.trigger(f"p{burst}-{n}@example.com", ExternalTrigger={"Name": f"{burst} {n}"})
            for n in range(100)
        )
    stack.await_ended(800)

    totals = stack.sandbox.ledger.totals()
    assert (totals.requests, totals.accepted, totals.pairs) == (800, 800, 800)
    assert stack.most_in_flight <= 3
    assert stack.tally() == {Status.ACCEPTED: 800}
    assert all("attempt batch=" in worker.output for worker in (first, second))


def test_of_a_storm_of_duplicates_each_is_accepted_once_and_the_rest_name_the_first(stack: Stack) -> None:
    for _ in range(2):
        stack.worker()
    stack.beat()
    producers = [
        stack.processes.python("-c", PRODUCER, stack.server.url, str(times)) for times in (12, 13, 12, 13)
    ]
    assert [producer.wait() for producer in producers] == [0, 0, 0, 0]
    stack.await_ended(10_000)

    assert stack.tally() == {Status.ACCEPTED: 200, Status.DUPLICATE: 9_800}
    first_of = {outcome.producer_id: outcome.delivery for outcome in stack.outcomes(Status.ACCEPTED)}
    assert len(first_of) == 200
    assert all(
        duplicate.duplicate_of == first_of[duplicate.producer_id]
        for duplicate in stack.outcomes(Status.DUPLICATE)
    )
    totals = stack.sandbox.ledger.totals()
    assert (totals.accepted, totals.pairs) == (200, 200)
    assert not stack.disagreements()


@pytest.mark.timeout(300)  # half a million deliveries, beside other tests
def test_nobody_takes_over_what_a_living_worker_is_accepting_however_long_it_takes(stack: Stack) -> None:
    # One trigger of half a million deliveries: it takes longer than the leases of an accept task and of what
    # it has read. (Several would be read one by one, by whichever accept task waits by then.)
    campaigns = list(range(1709550110, 1709550115))
    people = [f"p{n}@example.com" for n in range(100_000)]
    stack.append([stack.trigger(*people, campaign=campaigns)])
    for _ in range(2):
        stack.worker()
    stack.beat()
    stack.eventually(stack.store.intake.has_readers)
    consumers, tries = set(), 0

    def all_are_accepted() -> bool:
        nonlocal tries
        for each in stack.redis.xpending_range("volley:{default}:intake", "volley", "-", "+", 10):
            consumers.add(each["consumer"])
        # Taken over too often, a trigger counts as one that workers die of.
        tries = max(tries, stack.redis.hlen("volley:{default}:tried"))
        return not stack.store.status().intake

    stack.eventually(all_are_accepted, 100)
    assert (len(consumers), tries) == (1, 0)
    assert stack.store.status().dead_letters == 0
    stack.eventually(lambda: stack.store.status().total(Status.ACCEPTED) == 500_000, 100)
    assert stack.sandbox.ledger.totals().pairs == 500_000
    assert stack.sandbox.ledger.totals().duplicates == 0
