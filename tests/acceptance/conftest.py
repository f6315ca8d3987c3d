"""A whole installation on this machine: a server of its own, the sandbox, real workers and a real beat.

Whatever a test starts with it has ended after the test, by its process id, however the test went.
"""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from config.settings import load
from worker.clevertap.sandbox import Fault, Sandbox
from worker.core.model import LIVE, Status
from worker.store import Store, open_store
from worker.store.connection import connect
from worker.store.embedded import EmbeddedServer
from worker.store.outcomes import Filter, Outcome

if TYPE_CHECKING:
    from tests.conftest import Eventually, Process, Processes

ACCOUNT_ID = "TEST-ACCOUNT"
PASSCODE = "passcode-f2c91b"
TOKEN = "token-8d07ae"
STREAM = "volley:{default}:intake"
CAMPAIGN = 1709550110

#: Any end of a delivery.
ENDED = frozenset(Status) - LIVE


def trigger(*emails: str, campaign: object = str(CAMPAIGN), **keys: object) -> dict[str, Any]:
    """A trigger as a producer writes it; `keys` may replace its parts or add optional ones."""
    return {
        "to": {"email": list(emails)},
        "campaign_id": campaign,
        "ExternalTrigger": {"Name": "everybody"},
        **keys,
    }


class Stack:
    """Starts the parts, appends as producers do, and compares outcomes with the sandbox's ledger."""

    trigger = staticmethod(trigger)

    def __init__(
        self, server: EmbeddedServer, sandbox: Sandbox, processes: Processes, eventually: Eventually
    ) -> None:
        self.server = server
        self.sandbox = sandbox
        self.processes = processes
        self.eventually = eventually
        #: Settings of every process that is started from now on.
        self.environ: dict[str, str] = {
            "VOLLEY_REDIS_URL": server.url,
            "VOLLEY_ACCOUNT_ID": ACCOUNT_ID,
            "VOLLEY_PASSCODE": PASSCODE,
            "VOLLEY_TOKEN": TOKEN,
            "VOLLEY_BASE_URL": sandbox.url,
            # Long enough for a slow machine, short enough to see leases end.
            "VOLLEY_REQUEST_DEADLINE": "3",
            "VOLLEY_PERMIT_LEASE": "8",
            "VOLLEY_BACKOFF_BASE": "0.2",
            "VOLLEY_BACKOFF_CAP": "1",
        }
        self.redis = connect(server.url)
        self.store: Store = open_store(load(self.environ), "default")

    # -- processes

    def worker(self, *options: str, environ: Mapping[str, str] | None = None) -> Process:
        """Starts a worker; returns at once."""
        # Without gossip and mingle a start costs a second less; nothing of ours uses either.
        quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat")
        return self._celery("worker", *quiet, *options, environ=environ)

    def beat(self) -> Process:
        """Starts beat; returns at once."""
        return self._celery("beat")

    def _celery(self, *command: str, environ: Mapping[str, str] | None = None) -> Process:
        return self.processes.python(
            "-m", "celery", "-A", "worker.app", *command, environ={**self.environ, **(environ or {})}
        )

    def await_waiting(self, seconds: float = 30) -> None:
        """Until an accept task waits at the intake: a worker is up."""
        self.eventually(lambda: self.store.status().accept_tasks, seconds)

    def end(self, *processes: Process, seconds: float = 30) -> list[int]:
        """Ends processes as a supervisor does (SIGTERM), and returns their exit codes."""
        for process in processes:
            process.send(signal.SIGTERM)
        return [process.wait(seconds) for process in processes]

    # -- producers

    def append(self, triggers: Iterable[Mapping[str, object]]) -> list[str]:
        """XADD by a client that knows only the contract; the entry ids."""
        pipe = self.redis.pipeline(transaction=False)
        for each in triggers:
            pipe.xadd(STREAM, {"trigger": json.dumps(each)})
        return [str(entry, "ascii") for entry in pipe.execute()]

    # -- looking

    def await_requests(self, requests: int) -> None:
        """Until the sandbox has received this many requests."""
        self.sandbox.ledger.wait_for(lambda totals: totals.requests >= requests, timeout_seconds=30)

    @property
    def most_in_flight(self) -> int:
        """The most requests that were in flight at once."""
        return self.sandbox.ledger.max_in_flight(ACCOUNT_ID)

    def await_ended(self, deliveries: int, seconds: float = 60) -> None:
        """Until this many deliveries have ended, and no other one waits or is in flight."""

        def all_ended() -> bool:
            status = self.store.status()
            ended = sum(count for (_, each), count in status.counts.items() if each in ENDED)
            return ended >= deliveries and not status.live and not status.intake

        try:
            self.eventually(all_ended, seconds)
        except pytest.fail.Exception:
            pytest.fail(f"of {deliveries} not all have ended: {self.store.status()}")

    def outcomes(self, *statuses: Status) -> list[Outcome]:
        """What became of everything, the newest delivery first; of all statuses if none is named."""
        return list(self.store.outcomes.select(Filter(statuses=frozenset(statuses))))

    def tally(self) -> dict[Status, int]:
        """How many deliveries have which status."""
        return dict(Counter(outcome.status for outcome in self.outcomes()))

    def calls_in(self, fault: Fault) -> int:
        """How many calls of the ledger's newest a fault of this kind has claimed."""
        return sum(record.fault is fault.kind for record in self.sandbox.ledger.requests())

    def disagreements(self) -> list[str]:
        """Where outcomes and ledger contradict each other: nothing may be sent that is not said to be.

        A pair (recipient x campaign) was accepted as often as outcomes say so, and once more at most for
        each unknown one.
        """
        said: Counter[tuple[str, str, str]] = Counter()
        unsure: Counter[tuple[str, str, str]] = Counter()
        for outcome in self.outcomes(Status.ACCEPTED, Status.UNKNOWN):
            pair = (str(outcome.campaign), outcome.recipient.kind.value, outcome.recipient.value)
            (said if outcome.status is Status.ACCEPTED else unsure)[pair] += 1
        sent = {
            (each.campaign, each.kind, each.recipient): each.count for each in self.sandbox.ledger.pairs()
        }
        return [
            f"{pair}: accepted {said[pair]}, unknown {unsure[pair]}, in the ledger {sent.get(pair, 0)}"
            for pair in {*said, *unsure, *sent}
            if not said[pair] <= sent.get(pair, 0) <= said[pair] + unsure[pair]
        ]


StartServer = Callable[..., EmbeddedServer]
MakeStack = Callable[..., Stack]


@pytest.fixture
def start_server(tmp_path: Path, server_binary: Path | None) -> Iterator[StartServer]:
    """`start_server(fsync="always")`: a server of the test's own, with an append-only file."""
    started: list[EmbeddedServer] = []

    def start(**options: Any) -> EmbeddedServer:
        folder = tmp_path / f"server-{len(started)}"
        started.append(EmbeddedServer(folder, ends_with_parent=True, binary=server_binary, **options))
        started[-1].start()
        return started[-1]

    try:
        yield start
    finally:
        for server in started:
            server.stop()


@pytest.fixture
def make_stack(
    # In this order: the processes end before their server, so that no log ends with its going away.
    start_server: StartServer,
    sandbox: Sandbox,
    processes: Processes,
    eventually: Eventually,
) -> Iterator[MakeStack]:
    """`make_stack(server)`: a stack on this server."""
    with ExitStack() as open_connections:

        def make(server: EmbeddedServer) -> Stack:
            made = Stack(server, sandbox, processes, eventually)
            open_connections.callback(made.redis.close)
            open_connections.callback(made.store.close)
            return made

        yield make


@pytest.fixture
def stack(make_stack: MakeStack, start_server: StartServer) -> Stack:
    """All parts on a server of the test's own; nothing of ours has been started yet."""
    return make_stack(start_server())
