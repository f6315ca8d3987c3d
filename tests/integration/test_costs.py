"""What a thousand deliveries cost, counted and never timed: round trips, commands, bytes, calls.

The bounds lie a tenth above what is needed today. A change that makes them fail has made every delivery more
expensive: it needs a reason, or another way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import orjson
import pytest
from redis.connection import AbstractConnection

from config.settings import load
from worker.clevertap.client import Client
from worker.clevertap.sandbox import Sandbox
from worker.core.model import Status
from worker.engine import Engine
from worker.store import Store, open_store
from worker.store.connection import connect

THOUSAND = 1000


@dataclass(frozen=True)
class Cost:
    round_trips: int
    commands: int  #: those inside scripts too
    bytes_in: int
    bytes_out: int

    def beyond(self, bound: Cost) -> list[str]:
        """What costs more than it may."""
        mine, most = asdict(self), asdict(bound)
        return [f"{name}: {mine[name]}, at most {most[name]}" for name in mine if mine[name] > most[name]]


class Meter:
    """An engine, and what it costs the server."""

    def __init__(self, redis_url: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = load(
            {
                "VOLLEY_REDIS_URL": redis_url,
                "VOLLEY_BASE_URL": sandbox.url,
                "VOLLEY_ACCOUNT_ID": "account",
                "VOLLEY_PASSCODE": "passcode-1",
                "VOLLEY_TOKEN": "token-1",
            }
        )
        self.raw: Any = connect(redis_url)
        self.store: Store = open_store(settings, "default")
        self.http = Client(connections=4)
        self.engine = Engine(settings, settings.account(), self.store, self.http)
        self.store.intake.open()
        self.sent = 0
        send: Any = AbstractConnection.send_packed_command

        def counted(connection: Any, *args: Any, **keys: Any) -> Any:
            self.sent += 1
            return send(connection, *args, **keys)

        monkeypatch.setattr(AbstractConnection, "send_packed_command", counted)

    def append(self, *triggers: dict[str, Any]) -> None:
        pipe = self.raw.pipeline(transaction=False)
        for each in triggers:
            pipe.xadd(self.store.intake.stream, {"trigger": orjson.dumps(each)})
        pipe.execute()

    def accept(self) -> None:
        while self.store.status().intake:
            self.engine.wait_and_accept(0.001, lambda: False)

    def deliver(self) -> None:
        self.engine.deliver(60, lambda: False)

    def cost(self, action: Any) -> Cost:
        before, sent = self.raw.info("stats"), self.sent
        action()
        sent = self.sent - sent
        after = self.raw.info("stats")
        names = ("total_commands_processed", "total_net_input_bytes", "total_net_output_bytes")
        return Cost(sent, *(after[name] - before[name] for name in names))


@pytest.fixture
def meter(redis_url: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Meter]:
    made = Meter(redis_url, sandbox, monkeypatch)
    # Scripts and connections are there, as in a worker that has been running.
    made.append(trigger(["warm"], "warm"))
    made.accept()
    made.deliver()
    assert made.store.status().total(Status.ACCEPTED) == 1
    yield made
    made.http.close()
    made.store.close()
    made.raw.close()


def trigger(people: list[str], name: str = "A") -> dict[str, Any]:
    return {"to": {"identity": people}, "campaign_id": "65", "ExternalTrigger": {"Name": name}}


def people(count: int = THOUSAND) -> list[str]:
    return [f"user-{i:06}" for i in range(count)]


def calls(sandbox: Sandbox) -> int:
    return sandbox.ledger.totals().requests


def test_a_thousand_single_triggers_are_accepted_in_few_round_trips_and_commands(meter: Meter) -> None:
    meter.append(*(trigger([one]) for one in people()))
    cost = meter.cost(meter.accept)
    assert meter.store.status().total(Status.PENDING) == THOUSAND
    assert cost.beyond(Cost(13, 1_320, 107_000, 134_000)) == []


def test_a_thousand_recipients_of_one_trigger_are_accepted_in_few_round_trips_and_commands(
    meter: Meter,
) -> None:
    meter.append(trigger(people()))
    cost = meter.cost(meter.accept)
    assert meter.store.status().total(Status.PENDING) == THOUSAND
    assert cost.beyond(Cost(14, 930, 74_000, 22_000)) == []


def test_a_thousand_waiting_deliveries_of_one_content_leave_in_one_call(
    meter: Meter, sandbox: Sandbox
) -> None:
    meter.append(*(trigger([one]) for one in people()))
    meter.accept()
    before = calls(sandbox)
    cost = meter.cost(meter.deliver)
    assert meter.store.status().total(Status.ACCEPTED) == THOUSAND + 1
    assert calls(sandbox) - before == 1
    assert cost.beyond(Cost(8, 135, 1_400, 55_000)) == []


def test_a_delivery_of_a_content_of_its_own_costs_one_call_and_few_round_trips(
    meter: Meter, sandbox: Sandbox
) -> None:
    meter.append(*(trigger([one], one) for one in people(50)))
    meter.accept()
    before = calls(sandbox)
    cost = meter.cost(meter.deliver)
    assert calls(sandbox) - before == 50
    assert cost.beyond(Cost(4 * 50 + 6, 6_150, 40_000, 52_000)) == []
