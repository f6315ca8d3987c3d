"""What is enqueued, and how: the same triggers for Volley, its peers and the floors."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from benchmarks.fast_api import MARK
from benchmarks.stage import Stage
from worker.core.model import Status

CAMPAIGN = 1709550110
#: Triggers in one round trip of a producer.
PIPELINED = 500
STREAM = "volley:{default}:intake"


def person(number: int) -> str:
    """A recipient: an address of 24 characters."""
    return f"user{number:08}@example.com"


def trigger(
    people: list[str], *, mark: str = "", campaigns: tuple[int, ...] = (CAMPAIGN,), **keys: object
) -> Any:
    """A trigger as a producer writes it, content of about 200 bytes; ``mark`` makes it another content."""
    content = {
        "title": "Your order is on its way",
        "text": "It has left our house today and will be with you within two days.",
        "link": "https://shop.example.com/orders/latest",
        "shop": "Example",
    }
    if mark:
        content[MARK] = mark
    named: dict[str, object] = (
        {"campaign_id": str(campaigns[0])} if len(campaigns) == 1 else {"campaign_id_list": list(campaigns)}
    )
    return {"to": {"email": people}, **named, "ExternalTrigger": content, **keys}


def singles(count: int, first: int = 0, **keys: Any) -> Iterator[Any]:
    """Triggers of one recipient each and of shared content."""
    return (trigger([person(number)], **keys) for number in range(first, first + count))


def crowds(deliveries: int, size: int = 1000, first: int = 0, **keys: Any) -> Iterator[Any]:
    """Triggers of ``size`` recipients each and of shared content."""
    return (
        trigger([person(number) for number in range(start, start + size)], **keys)
        for start in range(first, first + deliveries, size)
    )


def append(stage: Stage, triggers: Iterable[Any], pipelined: int = PIPELINED) -> None:
    """Encodes and appends, as any producer does: XADD, many to a round trip."""
    left = iter(triggers)
    while some := list(islice(left, pipelined)):
        pipe = stage.redis.pipeline(transaction=False)
        for each in some:
            pipe.xadd(STREAM, {"trigger": json.dumps(each)})
        pipe.execute()


def send_all(stage: Stage, triggers: Iterable[Any], deliveries: int, pipelined: int = PIPELINED) -> float:
    """Appends and waits until all deliveries are recorded as accepted; seconds from the first append."""
    wanted = stage.count(Status.ACCEPTED) + deliveries
    began = time.monotonic()
    append(stage, triggers, pipelined)
    stage.until(lambda: stage.count(Status.ACCEPTED) >= wanted)
    return time.monotonic() - began


def let_wait(stage: Stage, triggers: Iterable[Any], deliveries: int, pipelined: int = PIPELINED) -> None:
    """Appends with everything paused, and returns when all deliveries are accepted by us and wait."""
    stage.store.control.pause("*")
    wanted = stage.count(Status.PENDING) + deliveries
    append(stage, triggers, pipelined)
    stage.until(lambda: stage.count(Status.PENDING) >= wanted)


def go(stage: Stage) -> None:
    """Lets what waits be sent; the next sweep, within a second, sees it."""
    stage.store.control.resume("*")


def warm(stage: Stage) -> None:
    """A few deliveries, so that everything is imported, connected and loaded."""
    send_all(stage, (trigger([f"warm{i}@example.com"], mark=f"warm{i}") for i in range(9)), 9)
    stage.api.forget()
