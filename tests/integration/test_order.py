"""Which call comes next: priorities, aging, the reserve, and fair turns by weight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis import Redis

from config.settings import load
from worker.clevertap.client import Client
from worker.clevertap.sandbox import Sandbox
from worker.core.model import Status
from worker.engine import Engine
from worker.store import Store, open_store


class Desk:
    """An engine that is driven by hand, with the policies of a TOML file."""

    def __init__(self, redis_url: str, sandbox: Sandbox, client: Redis, file: Path, **settings: str) -> None:
        loaded = load(
            {
                "VOLLEY_REDIS_URL": redis_url,
                "VOLLEY_BASE_URL": sandbox.url,
                "VOLLEY_ACCOUNT_ID": "account",
                "VOLLEY_PASSCODE": "passcode-1",
                "VOLLEY_TOKEN": "token-1",
                "VOLLEY_CONFIG": str(file),
                **{f"VOLLEY_{name.upper()}": value for name, value in settings.items()},
            }
        )
        self.raw: Any = client
        self.store: Store = open_store(loaded, "default")
        self.http = Client(connections=4)
        self.engine = Engine(loaded, loaded.account(), self.store, self.http)

    def enqueue(self, campaign: int, count: int, **keys: Any) -> None:
        """So many triggers, each with a content of its own: each is one call."""
        bodies = [
            orjson.dumps(
                {
                    "to": {"identity": ["u"]},
                    "campaign_id": str(campaign),
                    "ExternalTrigger": {"Name": f"{campaign}-{i}-{keys}"},
                    **keys,
                }
            )
            for i in range(count)
        ]
        self.engine.enqueue(bodies, nonce=f"{campaign}-{keys}")
        while self.store.status().intake:
            self.engine.wait_and_accept(0.01, lambda: False)

    def calls(self, count: int) -> list[int]:
        """The campaigns of the next calls."""
        before = sum(self.store.status().calls.values())
        made: list[int] = []
        counts = dict(self.store.status().calls)
        while len(made) < count:
            self.engine.deliver(0.0001, _after_one_step())
            now = self.store.status().calls
            made += [campaign for campaign in now for _ in range(now[campaign] - counts.get(campaign, 0))]
            counts = dict(now)
        assert sum(counts.values()) - before == len(made)
        return made


def _after_one_step() -> Callable[[], bool]:
    steps = iter([False])
    return lambda: next(steps, True)


@pytest.fixture
def desk(redis_url: str, sandbox: Sandbox, client: Redis, tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    made: list[Desk] = []

    def make(toml: str = "", **settings: str) -> Desk:
        file = tmp_path / "volley.toml"
        file.write_text(toml)
        made.append(Desk(redis_url, sandbox, client, file, **settings))
        return made[-1]

    yield make
    for each in made:
        each.http.close()
        each.store.close()


def test_the_most_urgent_goes_first(desk: Callable[..., Desk]) -> None:
    volley = desk()
    volley.enqueue(3, 2, priority="bulk")
    volley.enqueue(2, 2)
    volley.enqueue(1, 2, priority="urgent")
    assert volley.calls(6) == [1, 1, 2, 2, 3, 3]


def test_two_campaigns_of_weight_1_and_3_get_calls_1_to_3(desk: Callable[..., Desk]) -> None:
    volley = desk("[campaigns.1]\n[campaigns.3]\nweight = 3\n")
    volley.enqueue(1, 300)
    volley.enqueue(3, 300)
    shares = Counter(volley.calls(200))
    assert 48 <= shares[1] <= 52
    assert volley.store.status().calls == dict(shares)


def test_ten_that_come_to_a_long_backlog_go_out_within_about_a_turn(desk: Callable[..., Desk]) -> None:
    volley = desk()
    volley.enqueue(1, 500)
    volley.calls(50)
    volley.enqueue(2, 10)
    assert volley.calls(22).count(2) == 10


def test_a_priority_that_has_waited_long_gets_a_call_in_between(
    desk: Callable[..., Desk], client: Any
) -> None:
    volley = desk(aging="60")
    volley.enqueue(1, 20, priority="urgent")
    volley.enqueue(2, 20, priority="bulk")
    assert volley.calls(3) == [1, 1, 1]
    # The last call of bulk, or the moment when it began to wait, moves a minute back.
    client.hincrby("volley:{default}:turns", "served:b", -61_000)
    assert volley.calls(4) == [2, 1, 1, 1]


def test_bulk_leaves_the_reserve_to_the_others(desk: Callable[..., Desk]) -> None:
    volley = desk(reserve="1")
    volley.enqueue(1, 5, priority="bulk")
    assert volley.store.permits.acquire("a", 3, 60_000)
    assert volley.store.permits.acquire("b", 3, 60_000)
    assert volley.store.deliveries.view() is not None
    assert volley.store.permits.acquire("c", 3, 60_000)
    assert volley.store.deliveries.view() is None, "the third permit is not for bulk"
    assert not volley.store.permits.rest("c").kept
    volley.enqueue(2, 1, priority="urgent")
    assert volley.store.permits.acquire("c", 3, 60_000)
    view = volley.store.deliveries.view()
    assert view is not None
    assert view.flow == (2,)


def test_a_content_that_is_filled_up_steadily_does_not_hold_up_the_others(desk: Callable[..., Desk]) -> None:
    volley = desk()

    def fill(name: str, first: int) -> None:
        people = [f"{name}{n}" for n in range(first, first + 1000)]
        body = {"to": {"identity": people}, "campaign_id": "1", "ExternalTrigger": {"Name": name}}
        volley.engine.enqueue([orjson.dumps(body)], nonce=f"{name}{first}")
        while volley.store.status().intake:
            volley.engine.wait_and_accept(0.01, lambda: False)

    fill("much", 0)
    fill("much", 1000)
    fill("other", 0)
    for turn in range(2, 5):
        volley.calls(1)
        fill("much", turn * 1000)
    found = volley.store.outcomes.by_recipient("other0")
    assert [outcome.status for outcome in found] == [Status.ACCEPTED]
