"""Triggers become deliveries: read a chunk, check it, file it in one atomic step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from secrets import token_hex
from typing import Self

from worker.clevertap import wire
from worker.core.errors import InvalidTrigger
from worker.core.model import Trigger
from worker.engine.parts import Parts, Stopping
from worker.store import AWAY
from worker.store.batches import Section, Unreadable
from worker.store.chunks import Filing
from worker.store.intake import Entry, Reading

log = logging.getLogger("volley")

#: Deliveries in one piece of a large trigger. Not a setting: a piece's number means the same to every worker.
PIECE_DELIVERIES = 1000
#: Entries read from the intake at once at most: several chunks, of which one is made ready while the server
#: works on the one before.
READ_MOST = 4000
#: Entries taken over from others at once at most.
TAKE_OVER_MOST = 1000
#: Deliveries that fill a call: of so many those that send are told, though more of what was read is to come.
FULL_CALL = 1000
#: Bytes that one read brings at most, about: what a worker holds does not grow with what waits there.
READ_BYTES = 4_194_304
#: How long the place of an accept task is leased, seconds.
SEAT_SECONDS = 4.0
#: Between two renewals of the place and of what was read, seconds.
RENEW_SECONDS = 0.5
#: A read of the intake waits at most this long, seconds.
BLOCK_SECONDS = 1.0
#: Between two looks whether the backlog still is as large as it may be, seconds.
FULL_PAUSE_SECONDS = 0.25
#: Entries that a consumer read and has not renewed for so long are taken over, seconds.
UNFINISHED_SECONDS = 5.0
#: Workers that may die of a trigger, one after the other, before it is set apart.
TRIES = 3


class Accepting:
    """Waits at an account's intake. A chunk that is accepted twice, or whose
    worker dies at any point, changes nothing.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._store = parts.store

    def wait_and_accept(self, seconds: float, stopping: Stopping) -> bool:
        """Waits for ``seconds`` and accepts what comes; it reads at least once, however slow
        the machine is. False: enough others wait there already.

        While the backlog's bound is reached nothing is read: what comes waits in the stream.
        """
        seat = _Seat(self._parts, stopping)
        if not seat.take():
            return False
        end = self._parts.monotonic() + seconds
        intake = self._store.intake
        ahead: Reading | None = None  # what comes behind the entries that are worked on
        try:
            self._take_over(seat)
            while seat.keep(()):
                entries: Sequence[Entry] = ()
                more = False
                if ahead is None and intake.backlog_reached():
                    self._parts.sleep(min(FULL_PAUSE_SECONDS, seconds))
                else:
                    reading, ahead = ahead or intake.start_read(seat.consumer, READ_MOST, READ_BYTES), None
                    entries, more = intake.finish_read(reading)
                    if not entries:
                        entries = intake.wait(seat.consumer, min(BLOCK_SECONDS, seconds))
                over = self._parts.monotonic() >= end
                if more and not over and not intake.backlog_reached():
                    ahead = intake.start_read(seat.consumer, READ_MOST, READ_BYTES)
                self._accept(entries, seat)
                if over and ahead is None:
                    break
        finally:
            if ahead is not None:
                entries, _ = intake.finish_read(ahead)
                intake.give_back(seat.consumer, [entry.id for entry in entries])
            seat.leave()
        return True

    def _take_over(self, seat: _Seat) -> None:
        """Accepts what others read and did not finish, one by one: each of them may be why they did not."""
        intake = self._store.intake
        for id_ in intake.take_over(seat.consumer, UNFINISHED_SECONDS, TAKE_OVER_MOST):
            if not seat.keep(()):
                return
            entry = intake.entry(id_)
            if intake.begin(id_) > TRIES:
                self._set_apart(_poison(entry, "workers died while they accepted it"))
            else:
                self._accept([entry], seat, resumed=True)

    def _accept(self, entries: Sequence[Entry], seat: _Seat, *, resumed: bool = False) -> None:
        """Accepts entries in chunks of at most ``chunk_deliveries``; one
        that fails does not hold up the others.
        """
        try:
            self._accept_together(entries, seat, resumed=resumed)
        except AWAY:
            raise
        except Exception:
            if len(entries) == 1:
                log.exception("entry %s could not be accepted", entries[0].id)
                self._set_apart(_poison(entries[0], "the worker failed on it"))
                return
            for at, entry in enumerate(entries):
                if not seat.keep(entries[at:]):
                    return
                self._accept([entry], seat, resumed=True)

    def _accept_together(self, entries: Sequence[Entry], seat: _Seat, *, resumed: bool) -> None:
        sections: list[Section] = []
        unreadable: list[Unreadable] = []
        size, most = 0, self._parts.settings.chunk_deliveries
        with _Chunks(self._parts) as chunks:
            for at, entry in enumerate(entries):
                try:
                    parts = pieces(entry, self._parse(entry))
                except InvalidTrigger as invalid:
                    unreadable.append(Unreadable(entry.id, invalid.where, invalid.why, entry.trigger or b""))
                    continue
                if resumed and len(parts) > 1:
                    parts = parts[self._store.intake.progress(entry.id) :]
                for section in parts:
                    deliveries = len(section.recipients) * len(section.trigger.campaigns)
                    if size + deliveries > most and sections:
                        chunks.accept(sections, unreadable)
                        sections, unreadable, size = [], [], 0
                        if not seat.keep(entries[at:]):
                            return
                    sections.append(section)
                    size += deliveries
            if sections or unreadable:
                chunks.accept(sections, unreadable)

    def _parse(self, entry: Entry) -> tuple[Trigger, ...]:
        if entry.trigger is None:
            raise InvalidTrigger("", "the entry has no field `trigger`")
        return wire.parse(entry.trigger, max_bytes=self._parts.settings.max_trigger_bytes)

    def _set_apart(self, dead: Unreadable) -> None:
        with _Chunks(self._parts) as chunks:
            chunks.accept([], [dead])


class _Chunks:
    """Accepts chunks, one after the other in their order: while the server works on one, its caller makes the
    next one ready. At the end of the ``with`` all have been accepted, or one has failed.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._deliveries = parts.store.deliveries
        self._under_way: tuple[Filing, Sequence[Unreadable]] | None = None
        self._untold = 0
        self._free_permits = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            if self._under_way is not None:
                # It may happen or not: its entries are accepted again, which changes nothing if it did. But
                # nobody else would hint at what it filed.
                self._under_way[0].drop()
                self._untold, self._free_permits = 1, 1
            self._tell()

    def accept(self, sections: Sequence[Section], unreadable: Sequence[Unreadable]) -> None:
        """Hands a chunk to the server once the one before it has been accepted."""
        packed = self._deliveries.pack(sections, unreadable, self._parts.permits)
        self._finish()
        self._under_way = self._deliveries.start_accept(packed), unreadable

    def _finish(self) -> None:
        if self._under_way is None:
            return
        (filing, unreadable), self._under_way = self._under_way, None
        before, self._untold, self._free_permits = self._untold, 1, 1  # where the reply is lost
        filed = filing.filed()
        for dead in unreadable:
            log.warning("dead letter: entry %s: %s: %s", dead.entry, dead.where or "trigger", dead.reason)
        # What was passed over may be due all the same: its first reply was lost, and the hint with it.
        self._untold = before + filed.pending + filed.passed_over
        self._free_permits = filed.free_permits
        if self._untold >= FULL_CALL:
            self._tell()

    def _tell(self) -> None:
        """Hints at what has been filed. Where no permit is free, whoever holds one sees it."""
        if self._untold and self._free_permits > 0:
            self._parts.hint()
        self._untold = 0


class _Seat:
    """A place at the intake: a name as its consumer, and a lease that
    is renewed with what was read under it.
    """

    def __init__(self, parts: Parts, stopping: Stopping) -> None:
        self.consumer = token_hex(8)
        self._parts = parts
        self._stopping = stopping
        self._renewed = parts.monotonic()

    def take(self) -> bool:
        """Takes the place, or renews it; False: it is another's."""
        most = self._parts.settings.accept_tasks
        return self._parts.store.permits.sit(self.consumer, most, int(SEAT_SECONDS * 1000))

    def keep(self, unfinished: Sequence[Entry]) -> bool:
        """Goes on, with entries that are still to be accepted; False: stop here, they are given back."""
        intake = self._parts.store.intake
        if self._parts.monotonic() - self._renewed > RENEW_SECONDS:
            self._renewed = self._parts.monotonic()
            if not self.take():
                return False
            intake.hold(self.consumer, [entry.id for entry in unfinished])
        if self._stopping():
            intake.give_back(self.consumer, [entry.id for entry in unfinished])
            return False
        return True

    def leave(self) -> None:
        """Gives the place back."""
        self._parts.store.permits.stand_up(self.consumer)


def _poison(entry: Entry, why: str) -> Unreadable:
    return Unreadable(
        entry.id, "", f"{why}, and it was set apart so that the rest goes on", entry.trigger or b""
    )


def pieces(entry: Entry, triggers: Sequence[Trigger]) -> list[Section]:
    """An entry's triggers as sections of at most ``PIECE_DELIVERIES``,
    numbered through; the last one is final.
    """
    if len(triggers) == 1 and len(triggers[0].recipients) * len(triggers[0].campaigns) <= PIECE_DELIVERIES:
        return [Section(entry.id, 0, True, triggers[0], triggers[0].recipients)]
    cuts = []
    for trigger in triggers:
        step = max(1, PIECE_DELIVERIES // len(trigger.campaigns))
        cuts += [(trigger, first, step) for first in range(0, len(trigger.recipients), step)]
    return [
        Section(entry.id, piece, piece == len(cuts) - 1, trigger, trigger.recipients[first : first + step])
        for piece, (trigger, first, step) in enumerate(cuts)
    ]
