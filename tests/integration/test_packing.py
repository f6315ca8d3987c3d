"""Calls that the API sees, against the fewest that carry the same deliveries."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from redis import Redis

from config.settings import load
from worker.clevertap.client import Client
from worker.clevertap.sandbox import CampaignState, Fault, FaultKind, Sandbox
from worker.core.model import Status
from worker.engine import Engine
from worker.store import Store, open_store

PUSH, MAIL, SMS = 65, 66, 67


class Desk:
    """An engine that is driven by hand."""

    def __init__(self, redis_url: str, sandbox: Sandbox, client: Redis) -> None:
        loaded = load(
            {
                "VOLLEY_REDIS_URL": redis_url,
                "VOLLEY_BASE_URL": sandbox.url,
                "VOLLEY_ACCOUNT_ID": "account",
                "VOLLEY_PASSCODE": "passcode-1",
                "VOLLEY_TOKEN": "token-1",
                "VOLLEY_BACKOFF_BASE": "0.05",
                "VOLLEY_BACKOFF_CAP": "0.1",
            }
        )
        self.raw: Any = client
        self.sandbox = sandbox
        self.store: Store = open_store(loaded, "default")
        self.http = Client(connections=4)
        self.engine = Engine(loaded, loaded.account(), self.store, self.http)
        self.store.intake.open()

    def enqueue(self, people: list[str], *campaigns: int, content: str = "A", **keys: Any) -> None:
        """One trigger, accepted before the next one is."""
        body = {
            "to": {"identity": people},
            "campaign_id_list": campaigns,
            "ExternalTrigger": {"Name": content},
            **keys,
        }
        self.raw.xadd(self.store.intake.stream, {"trigger": orjson.dumps(body)})
        while self.store.status().intake:
            self.engine.wait_and_accept(0.01, lambda: False)

    def deliver(self) -> None:
        self.engine.deliver(30, lambda: False)

    def _json(self) -> list[Any]:
        return [request.json for request in self.sandbox.ledger.requests()]

    def calls(self) -> list[tuple[str, tuple[int, ...], int]]:
        """Content, campaigns and recipients of each call."""
        return [
            (body["ExternalTrigger"]["Name"], tuple(body["campaign_id_list"]), len(body["to"]["identity"]))
            for body in self._json()
        ]

    def sent(self) -> Counter[tuple[str, int]]:
        """How often each person got each campaign."""
        return Counter(
            (person, campaign)
            for body in self._json()
            for person in body["to"]["identity"]
            for campaign in body["campaign_id_list"]
        )


@pytest.fixture
def desk(redis_url: str, sandbox: Sandbox, client: Redis) -> Iterator[Desk]:
    made = Desk(redis_url, sandbox, client)
    yield made
    made.http.close()
    made.store.close()


def test_the_push_and_the_mail_of_each_order_are_one_call(desk: Desk) -> None:
    orders = [f"order {i}" for i in range(20)]
    for campaign in (PUSH, MAIL):
        for i, order in enumerate(orders):
            desk.enqueue([f"u{i}"], campaign, content=order, dedupe_key=f"{order} {campaign}")
    desk.deliver()
    assert sorted(desk.calls()) == sorted((order, (PUSH, MAIL), 1) for order in orders)


def test_one_audience_over_three_campaigns_enqueued_apart_fills_its_calls(desk: Desk) -> None:
    people = [f"u{i}" for i in range(2300)]
    for seed, campaign in enumerate((MAIL, PUSH, SMS)):
        desk.enqueue(random.Random(seed).sample(people, len(people)), campaign)
    desk.deliver()
    assert desk.calls() == [("A", (PUSH, MAIL, SMS), size) for size in (1000, 1000, 300)]
    assert set(desk.sent().values()) == {1}


def test_audiences_that_overlap_take_no_more_calls_than_the_best_way(desk: Desk) -> None:
    """1200 people want all three, 300 the push alone, 400 the mail and the SMS."""
    people = [f"u{i}" for i in range(1900)]
    desk.enqueue(people[:1500], PUSH)
    desk.enqueue(people[:1200] + people[1500:], MAIL)
    desk.enqueue(people[:1200][::-1] + people[1500:], SMS)
    desk.deliver()
    # 1000 of the 1200 fill a call. The other 200 go in two parts, with the 300 and with the 400.
    assert len(desk.calls()) == 3
    assert len(desk.sent()) == 1500 + 1600 + 1600
    assert set(desk.sent().values()) == {1}


def test_a_pair_whose_call_failed_is_tried_again_together(
    desk: Desk, eventually: Callable[..., None]
) -> None:
    desk.enqueue(["a", "b"], PUSH, dedupe_key="p")
    desk.enqueue(["a", "b"], MAIL, dedupe_key="m")
    desk.sandbox.add_fault(Fault(kind=FaultKind.ANSWER, status=503, times=1))

    def accepted() -> bool:
        desk.engine.sweep()
        desk.deliver()
        return desk.store.status().total(Status.ACCEPTED) == 4

    eventually(accepted)
    assert desk.calls() == [("A", (PUSH, MAIL), 2)] * 2


def test_each_of_a_pair_that_was_refused_may_be_enqueued_again_by_its_own_key(desk: Desk) -> None:
    desk.enqueue(["a"], PUSH, dedupe_key="p")
    desk.enqueue(["a"], MAIL, dedupe_key="m")
    desk.sandbox.change(campaigns={str(campaign): CampaignState.MISSING for campaign in (PUSH, MAIL)})
    desk.deliver()
    assert desk.store.status().total(Status.REJECTED) == 2
    desk.sandbox.change(campaigns={})
    desk.enqueue(["a"], MAIL, dedupe_key="m")
    desk.enqueue(["a"], PUSH, dedupe_key="p")
    desk.deliver()
    assert desk.store.status().total(Status.ACCEPTED) == 2
    assert desk.store.status().total(Status.DUPLICATE) == 0
