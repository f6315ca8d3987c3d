"""Recurring sends in Redis: which slots have been decided, and the firing that is under way.

    slots wait -> reading (recipients are put aside) -> appending (trigger by trigger, to the intake) -> done
    reading -> put off, when the source cannot be read -> reading | failed

A firing is worked on under a token and a lease. Each step checks the token: a worker that was away for longer
than its lease can neither put aside nor append anything more. Nothing is appended before the source has been
read to its end, so a reader that dies leaves nothing half sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson

from worker.core.slots import slot_name
from worker.store import keys
from worker.store.bounds import Bound, Bounds, FullError, Reached
from worker.store.connection import RedisClient
from worker.store.scripts import Scripts

#: Slots of one send that may wait behind each other.
SLOTS_AT_MOST = 100
#: How long what a firing has still to append is kept when nobody touches it (its send may be gone from the
#: settings), ms: longer than it may take. The firing itself stays until it has ended, so none goes unseen.
KEPT_MS = 259_200_000


class Step(StrEnum):
    """What became of the wish to append the next trigger."""

    APPENDED = "appended"  #: it is in the intake
    FULL = "full"  #: too much waits there already: later
    ALL = "all"  #: nothing is left
    GONE = "gone"  #: something is left, but not in Redis any more
    PAUSED = "paused"  #: an operator holds the send back
    LOST = "lost"  #: somebody else works on the firing


@dataclass(frozen=True, slots=True)
class Standing:
    """How a send stands, as the planner sees it."""

    decided: str  #: up to when its slots have been decided, as stored; "" never
    first_ms: int | None  #: when its calendar was first seen; None never
    paused: bool
    waits: bool  #: a slot or a firing waits for somebody to work on it now

    @property
    def after_ms(self) -> int:
        """Slots later than this are to be decided."""
        return max(int(self.decided or 0), self.first_ms or 0)


@dataclass(frozen=True, slots=True)
class Firing:
    """A firing as its holder takes it up. Times are the server's."""

    name: str
    slot: str  #: ``2026-01-31T09:00:00Z``, or ``now-...`` where an operator asked for it
    token: str = field(repr=False)
    appending: bool  #: its source has been read
    tries: int  #: how often its source could not be read
    began_ms: int
    reason: str  #: why it could not
    waiting: int  #: slots behind it
    now_ms: int


@dataclass(frozen=True, slots=True)
class Fired:
    """What is or was the last to become of a slot. Counts are 0 until they are known."""

    slot: str
    state: str  #: reading, appending, done, failed, missed
    began_ms: int | None
    ended_ms: int | None
    recipients: int  #: that the source named
    appended: int  #: of these, in triggers that are in the intake
    triggers: int  #: triggers in the intake
    bad_lines: int  #: lines that name nobody: dead letters
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """How a send stands, as an operator sees it."""

    paused: bool
    waiting: tuple[str, ...]  #: slots
    current: Fired | None
    past: tuple[Fired, ...]  #: the newest first


class Firings:
    """The recurring sends of one account. Errors: redis.exceptions.RedisError."""

    def __init__(self, client: RedisClient, scripts: Scripts, account: str, bounds: Bounds) -> None:
        self._client = client
        self._memory_share = bounds.memory_share
        self._scripts = scripts
        self._root = keys.root(account)
        self._intake = keys.intake(account)
        self._dead = f"{self._root}dead"

    @property
    def client(self) -> RedisClient:
        """For reading a set of recipients that lies in this Redis."""
        return self._client

    def look(self, digests: Mapping[str, str]) -> tuple[int, dict[str, Standing]]:
        """The server's time (ms) and how these sends stand, in one round trip.

        ``digests``: name -> digest of its calendar.
        """
        pipe = self._client.pipeline(transaction=False)
        pipe.time()
        for name, digest in digests.items():
            pipe.hmget(f"{self._root}send:{name}", "decided", f"first:{digest}", "paused")
            pipe.llen(f"{self._root}slots:{name}")
            pipe.hmget(f"{self._root}firing:{name}", "slot", "again")
            pipe.zscore(f"{self._root}firings", name)
        (seconds, micros), *answers = pipe.execute()
        now_ms = seconds * 1000 + micros // 1000
        found = {}
        for at, name in enumerate(digests):
            (decided, first, paused), slots, (slot, again), lease = answers[4 * at : 4 * at + 4]
            idle = (lease or 0) <= now_ms and int(again or 0) <= now_ms
            found[name] = Standing(
                decided=str(decided or b"", "ascii"),
                first_ms=int(first) if first else None,
                paused=paused is not None,
                waits=paused is None and idle and bool(slot or slots),
            )
        return now_ms, found

    def decide(
        self,
        name: str,
        digest: str,
        standing: Standing,
        now_ms: int,
        *,
        slots_ms: Sequence[int],
        missed_ms: int | None = None,
    ) -> bool:
        """Lets these slots wait to be fired: once, whoever asks.

        False: others have decided meanwhile, or it is paused, or its calendar is seen for the first time.
        """
        missed = (
            orjson.dumps(
                {"slot": slot_name(missed_ms), "state": "missed", "reason": "nobody ran at its time"}
            )
            if missed_ms is not None
            else b""
        )
        names = [slot_name(slot) for slot in slots_ms]
        decided = (name, digest, standing.decided, now_ms, missed, SLOTS_AT_MOST, *names)
        return int(self._scripts.run("send_decide", [self._root], *decided)) >= 0

    def fire_now(self, name: str) -> str:
        """Lets a slot of its own wait to be fired at once; the slot's name."""
        seconds, micros = self._client.time()
        slot = f"now-{slot_name(seconds * 1000)[:-1]}.{micros // 1000:03d}Z"
        self._client.rpush(f"{self._root}slots:{name}", slot)
        return slot

    def take(self, name: str, token: str, lease_ms: int, at_once: int) -> Firing | None:
        """Takes up the firing under way, or the next slot; None: nothing to do, or others do it."""
        told = self._scripts.run("firing_take", [self._root], name, token, lease_ms, at_once, KEPT_MS)
        if told is None:
            return None
        slot, state, tries, began, reason, waiting, now_ms = told
        return Firing(
            name=name,
            slot=slot.decode(),
            token=token,
            appending=state == b"appending",
            tries=int(tries),
            began_ms=int(began),
            reason=reason.decode(),
            waiting=waiting,
            now_ms=now_ms,
        )

    def stage(self, firing: Firing, lease_ms: int, at: int, to: Sequence[tuple[int, bytes]]) -> bool:
        """Puts recipients aside, for each trigger its ``to`` (JSON) and their count; ``at`` lie there.

        Without recipients it only renews the lease. False: it is no longer this holder's, or has to be read
        anew. Raises FullError where Redis's memory has no room: then nothing lies there any more.
        """
        items = [b"%d %b" % (count, each) for count, each in to]
        recipients = sum(count for count, _ in to)
        return self._put_aside(firing, lease_ms, ("staged", at, recipients), items)

    def stage_faulty(
        self, firing: Firing, lease_ms: int, at: int, lines: Sequence[tuple[str, str, bytes]]
    ) -> bool:
        """Puts lines aside that name nobody: where, why, and the line; ``at`` lie there. As ``stage``."""
        items = [item for line in lines for item in line]
        return self._put_aside(firing, lease_ms, ("faulty", 3 * at, 0), items)

    def _put_aside(
        self, firing: Firing, lease_ms: int, where: tuple[str, int, int], items: Sequence[str | bytes]
    ) -> bool:
        """``where``: the list, how many items lie there, how many recipients these are."""
        args = (lease_ms, *where, KEPT_MS, self._memory_share, *items)
        told = self._scripts.run("firing_stage", [self._root], firing.name, firing.token, *args)
        if isinstance(told, list):
            value, most = told
            raise FullError(Reached(Bound.MEMORY, int(value), int(most)))
        return bool(told)

    def read(self, firing: Firing, rest: bytes) -> bool:
        """The source was read to its end; ``rest`` is what its triggers have beside ``to`` and ``id``."""
        args = (firing.name, firing.token, rest)
        return bool(self._scripts.run("firing_read", [self._root, self._dead], *args))

    def append(self, firing: Firing, lease_ms: int, most_waiting: int) -> Step:
        """Appends the next trigger to the intake, unless ``most_waiting`` entries wait there."""
        args = (firing.name, firing.token, lease_ms, most_waiting, KEPT_MS)
        return Step(self._scripts.run("firing_append", [self._root, self._intake], *args).decode())

    def release(self, firing: Firing) -> None:
        """Leaves a firing to whoever takes it up next, at once."""
        self._end(firing, "released")

    def put_off(self, firing: Firing, reason: str, again_ms: int) -> None:
        """Its source could not be read: it may be taken up again from then on."""
        self._end(firing, "put_off", reason, firing.tries + 1, again_ms)

    def done(self, firing: Firing) -> bool:
        """All of it is in the intake; False: somebody else has said so."""
        return self._end(firing, "done")

    def fail(self, firing: Firing, reason: str) -> bool:
        """It is given up; what was not appended is not sent. False: it is no longer this holder's."""
        return self._end(firing, "failed", reason)

    def miss(self, firing: Firing, reason: str) -> bool:
        """It is passed over before anything of it was read. False: it is no longer this holder's."""
        return self._end(firing, "missed", reason)

    def _end(self, firing: Firing, how: str, reason: str = "", tries: int = 0, again_ms: int = 0) -> bool:
        args = (firing.name, firing.token, how, reason, tries, again_ms)
        return bool(self._scripts.run("firing_end", [self._root], *args))

    def pause(self, name: str) -> bool:
        """Skips its slots from now on, and holds the firing under way; False: it was paused already."""
        return bool(self._client.hsetnx(f"{self._root}send:{name}", "paused", "1"))

    def resume(self, name: str) -> bool:
        """Its next slot is fired again; False: it was not paused. Slots in between stay skipped."""
        send = f"{self._root}send:{name}"
        if not self._client.hexists(send, "paused"):
            return False
        seconds, micros = self._client.time()
        pipe = self._client.pipeline(transaction=True)
        pipe.hset(send, "decided", seconds * 1000 + micros // 1000)
        pipe.hdel(send, "paused")
        return bool(pipe.execute()[1])

    def report(self, name: str) -> Report:
        """How a send stands, and what became of its last slots."""
        pipe = self._client.pipeline(transaction=False)
        pipe.hexists(f"{self._root}send:{name}", "paused")
        pipe.lrange(f"{self._root}slots:{name}", 0, -1)
        pipe.hgetall(f"{self._root}firing:{name}")
        pipe.lrange(f"{self._root}fired:{name}", 0, -1)
        paused, slots, firing, past = pipe.execute()
        current = {key.decode(): value.decode() for key, value in firing.items()}
        return Report(
            paused=bool(paused),
            waiting=tuple(slot.decode() for slot in slots),
            current=_fired(current) if current else None,
            past=tuple(_fired(orjson.loads(entry)) for entry in past),
        )


def _fired(entry: Mapping[str, Any]) -> Fired:
    def number(key: str) -> int:
        return int(entry.get(key) or 0)

    return Fired(
        slot=str(entry["slot"]),
        state=str(entry["state"]),
        began_ms=number("began") or None,
        ended_ms=number("ended") or None,
        recipients=number("recipients"),
        appended=number("sent"),
        triggers=number("appended"),
        bad_lines=number("faulty"),
        reason=str(entry.get("reason", "")),
    )
