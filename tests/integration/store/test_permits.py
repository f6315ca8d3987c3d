"""Permits: never more than the limit, whoever asks at once, and none lost with a dead holder."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from worker.core.model import Status

if TYPE_CHECKING:
    from tests.conftest import Eventually
    from tests.integration.store.conftest import Ground

LONG_MS = 60_000


def test_no_more_permits_are_given_than_there_are(ground: Ground) -> None:
    assert [ground.hold(f"t{i}", most=3) for i in range(5)] == [True] * 3 + [False] * 2
    assert ground.free(3) == 0
    assert ground.status().permits_held == 3


def test_a_permit_that_is_given_back_can_be_taken(ground: Ground) -> None:
    assert ground.hold("a", most=1)
    assert not ground.store.permits.release("a")
    assert ground.hold("b", most=1)


def test_giving_back_twice_takes_nobody_elses_permit(ground: Ground) -> None:
    assert ground.hold("a", most=1)
    ground.store.permits.release("a")
    assert ground.hold("b", most=1)
    ground.store.permits.release("a")
    assert not ground.hold("c", most=1)


def test_a_dead_holders_permit_comes_back_by_itself(ground: Ground, eventually: Eventually) -> None:
    assert ground.hold("dead", 20, most=1)
    eventually(lambda: ground.hold("heir", most=1))
    assert not ground.hold("dead", most=1), "it is gone for the dead one"


def test_taken_again_by_its_holder_a_permit_is_renewed(ground: Ground) -> None:
    assert ground.hold("a", 1_000, most=1)
    assert ground.hold("a", most=1)
    assert ground.client.zscore(f"{ground.root}permits", "a") > ground.deliveries.now_ms() + 30_000
    assert ground.free(1) == 0


def test_a_limit_that_was_lowered_holds_for_the_next_ones(ground: Ground) -> None:
    for token in "abc":
        assert ground.hold(token, most=3)
    ground.store.permits.release("a")
    assert not ground.hold("d", most=1)
    assert ground.free(1) == 0


def test_never_more_than_the_limit_when_many_ask_at_once(ground: Ground) -> None:
    permits, lock, held, most = ground.store.permits, threading.Lock(), set[str](), list[int]()

    def work(name: int) -> int:
        taken = 0
        for i in range(60):
            token = f"{name}-{i}"
            if not ground.hold(token, most=3):
                continue
            with lock:
                held.add(token)
                most.append(len(held))
            taken += 1
            with lock:
                held.discard(token)
            permits.release(token)
        return taken

    with ThreadPoolExecutor(8) as pool:
        taken = sum(pool.map(work, range(8)))
    assert taken > 0
    assert max(most) <= 3
    assert ground.free(3) == 3


def test_leases_that_end_under_many_askers_are_given_once(ground: Ground, eventually: Eventually) -> None:
    for i in range(3):
        assert ground.hold(f"dead {i}", 30, most=3)
    eventually(lambda: ground.free(3) == 3)
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: ground.hold(f"t{i}", most=3), range(24)))
    assert sum(won) == 3


def test_an_idle_permit_is_given_back_only_when_nothing_waits(ground: Ground) -> None:
    ground.file("a")
    assert ground.hold("t", most=1)
    assert ground.store.permits.rest("t").kept
    assert ground.free(1) == 0, "it is kept for the work"
    ground.drain("t")
    assert ground.hold("t", most=1)
    assert not ground.store.permits.rest("t").kept
    assert ground.free(1) == 1


def test_giving_back_in_any_case_says_whether_work_waits(ground: Ground) -> None:
    ground.file("a")
    assert ground.hold("t", most=1)
    assert ground.store.permits.release("t")
    assert ground.free(1) == 1


def test_paused_work_is_no_reason_to_keep_a_permit(ground: Ground) -> None:
    ground.file("a", campaigns=[65, 66])
    for paused in (["*"], ["65", "66"]):
        ground.pause(*paused)
        assert ground.hold("t", most=1)
        assert not ground.store.permits.rest("t").kept
        ground.resume(*paused)
    ground.pause("65")
    assert ground.hold("t", most=1)
    assert ground.store.permits.rest("t").kept, "66 may go"


def test_no_work_is_left_without_a_hint_between_accept_and_release(ground: Ground) -> None:
    """Whoever gives back last sees the work, or the one that files it sees a free permit."""

    def accept() -> int:
        filed = ground.deliveries.accept([s for e in ground.read() for s in ground.sections(e)], [], 1)
        return filed.free_permits

    for i in range(40):
        ground.append(ground.body(f"u{i}"))
        assert ground.hold("t", most=1)
        with ThreadPoolExecutor(2) as pool:
            rest = pool.submit(ground.store.permits.rest, "t")
            free = pool.submit(accept)
            seen = rest.result().kept or free.result() > 0
        assert seen
        ground.drain("t")


def test_two_workers_never_claim_the_same_delivery(ground: Ground) -> None:
    ground.file_people(600, campaigns=[65, 66])
    ground.file_people(600, campaigns=[66, 67])

    def work(name: int) -> list[int]:
        claimed: list[int] = []
        while ground.deliveries.view() is not None:
            try:
                batch = ground.claim(f"t{name}", recipients=7)
            except AssertionError:  # the others were faster
                continue
            claimed += [n for member in batch.members for n in member.deliveries]
        return claimed

    with ThreadPoolExecutor(6) as pool:
        claimed = [n for part in pool.map(work, range(6)) for n in part]
    assert len(claimed) == len(set(claimed))
    assert len(claimed) == ground.total(Status.IN_FLIGHT)
    assert ground.total(Status.PENDING) == 0


def test_places_at_the_intake_are_leased_like_permits(ground: Ground, eventually: Eventually) -> None:
    permits = ground.store.permits
    assert permits.sit("a", 1, LONG_MS)
    assert not permits.sit("b", 1, LONG_MS)
    assert (permits.seated(), ground.status().accept_tasks, ground.free(3)) == (1, 1, 3)
    permits.stand_up("a")
    assert permits.sit("b", 1, 20)
    eventually(lambda: permits.seated() == 0)
    assert permits.sit("a", 1, LONG_MS)
