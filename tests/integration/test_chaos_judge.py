"""The chaos harness itself: its plan follows from the seed, and its judge sees what it must not let pass."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any

import httpx
import pytest

from config.settings import Settings, load
from tests.chaos.evidence import Cause, Evidence, Trouble, Watch, Wired, group_of, ports_of
from tests.chaos.judge import Judgement, judge
from tests.chaos.load import Book
from tests.chaos.plan import DEADLINE_SECONDS, LEASE_SECONDS, Kind, make_plan
from tests.chaos.proxy import Call, FaultyNetwork
from tests.chaos.stage import Loss, Stage
from tests.conftest import Eventually, Processes
from worker.clevertap.client import Client
from worker.clevertap.sandbox import Fault, FaultKind, Sandbox
from worker.clevertap.wire import path
from worker.core.answers import Answer, NoAnswer
from worker.core.model import Status
from worker.engine import Engine
from worker.store import Store, open_store

PEOPLE = [f"p{n}@example.com" for n in range(4)]
HEADERS = {"X-CleverTap-Account-Id": "A", "X-CleverTap-Passcode": "P", "X-CleverTap-Token": "T"}


def test_the_plan_is_a_function_of_the_seed_and_has_every_kind_of_fault() -> None:
    assert make_plan(7, 600) == make_plan(7, 600)
    assert make_plan(7, 600) != make_plan(8, 600)
    plan = make_plan(7, 600)
    assert {fault.kind for fault in plan} == set(Kind)
    assert sum(fault.kind.startswith("kill") for fault in plan) >= 200
    assert [fault.at_seconds for fault in plan] == sorted(fault.at_seconds for fault in plan)
    assert all(fault.at_seconds < 600 for fault in plan)


@pytest.fixture
def settings(redis_url: str, sandbox: Sandbox) -> Settings:
    return load(
        {
            "VOLLEY_REDIS_URL": redis_url,
            "VOLLEY_BASE_URL": sandbox.url,
            "VOLLEY_ACCOUNT_ID": "A",
            "VOLLEY_PASSCODE": "P",
            "VOLLEY_TOKEN": "T",
        }
    )


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    opened = open_store(settings, "default")
    yield opened
    opened.close()


@pytest.fixture
def book(settings: Settings, store: Store) -> Book:
    """Four deliveries, all of them accepted."""
    triggers = [
        {"to": {"email": [person]}, "campaign_id": "7", "ExternalTrigger": {"Name": "A"}} for person in PEOPLE
    ]
    with Client() as http:
        engine = Engine(settings, settings.account(), store, http)
        engine.enqueue([json.dumps(each).encode() for each in triggers], nonce="n")
        while store.status().intake:
            engine.wait_and_accept(0.01, lambda: False)
        engine.deliver(60, lambda: False)
    return Book({("7", person): time.time() for person in PEOPLE}, len(PEOPLE))


def send_again(sandbox: Sandbox, *people: str) -> None:
    body = {"to": {"email": people}, "campaign_id_list": [7], "ExternalTrigger": {"Name": "A"}}
    answer = httpx.post(sandbox.url + path(2), json=body, headers=HEADERS)
    assert answer.status_code == 200


def judged(
    book: Book, store: Store, sandbox: Sandbox, *losses: Loss, evidence: Evidence | None = None
) -> Judgement:
    return judge(book, store, sandbox, list(losses), evidence or Evidence())


def test_a_run_in_which_all_were_accepted_once_holds(book: Book, store: Store, sandbox: Sandbox) -> None:
    result = judged(book, store, sandbox)
    assert result.holds
    assert (result.deliveries, result.accepted, result.examples) == (4, 4, [])


def test_a_second_send_is_doubled_unless_a_crash_took_back_that_second(
    book: Book, store: Store, sandbox: Sandbox
) -> None:
    send_again(sandbox, PEOPLE[1])
    result = judged(book, store, sandbox)
    assert (result.holds, result.doubled) == (False, 1)
    # The first send counts: a crash behind it cannot have taken its mark back.
    now = time.time()
    assert judged(book, store, sandbox, Loss(now + 1, now + 2)).doubled == 1
    result = judged(book, store, sandbox, Loss(now - 60, now))
    assert (result.holds, result.doubled, result.excused_doubled) == (True, 0, 1)


def test_what_nobody_knows_of_is_lost_unless_its_append_was_taken_back(
    book: Book, store: Store, sandbox: Sandbox
) -> None:
    now = time.time()
    book.confirmed["7", "nobody@example.com"] = now - 100
    result = judged(book, store, sandbox, Loss(now - 50, now))
    assert (result.holds, result.lost, result.excused_lost) == (False, 1, 0)
    result = judged(book, store, sandbox, Loss(now - 101, now - 99))
    assert (result.holds, result.lost, result.excused_lost) == (True, 0, 1)


def test_what_is_accepted_by_us_and_not_by_the_api_is_lost(
    book: Book, store: Store, sandbox: Sandbox
) -> None:
    sandbox.ledger.reset()
    assert judged(book, store, sandbox).lost == 4


def test_what_was_sent_and_never_enqueued_is_a_contradiction(
    book: Book, store: Store, sandbox: Sandbox
) -> None:
    send_again(sandbox, "stranger@example.com")
    assert judged(book, store, sandbox).otherwise == 1


def test_a_call_over_the_limit_counts_unless_the_api_still_worked_on_one_that_was_cut_off(
    book: Book, store: Store, sandbox: Sandbox
) -> None:
    sandbox.change(ceiling=0)
    httpx.post(sandbox.url + path(2), json={}, headers=HEADERS)
    at = sandbox.ledger.requests()[-1].received_at_ms / 1000

    def cut(when: float, *troubles: Trouble, answer_began: bool = False) -> Evidence:
        return Evidence([Call(1, when - 0.1, ended=when, answer_began=answer_began)], list(troubles))

    assert judged(book, store, sandbox).over_limit == 1
    assert judged(book, store, sandbox, evidence=cut(at - 0.1)).over_limit == 0
    assert judged(book, store, sandbox, evidence=cut(at - 5)).over_limit == 1
    assert judged(book, store, sandbox, evidence=cut(at - 0.1, answer_began=True)).over_limit == 1
    # The permit of a process that was killed is held until its lease ends: that is no excuse.
    kill = Trouble(Cause.KILL, at - 0.15, at - 0.15)
    assert judged(book, store, sandbox, evidence=cut(at - 0.1, kill)).over_limit == 1
    assert judged(book, store, sandbox, Loss(at - 3, at - 2)).over_limit == 0


@pytest.fixture
def two(book: Book, settings: Settings, store: Store, sandbox: Sandbox) -> list[Wired]:
    """Two calls that ended unknown, as the store had them on the wire."""
    sandbox.add_fault(Fault(kind=FaultKind.CUT, times=2))
    wired = []
    with Client() as http:
        engine = Engine(settings, settings.account(), store, http)
        for person, content in (("u1@example.com", "B"), ("u2@example.com", "C")):
            book.confirmed["7", person] = time.time()
            trigger = {"to": {"email": [person]}, "campaign_id": "7", "ExternalTrigger": {"Name": content}}
            engine.enqueue([json.dumps(trigger).encode()], nonce=person)
            while store.status().intake:
                engine.wait_and_accept(0.01, lambda: False)
            time.sleep(0.1)  # so that their times are apart
            engine.deliver(60, lambda: False)
            (outcome,) = store.outcomes.by_recipient(person)
            assert outcome.status is Status.UNKNOWN
            until = outcome.updated_ms / 1000
            wired.append(Wired(outcome.batch or 0, until - 0.05, outcome.delivery, until))
    return wired


def a_call(to: str, began: float, **ended: Any) -> Call:
    body = json.dumps({"to": {"email": [to]}, "campaign_id_list": [7]}).encode()
    return Call(1, began, bytearray(b"POST / HTTP/1.1\r\n\r\n" + body), **ended)


def cut_off(person: str, wired: Wired) -> Call:
    return a_call(person, wired.since + 0.01, ended=wired.until - 0.01)


def test_one_unknown_call_more_than_there_is_evidence_for_breaks_the_promise(
    book: Book, store: Store, sandbox: Sandbox, two: list[Wired]
) -> None:
    result = judged(book, store, sandbox)
    assert (result.holds, result.unknown_batches, result.unexplained) == (False, 2, 2)
    assert "unknown without a cause: batch" in result.examples[0]
    looks = [each.since for each in two]
    both = [cut_off("u1@example.com", two[0]), cut_off("u2@example.com", two[1])]
    result = judged(book, store, sandbox, evidence=Evidence(both, looks=looks))
    assert (result.holds, result.unknown_batches, result.unknown_batches_at_most) == (True, 2, 2)
    for calls in (both[:1], both[1:]):
        result = judged(book, store, sandbox, evidence=Evidence(calls, looks=looks))
        assert (result.holds, result.unexplained, result.unknown_batches_at_most) == (False, 1, 1)
    # What is possible for others does not excuse it.
    others = [cut_off(f"o{n}@example.com", two[1]) for n in range(9)]
    result = judged(book, store, sandbox, evidence=Evidence([*both[:1], *others], looks=looks))
    assert (result.holds, result.unexplained, result.unknown_batches_at_most) == (False, 1, 10)


def test_a_call_that_was_answered_is_excused_by_a_kill_of_just_its_process(
    book: Book, store: Store, sandbox: Sandbox, two: list[Wired]
) -> None:
    other, unknown = cut_off("u1@example.com", two[0]), two[1]
    answered = a_call("u2@example.com", unknown.since + 0.01, answered=unknown.since + 0.03)
    amid, behind = unknown.since + 0.04, unknown.until + 0.04

    def excused(*troubles: Trouble, call: Call = answered) -> bool:
        evidence = Evidence([other, call], list(troubles), two)
        return judged(book, store, sandbox, evidence=evidence).holds

    assert not excused()
    assert excused(Trouble(Cause.KILL, amid, amid, frozenset({1})))
    assert excused(Trouble(Cause.FREEZE, amid, amid + 9, frozenset({1})))
    assert not excused(Trouble(Cause.KILL, amid, amid, frozenset({2})))
    assert not excused(Trouble(Cause.KILL, behind, behind, frozenset({1})))
    # Beat has no connection to the API; a reset, and a crash that took nothing back, come after the answer.
    assert not excused(Trouble(Cause.API, amid, amid))
    assert not excused(Trouble(Cause.CRASH, amid, unknown.until))
    assert excused(Trouble(Cause.CRASH, amid, unknown.until, took_back=True))
    late = a_call("u2@example.com", unknown.since, answered=unknown.since + DEADLINE_SECONDS)
    assert excused(call=late)
    # A worker that lives must wait for its answer.
    hung_up = a_call("u2@example.com", unknown.since, ended=unknown.since + 0.03, hung_up=True)
    assert not excused(call=hung_up)
    killed = Trouble(Cause.KILL, unknown.since + 0.02, unknown.since + 0.02, frozenset({1}))
    assert excused(killed, call=hung_up)


def test_a_batch_that_became_no_call_is_excused_by_what_struck_at_its_mark(
    book: Book, store: Store, sandbox: Sandbox, two: list[Wired]
) -> None:
    other, unknown = cut_off("u1@example.com", two[0]), two[1]
    lost = Wired(unknown.number, unknown.until - LEASE_SECONDS - 0.5, unknown.delivery, unknown.until)

    def excused(cause: Cause, at: float, until: float) -> bool:
        troubles = [Trouble(cause, at, until)]
        evidence = Evidence([other], troubles, [two[0], lost])
        return judged(book, store, sandbox, evidence=evidence).holds

    for cause in (Cause.KILL, Cause.FREEZE, Cause.CRASH, Cause.API):
        assert excused(cause, lost.since + 0.1, lost.since + 0.1)
        assert not excused(cause, lost.since + 3, lost.since + 3)
        assert not excused(cause, lost.since - 3, lost.since - 1)
    # Redis away at the end of the lease: nobody could settle it. A shorter time excuses nothing.
    assert excused(Cause.REDIS, lost.since + 0.1, lost.since + LEASE_SECONDS)
    assert not excused(Cause.REDIS, lost.since + 0.1, lost.since + 3)


def test_the_network_notes_which_calls_got_their_whole_answer(
    sandbox: Sandbox, eventually: Eventually
) -> None:
    calls: list[Call] = []
    port = int(sandbox.url.rpartition(":")[2])
    body = {"to": {"email": ["a@example.com"]}, "campaign_id_list": [7], "ExternalTrigger": {"Name": "A"}}
    with FaultyNetwork(port, calls) as network, httpx.Client(headers=HEADERS) as client:
        url = f"http://127.0.0.1:{network.port}{path(2)}"
        for _ in range(2):
            assert client.post(url, json=body).status_code == 200
        assert ports_of([os.getpid()], network.port) == {calls[0].port}
        sandbox.add_fault(Fault(kind=FaultKind.CUT, times=1))
        with pytest.raises(httpx.HTTPError):
            client.post(url, json=body)
        sandbox.add_fault(Fault(kind=FaultKind.HANG, times=1))
        with pytest.raises(httpx.HTTPError):
            client.post(url, json=body, timeout=0.2)
        eventually(lambda: calls[-1].ended)
    assert [call.answered is not None for call in calls] == [True, True, False, False]
    assert [call.ended is not None for call in calls] == [False, False, True, True]
    assert [call.hung_up for call in calls] == [False, False, False, True]
    assert all(json.loads(call.body) == body for call in calls)


def test_the_watch_sees_what_is_on_the_wire_and_until_when(
    book: Book, store: Store, settings: Settings, sandbox: Sandbox, redis_url: str
) -> None:
    evidence = Evidence()
    watch = Watch(redis_url, evidence)
    seen: list[float] = []

    class Looking:
        def post(self, *_: object, **__: object) -> Answer:
            watch.look()
            seen.append(evidence.wired[0].until)
            return NoAnswer("cut")

    engine = Engine(settings, settings.account(), store, Looking())
    late = {"to": {"email": ["w@example.com"]}, "campaign_id": "7", "ExternalTrigger": {"Name": "A"}}
    engine.enqueue([json.dumps(late).encode()], nonce="w")
    while store.status().intake:
        engine.wait_and_accept(0.01, lambda: False)
    engine.deliver(60, lambda: False)
    watch.look()
    (wired,) = evidence.wired
    (outcome,) = store.outcomes.by_recipient("w@example.com")
    assert (wired.number, wired.delivery, seen) == (outcome.batch, outcome.delivery, [inf])
    assert evidence.looks[0] - 1 < wired.since <= wired.until < inf
    watch.stop()


def test_the_processes_of_a_group_are_those_that_live(processes: Processes, eventually: Eventually) -> None:
    process = processes.start("sh", "-c", "sleep 60 & sleep 60; true")
    eventually(lambda: len(group_of(process.pid)) == 3)
    process.kill()
    assert group_of(process.pid) == []


def test_kills_and_freezes_are_noted_and_those_of_beat_are_not(
    tmp_path: Path, processes: Processes, server_binary: Path | None
) -> None:
    stage = Stage(tmp_path, 1, server_binary)
    try:
        for part in (stage.beat, stage.workers[0], stage.workers[1]):
            part.process = processes.start("sleep", "60")
        assert stage.kill(stage.beat, group=True)
        assert stage.evidence.troubles == []
        assert stage.kill(stage.workers[0], group=True)
        assert stage.freeze(stage.workers[1], 0)
        kill, freeze = stage.evidence.troubles
        assert (kill.cause, kill.until, freeze.cause, freeze.until) == (
            Cause.KILL,
            kill.at,
            Cause.FREEZE,
            inf,
        )
        stage.thaw(stage.workers[1])
        assert freeze.at < freeze.until < inf
    finally:
        stage.close()


def test_a_folder_for_logs_that_holds_something_is_refused_with_one_sentence(
    processes: Processes, tmp_path: Path
) -> None:
    (tmp_path / "old.log").touch()
    chaos = processes.python("-m", "tests.chaos", "--keep", str(tmp_path))
    assert chaos.wait() == 2
    assert chaos.output == f"{tmp_path} is not an empty folder: name another one for the logs.\n"


def test_work_that_has_not_ended_is_unfinished(
    book: Book, store: Store, sandbox: Sandbox, settings: Settings
) -> None:
    book.confirmed["7", "late@example.com"] = time.time()
    late = {"to": {"email": ["late@example.com"]}, "campaign_id": "7", "ExternalTrigger": {"Name": "A"}}
    with Client() as http:
        engine = Engine(settings, settings.account(), store, http)
        engine.enqueue([json.dumps(late).encode()], nonce="m")
        while store.status().intake:
            engine.wait_and_accept(0.01, lambda: False)
    result = judged(book, store, sandbox)
    assert (result.holds, result.unfinished) == (False, 1)
