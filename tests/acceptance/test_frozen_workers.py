"""A worker that is frozen for longer than its leases, and wakes: what others took over is its own no more."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from worker.core.model import Reason, Status

if TYPE_CHECKING:
    from tests.acceptance.conftest import Stack


def test_a_woken_worker_neither_settles_what_others_took_over_nor_sends_on_a_lost_permit(
    stack: Stack,
) -> None:
    stack.environ |= {"VOLLEY_REQUEST_DEADLINE": "1", "VOLLEY_PERMIT_LEASE": "6"}
    stack.sandbox.change(latency_ms=700)
    frozen = stack.worker()
    stack.await_waiting()
    stack.append(stack.trigger(f"p{n}@example.com", ExternalTrigger={"Name": f"{n}"}) for n in range(9))
    stack.await_requests(3)
    frozen.send(signal.SIGSTOP)
    stack.sandbox.change(latency_ms=0)
    stack.worker()
    stack.beat()
    # What it had on the wire when its leases ended is unknown; the rest goes out without it.
    stack.await_ended(9)
    before = stack.tally()
    assert before == {Status.UNKNOWN: 3, Status.ACCEPTED: 6}
    frozen.send(signal.SIGCONT)
    stack.eventually(
        lambda: frozen.output.count("taken over before its answer could be recorded") == 3, seconds=60
    )
    assert stack.tally() == before
    assert {outcome.reason for outcome in stack.outcomes(Status.UNKNOWN)} == {Reason.WORKER_DIED}
    assert (stack.sandbox.ledger.totals().requests, stack.most_in_flight) == (9, 3)
    assert not stack.disagreements()

    # It is a worker like any other again.
    stack.append(stack.trigger(f"q{n}@example.com", ExternalTrigger={"Name": f"{n}"}) for n in range(9))
    stack.await_ended(18)
    assert stack.sandbox.ledger.totals().accepted == 18
