"""What the harness itself has seen: of calls at the network, of batches in the store, and of its own faults.

An `unknown` is excused by this alone. Nothing of it comes from what the product says of itself, but for the
mark "on the wire" in the store: that is what the promise is about.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from tests.chaos.proxy import Call
from worker.store.keys import root

#: Seconds between two looks at the store; there is one more before each kill.
_LOOK_SECONDS = 0.05
#: Batches on the wire: number, when they were marked (epoch ms), deliveries.
_ON_THE_WIRE = """
local found = {}
for _, batch in ipairs(redis.call('ZRANGE', KEYS[1] .. 'flight', 0, -1)) do
  local held = redis.call('HMGET', KEYS[1] .. 'batch:' .. batch, 'state', 'since', 'spans')
  if held[1] == 'wire' then found[#found + 1] = { batch, held[2], held[3] } end
end
return found
"""


class Cause(StrEnum):
    """What can keep a call's owner from recording its answer."""

    KILL = "kill"  #: of a process that delivers; beat does not
    FREEZE = "freeze"  #: from SIGSTOP to SIGCONT
    API = "api"  #: all connections to the API are reset
    CRASH = "crash"  #: of the server, until it answers again
    REDIS = "redis"  #: the network between workers and Redis passes nothing, or hardly anything


@dataclass(slots=True)
class Trouble:
    """One fault that may cost answers. Times are epoch seconds."""

    cause: Cause
    at: float
    until: float
    #: Ports of the connections to the API that the killed or frozen processes had.
    ports: frozenset[int] = frozenset()
    #: A crash that took back what the server had confirmed.
    took_back: bool = False


@dataclass(slots=True)
class Wired:
    """A batch that the store had on the wire."""

    number: int
    #: When it was marked.
    since: float
    #: One of its deliveries.
    delivery: int
    #: The first look that did not see it any more.
    until: float = inf


@dataclass(slots=True)
class Evidence:
    """All that was seen in a run."""

    calls: list[Call] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    wired: list[Wired] = field(default_factory=list)
    #: When the store was looked at.
    looks: list[float] = field(default_factory=list)

    @property
    def abandoned(self) -> list[float]:
        """When calls were cut off that the API still worked on."""
        return [call.ended for call in self.calls if call.ended is not None and not call.answer_began]

    @property
    def kills(self) -> list[float]:
        """When processes that deliver were killed or frozen."""
        return [each.at for each in self.troubles if each.cause in {Cause.KILL, Cause.FREEZE}]


class Watch:
    """Looks at the store again and again, past the faulty network. A server that is away is passed over."""

    def __init__(self, url: str, evidence: Evidence) -> None:
        self._redis = Redis.from_url(url, protocol=2, socket_timeout=1.0, retry=Retry(NoBackoff(), 0))
        self._script = self._redis.register_script(_ON_THE_WIRE)
        self._evidence = evidence
        self._now: dict[tuple[int, float], Wired] = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(10)
        self._redis.close()

    def look(self) -> None:
        """One look; other threads wait for it."""
        with self._lock, suppress(RedisError):
            began = time.time()
            rows = self._script(keys=[root("default")])
            seen = {(int(number), int(since) / 1000): int(spans.split()[0]) for number, since, spans in rows}
            for key in self._now.keys() - seen.keys():
                self._now.pop(key).until = time.time()
            for key in seen.keys() - self._now.keys():
                self._now[key] = Wired(*key, seen[key])
                self._evidence.wired.append(self._now[key])
            self._evidence.looks.append(began)

    def _run(self) -> None:
        while not self._ending.wait(_LOOK_SECONDS):
            self.look()


def ports_of(pids: list[int], to: int) -> frozenset[int]:
    """The local ports of these processes' connections to a port of this machine."""
    sockets: set[str] = set()
    for pid in pids:
        with suppress(OSError):
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    sockets.add(str(entry.readlink()))
    ports = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        columns = line.split()
        if f"socket:[{columns[9]}]" in sockets and int(columns[2].rpartition(":")[2], 16) == to:
            ports.add(int(columns[1].rpartition(":")[2], 16))
    return frozenset(ports)


def group_of(leader: int) -> list[int]:
    """The processes of a process group that live."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # Behind the name, which may hold anything: state, parent, group.
            state, _, group = stat.read_text().rpartition(") ")[2].split()[:3]
            if int(group) == leader and state not in {"Z", "X"}:
                found.append(int(stat.parent.name))
    return found
