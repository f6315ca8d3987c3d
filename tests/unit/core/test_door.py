"""What an answer teaches about the door, and what an outage costs by the constants."""

from __future__ import annotations

from itertools import pairwise

import pytest

from worker.core.decisions import Accept, By, Decision, Park, Reject, Retry, Split, Unsure
from worker.core.door import (
    CAUSES,
    HOLD_AT_MOST_MS,
    PARKED_PAUSES_MS,
    TROUBLE_AFTER,
    TROUBLE_PAUSES_MS,
    Fine,
    Lesson,
    Nothing,
    Parked,
    Throttled,
    Trouble,
    lesson,
)
from worker.core.model import Reason

#: Requests in flight that an account has.
PERMITS = 3
MINUTE_MS = 60_000


@pytest.mark.parametrize(
    ("decision", "learnt"),
    [
        (Accept(frozenset(), 200, ""), Fine(frozenset({65, 66}))),
        (Accept(frozenset({66}), 200, ""), Parked(Reason.CAMPAIGN_NOT_READY, frozenset({66}))),
        (Reject(Reason.INVALID_RECIPIENT, 400, ""), Fine()),
        (Reject(Reason.CAMPAIGN_MISSING, 400, ""), Fine(frozenset({65, 66}))),
        (Split(Reason.REFUSED, By.BOTH, 400, ""), Fine()),
        (Retry(Reason.CONFLICT, True, None, 409, ""), Fine()),
        (Retry(Reason.THROTTLED, False, None, 429, ""), Throttled(0)),
        (Retry(Reason.THROTTLED, False, 2_000, 429, ""), Throttled(2_000)),
        (Retry(Reason.THROTTLED, False, 86_400_000, 429, ""), Throttled(HOLD_AT_MOST_MS)),
        (Retry(Reason.SERVER_ERROR, True, 1_000, 503, ""), Trouble(Reason.SERVER_ERROR)),
        (Retry(Reason.NOT_CONNECTED, True, None, 0, ""), Trouble(Reason.NOT_CONNECTED)),
        (Retry(Reason.NOT_CONNECTED, False, None, 0, "held up before it began"), Nothing()),
        (Unsure(Reason.NO_ANSWER, 0, ""), Trouble(Reason.NO_ANSWER)),
        (Unsure(Reason.UNREADABLE_ANSWER, 200, ""), Trouble(Reason.UNREADABLE_ANSWER)),
        (Unsure(Reason.WORKER_DIED, 0, ""), Nothing()),
        (Park(Reason.CREDENTIALS, None, 401, ""), Parked(Reason.CREDENTIALS, None)),
        (
            Park(Reason.CAMPAIGN_NOT_READY, frozenset({65}), 400, ""),
            Parked(Reason.CAMPAIGN_NOT_READY, frozenset({65})),
        ),
    ],
)
def test_every_decision_teaches_something_about_the_door(decision: Decision, learnt: Lesson) -> None:
    assert lesson(decision, (65, 66)) == learnt


def test_whatever_parks_has_its_likely_causes() -> None:
    parking = {
        Reason.CREDENTIALS,
        Reason.NOT_ENABLED,
        Reason.WRONG_CALL,
        Reason.CAMPAIGN_NOT_READY,
        Reason.SERVER_ERROR,
        Reason.NOT_CONNECTED,
        Reason.NO_ANSWER,
        Reason.UNREADABLE_ANSWER,
    }
    assert set(CAUSES) == parking


@pytest.mark.parametrize("pauses", [TROUBLE_PAUSES_MS, PARKED_PAUSES_MS])
def test_pauses_grow(pauses: tuple[int, ...]) -> None:
    assert list(pauses) == sorted(set(pauses))


@pytest.mark.parametrize("latency_ms", [1, 50, 1_000])
def test_an_outage_costs_tens_of_calls_and_its_end_is_seen_within_a_minute(latency_ms: int) -> None:
    calls = calls_of_an_outage(60 * MINUTE_MS, latency_ms)
    assert sum(at < 10 * MINUTE_MS for at in calls) < 60
    assert len(calls) < 100
    gaps = [later - earlier for earlier, later in pairwise(calls)]
    assert max(gaps) + latency_ms < MINUTE_MS


def test_refused_credentials_cost_a_handful_of_calls_in_ten_minutes() -> None:
    # All in flight are refused together; then a probe after each pause.
    at, calls = 0, PERMITS
    for pause in (*PARKED_PAUSES_MS, *[PARKED_PAUSES_MS[-1]] * 10):
        at += pause
        calls += at < 10 * MINUTE_MS
    assert calls <= 6


def calls_of_an_outage(length_ms: int, latency_ms: int) -> list[int]:
    """When calls begin (ms) that all fail, until the outage ends: three workers, then one probe at a time.

    As report.lua has it: failures in a row shut the door, and calls that began before it was shut do not
    prolong the pause.
    """
    began, in_flight = [0] * PERMITS, [latency_ms] * PERMITS
    failures = 0
    while True:
        at = min(in_flight)
        in_flight.remove(at)
        failures += 1
        if failures == TROUBLE_AFTER:
            break
        began.append(at)
        in_flight.append(at + latency_ms)
    tries = 1
    while (at := at + TROUBLE_PAUSES_MS[min(tries, len(TROUBLE_PAUSES_MS)) - 1]) < length_ms:
        began.append(at)
        at += latency_ms
        tries += 1
    return began
