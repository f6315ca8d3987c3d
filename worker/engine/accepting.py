"""Triggers become deliveries: read a chunk, check it, file it in one atomic step."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from secrets import token_hex

from worker.clevertap import wire
from worker.core.errors import InvalidTrigger
from worker.core.model import Trigger
from worker.engine.parts import Parts, Stopping
from worker.store import AWAY
from worker.store.deliveries import Section, Unreadable
from worker.store.intake import Entry

log = logging.getLogger("volley")

#: Deliveries in one piece of a large trigger. Not a setting: a piece's number must mean the same to every
#: worker.
PIECE_DELIVERIES = 1000
#: Entries read from the intake at once.
READ_ENTRIES = 1000
#: How long the place of an accept task is leased, seconds; renewed every time round.
SEAT_SECONDS = 6.0
#: Accept tasks that wait at one intake at once.
SEATS = 1
#: A read of the intake waits at most this long, seconds.
BLOCK_SECONDS = 1.0
#: Entries that a consumer read this long ago and did not finish are taken over, seconds.
UNFINISHED_SECONDS = 5.0
#: Workers that may die of a trigger, or fail on it, before it is set apart.
TRIES = 3


class Accepting:
    """Waits at an account's intake. A chunk that is accepted twice, or whose worker dies at any point,
    changes nothing.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._store = parts.store

    def wait_and_accept(self, seconds: float, stopping: Stopping) -> bool:
        """Waits for ``seconds`` and accepts what comes. False: enough others wait there already."""
        consumer = token_hex(8)
        permits, intake, monotonic = self._store.permits, self._store.intake, self._parts.monotonic
        if not permits.sit(consumer, SEATS, int(SEAT_SECONDS * 1000)):
            return False
        try:
            end = monotonic() + seconds
            self._accept_left(consumer)
            while not stopping() and monotonic() < end:
                self._accept(intake.read(consumer, READ_ENTRIES, BLOCK_SECONDS))
                if not permits.sit(consumer, SEATS, int(SEAT_SECONDS * 1000)):
                    break
        finally:
            permits.stand_up(consumer)
        return True

    def _accept_left(self, consumer: str) -> None:
        """Takes over what others read and did not finish, a few at a time: one of them may be why they did
        not.
        """
        intake = self._store.intake
        while entries := intake.unfinished(consumer, UNFINISHED_SECONDS, 100):
            tried = intake.deliveries(entries[0].id, entries[-1].id)
            poison = [e for e in entries if tried.get(e.id, 0) > TRIES]
            if poison:
                self._chunk([], [_poison(e, "workers died while they accepted it") for e in poison])
            # After the first failure together they go one by one, so that only the guilty one is tried again.
            suspects = [e for e in entries if 1 < tried.get(e.id, 0) <= TRIES]
            for entry in suspects:
                self._accept([entry], resumed=True)
            self._accept([e for e in entries if tried.get(e.id, 0) <= 1], resumed=True)

    def _accept(self, entries: Sequence[Entry], *, resumed: bool = False) -> None:
        """Accepts entries in chunks of at most ``chunk_deliveries``; one that fails does not hold up the
        others.
        """
        try:
            self._accept_together(entries, resumed=resumed)
        except AWAY:
            raise
        except Exception:
            if len(entries) == 1:
                log.exception("entry %s could not be accepted", entries[0].id)
                self._chunk([], [_poison(entries[0], "the worker failed on it")])
                return
            for entry in entries:
                self._accept([entry], resumed=True)

    def _accept_together(self, entries: Sequence[Entry], *, resumed: bool) -> None:
        sections: list[Section] = []
        unreadable: list[Unreadable] = []
        size = 0
        for entry in entries:
            try:
                parts = list(pieces(entry, self._parse(entry)))
            except InvalidTrigger as invalid:
                unreadable.append(Unreadable(entry.id, invalid.where, invalid.why, entry.trigger or b""))
                continue
            if resumed and len(parts) > 1:
                parts = parts[self._store.intake.progress(entry.id) :]
            for section in parts:
                deliveries = len(section.recipients) * len(section.trigger.campaigns)
                if size + deliveries > self._parts.settings.chunk_deliveries and sections:
                    self._chunk(sections, unreadable)
                    sections, unreadable, size = [], [], 0
                sections.append(section)
                size += deliveries
        if sections or unreadable:
            self._chunk(sections, unreadable)

    def _parse(self, entry: Entry) -> tuple[Trigger, ...]:
        if entry.trigger is None:
            raise InvalidTrigger("", "the entry has no field `trigger`")
        return wire.parse(entry.trigger, max_bytes=self._parts.settings.max_trigger_bytes)

    def _chunk(self, sections: Sequence[Section], unreadable: Sequence[Unreadable]) -> None:
        filed = self._store.deliveries.accept(sections, unreadable, self._parts.permits)
        for dead in unreadable:
            log.warning("dead letter: entry %s: %s: %s", dead.entry, dead.where or "trigger", dead.reason)
        if filed.pending and filed.free_permits > 0:
            self._parts.hint()


def _poison(entry: Entry, why: str) -> Unreadable:
    return Unreadable(
        entry.id, "", f"{why}, and it was set apart so that the rest goes on", entry.trigger or b""
    )


def pieces(entry: Entry, triggers: Sequence[Trigger]) -> Iterator[Section]:
    """An entry's triggers as sections of at most ``PIECE_DELIVERIES``, numbered through; the last one is
    final.
    """
    cuts = []
    for trigger in triggers:
        step = max(1, PIECE_DELIVERIES // len(trigger.campaigns))
        cuts += [(trigger, first, step) for first in range(0, len(trigger.recipients), step)]
    for piece, (trigger, first, step) in enumerate(cuts):
        yield Section(
            entry.id, piece, piece == len(cuts) - 1, trigger, trigger.recipients[first : first + step]
        )
