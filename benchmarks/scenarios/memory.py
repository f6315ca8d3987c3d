"""What is kept: bytes in Redis by what they are for, and a worker's memory over time."""

from __future__ import annotations

import gc
import re
import time
from collections import Counter
from itertools import count as numbers

from benchmarks import load
from benchmarks.results import Context, Result
from benchmarks.stage import Stage, resident_bytes
from worker.core.model import Status

_FAMILY = re.compile(r"^volley:\{default\}:([a-z]+)(?::\d+(:[a-z]+)?)?")


def redis_bytes(context: Context) -> Result:
    """Bytes per waiting delivery of shared content, per outcome with all its look-ups, per dedupe key."""
    result = Result("bytes")
    count = context.scaled(300_000, 30_000)
    found = {}
    for window in (0, 3600):
        context.say("with dedupe keys" if window else "without dedupe keys")
        with Stage() as stage:
            stage.volley()
            load.warm(stage)
            base = _used(stage)
            load.let_wait(stage, load.singles(count, dedupe_window=window), count)
            found[window, "waiting"] = (_used(stage) - base) / count
            if not window:
                result.notes += _by_family(stage, count, "waiting")
            wanted = stage.count(Status.ACCEPTED) + count
            load.go(stage)
            stage.until(lambda s=stage, w=wanted: s.count(Status.ACCEPTED) >= w)  # type: ignore[misc]
            found[window, "ended"] = (_used(stage) - base) / count
            if not window:
                result.notes += _by_family(stage, count, "ended")
    keys = found[3600, "waiting"] - found[0, "waiting"]
    result.add("waiting delivery, all that is kept for it", found[0, "waiting"], "bytes", 120, at_least=False)
    result.add("outcome with all its look-ups", found[0, "ended"], "bytes", 150, at_least=False)
    result.add("dedupe key", keys, "bytes", 100, at_least=False)
    return result


def _used(stage: Stage) -> float:
    """The data's memory: what the server uses without buffers, in the quiet after the last change."""
    previous = 0.0
    while True:
        time.sleep(1.2)  # the append-only buffer is written out once a second
        info = stage.redis.info("memory")
        buffers = sum(int(info.get(name, 0)) for name in ("mem_clients_normal", "mem_aof_buffer"))
        used = float(info["used_memory"] - buffers)
        if abs(used - previous) < 0.002 * used:
            return used
        previous = used


def _by_family(stage: Stage, count: int, when: str) -> list[str]:
    """Bytes per delivery by kind of key (MEMORY USAGE)."""
    sizes: Counter[str] = Counter()
    keys = list(stage.redis.scan_iter("volley:*", count=1000))
    for first in range(0, len(keys), 1000):
        pipe = stage.redis.pipeline(transaction=False)
        for key in keys[first : first + 1000]:
            pipe.memory_usage(key, samples=0)
        for key, size in zip(keys[first : first + 1000], pipe.execute(), strict=True):
            match = _FAMILY.match(key.decode(errors="replace"))
            family = "".join(part or "" for part in match.groups()) if match else "other"
            sizes[family] += int(size or 0)
    parts = ", ".join(f"{family} {size / count:.1f}" for family, size in sizes.most_common(6))
    return [f"bytes per delivery while {when}: {parts}"]


def worker_memory(context: Context) -> Result:
    """Resident memory of a worker under steady load; ``--soak 3600`` makes it the hour."""
    result = Result("memory")
    seconds = context.soak_seconds or max(20.0, 60.0 * context.scale)
    samples: list[tuple[float, float]] = []
    with Stage() as stage:
        (worker,) = stage.volley()
        load.warm(stage)
        began, fed = time.monotonic(), numbers()
        sent = 0
        while (at := time.monotonic() - began) < seconds:
            context.say(f"{at:.0f} of {seconds:.0f} s") if sent % 50_000 == 0 else None
            some = [load.trigger([load.person(next(fed))], mark=f"{sent // 500}") for _ in range(500)]
            load.append(stage, some)
            sent += len(some)
            stage.until(lambda: stage.redis.xlen(load.STREAM) < 2000)
            samples.append((at, resident_bytes(worker.pid) / 1e6))
            if len(stage.api.calls()) > 2000:
                stage.api.forget()
        stage.until(lambda: not stage.store.status().live)
    gc.collect()
    third = len(samples) // 3
    middle = sum(mb for _, mb in samples[third : 2 * third]) / max(1, third)
    last = sum(mb for _, mb in samples[2 * third :]) / max(1, len(samples) - 2 * third)
    result.add("most memory of a worker", max(mb for _, mb in samples), "MB", 150, at_least=False)
    result.add("growth from the second third to the last", (last / middle - 1) * 100, "%", 2, at_least=False)
    result.notes.append(f"{sent} deliveries in {seconds:.0f} s; with --soak 3600 the hour")
    return result
