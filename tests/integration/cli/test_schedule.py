"""`volley schedule`: list, run-now, pause, resume."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings, load
from worker.clevertap.client import Client
from worker.engine import Engine
from worker.store import Store, open_store

SENDS = """
[[sends]]
name = "news"
cron = "0 9 1 1 *"
time_zone = "Asia/Kolkata"
campaigns = [17, 18]
content = { Name = "A" }
file = "people.csv"

[[sends]]
name = "offers"
cron = "0 0 1 1 *"
campaigns = [17]
content = { Name = "B" }
redis_set = "crm:offers"
kind = "identity"
"""


@pytest.fixture
def environ(environ: dict[str, str], tmp_path: Path) -> dict[str, str]:
    (tmp_path / "volley.toml").write_text(SENDS)
    (tmp_path / "people.csv").write_text("email\na@example.com\nb@example.com\nnobody\n")
    return environ | {"VOLLEY_CONFIG": str(tmp_path / "volley.toml")}


@pytest.fixture
def engine(environ: dict[str, str]) -> Iterator[Engine]:
    """A worker's, to do what the commands ask for."""
    settings: Settings = load(environ)
    store: Store = open_store(settings, "default")
    with Client(connections=1) as client:
        yield Engine(settings, settings.account(), store, client)
    store.close()


def fire(engine: Engine) -> None:
    engine.recurring.fire(30, lambda: False)


def test_a_list_tells_when_each_is_due_and_what_became_of_its_last_slot(volley: Any, engine: Engine) -> None:
    before = volley("schedule", "list").out
    assert "-01-01 03:30:00" in before
    assert "none yet" in before
    assert volley("schedule", "run-now", "news", "--yes").code == 0
    waiting = volley("schedule", "list", "--json").objects
    assert [len(each["waiting"]) for each in waiting] == [1, 0]
    fire(engine)
    after = volley("schedule", "list").out
    assert "done: 2 of 2 recipients in 1 triggers, 1 bad lines" in after
    (news, _) = volley("schedule", "list", "--json").objects
    (done,) = news["past"]
    assert (done["state"], done["appended"], done["bad_lines"]) == ("done", 2, 1)
    assert done["slot"].startswith("now-")
    assert news["next"].endswith("-01-01T03:30:00.000Z")
    assert "example.com" not in after


def test_run_now_asks_first(volley: Any, engine: Engine) -> None:
    assert volley("schedule", "run-now", "news").code == 1
    fire(engine)
    assert engine.store.status().intake == 0


def test_a_dry_run_counts_and_shows_the_first_trigger_without_addresses(volley: Any, engine: Engine) -> None:
    ran = volley("schedule", "run-now", "news", "--dry-run")
    assert "news names 2 recipients, in 1 triggers; 1 lines name nobody." in ran.out
    assert '"to":{"email":2},"campaign_id_list":[17,18]' in ran.out.replace("\n", "")
    assert "example.com" not in ran.out
    (found,) = volley("schedule", "run-now", "offers", "--dry-run", "--json").objects
    assert (found["recipients"], found["bad_lines"]) == (0, 0)
    fire(engine)
    assert engine.store.status().intake == 0


def test_a_dry_run_of_a_file_needs_no_redis(volley: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VOLLEY_REDIS_URL")
    assert volley("schedule", "run-now", "news", "--dry-run", "--json").objects[0]["recipients"] == 2


def test_a_dry_run_tells_why_a_source_cannot_be_read(volley: Any, tmp_path: Path) -> None:
    (tmp_path / "people.csv").unlink()
    ran = volley("schedule", "run-now", "news", "--dry-run")
    assert ran.code == 1
    assert ran.err == "volley: news cannot be read: the file cannot be read: No such file or directory.\n"


def test_what_waits_for_its_source_is_told(volley: Any, engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("name\nA\n")
    volley("schedule", "run-now", "news", "--yes")
    fire(engine)
    told = " ".join(volley("schedule", "list").out.replace("│", " ").split())
    assert "waits: its first line does not name a column" in told


def test_a_paused_send_is_shown_as_such_and_not_run(volley: Any) -> None:
    assert volley("schedule", "pause", "news").code == 1
    assert "news: paused" in volley("schedule", "pause", "news", "--yes").out
    assert "news: was paused already" in volley("schedule", "pause", "news", "--yes").out
    assert [each["paused"] for each in volley("schedule", "list", "--json").objects] == [True, False]
    refused = volley("schedule", "run-now", "news", "--yes")
    assert refused.code == 1
    assert "`volley schedule resume news` comes first" in refused.err
    assert "news: resumed" in volley("schedule", "resume", "news", "--yes").out
    assert "news: was not paused" in volley("schedule", "resume", "news", "--yes").out


def test_a_name_that_is_none_is_refused_with_those_that_are(volley: Any) -> None:
    for command in ("run-now", "pause", "resume"):
        ran = volley("schedule", command, "nwes", "--yes")
        assert ran.code == 2
        assert ran.err == "volley: There is no recurring send 'nwes'; those of the TOML file: news, offers.\n"


def test_without_sends_there_is_nothing_to_list(volley: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VOLLEY_CONFIG")
    assert volley("schedule", "list").code == 4
