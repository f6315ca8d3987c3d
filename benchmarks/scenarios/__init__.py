"""The scenarios by name, in the order in which they run."""

from __future__ import annotations

from benchmarks.results import Scenario
from benchmarks.scenarios import accepting, backlog, latency, memory, scripts, sending, slots

SCENARIOS: dict[str, Scenario] = {
    "singles": sending.singles,
    "crowds": sending.crowds,
    "accept": accepting.accept,
    "permits": slots.permits,
    "calls": slots.calls,
    "personalised": slots.personalised,
    "idle": latency.idle,
    "urgent": latency.urgent,
    "bytes": memory.redis_bytes,
    "backlog": backlog.backlog,
    "memory": memory.worker_memory,
    "scripts": scripts.scripts,
}
