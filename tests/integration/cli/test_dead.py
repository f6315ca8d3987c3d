"""`volley dead`: triggers that could not be understood."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from worker.store import Store

Work = Callable[[], None]


@pytest.fixture
def letters(store: Store, work: Work) -> list[str]:
    """Ids of three dead letters; the second is no UTF-8, the third tries to steer the terminal."""
    bad = [b'{"to":{"email":["private.person"]}}', b"\xff\xfe", b'"\x1b[2J[bold]x[/bold]"']
    store.intake.append(bad, "bad")
    work()
    return [letter.id for letter in store.intake.dead_letters()]


def test_the_list_tells_the_reason_but_shows_no_recipient(volley: Any, letters: list[str]) -> None:
    for listing in (volley("dead"), volley("dead", "list"), volley("dead", "--json")):
        assert listing.code == 0
        assert all(letter in listing.out for letter in letters)
        assert "is not an e-mail address" in listing.out
        assert "private" not in listing.out


def test_json_has_the_documented_keys(volley: Any, letters: list[str]) -> None:
    first, *_ = volley("dead", "list", "--json").objects
    assert first.keys() == {"id", "at", "entry", "where", "reason", "bytes"}
    assert (first["id"], first["where"], first["bytes"]) == (letters[0], "to.email[0]", 35)
    assert first["at"].endswith("Z")


def test_the_trigger_is_shown_when_it_is_asked_for_and_cannot_steer_the_terminal(
    volley: Any, letters: list[str]
) -> None:
    shown = volley("dead", "--show-trigger").out
    assert "private.person" in shown
    assert "\\x1b[2J[bold]x[/bold]" in shown
    assert "\x1b" not in shown
    texts = [letter["trigger"] for letter in volley("dead", "--json", "--show-trigger").objects]
    assert texts[0] == '{"to":{"email":["private.person"]}}'
    assert texts[1] == "\ufffd\ufffd"


def test_one_that_is_put_back_goes_through_the_intake_again(
    volley: Any, letters: list[str], store: Store, work: Work
) -> None:
    assert volley("dead", "put-back", letters[0], "--yes").code == 0
    assert store.status().intake == 1
    assert [letter.id for letter in store.intake.dead_letters()] == letters[1:]
    work()
    assert len(list(store.intake.dead_letters())) == 3


def test_all_are_put_back_once_even_if_a_worker_refuses_them_meanwhile(
    volley: Any, store: Store, work: Work
) -> None:
    store.intake.append([b"bad"] * 250, "many")
    work()
    assert "250 dead letters put back" in volley("dead", "put-back", "--all", "--yes").out
    assert (store.status().intake, store.status().dead_letters) == (250, 0)


def test_a_discarded_one_is_gone(volley: Any, letters: list[str], store: Store) -> None:
    assert volley("dead", "discard", letters[1], "--yes").code == 0
    assert [letter.id for letter in store.intake.dead_letters()] == [letters[0], letters[2]]
    ran = volley("dead", "discard", letters[1], letters[0], "--yes")
    assert ran.code == 4
    assert letters[1] in ran.err
    assert [letter.id for letter in store.intake.dead_letters()] == [letters[2]]


def test_an_empty_list_is_exit_code_4(volley: Any) -> None:
    assert volley("dead").code == 4
    assert volley("dead", "put-back", "--all", "--yes").code == 4


@pytest.mark.parametrize(
    "options",
    [("put-back",), ("put-back", "1-1", "--all"), ("put-back", "x"), ("discard",), ("discard", "*")],
)
def test_what_is_meant_must_be_named(volley: Any, options: tuple[str, ...]) -> None:
    assert volley("dead", *options, "--yes").code == 2


def test_without_a_terminal_and_yes_nothing_is_changed(volley: Any, letters: list[str], store: Store) -> None:
    assert volley("dead", "discard", letters[0]).code == 1
    assert volley("dead", "put-back", letters[0]).code == 1
    assert store.status().dead_letters == 3
