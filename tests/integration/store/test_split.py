"""Refused batches that are tried again in halves, and claimed batches that ended their workers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from worker.core.model import Reason, Status
from worker.store.batches import Batch, PermitLostError, SplitBy

if TYPE_CHECKING:
    from tests.conftest import Eventually
    from tests.integration.store.conftest import Ground


def _people(batch: Batch | None) -> list[str]:
    assert batch is not None
    return [member.row.recipient.value for member in batch.members]


def test_a_refused_batch_becomes_two_halves_of_its_recipients(ground: Ground) -> None:
    ground.file("a", "b", "c", campaigns=[65, 66])
    assert ground.split(ground.on_the_wire(), SplitBy.RECIPIENTS, budget=7)
    ground.audit()
    assert ground.total(Status.PENDING) == 6
    first, second = ground.claim_part(), ground.claim_part()
    assert (_people(first), _people(second)) == (["a", "b"], ["c"])
    for part in (first, second):
        assert part is not None
        assert part.job is not None
        assert (part.campaigns, part.job.calls, part.job.budget) == ((65, 66), 0, 7)
    assert ground.claim_part() is None
    assert ground.deliveries.view() is None


def test_a_refused_batch_becomes_two_halves_of_its_campaigns(ground: Ground) -> None:
    ground.file("a", "b", campaigns=[65, 66, 67])
    assert ground.split(ground.on_the_wire(), SplitBy.CAMPAIGNS)
    parts = [ground.claim_part(), ground.claim_part()]
    assert [p.campaigns for p in parts if p] == [(65, 66), (67,)]
    assert [p.members[1].deliveries for p in parts if p] == [(3, 4), (5,)]
    for part in parts:
        assert part is not None
        assert ground.deliveries.mark(part, 60_000)
        assert ground.settle(part, Status.ACCEPTED)
    assert set(ground.states().values()) == {Status.ACCEPTED}


def test_halves_of_halves_are_one_job_and_its_calls_are_counted(ground: Ground) -> None:
    ground.file("a", "b", "c", "d")
    ground.split(ground.on_the_wire(), SplitBy.RECIPIENTS)
    half = ground.claim_part()
    assert half is not None
    assert ground.deliveries.mark(half, 60_000)
    assert ground.split(half, SplitBy.RECIPIENTS)
    parts = [ground.claim_part() for _ in range(3)]
    assert [_people(p) for p in parts] == [["a"], ["b"], ["c", "d"]], "deepest first"
    jobs = [p.job for p in parts if p and p.job]
    assert {j.number for j in jobs} == {1}
    assert {j.calls for j in jobs} == {1}


def test_a_split_that_is_settled_twice_makes_its_halves_once(ground: Ground) -> None:
    ground.file("a", "b")
    batch = ground.on_the_wire()
    assert ground.split(batch, SplitBy.RECIPIENTS)
    assert not ground.split(batch, SplitBy.RECIPIENTS)
    assert sorted(ground.drain()) == [0, 1]


def test_what_ended_in_a_part_is_left_out_of_it(ground: Ground) -> None:
    ground.file("a", "b", "c", campaigns=[65, 66])
    ground.split(ground.on_the_wire(), SplitBy.RECIPIENTS)
    assert ground.cancel(0, 1, 3) == 3
    assert ground.claim_part() is None, "only b for 65 is left of it, and waits in its lane"
    ground.audit()
    assert sorted(ground.drain()) == [2, 4, 5]


def test_a_part_of_a_paused_campaign_waits_in_its_lane(ground: Ground) -> None:
    ground.file("a", "b")
    ground.split(ground.on_the_wire(), SplitBy.RECIPIENTS)
    ground.pause("65")
    while ground.deliveries.view() is not None:
        assert ground.claim_part() is None
    ground.audit()
    ground.resume("65")
    assert sorted(ground.drain()) == [0, 1]


def test_a_part_whose_campaign_was_cancelled_whole_blocks_nothing(ground: Ground) -> None:
    ground.file("a", "b")
    ground.split(ground.on_the_wire(), SplitBy.RECIPIENTS)
    ground.cancel(0, 1)
    ground.file("c", name="B")
    assert ground.drain() == [2]
    assert ground.hold("t")
    assert not ground.store.permits.rest("t").kept


def test_a_part_can_only_be_claimed_with_a_permit(ground: Ground) -> None:
    ground.file("a", "b")
    ground.split(ground.on_the_wire(), SplitBy.RECIPIENTS)
    with pytest.raises(PermitLostError):
        ground.deliveries.claim_part("n", "nobody")
    assert sorted(ground.drain()) == [0, 1]


def test_a_part_whose_worker_died_goes_back_to_its_lane(ground: Ground, eventually: Eventually) -> None:
    ground.file("a", "b")
    ground.split(ground.on_the_wire(), SplitBy.RECIPIENTS)
    assert ground.hold("dead", 20)
    assert ground.deliveries.claim_part("n", "dead") is not None
    assert eventually(lambda: ground.deliveries.recover("heir", 60_000)) is True
    ground.audit()
    assert ground.keys("splitting") == set()
    assert sorted(ground.drain()) == [0, 1]


def test_splitting_takes_turns_with_other_work_and_urgent_passes_it(ground: Ground) -> None:
    ground.file("a", "b", "c", "d")
    ground.split(ground.on_the_wire(), SplitBy.RECIPIENTS)
    ground.file("now", priority="urgent", name="code")
    view = ground.deliveries.view()
    assert view is not None
    assert (view.priority, view.flow) == ("u", (65,))
    assert ground.drain()[0] == 4


def test_a_delivery_cancelled_in_a_part_and_sent_again_is_sent_once(ground: Ground) -> None:
    ground.file("a", "b")
    ground.split(ground.on_the_wire(), SplitBy.RECIPIENTS)
    ground.cancel(0)
    ground.requeue(0)
    assert sorted(ground.drain()) == [0, 1]


def _claim_and_die(ground: Ground, token: str) -> None:
    assert ground.hold(token, 20)
    ground.claim(token, recipients=1, lease_ms=20)


def _left(ground: Ground) -> Batch | bool:
    return ground.deliveries.recover("heir", 60_000)


def test_a_content_that_ends_its_workers_one_after_the_other_is_set_apart(
    ground: Ground, eventually: Eventually
) -> None:
    ground.file("a")
    found: list[object] = []
    while not any(isinstance(f, Batch) for f in found):
        _claim_and_die(ground, f"dead {len(found)}")
        found.append(eventually(lambda: _left(ground)))
    poison = found.pop()
    assert found == [True] * 5
    assert isinstance(poison, Batch)
    assert not poison.sent
    assert ground.settle(poison, Status.REJECTED, Reason.POISON)


def test_claims_that_were_all_left_by_one_mishap_are_no_poison(
    ground: Ground, eventually: Eventually
) -> None:
    """A machine that dies with several workers, or a Redis that stalls while three ask three times each."""
    ground.file_people(9)
    for i in range(9):
        _claim_and_die(ground, f"dead {i}")
    last_ms = time.time() * 1000
    eventually(lambda: ground.deliveries.now_ms() > last_ms + 40)
    found = [ground.deliveries.recover(f"heir {i}", 60_000) for i in range(9)]
    assert found == [True] * 9
    assert sorted(ground.drain()) == list(range(9))
