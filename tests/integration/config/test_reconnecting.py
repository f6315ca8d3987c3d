"""Celery's own parts, when their connection to the broker breaks."""

from __future__ import annotations

from typing import Any

import pytest
from kombu import Connection

from worker.reconnecting import RETRY_SECONDS, Consumer, Scheduler, closing_harmlessly


def broken(redis_url: str) -> Any:
    """A connection with an unacknowledged message whose first close has failed half-way."""
    connection: Any = Connection(redis_url)
    queue = connection.SimpleQueue("hints")
    queue.put("hint")
    queue.get(timeout=10)
    connection.default_channel.qos.append(queue.channel.qos._delivered.popitem()[1], 1)
    connection._do_close_transport()
    return connection


def test_a_connection_that_breaks_while_it_is_closed_does_not_end_the_worker(redis_url: str) -> None:
    with pytest.raises(AttributeError):
        broken(redis_url).close()
    closing_harmlessly(broken(redis_url)).close()


class Refusing:
    """A broker's connection that notes how it is tried."""

    def __init__(self) -> None:
        self.tried: dict[str, object] = {}

    def ensure_connection(self, *_: object, **options: object) -> Any:
        self.tried = options
        return self


def test_worker_and_beat_try_a_broker_that_is_away_every_second() -> None:
    from types import SimpleNamespace

    conf = SimpleNamespace(broker_connection_max_retries=None, broker_connection_retry_on_startup=True)
    refusing = Refusing()
    consumer: Any = object.__new__(Consumer)
    consumer.app, consumer.first_connection_attempt = SimpleNamespace(conf=conf), True
    consumer.ensure_connected(refusing)
    expected = {"interval_start": RETRY_SECONDS, "interval_step": 0, "interval_max": RETRY_SECONDS}
    assert refusing.tried.items() >= expected.items()
    scheduler: Any = object.__new__(Scheduler)
    scheduler.__dict__.update(app=SimpleNamespace(conf=conf), connection=(other := Refusing()))
    scheduler._ensure_connected()
    assert other.tried.items() >= expected.items()
