"""Redis dies and comes back with its append-only file: the processes go on by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from worker.core.model import Status

if TYPE_CHECKING:
    from tests.acceptance.conftest import MakeStack, StartServer


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_work_goes_on_after_redis_was_killed_and_nothing_is_lost_or_sent_twice(
    make_stack: MakeStack, start_server: StartServer, pool: str
) -> None:
    stack = make_stack(start_server(fsync="always"))
    stack.environ["VOLLEY_POOL"] = pool
    stack.sandbox.change(latency_ms=(200, 400))
    running = [stack.worker(), stack.worker(), stack.beat()]
    stack.await_waiting()
    url, ledger = stack.server.url, stack.sandbox.ledger
    for crash in range(2):
        before = ledger.totals().requests
        stack.append(
            stack.trigger(f"s{crash}-{n}@example.com", ExternalTrigger={"Name": f"{crash} {n}"})
            for n in range(30)
        )
        stack.append([stack.trigger(*(f"m{crash}-{n}@example.com" for n in range(500)), campaign=[71, 72])])
        stack.await_requests(before + 5)
        stack.server.kill()
        if crash == 1:
            # Away until the answers of all calls in flight have come: they must not be lost with it.
            stack.eventually(
                lambda: (
                    sum(process.output.count("attempt batch=") for process in running)
                    == ledger.totals().requests
                )
            )
        assert stack.server.start() == url
    stack.await_ended(2 * 1030)

    assert all(process.is_running for process in running)
    assert set(stack.tally()) <= {Status.ACCEPTED, Status.UNKNOWN}
    assert not stack.disagreements()
    unknown = stack.outcomes(Status.UNKNOWN)
    assert len({outcome.batch for outcome in unknown}) <= 2 * 3
    stack.eventually(lambda: stack.store.status().permits_held == 0)
