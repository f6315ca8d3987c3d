"""What operators and sweeps do to deliveries that are not on their way: end, send again, forget."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from worker.core.model import Reason, Status
from worker.store.batches import Requeued
from worker.store.cells import SEGMENT

if TYPE_CHECKING:
    from tests.conftest import Eventually
    from tests.integration.store.conftest import Ground

ENDED = [Status.REJECTED, Status.FAILED, Status.UNKNOWN, Status.EXPIRED]


def test_cancelling_frees_the_key(ground: Ground) -> None:
    ground.file("a")
    assert ground.cancel(0) == 1
    assert (ground.cell(0).status, ground.cell(0).reason) == (Status.CANCELLED, Reason.CANCELLED)
    assert ground.file("a").pending == 1
    assert ground.drain() == [1]


def test_cancelling_twice_cancels_once(ground: Ground) -> None:
    ground.file("a")
    endings = ground.endings([0])
    for ended in (1, 0):
        assert (
            ground.deliveries.finish(Status.CANCELLED, Reason.CANCELLED, [Status.PENDING], endings) == ended
        )
    assert ground.total(Status.CANCELLED) == 1


def test_a_delivery_named_twice_in_one_call_is_ended_once(ground: Ground) -> None:
    ground.file("a", "b")
    assert ground.cancel(0, 0) == 1
    assert (ground.total(Status.CANCELLED), ground.total(Status.PENDING)) == (1, 1)


def test_what_is_in_flight_cannot_be_cancelled(ground: Ground) -> None:
    ground.file("a")
    batch = ground.on_the_wire()
    assert ground.cancel(0) == 0
    assert ground.settle(batch, Status.ACCEPTED)


def test_deliveries_of_several_groups_are_ended_together(ground: Ground) -> None:
    ground.file("a")
    ground.file("b", name="B", send_at=time.time() + 3600)
    ground.file("c", name="C")
    assert ground.cancel(0, 1, 2) == 3
    assert ground.deliveries.view() is None


def test_a_campaign_that_was_cancelled_whole_leaves_nothing_in_the_flows(ground: Ground) -> None:
    ground.file("a", "b", campaigns=[65, 66])
    ground.cancel(0, 1, 2, 3)
    assert ground.deliveries.view() is None
    assert ground.keys("lane:*") == ground.keys("flow:*") == ground.keys("ready:*") == set()


@pytest.mark.parametrize("status", ENDED)
def test_what_ended_without_an_acceptance_can_be_sent_again(ground: Ground, status: Status) -> None:
    ground.file("a", "b")
    ground.settle(ground.on_the_wire(), status)
    assert ground.requeue(0, 1) == Requeued(taken=2)
    assert (ground.cell(0).reason, ground.cell(0).attempts) == (Reason.REQUEUED, 0)
    assert ground.key_holders() == {0, 1}
    ground.audit()
    assert sorted(ground.drain()) == [0, 1]


def test_sending_again_twice_takes_none_the_second_time(ground: Ground) -> None:
    ground.file("a")
    ground.settle(ground.on_the_wire(), Status.FAILED)
    assert ground.requeue(0, 0) == Requeued(taken=1, moved_on=1)
    assert ground.requeue(0) == Requeued(moved_on=1)
    assert ground.drain() == [0]


@pytest.mark.parametrize("status", [Status.ACCEPTED, Status.RETRYING])
def test_what_was_accepted_or_still_moves_is_not_sent_again(ground: Ground, status: Status) -> None:
    ground.file("a")
    ground.settle(ground.on_the_wire(), status, due_ms=3_600_000 if status is Status.RETRYING else None)
    assert ground.requeue(0) == Requeued(moved_on=1)


def test_a_duplicate_is_not_sent_again(ground: Ground) -> None:
    ground.file("a", "a")
    assert ground.requeue(1) == Requeued(moved_on=1)


def test_a_delivery_whose_key_another_one_holds_now_is_not_sent_again(ground: Ground) -> None:
    ground.file("a")
    ground.settle(ground.on_the_wire(), Status.FAILED)
    ground.file("a")
    assert ground.requeue(0) == Requeued(key_held=1)
    assert ground.states() == {0: Status.FAILED, 1: Status.PENDING}
    assert ground.key_holders() == {1}


def test_of_two_failed_deliveries_with_one_key_only_one_is_sent_again(ground: Ground) -> None:
    for _ in range(2):
        ground.file("a")
        ground.settle(ground.on_the_wire(), Status.FAILED)
    assert ground.requeue(0, 1) == Requeued(taken=1, key_held=1)
    assert ground.drain() == [0]


def test_an_unknown_delivery_still_holds_its_key_and_is_sent_again_under_it(ground: Ground) -> None:
    ground.file("a")
    ground.settle(ground.on_the_wire(), Status.UNKNOWN, Reason.NO_ANSWER)
    assert ground.key_holders() == {0}
    assert ground.requeue(0) == Requeued(taken=1)
    assert ground.file("a").duplicates == 1


def test_a_delivery_without_a_key_is_sent_again_without_one(ground: Ground) -> None:
    ground.file("a", dedupe_window=0)
    ground.settle(ground.on_the_wire(), Status.FAILED)
    assert ground.requeue(0) == Requeued(taken=1)
    assert ground.dedupe_keys() == {}


def test_a_delivery_whose_content_is_forgotten_cannot_be_sent_again(
    forgetful_ground: Ground, eventually: Eventually
) -> None:
    ground = forgetful_ground
    ground.file("a")
    ground.settle(ground.on_the_wire(), Status.FAILED)
    eventually(lambda: not ground.keys("group:*"))
    assert ground.requeue(0) == Requeued(content_gone=1)
    (outcome,) = ground.outcomes.of([0])
    assert (outcome.priority, outcome.digest) == (None, "")


def test_a_group_that_is_needed_again_does_not_expire(ground: Ground) -> None:
    ground.file("a")
    ground.settle(ground.on_the_wire(), Status.FAILED)
    assert ground.client.pttl(f"{ground.root}group:1") > 0
    ground.requeue(0)
    assert ground.client.pttl(f"{ground.root}group:1") == -1
    ground.drain()
    ground.file("b")
    assert ground.keys("group:*") == {"group:1"}
    assert ground.client.pttl(f"{ground.root}group:1") == -1


def test_segments_are_forgotten_with_their_counts_when_all_have_ended(
    forgetful_ground: Ground, eventually: Eventually
) -> None:
    ground = forgetful_ground
    ground.file_people(SEGMENT)
    ground.drain()
    ground.file("next", campaigns=[66])
    eventually(lambda: ground.deliveries.retire()[0])
    assert ground.outcomes.of(range(SEGMENT)) == []
    assert ground.outcomes.counts() == {(66, Status.PENDING): 1}
    assert ground.drain() == [SEGMENT]
    assert ground.keys("seg:0*") == set()


def test_the_segment_that_is_being_filled_is_not_forgotten(
    forgetful_ground: Ground, eventually: Eventually
) -> None:
    ground = forgetful_ground
    ground.file("a")
    ground.drain()
    eventually(lambda: ground.client.zscore(f"{ground.root}segments", 0) < ground.deliveries.now_ms() - 1)
    assert ground.deliveries.retire()[0] == 0
    ground.file("b", name="B")
    assert [o.recipient.value for o in ground.outcomes.of([0, 1])] == ["a", "b"]
    ground.cancel(1)
    ground.audit()


@pytest.mark.parametrize("status", [Status.PENDING, Status.SCHEDULED, Status.IN_FLIGHT, Status.RETRYING])
def test_a_segment_with_one_live_delivery_stays(
    forgetful_ground: Ground, eventually: Eventually, status: Status
) -> None:
    ground = forgetful_ground
    ground.file_people(SEGMENT - 1, campaigns=[66])
    ground.drain()
    ground.file("live", send_at=time.time() + 3600 if status is Status.SCHEDULED else None)
    if status is Status.IN_FLIGHT:
        ground.claim()
    if status is Status.RETRYING:
        ground.settle(ground.on_the_wire(), status, due_ms=3_600_000)
    ground.file("next segment", campaigns=[67])
    touched = ground.client.zscore(f"{ground.root}segments", 0)
    eventually(lambda: ground.deliveries.now_ms() > touched + 5)
    assert ground.deliveries.retire()[0] == 0
    assert ground.cell(SEGMENT - 1).status is status
    assert ground.client.zscore(f"{ground.root}segments", 0) > touched, "it is looked at one retention later"


def test_forgetting_is_bounded_and_says_that_there_is_more(
    forgetful_ground: Ground, eventually: Eventually
) -> None:
    ground = forgetful_ground
    ground.file_people(3 * SEGMENT + 1)
    ground.drain()
    eventually(lambda: ground.deliveries.now_ms() > ground.client.zscore(f"{ground.root}segments", 3) + 5)
    assert ground.deliveries.retire(2) == (2, True)
    ground.deliveries.retire(2)
    assert len(list(ground.outcomes.of(range(4 * SEGMENT)))) == 1


def test_nothing_is_forgotten_before_its_time(ground: Ground) -> None:
    ground.file_people(SEGMENT + 1)
    ground.drain()
    assert ground.deliveries.retire() == (0, False)


def test_an_expiry_of_forgotten_deliveries_is_done_without_a_fault(
    forgetful_ground: Ground, eventually: Eventually
) -> None:
    ground = forgetful_ground
    ground.file_people(SEGMENT, expires_at=time.time() + 0.5)
    ground.drain()
    ground.file("next", campaigns=[66])
    eventually(lambda: ground.deliveries.retire()[0])
    due = eventually(ground.deliveries.due_ending)
    assert ground.outcomes.of(due.deliveries) == []
    ground.deliveries.ending_done(due)
    assert ground.deliveries.due_ending() is None
    ground.cancel(SEGMENT)
