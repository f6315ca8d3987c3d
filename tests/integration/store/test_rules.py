"""Rules on the real server, by a clock moved by hand: quiet hours, paces, linger, guards, the canary."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from config.rules import CampaignRules, QuietHours
from worker.core.door import Parked
from worker.core.model import Reason, Status
from worker.core.planning import Limits, View, plan
from worker.store.batches import Batch, HeldBackError, SplitBy
from worker.store.rules import ALLOWANCE_MS, Wait, Why

if TYPE_CHECKING:
    from tests.integration.store.conftest import Clock, Ground

Make = Callable[..., "Ground"]
SECOND, MINUTE, HOUR, DAY = 1000, 60_000, 3_600_000, 86_400_000


def claim(ground: Ground, token: str = "t", *, view: View | None = None) -> Batch | None:
    """The next batch as the engine takes it, or None when the rules let nothing through."""
    view = view or ground.deliveries.view()
    if view is None:
        return None
    assert ground.hold(token, DAY)
    if not view.flow:
        return ground.deliveries.claim_part(view.priority, token)
    limits = Limits(1000 if view.room is None else min(1000, view.room), 5)
    planned = plan(view, Limits(1, 1) if view.probe else limits)
    assert planned is not None
    return ground.deliveries.claim(planned, token, view.probe)


def send(ground: Ground) -> int:
    """Recipients of the next batch, which is accepted; 0 when nothing may be sent."""
    batch = claim(ground)
    if batch is None:
        return 0
    assert ground.deliveries.mark(batch, DAY)
    assert ground.settle(batch, Status.ACCEPTED)
    return len(batch.members)


def send_all(ground: Ground) -> int:
    """Recipients sent until nothing may be sent."""
    total = 0
    while count := send(ground):
        total += count
    return total


def wait_of(ground: Ground) -> int:
    """How long the view says that everything waits."""
    found = ground.deliveries.look()
    assert isinstance(found, int), found
    return found


def park(ground: Ground, clock: Clock, *, drop: bool = False) -> None:
    """CleverTap calls campaign 65 stopped, and the pause until its next probe passes."""
    ground.store.door.report(
        Parked(Reason.CAMPAIGN_NOT_READY, frozenset({65})), permits=3, began_ms=clock.now_ms, drop=drop
    )
    clock.advance(MINUTE)


def people(count: int, name: str = "u") -> list[str]:
    return [f"{name}{i}" for i in range(count)]


def ms(*when: int) -> int:
    year, month, day, hour, minute, second = (*when, 0, 0)[:6] if len(when) < 6 else when
    return int(datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp() * 1000)


# -- quiet hours


NIGHT = CampaignRules(quiet=QuietHours(((22 * 60, 8 * 60),), "UTC"))


@pytest.mark.parametrize("priority", ["urgent", "normal", "bulk"])
def test_what_is_due_in_quiet_hours_waits_for_their_end(ruled: Make, clock: Clock, priority: str) -> None:
    clock.set(ms(2026, 11, 24, 21, 59, 59))
    ground = ruled(campaigns={65: NIGHT})
    ground.file("a", "b", priority=priority)
    assert ground.deliveries.view() is not None
    clock.advance(SECOND)
    assert wait_of(ground) == 10 * HOUR
    assert ground.status().waits == (Wait(65, Why.QUIET, ms(2026, 11, 25, 8)),)
    clock.advance(10 * HOUR - 1)
    assert wait_of(ground) == 1
    clock.advance(1)
    assert send(ground) == 2
    assert ground.status().waits == ()


def test_quiet_hours_of_one_campaign_hold_no_other_one(ruled: Make, clock: Clock) -> None:
    clock.set(ms(2026, 11, 24, 23))
    ground = ruled(campaigns={65: NIGHT})
    ground.file("a", campaigns=[65, 66], priority="urgent")
    ground.file("b", campaigns=[67], priority="bulk")
    batch = claim(ground)
    assert batch is not None
    assert batch.campaigns == (66,)
    second = claim(ground)
    assert second is not None
    assert second.campaigns == (67,)
    assert wait_of(ground) == 9 * HOUR
    for each in (batch, second):
        assert ground.deliveries.mark(each, DAY)
        assert ground.settle(each, Status.ACCEPTED)


def test_quiet_hours_that_begin_between_view_and_claim_hold(ruled: Make, clock: Clock) -> None:
    clock.set(ms(2026, 11, 24, 21, 59, 59))
    ground = ruled(default=NIGHT)
    ground.file("a")
    view = ground.deliveries.view()
    clock.advance(SECOND)
    assert claim(ground, view=view) is None
    assert ground.total(Status.PENDING) == 1


def test_a_part_of_a_refused_batch_keeps_quiet_hours_and_goes_on_behind_them(
    ruled: Make, clock: Clock
) -> None:
    clock.set(ms(2026, 11, 24, 21))
    ground = ruled(campaigns={65: NIGHT})
    ground.file_people(4)
    batch = claim(ground)
    assert batch is not None
    assert ground.deliveries.mark(batch, DAY)
    assert ground.split(batch, SplitBy.RECIPIENTS)
    clock.advance(2 * HOUR)
    assert claim(ground) is None
    assert claim(ground) is None
    assert wait_of(ground) == 9 * HOUR
    clock.advance(9 * HOUR)
    assert send_all(ground) == 4


def test_a_campaign_that_is_parked_is_not_probed_in_quiet_hours(ruled: Make, clock: Clock) -> None:
    clock.set(ms(2026, 11, 24, 21))
    ground = ruled(campaigns={65: NIGHT})
    ground.file("a")
    ground.store.door.report(
        Parked(Reason.CAMPAIGN_NOT_READY, frozenset({65})), permits=3, began_ms=clock.now_ms, drop=True
    )
    clock.advance(2 * HOUR)
    assert wait_of(ground) == 9 * HOUR
    clock.advance(9 * HOUR)
    view = ground.deliveries.view()
    assert view is not None
    assert view.probe == "65"


# -- paces


def test_a_pace_lets_a_bucket_through_and_then_says_when(ruled: Make, clock: Clock) -> None:
    ground = ruled(campaigns={65: CampaignRules(recipients_per_hour=600)})
    ground.file_people(100)
    assert [send(ground), send(ground)] == [11, 0]
    # Ten a minute: half of a full bucket, 5 of 11, is there after 30 seconds.
    assert wait_of(ground) == 30 * SECOND
    assert ground.status().waits == (Wait(65, Why.PACE, clock.now_ms + 30 * SECOND),)
    clock.advance(30 * SECOND)
    assert [send(ground), send(ground)] == [5, 0]


def test_the_last_few_do_not_wait_for_half_a_bucket(ruled: Make, clock: Clock) -> None:
    ground = ruled(campaigns={65: CampaignRules(recipients_per_hour=600)})
    ground.file_people(13)
    assert send(ground) == 11
    assert wait_of(ground) == 12 * SECOND
    clock.advance(12 * SECOND)
    assert send_all(ground) == 2


def test_one_campaigns_pace_delays_no_other_one(ruled: Make) -> None:
    ground = ruled(campaigns={65: CampaignRules(recipients_per_hour=60)})
    ground.file_people(100, priority="urgent")
    ground.file("z", campaigns=[66], priority="bulk")
    assert [send(ground), send(ground), send(ground)] == [2, 1, 0]


def test_calls_a_second_hold_for_all_work_alike(ruled: Make, clock: Clock) -> None:
    ground = ruled(calls_per_second=4)
    for i in range(10):
        ground.file("a", name=f"{i}")
    assert send_all(ground) == 2, "a quarter of a second's, and one"
    assert wait_of(ground) == 250
    clock.advance(500)
    assert send_all(ground) == 2
    clock.advance(60 * SECOND)
    assert send_all(ground) == 2, "what was not used is not saved up"


def test_a_split_costs_calls_and_no_recipients_again(ruled: Make, clock: Clock) -> None:
    ground = ruled(
        calls_per_second=1,
        recipients_per_second=4,
        campaigns={65: CampaignRules(recipients_per_hour=60, max_per_hour=2)},
    )
    ground.file_people(2)
    batch = claim(ground)
    assert batch is not None
    assert ground.deliveries.mark(batch, DAY)
    assert ground.split(batch, SplitBy.RECIPIENTS)
    assert wait_of(ground) == 750
    clock.advance(750)
    assert [send(ground), send(ground)] == [1, 0]
    clock.advance(1000)
    assert send(ground) == 1
    assert ground.total(Status.ACCEPTED) == 2
    ground.file("v")
    clock.advance(MINUTE)
    assert send(ground) == 0, "the two of before count in their hour, once"
    assert ground.status().waits[0].count == 2


def test_recipients_a_second_cut_calls_and_leave_room_for_the_urgent(ruled: Make, clock: Clock) -> None:
    ground = ruled(recipients_per_second=100)
    ground.file_people(500, priority="bulk")
    assert [send(ground), send(ground)] == [101, 0]
    assert wait_of(ground) == 500, "until half of what a second brings is there"
    ground.file("z", name="login", priority="urgent")
    assert wait_of(ground) == 10
    clock.advance(10)
    batch = claim(ground)
    assert batch is not None
    assert [m.row.recipient.value for m in batch.members] == ["z"]
    assert ground.deliveries.mark(batch, DAY)
    assert ground.settle(batch, Status.ACCEPTED)


def test_two_who_saw_the_same_room_take_it_once(ruled: Make) -> None:
    ground = ruled(recipients_per_second=100)
    ground.file_people(500)
    first, second = ground.deliveries.view(), ground.deliveries.view()
    assert claim(ground, "a", view=first) is not None
    assert claim(ground, "b", view=second) is None
    assert ground.total(Status.IN_FLIGHT) == 101


def test_what_ends_without_a_call_costs_nothing(ruled: Make) -> None:
    ground = ruled(calls_per_second=1, campaigns={65: CampaignRules(max_per_hour=1)})
    ground.file_people(5)
    view = ground.deliveries.view()
    assert view is not None
    planned = plan(view, Limits(1000, 5))
    assert planned is not None
    assert ground.hold("t", DAY)
    batch = ground.deliveries.claim(planned, "t", free=True)
    assert batch is not None
    assert len(batch.members) == 5
    assert not ground.keys("pace") | ground.keys("guards")


# -- linger


def test_deliveries_linger_for_company_and_no_longer(ruled: Make, clock: Clock) -> None:
    ground = ruled(campaigns={65: CampaignRules(linger_seconds=5)})
    ground.file("a")
    assert wait_of(ground) == 5 * SECOND
    clock.advance(4 * SECOND)
    ground.file("b")
    assert wait_of(ground) == SECOND
    clock.advance(SECOND)
    assert send(ground) == 2


def test_a_full_call_does_not_linger(ruled: Make) -> None:
    ground = ruled(campaigns={65: CampaignRules(linger_seconds=5)}, full_call=10)
    ground.file_people(10)
    ground.file("z", name="another content")
    assert [send(ground), send(ground)] == [10, 0]


def test_rows_that_were_joined_away_do_not_make_a_call_full(ruled: Make, clock: Clock) -> None:
    ground = ruled(campaigns={65: CampaignRules(linger_seconds=5)}, full_call=6)
    ground.file_people(6, campaigns=[65])
    ground.file(*(f"u{i}" for i in range(1, 6)), campaigns=[66])
    assert ground.client.llen(f"{ground.root}lane:1:65") == 6
    assert send(ground) == 5
    assert wait_of(ground) == 5 * SECOND
    clock.advance(5 * SECOND)
    assert send(ground) == 1


def test_urgent_deliveries_and_other_campaigns_do_not_linger(ruled: Make) -> None:
    ground = ruled(campaigns={65: CampaignRules(linger_seconds=5)})
    ground.file("a", priority="urgent")
    ground.file("b", campaigns=[66])
    ground.file("c", name="both", campaigns=[65, 66])
    assert send_all(ground) == 3


def test_who_is_paced_lingers_for_no_more_than_a_call_may_have(ruled: Make) -> None:
    ground = ruled(campaigns={65: CampaignRules(linger_seconds=5, recipients_per_hour=600)})
    ground.file_people(6)
    assert send(ground) == 6


# -- guards


def test_a_guard_holds_the_campaign_and_its_window_lets_it_go_on(ruled: Make, clock: Clock) -> None:
    clock.set(clock.now_ms // (30 * SECOND) * 30 * SECOND)
    ground = ruled(campaigns={65: CampaignRules(max_per_hour=1500)})
    ground.file_people(1000)
    ground.file(*people(1000, "v"), name="B")
    ground.file("z", campaigns=[66])
    assert send_all(ground) == 1501
    # What was sent leaves the window with its bucket of half a minute.
    ends = clock.now_ms + HOUR + 30 * SECOND
    assert ground.status().waits == (Wait(65, Why.HOUR, ends, 1500, 1500),)
    assert wait_of(ground) == HOUR + 30 * SECOND
    clock.set(ends - 1)
    assert send(ground) == 0
    clock.set(ends)
    assert send_all(ground) == 500


def test_a_guard_is_told_of_once_for_its_window(ruled: Make, clock: Clock) -> None:
    ground = ruled(campaigns={65: CampaignRules(max_per_hour=10)})
    ground.file_people(100)
    assert ground.store.ruled.fresh() == ()
    assert send_all(ground) == 10
    assert [wait.why for wait in ground.store.ruled.fresh()] == [Why.HOUR]
    assert ground.store.ruled.fresh() == ()
    clock.advance(HOUR + MINUTE)
    assert send_all(ground) == 10
    assert [wait.why for wait in ground.store.ruled.fresh()] == [Why.HOUR]


def test_an_operator_may_let_more_beyond_a_guard_and_not_more_than_that(ruled: Make, clock: Clock) -> None:
    clock.set(clock.now_ms // (12 * MINUTE) * 12 * MINUTE)
    ground = ruled(campaigns={65: CampaignRules(max_per_hour=10, max_per_day=15)})
    ground.file_people(100)
    assert send_all(ground) == 10
    ground.store.ruled.allow(65, 20)
    assert send_all(ground) == 20
    assert ground.status().waits[0].count == 30
    ground.store.ruled.allow(65, 20)
    clock.advance(ALLOWANCE_MS)
    clock.advance(MINUTE)
    # The bucket of 12 minutes has not left the window of the day; the allowance has ended.
    assert send_all(ground) == 0
    clock.advance(HOUR)
    assert send_all(ground) == 10, "the guard of the hour"


def test_what_surely_was_not_sent_is_given_back_to_the_guard(ruled: Make) -> None:
    ground = ruled(campaigns={65: CampaignRules(max_per_hour=10)})
    ground.file_people(10)
    for status, counted in ((Status.PENDING, 0), (Status.RETRYING, 1)):
        batch = claim(ground)
        assert batch is not None
        assert len(batch.members) == 10
        assert ground.deliveries.mark(batch, DAY)
        assert ground.settle(batch, status, Reason.THROTTLED, counted=counted, due_ms=0 if counted else None)
        ground.deliveries.promote()
    batch = claim(ground)
    assert batch is not None
    ground.client.zadd(f"{ground.root}flight", {batch.number: 1})
    assert ground.deliveries.recover("r", DAY) is True
    assert send_all(ground) == 10


def test_what_may_have_been_sent_stays_counted(ruled: Make) -> None:
    ground = ruled(campaigns={65: CampaignRules(max_per_hour=10)})
    ground.file_people(20)
    batch = claim(ground)
    assert batch is not None
    assert ground.deliveries.mark(batch, DAY)
    assert ground.settle(batch, Status.UNKNOWN, Reason.NO_ANSWER)
    assert send(ground) == 0


@pytest.mark.parametrize("guard", [CampaignRules(max_per_hour=10), CampaignRules(canary=10)])
def test_what_may_have_been_sent_stays_counted_though_it_is_sent_again(
    ruled: Make, guard: CampaignRules
) -> None:
    ground = ruled(campaigns={65: guard})
    ground.file_people(30)
    batch = claim(ground)
    assert batch is not None
    assert ground.deliveries.mark(batch, DAY)
    assert ground.settle(batch, Status.RETRYING, Reason.NO_ANSWER, due_ms=0)
    ground.deliveries.promote()
    assert send(ground) == 0
    (wait,) = ground.status().waits
    assert (wait.count, wait.most) == (10, 10)
    assert ground.total(Status.PENDING) == 30


def test_what_surely_was_not_sent_is_given_back_though_an_earlier_attempt_may_have_been(ruled: Make) -> None:
    ground = ruled(campaigns={65: CampaignRules(max_per_hour=10)})
    ground.file_people(5)
    batch = claim(ground)
    assert batch is not None
    assert ground.deliveries.mark(batch, DAY)
    assert ground.settle(batch, Status.RETRYING, Reason.NO_ANSWER, due_ms=0)
    ground.deliveries.promote()
    for _ in range(3):
        batch = claim(ground)
        assert batch is not None
        assert len(batch.members) == 5
        assert ground.deliveries.mark(batch, DAY)
        assert ground.settle(batch, Status.PENDING, Reason.NO_ANSWER, counted=0)


def test_a_parked_campaign_is_not_probed_beyond_its_guard(ruled: Make, clock: Clock) -> None:
    clock.set(clock.now_ms // (30 * SECOND) * 30 * SECOND)
    ground = ruled(campaigns={65: CampaignRules(max_per_hour=2)})
    ground.file_people(20)
    assert send_all(ground) == 2
    ends = clock.now_ms + HOUR + 30 * SECOND
    park(ground, clock)
    assert wait_of(ground) == ends - clock.now_ms
    clock.set(ends)
    view = ground.deliveries.view()
    assert view is not None
    assert view.probe == "65"


def test_a_probe_that_was_planned_before_the_guard_was_full_is_not_made(ruled: Make, clock: Clock) -> None:
    ground = ruled(campaigns={65: CampaignRules(max_per_hour=2)})
    ground.file_people(20)
    before = ground.deliveries.view()
    park(ground, clock)
    probe = ground.deliveries.view()
    assert probe is not None
    assert probe.probe == "65"
    first = claim(ground, "a", view=before)
    assert first is not None
    assert len(first.members) == 2
    assert claim(ground, "b", view=probe) is None


def test_deliveries_of_a_stopped_campaign_end_when_its_guard_has_room(ruled: Make, clock: Clock) -> None:
    ground = ruled(campaigns={65: CampaignRules(max_per_hour=2)})
    ground.file_people(20)
    assert send_all(ground) == 2
    park(ground, clock, drop=True)
    assert wait_of(ground) > 0
    clock.advance(HOUR)
    view = ground.deliveries.view()
    assert view is not None
    assert view.probe == "65"
    ground.store.door.report(
        Parked(Reason.CAMPAIGN_NOT_READY, frozenset({65})), permits=3, began_ms=clock.now_ms, drop=True
    )
    view = ground.deliveries.view()
    assert view is not None
    assert view.drop


def beyond(ruled: Make, count: int) -> tuple[Ground, Batch]:
    """A guard of 2 in an hour that is full, and a batch that an allowance of so many lets beyond it."""
    ground = ruled(campaigns={65: CampaignRules(max_per_hour=2)})
    ground.file_people(30)
    assert send_all(ground) == 2
    ground.store.ruled.allow(65, count)
    batch = claim(ground)
    assert batch is not None
    assert len(batch.members) == count
    return ground, batch


@pytest.mark.parametrize("what", ["throttled", "paused", "its worker died"])
def test_an_allowance_whose_call_surely_was_not_made_is_kept(ruled: Make, what: str) -> None:
    ground, batch = beyond(ruled, 10)
    ground.deliveries.retire()
    if what == "throttled":
        assert ground.deliveries.mark(batch, DAY)
        assert ground.settle(batch, Status.PENDING, Reason.THROTTLED, counted=0)
    elif what == "paused":
        ground.pause("65")
        with pytest.raises(HeldBackError):
            ground.deliveries.mark(batch, DAY)
        ground.resume("65")
    else:
        ground.client.zadd(f"{ground.root}flight", {batch.number: 1})
        assert ground.deliveries.recover("r", DAY) is True
    assert send_all(ground) == 10


def test_an_allowance_whose_call_may_have_been_made_is_used_up(ruled: Make) -> None:
    ground, batch = beyond(ruled, 10)
    assert ground.deliveries.mark(batch, DAY)
    assert ground.settle(batch, Status.RETRYING, Reason.NO_ANSWER, due_ms=0)
    ground.deliveries.promote()
    assert send_all(ground) == 0


def test_an_allowance_is_given_back_once_though_its_batch_shrinks_first(ruled: Make) -> None:
    ground = ruled(campaigns={65: CampaignRules(max_per_hour=5)})
    ground.file_people(30)
    ground.store.ruled.allow(65, 3)
    batch = claim(ground)
    assert batch is not None
    assert len(batch.members) == 8, "five by the guard, and three beyond it"
    assert ground.deliveries.mark(batch, DAY, ground.kept_out(ground.endings_of(batch)[:4]))
    assert ground.settle(batch, Status.PENDING, Reason.THROTTLED, counted=0)
    assert send_all(ground) == 8


def test_an_allowance_that_has_ended_is_not_given_back(ruled: Make, clock: Clock) -> None:
    ground, batch = beyond(ruled, 10)
    assert ground.deliveries.mark(batch, 2 * DAY)
    clock.advance(ALLOWANCE_MS)
    assert ground.settle(batch, Status.PENDING, Reason.THROTTLED, counted=0)
    assert send_all(ground) == 2, "the hour has passed"


def test_what_no_guard_counts_any_more_is_forgotten(ruled: Make, clock: Clock) -> None:
    ground = ruled(campaigns={65: CampaignRules(max_per_hour=2, max_per_day=5)})
    ground.file_people(4)
    assert send_all(ground) == 2
    assert len(ground.store.ruled.fresh()) == 1
    ground.store.ruled.allow(65, 5)
    assert send_all(ground) == 2
    clock.advance(2 * HOUR)
    ground.deliveries.retire()
    assert ground.client.hkeys(f"{ground.root}guards") == [b"65:d", b"65:more"]
    clock.advance(DAY)
    ground.deliveries.retire()
    assert not ground.keys("guards")


# -- the canary


def test_a_canary_goes_out_and_the_rest_waits_for_an_operator(ruled: Make) -> None:
    ground = ruled(campaigns={65: CampaignRules(canary=3)})
    ground.file_people(10)
    assert send_all(ground) == 3
    assert ground.deliveries.look() is None, "no time ends it"
    wait = Wait(65, Why.CANARY, None, 3, 3)
    assert ground.status().waits == (wait,)
    assert ground.store.ruled.fresh() == (wait,)
    assert ground.store.ruled.fresh() == ()
    assert ground.store.ruled.approve(65)
    assert not ground.store.ruled.approve(65)
    assert send_all(ground) == 7
    assert not ground.keys("guards"), "the run has ended, and nothing is left of it"


def test_a_canary_goes_on_by_itself_after_its_time(ruled: Make, clock: Clock) -> None:
    ground = ruled(campaigns={65: CampaignRules(canary=3, canary_wait_seconds=900)})
    ground.file_people(10)
    assert send_all(ground) == 3
    clock.advance(15 * MINUTE - 1)
    assert wait_of(ground) == 1
    clock.advance(1)
    assert send_all(ground) == 7


def test_a_probe_neither_approves_a_canary_nor_goes_beyond_it(ruled: Make, clock: Clock) -> None:
    ground = ruled(campaigns={65: CampaignRules(canary=3)})
    ground.file_people(10)
    assert send_all(ground) == 3
    park(ground, clock)
    assert ground.deliveries.look() is None, "an operator has not looked yet"
    assert ground.store.ruled.approve(65)
    view = ground.deliveries.view()
    assert view is not None
    assert view.probe == "65"


def test_a_canary_whose_time_has_come_while_its_campaign_was_parked_lets_the_probe_go(
    ruled: Make, clock: Clock
) -> None:
    ground = ruled(campaigns={65: CampaignRules(canary=3, canary_wait_seconds=900)})
    ground.file_people(10)
    assert send_all(ground) == 3
    park(ground, clock)
    assert wait_of(ground) == 14 * MINUTE
    clock.advance(14 * MINUTE)
    view = ground.deliveries.view()
    assert view is not None
    assert view.probe == "65"
    assert send(ground) == 1
    assert ground.client.hget(f"{ground.root}guards", "65:go") == b"1", "the rest goes on, as after any wait"


def test_the_next_run_has_a_canary_of_its_own(ruled: Make) -> None:
    ground = ruled(campaigns={65: CampaignRules(canary=3)})
    for run in range(2):
        ground.file(*people(5, f"run{run}"))
        assert send_all(ground) == 3
        assert not ground.store.ruled.approve(66)
        assert ground.store.ruled.approve(65)
        assert send_all(ground) == 2
    assert not ground.store.ruled.approve(65)


def test_a_trickle_never_meets_the_canary(ruled: Make) -> None:
    ground = ruled(campaigns={65: CampaignRules(canary=3)})
    for i in range(10):
        ground.file(f"u{i}")
        assert send(ground) == 1


def test_a_canary_that_was_refused_is_sent_again_and_waits_behind_that(ruled: Make) -> None:
    ground = ruled(campaigns={65: CampaignRules(canary=3)})
    ground.file_people(10)
    batch = claim(ground)
    assert batch is not None
    assert ground.deliveries.mark(batch, DAY)
    assert send(ground) == 0
    assert ground.settle(batch, Status.PENDING, Reason.THROTTLED, counted=0)
    assert send_all(ground) == 3


def test_rows_that_were_cancelled_end_the_run_of_a_canary(ruled: Make) -> None:
    ground = ruled(campaigns={65: CampaignRules(canary=3)})
    ground.file_people(10)
    assert send_all(ground) == 3
    assert ground.cancel(*range(10)) == 7
    ground.file(*people(5, "v"))
    assert send_all(ground) == 3


def test_who_starts_anew_finds_everything_where_it_was(ruled: Make, client: Any) -> None:
    campaigns = {65: CampaignRules(canary=3), 66: CampaignRules(max_per_day=2)}
    rules: dict[str, Any] = {"campaigns": campaigns, "calls_per_second": 8}
    ground = ruled(**rules)
    ground.file_people(10, campaigns=[65, 66])
    assert send_all(ground) > 0
    client.script_flush()
    again = ruled(**rules)
    assert again.status().waits == ground.status().waits != ()
    assert again.deliveries.look() == ground.deliveries.look()


# -- nobody naps twice


def test_one_of_those_who_find_nothing_naps_for_all(ruled: Make, clock: Clock) -> None:
    ground = ruled(calls_per_second=2)
    for i in range(10):
        ground.file("a", name=f"{i}")
    assert send_all(ground) == 1
    permits = ground.store.permits
    assert ground.hold("a")
    assert ground.hold("b")
    assert permits.rest("a") == (False, 100)
    assert permits.rest("b") == (False, 0)
    assert ground.free() == 99, "only the permit of the last claim is held"
    clock.advance(100)
    assert ground.hold("b")
    assert permits.rest("b") == (False, 100), "whoever napped has had its time"
    clock.advance(400)
    assert ground.hold("a")
    assert permits.rest("a") == (True, 0)
    assert permits.release("a")
