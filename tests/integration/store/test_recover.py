"""What the dead leave behind: batches whose lease has ended, rows whose time has come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.core.model import Reason, Status
from worker.store.batches import Batch

if TYPE_CHECKING:
    from tests.conftest import Eventually
    from tests.integration.store.conftest import Ground


def _lapsed(ground: Ground, eventually: Eventually, token: str = "t") -> None:
    lease = f"{ground.root}permits"
    eventually(lambda: (ground.client.zscore(lease, token) or 0) < ground.deliveries.now_ms())


def test_there_is_nothing_to_recover_while_leases_run(ground: Ground) -> None:
    ground.file("a", "b")
    ground.claim(recipients=1)
    ground.on_the_wire("other", recipients=1)
    assert ground.deliveries.recover("heir", 60_000) is False


def test_a_batch_that_was_only_claimed_is_pending_again_without_an_attempt(
    ground: Ground, eventually: Eventually
) -> None:
    ground.file("a", "b", campaigns=[65, 66])
    ground.claim(lease_ms=20)
    _lapsed(ground, eventually)
    assert ground.deliveries.recover("heir", 60_000) is True
    assert ground.deliveries.recover("heir", 60_000) is False
    assert {(ground.cell(n).status, ground.cell(n).attempts) for n in range(4)} == {(Status.PENDING, 0)}
    ground.audit()
    assert ground.drain() == [0, 1, 2, 3]


def test_the_holder_of_a_batch_that_went_back_can_neither_mark_nor_settle_it(
    ground: Ground, eventually: Eventually
) -> None:
    ground.file("a")
    batch = ground.claim(lease_ms=20)
    _lapsed(ground, eventually)
    assert ground.deliveries.recover("heir", 60_000) is True
    assert ground.hold("t", 60_000, most=100), "even with its permit taken anew"
    assert not ground.deliveries.mark(batch, 60_000)
    assert not ground.settle(batch, Status.ACCEPTED)
    assert ground.drain() == [0]


def test_a_batch_on_the_wire_is_taken_over_with_a_new_token(ground: Ground, eventually: Eventually) -> None:
    ground.file("a", "b", campaigns=[65, 66], id="order-7")
    batch = ground.on_the_wire(lease_ms=20)
    _lapsed(ground, eventually)
    found = ground.deliveries.recover("heir", 60_000)
    assert isinstance(found, Batch)
    assert (found.number, found.token, found.gid) == (batch.number, "heir", batch.gid)
    assert (found.members, found.campaigns) == (batch.members, batch.campaigns)
    assert (found.content, found.digest) == (batch.content, batch.digest)
    assert not ground.deliveries.mark(batch, 60_000)
    assert not ground.settle(batch, Status.ACCEPTED), "the old holder lost it"
    assert ground.settle(found, Status.UNKNOWN, Reason.WORKER_DIED)
    assert {ground.cell(n).reason for n in range(4)} == {Reason.WORKER_DIED}
    assert ground.key_holders() == {0, 1, 2, 3}


def test_a_batch_whose_heir_died_too_is_taken_over_again(ground: Ground, eventually: Eventually) -> None:
    ground.file("a")
    ground.on_the_wire(lease_ms=20)
    _lapsed(ground, eventually)
    first = ground.deliveries.recover("first heir", 20)
    assert isinstance(first, Batch)
    second = eventually(lambda: ground.deliveries.recover("second heir", 60_000))
    assert isinstance(second, Batch)
    assert not ground.settle(first, Status.UNKNOWN)
    assert ground.settle(second, Status.UNKNOWN)


def test_a_recovered_batch_knows_only_the_members_that_were_sent(
    ground: Ground, eventually: Eventually
) -> None:
    ground.file("a", "b", "c", campaigns=[65, 66])
    batch = ground.claim()
    expired = [e for e in ground.endings_of(batch) if e.delivery in {0, 1}]
    assert ground.deliveries.mark(batch, 20, ground.kept_out(expired))
    _lapsed(ground, eventually)
    found = ground.deliveries.recover("heir", 60_000)
    assert isinstance(found, Batch)
    assert [m.row.recipient.value for m in found.members] == ["b", "c"]
    assert ground.settle(found, Status.UNKNOWN, Reason.WORKER_DIED)


def test_several_batches_are_recovered_one_by_one(ground: Ground, eventually: Eventually) -> None:
    ground.file_people(6)
    for _ in range(2):
        ground.claim("claimed", recipients=2, lease_ms=20)
    ground.on_the_wire("wire", recipients=2, lease_ms=20)
    _lapsed(ground, eventually, "claimed")
    _lapsed(ground, eventually, "wire")
    found = [ground.deliveries.recover("heir", 60_000) for _ in range(4)]
    assert [f for f in found if isinstance(f, bool)] == [True, True, False]


def test_a_recovered_delivery_remembers_that_an_earlier_attempt_may_have_been_sent(
    ground: Ground, eventually: Eventually
) -> None:
    ground.file("a")
    assert ground.settle(ground.on_the_wire(), Status.RETRYING, Reason.NO_ANSWER, due_ms=0)
    eventually(lambda: ground.deliveries.promote()[0])
    ground.store.permits.release("t")
    batch = ground.claim(lease_ms=20)
    assert batch.members[0].told[0].reason is Reason.NO_ANSWER
    _lapsed(ground, eventually)
    assert ground.deliveries.recover("heir", 60_000) is True
    assert ground.cell(0).reason is Reason.NO_ANSWER
    assert ground.cell(0).attempts == 1


def test_promoting_twice_wakes_once(ground: Ground, eventually: Eventually) -> None:
    ground.file("a", "b")
    ground.settle(ground.on_the_wire(), Status.RETRYING, Reason.SERVER_ERROR, due_ms=0)
    assert eventually(lambda: ground.deliveries.promote()[0]) == 2
    assert ground.deliveries.promote() == (0, False)
    assert ground.keys("due*") == set()


def test_promoting_is_bounded_and_says_that_more_is_due(ground: Ground, eventually: Eventually) -> None:
    due_s = ground.deliveries.now_ms() / 1000 + 0.2
    for name in "ABC":
        ground.file_people(3, name=name, send_at=due_s)
    eventually(lambda: (ground.status().next_due_ms or 0) <= ground.deliveries.now_ms())
    found = [ground.deliveries.promote(2) for _ in range(4)]
    assert [woken for woken, _ in found] == [3, 3, 3, 0]
    assert [more for _, more in found[:2] + found[3:]] == [True, True, False]
    assert len(ground.drain()) == 9


def test_what_was_cancelled_in_its_sleep_does_not_wake(ground: Ground, eventually: Eventually) -> None:
    ground.file("a", "b", campaigns=[65, 66], send_at=ground.deliveries.now_ms() / 1000 + 0.2)
    assert ground.cancel(1, 2, 3) == 3
    eventually(lambda: ground.deliveries.promote()[0])
    assert ground.drain() == [0]
    assert ground.total(Status.CANCELLED) == 3


def test_what_was_cancelled_in_its_sleep_and_sent_again_is_sent_once(
    ground: Ground, eventually: Eventually
) -> None:
    ground.file("a", send_at=ground.deliveries.now_ms() / 1000 + 0.2)
    ground.cancel(0)
    assert ground.requeue(0).taken == 1
    eventually(lambda: ground.deliveries.promote()[0])
    assert ground.drain() == [0]
    assert ground.states() == {0: Status.ACCEPTED}
    assert ground.deliveries.view() is None
