"""What calls teach about the door, when several workers report at once and in any order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from config.settings import load
from worker.core.door import (
    PARKED_PAUSES_MS,
    TROUBLE_AFTER,
    TROUBLE_PAUSES_MS,
    Fine,
    Lesson,
    Nothing,
    Parked,
    Throttled,
    Trouble,
)
from worker.core.model import Kind, Reason, Recipient
from worker.core.planning import Limits, plan
from worker.store import Store, open_store

REFUSED = Parked(Reason.CREDENTIALS, None)
DOWN = Trouble(Reason.SERVER_ERROR)
MOST = 3

Tell = Callable[..., list[str]]


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    opened = open_store(load({"VOLLEY_REDIS_URL": redis_url}, require_account=False), "default")
    yield opened
    opened.close()


@pytest.fixture
def tell(store: Store) -> Tell:
    """`tell(lesson, began=...)`: what a call that began then (ms; now if None) has taught."""

    def report(lesson: Lesson, began: int | None = None, probe: str = "", permits: int = MOST) -> list[str]:
        return store.door.report(
            lesson, permits=permits, began_ms=store.status().now_ms if began is None else began, probe=probe
        )

    return report


def park_of(client: Any, name: str = "*") -> Any:
    return orjson.loads(client.hget("volley:{default}:parked", name))


def test_an_answer_to_a_call_from_before_the_park_neither_prolongs_nor_frees_it(
    store: Store, tell: Tell, client: Any
) -> None:
    before = store.status().now_ms - 1_000
    assert tell(REFUSED) == ["*"]
    at_first = park_of(client)
    assert tell(REFUSED, began=before) == []
    assert tell(Fine(), began=before) == []
    assert park_of(client) == at_first
    assert tell(Fine(), began=before, probe="*") == []
    assert store.door.parked() == []


def test_pauses_between_probes_grow_up_to_the_last(store: Store, tell: Tell) -> None:
    tell(REFUSED)
    for tries in range(2, len(PARKED_PAUSES_MS) + 3):
        now = store.status().now_ms
        assert tell(REFUSED, probe="*") == []
        (thing,) = store.door.parked()
        pause = PARKED_PAUSES_MS[min(tries, len(PARKED_PAUSES_MS)) - 1]
        assert thing.tries == tries
        assert pause <= thing.next_probe_ms - now <= pause + 1_000


def test_an_outage_that_turns_into_refused_credentials_is_told_and_begins_its_pauses_anew(
    store: Store, tell: Tell
) -> None:
    assert [tell(DOWN) for _ in range(TROUBLE_AFTER)] == [[]] * (TROUBLE_AFTER - 1) + [["*"]]
    assert tell(DOWN, probe="*") == []
    assert tell(REFUSED, probe="*") == ["*"]
    (thing,) = store.door.parked()
    assert (thing.reason, thing.tries) == (Reason.CREDENTIALS, 1)
    # Back to an outage: probed as one, at first after a second, and nobody is called for it again.
    now = store.status().now_ms
    assert tell(DOWN, probe="*") == []
    (thing,) = store.door.parked()
    assert thing.next_probe_ms - now < TROUBLE_PAUSES_MS[1]


def test_failures_shut_the_door_only_when_they_come_in_a_row(store: Store, tell: Tell, client: Any) -> None:
    for _ in range(3):
        for _ in range(TROUBLE_AFTER - 1):
            assert tell(DOWN) == []
        assert tell(Fine()) == []
    assert client.exists("volley:{default}:door") == 0


def test_429s_that_were_in_flight_together_cut_once(store: Store, tell: Tell) -> None:
    began = store.status().now_ms - 100
    for _ in range(3):
        tell(Throttled(0), began=began)
    assert store.status().permits_usable == 2
    while store.status().now_ms <= began:
        pass
    tell(Throttled(0))
    assert store.status().permits_usable == 1


def test_a_long_hold_is_not_shortened_by_a_429_that_asks_for_less(store: Store, tell: Tell) -> None:
    tell(Throttled(0))
    tell(Throttled(0))
    tell(Throttled(60_000))
    tell(Throttled(0))
    until = store.status().held_until_ms
    assert until is not None
    assert until - store.status().now_ms > 50_000


def test_permits_rise_one_by_one_and_the_door_is_as_usual_again(
    store: Store, tell: Tell, client: Any
) -> None:
    tell(Throttled(0))
    tell(Throttled(0))
    seen = []
    for _ in range(60):
        tell(Fine())
        seen.append(store.status().permits_usable)
    assert (seen[18], seen[19], seen[38], seen[39]) == (1, 2, 2, 3)
    assert client.exists("volley:{default}:door") == 0


def test_after_rises_that_failed_the_next_ones_take_longer_until_one_holds(store: Store, tell: Tell) -> None:
    def calls_until(usable: int | None) -> int:
        for calls in range(500):
            if store.status().permits_usable == usable:
                return calls
            tell(Fine())
        pytest.fail(f"never {usable}")

    tell(Throttled(0))
    tell(Throttled(0))
    took = []
    for _ in range(4):
        took.append(calls_until(2))
        tell(Throttled(0))
    assert took == [20, 40, 80, 80]
    assert calls_until(2) == 80
    assert calls_until(3) == 20
    assert calls_until(None) == 20


def test_an_account_of_one_permit_goes_back_to_usual_as_well(store: Store, tell: Tell, client: Any) -> None:
    tell(Throttled(0), permits=1)
    assert store.status().held_until_ms is not None
    for _ in range(20):
        tell(Fine(), permits=1)
    assert client.exists("volley:{default}:door") == 0


def test_a_process_that_did_not_call_only_gives_the_probes_turn_back(
    store: Store, tell: Tell, client: Any
) -> None:
    tell(REFUSED)
    before = park_of(client)
    client.hset("volley:{default}:probes", "*", store.status().now_ms + 60_000)
    assert tell(Nothing(), probe="*") == []
    assert client.exists("volley:{default}:probes") == 0
    assert park_of(client) == before


def test_a_throttled_account_has_no_permit_free_that_may_not_be_used(ground: Any) -> None:
    ground.file_people(3)
    ground.deliveries.swept()
    ground.client.hset(f"{ground.root}door", mapping={"limit": 1, "cut": 0})
    assert ground.free(MOST) == 1
    assert ground.store.progress().waits(60_000)
    assert ground.hold("a", most=MOST)
    assert not ground.hold("b", most=MOST)
    assert ground.free(MOST) == 0
    seen = ground.store.progress()
    assert seen.due_since_ms is None
    assert not seen.waits(60_000), "a worker that waits for the one permit is not stuck"


def test_recipients_are_known_as_bad_no_longer_than_the_window(store: Store, client: Any) -> None:
    for name, window_ms in (("a", 60_000), ("b", 60_000)):
        store.door.remember_bad([Recipient(Kind.EMAIL, f"{name}@example.com")], window_ms)
    client.zadd("volley:{default}:bad", {"ea@example.com": 1})
    assert list(store.door.bad_recipients()) == [Recipient(Kind.EMAIL, "b@example.com")]


def test_one_probe_at_a_time_and_a_dead_probers_turn_ends_with_its_lease(ground: Any) -> None:
    ground.file_people(3)
    door, deliveries = ground.store.door, ground.store.deliveries
    door.report(REFUSED, permits=MOST, began_ms=ground.status().now_ms)
    assert deliveries.view() is None
    park = park_of(ground.client)
    ground.client.hset(f"{ground.root}parked", "*", orjson.dumps(park | {"until": 0}))
    # Two workers see at the same time that a probe is due: one makes it.
    views = [deliveries.view() for _ in range(2)]
    batches = []
    for token, view in zip("ab", views, strict=True):
        assert view.probe == "*"
        assert ground.hold(token)
        planned = plan(view, Limits(1, 1))
        assert planned is not None
        batches.append(deliveries.claim(planned, token, view.probe))
    assert [batch is not None and len(batch) for batch in batches] == [1, False]
    assert deliveries.view() is None
    # Its worker dies: the lease of its turn is that of its permit.
    turn = int(ground.client.hget(f"{ground.root}probes", "*"))
    assert turn == int(ground.client.zscore(f"{ground.root}permits", "a"))
    ground.client.hset(f"{ground.root}probes", "*", ground.status().now_ms)
    assert deliveries.view().probe == "*"
