"""`volley retry`: what ended without an acceptance is sent again, once."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from worker.clevertap.sandbox import CampaignState, Fault, FaultKind, Sandbox
from worker.core.model import Status
from worker.store import Store
from worker.store.outcomes import Filter

Work = Callable[[], None]
PROJECT = Path(__file__).resolve().parents[3]
#: Definitive, and neither split nor parked.
REFUSES = Fault(kind=FaultKind.ANSWER, status=422)


def statuses(store: Store) -> list[Status]:
    return [outcome.status for outcome in store.outcomes.select(Filter())]


@pytest.fixture
def refused(append: Any, work: Work, sandbox: Sandbox) -> None:
    """Two deliveries that CleverTap refused; it would take them now."""
    sandbox.add_fault(REFUSES)
    append("a@example.com", "b@example.com", id="sale")
    work()
    sandbox.clear_faults()


@pytest.mark.usefixtures("refused")
def test_rejected_ones_are_sent_again_and_a_second_run_finds_none(
    volley: Any, work: Work, store: Store, sandbox: Sandbox
) -> None:
    ran = volley("retry", "--yes", "--json")
    assert ran.code == 0
    preview, result = ran.objects
    assert preview == {
        "matched": 2,
        "recipients": 2,
        "calls_at_least": 1,
        "past_expiry": 0,
        "deliveries": [{"status": "rejected", "reason": "refused", "campaign": 65, "count": 2}],
    }
    assert result == {"taken": 2, "moved_on": 0, "key_held": 0, "content_gone": 0}
    assert volley("retry", "--yes").code == 4
    work()
    assert volley("retry", "--yes").code == 4
    assert statuses(store) == [Status.ACCEPTED] * 2
    assert [sandbox.ledger.times_accepted("65", f"{who}@example.com") for who in "ab"] == [1, 1]


@pytest.mark.usefixtures("refused")
def test_the_filters_of_outcomes_choose_what_is_sent_again(volley: Any, work: Work, store: Store) -> None:
    assert volley("retry", "--campaign", "66", "--yes").code == 4
    assert volley("retry", "--status", "failed", "--yes").code == 4
    assert volley("retry", "--until", "1h", "--yes").code == 4
    assert volley("retry", "--id", "sale", "--recipient", "b@example.com", "--yes").code == 0
    work()
    assert statuses(store) == [Status.ACCEPTED, Status.REJECTED]


@pytest.mark.usefixtures("refused")
def test_a_dry_run_and_a_missing_answer_change_nothing(volley: Any, store: Store) -> None:
    ran = volley("retry", "--dry-run")
    assert ran.code == 0
    assert "2 deliveries to 2 recipients, in 1 API calls or more" in ran.out
    assert volley("retry").code == 1
    assert statuses(store) == [Status.REJECTED] * 2


@pytest.mark.usefixtures("refused")
def test_a_hint_wakes_the_workers(volley: Any, client: Any) -> None:
    before = client.llen("volley.deliver")
    volley("retry", "--yes")
    assert client.llen("volley.deliver") == before + 1


@pytest.mark.usefixtures("refused")
@pytest.mark.parametrize(("answer", "code", "ended"), [("n", 1, Status.REJECTED), ("y", 0, Status.PENDING)])
def test_at_a_terminal_it_asks(
    environ: dict[str, str], store: Store, answer: str, code: int, ended: Status
) -> None:
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "worker", "retry"],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=PROJECT,
            env={**os.environ, **environ},
        ) as process:
            try:
                os.write(ours, f"{answer}\n".encode())
                output, _ = process.communicate(timeout=60)
            finally:
                process.kill()
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"Send 2 deliveries again?" in output
    assert process.returncode == code
    assert statuses(store) == [ended] * 2


def test_unknown_ones_are_taken_only_when_they_are_named_and_with_a_warning(
    volley: Any, append: Any, work: Work, store: Store, sandbox: Sandbox
) -> None:
    sandbox.add_fault(Fault(kind=FaultKind.CUT, after_accepting=True, times=1))
    append("a@example.com")
    work()
    assert statuses(store) == [Status.UNKNOWN]
    assert volley("retry", "--yes").code == 4
    ran = volley("retry", "--status", "unknown", "--dry-run")
    assert ran.code == 0
    assert "WARNING: 1 of these are unknown" in ran.err
    assert "second time" in ran.err
    assert volley("retry", "--status", "unknown", "--yes").code == 0
    work()
    assert sandbox.ledger.times_accepted("65", "a@example.com") == 2


@pytest.mark.parametrize("status", ["accepted", "pending", "in_flight", "retrying", "duplicate", "sent"])
def test_what_was_sent_or_still_moves_is_refused(volley: Any, status: str) -> None:
    assert volley("retry", "--status", status, "--yes").code == 2


def test_one_whose_key_another_delivery_holds_by_now_is_left(
    volley: Any, append: Any, work: Work, store: Store, sandbox: Sandbox
) -> None:
    sandbox.add_fault(REFUSES)
    append("a@example.com")
    work()
    sandbox.clear_faults()
    append("a@example.com")
    work()
    ran = volley("retry", "--yes")
    assert "1 were left: another delivery of the same key" in ran.out
    work()
    assert sandbox.ledger.times_accepted("65", "a@example.com") == 1
    assert statuses(store) == [Status.ACCEPTED, Status.REJECTED]


def test_one_that_is_past_its_expiry_is_left(
    *, volley: Any, append: Any, work: Work, sandbox: Sandbox, store: Store, eventually: Any
) -> None:
    sandbox.add_fault(REFUSES)
    expires_at_ms = store.deliveries.now_ms() + 1500
    append("a@example.com", expires_at=expires_at_ms / 1000)
    work()
    assert statuses(store) == [Status.REJECTED]
    eventually(lambda: store.deliveries.now_ms() > expires_at_ms)
    ran = volley("retry", "--yes")
    assert ran.code == 4
    assert "past its expires_at" in ran.err


def test_thousands_are_each_taken_once_over_several_pages(
    volley: Any, append: Any, work: Work, store: Store, sandbox: Sandbox
) -> None:
    sandbox.add_fault(REFUSES)
    for part in range(3):
        append(*(f"p{part}-{n}@example.com" for n in range(500)))
    work()
    sandbox.clear_faults()
    preview, result = volley("retry", "--yes", "--json").objects
    assert (preview["matched"], preview["calls_at_least"], result["taken"]) == (1500, 2, 1500)
    work()
    assert statuses(store) == [Status.ACCEPTED] * 1500
    assert sandbox.ledger.totals().duplicates == 0


def test_a_parked_campaign_is_named_since_sending_again_would_change_nothing(
    volley: Any, append: Any, work: Work, sandbox: Sandbox
) -> None:
    sandbox.change(campaigns={"65": CampaignState.STOPPED})
    append("a@example.com")
    work()
    assert "campaign 65 is parked (campaign_not_ready)" in volley("retry", "--dry-run").err
    volley("resume", "65", "--yes")
    assert volley("retry", "--dry-run").err == ""


def test_an_interrupted_run_is_finished_by_the_next(
    *,
    volley: Any,
    append: Any,
    work: Work,
    store: Store,
    sandbox: Sandbox,
    processes: Any,
    environ: dict[str, str],
) -> None:
    sandbox.add_fault(REFUSES)
    append(*(f"p{n}@example.com" for n in range(3000)))
    work()
    sandbox.clear_faults()
    # Killed wherever it is: before, between or behind its pages.
    killed = processes.python("-m", "worker", "retry", "--yes", environ=environ)
    while killed.is_running and Status.PENDING not in {status for _, status in store.status().counts}:
        pass
    killed.send(signal.SIGKILL)
    killed.wait()
    assert volley("retry", "--yes").code in {0, 4}
    work()
    assert statuses(store) == [Status.ACCEPTED] * 3000
    assert sandbox.ledger.totals().duplicates == 0
