"""The chaos harness itself: its plan follows from the seed, and its judge sees what it must not let pass."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import httpx
import pytest

from config.settings import Settings, load
from tests.chaos.judge import Judgement, judge
from tests.chaos.load import Book
from tests.chaos.plan import Kind, make_plan
from tests.chaos.stage import Loss
from worker.clevertap.client import Client
from worker.clevertap.sandbox import Sandbox
from worker.clevertap.wire import path
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
    book: Book,
    store: Store,
    sandbox: Sandbox,
    *losses: Loss,
    abandoned: tuple[float, ...] = (),
    kills: tuple[float, ...] = (),
) -> Judgement:
    return judge(book, store, sandbox, list(losses), abandoned=list(abandoned), kills=list(kills), outages=0)


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
    assert judged(book, store, sandbox).over_limit == 1
    assert judged(book, store, sandbox, abandoned=(at - 0.1,)).over_limit == 0
    assert judged(book, store, sandbox, abandoned=(at - 5,)).over_limit == 1
    # The permit of a process that was killed is held until its lease ends: that is no excuse.
    assert judged(book, store, sandbox, abandoned=(at - 0.1,), kills=(at - 0.15,)).over_limit == 1
    assert judged(book, store, sandbox, Loss(at - 3, at - 2)).over_limit == 0


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
