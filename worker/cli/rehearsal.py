"""The full dry run: the real pipeline on a private server, with a client that writes down instead of posting.

Accepting, deduplication, planning, claiming, test mode and encoding are the ones that send; only the last
step differs. Nobody is called, and no server but the private one is written to.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import orjson
from pydantic import SecretStr

from config.settings import Account, RedisAddress, Settings
from worker.clevertap import wire
from worker.clevertap.client import Door
from worker.cli.times import iso
from worker.core.answers import Answer, Answered
from worker.engine import Engine
from worker.store import Rules, Store
from worker.store.batches import Windows
from worker.store.connection import RedisClient, connect
from worker.store.embedded import EmbeddedServer
from worker.store.rehearsing import bring_forward, copy_account

#: What CleverTap says to a call that it takes whole (External Trigger API, "Response").
_TAKEN = wire.read(b'{"message": "Added to queue for processing", "status": "success"}')
#: Seconds that one round of accepting waits for more.
_ROUND_SECONDS = 0.01


@dataclass
class Bodies:
    """Writes each call as one JSON line: when, where, for which campaigns and how many, its exact body."""

    out: IO[bytes]
    at_ms: int | None = None  #: when the present calls would be made; None: at once
    calls: int = 0
    scheduled: int = 0
    recipients: int = 0
    messages: int = 0  #: recipients x campaigns
    size: int = 0  #: bytes of all bodies

    def post(self, door: Door, body: bytes, *, endpoint: wire.Endpoint, deadline_seconds: float) -> Answer:  # noqa: ARG002
        """Takes the place of the client's: the call is accepted."""
        content = orjson.loads(body)
        campaigns = content["campaign_id_list"] if endpoint == 2 else [content["campaign_id"]]
        recipients = sum(len(values) for values in content["to"].values())
        self.calls += 1
        self.scheduled += self.at_ms is not None
        self.recipients += recipients
        self.messages += recipients * len(campaigns)
        self.size += len(body)
        line = {
            "call": self.calls,
            "at": None if self.at_ms is None else iso(self.at_ms),
            "path": wire.path(endpoint),
            "campaigns": [int(campaign) for campaign in campaigns],
            "recipients": recipients,
            "body": body.decode(),
        }
        self.out.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        return Answered(200, _TAKEN, None, 0.0)


class Rehearsal:
    """A private server with one account in it; server and folder end with the block."""

    def __init__(self, settings: Settings, account: Account, bodies: Bodies) -> None:
        self._stack = ExitStack()
        self._settings = settings
        self.account = account
        self.bodies = bodies

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="volley-dry-run-")))
            server = stack.enter_context(EmbeddedServer(folder, append_only=False, ends_with_parent=True))
            url = SecretStr(server.url)
            settings = replace(self._settings, redis_url=url, broker_url=url, sentinel_master=None)
            self._client: RedisClient = stack.enter_context(connect(settings.redis_address()))
            # No rules of time and pace: they say when, and this shows what.
            self.store = Store(
                connect(settings.redis_address()),
                self.account.name,
                windows=Windows(settings.dedupe_key_window_seconds, settings.dedupe_window_seconds),
                retention_ms=settings.retention_seconds * 1000,
                rules=Rules(
                    permits=self.account.max_in_flight,
                    reserve=self.account.reserve,
                    aging_ms=settings.aging_seconds * 1000,
                ),
            )
            stack.callback(self.store.close)
            self._engine = Engine(settings, self.account, self.store, self.bodies)
            self.store.intake.open()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def copy(self, source: RedisAddress) -> None:
        """Takes over what waits in the account there, which is only read. What is held is let go here."""
        with connect(source) as client:
            copy_account(client, self._client, self.account.name)
        self.store.intake.open()
        self.store.control.let_strays_go(self.store.outcomes)

    def run(self, progress: Callable[[], None] = lambda: None) -> None:
        """Accepts all, "sends" what is due, and then what is scheduled or retried, each at its time."""
        while self.store.status().intake:
            self._engine.wait_and_accept(_ROUND_SECONDS, _never)
            progress()
        self._deliver()
        while (slot := bring_forward(self._client, self.account.name)) is not None:
            self.bodies.at_ms = slot if slot > self.store.deliveries.now_ms() else None
            more = True
            while more:
                _, more = self.store.deliveries.promote()
            self._deliver()
            progress()

    def dead_letters(self) -> Counter[tuple[str, str]]:
        """How many triggers could not be understood, by where and why."""
        found: Counter[tuple[str, str]] = Counter()
        start = "-"
        while page := list(self.store.intake.dead_letters(start)):
            found.update((letter.where, letter.reason) for letter in page)
            start = f"({page[-1].id}"
        return found

    def _deliver(self) -> None:
        self._engine.deliver(3600, _never)


def _never() -> bool:
    return False
