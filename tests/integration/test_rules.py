"""Rules in whole engines: paces are reached and kept, batches fill, nights and guards hold."""

from __future__ import annotations

import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from config.settings import Settings, load
from worker.clevertap.client import Client
from worker.clevertap.sandbox import Fault, FaultKind, Sandbox
from worker.core.door import Parked
from worker.core.model import Reason, Status
from worker.engine import Engine
from worker.store import Store, open_store
from worker.store.connection import connect
from worker.store.embedded import EmbeddedServer
from worker.store.outcomes import Filter
from worker.store.rules import Why

ALWAYS = 'quiet_hours = "00:00-12:00, 12:00-24:00"\n'


class Worker:
    """An engine whose hints are taken by threads, as a worker takes them; without beat."""

    def __init__(self, settings: Settings, slots: int) -> None:
        self.store: Store = open_store(settings, "default")
        self._http = Client(connections=4)
        self._hints: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._ends = threading.Event()
        self.errors: list[BaseException] = []
        self.engine = Engine(settings, settings.account(), self.store, self._http, hint=self._hint)
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(slots)]
        for thread in self._threads:
            thread.start()

    def _hint(self) -> bool:
        self._hints.put(True)
        return True

    def _work(self) -> None:
        while self._hints.get():
            try:
                self.engine.deliver(10, self._ends.is_set)
            except BaseException as error:  # shown by the test
                self.errors.append(error)
                return

    def enqueue(self, *people: str, name: str = "A", campaign: int = 65, **keys: Any) -> None:
        to, content = {"identity": people}, {"Name": name}
        body = {"to": to, "campaign_id": str(campaign), "ExternalTrigger": content, **keys}
        self.engine.enqueue([orjson.dumps(body)], nonce=f"{people}{name}{campaign}{keys}")
        while self.store.status().intake:
            self.engine.wait_and_accept(0.01, lambda: False)

    def deliver(self) -> None:
        """One task, by itself."""
        self.engine.deliver(30, lambda: False)

    def statuses(self) -> Counter[Status]:
        return Counter(outcome.status for outcome in self.store.outcomes.select(Filter()))

    def close(self) -> None:
        self._ends.set()
        for _ in self._threads:
            self._hints.put(False)
        for thread in self._threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in self._threads)
        self._http.close()
        self.store.close()
        assert not self.errors


Make = Callable[..., Worker]


@pytest.fixture
def worker(redis_url: str, sandbox: Sandbox, tmp_path: Path) -> Iterator[Make]:
    """`worker(toml, slots=3, calls_per_second="20")`: one more worker of the same account."""
    made: list[Worker] = []

    def make(toml: str = "", *, slots: int = 0, url: str = redis_url, **settings: str) -> Worker:
        file = tmp_path / f"volley-{len(made)}.toml"
        file.write_text(toml)
        loaded = load(
            {
                "VOLLEY_REDIS_URL": url,
                "VOLLEY_BASE_URL": sandbox.url,
                "VOLLEY_ACCOUNT_ID": "account",
                "VOLLEY_PASSCODE": "passcode-1",
                "VOLLEY_TOKEN": "token-1",
                "VOLLEY_BACKOFF_BASE": "0.05",
                "VOLLEY_BACKOFF_CAP": "0.1",
                "VOLLEY_CONFIG": str(file),
                **{f"VOLLEY_{name.upper()}": value for name, value in settings.items()},
            }
        )
        made.append(Worker(loaded, slots))
        return made[-1]

    yield make
    for each in made:
        each.close()


def calls(sandbox: Sandbox) -> list[int]:
    """Recipients of the calls so far."""
    bodies: list[Any] = [request.json for request in sandbox.ledger.requests()]
    return [sum(len(people) for people in body["to"].values()) for body in bodies]


def test_several_workers_together_keep_to_the_pace_of_calls_and_reach_it_without_beat(
    worker: Make, sandbox: Sandbox, eventually: Any, client: Any
) -> None:
    crew = [worker(slots=3, calls_per_second="20") for _ in range(2)]
    begin = crew[0].store.deliveries.now_ms()
    looks = _scripts_run(client)
    for i in range(50):
        crew[0].enqueue("u", name=f"{i}")
    eventually(lambda: crew[0].statuses() == {Status.ACCEPTED: 50})
    took_ms = max(o.updated_ms for o in crew[0].store.outcomes.select(Filter())) - begin
    assert calls(sandbox) == [1] * 50
    assert 20 * (took_ms + 250) / 1000 + 1 >= 50
    # A busy loop would make thousands of them each second.
    assert _scripts_run(client) - looks < 50 * 30 + 0.3 * took_ms
    eventually(lambda: crew[0].store.status().permits_held == 0)


def _scripts_run(client: Any) -> int:
    return int(client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])


def test_a_pace_of_less_than_a_call_a_second_goes_on_with_each_sweep(
    worker: Make, sandbox: Sandbox, eventually: Any
) -> None:
    volley = worker(slots=1, calls_per_second="0.8")
    for i in range(3):
        volley.enqueue("u", name=f"{i}")

    def all_sent() -> bool:
        volley.engine.sweep()
        return len(calls(sandbox)) == 3

    eventually(all_sent)


def test_a_sweep_sends_no_hint_for_what_waits_long(worker: Make, eventually: Any) -> None:
    volley = worker("[campaigns.65]\nlinger = 600\n", slots=0)
    volley.enqueue("u")
    while not volley._hints.empty():
        volley._hints.get()
    volley.engine.sweep()
    assert volley._hints.empty()
    volley.enqueue("u", campaign=66)
    volley.engine.sweep()
    assert not volley._hints.empty()


def test_a_call_that_gets_full_goes_at_once_and_others_linger(
    worker: Make, sandbox: Sandbox, eventually: Any
) -> None:
    volley = worker("[campaigns.65]\nlinger = 3600\n", slots=2, endpoint="1", single_recipients="3", token="")
    for name in "abcd":
        volley.enqueue(name)
    volley.enqueue("z", priority="urgent")
    # The sandbox takes one recipient a call to /1: what it says of three is not the question here.
    eventually(lambda: sorted(calls(sandbox)) == [1, 3])
    eventually(lambda: volley.statuses()[Status.IN_FLIGHT] == 0)
    assert volley.statuses()[Status.PENDING] == 1


def test_who_has_lingered_goes_without_a_sweep_and_not_before(worker: Make, eventually: Any) -> None:
    volley = worker("[campaigns.65]\nlinger = 0.4\n", slots=2)
    begin = volley.store.deliveries.now_ms()
    volley.enqueue("a")
    volley.enqueue("b")
    eventually(lambda: volley.statuses() == {Status.ACCEPTED: 2})
    assert min(o.first_ms for o in volley.store.outcomes.select(Filter())) >= begin + 400


def test_quiet_hours_hold_what_is_retried_and_what_was_scheduled_and_cost_no_attempt(
    worker: Make, sandbox: Sandbox, eventually: Any
) -> None:
    day = worker()
    sandbox.add_fault(Fault(kind=FaultKind.ANSWER, status=503, times=1))
    day.enqueue("retried")
    day.deliver()
    now = day.store.deliveries.now_ms() / 1000
    day.enqueue("scheduled", send_at=now + 0.2)
    day.enqueue("expires", send_at=now + 0.2, expires_at=int(now) + 2)
    assert len(calls(sandbox)) == 1
    night = worker(f"[campaigns.65]\n{ALWAYS}")
    night.enqueue("urgent", priority="urgent")

    def settled() -> bool:
        night.engine.sweep()
        night.deliver()
        return night.statuses() == {Status.PENDING: 3, Status.EXPIRED: 1}

    eventually(settled)
    assert len(calls(sandbox)) == 1
    attempts = {o.recipient.value: o.attempts for o in night.store.outcomes.select(Filter())}
    assert attempts == {"retried": 1, "scheduled": 0, "expires": 0, "urgent": 0}
    day.deliver()
    assert day.statuses() == {Status.ACCEPTED: 3, Status.EXPIRED: 1}


def test_a_canary_is_reported_once_and_goes_on_when_approved(
    worker: Make, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    volley = worker("[campaigns.65]\ncanary = 2\n")
    volley.enqueue(*(f"u{i}" for i in range(10)))
    volley.enqueue("v", campaign=66)
    with caplog.at_level(logging.ERROR, "volley"):
        volley.deliver()
        assert sorted(calls(sandbox)) == [1, 2]
        for _ in range(3):
            volley.engine.sweep()
            volley.deliver()
    assert [record.getMessage() for record in caplog.records] == [
        "campaign 65: its canary of 2 is out; the rest waits for `volley resume 65`"
    ]
    assert volley.store.ruled.approve(65)
    volley.deliver()
    assert volley.statuses() == {Status.ACCEPTED: 11}


def test_a_guard_is_reported_once_and_an_operator_may_let_more_go(
    worker: Make, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    volley = worker("[campaigns.65]\nmax_per_hour = 4\n")
    volley.enqueue(*(f"u{i}" for i in range(10)))
    with caplog.at_level(logging.ERROR, "volley"):
        for _ in range(3):
            volley.deliver()
            volley.engine.sweep()
    (record,) = caplog.records
    assert "campaign 65 has reached its guard: 4 of 4 recipients in an hour" in record.getMessage()
    assert calls(sandbox) == [4]
    volley.store.ruled.allow(65, 3)
    volley.deliver()
    assert calls(sandbox) == [4, 3]
    assert volley.statuses() == {Status.ACCEPTED: 7, Status.PENDING: 3}


@pytest.mark.parametrize("rule", ["max_per_hour = 10", "canary = 10"])
def test_what_may_have_been_sent_and_is_sent_again_is_counted_each_time(
    worker: Make, sandbox: Sandbox, eventually: Any, rule: str
) -> None:
    volley = worker(f'[campaigns.65]\n{rule}\nunknown = "resend"\n')
    sandbox.add_fault(Fault(kind=FaultKind.CUT, times=10, after_accepting=True))
    volley.enqueue(*(f"u{i}" for i in range(100)))
    volley.deliver()

    def due_again() -> bool:
        volley.engine.sweep()
        return volley.statuses() == {Status.PENDING: 100}

    eventually(due_again)
    volley.deliver()
    assert calls(sandbox) == [10], "all that the rule lets through may have been sent"
    (wait,) = volley.store.ruled.waits()
    assert (wait.count, wait.most) == (10, 10)


def test_an_allowance_beyond_a_guard_outlives_a_throttled_call(
    worker: Make, sandbox: Sandbox, eventually: Any
) -> None:
    volley = worker("[campaigns.65]\nmax_per_hour = 2\n")
    volley.enqueue(*(f"u{i}" for i in range(20)))
    volley.deliver()
    volley.store.ruled.allow(65, 10)
    sandbox.add_fault(Fault(kind=FaultKind.ANSWER, status=429, times=1))

    def sent() -> bool:
        volley.deliver()
        return volley.statuses() == {Status.ACCEPTED: 12, Status.PENDING: 8}

    eventually(sent)
    assert calls(sandbox) == [2, 10, 10]


def test_a_campaign_that_was_parked_while_its_canary_is_looked_at_is_not_probed(
    worker: Make, sandbox: Sandbox, client: Any
) -> None:
    volley = worker("[campaigns.65]\ncanary = 10\n")
    volley.enqueue(*(f"u{i}" for i in range(100)))
    volley.deliver()
    parked = Parked(Reason.CAMPAIGN_NOT_READY, frozenset({65}))
    volley.store.door.report(parked, permits=3, began_ms=volley.store.deliveries.now_ms())
    park = orjson.loads(client.hget("volley:{default}:parked", "65"))
    client.hset("volley:{default}:parked", "65", orjson.dumps(park | {"until": 0}))
    volley.deliver()
    assert calls(sandbox) == [10], "a probe is due, but nobody has looked"
    assert volley.store.ruled.approve(65)
    volley.deliver()
    assert calls(sandbox)[:2] == [10, 1]
    assert volley.statuses() == {Status.ACCEPTED: 100}


def test_what_the_api_throttles_is_not_counted_against_canary_and_guard(
    worker: Make, sandbox: Sandbox, eventually: Any
) -> None:
    volley = worker("[campaigns.65]\ncanary = 2\nmax_per_hour = 2\n")
    sandbox.add_fault(Fault(kind=FaultKind.ANSWER, status=429, times=3))
    volley.enqueue(*(f"u{i}" for i in range(3)))

    def sent() -> bool:
        volley.deliver()
        return volley.statuses()[Status.ACCEPTED] == 2

    eventually(sent)
    assert calls(sandbox) == [2, 2, 2, 2]
    volley.deliver()
    assert volley.statuses() == {Status.ACCEPTED: 2, Status.PENDING: 1}


def test_rules_stand_where_they_were_when_server_and_workers_have_been_restarted(
    worker: Make, sandbox: Sandbox, tmp_path: Path, server_binary: Path | None
) -> None:
    toml = (
        "[campaigns.65]\ncanary = 3\n[campaigns.66]\nmax_per_day = 4\n"
        "[campaigns.67]\nrecipients_per_hour = 60\n"
    )
    with EmbeddedServer(tmp_path / "data", ends_with_parent=True, binary=server_binary) as server:
        before = worker(toml, url=server.url)
        for campaign in (65, 66, 67):
            before.enqueue(*(f"{campaign}-{i}" for i in range(10)), campaign=campaign)
        before.deliver()
        stood = [(wait.campaign, wait.why, wait.count) for wait in before.store.status().waits]
        assert stood == [(65, Why.CANARY, 3), (66, Why.DAY, 4), (67, Why.PACE, 0)]
        url = server.restart()
        after = worker(toml, url=url)
        assert [(w.campaign, w.why, w.count) for w in after.store.status().waits] == stood
        after.deliver()
        assert sorted(calls(sandbox)) == [2, 3, 4]
        assert after.store.ruled.approve(65)
        after.deliver()
        assert sorted(calls(sandbox)) == [2, 3, 4, 7]
        with connect(url) as raw:
            assert raw.exists("volley:{default}:guards")
        reasons = {o.reason for o in after.store.outcomes.select(Filter())}
        assert reasons == {Reason.NONE}
