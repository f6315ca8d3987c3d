"""Deliveries of one content for one person over several campaigns wait in one row, though enqueued apart."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from worker.core.model import Reason, Status
from worker.core.planning import Limits, plan
from worker.store.batches import Batch, SplitBy

if TYPE_CHECKING:
    from tests.integration.store.conftest import Ground

PUSH, MAIL, SMS, CHAT = 65, 66, 67, 68


def numbers(batch: Batch) -> list[int]:
    return [n for member in batch.members for n in member.deliveries]


def calls(ground: Ground, token: str = "t") -> list[tuple[tuple[int, ...], int]]:
    """Sends all that is due: campaigns and recipients of each call."""
    made = []
    while (view := ground.deliveries.view()) is not None:
        assert ground.hold(token)
        planned = plan(view, Limits(1000, 5))
        assert planned is not None
        batch = ground.deliveries.claim(planned, token)
        if batch is not None:
            made.append((batch.campaigns, len(batch.members)))
            assert ground.deliveries.mark(batch, 60_000)
            assert ground.settle(batch, Status.ACCEPTED)
    return made


def wake(ground: Ground) -> None:
    """The time of all that sleeps has come."""
    for slot in ground.client.zrange(f"{ground.root}due", 0, -1):
        ground.client.zadd(f"{ground.root}due", {slot: 0})
    while ground.deliveries.promote()[1]:
        continue


def test_the_push_and_the_mail_of_one_order_share_a_call(ground: Ground) -> None:
    ground.file("a", campaigns=[PUSH], id="push-1")
    ground.file("a", campaigns=[MAIL], id="mail-1")
    batch = ground.on_the_wire()
    assert (batch.campaigns, numbers(batch)) == ((PUSH, MAIL), [0, 1])
    assert [row.producer_id for row in batch.members[0].rows] == ["push-1", "mail-1"]
    assert {told.reason for told in batch.members[0].told} == {Reason.NONE}
    assert ground.deliveries.view() is None


def test_a_third_and_a_fourth_campaign_join_as_well_and_campaigns_are_in_order(ground: Ground) -> None:
    for campaign in (MAIL, CHAT, PUSH, SMS):
        ground.file("a", "b", campaigns=[campaign])
    assert calls(ground) == [((PUSH, MAIL, SMS, CHAT), 2)]


def test_triggers_that_are_accepted_in_one_chunk_share_a_call(ground: Ground) -> None:
    ground.accept(*(ground.body("a", campaigns=[campaign]) for campaign in (PUSH, SMS, MAIL)))
    ground.file("a", campaigns=[CHAT])
    assert calls(ground) == [((PUSH, MAIL, SMS, CHAT), 1)]


def test_whoever_is_joined_goes_on_waiting_and_does_not_begin_anew(ground: Ground) -> None:
    ground.file("a", campaigns=[PUSH])
    (group,) = ground.client.keys(f"{ground.root}group:*")
    ground.client.hset(group, f"lane:{PUSH}", 1_700_000_000_000)
    ground.file("a", campaigns=[MAIL])
    view = ground.deliveries.view()
    assert view is not None
    (lane,) = view.groups[0].lanes
    assert (lane.campaigns, lane.since_ms) == ((PUSH, MAIL), 1_700_000_000_000)


def test_other_people_contents_priorities_and_kinds_stay_apart(ground: Ground) -> None:
    ground.file("a", campaigns=[PUSH])
    ground.file("b", campaigns=[MAIL])
    ground.file("a#", campaigns=[MAIL])
    ground.file("a", campaigns=[MAIL], name="B")
    ground.file("a", campaigns=[MAIL], priority="urgent")
    assert sorted(calls(ground)) == [((PUSH,), 1), ((MAIL,), 1), ((MAIL,), 1), ((MAIL,), 2)]


def test_recipients_whose_names_need_escapes_join_too(ground: Ground) -> None:
    people = ['q"uote', "back\\slash", "ümlaut", 'both\\"']
    ground.file(*people, campaigns=[PUSH])
    ground.file(*people, campaigns=[MAIL])
    assert calls(ground) == [((PUSH, MAIL), 4)]


def test_many_people_over_two_campaigns_in_any_order_take_as_few_calls_as_they_fill(ground: Ground) -> None:
    people = [f"u{i}" for i in range(2500)]
    shuffled = random.Random(7).sample(people, len(people))
    for campaign, order in ((PUSH, people), (MAIL, shuffled)):
        for first in range(0, len(order), 1000):
            ground.file(*order[first : first + 1000], campaigns=[campaign])
    assert calls(ground) == [((PUSH, MAIL), 1000), ((PUSH, MAIL), 1000), ((PUSH, MAIL), 500)]


def test_overlapping_sets_are_not_joined_and_those_apart_are(ground: Ground) -> None:
    ground.file("a", campaigns=[PUSH, MAIL])
    ground.file("a", campaigns=[MAIL, SMS], dedupe_window=0)
    ground.file("a", campaigns=[CHAT])
    sent = calls(ground)
    assert len(sent) == 2
    assert sorted(c for campaigns, _ in sent for c in campaigns) == [PUSH, MAIL, MAIL, SMS, CHAT]


def test_what_a_duplicate_leaves_of_a_row_joins(ground: Ground) -> None:
    ground.file("a", campaigns=[PUSH])
    filed = ground.file("a", campaigns=[PUSH, MAIL])
    assert (filed.pending, filed.duplicates) == (1, 1)
    assert calls(ground) == [((PUSH, MAIL), 1)]


def test_one_that_expires_otherwise_stays_apart(ground: Ground) -> None:
    now = ground.deliveries.now_ms() // 1000
    ground.file("a", campaigns=[PUSH], expires_at=now + 1000)
    ground.file("a", campaigns=[MAIL], expires_at=now + 2000)
    ground.file("a", campaigns=[SMS])
    ground.file("a", campaigns=[CHAT], expires_at=now + 2000)
    assert sorted(calls(ground)) == [((PUSH,), 1), ((MAIL, CHAT), 1), ((SMS,), 1)]


def test_what_sleeps_until_the_same_time_is_joined_and_nothing_else(ground: Ground) -> None:
    at = ground.deliveries.now_ms() // 1000 + 3600
    ground.file("a", "b", campaigns=[PUSH], send_at=at)
    ground.file("a", "b", campaigns=[MAIL], send_at=at)
    ground.file("a", campaigns=[SMS], send_at=at + 60)
    ground.file("a", campaigns=[CHAT])
    ground.audit()
    assert calls(ground) == [((CHAT,), 1)]
    wake(ground)
    assert sorted(calls(ground)) == [((PUSH, MAIL), 2), ((SMS,), 1)]


def test_what_has_woken_is_joined_by_what_comes_then(ground: Ground) -> None:
    at = ground.deliveries.now_ms() // 1000 + 3600
    ground.file("a", campaigns=[PUSH], send_at=at)
    ground.file("a", campaigns=[MAIL], send_at=at)
    ground.cancel(1)
    ground.file("a", campaigns=[SMS], send_at=at)
    wake(ground)
    ground.audit()
    assert sorted(numbers(ground.on_the_wire())) in ([0], [2], [0, 2])


def test_one_that_was_tried_already_is_left_alone(ground: Ground) -> None:
    ground.file("a", campaigns=[PUSH])
    assert ground.settle(ground.on_the_wire(), Status.PENDING, Reason.THROTTLED, counted=0)
    ground.file("a", campaigns=[MAIL])
    assert sorted(calls(ground)) == [((PUSH,), 1), ((MAIL,), 1)]


def test_cancelling_one_of_a_pair_leaves_the_other(ground: Ground) -> None:
    for cancelled, left in ((0, (MAIL,)), (1, (PUSH,))):
        person = f"p{cancelled}"
        first = max(ground.states(), default=-1) + 1
        ground.file(person, campaigns=[PUSH])
        ground.file(person, campaigns=[MAIL])
        assert ground.cancel(first + cancelled) == 1
        ground.audit()
        assert calls(ground) == [(left, 1)]


def test_those_whose_company_was_cancelled_are_joined_anew(ground: Ground) -> None:
    for campaign in (PUSH, MAIL, SMS):
        ground.file("a", "b", campaigns=[campaign])
    ground.cancel(4, 5)
    ground.hold("t")
    view = ground.deliveries.view()
    assert view is not None
    planned = plan(view, Limits(1000, 5))
    assert planned is not None
    assert ground.deliveries.claim(planned, "t") is None, "a row that is not whole is put right first"
    ground.audit()
    ground.file("a", "b", campaigns=[CHAT])
    assert calls(ground) == [((PUSH, MAIL, CHAT), 2)]


def test_a_call_for_some_of_the_campaigns_leaves_the_others_together(ground: Ground) -> None:
    for campaign in (PUSH, MAIL, SMS):
        ground.file("a", campaigns=[campaign])
    ground.pause(str(PUSH))
    batch = ground.claim("t")
    assert (batch.campaigns, numbers(batch)) == ((MAIL, SMS), [1, 2])
    ground.audit()
    ground.resume(str(PUSH))
    assert numbers(ground.claim("u")) == [0]


def test_pairs_whose_worker_died_before_it_sent_them_are_together_again(ground: Ground) -> None:
    for campaign in (PUSH, MAIL):
        ground.file("a", "b", campaigns=[campaign])
    ground.claim("t")
    ground.client.zadd(f"{ground.root}flight", {"1": 1})
    assert ground.deliveries.recover("heir", 60_000) is True
    ground.audit()
    ground.file("a", "b", campaigns=[SMS])
    assert calls(ground, "u") == [((PUSH, MAIL, SMS), 2)]


def test_each_of_a_pair_frees_its_own_dedupe_key(ground: Ground) -> None:
    ground.file("a", campaigns=[PUSH], dedupe_key="p")
    ground.file("a", campaigns=[MAIL], dedupe_window=0)
    ground.file("a", campaigns=[SMS])
    assert ground.key_holders() == {0, 2}
    batch = ground.on_the_wire()
    assert numbers(batch) == [0, 1, 2]
    assert ground.settle(batch, Status.FAILED, Reason.SERVER_ERROR)
    assert not ground.key_holders()
    assert ground.file("a", campaigns=[PUSH], dedupe_key="p").duplicates == 0


def test_a_pair_that_was_accepted_keeps_both_keys(ground: Ground) -> None:
    for campaign, key in ((PUSH, "p"), (MAIL, "m")):
        ground.file("a", campaigns=[campaign], dedupe_key=key)
    assert calls(ground) == [((PUSH, MAIL), 1)]
    for campaign, key in ((PUSH, "p"), (MAIL, "m")):
        assert ground.file("a", campaigns=[campaign], dedupe_key=key).duplicates == 1


def test_rows_that_were_left_are_neither_seen_nor_counted(ground: Ground) -> None:
    ground.file_people(30, campaigns=[PUSH])
    ground.file(*(f"u{i}" for i in range(20)), campaigns=[MAIL])
    (group,) = ground.client.keys(f"{ground.root}group:*")
    assert ground.client.hget(group, f"stale:{PUSH}") == b"20"
    view = ground.deliveries.view()
    assert view is not None
    lanes = {lane.campaigns: lane.rows for group in view.groups for lane in group.lanes}
    assert lanes == {(PUSH,): 10, (PUSH, MAIL): 20}
    assert not ground.client.hexists(group, f"stale:{PUSH}"), "they stood at the front, and are gone"
    ground.file(*(f"u{i}" for i in range(20, 30)), campaigns=[MAIL])
    assert calls(ground) == [((PUSH, MAIL), 30)]
    assert not ground.keys("lane:*") | ground.keys("flow:*") | ground.keys("ready:*")


def test_a_joined_delivery_says_so_and_names_no_batch(ground: Ground) -> None:
    ground.file("a", campaigns=[PUSH])
    ground.file("a", campaigns=[MAIL])
    for outcome in ground.outcomes.of([0, 1]):
        assert (outcome.status, outcome.reason) == (Status.PENDING, Reason.JOINED)
        assert (outcome.batch, outcome.http) == (None, None)
    batch = ground.claim()
    for outcome in ground.outcomes.of([0, 1]):
        assert (outcome.status, outcome.reason, outcome.batch) == (
            Status.IN_FLIGHT,
            Reason.NONE,
            batch.number,
        )


def test_parts_of_a_refused_batch_of_pairs_are_those_of_the_pairs(ground: Ground) -> None:
    for campaign in (PUSH, MAIL):
        ground.file("a", "b", campaigns=[campaign])
    assert ground.split(ground.on_the_wire(), SplitBy.CAMPAIGNS)
    part = ground.claim_part()
    assert part is not None
    assert (part.campaigns, numbers(part)) == ((PUSH,), [0, 1])
    ground.file("a", campaigns=[SMS])
    ground.audit()


def test_pairs_are_forgotten_after_the_retention(forgetful_ground: Ground) -> None:
    ground = forgetful_ground
    for campaign in (PUSH, MAIL):
        ground.file_people(600, campaigns=[campaign])
    assert calls(ground) == [((PUSH, MAIL), 600)]
    for segment in ground.client.zrange(f"{ground.root}segments", 0, -1):
        ground.client.zadd(f"{ground.root}segments", {segment: 0})
    assert ground.deliveries.retire() == (1, False)


@pytest.mark.parametrize("later", [False, True])
def test_a_trigger_that_is_accepted_twice_joins_once(ground: Ground, later: bool) -> None:
    keys = {"send_at": ground.deliveries.now_ms() // 1000 + 3600} if later else {}
    ground.file("a", campaigns=[PUSH], **keys)
    ground.append(ground.body("a", campaigns=[MAIL], **keys))
    found = [section for entry in ground.read() for section in ground.sections(entry)]
    assert ground.deliveries.accept(found, [], 3).pending == 1
    assert ground.deliveries.accept(found, [], 3).passed_over == 1
    wake(ground)
    assert calls(ground) == [((PUSH, MAIL), 1)]


def test_neighbours_of_many_days_and_segments_are_found(ground: Ground) -> None:
    """Rows over a segment's border, and of yesterday's index."""
    ground.file_people(1022, campaigns=[99], name="old")
    ground.drain()
    ground.file("a", "b", campaigns=[PUSH, MAIL, SMS])
    days = [int(day) for day in ground.client.zrange(f"{ground.root}days", 0, -1)]
    for key in ground.keys(f"ix:{days[-1]}:*"):
        ground.client.rename(
            f"{ground.root}{key}", f"{ground.root}{key}".replace(str(days[-1]), str(days[-1] - 1))
        )
    ground.file("a", "b", campaigns=[CHAT])
    assert calls(ground) == [((PUSH, MAIL, SMS, CHAT), 2)]


def test_joined_rows_of_one_person_are_sent_in_calls_of_their_own(ground: Ground) -> None:
    """The later one goes back whole: the push and the mail of each order still share a call."""
    for order in ("first", "second"):
        ground.file("a", "b", campaigns=[PUSH], dedupe_key=order)
        ground.file("a", campaigns=[MAIL], dedupe_key=order)
    made = []
    while ground.deliveries.view() is not None:
        batch = ground.on_the_wire()
        people = [member.row.recipient.value for member in batch.members]
        assert len(set(people)) == len(people)
        made.append((batch.campaigns, numbers(batch)))
        ground.audit()
    assert sorted(made) == [((PUSH,), [1]), ((PUSH,), [4]), ((PUSH, MAIL), [0, 2]), ((PUSH, MAIL), [3, 5])]


def test_a_joined_row_that_goes_back_without_a_cancelled_part_is_sent_in_full(ground: Ground) -> None:
    for order in ("first", "second"):
        ground.file("a", campaigns=[PUSH], dedupe_key=order)
        ground.file("a", campaigns=[MAIL], dedupe_key=order)
        ground.file("a", campaigns=[SMS], dedupe_key=order)
    assert ground.cancel(4) == 1
    assert numbers(ground.on_the_wire()) == [0, 1, 2]
    ground.audit()
    assert calls(ground) == [((PUSH, SMS), 1)]
