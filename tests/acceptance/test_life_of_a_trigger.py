"""From an append by somebody who knows only the stream to a POST and an outcome."""

from __future__ import annotations

import sys
import time
from statistics import median
from typing import TYPE_CHECKING

import pytest

from worker.core.model import Kind, Status

if TYPE_CHECKING:
    from tests.acceptance.conftest import Stack


def test_an_append_by_anybody_becomes_one_post_to_2_with_a_list_of_integers(stack: Stack) -> None:
    stack.worker()
    stack.beat()
    content = {"Name": "A", "items": [{"sku": "17", "price": "8.66"}]}
    (entry,) = stack.append([stack.trigger("a@example.com", id="order-1", ExternalTrigger=content)])
    stack.await_ended(1)

    (request,) = stack.sandbox.ledger.requests()
    assert request.endpoint == "/2/send/externaltrigger.json"
    assert request.json == {
        "to": {"email": ["a@example.com"]},
        "campaign_id_list": [1709550110],
        "ExternalTrigger": content,
    }
    (outcome,) = stack.store.outcomes.by_trigger(entry)
    assert (outcome.status, outcome.attempts, outcome.http, outcome.producer_id) == (
        Status.ACCEPTED,
        1,
        200,
        "order-1",
    )


def test_without_a_token_an_append_becomes_one_post_to_1_with_a_string(stack: Stack) -> None:
    del stack.environ["VOLLEY_TOKEN"]
    stack.worker()
    stack.beat()
    stack.append([stack.trigger(to={"identity": ["u-17"]}, campaign=1709550110)])
    stack.await_ended(1)

    (request,) = stack.sandbox.ledger.requests()
    assert request.endpoint == "/1/send/externaltrigger.json"
    assert request.json == {
        "to": {"identity": ["u-17"]},
        "campaign_id": "1709550110",
        "ExternalTrigger": {"Name": "everybody"},
    }
    (outcome,) = stack.store.outcomes.by_recipient("u-17", Kind.IDENTITY)
    assert outcome.status is Status.ACCEPTED


@pytest.mark.parametrize("workers", [2, 3])
def test_ten_thousand_triggers_of_one_content_that_wait_become_ten_calls(stack: Stack, workers: int) -> None:
    stack.sandbox.change(latency_ms=200)
    stack.append(stack.trigger(f"p{n}@example.com") for n in range(10_000))
    for _ in range(workers):
        stack.worker()
    stack.beat()
    stack.await_ended(10_000)

    totals = stack.sandbox.ledger.totals()
    assert (totals.requests, totals.accepted, totals.pairs) == (10, 10_000, 10_000)
    assert stack.most_in_flight <= 3
    assert stack.tally() == {Status.ACCEPTED: 10_000}
    assert not stack.disagreements()


def test_what_was_appended_while_nothing_ran_is_accepted_once_a_worker_starts(stack: Stack) -> None:
    stack.append(stack.trigger(f"p{n}@example.com", ExternalTrigger={"Name": f"{n}"}) for n in range(300))
    stack.append([stack.trigger(*(f"q{n}@example.com" for n in range(2500)))])
    stack.worker()
    stack.beat()
    stack.await_ended(2800)
    assert stack.tally() == {Status.ACCEPTED: 2800}
    assert not stack.disagreements()


def test_a_worker_alone_sees_every_append_without_beat_and_without_a_sweep(stack: Stack) -> None:
    stack.worker()
    stack.await_waiting()
    waits_ms = []
    for n in range(50):
        begun = time.monotonic()
        stack.append([stack.trigger(f"p{n}@example.com", ExternalTrigger={"Name": f"{n}"})])
        stack.await_requests(n + 1)
        waits_ms.append((time.monotonic() - begun) * 1000)
    stack.await_ended(50)
    assert stack.tally() == {Status.ACCEPTED: 50}
    assert stack.store.status().swept_ms is None
    # Shown by `pytest -s`; speed is not what a test may fail for.
    sys.stdout.write(f"append to POST: median {median(waits_ms):.1f} ms, longest {max(waits_ms):.1f} ms\n")
