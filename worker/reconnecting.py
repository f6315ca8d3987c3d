"""Celery's parts that wait for a broker that is away, with a wait that does not grow.

Celery adds two seconds to each wait, up to 30: after a minute without Redis, work would rest for many seconds
more.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

from celery.beat import Scheduler as CeleryScheduler
from celery.worker.consumer import Consumer as CeleryConsumer

#: Seconds between two tries to reach the broker.
RETRY_SECONDS = 1.0


def _steadily(connection: Any) -> Any:
    """The connection; its tries to connect are RETRY_SECONDS apart."""
    connection.ensure_connection = partial(
        connection.ensure_connection,
        interval_start=RETRY_SECONDS,
        interval_step=0,
        interval_max=RETRY_SECONDS,
    )
    return connection


def closing_harmlessly(connection: Any) -> Any:
    """The connection; that it breaks once more while it is closed ends nobody.

    kombu 5.7 gives unacknowledged hints back while it closes. Where that fails a first time, because the
    server is away, it tries again on a channel that has lost its connection: an AttributeError, and the
    worker's end.
    """
    close = connection.close

    def close_harmlessly() -> None:
        with suppress(AttributeError):
            close()

    connection.close = close_harmlessly
    return connection


class Consumer(CeleryConsumer):
    """A worker's consumer."""

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Closes the broken connection and goes on to the next one."""
        closing_harmlessly(self.connection)
        super().on_connection_error_after_connected(exc)

    def ensure_connected(self, conn: Any) -> Any:
        """Connects, however long it takes."""
        return super().ensure_connected(_steadily(conn))


class Scheduler(CeleryScheduler):
    """Beat's scheduler; it keeps no file, since plain intervals need no memory of the last run."""

    def _ensure_connected(self) -> Any:
        _steadily(self.connection)
        return super()._ensure_connected()  # type: ignore[misc]  # the stubs leave it out
