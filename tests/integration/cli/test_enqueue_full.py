"""`volley enqueue` where the account is full: it waits, or stops and says how to go on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as ConnectionLostError

from worker.cli import enqueue
from worker.store import Store
from worker.store.connection import RedisClient
from worker.store.intake import Intake

STREAM = "volley:{default}:intake"


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Ten triggers, with a blank line and a bad one between them."""
    lines = [
        json.dumps({"to": {"identity": [f"u{i}"]}, "campaign_id": "65", "ExternalTrigger": {}})
        for i in range(10)
    ]
    lines[3:3] = ["", '{"to"']
    (tmp_path / "t.ndjson").write_text("\n".join(lines))
    return str(tmp_path / "t.ndjson")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enqueue, "CHUNK_TRIGGERS", 2)
    monkeypatch.setenv("VOLLEY_MAX_INTAKE", "4")


def people(client: RedisClient) -> list[str]:
    return [json.loads(fields[b"trigger"])["to"]["identity"][0] for _, fields in client.xrange(STREAM)]


def token(said: str) -> str:
    found = re.search(r"--resume (\S+)", said)
    assert found
    return found[1]


def test_it_stops_with_exit_code_5_and_goes_on_where_it_stopped(
    volley: Any, client: RedisClient, file: str
) -> None:
    ran = volley("enqueue", file, "--skip-bad", "--wait", "0")
    assert ran.code == 5
    assert "4 triggers had been appended, up to line 6" in ran.err
    assert "4 triggers wait in the intake, the most is 4 (VOLLEY_MAX_INTAKE)" in ran.err
    seen = people(client)
    for _ in range(2):
        client.xtrim(STREAM, maxlen=0)
        ran = volley("enqueue", file, "--skip-bad", "--wait", "0", "--resume", token(ran.err))
        seen += people(client)
        if not ran.code:
            break
    assert ran.code == 0
    assert seen == [f"u{i}" for i in range(10)]


def test_it_waits_for_room_and_says_so_once(
    volley: Any, client: RedisClient, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def drained(_seconds: float) -> None:
        seen.extend(people(client))
        client.xtrim(STREAM, maxlen=0)

    monkeypatch.setattr(enqueue, "sleep", drained)
    ran = volley("enqueue", file, "--skip-bad")
    assert ran.code == 0
    assert seen + people(client) == [f"u{i}" for i in range(10)]
    assert ran.err.count("waiting for room") == 1


def test_a_run_whose_last_answer_was_lost_goes_on_without_repeating_that_chunk(
    volley: Any, client: RedisClient, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOLLEY_MAX_INTAKE", "0")
    monkeypatch.setattr(enqueue, "sleep", lambda _seconds: None)
    real = Intake.append_all
    calls = iter(range(100))

    def loses_answers(self: Intake, appends: Any) -> Any:
        answer = real(self, appends)
        if next(calls) >= 1:
            raise ConnectionLostError("lost")
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(Intake, "append_all", loses_answers)
        ran = volley("enqueue", file, "--skip-bad")
    assert ran.code == 3
    assert "2 triggers had been appended, up to line 2" in ran.err
    assert len(people(client)) == 4, "the second chunk is there, and nobody knows"
    assert volley("enqueue", file, "--skip-bad", "--resume", token(ran.err)).code == 0
    assert people(client) == [f"u{i}" for i in range(10)]


def test_a_finished_run_has_nothing_to_resume_and_a_wrong_token_is_a_usage_error(
    volley: Any, file: str
) -> None:
    assert volley("enqueue", file, "--skip-bad", "--resume", f"{'0' * 16}-10-12").code == 1
    assert volley("enqueue", file, "--resume", "12").code == 2


def test_status_shows_that_a_bound_is_reached(volley: Any, store: Store, file: str) -> None:
    assert volley("status", "--json").objects[0]["full"] == []
    volley("enqueue", file, "--skip-bad", "--wait", "0")
    assert volley("status", "--json").objects[0]["full"] == [{"bound": "intake", "value": 4, "most": 4}]
    assert "4 triggers wait in the intake" in volley("status").out
