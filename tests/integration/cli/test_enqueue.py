"""`volley enqueue`: files of triggers to the intake stream."""

from __future__ import annotations

import json
import os
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from worker.cli import enqueue
from worker.cli.trigger_file import items
from worker.store.connection import RedisClient
from worker.store.embedded import EmbeddedServer

STREAM = "volley:{default}:intake"


def trigger(name: str = "a", **keys: object) -> dict[str, Any]:
    return {
        "to": {"email": [f"{name}@example.com"]},
        "campaign_id": "65",
        "ExternalTrigger": {"Name": name},
        **keys,
    }


def written(folder: Path, *lines: object) -> str:
    file = folder / "triggers.ndjson"
    file.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return str(file)


def appended(client: RedisClient) -> list[bytes]:
    return [fields[b"trigger"] for _, fields in client.xrange(STREAM)]


def test_each_line_of_an_ndjson_file_becomes_one_entry_as_it_stands(
    volley: Any, client: RedisClient, tmp_path: Path
) -> None:
    first, second = json.dumps(trigger("a")), '{ "to":{"identity":["ü"]}, "campaign_id":7, "content":{} }'
    ran = volley("enqueue", written(tmp_path, first, "", second), "--json")
    assert ran.code == 0
    assert appended(client) == [first.encode(), second.encode()]
    ids = [id_.decode() for id_, _ in client.xrange(STREAM)]
    assert [(o["place"], o["entry"]) for o in ran.objects] == [("line 1", ids[0]), ("line 3", ids[1])]
    assert "2 triggers for 2 recipients (2 deliveries)" in ran.err


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([trigger("a"), trigger("b")]),
        json.dumps([trigger("a"), trigger("b")], indent=2),
        "\ufeff" + json.dumps(trigger("a")) + "\n" + json.dumps(trigger("b")),
    ],
)
def test_an_array_and_lines_with_a_byte_order_mark_are_understood(
    volley: Any, client: RedisClient, tmp_path: Path, text: str
) -> None:
    (tmp_path / "f.json").write_text(text)
    assert volley("enqueue", str(tmp_path / "f.json")).code == 0
    assert [json.loads(raw) for raw in appended(client)] == [trigger("a"), trigger("b")]


def test_one_object_over_several_lines_is_one_trigger(
    volley: Any, client: RedisClient, tmp_path: Path
) -> None:
    (tmp_path / "f.json").write_text(json.dumps(trigger("a"), indent=4))
    assert volley("enqueue", str(tmp_path / "f.json")).code == 0
    assert [json.loads(raw) for raw in appended(client)] == [trigger("a")]


def test_standard_input_is_read_for_a_dash(volley: Any, client: RedisClient) -> None:
    ran = volley("enqueue", "-", stdin=json.dumps(trigger("a")).encode())
    assert ran.code == 0
    assert len(appended(client)) == 1


def test_a_named_pipe_is_read_like_a_file(volley: Any, client: RedisClient, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(f"{json.dumps(trigger('a'))}\n",))
    writer.start()
    try:
        assert volley("enqueue", str(pipe)).code == 0
    finally:
        writer.join()
    assert len(appended(client)) == 1


@pytest.mark.parametrize("text", ["", "\n\n", "[1, 2", "["])
def test_a_file_that_holds_no_triggers_is_refused(volley: Any, tmp_path: Path, text: str) -> None:
    (tmp_path / "f.json").write_text(text)
    ran = volley("enqueue", str(tmp_path / "f.json"))
    assert ran.code == 1
    assert ran.err.count("\n") == 1
    assert volley("enqueue", str(tmp_path / "missing.json")).code == 1


def test_nothing_is_appended_when_one_trigger_is_wrong_and_no_recipient_is_named(
    volley: Any, client: RedisClient, tmp_path: Path
) -> None:
    bad = trigger("b") | {"to": {"email": ["a.secret.person"]}}
    file = written(tmp_path, trigger("a"), bad, '{"to"', trigger("c"))
    ran = volley("enqueue", file)
    assert ran.code == 1
    assert "line 2: to.email[0]: is not an e-mail address" in ran.err
    assert "line 3: trigger: is not JSON" in ran.err
    assert "secret" not in ran.err + ran.out
    assert appended(client) == []


def test_skip_bad_appends_the_others(volley: Any, client: RedisClient, tmp_path: Path) -> None:
    file = written(tmp_path, '{"to"', trigger("a"), trigger("b", priority="soon"), trigger("c"))
    ran = volley("enqueue", file, "--skip-bad", "--json")
    assert ran.code == 0
    assert [json.loads(raw) for raw in appended(client)] == [trigger("a"), trigger("c")]
    assert [(o["place"], o["where"], o["entry"] is None) for o in ran.objects] == [
        ("line 1", "trigger", True),
        ("line 3", "priority", True),
        ("line 2", None, False),
        ("line 4", None, False),
    ]


def test_without_the_check_what_is_wrong_becomes_a_dead_letter(
    volley: Any, client: RedisClient, tmp_path: Path, work: Any
) -> None:
    ran = volley("enqueue", written(tmp_path, trigger("a"), '{"to"'), "--no-check")
    assert ran.code == 0
    work()
    assert [o["where"] for o in volley("dead", "--json").objects] == ["trigger"]


def test_a_dry_run_appends_nothing_and_needs_no_redis(
    volley: Any, client: RedisClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VOLLEY_REDIS_URL")
    wide = trigger("a", campaign_id=None) | {"campaign_id_list": [1, 2, 3]}
    del wide["campaign_id"]
    ran = volley("enqueue", written(tmp_path, trigger("a"), wide), "--dry-run")
    assert ran.code == 0
    assert "2 triggers for 2 recipients (4 deliveries) would be appended" in ran.out
    assert appended(client) == []


def test_priority_and_source_are_set_in_every_trigger_wrapped_ones_too(
    volley: Any, client: RedisClient, tmp_path: Path
) -> None:
    file = written(tmp_path, trigger("a", priority="bulk"), {"d": [trigger("b"), trigger("c")]})
    assert volley("enqueue", file, "--priority", "urgent", "--source", "night").code == 0
    plain, wrapped = [json.loads(raw) for raw in appended(client)]
    assert [(t["priority"], t["source"]) for t in (plain, *wrapped["d"])] == [("urgent", "night")] * 3


def test_more_than_a_thousand_recipients_are_asked_about(
    volley: Any, client: RedisClient, tmp_path: Path
) -> None:
    many = {"email": [f"p{n}@example.com" for n in range(1000)]}
    file = written(tmp_path, trigger() | {"to": many}, trigger("x"))
    ran = volley("enqueue", file)
    assert (ran.code, appended(client)) == (1, [])
    assert "--yes" in ran.err
    assert volley("enqueue", file, "--yes").code == 0
    assert len(appended(client)) == 2
    assert volley("enqueue", written(tmp_path, trigger() | {"to": many})).code == 0


def test_a_long_file_is_appended_in_chunks_of_five_hundred_triggers(
    volley: Any, client: RedisClient, tmp_path: Path
) -> None:
    names = [f"p{n}" for n in range(1201)]
    assert volley("enqueue", written(tmp_path, *map(trigger, names)), "--yes").code == 0
    assert [json.loads(raw)["ExternalTrigger"]["Name"] for raw in appended(client)] == names
    assert len(client.keys("volley:{default}:nonce:*")) == 3


def test_large_triggers_are_appended_in_smaller_chunks(
    volley: Any, client: RedisClient, tmp_path: Path
) -> None:
    people = {"identity": [f"person-{n:04d}-{'x' * 980}" for n in range(1500)]}
    lines = [trigger(str(n)) | {"to": people} for n in range(4)]  # 1.5 MB each
    assert volley("enqueue", written(tmp_path, *lines), "--yes").code == 0
    assert len(appended(client)) == 4
    assert len(client.keys("volley:{default}:nonce:*")) == 2


def test_a_chunk_is_appended_once_when_redis_comes_back(
    volley: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server_binary: Path | None
) -> None:
    with EmbeddedServer(tmp_path / "own", ends_with_parent=True, binary=server_binary) as own:
        monkeypatch.setenv("VOLLEY_REDIS_URL", own.url)
        own.kill()
        monkeypatch.setattr(enqueue, "sleep", lambda _seconds: own.start())
        assert volley("enqueue", written(tmp_path, trigger("a"), trigger("b"))).code == 0
        with Redis.from_url(own.url) as direct:
            assert len(appended(direct)) == 2


def test_while_redis_is_away_it_says_how_far_it_came(
    volley: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server_binary: Path | None
) -> None:
    with EmbeddedServer(tmp_path / "own", ends_with_parent=True, binary=server_binary) as own:
        monkeypatch.setenv("VOLLEY_REDIS_URL", own.url)
        own.kill()
        monkeypatch.setattr(enqueue, "sleep", lambda _seconds: None)
        ran = volley("enqueue", written(tmp_path, trigger("a")))
        assert ran.code == 3
        assert "0 triggers had been appended" in ran.err
        assert "Traceback" not in ran.err


def test_memory_does_not_grow_with_an_ndjson_file(tmp_path: Path) -> None:
    line = (json.dumps(trigger("x" * 2000)) + "\n").encode()
    with (tmp_path / "big").open("wb+") as file:
        for _ in range(10_000):  # 20 MB
            file.write(line)
        tracemalloc.start()
        try:
            assert sum(1 for _ in items(file)) == 10_000
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 2_000_000
