"""Recurring sends of one account: their slots are decided, and each becomes triggers in the intake, once.

    decide      slots that have come: one step in Redis, so of two planners one decides
    read        the source to its end, into Redis: nothing of it is sent before all of it was read
    append      trigger by trigger to the intake: one step each, under the firing's token

A firing may be left at any point: by a worker that dies (its lease ends), by one that is told to stop, or at
the end of its time. Whoever takes it up reads anew, or appends the next trigger. A firing has one dedupe key,
so whom the source names twice gets it once.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from secrets import token_hex

import orjson
from pydantic import SecretStr

from config.sends import FileSource, Send, SetSource, UrlSource
from worker.core.errors import UnreadableSource
from worker.core.model import Kind
from worker.core.slots import ON_TIME_MS, Calendar, due
from worker.engine.gathering import Gathered, gathered, named_members, told_of_each
from worker.engine.parts import Parts, Stopping
from worker.sources import Named, named_at_url, named_in_file
from worker.store import AWAY, FullError
from worker.store.firings import Firing, Standing, Step
from worker.store.members import members_of

log = logging.getLogger("volley")

#: Firings of one account that are worked on at once; the others wait.
FIRINGS_AT_ONCE = 2
#: How long a firing is its holder's without a step, ms: longer than any wait between two of them. The second
#: one where somebody else's server is waited for: 30 s at most, and RENEW_SECONDS before it.
LEASE_MS, LEASE_ELSEWHERE_MS = 15_000, 50_000
#: The lease is renewed so often while a source is read, seconds.
RENEW_SECONDS = 5.0
#: Entries in the intake that a firing waits behind: what is urgent must not queue behind a million people.
INTAKE_AT_MOST = 20
#: Between two looks whether the intake has room, seconds.
ROOM_PAUSE_SECONDS = 0.05
#: How long a firing looks for room before it lets others have its place and comes again, seconds.
FULL_SECONDS = 0.5
#: Lines of one source that may name nobody: they become dead letters. With more of them nothing is sent.
FAULTY_AT_MOST = 1000
#: Bytes that the ``to`` of one trigger takes at most.
TO_AT_MOST_BYTES = 1_048_576
#: The waits between two tries to read a source, seconds; the last one stays.
PAUSES_SECONDS = (1, 2, 4, 8, 15, 30, 60)
#: Tries that a firing gets at least before a later slot takes its place.
TRIES_AT_LEAST = 5
#: How long a firing may take from its begin to its last trigger, ms. Dedupe keys live as long.
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Survey:
    """What a firing would append."""

    recipients: int
    triggers: int
    bad_lines: int
    #: How many recipients of each kind the first trigger has, and what else is in it.
    first: dict[str, object]


class _LeftError(Exception):
    """The source is not to be read on here: the worker stops, or the firing is somebody else's."""


def calendar_of(send: Send) -> Calendar:
    """When a send is due."""
    return Calendar(send.cron, send.time_zone)


class Recurring:
    """Beat's work for the recurring sends of one account. Safe to run twice, at once, or never."""

    def __init__(self, parts: Parts, sends: Sequence[Send]) -> None:
        self._parts = parts
        self._firings = parts.store.firings
        self._sends = {send.name: send for send in sends}
        self._digests = {
            name: hashlib.blake2b(f"{send.cron}|{send.time_zone}".encode(), digest_size=6).hexdigest()
            for name, send in self._sends.items()
        }

    def fire(self, seconds: float, stopping: Stopping) -> None:
        """Decides which slots have come, and works on firings, for about ``seconds``.

        Reading one source may take longer, up to its own timeout. One round trip where nothing is to be done.
        """
        if not self._sends:
            return
        end = self._parts.monotonic() + seconds
        now_ms, found = self._firings.look(self._digests)
        for name, standing in found.items():
            decided = self._decide(name, standing, now_ms)
            if (standing.waits or decided) and self._parts.monotonic() < end and not stopping():
                self._work(self._sends[name], end, stopping)

    def survey(self, send: Send) -> Survey:
        """Reads the source as a firing would, and counts. Raises UnreadableSource."""
        rest = self._rest(send, "dry-run", 0)
        recipients = triggers = bad_lines = 0
        shape: dict[str, int] = {}
        for portion in self._portions(send, rest):
            bad_lines += len(portion.faulty)
            for count, to in portion.to:
                if not triggers:
                    shape = {kind: len(values) for kind, values in orjson.loads(to).items()}
                recipients += count
                triggers += 1
        return Survey(recipients, triggers, bad_lines, {"to": shape, **orjson.loads(b"{%b}" % rest)})

    def _decide(self, name: str, standing: Standing, now_ms: int) -> bool:
        """True: a slot waits now that was not seen to wait before."""
        if standing.paused:
            return False
        send = self._sends[name]
        if standing.first_ms is None:
            self._firings.decide(name, self._digests[name], standing, now_ms, slots_ms=())
            return False
        found = due(
            calendar_of(send), standing.after_ms, now_ms, send.missed.value, send.missed_within_seconds * 1000
        )
        if not found.fire and found.missed_ms is None:
            return False
        decided = self._firings.decide(
            name, self._digests[name], standing, now_ms, slots_ms=found.fire, missed_ms=found.missed_ms
        )
        if decided and found.missed_ms is not None:
            log.warning("send %s: nobody ran at the time of some of its slots; they are passed over", name)
        return decided and bool(found.fire)

    def _work(self, send: Send, end: float, stopping: Stopping) -> None:
        lease_ms = self._lease_ms(send)
        while firing := self._firings.take(send.name, token_hex(8), lease_ms, FIRINGS_AT_ONCE):
            if not firing.appending and _began_late(send, firing):
                # Slots that wait were decided in time, perhaps long ago: the next one may be younger.
                if self._firings.miss(firing, "nobody could begin it in time"):
                    log.warning("send %s: slot %s is passed over: it is too old", send.name, firing.slot)
                if self._parts.monotonic() < end and not stopping():
                    continue
                return
            if firing.now_ms > firing.began_ms + DAY_MS:
                self._give_up(firing, "it was not finished within a day")
            elif firing.appending or self._read(send, firing, stopping):
                self._append(send, firing, end, stopping)
            return

    # -- reading

    def _read(self, send: Send, firing: Firing, stopping: Stopping) -> bool:
        """Reads the source into Redis; True: all of it, and the firing is still this holder's."""
        late_ms = firing.began_ms + _late_after_ms(send)
        if firing.now_ms > late_ms:
            self._give_up(firing, firing.reason or "the workers that read it died")
            return False
        try:
            return self._stage(send, firing, stopping)
        except AWAY:
            raise
        except _LeftError:
            return False
        except UnreadableSource as unreadable:
            fault = str(unreadable)
        except FullError as full:
            fault = f"no room for its recipients: {full.reached}"
        except Exception as error:
            log.exception("send %s: its source could not be read", send.name)
            fault = f"the worker failed on it ({type(error).__name__})"
        now_ms, _ = self._firings.look({})
        if now_ms > late_ms or (firing.waiting and firing.tries + 1 >= TRIES_AT_LEAST):
            self._give_up(firing, fault)
        else:
            pause = PAUSES_SECONDS[min(firing.tries, len(PAUSES_SECONDS) - 1)]
            log.warning(
                "send %s: slot %s: %s; it is tried again in %d s", firing.name, firing.slot, fault, pause
            )
            self._firings.put_off(firing, fault, now_ms + pause * 1000)
        return False

    def _stage(self, send: Send, firing: Firing, stopping: Stopping) -> bool:
        rest = self._rest(send, firing.slot, firing.began_ms)
        lease_ms, end = self._lease_ms(send), self._parts.monotonic() + send.timeout_seconds
        triggers = faulty = 0
        renewed = self._parts.monotonic()

        def alive() -> None:
            nonlocal renewed
            now = self._parts.monotonic()
            if now < renewed + RENEW_SECONDS:
                return
            if stopping():
                self._firings.release(firing)
                raise _LeftError
            if not self._firings.stage(firing, lease_ms, triggers, ()):
                raise _LeftError
            renewed = now

        with closing(self._portions(send, rest, alive)) as portions:
            for portion in portions:
                if stopping():
                    self._firings.release(firing)
                    return False
                if self._parts.monotonic() > end:
                    raise UnreadableSource(f"its source was not read within {send.timeout_seconds} s")
                if faulty + len(portion.faulty) > FAULTY_AT_MOST:
                    where, why, _ = portion.faulty[-1]
                    raise UnreadableSource(
                        f"more than {FAULTY_AT_MOST} lines name nobody, so nothing is sent ({where} {why})"
                    )
                place = f"send {send.name}, {firing.slot}"
                lines = [(f"{place}, {at}", why, raw) for at, why, raw in portion.faulty]
                if lines and not self._firings.stage_faulty(firing, lease_ms, faulty, lines):
                    return False
                if not self._firings.stage(firing, lease_ms, triggers, portion.to):
                    return False
                faulty += len(lines)
                triggers += len(portion.to)
        return self._firings.read(firing, rest)

    def _portions(
        self, send: Send, rest: bytes, alive: Callable[[], None] = lambda: None
    ) -> Generator[Gathered, None, None]:
        """All of the source; ``alive`` is called between any two waits for it. What it raises comes out."""
        # Beside `to` and this a trigger has an id of at most 100 bytes, quotation marks and names.
        room = self._parts.settings.max_trigger_bytes - len(rest) - 256
        with closing(self._named(send, alive)) as named:
            yield from gathered(told_of_each(named, alive), max(1, min(TO_AT_MOST_BYTES, room)))

    def _named(self, send: Send, alive: Callable[[], None]) -> Generator[Named, None, None]:
        match send.source:
            case FileSource() as source:
                return named_in_file(source)
            case UrlSource() as source:
                return named_at_url(source, send.timeout_seconds, self._parts.monotonic, alive)
            case SetSource(key=key, kind=kind, url=url):
                address = url.get_secret_value() if url else None
                return named_members(members_of(key, self._firings.client, address), Kind(kind.value))

    def _rest(self, send: Send, slot: str, began_ms: int) -> bytes:
        """What every trigger of a firing has beside ``to`` and ``id``: the inside of a JSON object."""
        members: dict[str, object] = {
            "campaign_id_list": send.campaigns,
            "ExternalTrigger": send.content,
            "priority": send.priority.value,
            "dedupe_key": f"{send.name}@{slot}",
            "dedupe_window": DAY_MS // 1000,
            "source": f"schedule:{send.name}",
        }
        if send.expires_after_seconds is not None:
            at_ms = _moment_ms(slot) or began_ms
            members["expires_at"] = at_ms // 1000 + send.expires_after_seconds
        return orjson.dumps(members)[1:-1]

    # -- appending

    def _append(self, send: Send, firing: Firing, end: float, stopping: Stopping) -> None:
        most = min(INTAKE_AT_MOST, self._parts.settings.max_intake or INTAKE_AT_MOST)
        room = self._parts.monotonic()
        while not stopping() and self._parts.monotonic() < end:
            match self._firings.append(firing, LEASE_MS, most):
                case Step.APPENDED:
                    room = self._parts.monotonic()
                case Step.FULL:
                    if self._parts.monotonic() >= room + FULL_SECONDS:
                        break
                    self._parts.sleep(ROOM_PAUSE_SECONDS)
                case Step.PAUSED:
                    break
                case Step.ALL:
                    if self._firings.done(firing):
                        log.info("send %s: slot %s is in the intake", send.name, firing.slot)
                    return
                case Step.GONE:
                    self._give_up(firing, "what it had still to append is gone from Redis")
                    return
                case Step.LOST:
                    return
        self._firings.release(firing)

    def _give_up(self, firing: Firing, reason: str) -> None:
        if self._firings.fail(firing, reason):
            log.error("send %s: slot %s failed: %s", firing.name, firing.slot, reason)

    def _lease_ms(self, send: Send) -> int:
        match send.source:
            case UrlSource() | SetSource(url=SecretStr()):
                return LEASE_ELSEWHERE_MS
            case _:
                return LEASE_MS


def _late_after_ms(send: Send) -> int:
    """How long after its slot a firing may begin, and how long after that its source may be unreadable."""
    return max(send.missed_within_seconds * 1000, ON_TIME_MS)


def _began_late(send: Send, firing: Firing) -> bool:
    at_ms = _moment_ms(firing.slot)
    return at_ms is not None and firing.began_ms - at_ms > _late_after_ms(send)


def _moment_ms(slot: str) -> int | None:
    """The moment that a slot is named after; None where an operator asked for it."""
    return None if slot.startswith("now-") else int(datetime.fromisoformat(slot).timestamp() * 1000)
