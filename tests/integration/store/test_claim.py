"""What is due, and the batches that are made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from worker.core.model import Reason, Status
from worker.core.planning import PATIENCE_MS, Limits, Plan, Take, plan
from worker.store.batches import PermitLostError

if TYPE_CHECKING:
    from tests.conftest import Eventually
    from tests.integration.store.conftest import Clock, Ground
    from worker.store.batches import Batch


def test_nothing_is_due_in_an_empty_account(ground: Ground) -> None:
    assert ground.deliveries.view() is None


def test_a_view_shows_the_lanes_of_the_groups_at_the_front(ground: Ground) -> None:
    ground.file("a", "b", campaigns=[65, 66])
    ground.file("c", campaigns=[65])
    view = ground.deliveries.view()
    assert view is not None
    assert (view.priority, view.blocked) == ("n", frozenset())
    (group,) = view.groups
    assert sorted((lane.campaigns, lane.rows) for lane in group.lanes) == [((65,), 1), ((65, 66), 2)]
    assert all(0 <= view.now_ms - lane.since_ms < 60_000 for lane in group.lanes)


def test_a_view_is_bounded_however_many_groups_wait(ground: Ground) -> None:
    ground.accept(*(ground.body("a", name=f"order {i}") for i in range(40)))
    view = ground.deliveries.view()
    assert view is not None
    assert len(view.groups) == 16
    assert sorted(ground.drain()) == list(range(40))


def test_a_view_shows_a_group_that_has_waited_too_long_alone_and_says_that_others_wait(
    clock: Clock, ground: Ground
) -> None:
    ground.accept(*(ground.body("a", name=f"order {i}") for i in range(3)))
    shown = []
    for ms in (PATIENCE_MS, 1, 0, 0):
        clock.advance(ms)
        view = ground.deliveries.view()
        assert view is not None
        shown.append((len(view.groups), view.others))
        if len(view.groups) < 3:
            assert numbers_of(ground.on_the_wire()) == [len(shown) - 2]
    assert shown == [(3, False), (1, True), (1, True), (1, False)]


def test_urgent_goes_before_normal_and_normal_before_bulk(ground: Ground) -> None:
    for priority in ("bulk", "normal", "urgent"):
        ground.file("a", name=priority, priority=priority)
    assert ground.drain() == [2, 1, 0]


def test_urgent_work_that_comes_later_passes_bulk_that_waits(ground: Ground) -> None:
    ground.file_people(5, priority="bulk")
    assert len(ground.claim(recipients=2)) == 2
    ground.file("code", priority="urgent")
    assert [m.row.recipient.value for m in ground.claim(recipients=2).members] == ["code"]
    assert len(ground.claim(recipients=2)) == 2


def test_campaigns_of_one_priority_take_turns(ground: Ground) -> None:
    for campaign in (1, 2, 3):
        ground.file_people(4, campaigns=[campaign], name=str(campaign))
    turns = [ground.claim(recipients=1).campaigns[0] for _ in range(12)]
    for first in range(0, 12, 3):
        assert set(turns[first : first + 3]) == {1, 2, 3}, turns


def test_a_campaign_that_comes_later_neither_waits_for_the_others_nor_holds_them_up(ground: Ground) -> None:
    ground.file_people(20, campaigns=[1])
    for _ in range(10):
        ground.claim(recipients=1)
    ground.file_people(10, campaigns=[2])
    turns = [ground.claim(recipients=1).campaigns[0] for _ in range(8)]
    assert 3 <= turns.count(2) <= 5, turns


def test_a_campaign_that_was_paused_does_not_hold_up_the_others_when_it_is_resumed(ground: Ground) -> None:
    ground.file_people(20, campaigns=[1])
    ground.file_people(60, campaigns=[2], name="B")
    ground.claim(recipients=1)
    ground.pause("1")
    for _ in range(30):
        ground.claim(recipients=1)
    ground.resume("1")
    turns = [ground.claim(recipients=1).campaigns[0] for _ in range(10)]
    assert turns.count(2) >= 3, turns


def test_a_batch_carries_its_members_content_and_campaigns(ground: Ground) -> None:
    ground.file("a@x", "b", "#c", campaigns=[65, 66], id="order-7", source="shop")
    batch = ground.claim()
    assert batch.campaigns == (65, 66)
    assert batch.content == b'{"Name":"A"}'
    assert [m.deliveries for m in batch.members] == [(0, 1), (2, 3), (4, 5)]
    assert [m.row.recipient.value for m in batch.members] == ["a@x", "b", "#c"]
    assert {m.row.producer_id for m in batch.members} == {"order-7"}
    assert {m.row.source for m in batch.members} == {"shop"}
    assert [t.campaign for m in batch.members for t in m.told] == [65, 66] * 3
    assert {(t.reason, t.attempts) for m in batch.members for t in m.told} == {(Reason.NONE, 0)}
    assert ground.total(Status.IN_FLIGHT) == 6


def test_claiming_takes_no_more_than_the_plan_says(ground: Ground) -> None:
    ground.file_people(2500)
    sizes = [len(ground.claim()) for _ in range(3)]
    assert sizes == [1000, 1000, 500]
    assert ground.deliveries.view() is None


def test_a_batch_over_segment_borders_has_the_right_rows(ground: Ground) -> None:
    ground.file_people(1020)
    ground.drain()
    ground.file(*(f"v{i}" for i in range(5)), campaigns=[65, 66, 67])
    batch = ground.claim()
    assert [m.row.recipient.value for m in batch.members] == [f"v{i}" for i in range(5)]
    assert [m.deliveries[0] for m in batch.members] == list(range(1020, 1035, 3))


def test_claiming_without_a_permit_is_refused_and_takes_nothing(ground: Ground) -> None:
    ground.file("a")
    view = ground.deliveries.view()
    assert view is not None
    planned = plan(view, Limits(1000, 5))
    assert planned is not None
    with pytest.raises(PermitLostError):
        ground.deliveries.claim(planned, "nobody")
    assert ground.states() == {0: Status.PENDING}


def test_claiming_with_a_lapsed_permit_is_refused(ground: Ground, eventually: Eventually) -> None:
    ground.file("a")
    view = ground.deliveries.view()
    assert view is not None
    planned = plan(view, Limits(1000, 5))
    assert planned is not None
    assert ground.hold("t", 20, most=100)
    eventually(lambda: ground.free(100) == 100)
    with pytest.raises(PermitLostError):
        ground.deliveries.claim(planned, "t")
    assert ground.states() == {0: Status.PENDING}


def test_a_plan_whose_rows_were_taken_meanwhile_claims_nothing(ground: Ground) -> None:
    ground.file("a")
    view = ground.deliveries.view()
    assert view is not None
    planned = plan(view, Limits(1000, 5))
    assert planned is not None
    ground.claim("first")
    assert ground.hold("second", 60_000, most=100)
    assert ground.deliveries.claim(planned, "second") is None
    assert ground.states() == {0: Status.IN_FLIGHT}


def test_cancelled_rows_are_passed_over(ground: Ground) -> None:
    ground.file_people(6)
    assert ground.cancel(0, 2, 5) == 3
    assert [m.deliveries[0] for m in ground.claim().members] == [1, 3, 4]
    assert ground.deliveries.view() is None


def test_a_long_stretch_of_cancelled_rows_is_cleared_over_several_claims(ground: Ground) -> None:
    for i in range(13):
        ground.file(*(f"{i}-{j}" for j in range(500)))
    ground.file("last", campaigns=[65])
    for first in range(0, 6500, 500):
        assert ground.cancel(*range(first, first + 500)) == 500
    assert ground.drain() == [6500]


def test_a_row_with_one_campaign_cancelled_goes_on_for_the_others(ground: Ground) -> None:
    ground.file("a", "b", campaigns=[65, 66, 67])
    ground.cancel(1)
    assert sorted(ground.drain()) == [0, 2, 3, 4, 5]


def test_campaigns_beyond_the_limit_of_a_call_wait_for_the_next_one(ground: Ground) -> None:
    ground.file("a", "b", campaigns=[1, 2, 3, 4, 5, 6, 7])
    first, second = ground.claim(), ground.claim()
    assert first.campaigns == (1, 2, 3, 4, 5)
    assert second.campaigns == (6, 7)
    assert sorted(n for b in (first, second) for m in b.members for n in m.deliveries) == list(range(14))


def test_a_row_loses_campaigns_call_by_call_and_none_of_them_twice(ground: Ground) -> None:
    ground.file("a", campaigns=[1, 2, 3])
    ground.file("b", campaigns=[2])
    ground.pause("1")
    assert ground.claim(campaigns=1, recipients=2).campaigns in {(2,), (3,)}
    ground.resume("1")
    assert ground.hold("t", 60_000, most=100)
    while ground.deliveries.view() is not None:
        ground.claim(campaigns=1)
    assert set(ground.states().values()) == {Status.IN_FLIGHT}


def test_lanes_of_the_same_people_share_a_call(ground: Ground) -> None:
    ground.file("a", campaigns=[65, 66])
    ground.file("b", campaigns=[65])
    ground.file("c", campaigns=[66])
    both = ground.claim(), ground.claim()
    assert [len(batch.members) for batch in both] == [2, 2]
    assert sorted(n for batch in both for m in batch.members for n in m.deliveries) == [0, 1, 2, 3]


def test_only_the_campaigns_that_a_plan_names_are_taken(ground: Ground) -> None:
    ground.file("a", campaigns=[1, 2, 3])
    assert ground.hold("t", 60_000, most=100)
    planned = Plan("n", (1, 2, 3), 1, (1, 3), (Take((1, 2, 3), 1),))
    batch = ground.deliveries.claim(planned, "t")
    assert batch is not None
    assert [m.deliveries for m in batch.members] == [(0, 2)]
    assert ground.drain() == [1]


def test_paused_campaigns_wait_and_the_others_go(ground: Ground) -> None:
    ground.file("a", campaigns=[65, 66])
    ground.pause("65")
    assert ground.drain() == [1]
    assert ground.states() == {0: Status.PENDING, 1: Status.ACCEPTED}
    ground.resume("65")
    assert ground.drain() == [0]


def test_nothing_is_due_while_all_is_paused(ground: Ground) -> None:
    ground.file("a", priority="urgent")
    ground.pause("*")
    assert ground.deliveries.view() is None
    ground.resume("*")
    assert ground.drain() == [0]


def test_a_delivery_cancelled_and_sent_again_is_in_a_batch_once(ground: Ground) -> None:
    ground.file("a", "b")
    assert ground.cancel(0) == 1
    assert ground.requeue(0).taken == 1
    batch = ground.claim()
    assert sorted(n for m in batch.members for n in m.deliveries) == [0, 1]
    assert ground.total(Status.IN_FLIGHT) == 2


def test_a_row_cancelled_in_part_and_sent_again_is_taken_apart_once(ground: Ground) -> None:
    ground.file("a", "b", campaigns=[65, 66])
    ground.cancel(0, 1)
    ground.requeue(0, 1)
    ground.audit()
    assert sorted(ground.drain()) == [0, 1, 2, 3]


def test_resuming_a_campaign_that_was_cancelled_and_forgotten_blocks_nothing(
    forgetful_ground: Ground, eventually: Eventually
) -> None:
    ground = forgetful_ground
    ground.pause("65")
    ground.file("a")
    ground.cancel(0)
    eventually(lambda: not ground.keys("group:*"))
    ground.resume("65")
    ground.file("b", campaigns=[66])
    assert ground.drain() == [1]
    assert ground.hold("t", 60_000, most=100)
    assert not ground.store.permits.rest("t").kept, "an empty flow must not look like work"


def test_the_first_attempt_is_noted_when_it_begins(ground: Ground) -> None:
    ground.file("a")
    accepted_ms = ground.cell(0).first_ms
    ground.client.setrange(f"{ground.root}seg:0:cells", 21, b"\0\0\0\0\1")
    assert ground.cell(0).first_ms < accepted_ms
    (member,) = ground.claim().members
    assert member.told[0].first_ms >= accepted_ms


def numbers_of(batch: Batch) -> list[int]:
    return [n for member in batch.members for n in member.deliveries]


def _recipients(batch: Batch) -> list[str]:
    return [member.row.recipient.value for member in batch.members]


def test_nobody_is_in_a_call_twice_and_the_later_row_waits_for_the_next_one(ground: Ground) -> None:
    ground.file("a", "b", dedupe_key="first")
    ground.file("a", "c", dedupe_key="second")
    ground.file("a", dedupe_window=0)
    calls = [ground.on_the_wire() for _ in range(3)]
    assert [_recipients(batch) for batch in calls] == [["a", "b", "c"], ["a"], ["a"]]
    assert [numbers_of(batch) for batch in calls] == [[0, 1, 3], [2], [4]]
    assert ground.deliveries.view() is None


def test_the_same_person_of_two_lanes_is_in_a_call_once(ground: Ground) -> None:
    ground.file("a", "b", campaigns=[65, 66], dedupe_key="first")
    ground.file("a", "c", campaigns=[65], dedupe_key="second")
    batches = []
    while ground.deliveries.view() is not None:
        batches.append(ground.on_the_wire(campaigns=1))
    assert sorted(n for batch in batches for m in batch.members for n in m.deliveries) == list(range(6))
    for batch in batches:
        assert len(set(_recipients(batch))) == len(batch.members)


@pytest.mark.parametrize("name", ['q"uote', "back\\slash", "\u0007bell", "plain", "a@x", "ü"])
def test_a_person_is_known_again_whatever_the_name_looks_like(ground: Ground, name: str) -> None:
    ground.file(name, "z" + name, dedupe_key="first")
    ground.file(name, "z" + name, dedupe_key="second")
    assert [_recipients(ground.on_the_wire()) for _ in range(2)] == [[name, "z" + name]] * 2


def test_rows_of_one_person_do_not_keep_the_others_of_a_lane_waiting(ground: Ground) -> None:
    for i in range(12):
        ground.file("a", dedupe_key=f"key {i}")
    ground.file("b", "c")
    assert _recipients(ground.on_the_wire(recipients=3)) == ["a", "b", "c"]
    assert sorted(ground.drain()) == list(range(1, 12))


def test_a_person_who_was_tried_before_is_not_in_a_call_twice(ground: Ground) -> None:
    ground.file("a", "b", campaigns=[65, 66], dedupe_key="first")
    assert ground.settle(ground.on_the_wire(), Status.PENDING, Reason.THROTTLED, counted=0)
    ground.file("b", "a", campaigns=[65, 66], dedupe_key="second")
    assert [_recipients(ground.on_the_wire()) for _ in range(2)] == [["a", "b"], ["b", "a"]]


def test_rows_over_a_segment_border_and_rows_that_differ_are_all_sent(ground: Ground) -> None:
    """Equal rows are changed once: not so those that differ, and rows that lie in two segments."""
    ground.file_people(1019)
    ground.file(*(f"v{i}" for i in range(400)), campaigns=[1, 2, 3])
    ground.cancel(1019, 1025, 1500)
    ground.audit()
    assert sorted(ground.drain()) == sorted({*range(1019 + 1200)} - {1019, 1025, 1500})
