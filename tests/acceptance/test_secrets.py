"""Credentials and recipients stay out of logs, key names and error texts, whatever goes wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from celery import Celery

from worker.clevertap.sandbox import Fault, FaultKind
from worker.core.model import Status

if TYPE_CHECKING:
    from tests.acceptance.conftest import Stack

#: Every value that may appear nowhere holds this word.
NEEDLE = "needle"
PASSCODE, TOKEN = f"{NEEDLE}-passcode-77", f"{NEEDLE}-token-88"


def people(campaign: object) -> dict[str, list[str]]:
    """Recipients of every kind, other ones for each campaign."""
    return {
        "email": [f"{NEEDLE}.{campaign}@example.com"],
        "identity": [f"{NEEDLE}-identity-{campaign}"],
        "objectId": [f"{NEEDLE}-object-{campaign}"],
    }


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
    # The vendor may repeat what it was sent. Only addresses have a form by which they can be known.
    echo = f"Invalid recipients: {NEEDLE}.61@example.com [{NEEDLE}.62@example.com] x={NEEDLE}@example.com"
    body = json.dumps({"status": "fail", "error": echo, "code": 400})
    faults = [
        Fault(kind=FaultKind.ANSWER, status=400, campaign="61", body=body),
        Fault(kind=FaultKind.ANSWER, status=200, campaign="62", body=body),
        Fault(kind=FaultKind.ANSWER, status=503, campaign="63", body=echo, times=1),
        Fault(kind=FaultKind.HANG, campaign="64", times=1),
        Fault(kind=FaultKind.CUT, campaign="65", times=1),
        Fault(kind=FaultKind.ANSWER, status=200, campaign="66", body=echo, times=1),
    ]
    for fault in faults:
        stack.sandbox.add_fault(fault)
    worker, beat = stack.worker("-l", "debug"), stack.beat()
    stack.await_waiting()

    with Celery(broker=stack.server.url, set_as_current=False) as foreign:

        def send(task: str, *args: object, **kwargs: object) -> None:
            foreign.send_task(task, args=args, kwargs=kwargs, queue="volley.enqueue")

        for campaign in range(60, 68):
            content = {"Name": f"{NEEDLE}-content-{campaign}"}
            each = stack.trigger(to=people(campaign), campaign=campaign, ExternalTrigger=content)
            if campaign % 2:
                stack.append([each])
            else:
                send("triggers.enqueue", each)
        wrong = {"to": NEEDLE, "campaign_id": NEEDLE, "ExternalTrigger": [NEEDLE], "id": NEEDLE}
        stack.append([wrong, stack.trigger(to={"identity": NEEDLE}), stack.trigger(send_at=NEEDLE)])
        # Calls that are wrong in themselves: Celery reports them in its own words.
        send("trigger.enqueue", wrong)
        send("triggers.enqueue", wrong, "no-such-account", NEEDLE)
        send("triggers.enqueue", triggers=wrong, account="no-such-account")
    stack.await_ended(8 * 3)
    stack.eventually(
        lambda: stack.store.status().dead_letters == 4
    )  # one of them for an account that is not there
    stack.eventually(lambda: "KeyError: 'trigger.enqueue'" in worker.output)
    # A crash brings tracebacks.
    stack.server.kill()
    stack.eventually(lambda: "Connection to broker lost" in worker.output)
    stack.server.start()
    stack.append([stack.trigger(to=people(68), campaign=68)])
    stack.await_ended(9 * 3)
    assert stack.end(worker, beat) == [0, 0]

    texts = {
        "worker's log": worker.output,
        "beat's log": beat.output,
        "key names": "\n".join(key.decode(errors="replace") for key in stack.redis.scan_iter(count=1000)),
        "outcomes' texts": "\n".join(outcome.text for outcome in stack.outcomes()),
        "outcomes' repr": repr([outcome.row for outcome in stack.outcomes()]),
        "dead letters' reasons": "\n".join(
            f"{d.where} {d.reason}" for d in stack.store.intake.dead_letters()
        ),
    }
    found = [
        f"in the {name}: …{text[max(0, at - 150) : at + 150]}…"
        for name, text in texts.items()
        if (at := text.find(NEEDLE)) >= 0
    ]
    assert not found, "\n".join(found)
    # Everything above did happen.
    assert {Status.ACCEPTED, Status.REJECTED, Status.UNKNOWN} <= set(stack.tally())
    assert "attempt batch=" in worker.output
    assert "dead letter" in worker.output
