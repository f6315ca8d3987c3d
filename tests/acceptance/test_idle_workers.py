"""Workers that live and do nothing, and a broker that is away: nobody has to come and restart anything."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from config.celeryconfig import QUEUES
from worker.core.model import Status

if TYPE_CHECKING:
    from tests.acceptance.conftest import MakeStack, Stack, StartServer

#: How long Redis is away, seconds. Celery's own tries come 2, 4, 6 ... seconds after each other: left alone,
#: it would try after 42 seconds and then not before the 56th.
AWAY_SECONDS = 44
#: From a trigger that is appended on Redis's return to its call, seconds. Tries and sweeps come each second:
#: 0.2 were measured, and the rest is for a slow machine. Celery's own wait would take 12.
WITHIN_SECONDS = 8

#: Has both workers consume from none of their queues any more, as after a broken connection.
CANCEL = """
import sys
from worker.app import app
for queue in sys.argv[1:]:
    if not app.control.cancel_consumer(queue, reply=True, timeout=30, limit=2):
        sys.exit("no worker has answered")
"""


def test_a_worker_that_consumes_no_more_ends_itself_and_the_next_one_does_its_work(stack: Stack) -> None:
    # Two slots: the accept tasks are short ones, so that it is idle soon.
    stack.environ |= {"VOLLEY_IDLE_EXIT": "2", "VOLLEY_CONCURRENCY": "2"}
    running = [stack.worker("-n", pool, environ={"VOLLEY_POOL": pool}) for pool in ("threads", "prefork")]
    stack.beat()
    stack.append([stack.trigger("first@example.com")])
    stack.await_ended(1)
    stack.eventually(lambda: all("ready." in worker.output for worker in running))
    cancel = stack.processes.python("-c", CANCEL, *QUEUES, environ=stack.environ)
    assert cancel.wait(60) == 0, cancel.output
    stack.append([stack.trigger("second@example.com")])

    # Their supervisors see that they failed.
    assert [worker.wait(90) for worker in running] == [1, 1]
    assert all("it ends itself" in worker.output for worker in running)
    stack.worker()
    stack.await_ended(2)
    assert stack.tally() == {Status.ACCEPTED: 2}
    assert stack.sandbox.ledger.totals().accepted == 2


def test_a_worker_without_work_or_without_redis_does_not_end_itself(
    make_stack: MakeStack, start_server: StartServer
) -> None:
    stack = make_stack(start_server(fsync="always"))
    stack.environ["VOLLEY_IDLE_EXIT"] = "2"
    running = [stack.worker(), stack.beat()]
    stack.await_waiting()
    worker = running[0]
    stack.server.kill()
    # Away for longer than a worker may be idle; each try to reach it comes a second after the last one.
    stack.eventually(lambda: len(tries(worker.output)) >= 6)
    stack.server.start()
    stack.append([stack.trigger("a@example.com")])
    stack.await_ended(1)
    assert set(tries(worker.output)) == {"1.00"}
    assert all(process.is_running for process in running)
    assert stack.tally() == {Status.ACCEPTED: 1}


def test_work_goes_on_at_once_although_redis_was_away_for_longer_than_the_longest_wait(
    make_stack: MakeStack, start_server: StartServer
) -> None:
    stack = make_stack(start_server(fsync="always"))
    running = [stack.worker(environ={"VOLLEY_POOL": pool}) for pool in ("threads", "prefork")]
    running.append(stack.beat())
    stack.append([stack.trigger("before@example.com")])
    stack.await_ended(1)
    url = stack.server.url
    stack.server.stop()
    time.sleep(AWAY_SECONDS)
    assert stack.server.start() == url
    stack.append([stack.trigger("after@example.com")])
    appended = time.monotonic()
    stack.await_requests(2)
    waited = time.monotonic() - appended
    assert waited < WITHIN_SECONDS, f"{waited:.1f} s"
    stack.await_ended(2)
    assert all(process.is_running for process in running)
    assert stack.tally() == {Status.ACCEPTED: 2}


def tries(output: str) -> list[str]:
    """Seconds that a worker has waited before each try to reach its broker."""
    return re.findall(r"Trying again in ([\d.]+) seconds?", output)
