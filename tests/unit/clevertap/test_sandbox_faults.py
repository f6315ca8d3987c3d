"""Which fault claims a call, how often, and what it answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from worker.clevertap.sandbox import Fault, FaultKind
from worker.clevertap.sandbox.faults import FaultBook
from worker.clevertap.sandbox.rules import Call, Endpoint


def call(campaign: str = "1", recipient: str = "a@example.com") -> Call:
    return Call(
        Endpoint.MULTIPLE, {}, (campaign, "99"), {"email": ["z@example.com"], "identity": [recipient]}
    )


def test_the_first_fault_that_matches_wins() -> None:
    other = Fault(kind=FaultKind.HANG, campaign="2")
    first = Fault(kind=FaultKind.ANSWER, status=500)
    book = FaultBook([other, first, Fault(kind=FaultKind.CUT)], seed=0)
    assert book.claim(call()) == first
    assert book.claim(call(campaign="2")) == other


def test_a_fault_claims_as_many_calls_as_its_times_and_is_gone() -> None:
    book = FaultBook([Fault(kind=FaultKind.CUT, times=2)], seed=0)
    assert [book.claim(call()) is not None for _ in range(4)] == [True, True, False, False]
    assert book.remaining() == []


def test_only_calls_that_match_count_as_times() -> None:
    fault = Fault(kind=FaultKind.CUT, times=1, recipient="b@example.com")
    book = FaultBook([fault], seed=0)
    assert book.claim(call()) is None
    assert book.remaining() == [(fault, 1)]
    assert book.claim(call(recipient="b@example.com")) == fault


def test_a_fault_names_a_campaign_and_a_recipient_together() -> None:
    fault = Fault(kind=FaultKind.CUT, campaign="2", recipient="b@example.com")
    assert fault.matches(call("2", "b@example.com"))
    assert not fault.matches(call("2"))
    assert not fault.matches(call(recipient="b@example.com"))


def test_a_probability_claims_its_share_and_repeats_with_its_seed() -> None:
    def claims(seed: int) -> list[bool]:
        book = FaultBook([Fault(kind=FaultKind.CUT, probability=0.3)], seed)
        return [book.claim(call()) is not None for _ in range(1000)]

    assert claims(1) == claims(1)
    assert claims(1) != claims(2)
    assert 250 < sum(claims(1)) < 350
    never = FaultBook([Fault(kind=FaultKind.CUT, probability=0)], seed=0)
    assert not any(never.claim(call()) for _ in range(100))


def test_replacing_the_faults_forgets_the_old_ones() -> None:
    book = FaultBook([Fault(kind=FaultKind.CUT)], seed=0)
    book.replace([])
    assert book.claim(call()) is None
    book.add(Fault(kind=FaultKind.HANG))
    assert book.claim(call()) == Fault(kind=FaultKind.HANG)


@pytest.mark.parametrize("status", [200, 401, 403, 404, 405, 409, 418, 429, 500, 502, 503, 504])
def test_an_answer_without_a_body_has_the_vendors_shape(status: int) -> None:
    answer = Fault(kind=FaultKind.ANSWER, status=status).answer()
    body = json.loads(answer.body)
    assert answer.status == status
    assert answer.headers == {}
    assert body["error"]
    assert body == {"status": "fail", "error": body["error"], "code": status}


def test_an_answer_carries_its_own_body_and_retry_after() -> None:
    answer = Fault(kind=FaultKind.ANSWER, status=200, body="<html>", retry_after="7").answer()
    assert (answer.status, answer.body, answer.headers) == (200, b"<html>", {"Retry-After": "7"})


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"kind": FaultKind.CUT, "times": 0}, "times"),
        ({"kind": FaultKind.CUT, "probability": 1.1}, "probability"),
        ({"kind": FaultKind.ANSWER, "status": 99}, "status"),
        ({"kind": FaultKind.TRICKLE, "interval_ms": -1}, "interval_ms"),
        ({"kind": FaultKind.DELAY, "latency_ms": (5, 1)}, "latency_ms"),
        ({"kind": FaultKind.DELAY, "after_accepting": True}, "after_accepting"),
    ],
)
def test_a_fault_refuses_a_value_that_makes_no_sense(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Fault(**wrong)
