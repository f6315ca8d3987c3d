"""What the ledger counts, keeps and finds again."""

from __future__ import annotations

import threading
from typing import Any

import orjson
import pytest

from worker.clevertap.sandbox import AcceptedPair, Ledger, Verdict, content_digest
from worker.clevertap.sandbox.rules import Endpoint, read_call

A, B = {"Name": "A"}, {"Name": "B"}


def enter(
    ledger: Ledger,
    to: dict[str, list[str]],
    campaigns: tuple[int, ...] = (1,),
    content: dict[str, str] = A,
    **changes: Any,
) -> None:
    """Record one request to `/2`; accepted for all its campaigns unless told otherwise."""
    body = orjson.dumps({"to": to, "campaign_id_list": campaigns, "ExternalTrigger": content})
    fields: dict[str, Any] = {
        "received_at_ms": 1_700_000_000_000,
        "account": "acc-1",
        "verdict": Verdict.ACCEPTED,
        "status": 200,
        "accepted_campaigns": tuple(map(str, campaigns)),
    }
    ledger.record(call=read_call(Endpoint.MULTIPLE, body), body=body, **(fields | changes))


def pair(recipient: str, *contents: dict[str, str], campaign: str = "1", kind: str = "email") -> AcceptedPair:
    return AcceptedPair("acc-1", campaign, kind, recipient, tuple(map(content_digest, contents)))


def test_every_recipient_counts_once_per_accepted_campaign() -> None:
    ledger = Ledger(10)
    enter(ledger, {"email": ["a", "b"], "identity": ["a"]}, campaigns=(1, 2))
    assert list(ledger.pairs()) == [
        pair("a", A),
        pair("b", A),
        pair("a", A, kind="identity"),
        pair("a", A, campaign="2"),
        pair("b", A, campaign="2"),
        pair("a", A, campaign="2", kind="identity"),
    ]
    totals = ledger.totals()
    assert (totals.accepted, totals.pairs, totals.duplicates) == (6, 6, 0)
    assert ledger.times_accepted("1", "b") == 1
    assert ledger.times_accepted("1", "a") == 2, "as an e-mail address and as an identity"
    assert ledger.times_accepted("3", "a") == 0


def test_campaigns_that_were_dropped_are_not_counted() -> None:
    ledger = Ledger(10)
    enter(ledger, {"email": ["a"]}, campaigns=(1, 2), verdict=Verdict.PARTIAL, accepted_campaigns=("2",))
    assert list(ledger.pairs()) == [pair("a", A, campaign="2")]


def test_a_pair_accepted_again_with_the_same_content_is_a_duplicate() -> None:
    ledger = Ledger(10)
    enter(ledger, {"email": ["a", "b"]})
    enter(ledger, {"email": ["b", "c"]})
    enter(ledger, {"email": ["c"]}, content=B)
    totals = ledger.totals()
    assert (totals.accepted, totals.pairs, totals.duplicates) == (5, 3, 1)
    assert ledger.duplicates() == [pair("b", A, A)]
    assert list(ledger.pairs()) == [pair("a", A), pair("b", A, A), pair("c", A, B)]


def test_a_recipient_named_twice_in_one_call_is_accepted_twice() -> None:
    ledger = Ledger(10)
    enter(ledger, {"email": ["a", "a"]})
    totals = ledger.totals()
    assert (totals.accepted, totals.pairs, totals.duplicates) == (2, 1, 1)
    assert ledger.times_accepted("1", "a") == 2


def test_accounts_are_kept_apart() -> None:
    ledger = Ledger(10)
    enter(ledger, {"email": ["a"]})
    enter(ledger, {"email": ["a"]}, account="acc-2")
    assert ledger.duplicates() == []
    assert ledger.totals().pairs == 2


def test_a_request_is_kept_with_all_that_was_understood_of_it() -> None:
    ledger = Ledger(10)
    enter(ledger, {"email": ["a"], "objectId": ["o"]}, campaigns=(1, 2))
    [record] = ledger.requests()
    assert (record.sequence, record.received_at_ms, record.account) == (1, 1_700_000_000_000, "acc-1")
    assert (record.endpoint, record.verdict, record.status) == (Endpoint.MULTIPLE, Verdict.ACCEPTED, 200)
    assert record.campaigns == ("1", "2")
    assert record.recipients == {"email": ["a"], "objectId": ["o"]}
    assert record.content_digest == content_digest(A)
    assert record.json == orjson.loads(record.body)


def test_only_the_newest_requests_are_kept_but_all_are_counted() -> None:
    ledger = Ledger(3)
    for name in "abcde":
        enter(ledger, {"email": [name]}, verdict=Verdict.REFUSED, accepted_campaigns=(), status=400)
    assert [record.sequence for record in ledger.requests()] == [3, 4, 5]
    assert [record.sequence for record in ledger.requests(limit=2)] == [4, 5]
    assert ledger.requests(limit=0) == []
    assert ledger.totals().requests == 5
    assert ledger.totals().verdicts == {Verdict.REFUSED: 5}
    assert list(ledger.pairs()) == []


def test_the_most_requests_in_flight_are_remembered_per_account() -> None:
    ledger = Ledger(10)
    for requests in (1, 3, 2):
        ledger.note_in_flight("acc-1", requests)
    assert ledger.max_in_flight("acc-1") == 3
    assert ledger.max_in_flight("acc-2") == 0
    assert ledger.totals().max_in_flight == {"acc-1": 3}


def test_a_reset_forgets_everything() -> None:
    ledger = Ledger(10)
    empty = ledger.totals()
    enter(ledger, {"email": ["a", "a"]})
    ledger.note_in_flight("acc-1", 1)
    assert ledger.totals() != empty
    ledger.reset()
    assert ledger.totals() == empty
    assert ledger.requests() == []
    assert list(ledger.pairs()) == []


def test_waiting_ends_when_the_condition_holds_and_fails_when_it_never_does() -> None:
    ledger = Ledger(10)
    thread = threading.Thread(target=enter, args=(ledger, {"email": ["a"]}))
    thread.start()
    assert ledger.wait_for(lambda totals: totals.requests == 1).accepted == 1
    thread.join()
    with pytest.raises(TimeoutError, match="did not come to it"):
        ledger.wait_for(lambda totals: totals.requests == 2, timeout_seconds=0.01)


def test_the_content_digest_ignores_the_order_of_keys_only() -> None:
    assert content_digest({"a": "1", "b": ["2", "3"]}) == content_digest({"b": ["2", "3"], "a": "1"})
    assert content_digest({"b": ["2", "3"]}) != content_digest({"b": ["3", "2"]})


def test_a_recipient_is_not_shown_in_the_repr_of_its_pair() -> None:
    assert "a@example.com" not in repr(pair("a@example.com", A))
