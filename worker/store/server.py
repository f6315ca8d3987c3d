"""What a server says of itself, as far as this user may ask.

A managed server, or an ACL, may forbid some of it: what is forbidden is None here, and named in ``denied``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from redis.exceptions import NoPermissionError, ResponseError

from worker.store import keys
from worker.store.connection import RedisClient

#: Keys that ``foreign_keys`` looks at, and streams among so many keys that ``streams`` finds.
KEYS_LOOKED_AT, KEYS_FOR_STREAMS = 100_000, 2_000_000
_SCAN_STEP = 5_000


@dataclass(frozen=True, slots=True)
class SlowScripts:
    """Scripts in the server's slow log."""

    count: int
    longest_ms: float


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """One look at a server. ``info`` and ``config`` are empty where they may not be asked for."""

    info: Mapping[str, Any]
    config: Mapping[str, str]
    #: Round trips of PING, milliseconds, sorted.
    pings_ms: tuple[float, ...]
    #: How far the server's clock is ahead of this machine's, milliseconds, and how exactly that is known.
    clock_ahead_ms: float
    clock_exact_ms: float
    #: None: may not be asked for.
    slow_scripts: SlowScripts | None
    denied: tuple[str, ...]

    def setting(self, name: str) -> str | None:
        """A directive of the server's configuration."""
        return self.config.get(name)


def read_server(
    client: RedisClient,
    *,
    pings: int = 20,
    wall: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> ServerFacts:
    """Asks a server. Raises redis.exceptions.RedisError where it does not answer at all."""
    denied: list[str] = []

    def asked(what: str, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except NoPermissionError:
            denied.append(what)
        except ResponseError:  # a command that the provider of a managed server has taken away
            denied.append(what)
        return None

    times, offsets = [], []
    for _ in range(pings):
        begun = monotonic()
        client.ping()
        times.append((monotonic() - begun) * 1000)
    for _ in range(5):
        begun, before = monotonic(), wall()
        answer = asked("TIME", client.time)
        if answer is None:
            break
        took = monotonic() - begun
        offsets.append((took * 1000, (answer[0] + answer[1] / 1e6 - before - took / 2) * 1000))
    exact_ms, ahead_ms = min(offsets) if offsets else (0.0, 0.0)
    return ServerFacts(
        info=asked("INFO", client.info) or {},
        config=asked("CONFIG GET", lambda: client.config_get("*")) or {},
        pings_ms=tuple(sorted(times)),
        clock_ahead_ms=ahead_ms,
        clock_exact_ms=exact_ms,
        slow_scripts=_slow_scripts(asked("SLOWLOG GET", lambda: client.slowlog_get(128))),
        denied=tuple(dict.fromkeys(denied)),
    )


def _slow_scripts(entries: Any) -> SlowScripts | None:
    if entries is None:
        return None
    # Of a command only its name is looked at: the rest may hold recipients.
    scripts = [each for each in entries if bytes(each["command"])[:7].upper().startswith(b"EVAL")]
    return SlowScripts(len(scripts), max((each["duration"] / 1000 for each in scripts), default=0.0))


@dataclass(frozen=True, slots=True)
class Found:
    """Names of keys, and whether all keys were looked at."""

    names: tuple[str, ...]
    all_seen: bool


def streams(client: RedisClient) -> Found:
    """Streams under the prefix, whatever their account is called."""
    return _scan(client, KEYS_FOR_STREAMS, lambda _: True, _type="stream")


def foreign_keys(client: RedisClient) -> Found:
    """Keys under the prefix that Volley does not write: other names, or an account without its braces."""
    return _scan(client, KEYS_LOOKED_AT, lambda name: not _OURS.fullmatch(name))


def _scan(client: RedisClient, most: int, wanted: Callable[[str], bool], **options: Any) -> Found:
    found: set[str] = set()
    cursor, seen = 0, 0
    while seen < most:
        cursor, names = client.scan(cursor, match=f"{keys.PREFIX}*", count=_SCAN_STEP, **options)
        found |= {name for each in names if wanted(name := each.decode(errors="backslashreplace"))}
        seen += _SCAN_STEP
        if cursor == 0:
            return Found(tuple(sorted(found)), all_seen=True)
    return Found(tuple(sorted(found)), all_seen=False)


def _own_names() -> frozenset[str]:
    """The first word of every key, from the page that has to list them all."""
    listed = (keys.__doc__ or "").split("\n\n", 2)[2]
    words = re.findall(r"(?:^    |[,;] +)([a-z]+)(?=[:,<… ])", listed, re.MULTILINE)
    return frozenset(words)


_OURS = re.compile(
    re.escape(keys.PREFIX) + r"\{[a-z0-9_-]{1,32}\}:(?:" + "|".join(sorted(_own_names())) + r")(?::.*)?",
    re.DOTALL,
)
