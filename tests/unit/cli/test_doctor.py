"""What `volley doctor` thinks of a server's facts and of an account's settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from config.settings import load
from worker.cli.account_checks import settings_checks
from worker.cli.findings import Finding, Level
from worker.cli.server_checks import server_checks
from worker.store import keys
from worker.store.server import _OURS, ServerFacts, SlowScripts

GOOD = ServerFacts(
    info={
        "redis_version": "7.2.4",
        "valkey_version": "9.1.0",
        "cluster_enabled": 0,
        "role": "master",
        "connected_slaves": 1,
        "aof_enabled": 1,
        "aof_last_write_status": "ok",
        "aof_last_bgrewrite_status": "ok",
        "rdb_last_bgsave_status": "ok",
        "loading": 0,
        "maxmemory": 1_000_000_000,
        "maxmemory_policy": "noeviction",
        "used_memory": 100_000_000,
    },
    config={"appendfsync": "everysec"},
    pings_ms=(0.1, 0.2, 0.3),
    clock_ahead_ms=3.0,
    clock_exact_ms=1.0,
    slow_scripts=SlowScripts(0, 0.0),
    denied=(),
)


def of(facts: ServerFacts) -> dict[str, Finding]:
    return {finding.check: finding for finding in server_checks(facts, 0.9)}


def info(**changes: Any) -> ServerFacts:
    return replace(GOOD, info={**GOOD.info, **changes})


def test_a_good_server_has_no_findings_but_good_ones() -> None:
    assert {finding.level for finding in of(GOOD).values()} == {Level.OK}
    assert not any(finding.advice for finding in of(GOOD).values())


@pytest.mark.parametrize(
    ("facts", "check", "level", "words"),
    [
        (info(valkey_version=None, redis_version="6.2.14"), "version", Level.PROBLEM, "Redis 6.2.14"),
        (info(valkey_version=None, redis_version="7.0.0"), "version", Level.OK, "Redis 7.0.0"),
        (info(valkey_version="7.0.9"), "version", Level.PROBLEM, "Valkey 7.0.9"),
        (info(valkey_version="8.0.0-rc1"), "version", Level.OK, "8.0.0"),
        (info(cluster_enabled=1), "mode", Level.PROBLEM, "cluster"),
        (info(role="slave"), "mode", Level.PROBLEM, "replica"),
        (info(aof_enabled=0), "append-only file", Level.PROBLEM, "loses triggers"),
        (replace(GOOD, config={"appendfsync": "no"}), "appendfsync", Level.PROBLEM, "half a minute"),
        (replace(GOOD, config={"appendfsync": "always"}), "appendfsync", Level.OK, "always"),
        (info(aof_last_write_status="err"), "disk", Level.PROBLEM, "cannot be written"),
        (info(rdb_last_bgsave_status="err"), "disk", Level.PROBLEM, "snapshot"),
        (info(loading=1), "disk", Level.PROBLEM, "still reading"),
        (info(maxmemory_policy="allkeys-lru"), "eviction", Level.PROBLEM, "allkeys-lru"),
        (info(maxmemory=0), "memory", Level.WARNING, "without a maxmemory"),
        (info(used_memory=800_000_000), "memory", Level.WARNING, "80%"),
        (info(used_memory=910_000_000), "memory", Level.PROBLEM, "appends are refused from 90%"),
        (replace(GOOD, pings_ms=(20.0, 30.0, 40.0)), "latency", Level.WARNING, "30.0 ms"),
        (replace(GOOD, pings_ms=(0.1, 0.1, 900.0)), "latency", Level.WARNING, "900.0 ms"),
        (replace(GOOD, clock_ahead_ms=-2_000.0), "clock", Level.WARNING, "2.00 s behind"),
        (replace(GOOD, clock_ahead_ms=90_000.0), "clock", Level.PROBLEM, "90.00 s ahead"),
        (replace(GOOD, clock_ahead_ms=2_000.0, clock_exact_ms=1_900.0), "clock", Level.OK, "2.00 s"),
        (replace(GOOD, slow_scripts=SlowScripts(3, 120.0)), "slow scripts", Level.WARNING, "120 ms"),
    ],
)
def test_what_is_wrong_is_found_and_comes_with_advice(
    facts: ServerFacts, check: str, level: Level, words: str
) -> None:
    found = of(facts)
    assert (found[check].level, bool(found[check].advice)) == (level, level is not Level.OK)
    assert words in found[check].found
    assert {name for name, each in found.items() if each.level is not Level.OK} <= {check}


def test_what_may_not_be_asked_says_so() -> None:
    found = of(
        replace(GOOD, info={}, config={}, slow_scripts=None, denied=("INFO", "CONFIG GET", "SLOWLOG GET"))
    )
    skipped = {name for name, each in found.items() if each.level is Level.SKIPPED}
    assert skipped == set(found) - {"latency", "clock"}
    assert all("ACL" in found[name].found for name in skipped)
    assert of(replace(GOOD, denied=("TIME",)))["clock"].level is Level.PROBLEM


def credentials(**changes: str) -> Finding:
    environ = {
        "VOLLEY_REDIS_URL": "redis://localhost",
        "VOLLEY_ACCOUNT_ID": "W8R-4K7-Z95Z",
        "VOLLEY_PASSCODE": "QPC-BMG-EWKL",
        "VOLLEY_TOKEN": "a0b1-c2d3",
    }
    return next(settings_checks(load(environ | changes).account()))


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({}, Level.OK, "/2"),
        ({"VOLLEY_TOKEN": ""}, Level.OK, "/1"),
        ({"VOLLEY_ACCOUNT_ID": "TEST-W8R-4K7-Z95Z"}, Level.OK, "only a call can tell"),
        ({"VOLLEY_ACCOUNT_ID": "4711"}, Level.WARNING, "account id does not look like"),
        ({"VOLLEY_PASSCODE": "4711-08-15"}, Level.WARNING, "passcode does not look like"),
        ({"VOLLEY_PASSCODE": "your-passcode"}, Level.PROBLEM, "placeholder"),
        ({"VOLLEY_PASSCODE": "'QPC-BMG-EWKL'"}, Level.PROBLEM, "quotes"),
        ({"VOLLEY_TOKEN": "<token>"}, Level.PROBLEM, "token looks like a placeholder"),
        ({"VOLLEY_PASSCODE": "W8R-4K7-Z95Z"}, Level.PROBLEM, "same as"),
        ({"VOLLEY_PASSCODE": "x", "VOLLEY_BASE_URL": "http://127.0.0.1:1"}, Level.OK, "not CleverTap's host"),
    ],
)
def test_credentials_are_looked_at_by_their_form_and_never_shown(
    changes: dict[str, str], level: Level, words: str
) -> None:
    found = credentials(**changes)
    assert (found.level, found.account) == (level, "default")
    assert words in found.found
    assert "QPC" not in found.found + found.advice


def test_a_lease_that_leaves_little_for_settling_is_a_warning() -> None:
    environ = {
        "VOLLEY_REDIS_URL": "redis://localhost",
        "VOLLEY_ACCOUNT_ID": "a",
        "VOLLEY_PASSCODE": "b",
    }
    for lease, level in (("35", Level.WARNING), ("45", Level.OK)):
        *_, leases = settings_checks(load(environ | {"VOLLEY_PERMIT_LEASE": lease}).account())
        assert (leases.check, leases.level) == ("leases", level)


def test_names_of_keys_are_told_from_others_by_the_page_that_lists_them() -> None:
    root = keys.root("shop")
    for ours in (
        "intake",
        "dead",
        "seg:12:cells",
        "lapse:5",
        "ix:1:2",
        "segments",
        "turns",
        "expiry:5",
        "schema",
    ):
        assert _OURS.fullmatch(root + ours), ours
    for foreign in (
        "volley:default:intake",
        "volley:intake",
        "volley:{shop}intake",
        f"{root}entries",
        "volley:",
    ):
        assert not _OURS.fullmatch(foreign), foreign
