"""The Celery app: ``celery -A worker.app worker``, ``celery -A worker.app beat``.

Celery runs the processes, routes the hints and keeps the clock. It never holds a trigger: those wait in the
account's intake stream, whatever happens to a worker, a message or the broker.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from celery import Celery, signals
from kombu.exceptions import OperationalError

from config.celeryconfig import celery_settings
from config.observability import configure_logging, start_sentry
from config.settings import SettingsError, load
from worker.clevertap.client import Client
from worker.engine import Engine
from worker.store import open_store

log = logging.getLogger("volley")

try:
    settings = load()
    app = Celery("volley", include=["tasks.triggers", "tasks.deliveries", "tasks.scheduled"])
    app.conf.update(celery_settings(settings))
except SettingsError as error:
    raise SystemExit(f"volley: {error}") from None

#: Set when this process is told to stop: loops end at their next step.
_stopping = threading.Event()
_engines: dict[str, Engine] = {}
_lock = threading.Lock()


def engine(account: str) -> Engine:
    """The engine of this process for an account. Made at first use: after a fork, never before.

    Raises SettingsError when there is no such account.
    """
    with _lock:
        if not _engines:
            client = Client(connections=settings.concurrency)
            _engines.update(
                (
                    each.name,
                    Engine(settings, each, open_store(settings, each.name), client, hint=Hint(each.name)),
                )
                for each in settings.accounts.values()
            )
    settings.account(account)
    return _engines[account]


def stopping() -> bool:
    """Whether this process has been told to stop."""
    return _stopping.is_set()


def send_hint(task: str, account: str) -> None:
    """Sends a hint: a task that only says which account to look at. A hint that is lost is sent again by
    beat.
    """
    try:
        app.send_task(task, args=[account], retry=False)
    except OperationalError:
        log.warning("the broker is away: no hint for %s; the next sweep sends it", task)


class Hint:
    """What an engine calls when work may be waiting for a free permit."""

    def __init__(self, account: str) -> None:
        self._account = account

    def __call__(self) -> None:
        """Sends the hint."""
        send_hint("deliveries.deliver", self._account)


@signals.setup_logging.connect
def _logging(**_: Any) -> None:
    configure_logging(settings)


@signals.celeryd_init.connect
def _worker_starts(**_: Any) -> None:
    start_sentry(settings)


@signals.beat_init.connect
def _beat_starts(**_: Any) -> None:
    start_sentry(settings)


@signals.worker_ready.connect
def _worker_is_ready(**_: Any) -> None:
    """A starting worker seeds the hints that may have been lost while none ran."""
    for account in settings.accounts:
        send_hint("triggers.accept", account)
        send_hint("deliveries.deliver", account)


@signals.worker_shutting_down.connect
def _worker_stops(**_: Any) -> None:
    _stopping.set()
