"""What `volley doctor` thinks of a server: from its facts to findings, without asking anything itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from worker.cli.findings import Finding, ok, problem, skipped, warning
from worker.store.server import ServerFacts

#: The oldest servers that Volley works with: (major, minor).
OLDEST_REDIS, OLDEST_VALKEY = (7, 0), (7, 2)
#: A difference of clocks, in milliseconds, that is worth a word; and one that beat's hints do not survive.
CLOCK_WARNING_MS, CLOCK_PROBLEM_MS = 1_000, 10_000
#: Round trips, in milliseconds, that cost rate (half of them longer) or time-outs (a single one).
PING_HALF_MS, PING_LONGEST_MS = 10, 500
#: A script, in milliseconds, that makes everybody else wait noticeably.
SCRIPT_MS = 50
#: Share of the memory from which on it is worth a word.
MEMORY_WARNING_SHARE = 0.75

_NOT_ALLOWED = "this user may not ask for it (ACL)"


def server_checks(facts: ServerFacts, memory_share: float) -> Iterator[Finding]:
    """All of them; ``memory_share`` is VOLLEY_MAX_MEMORY_SHARE."""
    info = facts.info
    if info:
        yield _version(info)
        yield _mode(info)
        yield _append_only(info)
    else:
        for check in ("version", "mode", "append-only file"):
            yield skipped(check, f"INFO: {_NOT_ALLOWED}")
    yield _fsync(facts)
    if info:
        yield _disk(info)
        yield _eviction(info)
        yield _memory(info, memory_share)
    else:
        for check in ("disk", "eviction", "memory"):
            yield skipped(check, f"INFO: {_NOT_ALLOWED}")
    yield _latency(facts)
    yield _clock(facts)
    yield _scripts(facts)


def _version(info: Mapping[str, Any]) -> Finding:
    valkey = info.get("valkey_version")
    name, version = ("Valkey", str(valkey)) if valkey else ("Redis", str(info.get("redis_version", "")))
    oldest = OLDEST_VALKEY if valkey else OLDEST_REDIS
    numbers = [int(part) if part.isdigit() else 0 for part in version.split(".")]
    if tuple(numbers[:2]) >= oldest:
        return ok("version", f"{name} {version}")
    return problem(
        "version", f"{name} {version}", "Volley needs Redis 7.0 or Valkey 7.2, or newer: upgrade it."
    )


def _mode(info: Mapping[str, Any]) -> Finding:
    if int(info.get("cluster_enabled", 0)):
        return problem(
            "mode", "a cluster", "Celery's transport knows no cluster: use a single server or Sentinel."
        )
    role = info.get("role", "master")
    if role != "master":
        return problem(
            "mode",
            "a replica, which takes no writes",
            "Let VOLLEY_REDIS_URL name the primary, or use sentinel://.",
        )
    return ok("mode", f"primary with {info.get('connected_slaves', 0)} replicas")


def _append_only(info: Mapping[str, Any]) -> Finding:
    if int(info.get("aof_enabled", 0)):
        return ok("append-only file", "on")
    return problem(
        "append-only file",
        "off: a restart of the server loses triggers and outcomes, and may send again",
        "CONFIG SET appendonly yes, then CONFIG REWRITE (or `appendonly yes` in its file).",
    )


def _fsync(facts: ServerFacts) -> Finding:
    every = facts.setting("appendfsync")
    match every:
        case None:
            return skipped("appendfsync", f"CONFIG GET: {_NOT_ALLOWED}; it should be everysec or always")
        case "always":
            return ok("appendfsync", "always: a crash of the machine loses nothing that was confirmed")
        case "everysec":
            return ok("appendfsync", "everysec: a crash of the machine can lose its last second")
        case _:
            return problem(
                "appendfsync",
                f"{every}: a crash of the machine can lose half a minute",
                "CONFIG SET appendfsync everysec (or always).",
            )


def _disk(info: Mapping[str, Any]) -> Finding:
    failing = [
        words
        for name, words in (
            ("aof_last_write_status", "the append-only file cannot be written"),
            ("aof_last_bgrewrite_status", "the append-only file cannot be rewritten"),
            ("rdb_last_bgsave_status", "the last snapshot failed"),
        )
        if info.get(name, "ok") != "ok"
    ]
    if int(info.get("loading", 0)):
        failing.append("it is still reading its files")
    if not failing:
        return ok("disk", "the server writes to it")
    return problem("disk", "; ".join(failing), "Look at the server's log and at the space on its disk.")


def _eviction(info: Mapping[str, Any]) -> Finding:
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy == "noeviction":
        return ok("eviction", policy)
    return problem(
        "eviction",
        f"{policy}: a full server would throw away triggers and outcomes, silently",
        "CONFIG SET maxmemory-policy noeviction, then CONFIG REWRITE.",
    )


def _memory(info: Mapping[str, Any], share: float) -> Finding:
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if not most:
        return warning(
            "memory",
            f"{_mega(used)} used, without a maxmemory: a machine that has no more ends the server",
            "CONFIG SET maxmemory to about half of the machine's memory: rewriting the file needs some too.",
        )
    text = f"{_mega(used)} of {_mega(most)} used ({used / most:.0%})"
    if used >= most * share:
        return problem(
            "memory",
            f"{text}: appends are refused from {share:.0%} on (VOLLEY_MAX_MEMORY_SHARE)",
            "Give it more (CONFIG SET maxmemory), or keep outcomes for less long (VOLLEY_RETENTION).",
        )
    if used >= most * MEMORY_WARNING_SHARE:
        advice = f"Appends are refused from {share:.0%} on: give it more, or lower VOLLEY_RETENTION."
        return warning("memory", text, advice)
    return ok("memory", text)


def _latency(facts: ServerFacts) -> Finding:
    half, longest = facts.pings_ms[len(facts.pings_ms) // 2], facts.pings_ms[-1]
    text = f"half of {len(facts.pings_ms)} round trips took up to {half:.1f} ms, the longest {longest:.1f} ms"
    if half > PING_HALF_MS or longest > PING_LONGEST_MS:
        return warning(
            "latency", text, "Every call needs several round trips: move workers and server together."
        )
    return ok("latency", text)


def _clock(facts: ServerFacts) -> Finding:
    if "TIME" in facts.denied:
        return problem(
            "clock", f"TIME: {_NOT_ALLOWED}", "Workers need it: see docs/security.md for their rights."
        )
    ahead = facts.clock_ahead_ms
    text = f"{abs(ahead) / 1000:.2f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
    certain = abs(ahead) - facts.clock_exact_ms
    if certain > CLOCK_PROBLEM_MS:
        return problem(
            "clock",
            text,
            "Hints of beat expire by its machine's clock: run NTP on both, or sweeps may not run.",
        )
    if certain > CLOCK_WARNING_MS:
        return warning("clock", text, "Volley goes by the server's clock; run NTP on both.")
    return ok("clock", text)


def _scripts(facts: ServerFacts) -> Finding:
    slow = facts.slow_scripts
    if slow is None:
        return skipped("slow scripts", f"SLOWLOG: {_NOT_ALLOWED}")
    if slow.longest_ms > SCRIPT_MS:
        return warning(
            "slow scripts",
            f"{slow.count} in the slow log, the longest took {slow.longest_ms:.0f} ms, and all others waited",
            "Lower VOLLEY_CHUNK; look for other load on the server or a slow machine.",
        )
    return ok("slow scripts", f"{slow.count} in the slow log, none over {SCRIPT_MS} ms")


def _mega(size: int) -> str:
    return f"{size / 1_048_576:,.0f} MiB"
