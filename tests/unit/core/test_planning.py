"""Plans for single views, spelled out."""

from __future__ import annotations

from worker.core.planning import PATIENCE_MS, Group, Lane, Limits, Take, View, plan

NOW_MS = 1_700_000_000_000
LIMITS = Limits(1000, 5)


def _group(gid: int, *lanes: tuple[tuple[int, ...], int], waited_ms: int = 0) -> Group:
    return Group(gid, tuple(Lane(campaigns, rows, NOW_MS - waited_ms) for campaigns, rows in lanes))


def _view(flow: tuple[int, ...], *groups: Group, blocked: frozenset[int] = frozenset()) -> View:
    return View("n", flow, groups, blocked, NOW_MS)


def test_nothing_is_planned_where_all_campaigns_are_blocked_or_nothing_waits() -> None:
    assert plan(_view((65,), _group(1, ((65,), 5)), blocked=frozenset({65})), LIMITS) is None
    assert plan(_view((65,)), LIMITS) is None
    assert plan(_view((65,), _group(1, ((65,), 0))), LIMITS) is None


def test_lanes_that_share_a_campaign_share_its_call_narrowest_first() -> None:
    found = plan(_view((65,), _group(1, ((65,), 2), ((65, 66), 9))), Limits(4, 1))
    assert found is not None
    assert found.campaigns == (65,)
    assert found.takes == (Take((65,), 2), Take((65, 66), 2))


def test_campaigns_beyond_the_limit_are_left_to_the_next_call() -> None:
    found = plan(_view((1, 2, 3, 4, 5, 6, 7), _group(1, ((1, 2, 3, 4, 5, 6, 7), 3))), LIMITS)
    assert found is not None
    assert found.campaigns == (1, 2, 3, 4, 5)


def test_a_call_does_not_cut_the_campaigns_of_many_rows_in_two_to_carry_a_few_rows_more() -> None:
    found = plan(_view((1, 5), _group(1, ((1, 5), 1), ((4, 5), 3))), Limits(3, 3))
    assert found is not None
    assert found.campaigns == (1, 5)


def test_a_blocked_campaign_is_left_out_and_the_others_of_its_rows_go() -> None:
    found = plan(_view((65, 66), _group(1, ((65, 66), 3)), blocked=frozenset({65})), LIMITS)
    assert found is not None
    assert found.campaigns == (66,)


def test_the_fullest_group_goes_first_until_the_oldest_has_waited_too_long() -> None:
    full = _group(2, ((65,), 900))
    for waited_ms, first in ((PATIENCE_MS, 2), (PATIENCE_MS + 1, 1)):
        found = plan(_view((65,), _group(1, ((65,), 1), waited_ms=waited_ms), full), LIMITS)
        assert found is not None
        assert found.gid == first


def test_a_plan_tells_whether_it_leaves_work() -> None:
    for rows, leaves in ((1000, False), (1001, True)):
        view = _view((65,), _group(1, ((65,), rows)))
        found = plan(view, LIMITS)
        assert found is not None
        assert found.leaves_work(view) is leaves
