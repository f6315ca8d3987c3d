"""Times as commands read and write them: ``2h`` or ISO 8601 in, ISO 8601 UTC or ``2 h`` out.

What is kept in Redis carries the server's clock, so "two hours ago" is counted from that clock too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

#: What ``15m`` and its like are made of, in seconds.
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGO = re.compile(r"([0-9]{1,9})([smhdw])")
_INSTANT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:?[0-9]{2})"
)


@dataclass(frozen=True, slots=True)
class When:
    """A moment as it was typed: fixed, or so long before now. Exactly one of the two is set; milliseconds."""

    at_ms: int | None = None
    ago_ms: int | None = None

    def resolved(self, now_ms: int) -> int:
        """Epoch milliseconds, with ``now_ms`` of the clock that the moment is compared with."""
        return self.at_ms if self.at_ms is not None else now_ms - (self.ago_ms or 0)


def parse_when(text: str) -> When:
    """``15m``, ``2h``, ``3d`` (ago), or ISO 8601 with an offset. Raises ValueError, its text for people."""
    if found := _AGO.fullmatch(text):
        return When(ago_ms=int(found[1]) * _UNITS[found[2]] * 1000)
    if _INSTANT.fullmatch(text):
        try:
            return When(at_ms=round(datetime.fromisoformat(text).timestamp() * 1000))
        except (ValueError, OverflowError):  # a month 13
            pass
    raise ValueError(
        "is neither a time ago (15m, 2h, 3d) nor ISO 8601 with an offset (2026-01-31T18:00:00+05:30, ...Z)"
    )


def iso(ms: int) -> str:
    """``2026-01-31T12:30:00.125Z``. A time beyond the year 9999 is shown as its last moment."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=min(ms, _LAST_MS))
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def clock(ms: int) -> str:
    """``2026-01-31 12:30:00``, UTC: for tables whose head says so."""
    return iso(ms)[:19].replace("T", " ")


def span(ms: int) -> str:
    """A duration for people: ``0.4 s``, ``12 s``, ``3 min``, ``2.5 h``, ``4 d``."""
    seconds = max(0, ms) / 1000
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86_400:.0f} d"


_LAST_MS = 253_402_300_799_999
