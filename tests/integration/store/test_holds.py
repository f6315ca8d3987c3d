"""Triggers that an operator holds or takes back: from the next call on, wherever their deliveries are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from worker.core.model import LIVE, Reason, Status
from worker.store.batches import HeldBackError, SplitBy
from worker.store.control import Named

if TYPE_CHECKING:
    from tests.integration.store.conftest import Ground

LONG_MS = 60_000


def entry_of(ground: Ground, number: int) -> Named:
    """The trigger of a delivery."""
    return Named.trigger(ground.outcomes.of([number])[0].trigger)


def drain_but(ground: Ground) -> list[int]:
    """Sends all that may be sent; nothing may be left that is shown as due."""
    sent = ground.drain()
    assert ground.deliveries.view() is None
    return sent


def wake(ground: Ground) -> None:
    """The time of all that sleeps has come."""
    for slot in ground.client.zrange(f"{ground.root}due", 0, -1):
        ground.client.zadd(f"{ground.root}due", {slot: 0})
    ground.deliveries.promote()


def cancel(ground: Ground, *names: Named) -> None:
    """Orders it, and ends what waits."""
    from worker.engine.cancelling import end_waiting

    for order in ground.store.control.begin_cancel(names):
        sum(end_waiting(ground.store, order))


def sweep(ground: Ground) -> None:
    """Goes on with what is not complete."""
    from worker.engine.cancelling import end_waiting

    for order in ground.store.control.cancels():
        sum(end_waiting(ground.store, order))


def test_a_held_trigger_is_not_claimed_while_others_of_its_content_are(ground: Ground) -> None:
    ground.file("a", "b", campaigns=(65, 66))
    ground.file("c", "d", campaigns=(65, 66))
    first = entry_of(ground, 0)
    assert ground.store.control.hold(first)
    assert not ground.store.control.hold(first)
    assert sorted(drain_but(ground)) == [4, 5, 6, 7]
    assert ground.total(Status.HELD) == 4
    assert list(ground.status().held) == [first]


def test_a_resumed_trigger_is_sent_in_as_few_calls_as_before(ground: Ground) -> None:
    ground.file("a", "b", campaigns=(65, 66))
    first = entry_of(ground, 0)
    ground.store.control.hold(first)
    assert drain_but(ground) == []
    assert ground.store.control.let_go(first, ground.outcomes) == (True, 4)
    assert ground.store.control.let_go(first, ground.outcomes) == (False, 0)
    batch = ground.claim()
    assert (batch.campaigns, len(batch.members)) == ((65, 66), 2)


def test_a_producers_id_is_held_in_all_its_triggers_those_to_come_too(ground: Ground) -> None:
    ground.file("a", id="sale")
    ground.store.control.hold(Named.producer_id("sale"))
    ground.file("b", id="sale")
    ground.file("c", id="other")
    assert drain_but(ground) == [2]
    assert ground.store.control.let_go(Named.producer_id("sale"), ground.outcomes) == (True, 2)
    assert sorted(drain_but(ground)) == [0, 1]


def test_what_two_holds_hold_is_let_go_with_the_last_one(ground: Ground) -> None:
    ground.file("a", id="sale")
    by_entry, by_id = entry_of(ground, 0), Named.producer_id("sale")
    ground.store.control.hold(by_entry)
    ground.store.control.hold(by_id)
    assert drain_but(ground) == []
    assert ground.store.control.let_go(by_id, ground.outcomes) == (True, 0)
    assert drain_but(ground) == []
    assert ground.store.control.let_go(by_entry, ground.outcomes) == (True, 1)
    assert drain_but(ground) == [0]


@pytest.mark.parametrize("how", ["hold", "pause", "pause all", "cancel"])
def test_a_word_between_claim_and_post_undoes_the_claim(ground: Ground, how: str) -> None:
    ground.file("a", "b")
    batch = ground.claim()
    match how:
        case "hold":
            ground.store.control.hold(entry_of(ground, 0))
        case "pause":
            ground.pause("65")
        case "pause all":
            ground.pause("*")
        case _:
            ground.store.control.begin_cancel([Named.campaign(65)])
    with pytest.raises(HeldBackError):
        ground.deliveries.mark(batch, LONG_MS)
    assert ground.states() == {0: Status.PENDING, 1: Status.PENDING}
    assert not ground.keys("batch:*")
    assert ground.status().calls == {}
    assert drain_but(ground) == []


def test_a_batch_on_the_wire_ends_as_it_ends_and_its_retry_is_held(ground: Ground) -> None:
    ground.file("a", "b")
    batch = ground.on_the_wire()
    ground.store.control.hold(entry_of(ground, 0))
    assert ground.deliveries.mark(batch, LONG_MS), "it is on the wire already"
    assert ground.settle(batch, Status.RETRYING, Reason.SERVER_ERROR, due_ms=LONG_MS)
    wake(ground)
    assert drain_but(ground) == []
    assert ground.states() == {0: Status.HELD, 1: Status.HELD}
    assert {ground.cell(n).reason for n in (0, 1)} == {Reason.SERVER_ERROR}
    ground.store.control.let_go(entry_of(ground, 0), ground.outcomes)
    assert sorted(drain_but(ground)) == [0, 1]


def test_a_held_delivery_remembers_that_it_may_have_been_sent(ground: Ground) -> None:
    ground.file("a")
    batch = ground.on_the_wire()
    ground.settle(batch, Status.RETRYING, Reason.NO_ANSWER, due_ms=LONG_MS)
    ground.store.control.hold(entry_of(ground, 0))
    wake(ground)
    assert drain_but(ground) == []
    assert ground.cancel(0) == 1
    assert ground.cell(0).status is Status.UNKNOWN
    assert ground.key_holders() == {0}


def test_a_scheduled_one_sleeps_on_and_is_held_at_its_time(ground: Ground) -> None:
    due = ground.deliveries.now_ms() / 1000 + 3600
    ground.file("a", send_at=due)
    ground.file("b", send_at=due)
    for n in (0, 1):
        ground.store.control.hold(entry_of(ground, n))
    ground.store.control.let_go(entry_of(ground, 1), ground.outcomes)
    assert ground.states() == {0: Status.SCHEDULED, 1: Status.SCHEDULED}
    wake(ground)
    assert drain_but(ground) == [1]
    assert ground.cell(0).status is Status.HELD


def test_parts_of_a_refused_batch_are_held(ground: Ground) -> None:
    ground.file("a", "b")
    ground.file("c", "d")
    batch = ground.on_the_wire()
    ground.split(batch, SplitBy.RECIPIENTS)
    ground.store.control.hold(entry_of(ground, 0))
    assert sorted(drain_but(ground)) == [2, 3]
    assert ground.total(Status.HELD) == 2


def test_a_claim_of_the_dead_is_held_when_it_comes_back(ground: Ground) -> None:
    ground.file("a")
    ground.claim()
    ground.store.control.hold(entry_of(ground, 0))
    ground.client.zadd(f"{ground.root}flight", {"1": 1}, xx=True)
    assert ground.deliveries.recover("heir", LONG_MS) is True
    assert drain_but(ground) == []
    assert ground.total(Status.HELD) == 1


def test_a_held_one_may_expire_or_be_cancelled_and_is_not_forgotten(ground: Ground) -> None:
    ground.file("a")
    ground.file("b", expires_at=ground.deliveries.now_ms() / 1000 + 3600)
    for n in (0, 1):
        ground.store.control.hold(entry_of(ground, n))
    assert drain_but(ground) == []
    ended = ground.deliveries.finish(
        Status.EXPIRED, Reason.EXPIRED, LIVE - {Status.IN_FLIGHT}, ground.endings([1])
    )
    assert ended == 1
    ground.client.zadd(f"{ground.root}segments", {"0": 0})
    assert ground.deliveries.retire()[0] == 0
    assert ground.states() == {0: Status.HELD, 1: Status.EXPIRED}


def test_a_cancel_covers_what_was_enqueued_before_and_nothing_later(ground: Ground) -> None:
    ground.file("a")
    ground.append(ground.body("b"))
    cancel(ground, Named.campaign(65))
    ground.append(ground.body("c"))
    assert ground.states() == {0: Status.CANCELLED}
    assert [each.what for each in ground.store.control.cancels()] == [Named.campaign(65)], (
        "b is at the intake"
    )
    sections = [s for e in ground.read() for s in ground.sections(e)]
    ground.deliveries.accept(sections, [], 3)
    assert drain_but(ground) == [2]
    assert ground.cell(1).status is Status.HELD
    sweep(ground)
    assert ground.states() == {0: Status.CANCELLED, 1: Status.CANCELLED, 2: Status.ACCEPTED}
    assert ground.store.control.cancels() == []
    assert ground.key_holders() == {2}


def test_a_cancel_ends_what_comes_back_from_the_wire(ground: Ground) -> None:
    ground.file("a", campaigns=(65,))
    ground.file("b", campaigns=(66,))
    batch = ground.on_the_wire()
    cancel(ground, Named.all())
    assert ground.store.control.cancels() != [], "a call is on the wire"
    ground.settle(batch, Status.RETRYING, Reason.SERVER_ERROR, due_ms=LONG_MS)
    sweep(ground)
    assert ground.store.control.cancels() == []
    assert set(ground.states().values()) == {Status.CANCELLED}


def test_a_cancel_of_a_trigger_covers_its_pieces_that_are_still_being_accepted(ground: Ground) -> None:
    (entry,) = ground.append(ground.body("a", "b", "c"))
    sections = [s for e in ground.read() for s in ground.sections(e, size=1)]
    ground.deliveries.accept(sections[:1], [], 3)
    cancel(ground, Named.trigger(entry))
    assert ground.states() == {0: Status.CANCELLED}
    ground.deliveries.accept(sections[1:], [], 3)
    assert drain_but(ground) == []
    sweep(ground)
    assert set(ground.states().values()) == {Status.CANCELLED}
    assert ground.store.control.cancels() == []


def test_a_cancelled_trigger_needs_no_resume(ground: Ground) -> None:
    ground.file("a")
    what = entry_of(ground, 0)
    ground.store.control.hold(what)
    assert drain_but(ground) == []
    cancel(ground, what)
    assert ground.cell(0).status is Status.CANCELLED
    assert (ground.store.control.cancels(), ground.store.control.held()) == ([], {})


def test_one_that_is_sent_again_in_mid_cancel_is_not_lost(ground: Ground) -> None:
    ground.file("a")
    ground.append(ground.body("b"))
    cancel(ground, Named.all())
    assert ground.requeue(0).taken == 1
    assert drain_but(ground) == []
    assert ground.cell(0).status is Status.HELD
    ground.client.delete(f"{ground.root}cancels")  # as if it had completed just before the claim
    assert ground.store.control.let_strays_go(ground.outcomes) == 1
    assert drain_but(ground) == [0]


def test_a_long_stretch_of_held_rows_is_passed_over(ground: Ground) -> None:
    ground.file_people(2500)
    ground.file("z")
    ground.store.control.hold(entry_of(ground, 0))
    assert drain_but(ground) == [2500]
    assert ground.total(Status.HELD) == 2500
    assert ground.store.control.let_go(entry_of(ground, 0), ground.outcomes) == (True, 2500)
    assert len(drain_but(ground)) == 2500
