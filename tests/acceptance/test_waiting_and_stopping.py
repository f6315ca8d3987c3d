"""Deliveries that wait, for a time, for the vendor or for a worker; and workers that are told to stop."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from worker.clevertap.sandbox import Fault, FaultKind
from worker.core.model import Reason, Status

if TYPE_CHECKING:
    from tests.acceptance.conftest import Stack


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_worker_told_to_stop_under_load_finishes_its_calls_and_begins_no_more(
    stack: Stack, pool: str
) -> None:
    stack.environ["VOLLEY_POOL"] = pool
    stack.sandbox.change(latency_ms=(50, 150))
    stack.append(stack.trigger(f"p{n}@example.com", ExternalTrigger={"Name": f"{n}"}) for n in range(300))
    worker = stack.worker()
    stack.beat()
    stack.sandbox.ledger.wait_for(lambda totals: totals.requests >= 10, 30)
    before = stack.sandbox.ledger.totals().requests
    assert stack.end(worker) == [0]

    # It went on only until it knew: far from the ten seconds that a task may last, a hundred calls and more.
    begun = stack.sandbox.ledger.totals().requests - before
    assert begun <= 30
    counts = stack.tally()
    assert set(counts) == {Status.ACCEPTED, Status.PENDING}
    assert counts[Status.ACCEPTED] == stack.sandbox.ledger.totals().accepted
    assert stack.store.status().permits_held == 0

    stack.environ["VOLLEY_POOL"] = "threads"
    stack.sandbox.change(latency_ms=0)
    stack.worker()
    stack.await_ended(300)
    assert stack.tally() == {Status.ACCEPTED: 300}
    assert stack.sandbox.ledger.totals().accepted == stack.sandbox.ledger.totals().pairs == 300


def test_what_the_vendor_could_not_take_is_sent_again_when_it_can(stack: Stack) -> None:
    stack.sandbox.add_fault(Fault(kind=FaultKind.ANSWER, status=503, times=4))
    stack.worker()
    stack.beat()
    stack.append([stack.trigger(*(f"p{n}@example.com" for n in range(100)))])
    stack.await_ended(100)
    assert {(o.status, o.attempts, o.http) for o in stack.outcomes()} == {(Status.ACCEPTED, 5, 200)}
    assert stack.sandbox.ledger.totals().requests == 5
    assert not stack.disagreements()


def test_a_trigger_with_send_at_is_not_sent_before(stack: Stack) -> None:
    stack.worker()
    stack.beat()
    stack.await_waiting()
    send_at_ms = stack.store.status().now_ms + 2000
    stack.append([stack.trigger("later@example.com", send_at=send_at_ms / 1000)])
    stack.eventually(lambda: stack.tally() == {Status.SCHEDULED: 1})
    stack.await_ended(1)
    (request,) = stack.sandbox.ledger.requests()
    # The sandbox's clock is the server's: both run on this machine.
    assert request.received_at_ms >= send_at_ms
    assert stack.tally() == {Status.ACCEPTED: 1}


def test_what_has_expired_is_never_sent_and_its_key_is_free_again(stack: Stack) -> None:
    # A vendor that is down keeps the third of them waiting until it expires.
    stack.sandbox.add_fault(Fault(kind=FaultKind.ANSWER, status=503, campaign="73"))
    now = time.time()
    early, soon = (
        stack.trigger("early@example.com", campaign=71),
        stack.trigger("soon@example.com", campaign=72),
    )
    retried = stack.trigger("retried@example.com", campaign=73)
    stack.append([early | {"expires_at": now - 1}, soon | {"expires_at": now + 0.5}])
    # Nothing runs yet: the second one expires in the stream.
    stack.eventually(lambda: time.time() > now + 0.6)
    stack.append([retried | {"expires_at": time.time() + 4}])
    stack.worker()
    stack.beat()
    stack.await_ended(3)
    assert {(o.status, o.reason) for o in stack.outcomes()} == {(Status.EXPIRED, Reason.EXPIRED)}
    assert stack.sandbox.ledger.totals().accepted == 0
    assert {record.campaigns for record in stack.sandbox.ledger.requests()} <= {("73",)}

    stack.sandbox.clear_faults()
    stack.append([early, soon, retried])
    stack.await_ended(6)
    assert stack.tally() == {Status.EXPIRED: 3, Status.ACCEPTED: 3}


def test_what_is_no_trigger_becomes_a_dead_letter_and_the_rest_goes_on(stack: Stack) -> None:
    stack.append([stack.trigger("a@example.com"), stack.trigger(), stack.trigger("b@example.com")])
    stack.redis.xadd("volley:{default}:intake", {"trigger": b"\xff{"})
    stack.redis.xadd("volley:{default}:intake", {"other": "field"})
    stack.append([stack.trigger("c@example.com", campaign="x")])
    stack.worker()
    stack.beat()
    stack.await_ended(2)
    dead = list(stack.store.intake.dead_letters())
    assert len(dead) == 4
    assert all(letter.reason for letter in dead)
    assert stack.tally() == {Status.ACCEPTED: 2}
