"""Triggers on their way in: the task that producers call, and the task that waits at the intake."""

from __future__ import annotations

import json
import logging
import time
from typing import Any, NoReturn

import orjson
from celery import Task
from celery.exceptions import Reject

from config.settings import DEFAULT_ACCOUNT
from worker.app import app, engine, send_hint, settings, stopping
from worker.store import AWAY, FullError, LayoutError, OutOfMemoryError, RedisError

log = logging.getLogger("volley")

#: How long one accept task waits at the intake before it makes room for others, seconds.
ACCEPT_SECONDS = 10.0
#: The same for a worker of one or two slots.
ACCEPT_ALONE_SECONDS = 0.1
#: Between two tries to append while Redis is away, seconds.
AWAY_PAUSE_SECONDS = 0.5
#: How long a message is kept that is not taken now, before it goes back to the broker, seconds.
OUTSIDE_PAUSE_SECONDS = 1.0
#: Between two lines of the log that say so, seconds.
TOLD_SECONDS = 60.0


# A child of a prefork pool that dies gives its message back too: it is the only copy of its triggers.
@app.task(name="triggers.enqueue", bind=True, acks_late=True, reject_on_worker_lost=True)
def enqueue(self: Task[Any, Any], triggers: Any, account: str = DEFAULT_ACCOUNT) -> None:
    """Appends one trigger (an object) or a list of them to an account's intake stream.

    Run again with the same task id it appends nothing: the id is the nonce of the append. While Redis is away
    it waits, as the message is the only copy of its triggers; a worker that is told to stop gives it back.
    While the account or Redis is full, or Redis refuses for a reason that only a person can remove, the
    message goes back to the broker, again and again: it waits there.
    """
    items = triggers if isinstance(triggers, list) else [triggers]
    appended = [_as_sent(item) for item in items]
    if account not in settings.accounts:
        for item in appended:
            engine(next(iter(settings.accounts))).bury(item, "account", "there is no account of this name")
        return
    while True:
        try:
            engine(account).enqueue(appended, nonce=str(self.request.id))
        except (FullError, OutOfMemoryError, LayoutError) as full:
            # Not in here until there is room: the tasks that make room need this place.
            _wait_outside(account, full, str(full) if isinstance(full, FullError) else _refusal(full))
        except AWAY as away:
            # Not Celery's own retry: where the broker is that same Redis, it loses what it cannot send.
            if stopping():
                raise Reject(requeue=True) from away
            time.sleep(AWAY_PAUSE_SECONDS)
        except RedisError as refused:  # no permission, for example
            _wait_outside(account, refused, _refusal(refused))
        else:
            return


def _wait_outside(account: str, error: Exception, why: str) -> NoReturn:
    """Gives the message back to the broker, after a pause."""
    _tell(account, why)
    end = time.monotonic() + OUTSIDE_PAUSE_SECONDS
    while not stopping() and time.monotonic() < end:
        time.sleep(0.1)
    raise Reject(requeue=True) from error


def _refusal(error: RedisError) -> str:
    """What Redis refuses by: one word, since its sentences may repeat what was sent."""
    return f"Redis refuses appends ({type(error).__name__})"


_told: dict[str, float] = {}


def _tell(account: str, why: str) -> None:
    """Says that messages wait, now and then."""
    now = time.monotonic()
    if now - _told.get(account, -TOLD_SECONDS) >= TOLD_SECONDS:
        _told[account] = now
        log.warning("account %s: %s; messages of triggers.enqueue wait at the broker", account, why)


def _is_news(record: logging.LogRecord) -> bool:
    """Celery tells each message that goes back, with a traceback: once a second for each of them."""
    return not (record.exc_info and isinstance(record.exc_info[1], Reject))


logging.getLogger("celery.app.trace").addFilter(_is_news)


def _as_sent(item: Any) -> bytes:
    """An item as JSON again, whatever JSON can hold: one that is no trigger becomes a dead letter."""
    try:
        return orjson.dumps(item, default=str)
    except TypeError:  # an integer of more than 64 bits, half of a surrogate pair
        return json.dumps(item, default=str).encode()


@app.task(name="triggers.accept", throws=AWAY)
def accept(account: str = DEFAULT_ACCOUNT) -> None:
    """Waits at the intake and accepts what comes, then sends its own hint again."""
    # Where tasks run one at a time, the others have to get their turn between two short waits.
    seconds = ACCEPT_SECONDS if settings.concurrency > 2 else ACCEPT_ALONE_SECONDS
    if engine(account).wait_and_accept(seconds, stopping) and not stopping():
        send_hint("triggers.accept", account)
