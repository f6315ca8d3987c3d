"""The usual way: a Celery task for each trigger, SET NX against doubles, POST, HSET, retry with countdown."""

from __future__ import annotations

from typing import Any

import httpx
from celery import Task

from benchmarks.peers.shared import (
    AGAIN,
    DEDUPE_SECONDS,
    MAX_RETRIES,
    content_key,
    dedupe_key,
    make_app,
    post,
    record,
    redis,
)

app = make_app("usual")


@app.task(name="usual.send", bind=True, max_retries=MAX_RETRIES)
def send(self: Task[Any, Any], trigger: dict[str, Any]) -> None:
    """Sends one trigger."""
    recipients = trigger["to"]["email"]
    if not self.request.retries:
        content = content_key(trigger)
        pipe = redis().pipeline(transaction=False)
        for recipient in recipients:
            pipe.set(dedupe_key(content, recipient), str(self.request.id), nx=True, ex=DEDUPE_SECONDS)
        recipients = [each for each, new in zip(recipients, pipe.execute(), strict=True) if new]
    if not recipients:
        return
    try:
        status = post(trigger, recipients)
    except httpx.HTTPError as error:
        raise self.retry(exc=error, countdown=2**self.request.retries) from error
    if status in AGAIN and self.request.retries < MAX_RETRIES:
        raise self.retry(countdown=2**self.request.retries)
    pipe = redis().pipeline(transaction=False)
    for at, recipient in enumerate(recipients):
        record(pipe, f"{self.request.id}:{at}", recipient, status, self.request.retries + 1)
    pipe.execute()
