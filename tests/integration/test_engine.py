"""One engine, driven by hand against the sandbox: what is sent, and what each way of ending leaves behind."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as RedisConnectionError

from config.settings import load
from worker.clevertap.client import Client
from worker.clevertap.sandbox import CampaignState, Fault, FaultKind, Sandbox
from worker.core.model import Reason, Status
from worker.engine import Engine
from worker.store import Store, open_store
from worker.store.connection import connect
from worker.store.embedded import EmbeddedServer
from worker.store.outcomes import Filter, Outcome

ROOT = "volley:{default}:"


class Run:
    """An account's engine without Celery, so that a test says what happens when."""

    def __init__(
        self, redis_url: str, sandbox: Sandbox, *, monotonic: Any = None, **given_settings: str
    ) -> None:
        environ = {
            "VOLLEY_REDIS_URL": redis_url,
            "VOLLEY_BASE_URL": sandbox.url,
            "VOLLEY_ACCOUNT_ID": "account",
            "VOLLEY_PASSCODE": "passcode-1",
            "VOLLEY_TOKEN": "token-1",
            "VOLLEY_BACKOFF_BASE": "0.05",
            "VOLLEY_BACKOFF_CAP": "0.1",
            **{f"VOLLEY_{name.upper()}": value for name, value in given_settings.items()},
        }
        loaded = load(environ)
        self.raw: Any = connect(redis_url)
        self.sandbox = sandbox
        self.store: Store = open_store(loaded, "default")
        self.http = Client(connections=4)
        clock = {} if monotonic is None else {"monotonic": monotonic}
        self.hints = 0
        self.engine = Engine(loaded, loaded.account(), self.store, self.http, hint=self._hint, **clock)
        self.store.intake.open()

    def _hint(self) -> bool:
        self.hints += 1
        return True

    def enqueue(
        self, *people: str, campaigns: tuple[int, ...] = (65,), content: str = "A", **keys: Any
    ) -> None:
        body = {
            "to": {"identity": people},
            "campaign_id_list": campaigns,
            "ExternalTrigger": {"Name": content},
        }
        self.raw.xadd(self.store.intake.stream, {"trigger": orjson.dumps(body | keys)})
        while self.store.status().intake:
            self.engine.wait_and_accept(0.01, lambda: False)

    def deliver(self) -> None:
        self.engine.deliver(30, lambda: False)

    def settle_all(self, eventually: Any) -> None:
        """Sweeps and delivers until nothing is live."""

        def ended() -> bool:
            self.engine.sweep()
            self.deliver()
            return not self.store.status().live

        eventually(ended)

    def now(self) -> float:
        """The server's clock, seconds."""
        return self.store.deliveries.now_ms() / 1000

    def outcomes(self) -> list[Outcome]:
        return sorted(self.store.outcomes.select(Filter()), key=lambda o: o.delivery)

    def statuses(self) -> Counter[tuple[Status, Reason]]:
        return Counter((o.status, o.reason) for o in self.outcomes())

    def bodies(self) -> list[tuple[str, Any]]:
        return [(r.endpoint, r.json) for r in self.sandbox.ledger.requests()]

    def close(self) -> None:
        self.http.close()
        self.store.close()
        self.raw.close()


Make = Callable[..., Run]


@pytest.fixture
def run(redis_url: str, sandbox: Sandbox) -> Iterator[Make]:
    made: list[Run] = []

    def make(url: str = redis_url, **given_settings: Any) -> Run:
        made.append(Run(url, sandbox, **given_settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def people(count: int) -> list[str]:
    return [f"u{i:04}" for i in range(count)]


def test_the_single_endpoint_gets_one_campaign_as_a_string(run: Make) -> None:
    volley = run(endpoint="1")
    volley.enqueue("a", "b", campaigns=(65,))
    volley.deliver()
    to = [{"identity": ["a"]}, {"identity": ["b"]}]
    path = "/1/send/externaltrigger.json"
    assert volley.bodies() == [
        (path, {"to": each, "campaign_id": "65", "ExternalTrigger": {"Name": "A"}}) for each in to
    ]
    assert volley.statuses() == {(Status.ACCEPTED, Reason.NONE): 2}


def test_the_multiple_endpoint_gets_campaigns_as_a_list_of_integers_and_all_kinds_in_one_call(
    run: Make,
) -> None:
    volley = run()
    to = {"email": ["a@example.com"], "identity": ["b", "c"], "objectId": ["o"]}
    volley.enqueue(campaigns=(65, 66), to=to)
    volley.deliver()
    body = {"to": to, "campaign_id_list": [65, 66], "ExternalTrigger": {"Name": "A"}}
    assert volley.bodies() == [("/2/send/externaltrigger.json", body)]
    assert volley.statuses() == {(Status.ACCEPTED, Reason.NONE): 8}


def test_more_campaigns_than_a_call_may_name_take_the_fewest_calls(run: Make) -> None:
    volley = run()
    volley.enqueue("a", "b", campaigns=(1, 2, 3, 4, 5, 6, 7))
    volley.deliver()
    sent = [c for _, body in volley.bodies() for c in body["campaign_id_list"]]
    assert len(volley.bodies()) == 2
    assert sorted(sent) == [1, 2, 3, 4, 5, 6, 7]
    assert volley.statuses() == {(Status.ACCEPTED, Reason.NONE): 14}


def test_more_recipients_than_a_call_may_name_take_the_fewest_calls(run: Make) -> None:
    volley = run()
    volley.enqueue(*people(2500))
    volley.deliver()
    sizes = [len(body["to"]["identity"]) for _, body in volley.bodies()]
    assert sizes == [1000, 1000, 500]
    assert not volley.sandbox.ledger.duplicates()
    assert volley.sandbox.ledger.totals().pairs == 2500


def test_what_expired_before_its_claim_is_not_sent_and_the_rest_is(run: Make, eventually: Any) -> None:
    volley = run()
    expires = volley.now() + 0.2
    volley.enqueue("late", expires_at=expires)
    volley.enqueue("b")
    eventually(lambda: volley.now() > expires)
    volley.deliver()
    assert [body["to"]["identity"] for _, body in volley.bodies()] == [["b"]]
    assert [o.status for o in volley.outcomes()] == [Status.EXPIRED, Status.ACCEPTED]


def test_a_batch_of_none_but_expired_and_bad_recipients_makes_no_call(run: Make, eventually: Any) -> None:
    volley = run()
    volley.sandbox.change(bad_recipients=frozenset({"bad"}))
    volley.enqueue("bad")
    volley.deliver()
    calls = volley.sandbox.ledger.totals().requests
    expires = volley.now() + 0.2
    volley.enqueue("late", content="B", expires_at=expires)
    volley.enqueue("bad", content="B")
    eventually(lambda: volley.now() > expires)
    volley.deliver()
    assert volley.sandbox.ledger.totals().requests == calls
    ended = [(o.status, o.reason) for o in volley.outcomes()[1:]]
    assert ended == [
        (Status.EXPIRED, Reason.EXPIRED),
        (Status.REJECTED, Reason.KNOWN_BAD_RECIPIENT),
    ]
    assert volley.store.status().permits_held == 0
    assert not volley.raw.keys(f"{ROOT}batch:*")


def test_no_answer_is_held_or_resent_as_campaign_and_priority_say(
    run: Make, eventually: Any, tmp_path: Path
) -> None:
    tables = tmp_path / "volley.toml"
    tables.write_text('[campaigns.66]\nunknown = "resend"\n')
    volley = run(config=str(tables), unknown_urgent="resend")
    volley.sandbox.add_fault(Fault(kind=FaultKind.CUT, after_accepting=True, times=3))
    volley.enqueue("held", campaigns=(65,))
    volley.enqueue("by campaign", campaigns=(66,))
    volley.enqueue("by priority", campaigns=(65,), priority="urgent")
    volley.settle_all(eventually)
    held, *resent = volley.outcomes()
    assert (held.status, held.reason, held.attempts) == (Status.UNKNOWN, Reason.NO_ANSWER, 1)
    assert {(o.status, o.attempts) for o in resent} == {(Status.ACCEPTED, 2)}


def test_a_resent_delivery_of_a_campaign_that_was_stopped_ends_unknown_without_a_call(
    run: Make, eventually: Any
) -> None:
    """Nothing is sent for it, but its first attempt may have been: it may not end as rejected."""
    volley = run(unknown="resend", stopped="reject")
    volley.sandbox.add_fault(Fault(kind=FaultKind.CUT, after_accepting=True, times=1))
    volley.enqueue("a")
    volley.deliver()
    volley.sandbox.change(campaigns={"65": CampaignState.STOPPED})
    volley.enqueue("b", content="B")
    volley.deliver()
    calls = volley.sandbox.ledger.totals().requests
    volley.settle_all(eventually)
    assert volley.sandbox.ledger.totals().requests == calls
    a, b = volley.outcomes()
    assert (a.status, a.reason) == (Status.UNKNOWN, Reason.NO_ANSWER)
    assert (b.status, b.reason) == (Status.REJECTED, Reason.CAMPAIGN_NOT_READY)
    assert volley.store.status().permits_held == 0


def test_an_answer_outlives_a_redis_that_dies_before_it_is_recorded(
    run: Make, tmp_path: Path, server_binary: Path | None
) -> None:
    with EmbeddedServer(tmp_path, fsync="always", ends_with_parent=True, binary=server_binary) as server:
        volley = run(url=server.url)
        volley.enqueue("a", "b")
        volley.sandbox.change(latency_ms=1000)
        worker = threading.Thread(target=volley.deliver)
        worker.start()
        try:
            volley.sandbox.ledger.wait_for(lambda totals: totals.requests == 1)
            server.kill()
            volley.sandbox.change(latency_ms=0)
        finally:
            server.start()
            worker.join(60)
        assert not worker.is_alive()
        assert volley.statuses() == {(Status.ACCEPTED, Reason.NONE): 2}
        assert volley.sandbox.ledger.totals().requests == 1


@pytest.mark.parametrize(
    "others",
    [
        [{"content": "B"}],
        [{"campaigns": (66,)}],
        [{"campaigns": (66,), "content": "B"}],
        [{"content": "B", "priority": "bulk"}],
    ],
    ids=["another content", "another campaign", "both", "another priority"],
)
def test_a_worker_calls_for_help_when_its_call_leaves_work(run: Make, others: list[dict[str, Any]]) -> None:
    """Or other permits stay idle for as long as the call takes."""
    volley = run()
    volley.enqueue("a")
    for other in others:
        volley.enqueue("b", **other)
    volley.hints = 0
    hints_at_the_first_call: list[int] = []
    volley.sandbox.change(latency_ms=500)
    worker = threading.Thread(target=volley.deliver)
    worker.start()
    try:
        volley.sandbox.ledger.wait_for(lambda totals: totals.requests == 1)
        hints_at_the_first_call.append(volley.hints)
    finally:
        volley.sandbox.change(latency_ms=0)
        worker.join(60)
    assert volley.store.status().live == 0
    assert hints_at_the_first_call == [1]


def test_a_worker_does_not_call_for_help_when_its_call_takes_all(run: Make) -> None:
    volley = run()
    volley.enqueue("a", "b", campaigns=(65, 66))
    volley.hints = 0
    volley.deliver()
    assert volley.hints == 0


def test_nobody_is_in_one_call_twice(run: Make) -> None:
    """What the API does with one who is named twice is not documented."""
    volley = run()
    for order in ("1", "2"):
        volley.enqueue("a", "b" + order, campaigns=(65, 66), dedupe_key=order)
    volley.enqueue("a", campaigns=(65, 66), dedupe_window=0)
    volley.deliver()
    named = [body["to"]["identity"] for _, body in volley.bodies()]
    assert named == [["a", "b1", "b2"], ["a"], ["a"]]
    assert volley.statuses() == {(Status.ACCEPTED, Reason.NONE): 10}


@pytest.mark.parametrize("step", ["view", "claim", "mark", "settle"])
def test_a_permit_is_given_back_after_an_error_unless_a_request_may_be_out(
    run: Make, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    volley = run(permit_lease="600")
    volley.enqueue("a")
    within = step in {"mark", "settle"}

    class BrokenError(Exception):
        pass

    def break_down(*_: Any, **__: Any) -> Any:
        raise BrokenError

    with monkeypatch.context() as patch:
        patch.setattr(type(volley.store.deliveries), step, break_down)
        with pytest.raises(BrokenError):
            volley.deliver()
    assert volley.raw.zcard(f"{ROOT}permits") == within
    assert volley.sandbox.ledger.totals().requests == (step == "settle")
    if not within:
        volley.deliver()
        assert volley.statuses() == {(Status.ACCEPTED, Reason.NONE): 1}


def test_a_permit_is_given_back_by_a_worker_that_lost_redis_for_a_moment(
    run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    volley = run(permit_lease="600")
    volley.enqueue("a")
    look, looks = volley.store.deliveries.view, []

    def away_once(_: Any) -> Any:
        looks.append(1)
        if len(looks) == 1:
            raise RedisConnectionError("gone")
        return look()

    monkeypatch.setattr(type(volley.store.deliveries), "view", away_once)
    with pytest.raises(RedisConnectionError):
        volley.deliver()
    assert not volley.raw.exists(f"{ROOT}permits")
    volley.deliver()
    assert volley.statuses() == {(Status.ACCEPTED, Reason.NONE): 1}


def test_a_worker_that_is_held_up_before_its_request_sends_nothing(run: Make) -> None:
    """Its clock leaps between the mark and the request: the permit might end before the answer comes."""
    ticks = chain([0.0, 0.0, 0.0], repeat(100_000.0))
    volley = run()
    volley.enqueue("a")
    held_up = run(monotonic=lambda: next(ticks))
    held_up.deliver()
    assert volley.sandbox.ledger.totals().requests == 0
    (one,) = volley.outcomes()
    assert (one.status, one.attempts) == (Status.PENDING, 0)
    volley.deliver()
    assert volley.statuses() == {(Status.ACCEPTED, Reason.NONE): 1}


def test_a_delivery_is_given_up_at_its_last_attempt(run: Make, eventually: Any) -> None:
    volley = run(max_attempts="3")
    volley.sandbox.add_fault(Fault(kind=FaultKind.ANSWER, status=503))
    volley.enqueue("a")
    volley.settle_all(eventually)
    (one,) = volley.outcomes()
    assert (one.status, one.reason, one.attempts) == (Status.FAILED, Reason.SERVER_ERROR, 3)
    assert volley.sandbox.ledger.totals().requests == 3


def test_a_delivery_is_given_up_at_its_greatest_age(run: Make, eventually: Any) -> None:
    volley = run(max_attempts="100", max_age="1")
    volley.sandbox.add_fault(Fault(kind=FaultKind.ANSWER, status=409))
    volley.enqueue("a")
    volley.settle_all(eventually)
    (one,) = volley.outcomes()
    assert (one.status, one.reason) == (Status.FAILED, Reason.CONFLICT)
    assert 1 < one.attempts < 100


def _bound(bad: int, size: int) -> float:
    return 2 * bad * math.log2(size / bad) + 2 * bad + 1 if bad else 1


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.integers(1, 64))
def test_all_bad_recipients_are_rejected_and_all_good_ones_accepted_once_within_the_bound(
    run: Make, data: st.DataObject, size: int
) -> None:
    everyone = people(size)
    bad = data.draw(st.frozensets(st.sampled_from(everyone), max_size=min(size, 12)))
    volley = run(split_calls="2000")
    volley.raw.flushdb()
    volley.sandbox.reset()
    volley.sandbox.change(bad_recipients=bad)
    volley.enqueue(*everyone)
    volley.deliver()
    ended = {o.recipient.value: o.status for o in volley.outcomes()}
    assert {name for name, status in ended.items() if status is Status.REJECTED} == bad
    assert {name for name, status in ended.items() if status is Status.ACCEPTED} == {*everyone} - bad
    totals = volley.sandbox.ledger.totals()
    assert (totals.accepted, totals.pairs) == (size - len(bad), size - len(bad))
    assert totals.requests <= _bound(len(bad), size)


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.frozensets(st.integers(1, 5), max_size=4),
    st.frozensets(st.integers(0, 15), max_size=4),
)
def test_bad_campaigns_and_bad_recipients_of_one_batch_are_both_found(
    run: Make, missing: frozenset[int], bad: frozenset[int]
) -> None:
    everyone = people(16)
    volley = run(split_calls="2000")
    volley.raw.flushdb()
    volley.sandbox.reset()
    guilty = frozenset(everyone[i] for i in bad)
    volley.sandbox.change(bad_recipients=guilty, campaigns={str(c): CampaignState.MISSING for c in missing})
    volley.enqueue(*everyone, campaigns=(1, 2, 3, 4, 5))
    volley.deliver()
    for one in volley.outcomes():
        fine = one.campaign not in missing and one.recipient.value not in guilty
        assert one.status is (Status.ACCEPTED if fine else Status.REJECTED)
    totals = volley.sandbox.ledger.totals()
    assert totals.accepted == totals.pairs == (5 - len(missing)) * (16 - len(bad))
