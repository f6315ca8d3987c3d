"""The decision table, and what a decision means for one delivery."""

from __future__ import annotations

import pytest

from worker.core.answers import Answer, Answered, NoAnswer, NotSent, Reply, Verdict
from worker.core.decision_table import DECISION_TABLE, decide, decision_table_markdown
from worker.core.decisions import (
    Accept,
    By,
    Decision,
    Park,
    Reject,
    Retry,
    Split,
    Unsure,
    costs_an_attempt,
    describe,
)
from worker.core.model import Reason, Status
from worker.core.retry import RETRY_AFTER_MAX_MS, Fate, Policy, Unknown, backoff_ms, fate, parked_ms
from worker.core.rows import Row

HOLD = Policy(3, 60_000, 1_000, 30_000, Unknown.HOLD)
RESEND = Policy(3, 60_000, 1_000, 30_000, Unknown.RESEND)
RETRY = Retry(Reason.SERVER_ERROR, True, None, 503, "")
THROTTLED = Retry(Reason.THROTTLED, False, None, 429, "")
UNSURE = Unsure(Reason.NO_ANSWER, 0, "")


def refused(text: str, *, status: int = 400, verdict: Verdict = Verdict.FAIL) -> Answered:
    return Answered(status, Reply(verdict, text))


def after(
    decision: Decision,
    *,
    campaign: int = 65,
    attempts: int = 0,
    age_ms: int = 0,
    expires_in_ms: int | None = None,
    policy: Policy = HOLD,
    before: Reason = Reason.NONE,
) -> Fate:
    return fate(
        decision,
        campaign=campaign,
        attempts=attempts,
        age_ms=age_ms,
        expires_in_ms=expires_in_ms,
        policy=policy,
        uniform=0.5,
        before=before,
    )


# The table


@pytest.mark.parametrize("row", DECISION_TABLE, ids=lambda row: row.answer)
def test_every_row_decides_its_own_example(row: Row) -> None:
    example = row.example
    first = next(one for one in DECISION_TABLE if one.fits(example))
    assert first is row
    assert decide(example.answer, example.campaigns, example.recipients) == row.then(example)


def test_the_printed_table_has_one_line_a_row_with_its_decision_and_cost() -> None:
    lines = decision_table_markdown().splitlines()
    assert len(lines) == len(DECISION_TABLE) + 2
    for row, line in zip(DECISION_TABLE, lines[2:], strict=True):
        decision = row.then(row.example)
        cost = "yes" if costs_an_attempt(decision) else "no"
        assert line == f"| {row.answer} | {row.meaning} | {describe(decision)} | {cost} | {row.source} |"
        assert line.count("|") == 6


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (200, Unsure, Reason.UNREADABLE_ANSWER),
        (301, Park, Reason.WRONG_CALL),
        (400, Reject, Reason.REFUSED),
        (401, Park, Reason.CREDENTIALS),
        (403, Park, Reason.NOT_ENABLED),
        (404, Park, Reason.WRONG_CALL),
        (405, Park, Reason.WRONG_CALL),
        (408, Unsure, Reason.NO_ANSWER),
        (409, Retry, Reason.CONFLICT),
        (413, Reject, Reason.TOO_LARGE),
        (422, Reject, Reason.REFUSED),
        (429, Retry, Reason.THROTTLED),
        (500, Retry, Reason.SERVER_ERROR),
        (502, Retry, Reason.SERVER_ERROR),
        (503, Retry, Reason.SERVER_ERROR),
        (504, Unsure, Reason.NO_ANSWER),
        (599, Retry, Reason.SERVER_ERROR),
        (999, Unsure, Reason.UNREADABLE_ANSWER),
    ],
)
def test_a_status_without_a_readable_body_has_its_decision(
    status: int, kind: type[Decision], reason: Reason
) -> None:
    decision = decide(Answered(status, Reply(Verdict.UNREADABLE)), (65,), 1)
    assert isinstance(decision, kind)
    assert not isinstance(decision, Accept)
    assert (decision.reason, decision.http) == (reason, status)


@pytest.mark.parametrize("status", [400, 200])
@pytest.mark.parametrize(
    ("text", "several", "one"),
    [
        ("Invalid Credentials", Park, Park),
        ("Invalid passcode", Park, Park),
        ("External Trigger is not enabled for this account", Park, Park),
        ("External trigger not enabled for the account", Park, Park),
        ("Too many concurrent requests", Retry, Retry),
        ("Campaign does not exist", Split, Reject),
        ("The campaign ID 65 doesn't exist", Split, Reject),
        ("Invalid campaign id", Split, Reject),
        ("Campaign has no valid status", Split, Park),
        ("Campaign does not have a valid status", Split, Park),
        ("Campaign is not ready", Split, Park),
        ("The campaign has been stopped", Split, Park),
        ("Campaign requires approval", Split, Park),
        ("Campaign ID is empty", Reject, Reject),
        ("campaign_id is missing", Reject, Reject),
        ("'to' is missing", Reject, Reject),
        ("to field is mandatory", Reject, Reject),
        ("The 'to' field cannot be empty", Reject, Reject),
        ("Only one recipient identity is accepted", Reject, Reject),
        ("'to' contains multiple recipients", Reject, Reject),
        ("No recipients found", Reject, Reject),
        ("Invalid recipients", Split, Reject),
        ("The email [address] is not valid", Split, Reject),
        ("Malformed identity", Split, Reject),
        ("Something is wrong", Split, Reject),
        ("", Split, Reject),
    ],
)
def test_a_refusal_is_told_by_its_text(
    status: int, text: str, several: type[Decision], one: type[Decision]
) -> None:
    answer = refused(text, status=status)
    assert type(decide(answer, (65, 66), 1000)) is several
    assert type(decide(answer, (65,), 1)) is one


def test_a_refusal_that_is_about_recipients_is_not_split_by_campaigns() -> None:
    decision = decide(refused("Invalid recipients"), (65, 66), 2)
    assert decision == Split(Reason.INVALID_RECIPIENT, By.RECIPIENTS, 400, "Invalid recipients")
    assert isinstance(decide(refused("Invalid recipients"), (65, 66), 1), Reject)


def test_a_refusal_that_is_about_a_campaign_parks_only_that_campaign() -> None:
    decision = decide(refused("Campaign is not ready"), (65,), 1000)
    assert decision == Park(Reason.CAMPAIGN_NOT_READY, frozenset({65}), 400, "Campaign is not ready")


def test_a_refusal_for_no_known_cause_may_be_split_both_ways() -> None:
    decision = decide(refused("Oops"), (65, 66), 1)
    assert decision == Split(Reason.REFUSED, By.BOTH, 400, "Oops")


def test_a_partial_answer_rejects_the_listed_campaigns_of_the_batch_only() -> None:
    answer = Answered(200, Reply(Verdict.PARTIAL, "x", frozenset({66, 99})))
    assert decide(answer, (65, 66), 10) == Accept(frozenset({66}), 200, "x")


@pytest.mark.parametrize("dropped", [frozenset[int](), frozenset({99})])
def test_a_partial_answer_that_lists_no_campaign_of_the_batch_is_unsure(dropped: frozenset[int]) -> None:
    decision = decide(Answered(200, Reply(Verdict.PARTIAL, "x", dropped)), (65, 66), 10)
    assert decision == Unsure(Reason.UNREADABLE_ANSWER, 200, "x")


@pytest.mark.parametrize("status", [400, 404, 429, 500])
def test_an_error_whose_body_says_success_is_unsure(status: int) -> None:
    assert isinstance(decide(Answered(status, Reply(Verdict.SUCCESS)), (65,), 1), Unsure)


@pytest.mark.parametrize(("seconds", "expected_ms"), [(None, None), (0.0, 0), (7.5, 7500), (1e300, 10**12)])
@pytest.mark.parametrize("status", [429, 503])
def test_a_retry_carries_what_retry_after_asked_for(
    status: int, seconds: float | None, expected_ms: int | None
) -> None:
    decision = decide(Answered(status, Reply(Verdict.FAIL), seconds), (65,), 1)
    assert isinstance(decision, Retry)
    assert decision.not_before_ms_from_now == expected_ms


@pytest.mark.parametrize("answer", [NotSent("ConnectError: x"), NoAnswer("ReadError: x")])
def test_without_an_answer_the_text_says_why_and_the_status_is_zero(answer: Answer) -> None:
    decision = decide(answer, (65,), 1)
    assert isinstance(decision, Retry if isinstance(answer, NotSent) else Unsure)
    assert decision.http == 0
    assert decision.text.endswith(": x")


# One delivery


def test_an_accepted_campaign_ends_accepted_and_a_dropped_one_rejected() -> None:
    decision = Accept(frozenset({66}), 200, "")
    assert after(decision, campaign=65) == Fate(Status.ACCEPTED, Reason.NONE, 1)
    assert after(decision, campaign=66) == Fate(Status.REJECTED, Reason.CAMPAIGN_NOT_READY, 1)


def test_a_refusal_ends_rejected() -> None:
    assert after(Reject(Reason.REFUSED, 400, ""), attempts=1) == Fate(Status.REJECTED, Reason.REFUSED, 2)


def test_a_split_costs_no_attempt() -> None:
    decision = Split(Reason.REFUSED, By.BOTH, 400, "")
    assert after(decision, attempts=1) == Fate(Status.REJECTED, Reason.REFUSED, 1)


def test_a_counted_retry_waits_until_the_last_attempt_and_then_fails() -> None:
    assert after(RETRY, attempts=0) == Fate(Status.RETRYING, Reason.SERVER_ERROR, 1, 500)
    assert after(RETRY, attempts=1) == Fate(Status.RETRYING, Reason.SERVER_ERROR, 2, 1000)
    assert after(RETRY, attempts=2) == Fate(Status.FAILED, Reason.SERVER_ERROR, 3)


def test_a_retry_that_would_be_due_beyond_the_greatest_age_fails_now() -> None:
    assert after(RETRY, age_ms=59_500).status is Status.RETRYING
    assert after(RETRY, age_ms=59_501) == Fate(Status.FAILED, Reason.SERVER_ERROR, 1)


def test_waiting_costs_no_attempt_and_knows_no_greatest_age() -> None:
    for decision in (THROTTLED, Park(Reason.CREDENTIALS, None, 401, "")):
        got = after(decision, attempts=2, age_ms=10**9)
        assert (got.status, got.attempts) == (Status.RETRYING, 2)


def test_a_retry_that_would_be_due_after_expires_at_ends_expired() -> None:
    assert after(RETRY, expires_in_ms=501).status is Status.RETRYING
    assert after(RETRY, expires_in_ms=500) == Fate(Status.EXPIRED, Reason.EXPIRED, 1)
    assert after(THROTTLED, expires_in_ms=-1) == Fate(Status.EXPIRED, Reason.EXPIRED, 0)


def test_unsure_is_held_or_resent_as_the_policy_says() -> None:
    assert after(UNSURE) == Fate(Status.UNKNOWN, Reason.NO_ANSWER, 1)
    assert after(UNSURE, policy=RESEND) == Fate(Status.RETRYING, Reason.NO_ANSWER, 1, 500)


def test_unsure_never_ends_as_if_it_had_not_been_sent() -> None:
    assert after(UNSURE, policy=RESEND, attempts=2) == Fate(Status.UNKNOWN, Reason.NO_ANSWER, 3)
    assert after(UNSURE, policy=RESEND, age_ms=10**9) == Fate(Status.UNKNOWN, Reason.NO_ANSWER, 1)
    assert after(UNSURE, policy=RESEND, expires_in_ms=1) == Fate(Status.UNKNOWN, Reason.NO_ANSWER, 1)


def test_a_resent_delivery_remembers_that_it_may_have_been_sent() -> None:
    before = Reason.NO_ANSWER
    assert after(RETRY, before=before) == Fate(Status.RETRYING, before, 1, 500)
    assert after(RETRY, before=before, attempts=2) == Fate(Status.UNKNOWN, before, 3)
    assert after(THROTTLED, before=before, expires_in_ms=0) == Fate(Status.UNKNOWN, before, 0)
    assert after(Reject(Reason.REFUSED, 400, ""), before=before) == Fate(Status.UNKNOWN, before, 1)
    assert after(Accept(frozenset(), 200, ""), before=before) == Fate(Status.ACCEPTED, Reason.NONE, 1)


def test_a_parked_delivery_waits_between_half_the_cap_and_the_cap() -> None:
    assert parked_ms(HOLD, uniform=0.0) == 15_000
    assert after(Park(Reason.CREDENTIALS, None, 401, "")).due_in_ms == 22_500


def test_backoff_doubles_up_to_the_cap() -> None:
    bounds = [backoff_ms(attempt, HOLD, uniform=0.999999) for attempt in (1, 2, 3, 6, 7, 10**6)]
    assert bounds == [999, 1999, 3999, 29_999, 29_999, 29_999]


def test_retry_after_is_a_floor_of_at_most_an_hour() -> None:
    assert backoff_ms(1, HOLD, uniform=0.5, retry_after_ms=100) == 500
    assert backoff_ms(1, HOLD, uniform=0.5, retry_after_ms=90_000) == 90_000
    assert backoff_ms(1, HOLD, uniform=0.5, retry_after_ms=10**12) == RETRY_AFTER_MAX_MS


@pytest.mark.parametrize(
    ("attempts", "age_ms", "base_ms", "cap_ms"), [(0, 1, 1, 1), (1, -1, 1, 1), (1, 1, 0, 1), (1, 1, 2, 1)]
)
def test_a_policy_that_makes_no_sense_is_refused(
    attempts: int, age_ms: int, base_ms: int, cap_ms: int
) -> None:
    with pytest.raises(ValueError, match="must"):
        Policy(attempts, age_ms, base_ms, cap_ms, Unknown.HOLD)
