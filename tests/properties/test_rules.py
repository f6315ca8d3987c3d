"""Paces, guards and fair turns, whatever comes in whatever order: the scripts, by a clock moved by hand."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from config.rules import CampaignRules
from worker.core.model import Reason, Status
from worker.core.planning import Limits, View, plan
from worker.store.batches import Batch
from worker.store.connection import connect
from worker.store.rules import AccountRules, RuleText

if TYPE_CHECKING:
    from tests.integration.store.conftest import Clock, Ground

MANY = settings(deadline=None, max_examples=10, suppress_health_check=list(HealthCheck))
HOUR_MS, DAY_MS = 3_600_000, 86_400_000


def store_tests() -> Any:
    """The store tests' conftest: test folders are no packages, so it is loaded by its path."""
    path = Path(__file__).resolve().parents[1] / "integration" / "store" / "conftest.py"
    spec = importlib.util.spec_from_file_location("store_ground", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SHARED = store_tests()

Open = Callable[[AccountRules], Any]


@pytest.fixture
def stage(redis_url: str) -> Callable[[AccountRules], Any]:
    """`with stage(rules) as (ground, clock)`: an empty account with these rules."""

    @contextmanager
    def opened(rules: AccountRules) -> Iterator[tuple[Ground, Clock]]:
        with connect(redis_url) as client, SHARED.clock_by_hand(client) as clock:
            client.flushdb()
            clock.set(clock.now_ms)
            text = RuleText(rules, now=lambda: clock.now_ms / 1000)
            yield SHARED.Ground(client, text=text), clock

    return opened


def claim(ground: Ground, view: View | None, token: str) -> Batch | None:
    """What a worker takes that has seen this view."""
    if view is None:
        return None
    assert ground.hold(token, DAY_MS)
    planned = plan(view, Limits(1000 if view.room is None else min(view.room, 1000), 5))
    return ground.deliveries.claim(planned, token) if planned else None


def accept(ground: Ground, batch: Batch) -> None:
    assert ground.deliveries.mark(batch, DAY_MS)
    assert ground.settle(batch, Status.ACCEPTED)


def file_calls(ground: Ground, count: int, campaign: int = 65) -> None:
    """So many triggers, each with a content of its own: each is a call."""
    ground.accept(*(ground.body("u", name=f"{campaign}-{i}", campaigns=[campaign]) for i in range(count)))


def within(taken: list[tuple[int, int]], most: Callable[[int], float]) -> None:
    """In any stretch of time no more than `most(its length in ms)` was taken."""
    for i, (begin, _) in enumerate(taken):
        total = 0
        for end, count in taken[i:]:
            total += count
            assert total <= most(end - begin) + 0.01, f"{total} within {end - begin} ms"


STEPS = st.lists(
    st.tuples(st.sampled_from([0, 0, 1, 7, 40, 90, 200, 333, 1000, 5000]), st.integers(1, 3)),
    min_size=5,
    max_size=25,
)


def taken_by(ground: Ground, clock: Clock, steps: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """(time, recipients) of each batch that claimers take who all look before any of them takes."""
    taken = []
    for pause, claimers in steps:
        clock.advance(pause)
        views = [ground.deliveries.view() for _ in range(claimers)]
        for i, view in enumerate(views):
            batch = claim(ground, view, f"t{i}")
            if batch is not None:
                taken.append((clock.now_ms, len(batch.members)))
                accept(ground, batch)
    return taken


@MANY
@given(rate=st.sampled_from([0.5, 1.0, 3.0, 20.0, 77.7]), steps=STEPS)
def test_calls_in_any_stretch_keep_to_their_pace(
    stage: Open, rate: float, steps: list[tuple[int, int]]
) -> None:
    with stage(AccountRules(calls_per_second=rate)) as (ground, clock):
        file_calls(ground, 130)
        taken = taken_by(ground, clock, steps)
        assert taken
        within([(at, 1) for at, _ in taken], lambda ms: rate * (ms + 250) / 1000 + 1)


@MANY
@given(rate=st.sampled_from([0.5, 10.0, 123.4, 900.0]), steps=STEPS)
def test_recipients_in_any_stretch_keep_to_their_pace(
    stage: Open, rate: float, steps: list[tuple[int, int]]
) -> None:
    with stage(AccountRules(recipients_per_second=rate)) as (ground, clock):
        ground.file_people(3000)
        taken = taken_by(ground, clock, steps)
        assert taken
        within(taken, lambda ms: rate * (ms + 1000) / 1000 + 1)


@MANY
@given(rate=st.sampled_from([5, 60, 1000, 36_000]), steps=STEPS)
def test_a_campaigns_recipients_in_any_stretch_keep_to_their_pace(
    stage: Open, rate: int, steps: list[tuple[int, int]]
) -> None:
    rules = AccountRules(campaigns={65: CampaignRules(recipients_per_hour=rate)})
    with stage(rules) as (ground, clock):
        ground.file_people(2000, campaigns=[65, 66])
        taken = []
        for pause, claimers in steps:
            clock.advance(pause * 10)
            views = [ground.deliveries.view() for _ in range(claimers)]
            for i, view in enumerate(views):
                batch = claim(ground, view, f"t{i}")
                if batch is not None:
                    if 65 in batch.campaigns:
                        taken.append((clock.now_ms, len(batch.members)))
                    accept(ground, batch)
        assert taken
        within(taken, lambda ms: rate * (ms + 60_000) / HOUR_MS + 1)


@settings(MANY, max_examples=8)
@given(
    rules=st.sampled_from(
        [
            AccountRules(calls_per_second=0.7),
            AccountRules(calls_per_second=30),
            AccountRules(recipients_per_second=11.5),
            AccountRules(recipients_per_second=400),
            AccountRules(campaigns={65: CampaignRules(recipients_per_hour=700)}),
        ]
    ),
    late=st.lists(st.integers(0, 60), min_size=1, max_size=5),
)
def test_who_comes_when_told_or_a_little_late_reaches_the_rate(
    stage: Open, rules: AccountRules, late: list[int]
) -> None:
    with stage(rules) as (ground, clock):
        if rules.calls_per_second:
            file_calls(ground, 100)
        else:
            ground.file_people(3000)
        rate = rules.calls_per_second or rules.recipients_per_second or 700 / 3600
        begin, taken, turn = clock.now_ms, [], 0
        for _ in range(150):
            view = ground.deliveries.look()
            if view is None:
                break
            if isinstance(view, int):
                clock.advance(view + late[turn % len(late)])
                turn += 1
                continue
            batch = claim(ground, view, "t")
            assert batch is not None
            taken.append((clock.now_ms, 1 if rules.calls_per_second else len(batch.members)))
            accept(ground, batch)
        seconds = (taken[-1][0] - begin) / 1000
        assert seconds > 1
        # What comes late is made up for: all that the time brought was taken, but for what is in the bucket.
        most = max(1, rate * (0.25 if rules.calls_per_second else 1 if rules.recipients_per_second else 60))
        assert sum(count for _, count in taken) >= rate * seconds - most


GUARD_STEPS = st.lists(
    st.tuples(
        st.sampled_from([0, 1000, 29_000, 500_000, 3_571_000, 3_599_000, 3_600_000, 40_000_000, 85_700_000]),
        st.sampled_from(["claim", "claim", "accepted", "refused", "unknown", "resent"]),
        st.integers(0, 9),
    ),
    min_size=10,
    max_size=40,
)


@settings(MANY, max_examples=60)
@given(steps=GUARD_STEPS, hour=st.integers(3, 8), day=st.integers(6, 30), offset=st.integers(0, 719_999))
@example(steps=[(0, "claim", 0), (3_599_000, "claim", 0)], hour=3, day=30, offset=29_000)
@example(steps=[(0, "claim", 0), (85_700_000, "claim", 0)], hour=8, day=8, offset=719_000)
def test_no_hour_and_no_day_has_more_than_the_guards_allow(
    stage: Open, steps: list[tuple[int, str, int]], hour: int, day: int, offset: int
) -> None:
    rules = AccountRules(campaigns={65: CampaignRules(max_per_hour=hour, max_per_day=day)})
    with stage(rules) as (ground, clock):
        clock.advance(offset)
        ground.file_people(300)
        sent: dict[int, tuple[int, int]] = {}
        flying: list[Batch] = []
        for pause, what, which in steps:
            clock.advance(pause)
            if what == "claim":
                planned = ground.deliveries.view()
                if planned is not None and planned.room is not None:
                    # Not always all that there is room for: batches of several ages are under way.
                    planned = replace(planned, room=max(1, planned.room - which))
                batch = claim(ground, planned, f"t{len(sent)}")
                if batch is not None:
                    assert ground.deliveries.mark(batch, 100 * DAY_MS)
                    sent[batch.number] = clock.now_ms, len(batch.members)
                    flying.append(batch)
            elif flying:
                batch = flying.pop(which % len(flying))
                if what == "refused":
                    assert ground.settle(batch, Status.PENDING, Reason.THROTTLED, counted=0)
                    del sent[batch.number]
                elif what == "resent":
                    # It may have been sent, and waits to be sent again.
                    assert ground.settle(batch, Status.RETRYING, Reason.NO_ANSWER, due_ms=0)
                    ground.deliveries.promote()
                else:
                    status = Status.ACCEPTED if what == "accepted" else Status.UNKNOWN
                    assert ground.settle(
                        batch, status, Reason.NONE if what == "accepted" else Reason.NO_ANSWER
                    )
        times = sorted(sent.values())
        for i, (begin, _) in enumerate(times):
            for span, most in ((HOUR_MS, hour), (DAY_MS, day)):
                assert sum(count for at, count in times[i:] if at < begin + span) <= most


@MANY
@given(
    flows=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 25), st.booleans()), min_size=2, max_size=4),
    order=st.randoms(use_true_random=False),
)
def test_while_two_campaigns_wait_their_calls_keep_to_their_weights(
    stage: Open, flows: list[tuple[int, int, bool]], order: Any
) -> None:
    with stage(AccountRules()) as (ground, clock):
        weights = {campaign: weight for campaign, (weight, _, _) in enumerate(flows, 1)}
        waiting: Counter[int] = Counter()
        todo = [(campaign, i) for campaign, (_, calls, _) in enumerate(flows, 1) for i in range(calls)]
        order.shuffle(todo)
        half = len(todo) // 2

        def enqueue(some: list[tuple[int, int]]) -> None:
            bodies = []
            for campaign, i in some:
                # A call each: a content of its own, for one person or for several.
                people = ["u", "v", "w"] if flows[campaign - 1][2] else ["u"]
                bodies.append(ground.body(*people, name=f"{campaign}-{i}", campaigns=[campaign]))
                waiting[campaign] += 1
            ground.accept(*bodies)

        enqueue(todo[:half])
        made: list[tuple[int, set[int]]] = []
        while waiting.total() or half:
            if half and len(made) == len(todo) // 4:
                enqueue(todo[half:])
                half = 0
            both = {campaign for campaign in waiting if waiting[campaign]}
            view = ground.deliveries.view()
            if view is None:
                assert not waiting.total()
                enqueue(todo[half:])
                half = 0
                continue
            planned = plan(view, Limits(1000, 5))
            assert planned is not None
            assert ground.hold("t", DAY_MS)
            batch = ground.deliveries.claim(planned, "t", charge=1 / weights[planned.flow[0]])
            assert batch is not None
            accept(ground, batch)
            waiting[batch.campaigns[0]] -= 1
            made.append((batch.campaigns[0], both))
            clock.advance(1)
        for a in weights:
            for b in weights:
                _fair(made, a, b, weights)


def _fair(made: list[tuple[int, set[int]]], a: int, b: int, weights: dict[int, int]) -> None:
    """While both wait, what each got by its weight differs by at most one turn of each."""
    lead: list[float] = [0.0]
    for campaign, waiting in made:
        if {a, b} <= waiting:
            lead.append(lead[-1] + (campaign == a) / weights[a] - (campaign == b) / weights[b])
        else:
            lead = [0.0]
        bound = 1 / weights[a] + 1 / weights[b] + 1e-9
        assert max(lead) - min(lead) <= bound + 1e-9, (a, b, lead)


@MANY
@given(backlog=st.integers(30, 40), before=st.integers(0, 10), others=st.integers(1, 3))
def test_ten_pass_very_many_within_about_a_turn(stage: Open, backlog: int, before: int, others: int) -> None:
    with stage(AccountRules()) as (ground, _):
        for campaign in range(1, others + 1):
            file_calls(ground, backlog, campaign)

        def call() -> int:
            batch = claim(ground, ground.deliveries.view(), "t")
            assert batch is not None
            accept(ground, batch)
            return batch.campaigns[0]

        for _ in range(before):
            call()
        file_calls(ground, 10, 9)
        calls = [call() for _ in range(10 * (others + 1) + others)]
        assert calls.count(9) == 10
