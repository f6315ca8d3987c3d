"""`volley pause` and `volley resume`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from worker.clevertap.sandbox import CampaignState, Sandbox
from worker.store import Store

Work = Callable[[], None]


def test_a_paused_campaign_waits_while_others_are_sent(
    volley: Any, append: Any, work: Work, sandbox: Sandbox
) -> None:
    assert volley("pause", "65", "67", "--yes").code == 0
    append("a@example.com", campaigns=[65])
    append("b@example.com", campaigns=[66])
    work()
    assert sandbox.ledger.times_accepted("65", "a@example.com") == 0
    assert sandbox.ledger.times_accepted("66", "b@example.com") == 1
    ran = volley("resume", "65", "--yes")
    assert "still paused: campaign 67" in ran.out
    work()
    assert sandbox.ledger.times_accepted("65", "a@example.com") == 1


def test_pausing_all_holds_back_everything_and_resuming_all_leaves_single_ones_paused(
    volley: Any, append: Any, work: Work, sandbox: Sandbox, store: Store
) -> None:
    assert volley("pause", "65", "--yes").code == 0
    assert volley("pause", "--all", "--yes").code == 0
    append("a@example.com", campaigns=[65])
    append("b@example.com", campaigns=[66])
    work()
    assert sandbox.ledger.totals().requests == 0
    assert "still paused: campaign 65" in volley("resume", "--all", "--yes").out
    work()
    assert sandbox.ledger.totals().requests == 1
    assert store.control.paused() == {"65"}


def test_resuming_sends_a_hint(volley: Any, client: Any) -> None:
    volley("resume", "65", "--yes")
    assert client.llen("volley.deliver") == 0
    volley("pause", "65", "--yes")
    volley("resume", "65", "--yes")
    assert client.llen("volley.deliver") == 1


def test_resuming_frees_a_parked_campaign(
    volley: Any, append: Any, work: Work, sandbox: Sandbox, store: Store
) -> None:
    sandbox.change(campaigns={"65": CampaignState.STOPPED})
    append("a@example.com")
    work()
    (seen,) = volley("status", "--json").objects
    assert [(thing["name"], thing["reason"]) for thing in seen["parked"]] == [("65", "campaign_not_ready")]
    assert "campaign 65, for" in volley("status").out
    assert "campaign 65: no longer parked" in volley("resume", "65", "--yes").out
    assert store.door.parked() == []


def test_resuming_succeeds_while_the_broker_is_away(volley: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOLLEY_BROKER_URL", "redis://127.0.0.1:1/0")
    volley("pause", "65", "--yes")
    ran = volley("resume", "65", "--yes")
    assert (ran.code, ran.err.count("\n")) == (0, 1)
    assert "next sweep" in ran.err


@pytest.mark.parametrize("options", [(), ("65", "--all"), ("spring",), ("0",)])
@pytest.mark.parametrize("command", ["pause", "resume"])
def test_campaigns_or_all_must_be_named(volley: Any, command: str, options: tuple[str, ...]) -> None:
    assert volley(command, *options, "--yes").code == 2


def test_without_a_terminal_and_yes_nothing_is_changed(volley: Any, store: Store) -> None:
    assert volley("pause", "65").code == 1
    assert store.control.paused() == frozenset()
