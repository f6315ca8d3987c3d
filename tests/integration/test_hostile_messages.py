"""Whatever is pushed to one of Celery's queues, the worker that reads it lives on, and runs none of it."""

from __future__ import annotations

import base64
import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from kombu.exceptions import ContentDisallowed
from kombu.serialization import loads, prepare_accept_content
from redis import Redis

from config.celeryconfig import ENQUEUE_QUEUE, QUEUES, celery_settings
from config.settings import load
from worker.sifting import is_message

if TYPE_CHECKING:
    from tests.conftest import Eventually, Process, Processes
    from worker.clevertap.sandbox import Sandbox

TRIGGER = {"to": {"identity": ["u-1"]}, "campaign_id": "17", "ExternalTrigger": {"Name": "A"}}


class Opens:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def message(**changes: Any) -> dict[str, Any]:
    """A message that enqueues one trigger, as Celery's protocol 2 writes it."""
    embedded = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    body = json.dumps([[TRIGGER], {}, embedded]).encode()
    return {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": "triggers.enqueue", "id": "1f0c", "root_id": "1f0c", "retries": 0},
        "properties": {
            "correlation_id": "1f0c",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "volley", "routing_key": ENQUEUE_QUEUE},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": "tag-1",
        },
        **changes,
    }


@pytest.fixture
def worker(redis_url: str, sandbox: Sandbox, processes: Processes, eventually: Eventually) -> Process:
    started = processes.python(
        *("-m", "celery", "-A", "worker.app", "worker", "--without-gossip", "--without-mingle"),
        environ={
            "VOLLEY_REDIS_URL": redis_url,
            "VOLLEY_BASE_URL": sandbox.url,
            "VOLLEY_ACCOUNT_ID": "account",
            "VOLLEY_PASSCODE": "passcode-1",
        },
    )
    eventually(lambda: "ready." in started.output)
    return started


@pytest.fixture
def still_works(
    client: Redis, worker: Process, sandbox: Sandbox, eventually: Eventually
) -> Callable[[], None]:
    """Says that the queues are read to their end, and that the worker then sends what is enqueued."""

    def check() -> None:
        eventually(lambda: not any(client.llen(queue) for queue in QUEUES), 60)
        last = message()
        last["properties"]["delivery_tag"] = last["headers"]["id"] = "the-last"
        body = [[TRIGGER | {"to": {"identity": ["the-last"]}}], {}, {}]
        last["body"] = base64.b64encode(json.dumps(body).encode()).decode()
        client.lpush(ENQUEUE_QUEUE, json.dumps(last))
        eventually(lambda: "the-last" in {pair.recipient for pair in sandbox.ledger.pairs()}, 60)
        assert worker.is_running
        assert "Unrecoverable" not in worker.output
        assert "Connection to broker lost" not in worker.output
        eventually(lambda: client.hlen("unacked") <= 2)  # nothing waits to come again

    return check


def test_a_pickle_is_refused_and_runs_nothing(
    client: Redis, worker: Process, still_works: Any, tmp_path: Path
) -> None:
    trap = tmp_path / "opened"
    body = pickle.dumps(([Opens(trap)], {}, {}))
    assert not trap.exists()
    for kind in ("application/x-python-serialize", "pickle", "application/x-yaml", "application/data"):
        hostile = message(body=base64.b64encode(body).decode(), **{"content-type": kind})
        hostile["content-encoding"] = "binary"
        for queue in QUEUES:
            client.lpush(queue, json.dumps(hostile))
    client.lpush(ENQUEUE_QUEUE, body)
    still_works()
    assert not trap.exists()
    assert worker.output.count("no message of Celery's was dropped") == 4 * len(QUEUES) + 1


def test_celery_itself_takes_json_alone(redis_url: str) -> None:
    settings = load({"VOLLEY_REDIS_URL": redis_url}, require_account=False)
    app = Celery("throwaway", set_as_current=False)
    app.conf.update(celery_settings(settings))
    taken = prepare_accept_content(app.conf.accept_content)
    assert taken == {"application/json"}
    with pytest.raises(ContentDisallowed):
        loads(pickle.dumps([]), "application/x-python-serialize", "binary", accept=taken)


def test_whatever_is_pushed_to_a_queue_the_worker_lives_on(
    client: Redis, worker: Process, still_works: Any
) -> None:
    chance = random.Random(20_260)
    hostile: list[bytes] = [
        b"",
        b"[]",
        b"{}",
        b"null",
        b"1",
        b'"x"',
        b"\x00",
        b"\xff\xfe",
        b"[" * 100_000,
        b"NaN",
    ]
    hostile += [json.dumps(damaged(chance)).encode() for _ in range(400)]
    hostile += [b"x" * 1_000_000, json.dumps(message())[:-7].encode()]
    chance.shuffle(hostile)
    for each in hostile:
        client.lpush(chance.choice(QUEUES), each)
    still_works()
    assert "no message of Celery's was dropped" in worker.output


WRONG: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 2**70, "", "x", "\x00\x1b[2J\ud800", [], [[]], {}, {"a": {"b": []}}, "é" * 5000,
)  # fmt: skip


def damaged(chance: random.Random) -> Any:
    """A message with one to three of its parts replaced or removed."""
    whole: dict[str, Any] = message()
    for _ in range(chance.randint(1, 3)):
        place: Any = whole
        steps = chance.choice(
            [
                ("body",), ("headers",), ("properties",), ("content-type",), ("content-encoding",),
                ("headers", "task"), ("headers", "id"), ("headers", "eta"), ("headers", "expires"),
                ("headers", "timelimit"), ("headers", "retries"), ("headers", "group"), ("headers", "lang"),
                ("headers", "argsrepr"), ("headers", "compression"), ("headers", "stamped_headers"),
                ("headers", "stamps"), ("headers", "root_id"), ("headers", "parent_id"),
                ("headers", "origin"), ("headers", "ignore_result"), ("headers", "shadow"),
                ("properties", "delivery_tag"), ("properties", "delivery_info"), ("properties", "priority"),
                ("properties", "body_encoding"), ("properties", "correlation_id"), ("properties", "reply_to"),
                ("properties", "delivery_info", "exchange"), ("properties", "delivery_info", "routing_key"),
            ]
        )  # fmt: skip
        for step in steps[:-1]:
            place = place.get(step) if isinstance(place, dict) else None
        if isinstance(place, dict):
            if chance.random() < 0.2:
                place.pop(steps[-1], None)
            else:
                place[steps[-1]] = chance.choice(WRONG)
    return whole


def test_what_celery_itself_writes_is_a_message() -> None:
    assert is_message(message())


@pytest.mark.parametrize("item", [None, 1, "x", [], {}, {"properties": []}, [message(), "volley", "key"]])
def test_what_has_not_its_form_is_none(item: object) -> None:
    assert not is_message(item)
