from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from itertools import count
from typing import cast

import pytest

from worker.store import Store
from worker.store.progress import Progress
from worker.watchdog import Idleness, Step, Watchdog, Worker


def looks(idleness: Idleness, seconds: int, **seen: int | bool) -> list[Step]:
    """What follows from a look every 10 seconds, from second 10 on."""
    known: dict[str, int | bool] = {"waits": True, "begun": 0, "busy": False} | seen
    return [idleness.look(now, **known) for now in range(10, seconds + 1, 10)]  # type: ignore[arg-type]


def test_a_worker_that_begins_nothing_although_work_waits_gets_hints_and_is_ended() -> None:
    # The first look only learns how much the worker has begun.
    assert looks(Idleness(60, 0), 70) == [Step.REST] * 2 + [Step.HINT] * 4 + [Step.END]


@pytest.mark.parametrize("seen", [{"waits": False}, {"busy": True}])
def test_a_worker_that_works_or_has_nothing_to_do_is_left_alone(seen: dict[str, bool]) -> None:
    assert set(looks(Idleness(60, 0), 600, **seen)) == {Step.REST}


def test_a_worker_that_begins_a_task_now_and_then_is_left_alone() -> None:
    idleness, begun = Idleness(60, 0), count()
    assert {idleness.look(now, waits=True, begun=next(begun), busy=False) for now in range(0, 600, 10)} == {
        Step.REST
    }


def test_a_worker_that_was_frozen_gets_the_chance_to_work_first() -> None:
    idleness = Idleness(60, 0)
    assert looks(idleness, 20) == [Step.REST, Step.REST]
    assert idleness.look(1000, waits=True, begun=0, busy=False) is Step.HINT
    assert idleness.look(1010, waits=True, begun=1, busy=False) is Step.REST
    assert idleness.look(1020, waits=True, begun=1, busy=False) is Step.REST


def test_time_without_redis_is_not_idleness() -> None:
    idleness = Idleness(60, 0)
    assert looks(idleness, 50)[-1] is Step.HINT
    idleness.forget(60)
    assert idleness.look(70, waits=True, begun=0, busy=False) is Step.REST


def progress(**changes: int | None) -> Progress:
    known: dict[str, int | None] = {
        "now_ms": 1_000_000,
        "due_since_ms": None,
        "intake_since_ms": None,
        "readers": 1,
        "moved_ms": 900_000,
        "swept_ms": 999_000,
    }
    return Progress(**(known | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"due_since_ms": 990_000}, None),
        ({"due_since_ms": 900_000}, "Due work has waited 100 s"),
        ({"due_since_ms": 900_000, "moved_ms": 990_000}, None),
        ({"due_since_ms": 900_000, "moved_ms": None}, "nothing has ever moved"),
        ({"intake_since_ms": 930_000}, "A trigger has waited 70 s"),
        ({"swept_ms": None}, "No sweep has ever run"),
        ({"swept_ms": 900_000}, "The last sweep was 100 s ago"),
    ],
)
def test_work_that_waits_while_nothing_moves_is_named(
    changes: dict[str, int | None], words: str | None
) -> None:
    stuck = progress(**changes).stuck(60_000)
    assert (stuck is None) if words is None else (stuck is not None and words in stuck)


@pytest.mark.parametrize(
    ("changes", "waits"),
    [
        ({}, False),
        ({"due_since_ms": 999_999}, True),
        ({"intake_since_ms": 999_999}, False),
        ({"intake_since_ms": 999_999, "readers": 0}, True),
        ({"swept_ms": 960_000}, True),
        ({"swept_ms": None}, True),
    ],
)
def test_work_waits_if_it_is_due_unread_or_unswept(changes: dict[str, int | None], waits: bool) -> None:
    assert progress(**changes).waits(30_000) is waits


def test_a_look_that_fails_is_told_once_and_the_next_one_follows(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody watches the watchdog: it goes on, whatever the accident was."""
    hinted, enough, opened = threading.Event(), threading.Event(), count()

    class Broken:
        looks = count()

        def progress(self) -> Progress:
            if next(self.looks) < 2:
                raise ValueError("invalid literal for int()")
            return progress(swept_ms=None)

    def stores() -> Sequence[Store]:
        if next(opened) < 2:
            raise OSError("no file is left")
        return [cast("Store", Broken())]

    def hint() -> bool:
        hinted.set()
        return True

    worker = Worker(
        begun=lambda: 0,
        busy=lambda: False,
        stopping=enough.is_set,
        hint=hint,
        stop=enough.set,
        kill=enough.set,
    )
    dog = Watchdog(worker, stores, 0.06)
    with caplog.at_level(logging.ERROR, "volley"):
        dog.start()
        try:
            assert hinted.wait(30)
        finally:
            enough.set()
            dog.join(30)
    assert not dog.is_alive()
    assert next(opened) == 3
    assert [r.exc_info is not None for r in caplog.records if "could not look" in r.getMessage()] == [True]
