"""Keeps what is no message of Celery's from the code that would fail on it.

A queue is a list in Redis, and every producer that enqueues through Celery may push to it. Celery takes for
granted that an item is a message in kombu's form: one that is not ends the worker's loop, and one poisoned
item after the other would end each worker that is started. So an item is looked at before Celery sees it, and
is dropped with a line in the log that says nothing of its content. So is a message that Celery fails on while
it takes it in. What goes wrong later, in a task, ends no worker.
"""

from __future__ import annotations

import binascii
import json
import logging
from contextlib import suppress
from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis

log = logging.getLogger("volley")


def is_message(item: Any) -> bool:
    """Whether an item of a queue has the form that kombu gives to messages, as far as Celery relies on it."""
    match item:
        case {
            "properties": {
                "delivery_tag": str(),
                "delivery_info": {"exchange": str(), "routing_key": str()},
            } as properties
        }:
            pass
        case _:
            return False
    # Pickle and YAML would be refused by Celery as well. `application/data`, which it lets pass, ends it.
    if (item.get("content-type"), item.get("content-encoding")) != ("application/json", "utf-8"):
        return False
    if not all(isinstance(properties.get(key), str | None) for key in ("correlation_id", "reply_to")):
        return False
    headers = item.get("headers")
    if not isinstance(headers, dict):
        return False
    body = _decoded(item.get("body"), properties.get("body_encoding"))
    # Of a task that its headers name, the body is a list: arguments, keywords, and what follows the task.
    return body is not None and (headers.get("task") is None or body.lstrip()[:1] == b"[")


def _decoded(body: object, encoding: object) -> bytes | None:
    """The body's bytes; None where it has none that are text."""
    if not isinstance(body, str) or encoding not in (None, "base64"):
        return None
    try:
        return binascii.a2b_base64(body) if encoding else body.encode()
    except ValueError:
        return None


class _Sifted:
    """Of a channel: an item that is not even JSON is dropped."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]
        except (json.JSONDecodeError, RecursionError):
            _tell()
        raise Empty


class _Sifting:
    """Of a transport: what is JSON and no message is dropped, and so is a message that Celery fails on."""

    def _deliver(self, message: Any, queue: Any) -> None:
        if not is_message(message):
            _tell()
            return
        try:
            super()._deliver(message, queue)  # type: ignore[misc]
        except Exception as error:  # a header with the wrong type, for example, of which there are many
            # kombu counts KeyError among the errors of connections; here the message has been read already.
            transport: Any = self
            away = (*transport.connection_errors, *transport.channel_errors, Empty)
            if isinstance(error, away) and not isinstance(error, KeyError):
                raise
            _tell(f"Celery failed on it with {type(error).__name__}")
            self._forget(message["properties"]["delivery_tag"])

    def _forget(self, tag: str) -> None:
        """Or it would be given out again, to fail again, for ever."""
        transport: Any = self
        for channel in transport.channels:
            with suppress(KeyError):
                channel.qos.get(tag)
                channel.basic_reject(tag, requeue=False)


class Channel(_Sifted, kombu_redis.Channel):
    """A channel to one server."""


class SentinelChannel(_Sifted, kombu_redis.SentinelChannel):
    """A channel to the master that sentinels name."""


class Transport(_Sifting, kombu_redis.Transport):
    """To one server."""

    Channel = Channel


class SentinelTransport(_Sifting, kombu_redis.SentinelTransport):
    """To the master that sentinels name."""

    Channel = SentinelChannel


def sift_messages() -> None:
    """From now on, connections of this process to a broker use these transports, by the same URLs."""
    for scheme, name in TRANSPORT_ALIASES.items():
        if name.startswith("kombu.transport.redis:"):
            TRANSPORT_ALIASES[scheme] = f"{__name__}:{name.rpartition(':')[2]}"


def _tell(why: str = "it has not the form") -> None:
    log.error("an item of a queue that is no message of Celery's was dropped (%s); it is not shown", why)
