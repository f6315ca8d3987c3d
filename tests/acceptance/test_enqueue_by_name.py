"""`triggers.enqueue`, called by name from a Celery app that knows nothing of this project."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from worker.core.model import Status
from worker.store.connection import connect

if TYPE_CHECKING:
    from tests.acceptance.conftest import MakeStack, Stack, StartServer

#: All that a foreign app needs: the broker's URL, the task's name and the queue's name.
FOREIGN_APP = """
import json, sys
from celery import Celery

app = Celery(broker=sys.argv[1])
for args, options in json.loads(sys.argv[2]):
    app.send_task("triggers.enqueue", args=args, queue="volley.enqueue", **options)
assert not {"config", "tasks", "worker"} & set(sys.modules)
"""


def send(stack: Stack, folder: Path, *calls: tuple[list[Any], dict[str, Any]], broker: str = "") -> None:
    """Sends the task once for each (args, options) from a process outside of the project."""
    foreign = stack.processes.python(
        "-c",
        FOREIGN_APP,
        broker or stack.server.url,
        json.dumps(calls),
        environ={"PYTHONPATH": ""},
        cwd=folder,
    )
    assert foreign.wait() == 0, foreign.output


def test_a_foreign_celery_app_enqueues_one_trigger_and_a_list(stack: Stack, tmp_path: Path) -> None:
    one = stack.trigger("one@example.com", id="one")
    several = [stack.trigger(f"p{n}@example.com", id=f"p{n}") for n in range(20)]
    send(stack, tmp_path, ([one], {}), ([several], {}), ([[]], {}))
    stack.worker()
    stack.beat()
    stack.await_ended(21)
    assert stack.tally() == {Status.ACCEPTED: 21}
    assert {outcome.producer_id for outcome in stack.outcomes()} == {"one", *(f"p{n}" for n in range(20))}
    assert not stack.disagreements()


def test_a_task_sent_twice_with_one_id_appends_once(stack: Stack, tmp_path: Path) -> None:
    call = ([stack.trigger("one@example.com", dedupe_window=0)], {"task_id": "order-17"})
    send(stack, tmp_path, call, call, ([stack.trigger("two@example.com")], {}))
    stack.worker()
    stack.beat()
    stack.await_ended(2)
    assert stack.tally() == {Status.ACCEPTED: 2}


def test_what_cannot_be_a_trigger_becomes_a_dead_letter_and_is_not_lost(stack: Stack, tmp_path: Path) -> None:
    odd: list[object] = [
        "no object",
        None,
        17,
        stack.trigger("big@example.com", campaign=10**30),
        stack.trigger("\ud800@example.com"),
        stack.trigger(),
    ]
    send(stack, tmp_path, *(([each], {}) for each in odd), ([stack.trigger("good@example.com")], {}))
    stack.worker()
    stack.beat()
    stack.await_ended(1)
    stack.eventually(lambda: stack.store.status().dead_letters == len(odd))
    assert all(dead.reason for dead in stack.store.intake.dead_letters())


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_triggers_enqueued_while_redis_is_away_are_appended_when_it_is_back(
    make_stack: MakeStack, start_server: StartServer, tmp_path: Path, pool: str
) -> None:
    broker = start_server()
    stack = make_stack(start_server(fsync="always"))
    stack.environ |= {"VOLLEY_BROKER_URL": broker.url, "VOLLEY_POOL": pool}
    first = stack.worker()
    beat = stack.beat()
    stack.await_waiting()
    stack.server.kill()
    send(stack, tmp_path, *(([stack.trigger(f"p{n}@example.com")], {}) for n in range(5)), broker=broker.url)
    with connect(broker.url) as broker_client:
        # Taken by the worker, and not yet acknowledged.
        stack.eventually(lambda: not broker_client.llen("volley.enqueue"))
        # One that stops gives them back, for the next one.
        assert stack.end(first) == [0]
        assert broker_client.llen("volley.enqueue") == 5
    stack.worker()
    stack.server.start()
    stack.await_ended(5)
    assert stack.tally() == {Status.ACCEPTED: 5}
    assert beat.is_running
