"""Triggers that wait while Redis is full (maxmemory, noeviction) are good ones, and are accepted later."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import orjson
import pytest
from redis.exceptions import RedisError

from config.settings import load
from worker.clevertap.client import Client
from worker.engine import Engine
from worker.store import Store, open_store
from worker.store.connection import connect

ROOT = "volley:{default}:"


class Full:
    """An account with ten triggers in its intake, on a server that has no room left."""

    def __init__(self, redis_url: str, http: Client) -> None:
        settings = load(
            {
                "VOLLEY_REDIS_URL": redis_url,
                "VOLLEY_BASE_URL": "http://127.0.0.1:9",
                "VOLLEY_ACCOUNT_ID": "account",
                "VOLLEY_PASSCODE": "passcode-1",
                "VOLLEY_TOKEN": "token-1",
            }
        )
        self.raw: Any = connect(redis_url)
        self.store: Store = open_store(settings, "default")
        self.engine = Engine(settings, settings.account(), self.store, http)
        self.store.intake.open()
        bodies = [
            {"to": {"identity": [f"u{i}"]}, "campaign_id_list": [65], "ExternalTrigger": {}}
            for i in range(10)
        ]
        self.engine.enqueue([orjson.dumps(body) for body in bodies], nonce="once")
        # So that the scripts are known to the server when it is full.
        self.store.deliveries.accept([], [], 3)
        self.raw.config_set("maxmemory", 1)

    def room(self) -> None:
        self.raw.config_set("maxmemory", 0)

    def accept(self) -> None:
        """What one accept task does, and its death: what it had read is taken over at once."""
        with suppress(RedisError):
            self.engine.wait_and_accept(0.01, lambda: False)
        for entry in self.raw.xpending_range(f"{ROOT}intake", "volley", "-", "+", 100):
            self.raw.xclaim(f"{ROOT}intake", "volley", "gone", 0, [entry["message_id"]], idle=3_600_000)

    def close(self) -> None:
        self.room()
        self.store.close()
        self.raw.close()


@pytest.fixture
def full(redis_url: str) -> Iterator[Full]:
    with Client(connections=1) as http:
        made = Full(redis_url, http)
        try:
            yield made
        finally:
            made.close()


@contextmanager
def _at_each_log_line(act: Callable[[], None]) -> Iterator[None]:
    """Does something at the moments that the log speaks of: here, between two commands."""

    class Acting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            act()

    handler = Acting()
    logging.getLogger("volley").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("volley").removeHandler(handler)


def test_triggers_that_wait_while_the_server_is_full_are_accepted_when_it_has_room(full: Full) -> None:
    for _ in range(6):
        full.accept()
    assert full.store.status().intake == 10
    full.room()
    for _ in range(2):
        full.accept()
    status = full.store.status()
    assert (status.intake, status.dead_letters, status.live) == (0, 0, 10)


def test_no_good_trigger_is_set_apart_when_room_comes_just_after_the_refusal(full: Full) -> None:
    with _at_each_log_line(full.room):
        full.accept()
    full.room()
    for _ in range(2):
        full.accept()
    status = full.store.status()
    assert (status.intake, status.dead_letters, status.live) == (0, 0, 10)
