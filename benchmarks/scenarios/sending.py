"""Enqueue to recorded outcome, against an API that takes no time."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterable
from typing import Any

import httpx

from benchmarks import load
from benchmarks.peers.run import measure
from benchmarks.results import Context, Result
from benchmarks.stage import Stage, StuckError


def singles(context: Context) -> Result:
    """Single-recipient triggers of shared content: the usual way, the better one, Volley."""
    result = Result("singles")
    rates = {}
    # Not less, however small the scale: the end of a run, where groups are not full, must not weigh in.
    for name, title, full in (("usual", "usual way", 8_000), ("grouping", "better usual way", 16_000)):
        context.say(title)
        count = context.scaled(full, full // 2)
        with Stage() as stage:
            shares = result.shares.setdefault(title, {})
            rates[name] = measure(stage, name, load.singles(count), count, shares)
        result.add(title, rates[name], "deliveries/s")
    context.say("Volley")
    count = context.scaled(200_000, 1000)
    rate, calls = _volley(load.singles(count), count, result.shares.setdefault("Volley", {}))
    result.add("Volley", rate, "deliveries/s")
    result.add("Volley against the usual way", rate / rates["usual"], "x", 20)
    result.add("Volley against the better usual way", rate / rates["grouping"], "x", 12)
    result.add("recipients in a call", count / calls, "on average")
    with Stage() as stage:
        for title, floor in _post_loops(stage, context.scaled(3_000, 300)).items():
            result.add(title, floor, "calls/s")
    return result


def crowds(context: Context) -> Result:
    """Triggers of 1000 recipients each, all of one content."""
    result = Result("crowds")
    count = context.scaled(1_000_000, 20_000)
    context.say("Volley")
    rate, _ = _volley(load.crowds(count), count, result.shares.setdefault("Volley", {}), pipelined=10)
    result.add("Volley", rate, "deliveries/s", 100_000)
    return result


def _volley(
    triggers: Iterable[Any], count: int, shares: dict[str, float], pipelined: int = load.PIPELINED
) -> tuple[float, int]:
    """Deliveries per second of Volley, and the calls made. Raises StuckError if the API counted otherwise."""
    with Stage() as stage:
        stage.volley()
        load.warm(stage)
        with stage.shares(shares):
            took = load.send_all(stage, triggers, count, pipelined)
        audit = stage.api.audit()
        if not audit["deliveries"] == audit["distinct"] == count or audit["most_in_flight"] > 3:
            raise StuckError(f"{audit} at the API, {count} were enqueued")
        return count / took, audit["calls"]


def _post_loops(stage: Stage, count: int) -> dict[str, float]:
    """Calls per second of one thread that does nothing else; the connection is kept, the body ready."""
    path = "/2/send/externaltrigger.json"
    body = b'{"to":{"email":["a@example.com"]},"campaign_id_list":[1],"ExternalTrigger":{"Name":"A"}}'
    plain = http.client.HTTPConnection("127.0.0.1", stage.api.port)
    rates = {}
    began = time.monotonic()
    for _ in range(count):
        plain.request("POST", path, body)
        plain.getresponse().read()
    rates["floor: POST loop of the standard library"] = count / (time.monotonic() - began)
    plain.close()
    with httpx.Client(base_url=stage.api.url) as client:
        began = time.monotonic()
        for _ in range(count):
            client.post(path, content=body)
        rates["floor: POST loop of httpx"] = count / (time.monotonic() - began)
    return rates
