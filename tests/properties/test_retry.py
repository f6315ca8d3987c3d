"""For every answer, policy and delivery: a legal end or a bounded wait."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.answers import Answer, Answered, NoAnswer, NotSent, Reply, Verdict
from worker.core.decision_table import decide
from worker.core.decisions import Accept, Park, Reject, Retry, Split, Unsure, costs_an_attempt, describe
from worker.core.model import FREES_KEY, Reason, Status
from worker.core.retry import (
    MAY_HAVE_BEEN_SENT,
    RETRY_AFTER_MAX_MS,
    Policy,
    Unknown,
    backoff_ms,
    fate,
)

#: No deadline: a busy machine is not a fault.
unhurried = settings(deadline=None)

CAMPAIGN_SETS = st.sets(st.integers(1, 9), min_size=1, max_size=5).map(lambda ids: tuple(sorted(ids)))
PHRASES = (
    *(
        "invalid",
        "campaign",
        "recipients",
        "'to'",
        "is",
        "not",
        "ready",
        "does not exist",
        "missing",
        "empty",
    ),
    *("enabled", "External Trigger", "account", "credentials", "stopped", "only one", "[address]"),
    "too many concurrent requests",
)
WORDS = st.lists(st.sampled_from(PHRASES), max_size=8).map(" ".join)
REPLIES = st.builds(
    Reply,
    st.sampled_from(Verdict),
    WORDS | st.text(max_size=300),
    st.frozensets(st.integers(1, 9), max_size=3),
)
STATUSES = st.sampled_from(
    [200, 201, 301, 400, 401, 403, 404, 405, 409, 413, 429, 500, 503, 504]
) | st.integers(0, 2000)
ANSWERS: st.SearchStrategy[Answer] = st.one_of(
    st.builds(Answered, STATUSES, REPLIES, st.none() | st.floats(), st.floats(0, 60)),
    st.builds(NotSent, st.just("ConnectError: no connection was made")),
    st.builds(NoAnswer, st.just("ReadTimeout: no whole answer came")),
)
POLICIES = st.builds(
    lambda attempts, age, base, more, unknown: Policy(attempts, age, base, base + more, unknown),
    st.integers(1, 20),
    st.integers(0, 10**8),
    st.integers(1, 10**5),
    st.integers(0, 10**6),
    st.sampled_from(Unknown),
)
UNIFORM = st.floats(0, 1, exclude_max=True)


@given(ANSWERS, CAMPAIGN_SETS, st.integers(1, 1000))
@unhurried
def test_every_answer_gives_a_decision_that_fits_its_batch(
    answer: Answer, campaigns: tuple[int, ...], recipients: int
) -> None:
    decision = decide(answer, campaigns, recipients)
    assert describe(decision)
    assert decision.http == (answer.status if isinstance(answer, Answered) else 0)
    match decision:
        case Accept(rejected=rejected):
            assert isinstance(answer, Answered)
            assert answer.reply.verdict in (Verdict.SUCCESS, Verdict.PARTIAL)
            assert rejected <= set(campaigns)
        case Split():
            assert len(campaigns) * recipients > 1
        case Park(campaigns=parked):
            assert parked is None or parked == set(campaigns)
        case Retry(not_before_ms_from_now=floor):
            assert floor is None or floor >= 0
        case Unsure():
            assert not isinstance(answer, NotSent)
        case Reject():
            assert isinstance(answer, Answered)


@given(ANSWERS, CAMPAIGN_SETS, st.integers(1, 1000))
@unhurried
def test_what_may_have_been_accepted_is_never_called_refused(
    answer: Answer, campaigns: tuple[int, ...], recipients: int
) -> None:
    says_yes = isinstance(answer, Answered) and answer.reply.verdict in (Verdict.SUCCESS, Verdict.PARTIAL)
    if isinstance(answer, NoAnswer) or says_yes:
        assert isinstance(decide(answer, campaigns, recipients), Accept | Unsure)


@given(st.data())
@unhurried
def test_every_decision_gives_a_legal_fate(data: st.DataObject) -> None:
    campaigns = data.draw(CAMPAIGN_SETS, label="campaigns")
    campaign = data.draw(st.sampled_from(campaigns), label="campaign")
    policy = data.draw(POLICIES, label="policy")
    attempts = data.draw(st.integers(0, policy.max_attempts - 1), label="attempts")
    age_ms = data.draw(st.integers(0, 10**9), label="age_ms")
    expires_in_ms = data.draw(st.none() | st.integers(-(10**6), 10**9), label="expires_in_ms")
    before = data.draw(st.sampled_from(Reason), label="before")
    answer = data.draw(ANSWERS, label="answer")
    decision = decide(answer, campaigns, data.draw(st.integers(1, 1000), label="recipients"))
    got = fate(
        decision,
        campaign=campaign,
        attempts=attempts,
        age_ms=age_ms,
        expires_in_ms=expires_in_ms,
        policy=policy,
        uniform=data.draw(UNIFORM, label="uniform"),
        before=before,
    )
    assert got.attempts == attempts + costs_an_attempt(decision)
    assert got.attempts <= policy.max_attempts
    assert (got.due_in_ms is not None) == (got.status is Status.RETRYING)
    if got.due_in_ms is not None:
        assert 0 <= got.due_in_ms <= max(policy.backoff_cap_ms, RETRY_AFTER_MAX_MS)
        assert expires_in_ms is None or got.due_in_ms < expires_in_ms
        if costs_an_attempt(decision):
            assert got.attempts < policy.max_attempts
            assert age_ms + got.due_in_ms <= policy.max_age_ms
    if before in MAY_HAVE_BEEN_SENT or isinstance(decision, Unsure):
        assert got.status not in FREES_KEY
        assert got.status is Status.ACCEPTED or got.reason in MAY_HAVE_BEEN_SENT
    assert (got.status is Status.ACCEPTED) == (
        isinstance(decision, Accept) and campaign not in decision.rejected
    )


@given(POLICIES, UNIFORM, st.integers(1, 10**4), st.none() | st.integers(-(10**6), 10**9))
@unhurried
def test_backoff_stays_within_its_bounds(
    policy: Policy, uniform: float, attempt: int, retry_after_ms: int | None
) -> None:
    plain = backoff_ms(attempt, policy, uniform=uniform)
    assert 0 <= plain <= policy.backoff_cap_ms
    assert plain <= backoff_ms(attempt + 1, policy, uniform=uniform)
    asked = backoff_ms(attempt, policy, uniform=uniform, retry_after_ms=retry_after_ms)
    assert plain <= asked <= max(plain, RETRY_AFTER_MAX_MS)
    assert asked >= min(retry_after_ms or 0, RETRY_AFTER_MAX_MS)
