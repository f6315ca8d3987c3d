"""The intake stream, its consumers, and the dead letters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.store.intake import Entry

if TYPE_CHECKING:
    from tests.integration.store.conftest import Ground


def test_an_append_that_is_repeated_with_its_nonce_has_no_second_effect(ground: Ground) -> None:
    first = ground.store.intake.append([b'{"a":1}', b'{"b":2}'], "nonce")
    assert len(first) == 2
    assert ground.store.intake.append([b'{"a":1}', b'{"b":2}'], "nonce") == first
    assert ground.status().intake == 2


def test_appends_with_different_nonces_are_different(ground: Ground) -> None:
    ground.store.intake.append([b"{}"], "one")
    ground.store.intake.append([b"{}"], "two")
    assert ground.status().intake == 2


def test_an_append_of_nothing_appends_nothing(ground: Ground) -> None:
    assert ground.store.intake.append([], "nonce") == []
    assert ground.store.intake.append([], "nonce") == []


def test_an_append_made_before_the_consumer_group_is_seen(ground: Ground) -> None:
    ground.client.delete(ground.store.intake.stream)
    (entry,) = ground.append(ground.body("a"))
    assert ground.read() == [], "there is no group: the first read makes it"
    assert [e.id for e in ground.read()] == [entry]


def test_opening_twice_is_opening_once(ground: Ground) -> None:
    ground.append(ground.body("a"))
    assert len(ground.read()) == 1
    ground.store.intake.open()
    assert ground.read() == []


def test_each_entry_is_read_by_one_consumer(ground: Ground) -> None:
    ids = ground.append(*(ground.body(f"u{i}") for i in range(10)))
    one = ground.read("one", 5)
    two = ground.read("two", 100)
    assert [e.id for e in one + two] == ids


def test_an_entry_of_a_dead_consumer_is_taken_over_only_after_its_time(ground: Ground) -> None:
    (entry,) = ground.append(ground.body("a"))
    ground.read("dead")
    assert ground.store.intake.take_over("heir", 3600, 10) == []
    assert ground.store.intake.take_over("heir", 0, 10) == [entry]


def test_taking_over_without_a_stream_makes_it(ground: Ground) -> None:
    ground.client.delete(ground.store.intake.stream)
    assert ground.store.intake.take_over("heir", 0, 10) == []
    ground.append(ground.body("a"))
    assert len(ground.read()) == 1


def test_consumers_that_hold_nothing_are_forgotten_and_the_others_kept(ground: Ground) -> None:
    ground.append(ground.body("a"))
    ground.read("holds")
    ground.read("idle")
    ground.store.intake.forget_consumers(-1)
    names = [c["name"] for c in ground.client.xinfo_consumers(ground.store.intake.stream, "volley")]
    assert names == [b"holds"]
    assert len(ground.store.intake.take_over("heir", 0, 10)) == 1


def test_forgetting_consumers_of_no_stream_does_nothing(ground: Ground) -> None:
    ground.client.delete(ground.store.intake.stream)
    ground.store.intake.forget_consumers(0)


def test_a_bad_trigger_goes_to_the_dead_letters_with_its_reason_and_its_bytes(ground: Ground) -> None:
    ground.client.xadd(ground.store.intake.stream, {"trigger": b"\xff\x00 not JSON"})
    (entry,) = ground.read()
    ground.dead_letter(entry)
    (dead,) = ground.store.intake.dead_letters()
    assert (dead.entry, dead.where, dead.reason) == (entry.id, "to", "is missing")
    assert dead.trigger == b"\xff\x00 not JSON"
    assert (ground.status().intake, ground.status().dead_letters) == (0, 1)


def test_a_dead_letter_handed_over_twice_is_one(ground: Ground) -> None:
    ground.append(ground.body("a"))
    (entry,) = ground.read()
    ground.dead_letter(entry)
    ground.dead_letter(entry)
    assert ground.status().dead_letters == 1


def test_an_entry_without_the_field_trigger_is_read_as_having_none(ground: Ground) -> None:
    ground.client.xadd(ground.store.intake.stream, {"Trigger": "{}"})
    (entry,) = ground.read()
    assert entry == Entry(entry.id, None)
    ground.dead_letter(entry)
    (dead,) = ground.store.intake.dead_letters()
    assert dead.trigger == b""


def test_dead_letters_are_listed_in_pages(ground: Ground) -> None:
    ground.append(*(ground.body(f"u{i}") for i in range(5)))
    ground.dead_letter(*ground.read())
    first = list(ground.store.intake.dead_letters(count=3))
    rest = list(ground.store.intake.dead_letters(start=f"({first[-1].id}", count=3))
    assert [len(first), len(rest)] == [3, 2]
    assert len({d.entry for d in first + rest}) == 5


def test_a_dead_letter_put_back_is_in_the_stream_and_no_longer_dead(ground: Ground) -> None:
    ground.append(ground.body("a"))
    (entry,) = ground.read()
    ground.dead_letter(entry)
    (dead,) = ground.store.intake.dead_letters()
    assert ground.store.intake.put_back(dead.id)
    assert not ground.store.intake.put_back(dead.id)
    (again,) = ground.read()
    assert again.trigger == entry.trigger
    assert ground.status().dead_letters == 0


def test_a_discarded_dead_letter_is_gone(ground: Ground) -> None:
    ground.append(ground.body("a"))
    ground.dead_letter(*ground.read())
    (dead,) = ground.store.intake.dead_letters()
    assert ground.store.intake.discard(dead.id)
    assert not ground.store.intake.discard(dead.id)
    assert not ground.store.intake.put_back(dead.id)


def test_good_and_bad_entries_of_one_chunk_are_both_acknowledged(ground: Ground) -> None:
    ground.append(ground.body("good"), ground.body("bad"))
    good, bad = ground.read()
    ground.deliveries.accept(ground.sections(good), [], 3)
    ground.dead_letter(bad)
    assert ground.status().intake == 0
    assert ground.store.intake.take_over("heir", 0, 10) == []


def test_a_read_ends_at_its_bytes_however_many_entries_wait(ground: Ground) -> None:
    stream = ground.store.intake.stream
    for size in (*[10] * 40, *[100_000] * 40, 10):
        ground.client.xadd(stream, {"trigger": b"x" * size})
    intake, reads = ground.store.intake, []
    while True:
        entries, more = intake.finish_read(intake.start_read("c", 1000, 300_000))
        reads.append([len(entry.trigger or b"") for entry in entries])
        if not more:
            break
    assert [each for read in reads for each in read] == [10] * 40 + [100_000] * 40 + [10]
    assert max(map(sum, reads)) < 300_000 + 16 * 100_000
    assert len(intake.wait("c", 0.001)) == 0


def test_a_read_ends_at_its_number_and_says_that_there_may_be_more(ground: Ground) -> None:
    ground.append(*(ground.body(f"u{number}") for number in range(40)))
    intake = ground.store.intake
    first, more = intake.finish_read(intake.start_read("c", 35, 10**9))
    assert (len(first), more) == (35, True)
    rest, more = intake.finish_read(intake.start_read("c", 35, 10**9))
    assert (len(rest), more) == (5, False)


def test_an_entry_without_a_trigger_is_read_as_one_that_has_none(ground: Ground) -> None:
    stream = ground.store.intake.stream
    ground.client.xadd(stream, {"other": "x"})
    ground.client.xadd(stream, {"trigger": "old", "x": "trigger", "more": "y"})
    ground.client.execute_command("XADD", stream, "*", "trigger", "first", "trigger", "last")
    assert [entry.trigger for entry in ground.read()] == [None, b"old", b"last"]
