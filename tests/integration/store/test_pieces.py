"""Triggers that are larger than a chunk: accepted piece by piece, resumable at any piece."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from worker.core.model import Status

if TYPE_CHECKING:
    from tests.integration.store.conftest import Ground

PEOPLE = [f"u{i}" for i in range(7)]


@pytest.mark.parametrize("done", range(4))
def test_a_death_between_any_two_pieces_loses_and_doubles_nothing(ground: Ground, done: int) -> None:
    (entry_id,) = ground.append(ground.body(*PEOPLE, campaigns=[65, 66]))
    pieces = ground.sections(ground.read("dead")[0], 2)
    assert [p.final for p in pieces] == [False, False, False, True]
    for piece in pieces[:done]:
        ground.deliveries.accept([piece], [], 3)
        ground.audit()
    assert ground.store.intake.take_over("heir", 0, 10) == [entry_id]
    entry = ground.store.intake.entry(entry_id)
    assert ground.store.intake.progress(entry_id) == done
    rest = ground.sections(entry, 2)[done:]
    assert ground.deliveries.accept(rest, [], 3).passed_over == 0
    assert [o.recipient.value for o in ground.outcomes.of(range(0, 20, 2))] == PEOPLE
    assert ground.states() == dict.fromkeys(range(14), Status.PENDING)
    assert ground.status().intake == 0
    assert ground.keys("accepting") == set()


@pytest.mark.parametrize("done", range(1, 5))
def test_pieces_handed_over_from_the_start_again_are_passed_over(ground: Ground, done: int) -> None:
    ground.append(ground.body(*PEOPLE))
    pieces = ground.sections(ground.read()[0], 2)
    ground.deliveries.accept(pieces[:done], [], 3)
    assert ground.deliveries.accept(pieces, [], 3).passed_over == done
    assert ground.deliveries.accept(pieces, [], 3).passed_over == 4
    assert sorted(ground.drain()) == list(range(7))


def test_a_piece_out_of_turn_is_passed_over(ground: Ground) -> None:
    ground.append(ground.body(*PEOPLE))
    pieces = ground.sections(ground.read()[0], 2)
    assert ground.deliveries.accept([pieces[1]], [], 3).passed_over == 1
    assert ground.deliveries.accept([pieces[3]], [], 3).passed_over == 1
    assert ground.states() == {}
    assert ground.status().intake == 1


def test_two_processes_on_one_trigger_accept_each_piece_once(ground: Ground) -> None:
    ground.append(ground.body(*PEOPLE))
    entry = ground.read("slow")[0]
    slow, heir = ground.sections(entry, 2), ground.sections(entry, 2)
    ground.store.intake.take_over("heir", 0, 10)
    passed = [
        ground.deliveries.accept([piece], [], 3).passed_over
        for pair in zip(slow, heir, strict=True)
        for piece in pair
    ]
    assert passed == [0, 1] * 4
    assert sorted(ground.drain()) == list(range(7))


def test_pieces_of_several_entries_may_share_a_chunk(ground: Ground) -> None:
    ground.append(ground.body(*PEOPLE), ground.body("z", name="B"), ground.body(*PEOPLE, name="C"))
    chunk = [piece for entry in ground.read() for piece in ground.sections(entry, 3)]
    for first, last in pairwise([0, 2, 5, 7]):
        ground.deliveries.accept(chunk[first:last], [], 3)
        ground.audit()
    assert len(ground.drain()) == 15
    assert ground.status().intake == 0


def test_several_triggers_of_one_entry_are_numbered_through(ground: Ground) -> None:
    ground.append({"d": [ground.body("a", "b", name=name) for name in ("A", "B", "C")]})
    (entry,) = ground.read()
    pieces = ground.sections(entry, 1)
    assert [p.piece for p in pieces] == list(range(6))
    ground.deliveries.accept(pieces[:3], [], 3)
    assert len(list(ground.outcomes.by_trigger(entry.id))) == 3
    ground.deliveries.accept(pieces, [], 3)
    assert len(list(ground.outcomes.by_trigger(entry.id))) == 6


def test_a_trigger_in_pieces_that_was_accepted_whole_is_not_started_again(ground: Ground) -> None:
    ground.append(ground.body(*PEOPLE))
    pieces = ground.sections(ground.read()[0], 2)
    ground.deliveries.accept(pieces, [], 3)
    assert ground.deliveries.accept(pieces[:1], [], 3).passed_over == 1
    assert ground.keys("accepting") == set()
