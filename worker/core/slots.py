"""Slots: the moments at which a recurring send is due, and which of those that were missed are made up for.

A slot is named by its moment in UTC. Where clocks change, the rule is that of Debian's cron (cron(8)), which
the library follows. A send at fixed local times ("30 2 * * *") is due once a day: a time that is skipped
comes right after the gap, and of a time that occurs twice the first one counts. A send whose minute or hour
begins with a star ("*/15 * * * *") keeps its distance in real time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim

#: A slot that is decided so soon after its time was not missed: beat or the workers were being restarted.
ON_TIME_MS = 60_000
#: The most missed slots that ``all`` makes up for at once: the latest ones.
MISSED_AT_MOST = 100


@dataclass(frozen=True, slots=True)
class Calendar:
    """When a send is due. Both parts have been checked by the settings."""

    cron: str
    time_zone: str


@dataclass(frozen=True, slots=True)
class Due:
    """What a look at the clock found: the slots to fire, in order, and the last one that is passed over."""

    fire: tuple[int, ...]
    missed_ms: int | None = None


@lru_cache(maxsize=1024)
def next_slot(calendar: Calendar, after_ms: int) -> int | None:
    """The first slot later than ``after_ms``; None where none comes in fifty years."""
    return next(_slots(calendar, after_ms), None)


def due(calendar: Calendar, after_ms: int, now_ms: int, missed: str, within_ms: int) -> Due:
    """The slots later than ``after_ms`` up to now; ``missed`` is skip, latest or all (see the settings)."""
    first = next_slot(calendar, after_ms)
    if first is None or first > now_ms:
        return Due(())
    oldest = now_ms - max(within_ms, ON_TIME_MS)
    missed_ms = first if first < oldest else None
    slots = []
    for slot in _slots(calendar, max(after_ms, oldest - 1)):
        if slot > now_ms:
            break
        slots.append(slot)
    on_time = [slot for slot in slots if slot >= now_ms - ON_TIME_MS]
    late = [slot for slot in slots if slot < now_ms - ON_TIME_MS]
    taken: list[int] = []
    if missed == "all":
        taken = late[-MISSED_AT_MOST:]
    elif missed == "latest" and not on_time:
        taken = late[-1:]
    left = late[: len(late) - len(taken)]
    return Due((*taken, *on_time), left[-1] if left else missed_ms)


def slot_name(ms: int) -> str:
    """``2026-01-31T09:00:00Z``."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _slots(calendar: Calendar, after_ms: int) -> Iterator[int]:
    start = datetime.fromtimestamp(after_ms // 1000, ZoneInfo(calendar.time_zone))
    last = after_ms
    try:
        for moment in CronSim(calendar.cron, start):
            ms = int(moment.timestamp()) * 1000
            # Behind a fixed local time that occurs twice, the library begins at its first occurrence again.
            if ms > last:
                last = ms
                yield ms
    except (OverflowError, ValueError):  # the end of the calendar
        return
