"""A mistake that is already running is stopped, by the commands, while real workers send it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from worker.core.model import Status

if TYPE_CHECKING:
    from tests.acceptance.conftest import Stack
    from tests.conftest import Process

#: Calls that the mistake would make; at this latency they take many seconds.
CALLS = 600
LATENCY_MS = 60


def volley(stack: Stack, *arguments: str) -> Process:
    """Runs a command to its end."""
    ran = stack.processes.python("-m", "worker", *arguments, environ=stack.environ)
    assert ran.wait() == 0, ran.output
    return ran


def running(stack: Stack, triggers: list[dict[str, Any]], *, workers: int) -> list[str]:
    """So many workers and a beat in the middle of sending these; the entry ids."""
    stack.sandbox.change(latency_ms=LATENCY_MS)
    entries = stack.append(triggers)
    for _ in range(workers):
        stack.worker()
    stack.beat()
    stack.await_requests(10)
    return entries


def begun_and_under_way(stack: Stack) -> int:
    """The most requests that may be counted when nothing begins from now on.

    What the ledger has, and what had been let on the wire before: the ledger writes down what has ended.
    """
    # In this order: one that ends between the two looks is counted twice, never left out.
    on_the_wire = int(stack.redis.zcard("volley:{default}:flight"))
    return stack.sandbox.ledger.totals().requests + on_the_wire


def test_no_call_of_a_cancelled_campaign_begins_once_the_command_has_returned(stack: Stack) -> None:
    """Each recipient has a content of its own, so each is a call: the order counts."""
    mistake = [
        stack.trigger(f"m{i}@example.com", ExternalTrigger={"Name": str(i)}, campaign=65)
        for i in range(CALLS)
    ]
    running(stack, mistake, workers=2)
    ran = volley(stack, "cancel", "--campaign", "65", "--yes", "--json")
    most = begun_and_under_way(stack)
    later = [stack.trigger("later@example.com", campaign=65), stack.trigger("other@example.com", campaign=66)]
    stack.append(later)
    stack.await_ended(CALLS + 2)
    stack.eventually(lambda: not stack.store.control.cancels())
    tally = stack.tally()
    requests = stack.sandbox.ledger.totals().requests
    assert requests <= most + len(later), "a call began after the command had returned"
    assert tally == {Status.ACCEPTED: requests, Status.CANCELLED: CALLS + 2 - requests}
    assert tally[Status.CANCELLED] > CALLS / 2, "the mistake was nearly over: this shows little"
    assert json.loads(ran.output.splitlines()[0])["cancelled"] > CALLS / 2
    assert stack.sandbox.ledger.times_accepted("65", "later@example.com") == 1
    assert stack.disagreements() == []


def test_a_paused_trigger_stops_in_the_middle_and_goes_on_where_it_was(stack: Stack) -> None:
    """Over /1 each of its recipients is a call of its own."""
    stack.environ["VOLLEY_ENDPOINT"] = "1"
    entry, _ = running(
        stack,
        [
            stack.trigger(*(f"m{i}@example.com" for i in range(CALLS // 3)), campaign=65),
            stack.trigger("other@example.com", campaign=65, priority="bulk"),
        ],
        workers=1,
    )
    volley(stack, "pause", "--trigger", entry, "--yes")
    most = begun_and_under_way(stack)
    stack.eventually(lambda: stack.sandbox.ledger.times_accepted("65", "other@example.com"))
    stack.eventually(lambda: stack.store.status().live == stack.store.status().total(Status.HELD))
    requests = stack.sandbox.ledger.totals().requests
    assert requests <= most + 1
    held = stack.store.status().total(Status.HELD)
    assert held == CALLS // 3 + 1 - requests > 0
    stack.sandbox.change(latency_ms=0)
    volley(stack, "resume", "--trigger", entry, "--yes")
    stack.await_ended(CALLS // 3 + 1)
    assert stack.tally() == {Status.ACCEPTED: CALLS // 3 + 1}
    assert stack.sandbox.ledger.duplicates() == []
