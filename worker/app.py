"""The Celery app: ``celery -A worker.app worker``, ``celery -A worker.app beat``.

Celery runs the processes, routes the hints and keeps the clock. It never holds a trigger: those wait in the
account's intake stream, whatever happens to a worker, a message or the broker.
"""

from __future__ import annotations

import logging
import mmap
import os
import threading
import time
from typing import Any

from billiard import active_children
from celery import Celery, signals
from celery.worker import state
from celery.worker.request import Request
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from config.celeryconfig import celery_settings
from config.collecting import collect_rarely
from config.observability import configure_logging, start_sentry
from config.settings import SettingsError, load
from worker.clevertap.client import Client
from worker.engine import Engine
from worker.sifting import sift_messages
from worker.store import LayoutError, Store, open_store
from worker.store.carrying_over import carry_over
from worker.store.connection import connect
from worker.watchdog import Watchdog, Worker

log = logging.getLogger("volley")

sift_messages()
try:
    settings = load()
    app = Celery("volley", include=["tasks.triggers", "tasks.deliveries", "tasks.scheduled"])
    app.conf.update(celery_settings(settings))
    app.conf.update(
        worker_consumer="worker.reconnecting:Consumer", beat_scheduler="worker.reconnecting:Scheduler"
    )
except SettingsError as error:
    raise SystemExit(f"volley: {error}") from None

#: A byte that is not 0 once this worker is told to stop: loops end at their next step. Shared with the
#: children of a prefork pool, since Celery tells the parent alone.
_stopping = mmap.mmap(-1, 1)
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
            collect_rarely()
    settings.account(account)
    return _engines[account]


def stopping() -> bool:
    """Whether this worker has been told to stop."""
    return _stopping[0] != 0


def send_hint(task: str, *account: str) -> bool:
    """Sends a hint: a task that says at most which account to look at. False: it could not be sent.

    A hint that is lost is sent again by beat.
    """
    try:
        app.send_task(task, args=account, retry=False)
    except OperationalError:
        log.warning("the broker is away or full: no hint for %s; the next sweep sends it", task)
        return False
    return True


class Hint:
    """What an engine calls when work may be waiting for a free permit."""

    def __init__(self, account: str) -> None:
        self._account = account

    def __call__(self) -> bool:
        """Sends the hint; False when that was not possible."""
        return send_hint("deliveries.deliver", self._account)


@signals.setup_logging.connect
def _logging(**_: Any) -> None:
    configure_logging(settings)
    for name in _NAMES_ARGUMENTS:
        logging.getLogger(name).addFilter(_without_arguments)


#: Celery's loggers that write the arguments of tasks, or whole messages.
_NAMES_ARGUMENTS = ("celery.app.trace", "celery.worker.consumer.consumer")


def _without_arguments(record: logging.LogRecord) -> bool:
    """Takes out of a record what may be recipients: no pattern would know an `identity` from other words."""
    vars(record).pop("data", None)
    if "message body" in str(record.msg) or "body:" in str(record.msg):
        record.msg, record.args = "a message that is no task of Volley was dropped; it is not shown", ()
    if isinstance(record.args, tuple):
        # The repr of a request holds the task's arguments; its id and name do not.
        record.args = tuple(str(each) if isinstance(each, Request) else each for each in record.args)
    return True


@signals.celeryd_init.connect
def _worker_starts(**_: Any) -> None:
    start_sentry(settings)
    _prepare_data()


def _prepare_data() -> None:
    """Before a worker begins: data of the layout before is carried over, and a worker that is too old for the
    data (or too new) ends. Waits for Redis, as nobody else does this.
    """
    told = False
    while True:
        stores = _stores()
        try:
            carry_over(connect(settings.redis_address()), list(settings.accounts))
            for store in stores:
                store.schema.check()
        except LayoutError as error:
            raise SystemExit(f"volley: {error}") from None
        except RedisError:
            if not told:
                log.warning("Redis does not answer yet: the worker begins when it does")
            told = True
            time.sleep(1)
        else:
            return
        finally:
            for store in stores:
                store.close()


@signals.beat_init.connect
def _beat_starts(**_: Any) -> None:
    start_sentry(settings)


@signals.worker_ready.connect
def _worker_is_ready(**_: Any) -> None:
    """A starting worker seeds the hints that may have been lost while none ran; from now on it is watched."""
    _send_hints()
    if settings.idle_exit_seconds:
        watched = Worker(
            begun=lambda: int(state.all_total_count[0]),
            busy=lambda: len(state.active_requests) > 0,
            stopping=stopping,
            hint=lambda: send_hint("scheduled.sweep") and _send_hints(),
            stop=_stop_as_failed,
            kill=_end_at_once,
        )
        Watchdog(watched, _stores, settings.idle_exit_seconds).start()


def _send_hints() -> bool:
    """Hints of all accounts; False: not all could be sent."""
    tasks = ("triggers.accept",) * settings.accept_tasks + ("deliveries.deliver",)
    sent = [send_hint(task, account) for account in settings.accounts for task in tasks]
    return all(sent)


def _stores() -> list[Store]:
    """Connections of the watchdog's own: engines are made where tasks run, which may be after a fork."""
    return [open_store(settings, account) for account in settings.accounts]


def _stop_as_failed() -> None:
    """Ends this worker as SIGTERM does, but with exit code 1: it is to be started again."""
    _stopping[0] = 1
    state.should_stop = 1  # type: ignore[assignment]  # the stubs know only what it is at first


def _end_at_once() -> None:
    for child in active_children():
        child.terminate()
    os._exit(1)


@signals.worker_shutting_down.connect
def _worker_stops(**_: Any) -> None:
    _stopping[0] = 1
