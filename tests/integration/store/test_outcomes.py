"""What became of deliveries: every way to look them up, and the counters."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest

from worker.core.model import Kind, Priority, Reason, Status
from worker.store.batches import FateRow
from worker.store.cells import SEGMENT, index_hash
from worker.store.outcomes import Filter, Outcome

if TYPE_CHECKING:
    from tests.conftest import Eventually
    from tests.integration.store.conftest import Ground


def _numbers(outcomes: Iterable[Outcome]) -> list[int]:
    return [o.delivery for o in outcomes]


def test_an_outcome_tells_all_about_a_delivery(ground: Ground) -> None:
    expires_at = int(time.time()) + 600
    before = ground.deliveries.now_ms()
    (entry,) = ground.append(
        ground.body("a@x", id="order-7", priority="urgent", source="shop", expires_at=expires_at)
    )
    ground.deliveries.accept([s for e in ground.read() for s in ground.sections(e)], [], 3)
    batch = ground.on_the_wire()
    ground.settle(batch, Status.REJECTED, Reason.INVALID_RECIPIENT, text="Invalid recipients")
    (o,) = ground.outcomes.of([0])
    assert (o.delivery, o.status, o.reason) == (0, Status.REJECTED, Reason.INVALID_RECIPIENT)
    assert (o.campaign, o.recipient.kind, o.recipient.value) == (65, Kind.EMAIL, "a@x")
    assert (o.trigger, o.producer_id, o.source, o.priority) == (entry, "order-7", "shop", Priority.URGENT)
    assert (o.attempts, o.http, o.batch, o.duplicate_of) == (1, 200, batch.number, None)
    assert (o.expires_at_ms, o.text, o.digest) == (expires_at * 1000, "Invalid recipients", batch.digest)
    assert before <= o.first_ms <= o.updated_ms <= ground.deliveries.now_ms()
    assert "a@x" not in repr(o)


def test_a_trigger_is_found_by_its_entry_over_segment_borders(ground: Ground) -> None:
    ground.file_people(SEGMENT - 3)
    (entry,) = ground.append(ground.body(*(f"v{i}" for i in range(1200)), campaigns=[65, 66]))
    for piece in ground.sections(ground.read()[0], 500):
        ground.deliveries.accept([piece], [], 3)
    ground.file_people(5, name="after")
    found = list(ground.outcomes.by_trigger(entry))
    assert _numbers(found) == list(range(SEGMENT - 3, SEGMENT - 3 + 2400))


def test_pieces_of_a_trigger_that_lie_apart_are_all_found(ground: Ground) -> None:
    (entry,) = ground.append(ground.body("a", "b", "c"))
    pieces = ground.sections(ground.read()[0], 1)
    for piece in pieces:
        ground.deliveries.accept([piece], [], 3)
        ground.file("between", name=f"after {piece.piece}")
    assert _numbers(ground.outcomes.by_trigger(entry)) == [0, 2, 4]


def test_the_producers_id_finds_all_its_triggers(ground: Ground) -> None:
    ground.file("a", "b", id="order-7")
    ground.file("c", id="order-8")
    ground.file("d", name="B", id="order-7")
    assert _numbers(ground.outcomes.by_producer_id("order-7")) == [0, 1, 3]
    assert _numbers(ground.outcomes.by_producer_id("order-9")) == []


def test_a_recipient_is_found_of_any_kind_or_of_one(ground: Ground) -> None:
    ground.file("x", campaigns=[65, 66])
    ground.accept({**ground.body("y"), "to": {"objectId": ["x"], "identity": ["y"]}})
    ground.file("x", name="B")
    assert sorted(_numbers(ground.outcomes.by_recipient("x"))) == [0, 1, 3, 4]
    assert _numbers(ground.outcomes.by_recipient("x", Kind.OBJECT_ID)) == [3]
    assert _numbers(ground.outcomes.by_recipient("x", Kind.EMAIL)) == []


def test_a_recipient_is_found_by_letters_of_any_script(ground: Ground) -> None:
    name = 'Åsa\u0000😀 "quoted\\"'
    ground.file(name)
    assert [o.recipient.value for o in ground.outcomes.by_recipient(name)] == [name]


def test_values_that_share_a_hash_are_told_apart(ground: Ground) -> None:
    ground.file("a")
    ground.file("b")
    # The entry of b, in the bucket and under the hash of a: what a collision looks like.
    wanted = index_hash("i", "a")
    (bucket,) = ground.keys(f"ix:*:{wanted[0]}") or {""}
    ground.client.append(ground.root + bucket, wanted[1:5] + (1).to_bytes(6, "big"))
    assert _numbers(ground.outcomes.by_recipient("a")) == [0]


def test_a_hash_across_the_border_of_two_index_entries_is_no_find(ground: Ground) -> None:
    ground.file("a")
    wanted = index_hash("i", "zz")
    day = ground.deliveries.now_ms() // 86_400_000
    crooked = b"\0" * 8 + wanted[1:5] + b"\0" * 8
    ground.client.append(f"{ground.root}ix:{day}:{wanted[0]}", crooked)
    assert _numbers(ground.outcomes.by_recipient("zz")) == []


def test_a_delivery_for_another_day_is_found(ground: Ground) -> None:
    ground.file("a", id="later", send_at=time.time() + 40 * 86_400)
    assert _numbers(ground.outcomes.by_recipient("a")) == [0]
    assert _numbers(ground.outcomes.by_producer_id("later")) == [0]


def test_the_index_outlives_what_it_points_to(ground: Ground) -> None:
    ground.file("a", send_at=time.time() + 40 * 86_400)
    for key in ground.keys("ix:*"):
        assert ground.client.pttl(ground.root + key) > 41 * 86_400_000


@pytest.fixture
def varied(ground: Ground) -> Ground:
    """Two segments: campaign 65 accepted, 66 rejected, 67 cancelled, 68 pending."""
    ground.file_people(1000, campaigns=[65, 66])
    batch = ground.on_the_wire()
    fates = [
        FateRow(Status.ACCEPTED, Reason.NONE, 1, None),
        FateRow(Status.REJECTED, Reason.REFUSED, 1, None),
    ]
    freed = [e for e in ground.endings_of(batch) if e.delivery % 2]
    ground.deliveries.settle(batch, http=200, text="", fates=fates, assignment=b"\1\2" * 1000, freed=freed)
    ground.file_people(10, campaigns=[67])
    ground.cancel(*range(2000, 2010))
    ground.file_people(10, campaigns=[68])
    return ground


def test_deliveries_are_selected_newest_first(varied: Ground) -> None:
    found = _numbers(varied.outcomes.select(Filter()))
    assert found == list(range(2019, -1, -1))


def test_deliveries_are_selected_by_campaign_and_status(varied: Ground) -> None:
    select = varied.outcomes.select
    assert _numbers(select(Filter(campaigns=frozenset({66})))) == list(range(1999, 0, -2))
    assert _numbers(select(Filter(statuses=frozenset({Status.CANCELLED})))) == list(range(2009, 1999, -1))
    both = Filter(frozenset({65, 68}), frozenset({Status.PENDING}))
    assert _numbers(select(both)) == list(range(2019, 2009, -1))
    assert _numbers(select(Filter(frozenset({65}), frozenset({Status.REJECTED})))) == []


def test_deliveries_are_selected_by_the_time_of_their_last_change(
    varied: Ground, eventually: Eventually
) -> None:
    last = max(o.updated_ms for o in varied.outcomes.select(Filter()))
    eventually(lambda: varied.deliveries.now_ms() > last)
    varied.cancel(2015)
    after = varied.outcomes.of([2015])[0].updated_ms
    assert _numbers(varied.outcomes.select(Filter(since_ms=after))) == [2015]
    assert len(_numbers(varied.outcomes.select(Filter(until_ms=after)))) == 2019
    assert _numbers(varied.outcomes.select(Filter(since_ms=after, until_ms=after))) == []


def test_a_look_up_can_be_filtered(varied: Ground) -> None:
    only = Filter(statuses=frozenset({Status.ACCEPTED}))
    assert _numbers(varied.outcomes.by_recipient("u3", only=only)) == [6]
    assert len(_numbers(varied.outcomes.by_recipient("u3"))) == 4


def test_outcomes_come_in_the_order_that_was_asked_for(varied: Ground) -> None:
    for wanted in ([5, 3, 1], [1023, 1024, 1025], [1025, 1024, 1023], [7], [2019, 0, 1500, 1]):
        assert _numbers(varied.outcomes.of(wanted)) == wanted


def test_deliveries_that_never_were_are_left_out(varied: Ground) -> None:
    assert _numbers(varied.outcomes.of([2019, 2020, 5000])) == [2019]
    assert varied.outcomes.of([]) == []


def test_counts_and_the_snapshot_agree_with_the_deliveries(varied: Ground) -> None:
    assert varied.outcomes.counts() == {
        (65, Status.ACCEPTED): 1000,
        (66, Status.REJECTED): 1000,
        (67, Status.CANCELLED): 10,
        (68, Status.PENDING): 10,
    }
    snapshot = varied.status()
    assert snapshot.counts == varied.outcomes.counts()
    assert (snapshot.live, snapshot.total(Status.ACCEPTED)) == (10, 1000)


def test_the_snapshot_of_an_account_that_never_was_is_empty(ground: Ground) -> None:
    snapshot = ground.status()
    assert (snapshot.counts, snapshot.live, snapshot.intake, snapshot.dead_letters) == ({}, 0, 0, 0)
    assert (snapshot.permits_held, snapshot.accept_tasks) == (0, 0)
    assert (snapshot.next_due_ms, snapshot.swept_ms, snapshot.paused) == (None, None, frozenset())


def test_the_snapshot_shows_what_holds_things_up(ground: Ground) -> None:
    ground.pause("65")
    ground.append(ground.body("a"))
    ground.file("b", send_at=time.time() + 100)
    ground.deliveries.swept()
    ground.append(ground.body("c"))
    snapshot = ground.status()
    assert snapshot.paused == {"65"}
    assert snapshot.intake == 1
    assert (snapshot.next_due_ms or 0) > snapshot.now_ms
    assert 0 < (snapshot.swept_ms or 0) <= snapshot.now_ms


def test_a_look_up_while_a_trigger_is_being_accepted_sees_it_whole_or_not_at_all(ground: Ground) -> None:
    """A look-up asks for cells and then for rows; a trigger may be accepted between the two."""
    ground.file("a")
    first, later = ground.outcomes.of([0])[0], ground.root
    ground.client.rpush(f"{later}seg:0:rows", ground.client.lindex(f"{later}seg:0:rows", 0))
    try:
        assert ground.outcomes.of([0, 1]) == [first]
        assert list(ground.outcomes.by_recipient("a")) == [first]
    finally:
        ground.client.rpop(f"{later}seg:0:rows")


def test_a_trigger_whose_first_deliveries_are_forgotten_is_found_by_the_rest(ground: Ground) -> None:
    (entry,) = ground.append(ground.body(*(f"u{i}" for i in range(SEGMENT + 10))))
    ground.deliveries.accept(ground.sections(ground.read()[0]), [], 3)
    ground.drain()
    # What retire.lua does once nothing has changed in the first segment for the retention.
    counted = ground.client.hgetall(f"{ground.root}seg:0")
    for name, value in counted.items():
        if name != b"live":
            ground.client.hincrby(f"{ground.root}counts", name, -int(value))
    ground.client.unlink(*(f"{ground.root}seg:0{part}" for part in ("", ":cells", ":rows")))
    ground.client.zrem(f"{ground.root}segments", 0)
    assert _numbers(ground.outcomes.by_trigger(entry)) == list(range(SEGMENT, SEGMENT + 10))
