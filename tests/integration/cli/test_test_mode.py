"""Test mode: an allow-list of recipients is really sent to; the others end suppressed, without a call."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings, load
from worker.clevertap.client import Client
from worker.clevertap.sandbox import CampaignState, Fault, FaultKind, Sandbox
from worker.core.model import Reason, Status
from worker.engine import Engine
from worker.store import Store
from worker.store.outcomes import Filter

Work = Callable[[], None]
Working = Callable[..., Engine]


@pytest.fixture
def environ(redis_url: str, sandbox: Sandbox, tmp_path: Path) -> dict[str, str]:
    """Campaign 65 in test mode, 66 with another list, 67 with the list of 65, 68 without."""
    file = tmp_path / "volley.toml"
    file.write_text(
        '[campaigns.65]\ntest_recipients = ["email:a@example.com", "identity:u-17"]\n'
        '[campaigns.66]\ntest_recipients = ["email:b@example.com"]\n'
        '[campaigns.67]\ntest_recipients = ["identity:u-17", "email:a@example.com"]\n'
    )
    return {
        "VOLLEY_REDIS_URL": redis_url,
        "VOLLEY_BASE_URL": sandbox.url,
        "VOLLEY_ACCOUNT_ID": "cli-account",
        "VOLLEY_PASSCODE": "cli-passcode",
        "VOLLEY_TOKEN": "cli-token",
        "VOLLEY_REQUEST_DEADLINE": "2",
        "VOLLEY_MAX_ATTEMPTS": "3",
        "VOLLEY_BACKOFF_BASE": "0.001",
        "VOLLEY_BACKOFF_CAP": "0.001",
        "VOLLEY_CONFIG": str(file),
    }


@pytest.fixture
def working(store: Store) -> Iterator[Working]:
    """`working(settings)`: an engine that has accepted all that waits at the intake, and sent nothing."""
    with Client() as client:

        def engine(settings: Settings) -> Engine:
            made = Engine(settings, settings.account(), store, client)
            while store.status().intake:
                made.wait_and_accept(0.01, lambda: False)
            return made

        yield engine


def without_test_mode(settings: Settings) -> Settings:
    return replace(
        settings, policies={}, default_policy=replace(settings.default_policy, test_recipients=None)
    )


def bodies(sandbox: Sandbox) -> list[Any]:
    return [request.json for request in sandbox.ledger.requests()]


def test_only_the_allow_list_is_sent_to_and_no_call_is_spent_on_the_others(
    volley: Any, append: Any, work: Work, sandbox: Sandbox, store: Store
) -> None:
    append("x@example.com", "y@example.com")
    work()
    assert sandbox.ledger.totals().requests == 0
    append("a@example.com", "z@example.com")
    append("z@example.com", campaigns=[68])
    work()
    assert sandbox.ledger.totals().requests == 2
    assert sandbox.ledger.times_accepted("65", "a@example.com") == 1
    assert store.outcomes.counts() == {
        (65, Status.SUPPRESSED): 3,
        (65, Status.ACCEPTED): 1,
        (68, Status.ACCEPTED): 1,
    }
    (first,) = volley("outcomes", "--recipient", "x@example.com", "--json").objects
    assert (first["status"], first["reason"], first["attempts"]) == ("suppressed", "suppressed", 0)


def test_what_was_suppressed_frees_its_key_and_is_sent_by_retry_when_test_mode_is_over(
    *, volley: Any, append: Any, work: Work, working: Working, settings: Settings, store: Store
) -> None:
    append("x@example.com")
    work()
    append("x@example.com")
    work()
    assert store.outcomes.counts() == {(65, Status.SUPPRESSED): 2}, "the second one is no duplicate"
    assert volley("retry", "--status", "suppressed", "--until", "0s", "--yes").code == 0
    working(without_test_mode(settings)).deliver(10, lambda: False)
    assert store.outcomes.counts() == {(65, Status.SUPPRESSED): 1, (65, Status.ACCEPTED): 1}


def test_campaigns_with_other_lists_never_share_a_call_and_those_with_the_same_do(
    append: Any, work: Work, sandbox: Sandbox, store: Store
) -> None:
    append("a@example.com", "b@example.com", campaigns=[65, 66, 67, 68])
    work()
    calls = sorted((b["campaign_id_list"], b["to"]["email"]) for b in bodies(sandbox))
    assert calls == [
        ([65, 67], ["a@example.com"]),
        ([66], ["b@example.com"]),
        ([68], ["a@example.com", "b@example.com"]),
    ]
    assert store.status().total(Status.SUPPRESSED) == 3


def test_a_part_that_was_formed_before_test_mode_is_taken_apart_first(
    append: Any, working: Working, settings: Settings, sandbox: Sandbox, store: Store
) -> None:
    """A refused batch over two campaigns waits in parts when the workers are started again in test mode."""
    append("a@example.com", "b@example.com", campaigns=[65, 66])
    sandbox.change(bad_recipients=frozenset({"b@example.com"}))
    calls = iter([False, True])
    working(without_test_mode(settings)).deliver(10, lambda: next(calls, True))
    assert sandbox.ledger.totals().requests == 1
    assert store.status().splitting > 0
    sandbox.ledger.reset()
    sandbox.change(bad_recipients=frozenset())
    working(settings).deliver(10, lambda: False)
    assert sandbox.ledger.times_accepted("65", "a@example.com") == 1
    assert sandbox.ledger.times_accepted("66", "b@example.com") == 1
    assert [sandbox.ledger.times_accepted(c, f"{w}@example.com") for c, w in (("65", "b"), ("66", "a"))] == [
        0,
        0,
    ]
    assert store.status().total(Status.SUPPRESSED) == 2


def test_it_holds_for_retries_probes_and_unknown_ones_that_are_sent_again(
    *, append: Any, working: Working, settings: Settings, sandbox: Sandbox, store: Store, eventually: Any
) -> None:
    """Whatever is tried again is looked at again, and what may be out is not called unsent."""
    resend = replace(
        without_test_mode(settings),
        default_policy=replace(settings.default_policy, unknown=type(settings.default_policy.unknown).RESEND),
    )
    sandbox.add_fault(Fault(kind=FaultKind.CUT, after_accepting=True, times=1))
    append("x@example.com")
    working(resend).deliver(10, lambda: False)
    assert store.status().total(Status.RETRYING) == 1
    sandbox.change(campaigns={"65": CampaignState.STOPPED})
    tested = working(settings)

    def ended() -> bool:
        tested.sweep()
        tested.deliver(10, lambda: False)
        return not store.status().live

    eventually(ended)
    assert sandbox.ledger.totals().requests == 1
    (seen,) = store.outcomes.select(Filter())
    assert (seen.status, seen.reason) == (Status.UNKNOWN, Reason.NO_ANSWER)


def test_the_whole_installation_may_be_in_test_mode_and_a_campaigns_own_list_only_narrows_it(
    *, environ: dict[str, str], append: Any, working: Working, sandbox: Sandbox, store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "allowed"
    file.write_text("email:a@example.com\nemail:x@example.com\n")
    settings = load({**environ, "VOLLEY_TEST_RECIPIENTS_FILE": str(file)})
    append("a@example.com", "b@example.com", "x@example.com", campaigns=[65, 66, 68])
    working(settings).deliver(10, lambda: False)
    calls = sorted((b["campaign_id_list"], b["to"]["email"]) for b in bodies(sandbox))
    assert calls == [([65], ["a@example.com"]), ([68], ["a@example.com", "x@example.com"])]
    assert store.status().total(Status.SUPPRESSED) == 6


def test_status_says_so_and_nothing_shows_who_is_on_the_list(
    volley: Any, append: Any, work: Work, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    append("x@example.com")
    work()
    ran = volley("status", "--json")
    assert ran.objects[0]["test_mode"] == {"campaigns": {"65": 2, "66": 1, "67": 2}, "all_others": None}
    shown = volley("status").out
    assert "campaign 65: 2 recipients alone" in shown
    said = [
        ran.out,
        shown,
        repr(settings),
        repr(settings.campaign("default", 65)),
        json.dumps(caplog.messages),
    ]
    assert not any(secret in text for text in said for secret in ("u-17", "a@example.com", "b@example.com"))
