"""Ends a worker that lives and does nothing although work waits, so that its supervisor starts it again.

A broken connection can leave a Celery worker that runs and consumes no more. Nothing inside Celery tells, so
the effect is watched: work waits, and this worker begins none of it. Before the end it is given the chance to
prove itself: hints are sent, and a worker that hears them begins a task. It is ended only if they could be
sent and had no effect, so neither a Redis that is away nor a beat that is dead ends a worker that could work.

It is a thread of the worker's own process, also of a prefork pool's parent. That parent forks new children
later, so no fork happens in the middle of a look: a child never inherits a lock that this thread holds. The
connection is this thread's own, and children use engines that they make themselves.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from redis.exceptions import RedisError

from worker.store import LayoutError, Store

log = logging.getLogger("volley")

#: Looks in the time that a worker may be idle.
LOOKS = 6
#: Looks that must follow the first hints before the worker is ended: one that was frozen needs time to wake.
CHANCES = 2
#: Seconds between two lines of the log that say that a look has failed.
TOLD_SECONDS = 600.0
#: Seconds that an idle worker gets to end in order, before it is ended at once.
END_SECONDS = 20.0


class Step(Enum):
    """What follows from a look."""

    REST = auto()  #: all is well
    HINT = auto()  #: work waits: send hints and see what comes of them
    END = auto()  #: the hints had no effect
    REFUSE = auto()  #: the data is not of this version (any more): only a start can change that


class Idleness:
    """How long a worker has done nothing although work waited."""

    def __init__(self, patience_seconds: float, now: float) -> None:
        self._patience = patience_seconds
        self._since = now
        self._begun = -1
        self._hinted = 0

    def forget(self, now: float) -> None:
        """Counts from now on."""
        self._since, self._hinted = now, 0

    def look(self, now: float, *, waits: bool, begun: int, busy: bool) -> Step:
        """What to do at ``now`` (monotonic seconds); ``begun`` counts the tasks that it has begun so far."""
        if not waits or busy or begun != self._begun:
            self._begun = begun
            self.forget(now)
            return Step.REST
        if now - self._since < self._patience / 3:
            return Step.REST
        if now - self._since >= self._patience and self._hinted >= CHANCES:
            return Step.END
        self._hinted += 1
        return Step.HINT


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """What the watchdog may know of its worker, and do to it."""

    begun: Callable[[], int]  #: tasks that it has begun since it started
    busy: Callable[[], bool]  #: whether a task runs now
    stopping: Callable[[], bool]  #: whether it has been told to stop
    hint: Callable[[], bool]  #: sends hints of every kind; False: it could not
    stop: Callable[[], None]  #: has it end in order, with an exit code that is not 0
    kill: Callable[[], None]  #: ends it at once


class Watchdog(threading.Thread):
    """Watches one worker. ``stores`` opens a connection of its own to each account."""

    def __init__(self, worker: Worker, stores: Callable[[], Sequence[Store]], idle_seconds: float) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._worker = worker
        self._stores = stores
        self._seconds = idle_seconds
        self._idleness = Idleness(idle_seconds, time.monotonic())
        self._opened: Sequence[Store] | None = None
        self._told: float | None = None
        self._looking = threading.Lock()
        os.register_at_fork(
            before=self._looking.acquire,
            after_in_parent=self._looking.release,
            after_in_child=self._looking.release,
        )

    def run(self) -> None:
        """Looks until the worker is told to stop, by others or by this."""
        while not self._worker.stopping():
            time.sleep(self._seconds / LOOKS)
            with self._looking:
                step = self._look_surely()
            if step in {Step.END, Step.REFUSE}:
                self._end(step)
                return

    def _look_surely(self) -> Step:
        """A look; whatever goes wrong in it, the next one follows, as nobody watches this thread."""
        try:
            if self._opened is None:
                self._opened = self._stores()
            return self._look(self._opened)
        except Exception:
            now = time.monotonic()
            self._idleness.forget(now)
            if self._told is None or now - self._told >= TOLD_SECONDS:
                self._told = now
                log.exception("the watchdog could not look whether work waits; it goes on")
            return Step.REST

    def _look(self, stores: Sequence[Store]) -> Step:
        worker, now = self._worker, time.monotonic()
        sweep_within_ms = int(self._seconds * 1000 / 2)
        try:
            waits = any(store.progress().waits(sweep_within_ms) for store in stores)
        except LayoutError:
            return Step.REFUSE
        except RedisError:
            self._idleness.forget(now)
            return Step.REST
        step = self._idleness.look(now, waits=waits, begun=worker.begun(), busy=worker.busy())
        if step is Step.HINT and not worker.hint():
            self._idleness.forget(now)
        return step

    def _end(self, step: Step) -> None:
        if self._worker.stopping():
            return
        why = (
            f"work waits and this worker has begun none of it for {self._seconds:g} s"
            if step is Step.END
            else "the data has another layout than this worker's"
        )
        log.critical("%s: it ends itself; its supervisor is to start it again", why)
        self._worker.stop()
        time.sleep(END_SECONDS)
        self._worker.kill()
