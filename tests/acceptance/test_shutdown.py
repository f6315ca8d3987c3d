"""Workers are told to end: what is on the wire is settled, within a bounded time, and nothing is lost."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from worker.clevertap.sandbox import Fault, FaultKind
from worker.core.model import Status

if TYPE_CHECKING:
    from tests.acceptance.conftest import MakeStack, Stack, StartServer


def test_rolling_restarts_under_load_leave_no_unknown_and_no_second_send(stack: Stack) -> None:
    stack.sandbox.change(latency_ms=(20, 120))
    pools = ("threads", "prefork")
    running = [stack.worker(environ={"VOLLEY_POOL": pool}) for pool in pools]
    stack.beat()
    stack.await_waiting()
    requests = 0
    for restart, pool in enumerate(pools):
        stack.append(
            stack.trigger(f"p{restart}-{n}@example.com", ExternalTrigger={"Name": f"{restart} {n}"})
            for n in range(80)
        )
        # In the middle of the load, and never both at once: the next one is up before the other ends.
        requests += 20
        stack.await_requests(requests)
        assert stack.end(running.pop(0)) == [0]
        running.append(stack.worker(environ={"VOLLEY_POOL": pool}))
        stack.eventually(lambda: "ready." in running[-1].output)
    stack.await_ended(160)
    assert stack.tally() == {Status.ACCEPTED: 160}
    totals = stack.sandbox.ledger.totals()
    assert (totals.requests, totals.accepted, totals.duplicates) == (160, 160, 0)
    assert stack.most_in_flight <= 3


def test_a_second_signal_loses_nothing(stack: Stack) -> None:
    stack.environ |= {"VOLLEY_REQUEST_DEADLINE": "1.5", "VOLLEY_PERMIT_LEASE": "6.5"}
    stack.sandbox.change(latency_ms=1000)
    worker = stack.worker()
    stack.append(stack.trigger(f"p{n}@example.com", ExternalTrigger={"Name": f"{n}"}) for n in range(9))
    stack.await_requests(3)
    worker.send(signal.SIGINT)
    stack.eventually(lambda: "shutdown" in worker.output)
    worker.send(signal.SIGINT)
    worker.wait(60)
    # What is left of its group goes with it, as with a container's end.
    worker.kill()
    stack.sandbox.change(latency_ms=0)
    stack.worker()
    stack.beat()
    stack.await_ended(9)
    tally = stack.tally()
    assert tally[Status.ACCEPTED] >= 6
    assert tally[Status.ACCEPTED] + tally.get(Status.UNKNOWN, 0) == 9
    assert not stack.disagreements()
    stack.eventually(lambda: stack.store.status().permits_held == 0)


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_second_sigterm_changes_nothing(stack: Stack, pool: str) -> None:
    stack.environ |= {"VOLLEY_REQUEST_DEADLINE": "10", "VOLLEY_PERMIT_LEASE": "20", "VOLLEY_POOL": pool}
    stack.sandbox.change(latency_ms=3000)
    worker = stack.worker()
    stack.append(stack.trigger(f"p{n}@example.com", ExternalTrigger={"Name": f"{n}"}) for n in range(9))
    stack.await_requests(3)
    worker.send(signal.SIGTERM)
    stack.eventually(lambda: "shutdown" in worker.output)
    # While it waits for the answers of its calls.
    assert stack.store.status().permits_held == 3
    worker.send(signal.SIGTERM)
    assert worker.wait(30) == 0
    tally = stack.tally()
    assert tally[Status.ACCEPTED] >= 3
    assert tally[Status.ACCEPTED] + tally.get(Status.PENDING, 0) == 9
    assert stack.sandbox.ledger.totals().accepted == tally[Status.ACCEPTED]
    assert stack.store.status().permits_held == 0


def test_a_worker_ends_in_time_although_the_api_does_not_answer(stack: Stack) -> None:
    stack.environ |= {"VOLLEY_REQUEST_DEADLINE": "1", "VOLLEY_PERMIT_LEASE": "6"}
    stack.sandbox.add_fault(Fault(kind=FaultKind.HANG))
    worker = stack.worker()
    stack.append(stack.trigger(f"p{n}@example.com", ExternalTrigger={"Name": f"{n}"}) for n in range(5))
    stack.await_requests(3)
    assert stack.end(worker) == [0]
    # Three requests had no answer by their deadline, and no other was begun.
    assert stack.tally() == {Status.UNKNOWN: 3, Status.PENDING: 2}
    assert stack.sandbox.ledger.totals().requests == 3
    assert stack.store.status().permits_held == 0


def test_a_worker_ends_in_time_although_redis_is_away_and_nothing_is_lost(
    make_stack: MakeStack, start_server: StartServer
) -> None:
    stack = make_stack(start_server(fsync="always"))
    stack.environ |= {"VOLLEY_REQUEST_DEADLINE": "1", "VOLLEY_PERMIT_LEASE": "6"}
    stack.sandbox.change(latency_ms=500)
    worker = stack.worker()
    stack.append(stack.trigger(f"p{n}@example.com", ExternalTrigger={"Name": f"{n}"}) for n in range(12))
    stack.await_requests(3)
    stack.server.kill()
    worker.send(signal.SIGTERM)
    # The answers on their way are tried to be recorded for as long as their permits may live.
    worker.wait(60)
    worker.kill()
    stack.server.start()
    stack.sandbox.change(latency_ms=0)
    stack.worker()
    stack.beat()
    stack.await_ended(12)
    tally = stack.tally()
    assert set(tally) <= {Status.ACCEPTED, Status.UNKNOWN}
    assert tally.get(Status.UNKNOWN, 0) <= 6
    assert not stack.disagreements()
