"""`volley bad`, and what other commands say of recipients that are known as bad."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from worker.clevertap.sandbox import CampaignState, Fault, FaultKind, Sandbox
from worker.core.model import Kind, Recipient
from worker.store import Store

Work = Callable[[], None]


@pytest.fixture
def known(append: Any, work: Work, sandbox: Sandbox) -> None:
    """One of four recipients was found to be invalid; CleverTap would take it now."""
    sandbox.change(bad_recipients=frozenset({"bad@example.com"}))
    append("a@example.com", "b@example.com", "bad@example.com", "c@example.com")
    work()
    sandbox.change(bad_recipients=frozenset())


@pytest.mark.usefixtures("known")
def test_the_list_tells_who_and_until_when(volley: Any) -> None:
    for listing in (volley("bad"), volley("bad", "list")):
        assert listing.code == 0
        assert "bad@example.com" in listing.out
        assert "a@example.com" not in listing.out.replace("bad@example.com", "")
    for listing in (volley("bad", "--json"), volley("bad", "list", "--json")):
        (seen,) = listing.objects
        assert (seen["kind"], seen["value"]) == ("email", "bad@example.com")
        assert datetime.fromisoformat(seen["until"]).tzinfo is not None


@pytest.mark.usefixtures("known")
def test_one_that_is_removed_is_called_again(volley: Any, work: Work, store: Store, sandbox: Sandbox) -> None:
    assert volley("bad", "remove", "bad@example.com", "--kind", "identity", "--yes").code == 4
    ran = volley("bad", "remove", "bad@example.com", "--yes")
    assert (ran.code, ran.out) == (0, "1 recipient removed\n")
    assert volley("bad").code == 4
    assert volley("retry", "--yes").code == 0
    work()
    assert sandbox.ledger.times_accepted("65", "bad@example.com") == 1


def test_a_value_that_is_known_in_two_kinds_is_removed_from_both_unless_one_is_named(
    volley: Any, store: Store
) -> None:
    both = [Recipient(Kind.EMAIL, "x@example.com"), Recipient(Kind.IDENTITY, "x@example.com")]
    store.door.remember_bad(both, 60_000)
    assert volley("bad", "remove", "x@example.com", "--kind", "identity", "--yes").code == 0
    assert list(store.door.bad_recipients()) == both[:1]
    store.door.remember_bad(both, 60_000)
    assert volley("bad", "remove", "x@example.com", "--yes").code == 0
    assert store.door.bad_recipients() == {}


@pytest.mark.usefixtures("known")
def test_without_a_terminal_and_yes_nothing_is_changed(volley: Any, store: Store) -> None:
    assert volley("bad", "remove", "bad@example.com").code == 1
    assert len(store.door.bad_recipients()) == 1


@pytest.mark.usefixtures("known")
def test_one_that_is_not_known_is_named_and_the_others_are_removed(volley: Any, store: Store) -> None:
    ran = volley("bad", "remove", "other\x1b@example.com", "bad@example.com", "--yes")
    assert ran.code == 4
    assert "'other\\x1b@example.com' is not known as bad." in ran.err
    assert "1 recipient removed" in ran.out
    assert store.door.bad_recipients() == {}


@pytest.mark.usefixtures("known")
def test_retry_says_that_known_bad_recipients_would_be_refused_again(
    volley: Any, append: Any, work: Work
) -> None:
    ran = volley("retry", "--dry-run")
    assert "1 of the recipients is known as bad" in ran.err
    assert "volley bad remove" in ran.err
    volley("bad", "remove", "bad@example.com", "--yes")
    assert "known as bad" not in volley("retry", "--dry-run").err


@pytest.mark.usefixtures("known")
def test_outcomes_tell_a_known_bad_recipient_from_one_that_was_refused(
    volley: Any, append: Any, work: Work
) -> None:
    append("d@example.com", "bad@example.com", content={"Name": "B"})
    work()
    newest, first = volley("outcomes", "--recipient", "bad@example.com", "--json").objects
    assert (first["reason"], first["attempts"]) == ("invalid_recipient", 1)
    assert "nvalid" in first["text"]
    assert (newest["reason"], newest["attempts"]) == ("known_bad_recipient", 0)


@pytest.mark.parametrize(
    "parked",
    [
        ({"credentials": {}}, "credentials", "another region's", "volley resume --all"),
        ({"external_trigger_enabled": False}, "not_enabled", "not enabled", "volley resume --all"),
        ({"campaigns": {"65": CampaignState.STOPPED}}, "campaign_not_ready", "stopped", "volley resume 65"),
    ],
)
def test_status_tells_what_is_parked_why_and_how_to_free_it(
    volley: Any, append: Any, work: Work, sandbox: Sandbox, parked: tuple[Any, str, str, str]
) -> None:
    scenario, reason, cause, freed_by = parked
    sandbox.change(**scenario)
    append("a@example.com")
    work()
    ((thing,),) = (seen["parked"] for seen in volley("status", "--json").objects)
    assert (thing["reason"], thing["tries"], thing["free_with"]) == (reason, 1, freed_by)
    assert cause in thing["causes"]
    assert thing["since"] < thing["next_probe"]
    said = volley("status").out
    for words in (f"likely: {thing['causes'][:40]}", "not probed yet; next probe in", freed_by):
        assert words in said


def test_status_tells_of_an_outage_how_often_it_was_tried(
    volley: Any, append: Any, work: Work, sandbox: Sandbox
) -> None:
    sandbox.add_fault(Fault(kind=FaultKind.ANSWER, status=503))
    for n in range(5):
        append("a@example.com", content={"Name": f"{n}"})
    work()
    said = volley("status").out
    assert "the API answers with errors of its own" in said
    assert "HTTP 503" in said
