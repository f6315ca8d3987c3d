"""`volley cancel`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from worker.core.model import Status
from worker.engine import Engine
from worker.store import Store
from worker.store.outcomes import Filter

Work = Callable[[], None]


@pytest.fixture
def accept(work: Work, store: Store, settings: Any) -> Callable[[], None]:
    """Accepts what waits at the intake, and sends nothing."""
    engine = Engine(settings, settings.account(), store, None)  # type: ignore[arg-type]  # it makes no call

    def all_of_it() -> None:
        while store.status().intake:
            engine.wait_and_accept(0.01, lambda: False)

    return all_of_it


def test_a_cancelled_campaign_is_not_sent_and_the_others_are(
    volley: Any, append: Any, work: Work, accept: Callable[[], None], store: Store
) -> None:
    for i in range(3):
        append(f"a{i}@example.com", campaigns=[65, 66])
    append("late@example.com", campaigns=[65], send_at=time.time() + 3600)
    accept()
    ran = volley("cancel", "--campaign", "65", "--yes", "--json")
    assert (ran.code, ran.objects) == (0, [{"cancelled": 4}])
    assert store.control.paused() == frozenset()
    work()
    assert store.outcomes.counts() == {(65, Status.CANCELLED): 4, (66, Status.ACCEPTED): 3}


def test_what_was_cancelled_frees_its_key_and_can_be_retried(
    volley: Any, append: Any, work: Work, accept: Callable[[], None], store: Store
) -> None:
    append("a@example.com", campaigns=[65])
    accept()
    assert volley("cancel", "--all", "--yes").code == 0
    append("a@example.com", campaigns=[65])
    work()
    assert store.outcomes.counts() == {(65, Status.CANCELLED): 1, (65, Status.ACCEPTED): 1}
    ran = volley("retry", "--status", "cancelled", "--yes", "--json")
    assert ran.objects[-1] == {"taken": 0, "moved_on": 0, "key_held": 1, "content_gone": 0}


def test_one_trigger_or_one_person_can_be_cancelled_alone(
    volley: Any, append: Any, accept: Callable[[], None], store: Store
) -> None:
    first = append("a@example.com", "b@example.com", campaigns=[65])
    append("a@example.com", campaigns=[66])
    accept()
    assert volley("cancel", "--trigger", first, "--recipient", "b@example.com", "--yes").code == 0
    assert volley("cancel", "--recipient", "a@example.com", "--campaign", "66", "--yes").code == 0
    left = [o.recipient.value for o in store.outcomes.select(Filter(statuses=frozenset({Status.PENDING})))]
    assert left == ["a@example.com"]


def test_a_pause_that_was_there_before_stays(
    volley: Any, append: Any, accept: Callable[[], None], store: Store
) -> None:
    append("a@example.com", campaigns=[65])
    accept()
    assert volley("pause", "65", "--yes").code == 0
    assert volley("cancel", "--campaign", "65", "--yes").code == 0
    assert store.control.paused() == frozenset({"65"})


def test_nothing_is_cancelled_without_a_word_on_what_or_in_a_dry_run(
    volley: Any, append: Any, accept: Callable[[], None], store: Store
) -> None:
    append("a@example.com", campaigns=[65])
    accept()
    assert volley("cancel", "--yes").code == 2
    assert volley("cancel", "--all", "--campaign", "65", "--yes").code == 2
    assert volley("cancel", "--campaign", "66", "--yes").code == 4
    ran = volley("cancel", "--all", "--dry-run")
    assert (ran.code, "1 deliveries would be cancelled" in ran.out) == (0, True)
    assert volley("cancel", "--all", stdin=b"n\n").code == 1
    assert store.outcomes.counts() == {(65, Status.PENDING): 1}
