"""A backlog that is as large as it may be: what comes waits where it is, and all of it is sent in the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from celery import Celery

from config.settings import load
from worker.core.model import Status
from worker.store import FullError, open_store

if TYPE_CHECKING:
    from tests.acceptance.conftest import MakeStack, Stack, StartServer
    from tests.conftest import Process

MOST = 6


@pytest.fixture
def full(start_server: StartServer, make_stack: MakeStack) -> tuple[Stack, Process]:
    """An installation and its worker, with as many deliveries under way as there may be, all held back."""
    stack = make_stack(start_server())
    stack.environ["VOLLEY_MAX_BACKLOG"] = str(MOST)
    stack.environ["VOLLEY_CONCURRENCY"] = "3"
    stack.store.control.pause("*")
    worker = stack.worker()
    stack.beat()
    stack.append(stack.trigger(f"first-{n}@example.com") for n in range(MOST))
    stack.eventually(lambda: stack.store.status().live == MOST)
    return stack, worker


def test_raw_appends_and_messages_wait_and_are_sent_when_there_is_room(full: tuple[Stack, Process]) -> None:
    stack, worker = full
    bounded = open_store(load(stack.environ), "default")
    with pytest.raises(FullError, match="6 deliveries are under way"):
        bounded.intake.append([b"{}"], "nonce")
    bounded.close()
    stack.append(stack.trigger(f"raw-{n}@example.com") for n in range(5))
    with Celery(broker=stack.server.url, set_as_current=False) as app:
        for n in range(8):
            trigger = stack.trigger(f"task-{n}@example.com")
            app.send_task("triggers.enqueue", args=[trigger], queue="volley.enqueue")
    stack.eventually(lambda: "messages of triggers.enqueue wait at the broker" in worker.output)
    status = stack.store.status()
    assert (status.live, status.intake) == (MOST, 5)
    stack.store.control.resume("*")
    stack.await_ended(MOST + 5 + 8)
    assert stack.tally() == {Status.ACCEPTED: MOST + 5 + 8}
    assert not stack.disagreements()
    assert "Traceback" not in worker.output
    assert worker.output.count("wait at the broker") == 1
