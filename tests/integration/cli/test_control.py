"""`volley pause` and `volley resume`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.settings import load
from worker.clevertap.sandbox import CampaignState, Sandbox
from worker.core.model import Status
from worker.engine import Engine
from worker.store import Store, open_store

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


@pytest.fixture
def accept(store: Store, settings: Any) -> Callable[[], None]:
    """Accepts what waits at the intake, and sends nothing."""
    engine = Engine(settings, settings.account(), store, None)  # type: ignore[arg-type]  # it makes no call

    def all_of_it() -> None:
        while store.status().intake:
            engine.wait_and_accept(0.01, lambda: False)

    return all_of_it


def test_a_paused_trigger_waits_wherever_it_is_and_goes_on_when_it_is_resumed(
    *, volley: Any, append: Any, work: Work, accept: Callable[[], None], sandbox: Sandbox, store: Store
) -> None:
    accepted = append("a@example.com", campaigns=[65, 66])
    accept()
    at_the_intake = append("b@example.com", campaigns=[65, 66])
    append("c@example.com", campaigns=[65, 66])
    ran = volley("pause", "--trigger", accepted, "--yes", "--json")
    assert (ran.code, ran.objects) == (
        0,
        [
            {
                "account": "default",
                "campaign": None,
                "trigger": accepted,
                "id": None,
                "paused": True,
                "waiting": 2,
            }
        ],
    )
    assert "0 deliveries of it wait" in volley("pause", "--trigger", at_the_intake, "--yes").out
    work()
    assert sandbox.ledger.totals().requests == 1
    assert sandbox.ledger.times_accepted("65", "c@example.com") == 1
    (seen,) = volley("status", "--json").objects
    assert {(each["what"], each["value"]) for each in seen["held"]} == {
        ("trigger", accepted),
        ("trigger", at_the_intake),
    }
    assert f"trigger {accepted}, for" in volley("status").out
    assert volley("outcomes", "--trigger", accepted, "--json").objects[0]["status"] == "held"
    ran = volley("resume", "--trigger", accepted, "--yes")
    assert f"trigger {accepted}: resumed, 2 deliveries are pending again" in ran.out
    assert f"still paused: trigger {at_the_intake}" in ran.out
    assert volley("resume", "--trigger", at_the_intake, "--yes", "--json").objects[0]["pending"] == 2
    work()
    assert store.outcomes.counts() == {(65, Status.ACCEPTED): 3, (66, Status.ACCEPTED): 3}
    assert sandbox.ledger.duplicates() == []


def test_all_triggers_of_a_producers_id_can_be_paused_before_they_are_enqueued(
    volley: Any, append: Any, work: Work, sandbox: Sandbox
) -> None:
    assert volley("pause", "--id", "sale [bold]", "--yes").code == 0
    append("a@example.com", id="sale [bold]")
    work()
    assert sandbox.ledger.totals().requests == 0
    assert "still paused: id sale [bold]" in volley("resume", "65", "--yes").out
    assert volley("resume", "--id", "sale [bold]", "--yes").code == 0
    work()
    assert sandbox.ledger.times_accepted("65", "a@example.com") == 1


def test_a_trigger_that_nobody_knows_is_not_paused(volley: Any, store: Store) -> None:
    ran = volley("pause", "--trigger", "1764000000000-0", "--yes")
    assert (ran.code, "no trigger 1764000000000-0" in ran.err) == (4, True)
    assert volley("pause", "--trigger", "order-7001", "--yes").code == 2
    assert volley("pause", "--trigger", "1-0", "65", "--yes").code == 2
    assert store.control.held() == {}


def test_every_account_is_paused_and_resumed_at_once(
    volley: Any, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "volley.toml"
    file.write_text('[accounts.shop]\naccount_id = "B"\npasscode = "p"\n')
    monkeypatch.setenv("VOLLEY_CONFIG", str(file))
    settings = load({**environ, "VOLLEY_CONFIG": str(file)})
    ran = volley("pause", "--all", "--every-account", "--yes", "--json")
    assert [each["account"] for each in ran.objects] == ["default", "shop"]
    stores = [open_store(settings, name) for name in ("default", "shop")]
    assert [each.control.paused() for each in stores] == [{"*"}, {"*"}]
    assert volley("resume", "--all", "--every-account", "--yes").code == 0
    assert [each.control.paused() for each in stores] == [frozenset(), frozenset()]
    for each in stores:
        each.close()
