"""Times as commands read and write them."""

from __future__ import annotations

import pytest

from worker.cli.times import clock, iso, parse_when, span

NOW_MS = 1_800_000_000_000


@pytest.mark.parametrize(
    ("text", "ms_ago"),
    [
        ("0s", 0),
        ("90s", 90_000),
        ("15m", 900_000),
        ("2h", 7_200_000),
        ("3d", 259_200_000),
        ("1w", 604_800_000),
    ],
)
def test_a_time_ago_is_counted_from_the_given_clock(text: str, ms_ago: int) -> None:
    assert parse_when(text).resolved(NOW_MS) == NOW_MS - ms_ago


@pytest.mark.parametrize(
    "text",
    [
        "2027-01-15T08:00:00Z",
        "2027-01-15 13:30+05:30",
        "2027-01-15T08:00:00.000+00:00",
        "2027-01-15T03:00-0500",
    ],
)
def test_iso_times_with_an_offset_are_one_moment(text: str) -> None:
    assert parse_when(text).resolved(0) == NOW_MS


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "15", "15 m", "-2h", "2027-01-15", "2027-01-15T08:00:00", "2027-13-15T08:00:00Z"],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ISO 8601"):
        parse_when(text)


def test_moments_are_written_in_utc_with_milliseconds() -> None:
    assert iso(NOW_MS + 7) == "2027-01-15T08:00:00.007Z"
    assert clock(NOW_MS + 7) == "2027-01-15 08:00:00"
    assert iso(2**62) == "9999-12-31T23:59:59.999Z"


@pytest.mark.parametrize(
    ("ms", "words"),
    [
        (-5, "0.0 s"),
        (400, "0.4 s"),
        (12_000, "12 s"),
        (180_000, "3 min"),
        (9_000_000, "2.5 h"),
        (345_600_000, "4 d"),
    ],
)
def test_durations_are_short(ms: int, words: str) -> None:
    assert span(ms) == words
