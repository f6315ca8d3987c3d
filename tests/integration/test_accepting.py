"""Several chunks of one read: while the server works on one, the next one is made ready."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from config.settings import load
from worker.clevertap import wire
from worker.clevertap.client import Client
from worker.core.model import Status
from worker.engine import Engine, accepting
from worker.store import open_store
from worker.store.intake import CONSUMERS
from worker.store.outcomes import Filter

if TYPE_CHECKING:
    from redis import Redis

    from tests.conftest import Eventually

CHUNK = 3


class Run:
    """An engine whose chunks are of three deliveries."""

    def __init__(self, redis_url: str, client: Redis, **more: str) -> None:
        settings = load(
            {
                "VOLLEY_REDIS_URL": redis_url,
                "VOLLEY_ACCOUNT_ID": "account",
                "VOLLEY_PASSCODE": "passcode-1",
                "VOLLEY_TOKEN": "token-1",
                "VOLLEY_CHUNK": str(CHUNK),
                **more,
            }
        )
        self.raw: Any = client
        self.store = open_store(settings, "default")
        self.http = Client(connections=1)
        self.hints = 0
        self.engine = Engine(settings, settings.account(), self.store, self.http, hint=self._hint)
        self.store.intake.open()

    def _hint(self) -> bool:
        self.hints += 1
        return True

    def append(self, *names: str, recipients: int = 1) -> None:
        for name in names:
            to = [f"{name}-{i}" for i in range(recipients)]
            body = {"to": {"identity": to}, "campaign_id": "65", "ExternalTrigger": {"Name": "A"}}
            self.raw.xadd(self.store.intake.stream, {"trigger": orjson.dumps(body)})

    def pending(self) -> list[str]:
        """Who waits, in the order of the delivery numbers."""
        found = sorted(self.store.outcomes.select(Filter()), key=lambda o: o.delivery)
        assert {o.status for o in found} <= {Status.PENDING}
        return [o.recipient.value for o in found]

    def close(self) -> None:
        self.http.close()
        self.store.close()


@pytest.fixture
def run(redis_url: str, client: Redis) -> Iterator[Run]:
    made = Run(redis_url, client)
    yield made
    made.close()


def names(count: int) -> list[str]:
    return [f"u{i:02}" for i in range(count)]


def test_the_chunks_of_one_read_are_accepted_in_their_order(run: Run) -> None:
    run.append(*names(10))
    run.append("crowd", recipients=2005)
    run.append("last")
    run.engine.wait_and_accept(0.01, lambda: False)
    crowd = [f"crowd-{i}" for i in range(2005)]
    assert run.pending() == [*(f"{name}-0" for name in names(10)), *crowd, "last-0"]
    assert run.store.status().intake == 0
    assert run.hints == 3, "for each full call, and for the rest"


def test_whoever_stops_finishes_the_chunk_under_way_and_gives_the_rest_back(run: Run) -> None:
    run.append(*names(10))
    asked = iter([False, True])
    run.engine.wait_and_accept(0.01, lambda: next(asked, True))
    assert run.pending() == [f"{name}-0" for name in names(CHUNK)]
    assert run.hints == 1
    run.engine.wait_and_accept(0.01, lambda: False)
    assert run.pending() == [f"{name}-0" for name in names(10)]
    assert run.store.status().intake == 0


def test_what_was_read_ahead_is_given_back_when_the_worker_stops(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "READ_MOST", CHUNK)
    run.append(*names(4 * CHUNK))
    asked = iter([False, False, True])
    run.engine.wait_and_accept(60, lambda: next(asked, True))
    assert run.pending() == [f"{name}-0" for name in names(2 * CHUNK)]
    assert run.raw.xpending(run.store.intake.stream, CONSUMERS)["pending"] == CHUNK
    run.engine.wait_and_accept(0.01, lambda: False)
    assert sorted(run.pending()) == [f"{name}-0" for name in names(4 * CHUNK)]
    assert run.store.status().intake == 0


def test_nothing_is_read_ahead_past_the_bound_of_the_backlog(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "READ_MOST", CHUNK)
    run.append(*names(4 * CHUNK))
    monkeypatch.setattr(run.store.intake, "backlog_reached", iter([False, False, True]).__next__)
    asked = iter([False, False, True])
    run.engine.wait_and_accept(60, lambda: next(asked, True))
    assert run.pending() == [f"{name}-0" for name in names(2 * CHUNK)]
    assert run.raw.xpending(run.store.intake.stream, CONSUMERS)["pending"] == 0


@pytest.mark.parametrize("at", [0, 2, 4, 9])
def test_a_failure_while_a_chunk_is_under_way_loses_and_doubles_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    real = wire.parse
    poison = names(10)[at]

    def parse(raw: bytes, *, max_bytes: int) -> Any:
        if poison.encode() in raw:
            raise RuntimeError("a bug")
        return real(raw, max_bytes=max_bytes)

    monkeypatch.setattr(wire, "parse", parse)
    run.append(*names(10))
    run.engine.wait_and_accept(0.01, lambda: False)
    (dead,) = run.store.intake.dead_letters()
    assert poison.encode() in dead.trigger
    assert sorted(run.pending()) == [f"{name}-0" for name in names(10) if name != poison]
    assert run.store.status().intake == 0
    assert run.hints


def test_redis_that_goes_away_while_a_chunk_is_under_way_is_told_and_the_work_is_done_later(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from redis.exceptions import ConnectionError as AwayError

    real = wire.parse

    def parse(raw: bytes, *, max_bytes: int) -> Any:
        if b"u04" in raw:
            raise AwayError
        return real(raw, max_bytes=max_bytes)

    run.append(*names(10))
    with monkeypatch.context() as patch:
        patch.setattr(wire, "parse", parse)
        with pytest.raises(AwayError):
            run.engine.wait_and_accept(0.01, lambda: False)
    assert run.hints, "what the chunk under way filed would wait for the next sweep"
    # Its reader is gone: after their time the entries are somebody else's.
    left = [
        entry["message_id"]
        for entry in run.raw.xpending_range(run.store.intake.stream, "volley", "-", "+", 99)
    ]
    if left:
        run.raw.xclaim(run.store.intake.stream, "volley", "gone", 0, left, idle=3_600_000)
    run.engine.wait_and_accept(0.01, lambda: False)
    assert sorted(run.pending()) == [f"{name}-0" for name in names(10)]


def test_as_many_accept_tasks_as_are_wanted_share_an_intake(
    redis_url: str, client: Redis, eventually: Eventually
) -> None:
    run = Run(redis_url, client, VOLLEY_ACCEPT_TASKS="2")
    try:
        run.append(*names(200))
        done = threading.Event()
        with ThreadPoolExecutor(2) as pool:
            both = [pool.submit(run.engine.wait_and_accept, 60, done.is_set) for _ in range(2)]
            eventually(lambda: run.store.permits.seated() == 2)
            assert not run.engine.wait_and_accept(0.01, lambda: False)
            eventually(lambda: len(run.pending()) == 200)
            done.set()
            assert [task.result() for task in both] == [True, True]
        assert sorted(run.pending()) == sorted(f"{name}-0" for name in names(200))
        assert run.store.status().intake == 0
    finally:
        run.close()
