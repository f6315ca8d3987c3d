"""Messages of triggers.enqueue that cannot be taken now: each is the only copy of its trigger."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from celery import Celery

from worker.core.model import Status
from worker.store.connection import connect

if TYPE_CHECKING:
    from tests.acceptance.conftest import MakeStack, Stack, StartServer
    from tests.conftest import Process

PAUSED = "volley:{default}:paused"


def send(stack: Stack, broker: str, *names: str) -> None:
    """Enqueues a trigger for each name, as a producer does."""
    with Celery(broker=broker, set_as_current=False) as app:
        for name in names:
            trigger = stack.trigger(f"{name}@example.com")
            app.send_task("triggers.enqueue", args=[trigger], queue="volley.enqueue")


def test_messages_wait_outside_while_redis_is_full_and_what_was_taken_in_is_sent(
    start_server: StartServer, make_stack: MakeStack
) -> None:
    stack, broker = make_stack(start_server()), start_server().url
    stack.environ |= {"VOLLEY_BROKER_URL": broker, "VOLLEY_CONCURRENCY": "3"}
    stack.store.control.pause("*")
    worker = stack.worker()
    stack.beat()
    stack.append(stack.trigger(f"first-{n}@example.com") for n in range(5))
    stack.eventually(lambda: stack.store.status().live == 5)
    stack.redis.config_set("maxmemory", 1)
    # More than the worker has slots: if each kept its slot, nothing could make room.
    send(stack, broker, *(f"task-{n}" for n in range(8)))
    stack.eventually(lambda: "Redis refuses appends (OutOfMemoryError)" in worker.output)
    stack.redis.srem(PAUSED, "*")
    stack.eventually(lambda: stack.store.status().live == 0, 60)
    assert stack.redis.xlen("volley:{default}:intake") == 0
    stack.redis.config_set("maxmemory", 0)
    stack.await_ended(5 + 8)
    assert stack.tally() == {Status.ACCEPTED: 5 + 8}
    assert not stack.disagreements()
    assert worker.output.count("messages of triggers.enqueue wait at the broker") == 1


def test_a_message_waits_until_the_rights_are_there(start_server: StartServer, make_stack: MakeStack) -> None:
    stack, broker = make_stack(start_server()), start_server().url
    stack.environ["VOLLEY_BROKER_URL"] = broker
    worker = stack.worker()
    stack.await_waiting()
    stack.redis.execute_command("ACL", "SETUSER", "default", "-xadd")
    send(stack, broker, "a")
    stack.eventually(lambda: "Redis refuses appends" in worker.output)
    stack.redis.execute_command("ACL", "SETUSER", "default", "+xadd")
    stack.await_ended(1)
    assert stack.tally() == {Status.ACCEPTED: 1}


def test_a_message_outlives_the_child_that_held_it(start_server: StartServer, make_stack: MakeStack) -> None:
    stack, broker = make_stack(start_server()), start_server().url
    stack.environ |= {
        "VOLLEY_BROKER_URL": broker,
        "VOLLEY_POOL": "prefork",
        "VOLLEY_CONCURRENCY": "3",
        "VOLLEY_MAX_INTAKE": "1",
    }
    # The one place at the intake is taken, so that its one entry stays there and the message has to wait.
    stack.append([stack.trigger("first@example.com")])
    seconds, _ = stack.redis.time()
    stack.redis.zadd("volley:{default}:acceptors", {"other": (seconds + 3600) * 1000})
    worker = stack.worker()
    send(stack, broker, "a")
    stack.eventually(lambda: "messages of triggers.enqueue wait at the broker" in worker.output)
    with connect(broker) as raw:
        # In a child for a second, at the broker for a moment, and so on.
        for _ in range(3):
            stack.eventually(lambda: raw.hlen("unacked"))
            killed = children(worker)
            for child in killed:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            stack.eventually(partial(are_gone, killed, worker))
            stack.eventually(lambda: raw.hlen("unacked") + raw.llen("volley.enqueue"))
    stack.redis.zrem("volley:{default}:acceptors", "other")
    stack.beat()
    stack.await_ended(2)
    assert stack.tally() == {Status.ACCEPTED: 2}


def are_gone(killed: list[int], worker: Process) -> bool:
    """Whether a worker has noticed the end of these children."""
    return not set(killed) & set(children(worker))


def children(process: Process) -> list[int]:
    """Ids of the processes that this one has started."""
    found = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(child) for file in found for child in file.read_text().split()]
