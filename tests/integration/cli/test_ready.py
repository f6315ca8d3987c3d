"""`volley ready` on a real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from redis import Redis

from config.settings import Settings
from worker.clevertap.client import Client
from worker.engine import Engine
from worker.store import Store

if TYPE_CHECKING:
    from tests.integration.cli.conftest import Volley

TRIGGER = b'{"to":{"email":["a@example.com"]},"campaign_id":"7","ExternalTrigger":{"Name":"A"}}'
ROOT = "volley:{default}:"


@pytest.fixture
def engine(settings: Settings, store: Store) -> Iterator[Engine]:
    with Client() as http:
        yield Engine(settings, settings.account(), store, http)


def test_ready_tells_by_its_exit_code_whether_work_moves(
    volley: Volley, engine: Engine, client: Redis
) -> None:
    ran = volley("ready")
    assert (ran.code, ran.out) == (1, "default: No sweep has ever run: there is no worker, or no beat.\n")
    engine.sweep()
    assert volley("ready").code == 0
    engine.enqueue([TRIGGER], nonce="n")
    engine.wait_and_accept(0.01, lambda: False)
    assert volley("ready").code == 0, "work that has just come due is not late"

    # As if it had been accepted a while ago, and nothing had moved since.
    for segment in client.zrange(f"{ROOT}segments", 0, -1):
        assert isinstance(segment, bytes)
        client.zincrby(f"{ROOT}segments", -100_000, segment)
    for group in client.keys(f"{ROOT}group:*"):
        client.hincrby(group, "lane:7", -100_000)
    assert volley("ready", "--json").objects[0]["ready"] is False
    assert "Due work has waited" in volley("ready").out
    assert volley("ready", "--within", "1000").code == 0
    # What an operator holds back does not wait for a worker.
    assert volley("pause", "--all", "--yes").code == 0
    assert volley("ready").code == 0
    assert volley("resume", "--all", "--yes").code == 0
    engine.deliver(10, lambda: False)
    assert volley("ready").code == 0


def test_a_trigger_that_nobody_accepts_is_named(volley: Volley, engine: Engine, client: Redis) -> None:
    engine.sweep()
    client.xadd(f"{ROOT}intake", {"trigger": TRIGGER}, id="1000-0")
    ran = volley("ready")
    assert (ran.code, "to be accepted" in ran.out) == (1, True)
