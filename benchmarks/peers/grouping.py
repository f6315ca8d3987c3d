"""The better usual way: messages are grouped by content inside the worker, and each group is one POST.

As celery-batches does it: a strategy of the task's own buffers messages as they arrive, without handing
each to the pool, and hands over a thousand at once, or what there is after a second. Messages are
acknowledged when their group has been dealt with.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
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

log = logging.getLogger(__name__)

FLUSH_EVERY = 1000
FLUSH_SECONDS = 1.0

app = make_app("grouping", worker_pool="threads", worker_prefetch_multiplier=FLUSH_EVERY)

Message = tuple[str, dict[str, Any], Callable[[], None]]


class Grouped(Task):  # type: ignore[type-arg]
    """A task whose messages are taken together."""

    def Strategy(  # type: ignore[override]  # noqa: N802  # Celery's name; it may be a function too
        self, task: Any, celery_app: Any, consumer: Any
    ) -> Callable[..., None]:
        """Celery's way in: called for each message that arrives."""
        del task, celery_app
        buffer: list[Message] = []

        def flush() -> None:
            some, buffer[:] = buffer[:], []
            if some:
                consumer.pool.apply_async(deal_with, (some,))

        def take(
            message: Any, body: Any, ack: Callable[..., None], reject: Any, callbacks: Any, **_: Any
        ) -> None:
            del body, reject, callbacks
            (trigger,), *_ = message.payload
            buffer.append((message.headers["id"], trigger, lambda: ack(log, consumer.connection_errors)))
            if len(buffer) >= FLUSH_EVERY:
                flush()

        consumer.timer.call_repeatedly(FLUSH_SECONDS, flush)
        return take


@app.task(name="grouping.send", base=Grouped)
def send(trigger: dict[str, Any]) -> None:
    """Never runs by itself: its messages are dealt with in groups."""
    raise NotImplementedError(trigger)


def deal_with(messages: list[Message]) -> None:
    """Sends some messages: one call for each content, at most 1000 recipients a call."""
    groups: dict[bytes, list[tuple[str, str, dict[str, Any]]]] = {}
    for id_, trigger, _ in messages:
        members = groups.setdefault(content_key(trigger), [])
        members += (
            (f"{id_}:{at}", recipient, trigger) for at, recipient in enumerate(trigger["to"]["email"])
        )
    for content, members in groups.items():
        for first in range(0, len(members), 1000):
            _send_group(content, members[first : first + 1000])
    for _, _, ack in messages:
        ack()


def _send_group(content: bytes, members: list[tuple[str, str, dict[str, Any]]]) -> None:
    pipe = redis().pipeline(transaction=False)
    for id_, recipient, _ in members:
        pipe.set(dedupe_key(content, recipient), id_, nx=True, ex=DEDUPE_SECONDS)
    fresh = [member for member, new in zip(members, pipe.execute(), strict=True) if new]
    if not fresh:
        return
    recipients = [recipient for _, recipient, _ in fresh]
    status, attempts = 0, 0
    while attempts <= MAX_RETRIES:
        attempts += 1
        try:
            status = post(fresh[0][2], recipients)
        except httpx.HTTPError:
            status = 0
        if status and status not in AGAIN:
            break
        time.sleep(2.0**attempts)
    pipe = redis().pipeline(transaction=False)
    for id_, recipient, _ in fresh:
        record(pipe, id_, recipient, status, attempts)
    pipe.execute()
