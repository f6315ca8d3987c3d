"""Quiet hours as stretches of time: from times of the day in a time zone to milliseconds for any clock.

A clock that is put forward or back is what makes this more than arithmetic. A range begins when the wall
clock first shows its beginning (or jumps over it), and ends when it last shows its end. So in the night in
which an hour comes twice, a range is quiet once and without a gap, and never shorter than the wall says.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from config.rules import QuietHours

_DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def quiet_windows(hours: QuietHours, from_ms: int, until_ms: int) -> list[tuple[int, int]]:
    """The quiet stretches [begin, end) that touch [from_ms, until_ms), epoch ms, merged and in order."""
    zone = ZoneInfo(hours.time_zone)
    day = _moment(from_ms).astimezone(zone).date() - 2 * _DAY
    last = _moment(until_ms).astimezone(zone).date() + _DAY
    found: list[tuple[int, int]] = []
    while day <= last:
        for begin, end in hours.ranges:
            ends_on = day if end > begin else day + _DAY
            found.append((_instant(day, begin, zone, fold=0), _instant(ends_on, end, zone, fold=1)))
        day += _DAY
    return [(begin, end) for begin, end in _merged(found) if end > from_ms and begin < until_ms]


def _moment(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)


def _instant(day: date, minutes: int, zone: ZoneInfo, *, fold: int) -> int:
    """When the clock of the zone shows that time of the day; ``fold`` 1: the second time, if it does twice.

    A time that the clock jumps over is the moment of the jump.
    """
    wall = datetime.combine(day, time(minutes // 60, minutes % 60, fold=fold), zone)
    instant = wall.astimezone(UTC)
    if instant.astimezone(zone).replace(tzinfo=None) != wall.replace(tzinfo=None):
        # Read by the offset behind the jump it lies before it, and the other way round.
        low, high = sorted(wall.replace(fold=each).astimezone(UTC) for each in (0, 1))
        offset = low.astimezone(zone).utcoffset()
        while high - low > timedelta(seconds=1):
            middle = low + (high - low) // 2
            if middle.astimezone(zone).utcoffset() == offset:
                low = middle
            else:
                high = middle
        instant = high.replace(microsecond=0)
    return (instant - _EPOCH) // timedelta(milliseconds=1)


def _merged(stretches: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(stretches):
        if begin >= end:
            continue
        if merged and begin <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((begin, end))
    return merged
