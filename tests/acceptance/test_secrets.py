"""Credentials and recipients stay out of logs, key names and error texts, whatever goes wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from celery import Celery

from worker.clevertap.sandbox import CampaignState, Fault, FaultKind
from worker.core.model import Status

if TYPE_CHECKING:
    from tests.acceptance.conftest import Stack

EMAIL, IDENTITY, OBJECT_ID = "needle.mail@example.com", "needle-identity-5f0c", "needle-object-9ab3"
PASSCODE, TOKEN = "needle-passcode-77", "needle-token-88"
CONTENT = "needle-content-1234"
TO = {"email": [EMAIL], "identity": [IDENTITY], "objectId": [OBJECT_ID]}


@pytest.mark.parametrize(("pool", "log_format"), [("threads", "text"), ("prefork", "json")])
def test_no_secret_and_no_recipient_is_in_a_log_a_key_name_or_an_error_text(
    stack: Stack, pool: str, log_format: str
) -> None:
    stack.environ |= {
        "VOLLEY_PASSCODE": PASSCODE,
        "VOLLEY_TOKEN": TOKEN,
        "VOLLEY_LOG_LEVEL": "debug",
        "VOLLEY_LOG_FORMAT": log_format,
        "VOLLEY_POOL": pool,
        "VOLLEY_REQUEST_DEADLINE": "1",
        "VOLLEY_PERMIT_LEASE": "6",
        "VOLLEY_MAX_ATTEMPTS": "2",
    }
    echo = f"Invalid recipient {EMAIL} [{EMAIL}], passcode {PASSCODE} token {TOKEN}"
    body = json.dumps({"status": "fail", "error": echo, "code": 400})
    faults = [
        Fault(kind=FaultKind.ANSWER, status=400, campaign="61", body=body),
        Fault(kind=FaultKind.ANSWER, status=200, campaign="62", body=body),
        Fault(kind=FaultKind.ANSWER, status=503, campaign="63", body=echo),
        Fault(kind=FaultKind.HANG, campaign="64"),
        Fault(kind=FaultKind.CUT, campaign="65"),
        Fault(kind=FaultKind.ANSWER, status=200, campaign="66", body=echo),
    ]
    for fault in faults:
        stack.sandbox.add_fault(fault)
    stack.sandbox.change(campaigns={"67": CampaignState.STOPPED})
    worker, beat = stack.worker("-l", "debug"), stack.beat()
    stack.await_waiting()

    campaigns = [*range(60, 67), [60, 67]]
    with Celery(broker=stack.server.url, set_as_current=False) as foreign:

        def send(task: str, *args: object, **kwargs: object) -> None:
            foreign.send_task(task, args=args, kwargs=kwargs, queue="volley.enqueue")

        for n, campaign in enumerate(campaigns):
            each = stack.trigger(to=TO, campaign=campaign, ExternalTrigger={"Name": f"{CONTENT} {n}"})
            if n % 2:
                stack.append([each])
            else:
                send("triggers.enqueue", each)
        wrong = {"to": IDENTITY, "campaign_id": OBJECT_ID, "ExternalTrigger": [CONTENT], "id": EMAIL}
        stack.append([wrong, {EMAIL: IDENTITY}, stack.trigger(to={IDENTITY: [EMAIL]})])
        # Calls that are wrong in themselves: Celery reports them in its own words.
        send("trigger.enqueue", wrong)
        send("triggers.enqueue", wrong, "no-such-account", IDENTITY)
        send("triggers.enqueue", triggers=wrong, account=IDENTITY)
        send("deliveries.deliver", IDENTITY)
    stack.redis.lpush("volley.enqueue", json.dumps({"body": IDENTITY, "headers": {}, "properties": {}}))
    stack.await_ended(27)
    stack.eventually(lambda: stack.store.status().dead_letters == 3)
    stack.eventually(lambda: "KeyError" in worker.output)
    # A crash brings tracebacks.
    stack.server.kill()
    stack.eventually(lambda: "Connection to broker lost" in worker.output)
    stack.server.start()
    stack.append([stack.trigger(to=TO, campaign=68)])
    stack.await_ended(30)
    assert stack.end(worker, beat) == [0, 0]

    needles = (EMAIL, IDENTITY, OBJECT_ID, PASSCODE, TOKEN, CONTENT)
    texts = {
        "worker's log": worker.output,
        "beat's log": beat.output,
        "key names": "\n".join(key.decode(errors="replace") for key in stack.redis.scan_iter(count=1000)),
        "outcomes' texts": "\n".join(outcome.text for outcome in stack.outcomes()),
        "outcomes' repr": repr([outcome.row for outcome in stack.outcomes()]),
        "dead letters' reasons": "\n".join(f"{d.where} {d.reason}" for d in stack.store.intake.dead_letters()),
    }
    found = [
        f"{needle} in the {name}: …{text[max(0, at - 150) : at + 150]}…"
        for name, text in texts.items()
        for needle in needles
        if (at := text.find(needle)) >= 0
    ]
    assert not found, "\n".join(found)
    # Everything above did happen.
    assert {Status.ACCEPTED, Status.REJECTED, Status.FAILED, Status.UNKNOWN} == set(stack.tally())
    assert "attempt batch=" in worker.output
    assert "dead letter" in worker.output
