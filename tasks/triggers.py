"""Triggers on their way in: the task that producers call, and the task that waits at the intake."""

from __future__ import annotations

from typing import Any

import orjson
from celery import Task

from config.settings import DEFAULT_ACCOUNT
from worker.app import app, engine, send_hint, stopping

#: How long one accept task waits at the intake before it makes room for others, seconds.
ACCEPT_SECONDS = 10.0


@app.task(name="triggers.enqueue", bind=True, acks_late=True, max_retries=None, default_retry_delay=1)
def enqueue(self: Task[Any, Any], triggers: Any, account: str = DEFAULT_ACCOUNT) -> None:
    """Appends one trigger (an object) or a list of them to an account's intake stream.

    Run again with the same task id it appends nothing: the id is the nonce of the append.
    """
    items = triggers if isinstance(triggers, list) else [triggers]
    engine(account).enqueue([orjson.dumps(item) for item in items], nonce=str(self.request.id))


@app.task(name="triggers.accept")
def accept(account: str = DEFAULT_ACCOUNT) -> None:
    """Waits at the intake and accepts what comes, then sends its own hint again."""
    if engine(account).wait_and_accept(ACCEPT_SECONDS, stopping) and not stopping():
        send_hint("triggers.accept", account)
