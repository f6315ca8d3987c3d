"""What is kept: bytes in Redis by what they are for, and a worker's memory over time."""

from __future__ import annotations

import re
import time
from collections import Counter
from statistics import fmean

from benchmarks import load
from benchmarks.results import Context, Point, Result, thin
from benchmarks.stage import Stage, resident_bytes
from worker.core.model import Status

#: Seconds for which a soak keeps outcomes and dedupe keys.
_KEPT_SECONDS = 30
#: Seconds between two samples of a soak.
_SAMPLE_SECONDS = 1.0
_FAMILY = re.compile(r"^volley:\{default\}:([a-z]+)(?::\d+(:[a-z]+)?)?")


def redis_bytes(context: Context) -> Result:
    """Bytes per waiting delivery of shared content, per outcome with all its look-ups, per dedupe key."""
    result = Result("bytes")
    count = context.scaled(300_000, 30_000)
    with Stage() as stage:
        stage.volley()
        load.warm(stage)
        base = _used(stage)
        load.let_wait(stage, load.singles(count), count)
        waiting, keys = (_used(stage) - base) / count, _kept_for_dedupe(stage) / count
        result.notes += _by_family(stage, count, "waiting")
        wanted = stage.count(Status.ACCEPTED) + count
        load.go(stage)
        stage.until(lambda: stage.count(Status.ACCEPTED) >= wanted)
        ended = (_used(stage) - base) / count
        result.notes += _by_family(stage, count, "ended")
    own = context.scaled(50_000, 5_000)
    context.say("every content its own")
    with Stage() as stage:
        stage.volley()
        load.warm(stage)
        base = _used(stage)
        each = (load.trigger([load.person(number)], mark=f"order {number}") for number in range(own))
        load.let_wait(stage, each, own)
        personalised = (_used(stage) - base) / own
    kept = "all that is kept for it but its key"
    result.add(f"waiting delivery, {kept}", waiting - keys, "bytes", 120, at_least=False)
    result.add("outcome with all its look-ups", ended - keys, "bytes", 150, at_least=False)
    result.add("dedupe key", keys, "bytes", 100, at_least=False)
    result.add("waiting delivery whose content is its own, all of it", personalised, "bytes")
    return result


def _kept_for_dedupe(stage: Stage) -> int:
    """Bytes of all dedupe keys, with the lists of when they lapse."""
    root = "volley:{default}:"
    names = [f"{root}dedupe", *stage.redis.scan_iter(f"{root}lapse*", count=1000)]
    return sum(stage.redis.memory_usage(name, samples=0) or 0 for name in names)


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
    """Resident memory of a worker's processes under steady load; ``--soak 3600`` makes it the hour.

    As fast as it goes, so outcomes and dedupe keys are kept for half a minute only: an hour of them would be
    more than most machines hold, and forgetting is part of the load. What grows in the server meanwhile is
    the day's look-up index, which goes with its day: about 30 bytes a delivery, 2 GB in an hour of 20,000/s.
    """
    result = Result("memory")
    seconds = context.soak_seconds or max(20.0, 60.0 * context.scale)
    kept = {"VOLLEY_RETENTION": f"{_KEPT_SECONDS}", "VOLLEY_DEDUPE_WINDOW": f"{_KEPT_SECONDS}"}
    processes: dict[int, list[Point]] = {}
    total: list[Point] = []
    server: list[Point] = []
    with Stage(settings=kept) as stage:
        (worker,) = stage.volley()
        load.warm(stage)
        began, sent, forgotten = time.monotonic(), 0, 0
        while (at := time.monotonic() - began) < seconds:
            some = [
                load.trigger([load.person(number)], mark=f"{sent // 500}")
                for number in range(sent, sent + 500)
            ]
            load.append(stage, some)
            sent += len(some)
            stage.until(lambda: stage.redis.xlen(load.STREAM) < 2000)
            if at < len(total) * _SAMPLE_SECONDS:
                continue
            resident = resident_bytes(worker.pid)
            for pid, size in resident.items():
                processes.setdefault(pid, []).append((at, size / 1e6))
            total.append((at, sum(resident.values()) / 1e6))
            server.append((at, stage.redis.info("memory")["used_memory"] / 1e6))
            if sent - forgotten > 100_000:  # the API keeps every recipient of every call
                stage.api.forget()
                forgotten = sent
            if len(total) % 15 == 1:
                context.say(f"{at:.0f} of {seconds:.0f} s: {total[-1][1]:.0f} MB, server {server[-1][1]:.0f}")
        stage.until(lambda: not stage.store.status().live)
    largest = max(processes.values(), key=lambda points: max(mb for _, mb in points))
    result.add("most memory of a worker's process", max(mb for _, mb in largest), "MB", 150, at_least=False)
    result.add("most memory of a worker, all its processes", max(mb for _, mb in total), "MB")
    growths = [growth(points) for points in processes.values() if len(points) == len(total)]
    result.add("growth from the second third to the last", max(growths), "%", 2, at_least=False)
    result.add("most memory of the server", max(mb for _, mb in server), "MB")
    result.series = {
        name: [(round(at, 1), round(mb, 1)) for at, mb in thin(points)]
        for name, points in {"worker's largest process": largest, "server's data": server}.items()
    }
    result.notes.append(
        f"{sent} deliveries in {seconds:.0f} s, kept for {_KEPT_SECONDS} s after their end (looked at once a "
        f"minute), their look-up index for the day, about 30 bytes each: 2 GB in an hour of 20,000/s"
    )
    result.notes.append(
        f"{len(processes)} process(es) of the worker; in a short run its start counts as growth: --soak 3600"
    )
    return result


def growth(points: list[Point]) -> float:
    """Percent by which the mean of the last third is above that of the second; 0 for fewer than three."""
    third = len(points) // 3
    if not third:
        return 0.0
    middle, last = points[third : 2 * third], points[2 * third :]
    return (fmean(mb for _, mb in last) / fmean(mb for _, mb in middle) - 1) * 100
