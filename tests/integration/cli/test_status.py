"""`volley status`: an account at a glance."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.settings import load
from worker.clevertap.client import Client
from worker.clevertap.sandbox import Fault, FaultKind, Sandbox
from worker.engine import Engine
from worker.store import Store, open_store

Work = Callable[[], None]


def test_json_tells_how_the_account_stands(volley: Any, append: Any, work: Work, store: Store) -> None:
    append("a@example.com", "b@example.com")
    append("a@example.com")
    work()
    append("nobody")
    store.deliveries.swept()
    store.control.pause("65")
    (seen,) = volley("status", "--json").objects
    assert seen["account"] == "default"
    assert seen["campaigns"] == {"65": {"accepted": 2, "duplicate": 1}}
    assert seen["totals"] == {"accepted": 2, "duplicate": 1}
    assert (seen["live"], seen["intake"], seen["dead_letters"]) == (0, 1, 0)
    assert seen["permits"] == {"held": 0, "usable": None, "limit": 3}
    assert (seen["accept_tasks"], seen["next_due"], seen["paused"]) == (0, None, ["65"])
    assert seen["last_sweep"] <= seen["at"]


def test_an_account_without_worker_and_beat_says_so(volley: Any) -> None:
    ran = volley("status")
    assert ran.code == 0
    assert "never: beat does not run" in ran.out
    assert "0: no worker runs" in ran.out
    assert "no deliveries are kept" in ran.out


def test_fewer_usable_permits_are_told(volley: Any, append: Any, work: Work, sandbox: Sandbox) -> None:
    sandbox.add_fault(Fault(kind=FaultKind.ANSWER, status=429, retry_after="60", times=1))
    append("a@example.com")
    work()
    (seen,) = volley("status", "--json").objects
    assert seen["permits"]["usable"] == 2
    assert seen["held_until"] > seen["at"]
    assert "0 of 3, 2 may be used" in volley("status").out


def test_a_sweep_of_long_ago_says_that_beat_does_not_run(volley: Any, client: Any) -> None:
    client.set("volley:{default}:swept", 1_600_000_000_000)
    assert "d ago: beat does not run" in volley("status").out


def test_the_table_sums_over_campaigns_and_marks_paused_ones(
    volley: Any, append: Any, work: Work, store: Store
) -> None:
    append("a@example.com", campaigns=[65, 66])
    work()
    store.control.pause("66")
    lines = volley("status").out.splitlines()
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert rows == [
        ["65", "1", "1", "1", "50%"],
        ["66  paused", "1", "1", "1", "50%"],
        ["all", "2", "2", "2", ""],
    ]


def test_all_configured_accounts_are_shown_unless_one_is_named(
    volley: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "volley.toml"
    file.write_text(
        '[accounts.shop]\naccount_id = "SHOP"\npasscode_env = "SHOP_PASSCODE"\nmax_in_flight = 2\n'
    )
    monkeypatch.setenv("VOLLEY_CONFIG", str(file))
    monkeypatch.setenv("SHOP_PASSCODE", "secret-of-shop")
    assert [o["account"] for o in volley("status", "--json").objects] == ["default", "shop"]
    assert [o["permits"]["limit"] for o in volley("status", "--json", "--account", "shop").objects] == [2]
    assert volley("status", "--account", "other").code == 2


def test_an_operator_without_credentials_may_look(volley: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCOUNT_ID", "PASSCODE", "TOKEN"):
        monkeypatch.delenv(f"VOLLEY_{name}")
    (seen,) = volley("status", "--json", "--account", "shop").objects
    assert (seen["account"], seen["permits"]["limit"]) == ("shop", None)
    assert volley("status", "--account", "no such name").code == 2


def test_redis_that_is_away_is_one_sentence_and_exit_code_3(
    volley: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOLLEY_REDIS_URL", "redis://127.0.0.1:1/0")
    ran = volley("status")
    assert (ran.code, ran.out, ran.err.count("\n")) == (3, "", 1)


def test_watching_goes_on_until_it_is_interrupted(
    environ: dict[str, str], processes: Any, eventually: Any
) -> None:
    watching = processes.python(
        "-m", "worker", "status", "--watch", "--json", "--every", "0.1", environ=environ
    )
    eventually(lambda: watching.output.count("\n") >= 3)
    watching.send(signal.SIGINT)
    assert watching.wait() != 0
    assert [json.loads(line)["account"] for line in watching.output.splitlines()[:3]] == ["default"] * 3
    assert "Traceback" not in watching.output


def test_the_calls_of_each_campaign_and_its_share_of_all_are_told(
    volley: Any, append: Any, work: Work
) -> None:
    for i in range(3):
        append("a@example.com", content={"Name": f"{i}"})
    append("a@example.com", campaigns=[66])
    work()
    (seen,) = volley("status", "--json").objects
    assert seen["calls"] == {"65": {"calls": 3, "share": 0.75}, "66": {"calls": 1, "share": 0.25}}
    assert "75%" in volley("status").out


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "volley.toml"
    file.write_text(
        "[campaigns.65]\ncanary = 1\n[campaigns.66]\nmax_per_hour = 2\n[campaigns.67]\nquiet_hours = "
        '"00:00-12:00, 12:00-24:00"\n[campaigns.68]\nrecipients_per_hour = 60\n[campaigns.69]\ncanary = 1\n'
        "canary_wait = 900\n"
    )
    monkeypatch.setenv("VOLLEY_CONFIG", str(file))


def test_what_waits_for_a_rule_is_told_with_the_way_to_let_it_go(
    environ: Any, rules: None, volley: Any, append: Any, tmp_path: Path
) -> None:
    people = [f"{name}@example.com" for name in "abcd"]
    for campaign in range(65, 70):
        append(*people, campaigns=[campaign])
    settings = load({**environ, "VOLLEY_CONFIG": str(tmp_path / "volley.toml")})
    ruled = open_store(settings, "default")
    with Client() as client:
        engine = Engine(settings, settings.account(), ruled, client)
        while ruled.status().intake:
            engine.wait_and_accept(0.01, lambda: False)
        engine.deliver(60, lambda: False)
    ruled.close()
    (seen,) = volley("status", "--json").objects
    waits = {wait["campaign"]: wait for wait in seen["waits"]}
    assert {campaign: (w["why"], w["count"], w["most"]) for campaign, w in waits.items()} == {
        65: ("canary", 1, 1),
        66: ("hour", 2, 2),
        67: ("quiet", None, None),
        68: ("pace", None, None),
        69: ("canary", 1, 1),
    }
    assert [waits[c]["until"] is None for c in range(65, 70)] == [True, False, False, False, False]
    assert all(waits[c]["until"] > seen["at"] for c in range(66, 70))
    out = " ".join(volley("status").out.split())
    assert "campaign 65: its canary is out (1 of 1); waits for `volley resume 65`" in out
    assert "2 of 2 recipients in an hour" in out
    assert "`volley resume 66 --beyond-guard N`" in out
    assert "campaign 67: quiet hours until" in out
    assert "campaign 68: its pace; goes on in" in out
    assert "or `volley resume 69` lets it go on at once" in out
    ran = volley("resume", "65", "66", "--beyond-guard", "1", "--yes")
    assert "campaign 65: its canary is approved, 1 more may go beyond its guard" in ran.out
    assert "campaign 66: 1 more may go beyond its guard" in ran.out
    (seen,) = volley("status", "--json").objects
    assert {wait["campaign"] for wait in seen["waits"]} == {67, 68, 69}
    assert volley("resume", "--all", "--beyond-guard", "1", "--yes").code == 2
    assert volley("resume", "69", "--json", "--yes").objects[0]["approved"] is True
