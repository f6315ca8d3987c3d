"""`volley dry-run`: the bodies that would be sent, byte for byte, and nobody is called."""

from __future__ import annotations

import json
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from worker.clevertap.sandbox import Sandbox
from worker.core.model import Status
from worker.store import Store

Work = Callable[[], None]


def trigger(*emails: str, **keys: object) -> dict[str, object]:
    return {
        "to": {"email": list(emails), "identity": ["u-17"]},
        "campaign_id_list": [65, 66],
        "ExternalTrigger": {"Name": "Ä & <b>"},
        **keys,
    }


#: Several contents, shared calls, duplicates, priorities, more than one call's recipients.
TRIGGERS = [
    trigger("a@example.com", "b@example.com"),
    trigger("a@example.com", campaign_id_list=[65], priority="urgent"),
    trigger("b@example.com", "c@example.com"),
    trigger(*(f"p{i}@example.com" for i in range(1500)), campaign_id_list=[67], priority="bulk"),
    trigger("d@example.com", campaign_id_list=list(range(70, 77)), ExternalTrigger={"Name": "B"}),
]


def file_of(folder: Path, triggers: list[dict[str, object]]) -> Path:
    path = folder / "triggers.ndjson"
    path.write_text("\n".join(json.dumps(each) for each in triggers))
    return path


def bodies(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_bodies_are_those_that_a_real_run_sends(
    volley: Any, work: Work, sandbox: Sandbox, tmp_path: Path
) -> None:
    file, out = file_of(tmp_path, TRIGGERS), tmp_path / "bodies.ndjson"
    ran = volley("dry-run", str(file), "--out", str(out), "--json")
    assert ran.code == 0, ran.err
    assert sandbox.ledger.totals().requests == 0
    assert volley("enqueue", str(file), "--yes").code == 0
    work()
    sent = [(r.endpoint, r.body) for r in sandbox.ledger.requests()]
    written = [(each["path"].split("/")[1], each["body"].encode()) for each in bodies(out)]
    assert [body for _, body in written] == [body for _, body in sent]
    assert len(sent) == ran.objects[0]["calls"] > 4
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_it_opens_no_socket_but_to_its_own_server_and_needs_no_settings(
    *,
    volley: Any,
    environ: dict[str, str],
    sandbox: Sandbox,
    client: Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in environ:
        monkeypatch.delenv(name)
    reached = set()
    connect = socket.socket.connect

    def noted(self: socket.socket, address: Any) -> None:
        reached.add(address)
        connect(self, address)

    before = client.info("commandstats")
    monkeypatch.setattr(socket.socket, "connect", noted)
    ran = volley("dry-run", "-", "--out", str(tmp_path / "out"), stdin=json.dumps(TRIGGERS).encode())
    monkeypatch.undo()
    assert ran.code == 0, ran.err
    assert "no account is configured" in ran.err
    ports = {port for _, port in reached}
    assert {host for host, _ in reached} == {"127.0.0.1"}
    assert len(ports) == 1, "its own server alone"
    assert ports.isdisjoint({int(sandbox.url.rpartition(":")[2])})
    assert client.info("commandstats").keys() - before.keys() <= {"cmdstat_info"}


def test_what_it_costs_is_told_and_what_cannot_be_understood(volley: Any, tmp_path: Path) -> None:
    later = time.time() + 7200
    wrong = trigger("x@example.com", campaign_id_list=["seven"])
    file = file_of(tmp_path, [*TRIGGERS[:2], trigger("z@example.com", send_at=later), wrong, wrong])
    ran = volley("dry-run", str(file), "--out", str(tmp_path / "out"), "--json")
    (told,) = ran.objects
    assert (told["calls"], told["scheduled_calls"]) == (2, 1)
    assert told["campaigns"]["65"] == {"accepted": 4, "duplicate": 3}
    assert [letter["count"] for letter in told["dead_letters"]] == [2]
    assert [each["at"] is None for each in bodies(tmp_path / "out")] == [True, False]
    ran = volley("dry-run", str(file), "--out", str(tmp_path / "again"))
    assert "2 x campaign_id_list" in ran.out
    assert "of them scheduled or retried later" in ran.out
    assert "x@example.com" not in ran.out + ran.err


def test_test_mode_holds_in_it_too(volley: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOLLEY_TEST_RECIPIENTS", "email:a@example.com")
    out = tmp_path / "out"
    ran = volley("dry-run", str(file_of(tmp_path, TRIGGERS[:1])), "--out", str(out), "--json")
    assert ran.objects[0]["campaigns"]["65"] == {"accepted": 1, "suppressed": 2}
    assert "b@example.com" not in out.read_text()


def test_what_waits_in_the_account_is_shown_and_not_touched(
    *, volley: Any, append: Any, work: Work, store: Store, client: Redis, sandbox: Sandbox, tmp_path: Path
) -> None:
    volley("pause", "65", "--yes")
    append("a@example.com", campaigns=[65])
    append("b@example.com", campaigns=[66])
    work()
    append("later@example.com", send_at=time.time() + 3600)
    held = append("held@example.com", campaigns=[67])
    volley("pause", "--trigger", held, "--yes")
    work()
    append("new@example.com")
    before = {key: client.dump(key) for key in client.keys("volley:*")}
    out = tmp_path / "out"
    ran = volley("dry-run", "--waiting", "--out", str(out), "--json")
    assert ran.code == 0, ran.err
    assert {key: client.dump(key) for key in client.keys("volley:*")} == before
    assert sandbox.ledger.totals().requests == 1
    named = {
        (email, each["at"] is None)
        for each in bodies(out)
        for email in json.loads(each["body"])["to"]["email"]
    }
    assert named == {
        ("a@example.com", True),
        ("held@example.com", True),
        ("new@example.com", True),
        ("later@example.com", False),
    }
    assert store.outcomes.counts()[66, Status.ACCEPTED] == 1


def test_a_file_that_is_there_is_not_overwritten_and_one_of_a_failed_run_is_removed(
    volley: Any, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    there.write_text("precious")
    ran = volley("dry-run", str(file_of(tmp_path, TRIGGERS)), "--out", str(there))
    assert (ran.code, there.read_text()) == (1, "precious")
    assert volley("dry-run", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")).code == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [[], ["triggers.ndjson", "--waiting"]])
def test_a_file_or_what_waits_must_be_named(volley: Any, tmp_path: Path, arguments: list[str]) -> None:
    assert volley("dry-run", *arguments, "--out", str(tmp_path / "out")).code == 2
