"""Refusals of every kind, from the intake to the outcome, against the sandbox: what each costs and whom it
touches.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from redis import Redis

from config.settings import load
from worker.clevertap.client import Client
from worker.clevertap.sandbox import CampaignState, Credentials, Fault, FaultKind, Sandbox, Verdict
from worker.core.model import Kind, Priority, Reason, Recipient, Status
from worker.engine import Engine
from worker.store import Store, open_store
from worker.store.outcomes import Filter

CAMPAIGN = 1709550110


class Run:
    """One engine, driven by hand: no Celery, so that a test says what happens when."""

    def __init__(self, redis_url: str, sandbox: Sandbox, client: Redis, **settings: str) -> None:
        environ = {
            "VOLLEY_REDIS_URL": redis_url,
            "VOLLEY_BASE_URL": sandbox.url,
            "VOLLEY_ACCOUNT_ID": "account",
            "VOLLEY_PASSCODE": "passcode-1",
            "VOLLEY_TOKEN": "token-1",
            "VOLLEY_BACKOFF_BASE": "0.05",
            "VOLLEY_BACKOFF_CAP": "0.1",
            **{f"VOLLEY_{name.upper()}": value for name, value in settings.items()},
        }
        loaded = load(environ)
        self.raw: Any = client
        self.sandbox = sandbox
        self.store: Store = open_store(loaded, "default")
        self.http = Client(connections=4)
        self.hints = 0
        self.engine = Engine(loaded, loaded.account(), self.store, self.http, hint=self._hint)
        self.store.intake.open()

    def _hint(self) -> None:
        self.hints += 1

    def enqueue(
        self, people: list[str], campaigns: tuple[int, ...] = (CAMPAIGN,), content: str = "A", **keys: Any
    ) -> str:
        body = {
            "to": {"identity": people},
            "campaign_id_list": campaigns,
            "ExternalTrigger": {"Name": content},
        }
        entry = self.raw.xadd(self.store.intake.stream, {"trigger": orjson.dumps(body | keys)}).decode()
        while self.store.status().intake:
            self.engine.wait_and_accept(0.01, lambda: False)
        return str(entry)

    def deliver(self, seconds: float = 30) -> None:
        """Until nothing is due."""
        self.engine.deliver(seconds, lambda: False)

    def settle_all(self, seconds: float = 20) -> None:
        """Delivers and sweeps until nothing is live."""
        end = time.monotonic() + seconds
        while self.store.status().live and time.monotonic() < end:
            self.engine.sweep()
            self.deliver()
        assert not self.store.status().live

    def statuses(self) -> Counter[tuple[Status, Reason]]:
        return Counter((o.status, o.reason) for o in self.store.outcomes.select(Filter()))

    @property
    def calls(self) -> int:
        return self.sandbox.ledger.totals().requests

    def close(self) -> None:
        self.http.close()
        self.store.close()


@pytest.fixture
def run(redis_url: str, sandbox: Sandbox, client: Redis) -> Iterator[Callable[..., Run]]:
    made: list[Run] = []

    def make(**settings: str) -> Run:
        made.append(Run(redis_url, sandbox, client, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def people(count: int) -> list[str]:
    return [f"u{i:04}" for i in range(count)]


def bound(bad: int, size: int) -> float:
    """Calls that finding `bad` among `size` may take."""
    return 2 * bad * math.log2(size / bad) + 2 * bad + 1


def test_one_bad_recipient_among_a_thousand_is_found_and_the_others_accepted_once(
    run: Callable[..., Run], sandbox: Sandbox
) -> None:
    sandbox.change(bad_recipients=frozenset({"u0617"}))
    volley = run()
    volley.enqueue(people(1000))
    volley.deliver()
    assert volley.statuses() == {
        (Status.ACCEPTED, Reason.NONE): 999,
        (Status.REJECTED, Reason.INVALID_RECIPIENT): 1,
    }
    assert volley.calls <= bound(1, 1000)
    assert sandbox.ledger.totals().accepted == 999
    assert not list(sandbox.ledger.duplicates())
    (rejected,) = volley.store.outcomes.select(Filter(statuses=frozenset({Status.REJECTED})))
    assert rejected.recipient.value == "u0617"
    assert "nvalid" in rejected.text


def test_a_recipient_found_bad_costs_the_next_batch_no_extra_call(
    run: Callable[..., Run], sandbox: Sandbox
) -> None:
    sandbox.change(bad_recipients=frozenset({"u0003"}))
    volley = run()
    volley.enqueue(people(10))
    volley.deliver()
    before = volley.calls
    volley.enqueue(people(10), content="B")
    volley.deliver()
    assert volley.calls == before + 1
    assert volley.statuses()[Status.REJECTED, Reason.KNOWN_BAD_RECIPIENT] == 1
    assert volley.statuses()[Status.ACCEPTED, Reason.NONE] == 18
    bad = Recipient(Kind.IDENTITY, "u0003")
    assert list(volley.store.door.bad_recipients()) == [bad]
    assert volley.store.door.forget_bad(bad)
    assert volley.store.door.bad_recipients() == {}


@pytest.mark.parametrize("bad", [2, 3, 7, 40])
def test_several_bad_recipients_are_found_within_the_bound(
    run: Callable[..., Run], sandbox: Sandbox, bad: int
) -> None:
    everyone = people(500)
    guilty = frozenset(everyone[i * 491 % 500] for i in range(bad))
    sandbox.change(bad_recipients=guilty)
    volley = run(split_calls="2000")
    volley.enqueue(everyone)
    volley.deliver()
    rejected = {
        o.recipient.value for o in volley.store.outcomes.select(Filter(statuses=frozenset({Status.REJECTED})))
    }
    assert rejected == guilty
    assert volley.statuses()[Status.ACCEPTED, Reason.NONE] == 500 - bad
    assert volley.calls <= bound(bad, 500)


def test_beyond_its_budget_of_calls_the_rest_of_a_batch_ends_not_isolated_and_can_be_retried(
    run: Callable[..., Run], sandbox: Sandbox
) -> None:
    everyone = people(64)
    sandbox.change(bad_recipients=frozenset(everyone[::2]))
    volley = run(split_calls="10")
    volley.enqueue(everyone)
    volley.deliver()
    assert volley.calls == 11
    assert volley.statuses()[Status.REJECTED, Reason.NOT_ISOLATED] > 0
    assert not volley.store.status().live
    sandbox.change(bad_recipients=frozenset())
    lost = [o for o in volley.store.outcomes.select(Filter()) if o.reason is Reason.NOT_ISOLATED]
    assert all(o.text == "not isolated within 10 calls" for o in lost)
    assert volley.engine.requeue(lost).taken == len(lost)
    volley.deliver()
    assert volley.statuses()[Status.REJECTED, Reason.NOT_ISOLATED] == 0


def test_a_campaign_that_does_not_exist_is_separated_from_the_others_of_its_call(
    run: Callable[..., Run], sandbox: Sandbox
) -> None:
    sandbox.change(campaigns={"3": CampaignState.MISSING})
    volley = run()
    volley.enqueue(people(20), campaigns=(1, 2, 3, 4, 5))
    volley.deliver()
    rejected = list(volley.store.outcomes.select(Filter(statuses=frozenset({Status.REJECTED}))))
    assert {o.campaign for o in rejected} == {3}
    assert {o.reason for o in rejected} == {Reason.CAMPAIGN_MISSING}
    assert volley.statuses()[Status.ACCEPTED, Reason.NONE] == 80
    assert volley.calls <= 1 + 2 * 3


def test_urgent_deliveries_pass_a_batch_that_is_being_split(
    run: Callable[..., Run], sandbox: Sandbox
) -> None:
    everyone = people(256)
    sandbox.change(bad_recipients=frozenset(everyone[100:104]))
    volley = run()
    volley.enqueue(everyone, priority="bulk")
    view = volley.store.deliveries.view()
    assert view is not None
    volley.engine._delivering.deliver(0.0, lambda: False)
    volley.store.permits.acquire("t", 3, 60_000)
    batch, _ = volley.engine._delivering._claim(view, "t")
    assert batch is not None
    assert volley.engine._delivering._attempt(batch, view)
    split = volley.store.deliveries.view()
    assert split is not None
    assert split.flow == ()
    volley.enqueue(["vip"], content="code", priority="urgent")
    urgent = volley.store.deliveries.view()
    assert urgent is not None
    assert (urgent.priority, urgent.flow) == (Priority.URGENT.value[0], (CAMPAIGN,))
    volley.store.permits.release("t")
    volley.settle_all()
    assert volley.statuses()[Status.ACCEPTED, Reason.NONE] == 253


def test_bad_credentials_park_the_account_at_once_and_lose_nothing(
    run: Callable[..., Run], sandbox: Sandbox
) -> None:
    sandbox.change(credentials={"account": Credentials("another", "token-1")})
    volley = run()
    for i in range(10):
        volley.enqueue(people(1000), content=str(i))
    for _ in range(20):
        volley.engine.sweep()
        volley.deliver()
    assert volley.calls == 1
    status = volley.store.status()
    assert status.total(Status.PENDING) == 10_000
    (parked,) = status.parked
    assert (parked.name, parked.reason) == ("*", Reason.CREDENTIALS)
    assert {o.attempts for o in volley.store.outcomes.select(Filter())} == {0}

    sandbox.change(credentials=None)
    volley.deliver()
    assert volley.calls == 1
    assert volley.store.door.unpark("*")
    volley.deliver()
    assert volley.statuses() == {(Status.ACCEPTED, Reason.NONE): 10_000}


def test_a_probe_is_one_small_call_and_frees_a_parked_account(
    run: Callable[..., Run], sandbox: Sandbox, client: Any
) -> None:
    sandbox.change(credentials={"account": Credentials("another", "token-1")})
    volley = run()
    volley.enqueue(people(2500))
    volley.deliver()
    park = orjson.loads(client.hget("volley:{default}:parked", "*"))

    def due() -> None:
        client.hset("volley:{default}:parked", "*", orjson.dumps(park | {"until": 0}))

    due()
    volley.deliver()
    assert volley.calls == 2
    assert [len(r.recipients) for r in sandbox.ledger.requests(1)] == [1]
    again = orjson.loads(client.hget("volley:{default}:parked", "*"))
    assert again["tries"] == park["tries"] + 1
    sandbox.change(credentials=None)
    due()
    volley.deliver()
    assert volley.store.status().parked == ()
    assert volley.statuses() == {(Status.ACCEPTED, Reason.NONE): 2500}
    assert volley.calls == 2 + 1 + 3


@pytest.mark.parametrize("policy", ["reject", "wait"])
def test_a_stopped_campaign_parks_alone_and_the_others_flow_on(
    run: Callable[..., Run], sandbox: Sandbox, policy: str
) -> None:
    sandbox.change(campaigns={"65": CampaignState.STOPPED})
    volley = run(stopped=policy)
    volley.enqueue(people(10), campaigns=(64, 65))
    volley.deliver()
    volley.enqueue(people(10), campaigns=(64, 65), content="B")
    volley.deliver()
    counts = volley.store.outcomes.counts()
    assert counts[64, Status.ACCEPTED] == 20
    assert counts[65, Status.REJECTED if policy == "reject" else Status.PENDING] == 20
    assert volley.calls == 2
    assert [p.name for p in volley.store.status().parked] == ["65"]
    if policy == "wait":
        sandbox.change(campaigns={})
        assert volley.store.door.unpark("65")
        volley.deliver()
        assert volley.store.outcomes.counts()[65, Status.ACCEPTED] == 20


def test_a_parked_account_with_nothing_but_split_parts_is_probed(
    run: Callable[..., Run], sandbox: Sandbox, client: Any
) -> None:
    everyone = people(8)
    sandbox.change(bad_recipients=frozenset(everyone[:1]))
    volley = run()
    volley.enqueue(everyone)
    volley.engine._delivering.deliver(0.0001, iter([False, True]).__next__)
    assert volley.store.status().splitting == 2
    park = {"reason": 10, "http": 503, "text": "", "since": 0, "at": 0, "tries": 1, "until": 0, "drop": False}
    client.hset("volley:{default}:parked", "*", orjson.dumps(park))
    volley.settle_all()
    assert volley.store.status().parked == ()
    assert volley.statuses()[Status.ACCEPTED, Reason.NONE] == 7


def test_a_probe_that_was_kept_out_gives_its_turn_back(
    run: Callable[..., Run], sandbox: Sandbox, client: Any
) -> None:
    volley = run()
    volley.store.door.remember_bad([Recipient(Kind.IDENTITY, "u0000")], 60_000)
    volley.enqueue(people(3))
    park = {"reason": 10, "http": 503, "text": "", "since": 0, "at": 0, "tries": 1, "until": 0, "drop": False}
    client.hset("volley:{default}:parked", "*", orjson.dumps(park))
    volley.deliver()
    assert volley.statuses() == {
        (Status.ACCEPTED, Reason.NONE): 2,
        (Status.REJECTED, Reason.KNOWN_BAD_RECIPIENT): 1,
    }


def test_no_more_parts_are_claimed_than_splitting_may_have(run: Callable[..., Run], sandbox: Sandbox) -> None:
    everyone = people(16)
    sandbox.change(bad_recipients=frozenset(everyone[::5]))
    volley = run()
    volley.enqueue(everyone)
    deliveries, permits = volley.store.deliveries, volley.store.permits
    volley.engine._delivering.deliver(0.0001, iter([False, True]).__next__)
    assert volley.store.status().splitting == 2
    for token in "abc":
        assert permits.acquire(token, 3, 60_000)
    first = deliveries.claim_part("n", "a")
    assert first is not None
    deliveries.mark(first, 60_000)
    assert deliveries.claim_part("n", "b") is not None
    assert deliveries.claim_part("n", "c") is None


def test_throttling_lowers_the_permits_and_costs_no_attempt(
    run: Callable[..., Run], sandbox: Sandbox
) -> None:
    volley = run()
    sandbox.add_fault(Fault(kind=FaultKind.ANSWER, status=429, times=1))
    volley.enqueue(people(5))
    volley.deliver()
    status = volley.store.status()
    assert status.permits_usable == 2
    assert {o.attempts for o in volley.store.outcomes.select(Filter())} == {1}
    assert volley.statuses() == {(Status.ACCEPTED, Reason.NONE): 5}
    for i in range(60):
        volley.enqueue(["u"], content=f"again {i}")
    volley.deliver()
    assert volley.store.status().permits_usable in {None, 3}


def test_an_outage_shuts_the_door_for_all_but_a_probe_and_its_end_opens_it(
    run: Callable[..., Run], sandbox: Sandbox, client: Any
) -> None:
    sandbox.add_fault(Fault(kind=FaultKind.ANSWER, status=503))
    volley = run()
    for i in range(40):
        volley.enqueue(people(3), content=str(i))
    for _ in range(50):
        volley.engine.sweep()
        volley.deliver()
    assert volley.calls <= 8
    (parked,) = volley.store.status().parked
    assert parked.reason is Reason.SERVER_ERROR
    sandbox.clear_faults()
    park = orjson.loads(client.hget("volley:{default}:parked", "*"))
    client.hset("volley:{default}:parked", "*", orjson.dumps(park | {"until": 0}))
    volley.settle_all()
    assert volley.store.status().parked == ()
    assert volley.statuses() == {(Status.ACCEPTED, Reason.NONE): 120}


def test_a_batch_that_cannot_be_encoded_is_split_until_the_guilty_one_is_alone(
    run: Callable[..., Run], sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.clevertap import wire

    volley = run()
    real = wire.encode

    def encode(endpoint: wire.Endpoint, recipients: Any, campaigns: Any, content: bytes) -> bytes:
        if any(r.value == "u0005" for r in recipients):
            raise ValueError("cannot be encoded")
        return real(endpoint, recipients, campaigns, content)

    monkeypatch.setattr(wire, "encode", encode)
    volley.enqueue(people(16))
    volley.deliver()
    assert volley.statuses() == {(Status.ACCEPTED, Reason.NONE): 15, (Status.REJECTED, Reason.POISON): 1}


def test_a_trigger_that_the_worker_fails_on_is_set_apart_and_the_rest_goes_on(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.clevertap import wire

    volley = run()
    real = wire.parse

    def parse(raw: bytes, *, max_bytes: int) -> Any:
        if b"poison" in raw:
            raise RuntimeError("a bug")
        return real(raw, max_bytes=max_bytes)

    monkeypatch.setattr(wire, "parse", parse)
    for content in ("a", "poison", "b"):
        body = {"to": {"identity": ["u"]}, "campaign_id": "1", "ExternalTrigger": {"Name": content}}
        volley.raw.xadd(volley.store.intake.stream, {"trigger": orjson.dumps(body)})
    volley.enqueue(["last"])
    (dead,) = volley.store.intake.dead_letters()
    assert b"poison" in dead.trigger
    assert "worker failed" in dead.reason
    volley.deliver()
    assert volley.statuses() == {(Status.ACCEPTED, Reason.NONE): 3}
    assert volley.sandbox.ledger.totals().verdicts == {Verdict.ACCEPTED: 3}
