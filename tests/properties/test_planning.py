"""For anything that waits: plans within the limits, of nothing that may not go, and in few calls."""

from __future__ import annotations

import math
from collections import Counter
from functools import cache
from itertools import combinations, combinations_with_replacement

from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.core.planning import PATIENCE_MS, Group, Lane, Limits, Plan, View, plan

#: No deadline: a busy machine is not a fault.
unhurried = settings(deadline=None)
NOW_MS = 1_700_000_000_000

CAMPAIGN_SETS = st.sets(st.integers(1, 9), min_size=1, max_size=9).map(lambda ids: tuple(sorted(ids)))
LIMITS = st.builds(Limits, st.integers(1, 1000), st.integers(1, 5))
#: Lanes of one group: rows by the campaigns that they wait for.
Lanes = dict[tuple[int, ...], int]


@st.composite
def views(draw: st.DrawFn) -> View:
    """A view as the store gives it: each group has a lane of the flow whose turn it is."""
    flow = draw(CAMPAIGN_SETS)
    groups = []
    for gid in range(1, draw(st.integers(1, 5)) + 1):
        sets = {flow, *draw(st.lists(CAMPAIGN_SETS, max_size=4))}
        groups.append(
            Group(
                gid,
                tuple(
                    Lane(c, draw(st.integers(1, 3000)), NOW_MS - draw(st.integers(0, 5000)))
                    for c in sorted(sets)
                ),
            )
        )
    blocked = draw(st.frozensets(st.sampled_from(flow), max_size=len(flow) - 1))
    return View("n", flow, tuple(groups), blocked, NOW_MS)


@unhurried
@given(views(), LIMITS)
def test_a_plan_keeps_to_the_limits_and_to_what_waits_and_may_be_sent(view: View, limits: Limits) -> None:
    planned = plan(view, limits)
    assert planned is not None, "something is due, and nothing is planned"
    assert 1 <= len(planned.campaigns) <= limits.campaigns
    assert sorted(set(planned.campaigns)) == list(planned.campaigns)
    assert 1 <= sum(take.rows for take in planned.takes) <= limits.recipients
    assert set(planned.campaigns) <= set(view.flow) - view.blocked
    waiting = {
        lane.campaigns: lane.rows for group in view.groups if group.gid == planned.gid for lane in group.lanes
    }
    assert len({take.lane for take in planned.takes}) == len(planned.takes)
    for take in planned.takes:
        assert 1 <= take.rows <= waiting[take.lane]
        assert set(planned.campaigns) <= set(take.lane), "a row would get a campaign that it does not want"


@unhurried
@given(views(), LIMITS)
def test_a_plan_serves_the_flow_whose_turn_it_is_and_leaves_room_only_where_nothing_fits_whole(
    view: View, limits: Limits
) -> None:
    planned = plan(view, limits)
    assert planned is not None
    (group,) = (group for group in view.groups if group.gid == planned.gid)
    own = set(view.flow) - view.blocked
    assert any(set(take.lane) - view.blocked == own for take in planned.takes), "charged to another flow"
    if set(planned.campaigns) == own and len(own) <= limits.campaigns:
        whole = sum(lane.rows for lane in group.lanes if set(lane.campaigns) - view.blocked == own)
        assert sum(take.rows for take in planned.takes) >= min(limits.recipients, whole)


@unhurried
@given(st.integers(1, 1_000_000), st.integers(1, 1000))
def test_one_campaign_takes_as_few_calls_as_its_recipients_fill(people: int, most: int) -> None:
    most = max(most, math.ceil(people / 200))
    assert calls_used({(65,): people}, Limits(most, 5)) == math.ceil(people / most)


@unhurried
@given(views(), LIMITS)
def test_the_oldest_group_goes_first_when_it_has_waited_too_long(view: View, limits: Limits) -> None:
    planned = plan(view, limits)
    assert planned is not None
    oldest = view.groups[0]
    if any(NOW_MS - lane.since_ms > PATIENCE_MS for lane in oldest.lanes):
        assert planned.gid == oldest.gid


@unhurried
@given(st.lists(st.integers(1, 2000), min_size=2, max_size=16))
def test_among_groups_that_can_wait_the_fullest_call_goes_first(rows: list[int]) -> None:
    groups = tuple(Group(gid, (Lane((65,), count, NOW_MS),)) for gid, count in enumerate(rows))
    planned = plan(View("n", (65,), groups, frozenset(), NOW_MS), Limits(1000, 5))
    assert planned is not None
    assert min(rows[planned.gid], 1000) == max(min(count, 1000) for count in rows)


# -- few calls, against the best there is


def after(lanes: Lanes, campaigns: tuple[int, ...], takes: dict[tuple[int, ...], int]) -> Lanes:
    """What waits when these rows were sent to these campaigns: the rest of each goes to a lane of its own."""
    left = dict(lanes)
    for lane, rows in takes.items():
        left[lane] -= rows
        if rest := tuple(c for c in lane if c not in campaigns):
            left[rest] = left.get(rest, 0) + rows
    return {lane: rows for lane, rows in left.items() if rows}


def calls_used(lanes: Lanes, limits: Limits, *, last: bool = False) -> int:
    """Calls until nothing waits, the flows taking turns as in the store: the one that waits longest."""
    served: dict[tuple[int, ...], int] = {}
    calls = 0
    while lanes:
        flow = min(lanes, key=lambda c: (served.get(c, 0), c if not last else tuple(-x for x in c)))
        served[flow] = calls + 1
        group = Group(1, tuple(Lane(c, rows, NOW_MS) for c, rows in sorted(lanes.items())))
        planned = plan(View("n", flow, (group,), frozenset(), NOW_MS), limits)
        assert isinstance(planned, Plan)
        lanes = after(lanes, planned.campaigns, {take.lane: take.rows for take in planned.takes})
        calls += 1
    return calls


def can_be_done(lanes: Lanes, limits: Limits, calls: int) -> bool:
    """Whether so many calls can be enough, by looking at every call that could be made."""
    names = tuple(sorted({c for lane in lanes for c in lane}))
    sets = [s for n in range(limits.campaigns, 0, -1) for s in combinations(names, n)]

    @cache
    def within(state: tuple[tuple[tuple[int, ...], int], ...], left: int) -> bool:
        deliveries = sum(len(lane) * rows for lane, rows in state)
        if deliveries == 0 or left * limits.recipients * limits.campaigns < deliveries:
            return deliveries == 0
        now = dict(state)
        for campaigns in sets:
            usable = [lane for lane in now if set(campaigns) <= set(lane)]
            # A call with room left over is never better than the same call with more in it.
            for takes in _fillings(usable, now, limits.recipients) if usable else ():
                if within(tuple(sorted(after(now, campaigns, takes).items())), left - 1):
                    return True
        return False

    return calls >= 0 and within(tuple(sorted(lanes.items())), calls)


def _fillings(usable: list[tuple[int, ...]], now: Lanes, room: int) -> list[dict[tuple[int, ...], int]]:
    """Every way to take as many rows as fit."""
    wanted = min(room, sum(now[lane] for lane in usable))
    ways: list[dict[tuple[int, ...], int]] = [{}]
    for lane in usable:
        ways = [
            {**way, **({lane: rows} if rows else {})}
            for way in ways
            for rows in range(min(now[lane], wanted - sum(way.values())) + 1)
        ]
    return [way for way in ways if sum(way.values()) == wanted]


def fewest(lanes: Lanes, limits: Limits) -> int:
    """The least number of calls, by trying every way to part the campaigns of every row.

    It does not depend on the order of the calls: for each part, the rows that get it over the recipients of a
    call, rounded up.
    """
    states: dict[tuple[tuple[tuple[int, ...], int], ...], int] = {
        (): 0
    }  # what is in calls with room -> calls
    for lane, rows in lanes.items():
        after_lane: dict[tuple[tuple[tuple[int, ...], int], ...], int] = {}
        for ways in combinations_with_replacement(_partings(lane, limits.campaigns), rows):
            given_rows = Counter(part for way in ways for part in way)
            for state, calls in states.items():
                begun, more = dict(state), calls
                for part, count in given_rows.items():
                    before = begun.get(part, 0)
                    more += -(-(before + count) // limits.recipients) - (before > 0)
                    begun[part] = (before + count) % limits.recipients
                key = tuple(sorted((part, count) for part, count in begun.items() if count))
                after_lane[key] = min(after_lane.get(key, more), more)
        states = after_lane
    return min(states.values())


@cache
def _partings(lane: tuple[int, ...], most: int) -> list[tuple[tuple[int, ...], ...]]:
    if not lane:
        return [()]
    return [
        ((lane[0], *others), *rest)
        for count in range(min(most, len(lane)))
        for others in combinations(lane[1:], count)
        for rest in _partings(tuple(c for c in lane[1:] if c not in others), most)
    ]


def _small(sets: st.SearchStrategy[dict[tuple[int, ...], int]]) -> st.SearchStrategy[tuple[Lanes, Limits]]:
    return st.tuples(sets, st.builds(Limits, st.integers(1, 3), st.integers(1, 3)))


FEW = st.sets(st.integers(1, 4), min_size=1, max_size=4).map(lambda ids: tuple(sorted(ids)))
SAME_PEOPLE = st.integers(1, 6).flatmap(
    lambda width: st.integers(1, 3).map(lambda rows: {tuple(range(1, width + 1)): rows})
)
OVERLAPPING = st.dictionaries(FEW, st.integers(1, 3), min_size=1, max_size=2)


@settings(deadline=None, max_examples=60)
@given(_small(SAME_PEOPLE | OVERLAPPING), st.booleans())
@example(({(1, 5): 1, (4, 5): 3}, Limits(3, 3)), False)
@example(({(1, 4): 1, (1, 3, 4, 5): 3}, Limits(3, 2)), False)
def test_a_content_takes_at_most_one_call_more_than_the_best_way(
    due: tuple[Lanes, Limits], last: bool
) -> None:
    lanes, limits = due
    used = calls_used(lanes, limits, last=last)
    assert not can_be_done(lanes, limits, used - 2), f"{used} calls, where two fewer are enough"


#: Recipients and campaigns of a call.
SMALL = st.sampled_from([(2, 2), (2, 3), (3, 2), (1, 2), (3, 3), (2, 1)]).map(lambda two: Limits(*two))


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(FEW, st.integers(1, 4), min_size=1, max_size=4), SMALL, st.booleans())
@example({(1, 2, 3, 4, 5): 3, (1, 3, 4, 5): 1, (1, 2, 5): 3}, Limits(2, 3), False)
@example({(1,): 1, (2,): 1, (1, 2): 1}, Limits(2, 2), False)
def test_overlapping_lanes_take_at_most_one_call_more_than_every_way_to_part_them(
    lanes: Lanes, limits: Limits, last: bool
) -> None:
    assert 0 <= calls_used(lanes, limits, last=last) - fewest(lanes, limits) <= 1


@settings(deadline=None, max_examples=60)
@given(FEW, st.integers(1, 5), SMALL)
def test_one_lane_takes_as_few_calls_as_can_be(lane: tuple[int, ...], rows: int, limits: Limits) -> None:
    assert calls_used({lane: rows}, limits) == fewest({lane: rows}, limits)


@unhurried
@given(
    st.dictionaries(
        st.sampled_from([(1,), (2,), (1, 2), (2, 3), (1, 2, 3)]), st.integers(1, 4000), min_size=1
    )
)
def test_full_calls_are_never_cut_up(lanes: Lanes) -> None:
    """At most as many calls as if no lane shared any, and no fewer than rows fill."""
    used = calls_used(lanes, Limits(1000, 5))
    assert (
        math.ceil(sum(lanes.values()) / 1000)
        <= used
        <= sum(math.ceil(rows / 1000) for rows in lanes.values())
    )
