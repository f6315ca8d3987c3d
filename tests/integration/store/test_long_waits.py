"""What waits for longer than anybody thought of: past the index, past a crash, past its expires_at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest

from worker.core.model import WAITING, Reason, Status
from worker.engine.cancelling import end_waiting
from worker.store.batches import HeldBackError
from worker.store.control import Named

if TYPE_CHECKING:
    from tests.integration.store.conftest import Clock, Ground

DAY_MS = 86_400_000


def filed_ten_days_ago(ground: Ground, clock: Clock) -> Named:
    """Two deliveries of campaign 65, paused since they were accepted; their index is forgotten."""
    today = clock.now_ms
    clock.set(today - 10 * DAY_MS)
    trigger = orjson.dumps(ground.body("a", "b", id="launch"))
    ground.client.xadd(f"{ground.root}intake", {"trigger": trigger}, id=f"{clock.now_ms}-1")
    ground.deliveries.accept([part for entry in ground.read() for part in ground.sections(entry)], [], 3)
    ground.pause("65")
    clock.set(today)
    ground.deliveries.retire()
    return Named.trigger(f"{today - 10 * DAY_MS}-1")


@pytest.mark.parametrize("by", ["trigger", "producer_id"])
def test_a_cancel_finds_what_has_waited_longer_than_the_index_remembers(
    ground: Ground, clock: Clock, by: str
) -> None:
    ground = type(ground)(ground.client, retention_ms=7 * DAY_MS)
    what = filed_ten_days_ago(ground, clock)
    named = what if by == "trigger" else Named.producer_id("launch")
    (order,) = ground.store.control.begin_cancel([named])
    assert sum(end_waiting(ground.store, order)) == 2
    assert ground.store.control.cancels() == []
    ground.resume("65")
    assert ground.drain() == []
    assert {outcome.status for outcome in ground.outcomes.of([0, 1])} == {Status.CANCELLED}


def test_a_resume_that_died_is_finished_by_the_sweep_while_another_hold_stands(ground: Ground) -> None:
    ground.file("a", "b")
    what = Named.trigger(ground.outcomes.of([0])[0].trigger)
    control = ground.store.control
    control.hold(what)
    control.hold(Named.producer_id("not-yet"))
    assert ground.drain() == []
    # What `volley resume --trigger` does first; then it dies.
    ground.client.hset(f"{ground.root}freeing", what.name, 1)
    ground.client.hdel(f"{ground.root}held", what.name)
    assert control.let_strays_go(ground.outcomes) == 2
    assert control.let_strays_go(ground.outcomes) == 0
    assert ground.drain() == [0, 1]


def test_a_delivery_that_went_away_while_it_was_to_expire_is_looked_at_again(ground: Ground) -> None:
    ground.file("a", expires_at=ground.deliveries.now_ms() / 1000 + 3600)
    for slot in ground.client.zrange(f"{ground.root}expiry", 0, -1):
        ground.client.zadd(f"{ground.root}expiry", {slot: 1})
    due = ground.deliveries.due_ending()
    assert due is not None
    waiting = ground.outcomes.of(due.deliveries)
    batch = ground.claim()  # another process, right here
    endings = [ground.deliveries.ending_of(outcome) for outcome in waiting]
    ended = ground.deliveries.finish(Status.EXPIRED, Reason.EXPIRED, WAITING, endings)
    assert ended < len(waiting), "so the sweep keeps the range"
    ground.deliveries.ending_done(due, 60_000)
    ground.pause("65")
    with pytest.raises(HeldBackError):
        ground.deliveries.mark(batch, 60_000)
    assert ground.client.zcard(f"{ground.root}expiry") == 1


def test_a_scheduled_delivery_that_is_sent_again_after_a_cancel_waits_for_its_send_at(ground: Ground) -> None:
    ground.file("a", send_at=ground.deliveries.now_ms() // 1000 + 3600)
    ground.cancel(0)
    assert ground.requeue(0).taken == 1
    assert ground.drain() == []
    assert ground.cell(0).status is Status.SCHEDULED


def test_a_lane_that_somebody_deleted_does_not_stop_the_server(ground: Ground) -> None:
    ground.file("a")
    ground.file("b", ExternalTrigger={"Name": "other"})
    ground.client.delete(ground.root + min(ground.keys("lane:*")))
    assert len(ground.drain()) == 1
    assert ground.deliveries.view() is None
    ground.client.flushall()  # what it did to the server is no state that an audit allows


def test_what_expired_between_claim_and_mark_is_not_sent(ground: Ground) -> None:
    ground.file("a", expires_at=ground.deliveries.now_ms() / 1000 + 3600)
    batch = ground.claim()
    with pytest.raises(HeldBackError):
        ground.deliveries.mark(batch, 60_000, expires_ms=ground.deliveries.now_ms() - 1)
    assert ground.cell(0).status is Status.PENDING
    assert ground.deliveries.mark(ground.claim(), 60_000, expires_ms=ground.deliveries.now_ms() + 60_000)
