"""A server at `maxmemory` with noeviction: intake is refused, the drain goes on and empties it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import OutOfMemoryError, ResponseError

from worker.core.model import Reason, Status
from worker.store.connection import connect
from worker.store.embedded import EmbeddedServer
from worker.store.scripts import GROWING

if TYPE_CHECKING:
    from tests.integration.store.conftest import Ground


@pytest.fixture
def full(ground: Ground) -> Iterator[Ground]:
    """Two batches' worth of pending deliveries, one sleeping, and not a byte more of memory."""
    ground.file_people(20)
    ground.file("sleeps", send_at=ground.deliveries.now_ms() / 1000 + 0.1)
    ground.file("bulk", priority="bulk", name="B")
    ground.append(ground.body("waits in the intake"))
    ground.client.config_set("maxmemory", 1)
    yield ground
    ground.client.config_set("maxmemory", 0)


def test_intake_is_refused_when_the_server_is_full_and_nothing_is_half_done(full: Ground) -> None:
    entries = full.read()
    for grows in (
        lambda: full.deliveries.accept([s for e in entries for s in full.sections(e)], [], 3),
        lambda: full.store.intake.append([b"{}"], "nonce"),
        lambda: full.requeue(0),
    ):
        with pytest.raises((OutOfMemoryError, ResponseError)):
            grows()
    full.client.config_set("maxmemory", 0)
    full.audit()
    assert full.status().intake == 1


def test_the_drain_goes_on_when_the_server_is_full(full: Ground, eventually: Any) -> None:
    eventually(lambda: full.deliveries.promote()[0])
    assert full.cancel(21) == 1
    batch = full.on_the_wire(recipients=10)
    assert full.settle(batch, Status.RETRYING, Reason.SERVER_ERROR, due_ms=0, text="words")
    eventually(lambda: full.deliveries.promote()[0])
    full.claim("dead", recipients=3, lease_ms=20)
    assert eventually(lambda: full.deliveries.recover("heir", 60_000)) is True
    assert len(full.drain()) == 21
    full.deliveries.retire()


def test_a_sweep_can_be_noted_when_the_server_is_full(full: Ground) -> None:
    full.deliveries.swept()
    assert full.status().swept_ms is not None


def test_every_script_but_those_that_take_in_more_may_run_on_a_full_server(full: Ground) -> None:
    assert {"accept", "enqueue", "firing_append", "firing_stage", "put_back", "requeue"} == GROWING
    assert full.hold("t", 60_000)
    assert full.store.permits.rest("t").kept
    full.store.permits.release("t")
    assert full.store.permits.sit("seat", 1, 60_000)
    full.store.permits.stand_up("seat")


def test_a_transition_survives_a_restart_of_the_server(tmp_path: Path, server_binary: Path | None) -> None:
    from worker.store import Store
    from worker.store.batches import Windows

    with EmbeddedServer(tmp_path, fsync="always", ends_with_parent=True, binary=server_binary) as server:
        with connect(server.url) as client:
            client.set("x", 1)
            store = Store(client, "default", windows=Windows(1, 1), retention_ms=1000)
            store.intake.open()
            assert store.permits.acquire("t", 3, 60_000)
        server.stop()
        server.start()
        with connect(server.url) as client:
            again = Store(client, "default", windows=Windows(1, 1), retention_ms=1000)
            assert again.permits.free(3) == 2, "leases are in the file too, and end by the server's clock"
            assert again.permits.acquire("t", 3, 60_000)
