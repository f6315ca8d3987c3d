"""Starts a peer on a stage and measures it: from the first enqueue to the last recorded outcome."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from importlib import import_module, reload
from os import environ
from typing import Any

from benchmarks.stage import Stage, StuckError


def measure(
    stage: Stage, name: str, triggers: Iterable[Any], deliveries: int, shares: dict[str, float]
) -> float:
    """Deliveries per second of the peer ``name``. Raises StuckError if the API's own count differs."""
    given = {"PEER_REDIS_URL": stage.server.url, "PEER_API_URL": stage.api.url}
    environ.update(given)
    module = f"benchmarks.peers.{name}"
    if module in sys.modules:  # of an earlier run, with a server that is gone
        reload(sys.modules["benchmarks.peers.shared"])
        reload(sys.modules[module])
    peer = import_module(module)
    celery = ("-m", "celery", "-A", module, "--quiet", "worker", "--without-gossip", "--without-mingle")
    stage.python("worker", *celery, environ=given)
    with peer.app.producer_pool.acquire(block=True) as producer:
        warm = [
            {"to": {"email": [f"warm{i}@example.com"]}, "campaign_id": "1", "ExternalTrigger": {}}
            for i in range(9)
        ]
        for each in warm:
            peer.send.apply_async((each,), producer=producer)
        stage.until(lambda: _outcomes(stage) >= len(warm))
        stage.api.forget()
        keys = stage.redis.dbsize()
        with stage.shares(shares):
            began = time.monotonic()
            for each in triggers:
                peer.send.apply_async((each,), producer=producer)
            # A dedupe key and an outcome for each.
            stage.until(lambda: stage.redis.dbsize() >= keys + 2 * deliveries)
            took = time.monotonic() - began
    audit = stage.api.audit()
    if audit["distinct"] != deliveries or _outcomes(stage) < deliveries:
        raise StuckError(f"{name}: {audit} at the API, {deliveries} were enqueued")
    return deliveries / took


def _outcomes(stage: Stage) -> int:
    return sum(1 for _ in stage.redis.scan_iter("outcome:*", count=10_000))
