"""Redis does as it was asked, and its reply is lost: whichever one it is, nothing is lost or sent twice."""

from __future__ import annotations

import importlib.util
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from config.settings import load
from worker.clevertap.client import Client
from worker.clevertap.sandbox import Sandbox
from worker.core.model import Status
from worker.engine import Engine
from worker.store import Store, open_store
from worker.store.connection import connect
from worker.store.outcomes import Filter

ROOT = "volley:{default}:"
#: More replies than one run of the story below takes.
ENOUGH = 200


class LossyWire:
    """Stands between a client and Redis, and swallows one reply together with its connection."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._lose = 0
        self.replies = 0
        self.lost = False
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def lose(self, number: int) -> None:
        """Swallows the reply of this number, counted from 1 and from now; 0 is none."""
        with self._lock:
            self._lose, self.replies, self.lost = number, 0, False

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            left = list(self._open)
        for end in left:
            _hang_up(end)

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._upstream))
                with self._lock:
                    self._open += [client, server]
                for source, sink, counted in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._pump, args=(source, sink, counted), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 20):
                if counted and self._is_to_be_lost():
                    break
                sink.sendall(data)
        _hang_up(source)
        _hang_up(sink)

    def _is_to_be_lost(self) -> bool:
        with self._lock:
            self.replies += 1
            if self.replies == self._lose:
                self.lost = True
                return True
            return False


def _hang_up(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@contextmanager
def _wire(redis_url: str) -> Iterator[LossyWire]:
    wire = LossyWire(int(redis_url.rpartition(":")[2].partition("/")[0]))
    try:
        yield wire
    finally:
        wire.close()


def _audit(client: Any) -> None:
    """The store tests' recount of everything. Test folders are no packages, so it is loaded by its path."""
    path = Path(__file__).resolve().parent / "store" / "conftest.py"
    spec = importlib.util.spec_from_file_location("store_ground", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.audit(client, ROOT)


class Story:
    """Three triggers on their way: four people, two campaigns, two contents, one duplicate."""

    def __init__(self, direct: Any, wire: LossyWire, sandbox: Sandbox, http: Client) -> None:
        self.direct, self.wire, self.sandbox = direct, wire, sandbox
        direct.flushall()
        sandbox.reset()
        settings = load(
            {
                "VOLLEY_REDIS_URL": wire.url,
                "VOLLEY_BASE_URL": sandbox.url,
                "VOLLEY_ACCOUNT_ID": "account",
                "VOLLEY_PASSCODE": "passcode-1",
                "VOLLEY_TOKEN": "token-1",
            }
        )
        self.hints = 0
        self.store: Store = open_store(settings, "default")
        self.engine = Engine(settings, settings.account(), self.store, http, hint=self._hint)

    def _hint(self) -> None:
        self.hints += 1

    def append(self) -> None:
        bodies = [
            {"to": {"identity": who}, "campaign_id_list": campaigns, "ExternalTrigger": {"Name": name}}
            for who, campaigns, name in (
                (["a", "b"], [65, 66], "A"),
                (["c", "d"], [66], "A"),
                (["a", "c"], [66], "B"),
                (["a"], [65], "A"),
            )
        ]
        self.engine.enqueue([orjson.dumps(body) for body in bodies], nonce="once")

    def accept(self) -> None:
        """As often as a task would, an entry whose reply was lost being taken over from its dead reader."""
        for _ in range(3):
            self.engine.wait_and_accept(0.0, lambda: False)
            for entry in self.direct.xpending_range(f"{ROOT}intake", "volley", "-", "+", 10):
                self.direct.xclaim(
                    f"{ROOT}intake", "volley", "gone", 0, [entry["message_id"]], idle=3_600_000
                )

    def let_leases_end(self) -> None:
        for name in ("flight", "permits", "splitting"):
            for member in self.direct.zrange(f"{ROOT}{name}", 0, -1):
                self.direct.zadd(f"{ROOT}{name}", {member: 1})

    def close(self) -> None:
        self.store.close()


@pytest.fixture
def http() -> Iterator[Client]:
    with Client(connections=4) as client:
        yield client


def test_no_single_lost_reply_loses_or_doubles_a_delivery(
    redis_url: str, sandbox: Sandbox, http: Client
) -> None:
    with connect(redis_url) as direct, _wire(redis_url) as wire:
        for number in range(1, ENOUGH):
            story = Story(direct, wire, sandbox, http)
            wire.lose(number)
            story.append()
            story.accept()
            story.engine.deliver(30, lambda: False)
            assert direct.zcard(f"{ROOT}permits") == 0, f"reply {number} was lost, and with it a permit"
            story.engine.sweep()
            lost = wire.lost
            wire.lose(0)
            story.let_leases_end()
            story.engine.sweep()
            story.engine.deliver(30, lambda: False)
            found = [o.status for o in story.store.outcomes.select(Filter())]
            assert found.count(Status.ACCEPTED) == 8, f"reply {number}: {found}"
            assert found.count(Status.DUPLICATE) == 1
            assert len(found) == 9
            totals = sandbox.ledger.totals()
            assert (totals.accepted, totals.duplicates) == (8, 0), f"reply {number}: sent twice"
            status = story.store.status()
            assert (status.intake, status.dead_letters, status.live) == (0, 0, 0)
            _audit(direct)
            story.close()
            if not lost:
                break
        else:
            pytest.fail("the story takes more replies than that")
        assert number > 20, "so many replies at least were lost, one by one"


def test_no_single_lost_reply_leaves_accepted_work_without_a_hint(
    redis_url: str, sandbox: Sandbox, http: Client
) -> None:
    with connect(redis_url) as direct, _wire(redis_url) as wire:
        for number in range(1, ENOUGH):
            story = Story(direct, wire, sandbox, http)
            wire.lose(number)
            story.append()
            story.accept()
            assert story.hints, f"reply {number} was lost, and with it the hint that work waits"
            lost = wire.lost
            wire.lose(0)
            story.close()
            if not lost:
                break
        assert number > 10, "so many replies at least were lost, one by one"
