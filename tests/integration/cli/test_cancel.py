"""`volley cancel`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.settings import load
from worker.clevertap.sandbox import Sandbox
from worker.core.answers import Answer, NotSent
from worker.core.model import Status
from worker.engine import Engine
from worker.engine.cancelling import PAGE
from worker.store import Store, open_store
from worker.store.deliveries import Deliveries
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


@pytest.fixture
def sweep(store: Store, settings: Any) -> Callable[[], None]:
    """What beat does every second."""
    return Engine(settings, settings.account(), store, None).sweep  # type: ignore[arg-type]  # it makes no call


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


def test_a_cancel_covers_what_is_still_at_the_intake_and_nothing_that_comes_later(
    *, volley: Any, append: Any, work: Work, sweep: Callable[[], None], store: Store, sandbox: Sandbox
) -> None:
    append("a@example.com", campaigns=[65])
    append("b@example.com", campaigns=[66])
    ran = volley("cancel", "--campaign", "65", "--yes", "--json")
    assert (ran.code, ran.objects) == (0, [{"cancelled": 0}])
    assert "2 triggers are at the intake" in ran.err
    assert volley("status", "--json").objects[0]["cancelling"][0]["value"] == "65"
    assert "campaign 65, for" in volley("status").out
    append("c@example.com", campaigns=[65])
    work()
    assert [sandbox.ledger.times_accepted("65", f"{who}@example.com") for who in "ac"] == [0, 1]
    sweep()
    assert store.outcomes.counts() == {
        (65, Status.CANCELLED): 1,
        (66, Status.ACCEPTED): 1,
        (65, Status.ACCEPTED): 1,
    }
    assert volley("status", "--json").objects[0]["cancelling"] == []


def test_a_trigger_or_an_id_that_was_paused_is_cancelled_whole(
    *, volley: Any, append: Any, work: Work, sweep: Callable[[], None], store: Store, sandbox: Sandbox
) -> None:
    entry = append("a@example.com", id="sale")
    append("b@example.com", id="sale")
    assert volley("pause", "--trigger", entry, "--yes").code == 0
    work()
    assert volley("cancel", "--trigger", entry, "--yes", "--json").objects == [{"cancelled": 1}]
    assert (store.control.held(), store.control.cancels()) == ({}, [])
    append("c@example.com", id="sale")
    assert volley("cancel", "--id", "sale", "--yes").code == 0
    work()
    sweep()
    assert store.outcomes.counts() == {(65, Status.CANCELLED): 2, (65, Status.ACCEPTED): 1}
    assert sandbox.ledger.totals().requests == 1


def test_an_interrupted_cancel_sends_nothing_more_and_the_sweeps_finish_it(
    *,
    volley: Any,
    append: Any,
    work: Work,
    accept: Callable[[], None],
    sweep: Callable[[], None],
    store: Store,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    append(*(f"u{i}@example.com" for i in range(1200)))
    accept()
    finish = Deliveries.finish
    done: list[int] = []

    def once(self: Deliveries, *arguments: Any) -> int:
        if done:
            raise KeyboardInterrupt
        done.append(finish(self, *arguments))
        return done[0]

    with monkeypatch.context() as patched:
        patched.setattr(Deliveries, "finish", once)
        ran = volley("cancel", "--all", "--yes")
    assert ran.code == 130
    assert f"{PAGE} were cancelled; the rest is not sent" in ran.err.replace("\n", " ")
    work()
    assert sandbox.ledger.totals().requests == 0
    sweep()
    assert store.outcomes.counts() == {(65, Status.CANCELLED): 1200}
    assert store.control.cancels() == []


def test_a_cancelled_retry_does_not_come_back_from_the_wire(
    *,
    volley: Any,
    append: Any,
    accept: Callable[[], None],
    sweep: Callable[[], None],
    store: Store,
    settings: Any,
) -> None:
    """A call is on the wire while its campaign is cancelled, and fails then."""
    append("a@example.com", "b@example.com")
    accept()
    ran: list[Any] = []

    class Failing:
        def post(self, *_: Any, **__: Any) -> Answer:
            if not ran:
                ran.append(volley("cancel", "--campaign", "65", "--yes"))
            return NotSent("ConnectError: no connection was made", 0.0)

    engine = Engine(
        replace(settings, default_policy=replace(settings.default_policy, max_attempts=5)),
        settings.account(),
        store,
        Failing(),
    )
    engine.deliver(5, lambda: False)
    assert [each.code for each in ran] == [0]
    assert "2 deliveries of account default are on the wire" in ran[0].err
    sweep()
    assert store.outcomes.counts() == {(65, Status.CANCELLED): 2}


def test_every_account_is_stopped_before_the_long_part_begins(
    volley: Any, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "volley.toml"
    file.write_text('[accounts.shop]\naccount_id = "B"\npasscode = "p"\n')
    monkeypatch.setenv("VOLLEY_CONFIG", str(file))
    loaded = load({**environ, "VOLLEY_CONFIG": str(file)})
    trigger = b'{"to":{"identity":["u"]},"campaign_id":"65","ExternalTrigger":{"Name":"A"}}'
    stores = [open_store(loaded, name) for name in ("default", "shop")]
    for each in stores:
        each.intake.append([trigger], "n")
    ran = volley("cancel", "--all", "--every-account", "--yes")
    assert ran.code == 0
    assert "2 triggers at the intake and 0 deliveries on the wire may hold more of it" in ran.err
    assert [[c.what.words for c in each.control.cancels()] for each in stores] == [["everything"]] * 2
    for each in stores:
        each.close()
