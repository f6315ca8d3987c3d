"""What both peers need: the app, connections of a process, what an answer means, how outcomes are kept."""

from __future__ import annotations

import hashlib
import os
import time
from functools import cache
from typing import Any

import httpx
import orjson
from celery import Celery
from redis import Redis

#: Requests in flight, hence tasks at once.
CONCURRENCY = 3
DEDUPE_SECONDS = 3600
OUTCOME_SECONDS = 604_800
MAX_RETRIES = 8
#: Answers that say that nothing was accepted: they are worth another try.
AGAIN = frozenset({429, 500, 502, 503})
_HEADERS = {
    "X-CleverTap-Account-Id": "BENCH",
    "X-CleverTap-Passcode": "passcode-of-the-bench",
    "X-CleverTap-Token": "token-of-the-bench",
    "Content-Type": "application/json",
}


def make_app(name: str, **settings: Any) -> Celery:
    """A Celery app with what costs nothing needed switched off."""
    app = Celery(name, broker=os.environ["PEER_REDIS_URL"])
    app.conf.update(
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        worker_concurrency=CONCURRENCY,
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
        **settings,
    )
    return app


@cache
def redis() -> Any:
    """The connection pool of this process; made after a fork."""
    return Redis.from_url(os.environ["PEER_REDIS_URL"])


@cache
def http() -> httpx.Client:
    """The HTTP client of this process, with connections kept."""
    return httpx.Client(base_url=os.environ["PEER_API_URL"], headers=_HEADERS, timeout=30)


def content_key(trigger: dict[str, Any]) -> bytes:
    """What triggers that may share a call have in common."""
    return orjson.dumps([campaigns(trigger), trigger["ExternalTrigger"]], option=orjson.OPT_SORT_KEYS)


def campaigns(trigger: dict[str, Any]) -> list[int]:
    """The campaigns that a trigger names."""
    return [int(c) for c in trigger.get("campaign_id_list") or [trigger["campaign_id"]]]


def dedupe_key(content: bytes, recipient: str) -> str:
    """The name under which the same message to the same recipient is known."""
    return "dedupe:" + hashlib.blake2b(content + recipient.encode(), digest_size=16).hexdigest()


def post(trigger: dict[str, Any], recipients: list[str]) -> int:
    """One call; its HTTP status."""
    body = orjson.dumps(
        {
            "to": {"email": recipients},
            "campaign_id_list": campaigns(trigger),
            "ExternalTrigger": trigger["ExternalTrigger"],
        }
    )
    return http().post("/2/send/externaltrigger.json", content=body).status_code


def record(pipe: Any, id_: str, recipient: str, http_status: int, attempts: int) -> None:
    """Writes an outcome: a hash by its id, kept for as long as Volley keeps its own."""
    status = "accepted" if http_status == httpx.codes.OK else "failed"
    key = f"outcome:{id_}"
    pipe.hset(
        key,
        mapping={
            "status": status,
            "http": http_status,
            "recipient": recipient,
            "attempts": attempts,
            "at": int(time.time() * 1000),
        },
    )
    pipe.expire(key, OUTCOME_SECONDS)
