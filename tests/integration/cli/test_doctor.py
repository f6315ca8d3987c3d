"""`volley doctor` against real servers, good ones and wrong ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from worker.clevertap.sandbox import Fault, FaultKind, Sandbox
from worker.store import Store
from worker.store.connection import RedisClient, connect
from worker.store.embedded import EmbeddedServer

Levels = dict[str, str]


@pytest.fixture
def own(tmp_path: Path, server_binary: Path | None) -> Iterator[EmbeddedServer]:
    """A server whose settings a test may spoil."""
    with EmbeddedServer(tmp_path / "own", ends_with_parent=True, binary=server_binary) as server:
        yield server


def levels(ran: Any) -> Levels:
    return {each["check"]: each["level"] for each in ran.objects}


def found(ran: Any, check: str) -> dict[str, Any]:
    return next(each for each in ran.objects if each["check"] == check)


def working(client: RedisClient, store: Store) -> None:
    """As a worker and beat leave it."""
    store.intake.open()
    store.deliveries.swept()
    store.permits.sit("test", 1, 60_000)


def test_a_good_installation_has_no_problem_and_ends_with_0(
    volley: Any, client: RedisClient, store: Store
) -> None:
    working(client, store)
    client.config_set("maxmemory", 2_000_000_000)
    client.config_resetstat()
    client.slowlog_reset()
    try:
        ran = volley("doctor", "--json")
        table = volley("doctor")
    finally:
        client.config_set("maxmemory", 0)
    assert ran.code == 0
    assert [each for each in ran.objects if each["level"] == "problem"] == []
    seen = levels(ran)
    wanted = {"server", "version", "mode", "append-only file", "appendfsync", "disk", "eviction", "memory"}
    wanted |= {"broker", "credentials", "leases", "data", "intake", "worker", "beat", "progress", "room"}
    wanted |= {"paused", "parked", "dead letters", "unknown outcomes", "unread streams", "foreign keys"}
    assert {name for name, level in seen.items() if level == "ok"} >= wanted
    assert set(ran.objects[0]) == {"account", "check", "level", "found", "advice"}
    assert found(ran, "worker")["account"] == "default"
    assert table.code == 0
    assert "cli-passcode" not in ran.out + table.out


def test_a_server_with_wrong_settings_is_told_what_to_change(
    volley: Any, own: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOLLEY_REDIS_URL", own.url)
    with connect(own.url) as client:
        client.config_set("appendonly", "no")
        client.config_set("appendfsync", "no")
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.05))
        ran, table = volley("doctor", "--json"), volley("doctor")
    assert ran.code == table.code == 1
    seen = levels(ran)
    wrong = {"append-only file", "appendfsync", "eviction", "memory"}
    assert {seen[check] for check in wrong} == {"problem"}
    for check in wrong:
        advice = found(ran, check)["advice"]
        assert "CONFIG SET" in advice
        assert advice in " ".join(table.out.replace("│", "").split())


def test_nobody_at_work_is_a_problem_and_what_is_held_back_a_warning(
    volley: Any, client: RedisClient, store: Store, *, append: Callable[..., str], sandbox: Sandbox, work: Any
) -> None:
    append("a@example.com")
    ran = volley("doctor", "--json")
    assert ran.code == 1
    assert found(ran, "intake")["found"] == "1 triggers wait, and no worker has ever read them"
    seen = levels(ran)
    assert (seen["intake"], seen["worker"], seen["beat"]) == ("problem", "problem", "problem")
    sandbox.add_fault(Fault(kind=FaultKind.CUT, times=1))
    work()
    append("nobody")
    work()
    store.control.pause("65")
    client.set("volley:{default}:swept", 1_600_000_000_000)
    ran = volley("doctor", "--json")
    seen = levels(ran)
    assert (seen["dead letters"], seen["paused"], seen["unknown outcomes"]) == ("warning",) * 3
    assert "ago" in found(ran, "beat")["found"]


def test_a_parked_account_is_a_problem(
    volley: Any, append: Callable[..., str], sandbox: Sandbox, work: Any
) -> None:
    sandbox.add_fault(Fault(kind=FaultKind.ANSWER, status=401, times=9))
    append("a@example.com")
    work()
    ran = volley("doctor", "--json")
    assert levels(ran)["parked"] == "problem"
    assert "the account (credentials)" in found(ran, "parked")["found"]


def test_bounds_that_are_near_or_reached_are_told(
    volley: Any, client: RedisClient, append: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for person in range(4):
        append(f"p{person}@example.com")
    for most, level in (("10", "ok"), ("5", "warning"), ("4", "problem")):
        monkeypatch.setenv("VOLLEY_MAX_INTAKE", most)
        assert levels(volley("doctor", "--json"))["room"] == level


def test_streams_that_nobody_reads_and_keys_of_others_are_named(volley: Any, client: RedisClient) -> None:
    client.xadd("volley:{shpo}:intake", {"trigger": "{}"})
    client.xadd("volley:default:intake", {"trigger": "{}"})
    client.set("volley:{default}:favourite", "x")
    client.set("other:app", "x")
    ran = volley("doctor", "--json")
    unread, foreign = found(ran, "unread streams"), found(ran, "foreign keys")
    assert unread["level"] == "problem"
    assert unread["found"].startswith("volley:default:intake, volley:{shpo}:intake: no account")
    assert foreign["level"] == "warning"
    assert foreign["found"].startswith("volley:default:intake, volley:{default}:favourite: ")


def test_every_key_that_volley_writes_is_known_to_it(
    volley: Any, client: RedisClient, store: Store, *, append: Callable[..., str], sandbox: Sandbox, work: Any
) -> None:
    sandbox.change(bad_recipients=frozenset({"bad@example.com"}))
    append("a@example.com", "bad@example.com", campaigns=[65, 66], id="mine", dedupe_key="k")
    append(
        "later@example.com",
        send_at=store.status().now_ms / 1000 + 3600,
        expires_at=store.status().now_ms / 1000 + 7200,
    )
    append("nobody")
    work()
    sandbox.add_fault(Fault(kind=FaultKind.ANSWER, status=503, times=2))
    append("c@example.com", priority="urgent")
    work()
    store.control.pause("65")
    store.deliveries.swept()
    store.deliveries.retire()
    assert len(client.keys("volley:*")) > 20
    assert found(volley("doctor", "--json"), "foreign keys")["found"] == "none"


def test_a_user_with_few_rights_is_told_what_could_not_be_looked_at(
    volley: Any, own: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(own.url) as client:
        client.execute_command(
            "ACL",
            "SETUSER",
            "narrow",
            "on",
            ">narrow",
            "~volley:*",
            "~volley.*",
            "+@all",
            "-@dangerous",
            "-scan",
        )
    monkeypatch.setenv("VOLLEY_REDIS_URL", own.url.replace("redis://", "redis://narrow:narrow@"))
    ran = volley("doctor", "--json")
    seen = levels(ran)
    skipped = {
        "version",
        "append-only file",
        "appendfsync",
        "eviction",
        "memory",
        "slow scripts",
        "foreign keys",
    }
    assert {seen[check] for check in skipped} == {"skipped"}
    assert seen["worker"] == "problem", "the account itself may be looked at"
    assert "narrow" not in ran.out


def test_a_user_who_may_not_read_the_account_is_told_so(
    volley: Any, own: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(own.url) as client:
        client.execute_command("ACL", "SETUSER", "blind", "on", ">blind", "~nothing", "+@all")
    monkeypatch.setenv("VOLLEY_REDIS_URL", own.url.replace("redis://", "redis://blind:blind@"))
    ran = volley("doctor", "--json")
    assert levels(ran)["account"] == "skipped"


def test_servers_that_do_not_answer_are_problems(volley: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOLLEY_BROKER_URL", "redis://127.0.0.1:1/0")
    ran = volley("doctor", "--json")
    assert (ran.code, levels(ran)["broker"]) == (1, "problem")
    monkeypatch.setenv("VOLLEY_REDIS_URL", "redis://127.0.0.1:1/0")
    ran = volley("doctor", "--json")
    assert (ran.code, levels(ran)) == (1, {"server": "problem"})


def test_messages_that_wait_at_the_broker_are_a_warning(volley: Any, client: RedisClient) -> None:
    client.lpush("volley.enqueue", *(["{}"] * 1001))
    assert levels(volley("doctor", "--json"))["broker"] == "warning"


def test_data_of_another_version_is_a_problem_and_left_alone(volley: Any, client: RedisClient) -> None:
    client.set("volley:{default}:schema", 99)
    ran = volley("doctor", "--json")
    assert (ran.code, levels(ran)["data"]) == (1, "problem")
    assert client.keys("volley:*") == [b"volley:{default}:schema"]
    assert found(ran, "data")["advice"] == "Install the version that wrote it."


@pytest.mark.parametrize(
    ("key", "value"),
    [("next", "7"), ("schema", "1"), ("schema", "1>2")],
    ids=["no number", "old", "under way"],
)
def test_data_of_the_layout_before_wants_a_worker_of_this_version(
    volley: Any, client: RedisClient, key: str, value: str
) -> None:
    client.set(f"volley:{{default}}:{key}", value)
    ran = volley("doctor", "--json")
    assert (ran.code, levels(ran)["data"]) == (1, "problem")
    assert found(ran, "data")["advice"].startswith("Start a worker of this version: ")
    assert client.keys("volley:*") == [f"volley:{{default}}:{key}".encode()]


def test_it_changes_nothing(volley: Any, client: RedisClient) -> None:
    volley("doctor")
    assert client.dbsize() == 0


def test_an_operator_without_credentials_may_ask(volley: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCOUNT_ID", "PASSCODE", "TOKEN"):
        monkeypatch.delenv(f"VOLLEY_{name}")
    ran = volley("doctor", "--json", "--account", "shop")
    assert {each["account"] for each in ran.objects} == {None, "shop"}
    assert "credentials" not in levels(ran)
    assert volley("doctor", "--account", "no such name").code == 2
    assert all(json.dumps(each) for each in ran.objects)
