"""`volley outcomes`: every way to ask what became of deliveries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from worker.clevertap.sandbox import CampaignState, Sandbox
from worker.store import Store

Work = Callable[[], None]


def people(ran: Any) -> list[str]:
    return [outcome["recipient"]["value"] for outcome in ran.objects]


@pytest.fixture
def day(append: Any, work: Work, sandbox: Sandbox) -> dict[str, str]:
    """Three triggers, the last with a campaign that was stopped; their entry ids by name."""
    sandbox.change(campaigns={"66": CampaignState.STOPPED})
    entries = {
        "first": append("a@example.com", "b@example.com", id="one", source="shop"),
        "again": append("a@example.com", id="two"),
        "both": append("c@example.com", campaigns=[65, 66], content={"Name": "C"}, id="one", priority="bulk"),
    }
    work()
    return entries


def test_json_has_the_documented_keys_and_nothing_is_missing(volley: Any, day: dict[str, str]) -> None:
    newest, *_ = volley("outcomes", "--json").objects
    assert newest | {"first": "", "last": ""} == {
        "delivery": 4,
        "status": "rejected",
        "reason": "campaign_not_ready",
        "campaign": 66,
        "recipient": {"kind": "email", "value": "c@example.com"},
        "trigger": day["both"],
        "id": "one",
        "priority": "bulk",
        "attempts": 1,
        "http": 200,
        "batch": 2,
        "duplicate_of": None,
        "first": "",
        "last": "",
        "expires_at": None,
        "source": None,
        "text": newest["text"],
    }
    assert "[66]" in newest["text"]
    assert newest["first"] <= newest["last"]
    assert newest["last"].endswith("Z")
    first = volley("outcomes", "--json", "--trigger", day["first"]).objects[0]
    assert (first["status"], first["reason"], first["source"], first["text"]) == (
        "accepted",
        None,
        "shop",
        None,
    )


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ((), ["c", "c", "a", "b", "a"]),
        (("--trigger", "first"), ["a", "b"]),
        (("--id", "one"), ["a", "b", "c", "c"]),
        (("--id", "one", "--trigger", "both"), ["c", "c"]),
        (("--id", "one", "--recipient", "b@example.com"), ["b"]),
        (("--recipient", "a@example.com"), ["a", "a"]),
        (("--recipient", "a@example.com", "--status", "duplicate"), ["a"]),
        (("--recipient", "a@example.com", "--kind", "email"), ["a", "a"]),
        (("--campaign", "66"), ["c"]),
        (("--campaign", "65", "--campaign", "66", "--status", "accepted"), ["c", "b", "a"]),
        (("--status", "rejected", "--status", "duplicate"), ["c", "a"]),
        (("--since", "1h", "--limit", "0"), ["c", "c", "a", "b", "a"]),
        (("--until", "0s", "--since", "2020-01-01T00:00:00Z", "--limit", "2"), ["c", "c"]),
    ],
)
def test_options_that_are_given_must_all_hold(
    volley: Any, day: dict[str, str], options: tuple[str, ...], found: list[str]
) -> None:
    ran = volley("outcomes", "--json", *(day.get(option, option) for option in options))
    assert ran.code == 0
    assert people(ran) == [f"{name}@example.com" for name in found]


@pytest.mark.parametrize(
    "options",
    [
        ("--id", "three"),
        ("--trigger", "1-1"),
        ("--recipient", "a@example.com", "--kind", "identity"),
        ("--campaign", "67"),
        ("--status", "failed"),
        ("--until", "1h"),
        ("--since", "2199-01-01T00:00:00Z"),
    ],
)
def test_nothing_that_matches_is_exit_code_4(
    volley: Any, day: dict[str, str], options: tuple[str, ...]
) -> None:
    ran = volley("outcomes", *options)
    assert (ran.code, ran.out) == (4, "")


@pytest.mark.parametrize(
    "options", [("--since", "noon"), ("--status", "sent"), ("--kind", "email"), ("--account", "other")]
)
def test_what_cannot_be_asked_is_a_usage_error(volley: Any, options: tuple[str, ...]) -> None:
    assert volley("outcomes", *options).code == 2


def test_the_limit_says_that_there_are_more(volley: Any, day: dict[str, str]) -> None:
    ran = volley("outcomes", "--json", "--limit", "2")
    assert len(ran.objects) == 2
    assert "--limit 0" in ran.err
    assert volley("outcomes", "--json", "--limit", "5").err == ""


def test_the_table_shows_one_person_and_neither_colours_nor_markup_of_others(
    volley: Any, append: Any, work: Work
) -> None:
    append("a@example.com", id="[red]\x1b[31m\u202e")
    work()
    table = volley("outcomes", "--recipient", "a@example.com").out
    assert "a@example.com" in table
    assert "[red]\\x1b[31m\\u202e" in "".join(table.split())
    assert "\x1b" not in table


def test_many_outcomes_come_as_a_stream_of_tables(volley: Any, append: Any, work: Work, store: Store) -> None:
    append(*(f"p{n}@example.com" for n in range(1200)))
    work()
    ran = volley("outcomes", "--limit", "0")
    assert sum(f"p{n}@example.com" in ran.out for n in range(1200)) == 1200
    assert ran.out.count("recipient") == 3
