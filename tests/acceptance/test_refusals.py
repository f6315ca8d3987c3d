"""Refusals met by real workers, beat and sandbox: what each costs in calls, and that nothing is lost."""

from __future__ import annotations

import math
import random
import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from worker.clevertap.sandbox import CampaignState, Credentials, Fault, FaultKind, Totals, Verdict
from worker.core.door import TROUBLE_AFTER, TROUBLE_PAUSES_MS
from worker.core.model import Reason, Status

if TYPE_CHECKING:
    from tests.acceptance.conftest import Stack
    from tests.conftest import Process

ACCOUNT_ID = "TEST-ACCOUNT"
#: Requests in flight of the stack's account.
PERMITS = 3

#: A worker with two bugs: it fails on every trigger that says "poison", and on every call to "unencodable".
BUGGY_WORKER = """
import sys
from celery.bin.celery import main
from worker.clevertap import wire

parse, encode = wire.parse, wire.encode

def fail_on_poison(raw, **limits):
    if b"poison" in raw:
        raise RuntimeError("a bug")
    return parse(raw, **limits)

def fail_on_one(endpoint, recipients, campaigns, content):
    if any(recipient.value == "unencodable@example.com" for recipient in recipients):
        raise RuntimeError("another bug")
    return encode(endpoint, recipients, campaigns, content)

wire.parse, wire.encode = fail_on_poison, fail_on_one
sys.argv = ["celery", "-A", "worker.app", "worker", *sys.argv[1:]]
main()
"""


def watch(seconds: float) -> None:
    """Lets the world go on: a time of which something is asserted, never a wait for an effect."""
    threading.Event().wait(seconds)


def error_lines(*processes: Process) -> list[str]:
    return [line for process in processes for line in process.output.splitlines() if " ERROR " in line]


def volley(stack: Stack, *arguments: str) -> str:
    """Runs a command to its end; what it said."""
    command = stack.processes.python("-m", "worker", *arguments, environ=stack.environ)
    assert command.wait() == 0, command.output
    return command.output


def throttled(totals: Totals) -> int:
    return totals.verdicts.get(Verdict.OVER_LIMIT, 0)


def personal(stack: Stack, name: str, count: int) -> list[dict[str, object]]:
    """Triggers of a content of their own each, so that each needs a call."""
    return [
        stack.trigger(f"{name}{n}@example.com", ExternalTrigger={"Name": f"{name}{n}"}) for n in range(count)
    ]


def test_bad_credentials_under_a_backlog_cost_a_handful_of_calls_and_lose_nothing(stack: Stack) -> None:
    stack.sandbox.change(credentials={ACCOUNT_ID: Credentials("another", "token")})
    for n in range(100):
        people = (f"p{m}@example.com" for m in range(1000))
        stack.append([stack.trigger(*people, ExternalTrigger={"Name": f"{n}"})])
    worker = stack.worker()
    beat = stack.beat()
    stack.eventually(lambda: stack.store.status().parked)
    stack.eventually(lambda: not stack.store.status().intake)
    watch(15)

    # Those that were in flight together when the first answer came.
    assert stack.sandbox.ledger.totals().requests <= PERMITS
    status = stack.store.status()
    assert [(thing.name, thing.reason) for thing in status.parked] == [("*", Reason.CREDENTIALS)]
    assert (status.total(Status.PENDING), status.live) == (100_000, 100_000)
    assert {outcome.attempts for outcome in stack.outcomes()} == {0}
    (line,) = error_lines(worker, beat)
    assert "account default is parked (credentials)" in line
    said = volley(stack, "status")
    assert "another region's" in said
    assert "credentials" in said

    stack.sandbox.change(credentials=None)
    assert "no longer parked" in volley(stack, "resume", "--all", "--yes")
    stack.await_ended(100_000)
    assert stack.tally() == {Status.ACCEPTED: 100_000}
    assert {outcome.attempts for outcome in stack.outcomes()} == {1}
    assert not stack.disagreements()
    assert len(error_lines(worker, beat)) == 1


def test_a_ceiling_that_others_lower_is_found_and_left_again_when_it_rises(stack: Stack) -> None:
    stack.sandbox.change(latency_ms=(20, 40))
    stack.append(personal(stack, "p", 2_400))
    stack.worker()
    stack.beat()
    stack.await_requests(300)
    assert throttled(stack.sandbox.ledger.totals()) == 0
    stack.sandbox.change(ceiling=1)
    stack.eventually(lambda: stack.store.status().permits_usable == 1, 10)
    found = stack.sandbox.ledger.totals()
    stack.await_requests(found.requests + 500)
    lowered = stack.sandbox.ledger.totals()
    stack.sandbox.change(ceiling=PERMITS)
    # At most 80 calls go by until the next try, and 20 until the one after it.
    stack.eventually(lambda: stack.store.status().permits_usable in {None, PERMITS}, 60)
    risen = stack.sandbox.ledger.totals()
    stack.await_ended(2_400)

    calls, refused = lowered.requests - found.requests, throttled(lowered) - throttled(found)
    sys.stdout.write(
        f"found after {throttled(found)} times 429, then {refused} in {calls} calls; "
        f"risen after {risen.requests - lowered.requests} calls\n"
    )
    assert throttled(found) <= 2 * PERMITS
    assert refused <= calls * 0.04
    assert {(o.status, o.attempts) for o in stack.outcomes()} == {(Status.ACCEPTED, 1)}
    assert not stack.disagreements()


def test_an_outage_costs_a_few_calls_and_the_backlog_drains_after_it(stack: Stack) -> None:
    outage_seconds = 20
    stack.environ["VOLLEY_MAX_ATTEMPTS"] = "20"
    stack.sandbox.change(latency_ms=(10, 20))
    stack.append(personal(stack, "p", 1_000))
    worker = stack.worker()
    beat = stack.beat()
    stack.await_requests(100)
    stack.sandbox.add_fault(Fault(kind=FaultKind.ANSWER, status=503))
    before = stack.sandbox.ledger.totals().requests
    watch(outage_seconds)
    stack.sandbox.clear_faults()
    cost = stack.sandbox.ledger.totals().requests - before
    sys.stdout.write(f"{cost} calls in {outage_seconds} s of 503\n")
    # Those that shut the door, those in flight with the last of them, and a probe after each pause.
    assert cost <= TROUBLE_AFTER + PERMITS - 1 + probes_within(outage_seconds * 1000)
    (line,) = error_lines(worker, beat)
    assert "account default is parked (server_error)" in line
    stack.await_ended(1_000)
    assert stack.tally() == {Status.ACCEPTED: 1_000}
    assert stack.store.status().parked == ()
    assert not stack.disagreements()


def probes_within(ms: int) -> int:
    """Probes that an outage of this length sees at most."""
    probes, at = 0, 0
    while True:
        at += TROUBLE_PAUSES_MS[min(probes, len(TROUBLE_PAUSES_MS) - 1)]
        if at > ms:
            return probes
        probes += 1


@pytest.mark.timeout(180)
def test_when_everything_goes_wrong_at_once_ledger_and_outcomes_agree(stack: Stack) -> None:
    bad = [f"bad{n}@example.com" for n in range(6)]
    stack.environ |= {"VOLLEY_MAX_ATTEMPTS": "30", "VOLLEY_REQUEST_DEADLINE": "1", "VOLLEY_PERMIT_LEASE": "6"}
    stack.sandbox.change(
        latency_ms=(5, 30),
        bad_recipients=frozenset(bad),
        campaigns={"71": CampaignState.STOPPED, "72": CampaignState.MISSING},
    )
    answer, body = FaultKind.ANSWER, "<html>a proxy</html>"
    for fault in (
        Fault(kind=answer, status=503, probability=0.06),
        Fault(kind=answer, status=429, probability=0.02),
        Fault(kind=answer, status=429, probability=0.01, retry_after="1"),
        Fault(kind=answer, status=200, body=body, probability=0.01),
        Fault(kind=answer, status=200, body=body, probability=0.01, after_accepting=True),
        Fault(kind=FaultKind.HANG, probability=0.005),
        Fault(kind=FaultKind.HANG, probability=0.005, after_accepting=True),
        Fault(kind=FaultKind.CUT, probability=0.01),
        Fault(kind=FaultKind.CUT, probability=0.01, after_accepting=True),
    ):
        stack.sandbox.add_fault(fault)
    groups = [[f"m{g}-{n}@example.com" for n in range(50)] for g in range(8)]
    triggers = [
        # Many for one call, with bad ones among them, to campaigns of which one is stopped and one missing.
        *(
            stack.trigger(*people, bad[n % 6], campaign=[70, 71, 73], ExternalTrigger={"Name": f"a{n}"})
            for n, people in enumerate(groups)
        ),
        *(
            stack.trigger(*people, campaign=[70, 72], ExternalTrigger={"Name": f"b{n}"})
            for n, people in enumerate(groups)
        ),
        stack.trigger(*groups[0], *bad, "unencodable@example.com", ExternalTrigger={"Name": "c"}),
        stack.trigger("victim@example.com", ExternalTrigger={"Name": "poison"}),
        *personal(stack, "p", 300),
    ]
    random.Random(7).shuffle(triggers)
    for first in range(0, len(triggers), 20):
        stack.append(triggers[first : first + 20])
    for _ in range(2):
        stack.processes.python(
            "-c", BUGGY_WORKER, "--without-gossip", "--without-mingle", environ=stack.environ
        )
    stack.beat()
    deliveries = 8 * 51 * 3 + 8 * 50 * 2 + 57 + 300
    stack.await_ended(deliveries, 120)

    totals = stack.sandbox.ledger.totals()
    outcomes = stack.outcomes()
    tally = Counter((o.status.value, o.reason.label) for o in outcomes)
    sys.stdout.write(f"{totals}\n{tally}\n")
    assert len(outcomes) == deliveries
    # Each is in the ledger as often as its outcome says: once, not at all, or once at most if it is unknown.
    assert not stack.disagreements()
    assert stack.sandbox.ledger.duplicates() == []
    assert {status for status, _ in tally} <= {"accepted", "rejected", "unknown"}
    for outcome in outcomes:
        if outcome.campaign in {71, 72} or outcome.recipient.value in bad:
            assert outcome.status is not Status.ACCEPTED
    (lone,) = (o for o in outcomes if o.recipient.value == "unencodable@example.com")
    assert (lone.status, lone.reason) == (Status.REJECTED, Reason.POISON)
    (dead,) = stack.store.intake.dead_letters()
    assert b"poison" in dead.trigger
    assert stack.most_in_flight <= PERMITS

    # Every disturbed call may be made again; to isolate b bad parts of n takes 2 b log2(n/b) + 2 b + 1.
    disturbed = sum(record.fault is not None for record in stack.sandbox.ledger.requests())
    isolating = sum(2 * b * math.log2(n / b) + 2 * b + 1 for b, n in [(1, 51)] * 8 + [(7, 57)]) + 3 * 8
    sys.stdout.write(f"{totals.requests} calls, {disturbed} disturbed, isolating may take {isolating:.0f}\n")
    assert totals.requests <= 300 + isolating + 2 * disturbed


def test_splitting_never_takes_all_permits(stack: Stack) -> None:
    people = [f"m{n}@example.com" for n in range(1_000)]
    bad = {person for n, person in enumerate(people) if n % 125 == 60}
    stack.sandbox.change(latency_ms=100, bad_recipients=frozenset(bad))
    stack.environ["VOLLEY_SPLIT_CALLS"] = "500"
    for _ in range(2):
        stack.worker()
    stack.beat()
    stack.append([stack.trigger(*people[:500]), stack.trigger(*people[500:], ExternalTrigger={"Name": "b"})])
    stack.eventually(lambda: stack.store.status().splitting)
    # Of the same priority: only the rule keeps a permit for them.
    stack.append(personal(stack, "p", 120))
    flying: list[int] = []

    def other_work_is_done() -> bool:
        flying.append(len(stack.redis.zrange("volley:{default}:splitting", 0, -1)))
        return stack.sandbox.ledger.times_accepted("1709550110", "p119@example.com") > 0

    stack.eventually(other_work_is_done, 60)
    stack.await_ended(1_120)
    sys.stdout.write(f"parts in flight: {Counter(flying)}; {stack.sandbox.ledger.totals()}\n")
    assert stack.tally() == {Status.ACCEPTED: 1_120 - len(bad), Status.REJECTED: len(bad)}
    assert max(flying) == PERMITS - 1
    assert not stack.disagreements()
