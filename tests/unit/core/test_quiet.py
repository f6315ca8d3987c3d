"""Quiet hours as stretches of time, over nights in which the clock is put forward or back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.rules import QuietHours
from worker.core.quiet import quiet_windows

DAY_MS = 86_400_000
NINE = [("24 09:00", "24 10:00")]
ZONES = ["UTC", "Asia/Kolkata", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def windows(zone: str, ranges: str, day: str, days: int = 1) -> list[tuple[str, str]]:
    """The quiet stretches of these days (UTC), as UTC texts."""
    cut = [tuple(int(t[:2]) * 60 + int(t[3:]) for t in r.split("-")) for r in ranges.split(", ")]
    hours = QuietHours(tuple((begin, end % 1440) for begin, end in cut), zone)
    found = quiet_windows(hours, ms(f"{day}T00:00Z"), ms(f"{day}T00:00Z") + days * DAY_MS)
    return [tuple(f"{datetime.fromtimestamp(t / 1000, UTC):%d %H:%M}" for t in w) for w in found]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("zone", "ranges", "day", "expected"),
    [
        ("UTC", "22:00-08:00", "2026-11-24", [("23 22:00", "24 08:00"), ("24 22:00", "25 08:00")]),
        ("UTC", "13:00-14:00, 09:00-10:00", "2026-11-24", [*NINE, ("24 13:00", "24 14:00")]),
        ("UTC", "20:00-23:00, 22:00-24:00", "2026-11-24", [("24 20:00", "25 00:00")]),
        ("UTC", "00:00-12:00, 12:00-24:00", "2026-11-24", [("22 00:00", "27 00:00")]),
        ("Asia/Kolkata", "22:00-08:00", "2026-11-24", [("23 16:30", "24 02:30"), ("24 16:30", "25 02:30")]),
        # Clocks go forward at 01:00 UTC: the night is an hour shorter.
        ("Europe/Berlin", "22:00-08:00", "2026-03-29", [("28 21:00", "29 06:00"), ("29 20:00", "30 06:00")]),
        # Clocks go back at 01:00 UTC: the night is an hour longer.
        ("Europe/Berlin", "22:00-08:00", "2026-10-25", [("24 20:00", "25 07:00"), ("25 21:00", "26 07:00")]),
        # A beginning and an end that the clock jumps over are the moment of the jump.
        ("Europe/Berlin", "02:30-05:00", "2026-03-29", [("29 01:00", "29 03:00")]),
        ("Europe/Berlin", "01:00-02:30", "2026-03-29", [("29 00:00", "29 01:00"), ("29 23:00", "30 00:30")]),
        # Times that come twice: from the first beginning to the last end, without a gap.
        ("Europe/Berlin", "02:30-05:00", "2026-10-25", [("25 00:30", "25 04:00")]),
        ("Europe/Berlin", "01:00-02:30", "2026-10-25", [("24 23:00", "25 01:30")]),
    ],
)
def test_ranges_become_stretches(zone: str, ranges: str, day: str, expected: list[tuple[str, str]]) -> None:
    assert windows(zone, ranges, day) == expected


@given(
    zone=st.sampled_from(ZONES),
    begin=st.integers(0, 1439),
    length=st.integers(1, 1439),
    day=st.integers(0, 730),
    minute=st.integers(0, 1439),
)
def test_whatever_the_wall_shows_as_quiet_is_quiet(
    zone: str, begin: int, length: int, day: int, minute: int
) -> None:
    end = (begin + length) % 1440
    moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day, minutes=minute)
    wall = moment.astimezone(ZoneInfo(zone))
    shown = wall.hour * 60 + wall.minute
    quiet = begin <= shown < end if begin < end else shown >= begin or shown < end
    at = int(moment.timestamp() * 1000)
    found = quiet_windows(QuietHours(((begin, end),), zone), at - DAY_MS, at + DAY_MS)
    inside = any(first <= at < last for first, last in found)
    if quiet:
        assert inside
    elif inside:
        # Only where a time comes twice: its second pass, or what lies between, is quiet too.
        offsets = {(moment + timedelta(hours=h)).astimezone(ZoneInfo(zone)).utcoffset() for h in (-26, 26)}
        assert len(offsets) == 2
    assert all(a[1] < b[0] for a, b in pairwise(found))


@given(zone=st.sampled_from(ZONES), at=st.integers(ms("2026-01-01T00:00Z"), ms("2028-01-01T00:00Z")))
def test_stretches_are_the_same_from_wherever_one_looks(zone: str, at: int) -> None:
    hours = QuietHours(((22 * 60, 8 * 60), (13 * 60, 13 * 60 + 30)), zone)

    def seen(from_ms: int, until_ms: int) -> set[tuple[int, int]]:
        return {w for w in quiet_windows(hours, from_ms, until_ms) if w[1] > at and w[0] < at + DAY_MS}

    assert seen(at, at + DAY_MS) == seen(at - 3 * DAY_MS, at + 2 * DAY_MS)
