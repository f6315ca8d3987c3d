"""Chunks that are accepted while the next one is made ready; and how they lie in Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from worker.core.model import Status
from worker.store.cells import CELL_BYTES, SEGMENT
from worker.store.chunks import PackedChunk

if TYPE_CHECKING:
    from tests.integration.store.conftest import Ground


def _packed(ground: Ground, *people: str) -> PackedChunk:
    ground.append(ground.body(*people))
    return ground.deliveries.pack([s for e in ground.read() for s in ground.sections(e)], [], 3)


def test_a_chunk_is_accepted_while_the_next_one_is_made_ready(ground: Ground) -> None:
    first = ground.deliveries.start_accept(_packed(ground, "a", "b"))
    second = _packed(ground, "b", "c")
    assert first.filed().pending == 2
    filed = ground.deliveries.start_accept(second).filed()
    assert (filed.pending, filed.duplicates) == (1, 1)


def test_a_chunk_that_nobody_waits_for_leaves_no_answer_behind(ground: Ground) -> None:
    packed = _packed(ground, "a", "b")
    ground.deliveries.start_accept(packed).drop()
    assert ground.client.ping() is True, "the next one on the connection got the answer"
    filed = ground.deliveries.start_accept(packed).filed()
    assert (filed.pending, filed.passed_over) in {(2, 0), (0, 1)}
    assert ground.total(Status.PENDING) == 2


def test_a_chunk_whose_connection_breaks_is_accepted_once(ground: Ground) -> None:
    packed = _packed(ground, "a", "b")
    filing = ground.deliveries.start_accept(packed)
    ground.client.client_kill_filter(_type="normal", skipme=True)
    filed = filing.filed()
    assert (filed.pending, filed.passed_over) in {(2, 0), (0, 1)}
    assert ground.total(Status.PENDING) == 2


def test_a_server_that_has_forgotten_the_script_is_given_it_again(ground: Ground) -> None:
    ground.file("a")
    ground.client.script_flush()
    assert ground.deliveries.start_accept(_packed(ground, "b")).filed().pending == 1


def test_an_error_of_the_script_comes_with_the_result_and_leaves_the_connection_usable(
    ground: Ground,
) -> None:
    from redis.exceptions import ResponseError

    packed = _packed(ground, "a")
    ground.store.schema.check()
    ground.client.set(f"{ground.root}next", "not a hash")
    filing = ground.deliveries.start_accept(packed)
    with pytest.raises(ResponseError):
        filing.filed()
    ground.client.delete(f"{ground.root}next")
    assert ground.deliveries.start_accept(packed).filed().pending == 1


@pytest.mark.parametrize("sizes", [(SEGMENT,), (1, SEGMENT - 1, 1), (1000, 1000, 1000), (SEGMENT + 1,)])
def test_a_segment_that_is_full_takes_no_more_room_than_its_cells(
    ground: Ground, sizes: tuple[int, ...]
) -> None:
    filed = 0
    for size in sizes:
        ground.file(*(f"u{filed + i}" for i in range(size)))
        filed += size
    assert ground.total(Status.PENDING) == filed
    for segment in range(filed // SEGMENT):
        key = f"{ground.root}seg:{segment}:cells"
        assert ground.client.strlen(key) == SEGMENT * CELL_BYTES
        assert ground.client.memory_usage(key) < SEGMENT * CELL_BYTES * 1.2


@pytest.mark.parametrize(
    ("fields", "trigger"),
    [
        ({"trigger": "{}"}, b"{}"),
        ({"other": "x"}, None),
        ({"other": "x", "trigger": "{}", "more": "y"}, b"{}"),
        ({"trigger": "old", "x": "trigger"}, b"old"),
    ],
)
def test_an_entrys_trigger_is_found_among_its_fields(
    ground: Ground, fields: dict[str, str], trigger: bytes | None
) -> None:
    id_ = ground.client.xadd(ground.store.intake.stream, fields).decode()
    (entry,) = ground.read()
    assert (entry.id, entry.trigger) == (id_, trigger)
