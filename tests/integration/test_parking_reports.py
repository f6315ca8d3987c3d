"""What operators are called for: a parking once, an expected answer never."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from config.observability import start_sentry
from config.settings import load
from worker.clevertap.client import Client
from worker.clevertap.sandbox import CampaignState, Credentials, Fault, FaultKind, Sandbox
from worker.engine import Engine
from worker.store import Store, open_store

PASSCODE = "passcode-77f0"


class Collected(Transport):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.events += [item.payload.json for item in envelope.items if item.payload.json]


class Run:
    """An engine driven by hand, its error reports collected."""

    def __init__(self, engine: Engine, store: Store, sent: Collected) -> None:
        self.engine = engine
        self.store = store
        self.sent = sent

    def send(self, *people: str, campaigns: tuple[int, ...] = (65,), times: int = 1) -> None:
        """Accepts and sends, and goes on until nothing more happens."""
        for n in range(times):
            content = {"Name": f"{n}"}
            body = {"to": {"email": people}, "campaign_id_list": campaigns, "ExternalTrigger": content}
            self.engine.enqueue([orjson.dumps(body)], nonce=f"{people} {campaigns} {n}")
        while self.store.status().intake:
            self.engine.wait_and_accept(0.01, lambda: False)
        for _ in range(5):
            self.engine.sweep()
            self.engine.deliver(10, lambda: False)

    @property
    def messages(self) -> list[str]:
        """What was reported, as people read it."""
        return [event["logentry"].get("formatted", "") for event in self.sent.events]


@pytest.fixture
def run(redis_url: str, sandbox: Sandbox) -> Iterator[Run]:
    settings = load(
        {
            "VOLLEY_REDIS_URL": redis_url,
            "VOLLEY_BASE_URL": sandbox.url,
            "VOLLEY_ACCOUNT_ID": "account",
            "VOLLEY_PASSCODE": PASSCODE,
            "VOLLEY_TOKEN": "token-1",
            "VOLLEY_REQUEST_DEADLINE": "1",
            "VOLLEY_MAX_ATTEMPTS": "1",
            "VOLLEY_SENTRY_DSN": "http://publickey@127.0.0.1:9/1",
        }
    )
    sent = Collected()
    store = open_store(settings, "default")
    store.intake.open()
    with sentry_sdk.isolation_scope(), Client() as client:
        assert start_sentry(settings, sent)
        yield Run(Engine(settings, settings.account(), store, client), store, sent)
    sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(None)
    store.close()


def test_refused_credentials_are_reported_once_however_much_waits(run: Run, sandbox: Sandbox) -> None:
    sandbox.change(credentials={"account": Credentials("another", "token-1")})
    run.send("a@example.com", "b@example.com", times=20)
    (message,) = run.messages
    assert message.startswith("account default is parked (credentials)")
    assert "another region's" in message
    assert "example.com" not in orjson.dumps(run.sent.events).decode()
    assert PASSCODE not in orjson.dumps(run.sent.events).decode()


def test_a_stopped_campaign_is_reported_once(run: Run, sandbox: Sandbox) -> None:
    sandbox.change(campaigns={"65": CampaignState.STOPPED})
    run.send("a@example.com", campaigns=(64, 65), times=5)
    (message,) = run.messages
    assert message.startswith("campaign 65 is parked (campaign_not_ready)")


def test_an_outage_is_reported_once(run: Run, sandbox: Sandbox) -> None:
    sandbox.add_fault(Fault(kind=FaultKind.ANSWER, status=503))
    run.send("a@example.com", times=20)
    (message,) = run.messages
    assert message.startswith("account default is parked (server_error)")


def _bad_recipient(sandbox: Sandbox) -> None:
    sandbox.change(bad_recipients=frozenset({"b@example.com"}))


def _missing_campaign(sandbox: Sandbox) -> None:
    sandbox.change(campaigns={"65": CampaignState.MISSING})


def _fault(**fault: Any) -> Callable[[Sandbox], None]:
    return lambda sandbox: sandbox.add_fault(Fault(times=2, **fault))


@pytest.mark.parametrize(
    "disturb",
    [
        pytest.param(_bad_recipient, id="bad recipient"),
        pytest.param(_missing_campaign, id="missing campaign"),
        pytest.param(_fault(kind=FaultKind.ANSWER, status=429), id="429"),
        pytest.param(_fault(kind=FaultKind.ANSWER, status=503), id="503"),
        pytest.param(_fault(kind=FaultKind.ANSWER, status=409), id="409"),
        pytest.param(_fault(kind=FaultKind.ANSWER, status=422), id="422"),
        pytest.param(_fault(kind=FaultKind.ANSWER, status=200, body="<html>"), id="no JSON"),
        pytest.param(_fault(kind=FaultKind.CUT), id="cut"),
    ],
)
def test_expected_answers_are_not_reported(
    run: Run, sandbox: Sandbox, disturb: Callable[[Sandbox], None]
) -> None:
    disturb(sandbox)
    run.send("a@example.com", "b@example.com", "c@example.com", times=3)
    assert sandbox.ledger.totals().requests
    assert run.messages == []
