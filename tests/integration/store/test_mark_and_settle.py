"""A batch on the wire, and the fate of its deliveries."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from worker.core.model import FREES_KEY, Reason, Status
from worker.store.batches import Ending, FateRow

if TYPE_CHECKING:
    from tests.conftest import Eventually
    from tests.integration.store.conftest import Ground

A, R, X = Status.ACCEPTED, Status.RETRYING, Status.REJECTED


def test_marking_renews_the_permit_and_the_lease_of_the_batch(ground: Ground) -> None:
    ground.file("a")
    batch = ground.claim(lease_ms=5_000)
    assert ground.deliveries.mark(batch, 3_600_000)
    now_ms = ground.deliveries.now_ms()
    assert ground.client.zscore(f"{ground.root}permits", "t") > now_ms + 3_000_000
    assert ground.client.zscore(f"{ground.root}flight", batch.number) > now_ms + 3_000_000


def test_marking_twice_is_marking_once(ground: Ground) -> None:
    ground.file("a")
    batch = ground.on_the_wire()
    assert ground.deliveries.mark(batch, 60_000)
    assert ground.status().calls == {65: 1}
    assert ground.settle(batch, A)


def test_a_batch_whose_permit_has_lapsed_may_not_be_sent(ground: Ground, eventually: Eventually) -> None:
    ground.file("a")
    batch = ground.claim(lease_ms=20)
    eventually(lambda: ground.free(100) == 100)
    assert not ground.deliveries.mark(batch, 60_000)
    assert ground.states() == {0: Status.IN_FLIGHT}


def test_a_batch_whose_permit_was_given_back_may_not_be_sent(ground: Ground) -> None:
    ground.file("a")
    batch = ground.claim()
    ground.store.permits.release("t")
    assert not ground.deliveries.mark(batch, 60_000)


def test_members_that_expired_end_at_the_mark_and_the_rest_goes_on(ground: Ground) -> None:
    ground.file("a", "b", "c", campaigns=[65, 66])
    batch = ground.claim()
    gone = [e for e in ground.endings_of(batch) if e.delivery in {2, 3}]
    assert ground.deliveries.mark(batch, 60_000, ground.kept_out(gone))
    assert ground.states()[2] is ground.states()[3] is Status.EXPIRED
    assert ground.cell(2).reason is Reason.EXPIRED
    assert ground.key_holders() == {0, 1, 4, 5}
    rest = batch.of([batch.members[0], batch.members[2]])
    assert ground.settle(rest, A)
    assert [n for n, s in ground.states().items() if s is A] == [0, 1, 4, 5]


def test_marking_with_expired_members_twice_is_marking_once(ground: Ground) -> None:
    ground.file("a", "b")
    batch = ground.claim()
    gone = ground.endings_of(batch)[:1]
    assert ground.deliveries.mark(batch, 60_000, ground.kept_out(gone))
    assert ground.deliveries.mark(batch, 60_000, ground.kept_out(gone))
    assert ground.total(Status.EXPIRED) == 1


def test_a_batch_whose_members_all_expired_ends_at_the_mark(ground: Ground) -> None:
    ground.file("a", "b")
    batch = ground.claim()
    assert ground.deliveries.mark(batch, 60_000, ground.kept_out(ground.endings_of(batch)))
    assert set(ground.states().values()) == {Status.EXPIRED}
    assert ground.keys("batch:*") == set()
    assert ground.dedupe_keys() == {}
    assert not ground.settle(batch, A)


def test_an_accepted_batch_keeps_its_keys_and_repeats_no_words_about_the_refused_ones(ground: Ground) -> None:
    ground.file("a", "b", campaigns=[65, 66])
    batch = ground.on_the_wire()
    assert ground.settle(batch, A, text="the vendor's words")
    assert ground.key_holders() == {0, 1, 2, 3}
    for outcome in ground.outcomes.of(range(4)):
        assert (outcome.status, outcome.attempts, outcome.http) == (A, 1, 200)
        assert (outcome.batch, outcome.text) == (batch.number, "")
    assert ground.keys("batch:*") == ground.keys("flight") == set()


@pytest.mark.parametrize("status", [A, X, Status.FAILED, Status.UNKNOWN, Status.EXPIRED])
def test_the_key_is_freed_exactly_when_it_was_not_sent(ground: Ground, status: Status) -> None:
    ground.file("a")
    assert ground.settle(ground.on_the_wire(), status)
    assert ground.file("a").pending == (status in FREES_KEY)


def test_a_key_that_another_delivery_holds_by_now_is_not_freed(ground: Ground) -> None:
    ground.file("a")
    batch = ground.on_the_wire()
    (key,) = ground.dedupe_keys()
    ground.free_dedupe_key(key)
    ground.file("a")
    assert ground.settle(batch, X)
    assert ground.key_holders() == {1}


def test_settling_twice_changes_nothing_the_second_time(ground: Ground) -> None:
    ground.file("a")
    batch = ground.on_the_wire()
    assert ground.settle(batch, A)
    assert not ground.settle(batch, X)
    assert ground.states() == {0: A}
    assert ground.key_holders() == {0}


def test_a_batch_that_was_only_claimed_can_be_settled_by_its_holder_alone(ground: Ground) -> None:
    ground.file("a")
    batch = ground.claim()
    assert not ground.settle(replace(batch, token="another"), X)
    assert ground.states() == {0: Status.IN_FLIGHT}
    assert not ground.settle(batch, A), "it was not sent"
    assert ground.settle(batch, X)
    assert not ground.deliveries.mark(batch, 60_000), "and cannot be sent then"


def test_each_delivery_gets_its_own_fate(ground: Ground) -> None:
    ground.file("a", "b", campaigns=[65, 66])
    batch = ground.on_the_wire()
    fates = [
        FateRow(A, Reason.NONE, 1, None),
        FateRow(X, Reason.CAMPAIGN_NOT_READY, 1, None),
        FateRow(R, Reason.SERVER_ERROR, 0, 3_600_000),
    ]
    freed = [e for e in ground.endings_of(batch) if e.delivery == 1]
    assert ground.deliveries.settle(
        batch, http=200, text="", fates=fates, assignment=b"\1\2\3\1", freed=freed
    )
    found = [(c.status, c.reason, c.attempts) for c in map(ground.cell, range(4))]
    assert found == [
        (A, Reason.NONE, 1),
        (X, Reason.CAMPAIGN_NOT_READY, 1),
        (R, Reason.SERVER_ERROR, 0),
        (A, Reason.NONE, 1),
    ]
    assert ground.key_holders() == {0, 2, 3}


def test_deliveries_that_retry_sleep_and_come_back_with_their_campaigns(
    ground: Ground, eventually: Eventually
) -> None:
    ground.file("a", "b", campaigns=[65, 66, 67])
    batch = ground.on_the_wire()
    fates = [FateRow(A, Reason.NONE, 1, None), FateRow(R, Reason.SERVER_ERROR, 1, 50)]
    assert ground.deliveries.settle(
        batch, http=503, text="", fates=fates, assignment=b"\2\1\2\2\2\1", freed=[]
    )
    assert ground.deliveries.view() is None
    assert ground.total(R) == 4
    ground.audit()
    woken = eventually(lambda: ground.deliveries.promote()[0])
    assert woken == 2
    assert {ground.cell(n).attempts for n in (0, 2, 3, 4)} == {1}
    ground.audit()
    assert sorted(ground.drain()) == [0, 2, 3, 4]
    assert {ground.cell(n).attempts for n in (0, 2, 3, 4)} == {2}


def test_different_waits_in_one_batch_are_kept_apart(ground: Ground, eventually: Eventually) -> None:
    ground.file("a", "b")
    fates = [FateRow(R, Reason.SERVER_ERROR, 1, 0), FateRow(R, Reason.SERVER_ERROR, 1, 3_600_000)]
    batch = ground.on_the_wire()
    assert ground.deliveries.settle(batch, http=503, text="", fates=fates, assignment=b"\1\2", freed=[])
    eventually(lambda: ground.deliveries.promote()[0])
    assert ground.states() == {0: Status.PENDING, 1: R}


def test_deliveries_that_wait_without_a_due_time_are_pending_at_once(ground: Ground) -> None:
    ground.file("a", "b", campaigns=[65, 66])
    assert ground.settle(ground.on_the_wire(), Status.PENDING, Reason.THROTTLED, counted=0)
    assert {(ground.cell(n).status, ground.cell(n).attempts) for n in range(4)} == {(Status.PENDING, 0)}
    assert ground.drain() == [0, 1, 2, 3]


def test_attempts_do_not_wrap_around(ground: Ground) -> None:
    ground.file("a")
    ground.client.setrange(f"{ground.root}seg:0:cells", 14, b"\xff")
    assert ground.settle(ground.on_the_wire(), A)
    assert ground.cell(0).attempts == 255


def test_one_fate_for_each_of_many_deliveries(ground: Ground) -> None:
    ground.file_people(1000, campaigns=[1, 2, 3, 4, 5])
    batch = ground.on_the_wire()
    assert len(batch) == 5000
    fates = [FateRow(X, Reason.REFUSED, 1, None), FateRow(R, Reason.THROTTLED, 0, 3_600_000)]
    assignment = bytes(1 + n % 2 for n in range(5000))
    freed = [e for i, e in enumerate(ground.endings_of(batch)) if i % 2 == 0]
    assert ground.deliveries.settle(batch, http=400, text="", fates=fates, assignment=assignment, freed=freed)
    assert (ground.total(X), ground.total(R)) == (2500, 2500)
    assert len(ground.dedupe_keys()) == 2500


def test_freeing_the_key_of_a_delivery_without_one_does_nothing(ground: Ground) -> None:
    ground.file("a", dedupe_window=0)
    batch = ground.on_the_wire()
    assert ground.endings_of(batch) == [Ending(0, 1, b"")]
    assert ground.settle(batch, X)
    assert ground.states() == {0: X}
