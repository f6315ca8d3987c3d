"""How much an account takes in: at a bound appends are refused whole, and nothing that was kept goes away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from worker.core.model import Status
from worker.store import Store
from worker.store.batches import Windows
from worker.store.bounds import Bound, Bounds, FullError, Reached
from worker.store.intake import Append, Appended, NonceReused

if TYPE_CHECKING:
    from tests.integration.store.conftest import Ground


def bounded(ground: Ground, **bounds: Any) -> Store:
    """The same account, with bounds."""
    return Store(
        ground.client, "default", windows=Windows(60, 60), retention_ms=60_000, bounds=Bounds(**bounds)
    )


@pytest.fixture
def room_again(ground: Ground) -> Iterator[None]:
    yield
    ground.client.config_set("maxmemory", 0)


def test_an_append_goes_in_until_the_intake_holds_as_many_triggers_as_it_may(ground: Ground) -> None:
    intake = bounded(ground, entries=3).intake
    assert len(intake.append([b"{}", b"{}"], "one")) == 2
    assert len(intake.append([b"{}", b"{}", b"{}"], "whole, however long it is")) == 3
    with pytest.raises(FullError, match="5 triggers wait in the intake, the most is 3") as refused:
        intake.append([b"{}"], "two")
    assert refused.value.reached == Reached(Bound.INTAKE, 5, 3)
    assert ground.status().intake == 5


def test_an_append_that_was_made_is_confirmed_again_when_the_intake_is_full(ground: Ground) -> None:
    intake = bounded(ground, entries=1).intake
    made = intake.append([b"{}"], "one")
    assert intake.append([b"{}"], "one") == made
    with pytest.raises(FullError):
        intake.append([b"{}"], "two")


def test_a_refused_append_goes_in_with_the_same_nonce_when_there_is_room(ground: Ground) -> None:
    intake = bounded(ground, entries=1).intake
    (first,) = intake.append([b"{}"], "one")
    with pytest.raises(FullError):
        intake.append([b"{}"], "two")
    ground.client.xdel(intake.stream, first)
    assert len(intake.append([b"{}"], "two")) == 1


def test_bytes_of_the_intake_are_bounded(ground: Ground) -> None:
    intake = bounded(ground, bytes=100_000).intake

    def fill() -> None:
        for at in range(100):
            intake.append([b'"%s"' % (b"x" * 9_000)], f"{at}")

    with pytest.raises(FullError) as refused:
        fill()
    assert refused.value.reached.bound is Bound.INTAKE_BYTES
    assert refused.value.reached.value >= 100_000
    assert 5 < ground.status().intake < 30


def test_deliveries_that_are_under_way_are_bounded_and_counted_as_they_end(ground: Ground) -> None:
    store = bounded(ground, backlog=10)
    ground.file_people(10)
    assert store.intake.backlog_reached()
    with pytest.raises(FullError, match="10 deliveries are under way"):
        store.intake.append([b"{}"], "one")
    assert ground.cancel(0) == 1
    assert not store.intake.backlog_reached()
    assert len(store.intake.append([b"{}"], "one")) == 1


def test_the_count_of_live_deliveries_follows_every_transition(ground: Ground) -> None:
    def live() -> int:
        return int(ground.client.get(f"{ground.root}live") or 0)

    ground.file_people(20)
    ground.file("later", send_at=ground.deliveries.now_ms() / 1000 + 3600)
    assert live() == 21
    batch = ground.on_the_wire(recipients=10)
    assert live() == 21
    ground.settle(batch, Status.REJECTED)
    assert live() == 11
    ended = next(n for n, status in ground.states().items() if status is Status.REJECTED)
    ground.requeue(ended)
    assert live() == 12 == ground.status().live
    ground.deliveries.retire()
    assert live() == 12


def test_data_of_a_time_before_the_count_is_counted_at_the_next_change(ground: Ground) -> None:
    ground.file_people(20)
    ground.client.delete(f"{ground.root}live")
    ground.file("one more")
    assert int(ground.client.get(f"{ground.root}live")) == 21
    ground.client.set(f"{ground.root}live", 5, keepttl=True)
    ground.deliveries.retire()
    assert int(ground.client.get(f"{ground.root}live")) == 21, "and counted anew now and then"


def test_the_share_of_maxmemory_is_a_bound_where_there_is_a_maxmemory(
    ground: Ground, room_again: None
) -> None:
    intake = bounded(ground, memory_share=0.5).intake
    intake.append([b"{}"], "no maxmemory, no bound")
    used = ground.client.info("memory")["used_memory"]
    ground.client.config_set("maxmemory", int(used * 1.5))
    with pytest.raises(FullError, match="bytes of Redis's memory are in use") as refused:
        intake.append([b"{}"], "one")
    assert refused.value.reached.bound is Bound.MEMORY
    ground.client.config_set("maxmemory", used * 10)
    intake.append([b"{}"], "one")


def test_a_bound_of_nought_is_none(ground: Ground) -> None:
    intake = bounded(ground).intake
    ground.file_people(5)
    assert len(intake.append([b"{}"] * 50, "one")) == 50
    assert not intake.backlog_reached()


def test_several_appends_of_one_step_are_refused_one_by_one(ground: Ground) -> None:
    intake = bounded(ground, entries=2).intake
    known = intake.append([b'{"known":1}'], "known")
    results = intake.append_all(
        [Append([b"{}"], "a", "f"), Append([b"{}"], "b"), Append([b"{}"], "known"), Append([b"{}"], "a", "g")]
    )
    assert isinstance(results[0], Appended)
    assert results[1:] == [Reached(Bound.INTAKE, 2, 2), Appended(tuple(known)), NonceReused()]
    assert ground.status().intake == 2


def test_a_nonce_with_a_fingerprint_is_taken_again_only_with_that(ground: Ground) -> None:
    (made,) = ground.store.intake.append_all([Append([b"{}", b"{}"], "n", "print")])
    assert ground.store.intake.append_all([Append([b"{}", b"{}"], "n", "print")]) == [made]
    assert ground.store.intake.append_all([Append([b"[]"], "n", "other")]) == [NonceReused()]
    with pytest.raises(ValueError, match="nonce"):
        ground.store.intake.append([b"{}"], "n")


def test_the_status_says_which_bounds_are_reached(ground: Ground, room_again: None) -> None:
    store = bounded(ground, entries=2, backlog=3, bytes=1, memory_share=0.5)
    assert store.status().full == ()
    ground.file_people(3)
    ground.append(ground.body("a"), ground.body("b"))
    ground.client.config_set("maxmemory", ground.client.info("memory")["used_memory"])
    assert [each.bound for each in store.status().full] == list(Bound)


def test_a_user_who_may_not_ask_for_the_memory_is_bound_by_what_is_counted(ground: Ground) -> None:
    from worker.store.connection import connect

    kwargs = ground.client.connection_pool.connection_kwargs
    ground.client.execute_command(
        "ACL", "SETUSER", "narrow", "on", ">narrow", "~volley:*", "+@all", "-info", "-memory", "-config"
    )
    try:
        with connect(f"redis://narrow:narrow@{kwargs['host']}:{kwargs['port']}/0") as narrow:
            bounds = Bounds(entries=2, bytes=1, backlog=10, memory_share=0.5)
            store = Store(narrow, "default", windows=Windows(60, 60), retention_ms=60_000, bounds=bounds)
            assert len(store.intake.append([b"{}", b"{}"], "one")) == 2
            with pytest.raises(FullError):
                store.intake.append([b"{}"], "two")
            assert [each.bound for each in store.status().full] == [Bound.INTAKE]
    finally:
        ground.client.execute_command("ACL", "DELUSER", "narrow")


def test_appends_hold_json_as_it_was_given(ground: Ground) -> None:
    trigger = json.dumps(ground.body("a")).encode()
    ground.store.intake.append_all([Append([trigger], "n")])
    assert [fields[b"trigger"] for _, fields in ground.client.xrange(ground.store.intake.stream)] == [trigger]
