"""Slots: when a send is due, through changes of the clocks, and which of the missed ones are made up for."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worker.core.slots import MISSED_AT_MOST, ON_TIME_MS, Calendar, Due, due, next_slot, slot_name

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def slots(cron: str, zone: str, after: str, count: int) -> list[str]:
    found, at = [], ms(after)
    for _ in range(count):
        slot = next_slot(Calendar(cron, zone), at)
        assert slot is not None
        at = slot
        found.append(slot_name(at))
    return found


def test_a_slot_is_named_by_its_moment_in_utc() -> None:
    assert slots("0 9 * * MON", "Asia/Kolkata", "2026-01-31T00:00:00", 2) == [
        "2026-02-02T03:30:00Z",
        "2026-02-09T03:30:00Z",
    ]


def test_a_sixth_field_in_front_counts_seconds() -> None:
    assert slots("*/20 * * * * *", "UTC", "2026-01-31T00:00:01", 2) == [
        "2026-01-31T00:00:20Z",
        "2026-01-31T00:00:40Z",
    ]


def test_a_local_time_that_is_skipped_comes_right_behind_the_gap_and_once() -> None:
    # In Berlin, 2026-03-29, 02:00 to 03:00 does not exist.
    assert slots("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00", 2) == [
        "2026-03-29T01:00:00Z",
        "2026-03-30T00:30:00Z",
    ]
    assert slots("15,45 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00:00", 3) == [
        "2026-03-29T01:00:00Z",
        "2026-03-29T01:15:00Z",
        "2026-03-29T01:45:00Z",
    ]


def test_of_a_local_time_that_occurs_twice_the_first_one_counts() -> None:
    # In Berlin, 2026-10-25, 02:00 to 03:00 occurs twice.
    assert slots("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00", 2) == [
        "2026-10-25T00:30:00Z",
        "2026-10-26T01:30:00Z",
    ]


def test_a_look_between_the_two_occurrences_fires_nothing_again() -> None:
    assert slots("30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00", 1) == ["2026-10-26T01:30:00Z"]


def test_a_star_keeps_its_distance_in_real_time_through_both_changes() -> None:
    for day in ("2026-03-28T23:30:00", "2026-10-24T22:30:00"):
        found = [ms(slot.rstrip("Z")) for slot in slots("*/15 * * * *", "Europe/Berlin", day, 20)]
        assert {later - earlier for earlier, later in pairwise(found)} == {15 * MINUTE}


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(
        ["30 2 * * *", "0 2,3 * * *", "*/30 2 * * *", "0 */2 * * *", "59 1 * * SUN", "0 3 25,29 * *"]
    ),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"]),
    st.sampled_from(["2026-03-27", "2026-10-23", "2026-04-03", "2026-10-02", "2026-03-06", "2026-10-30"]),
    st.integers(1, 600_000),
)
def test_slots_do_not_depend_on_when_somebody_looks(
    cron: str, zone: str, day: str, step_seconds: int
) -> None:
    calendar, start = Calendar(cron, zone), ms(f"{day}T00:00:00")
    end = start + 5 * DAY
    once, at = [], start
    while (slot := next_slot(calendar, at)) is not None and slot <= end:
        once.append(slot)
        at = slot
    looked: list[int] = []
    last = start
    for now in [*range(start, end, max(step_seconds, 600) * 1000), end]:
        found = due(calendar, last, now, "all", 7 * DAY)
        looked += found.fire
        last = now
    assert looked == once
    assert once == sorted(set(once))


EVERY_MINUTE = Calendar("* * * * *", "UTC")
NOW = ms("2026-01-31T12:00:30")


def at(text: str) -> int:
    return ms(f"2026-01-31T{text}")


def test_slots_that_are_looked_at_within_a_minute_were_not_missed() -> None:
    calendar = Calendar("*/20 * * * * *", "UTC")
    for missed in ("skip", "latest", "all"):
        found = due(calendar, NOW - 55_000, NOW, missed, HOUR)
        assert [slot_name(slot)[14:19] for slot in found.fire] == ["59:40", "00:00", "00:20"]
        assert found.missed_ms is None


@pytest.mark.parametrize(
    ("missed", "fired", "passed_over"),
    [("skip", [], "11:30:00"), ("latest", ["11:30:00"], "11:00:00"), ("all", ["11:00:00", "11:30:00"], None)],
)
def test_missed_slots_follow_the_policy(missed: str, fired: list[str], passed_over: str | None) -> None:
    now = ms("2026-01-31T11:50:00")
    found = due(Calendar("*/30 * * * *", "UTC"), at("10:45:00"), now, missed, HOUR)
    assert found.fire == tuple(at(text) for text in fired)
    assert found.missed_ms == (at(passed_over) if passed_over else None)


def test_a_slot_that_is_on_time_leaves_the_missed_ones_behind() -> None:
    found = due(Calendar("*/30 * * * *", "UTC"), at("10:45:00"), NOW, "latest", DAY)
    assert found == Due((at("12:00:00"),), at("11:30:00"))


def test_a_slot_that_is_too_old_is_passed_over() -> None:
    hourly = Calendar("0 * * * *", "UTC")
    assert due(hourly, at("10:30:00"), at("11:50:00"), "all", 600) == Due((), at("11:00:00"))
    # And one that is so old that nothing behind it was looked at.
    assert due(Calendar("0 0 1 1 *", "UTC"), 0, NOW, "all", 600).missed_ms == 0 + 365 * DAY


def test_all_makes_up_for_the_latest_hundred() -> None:
    found = due(EVERY_MINUTE, NOW - 5 * HOUR, NOW, "all", DAY)
    assert len(found.fire) == MISSED_AT_MOST + ON_TIME_MS // MINUTE
    assert found.fire[-1] == at("12:00:00")


def test_nothing_is_due_before_its_time() -> None:
    assert due(Calendar("0 9 * * *", "UTC"), NOW, NOW + HOUR, "all", DAY) == Due(())


def test_a_calendar_may_come_to_its_end() -> None:
    end = int(datetime(9999, 12, 30, tzinfo=UTC).timestamp() * 1000)
    assert next_slot(Calendar("0 0 1 1 *", "UTC"), end) is None
