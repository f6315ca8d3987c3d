"""From the intake stream to filed deliveries: dedupe, places, acknowledgement."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from redis.exceptions import ResponseError

from worker.core.model import Priority, Reason, Status
from worker.store.cells import SEGMENT

if TYPE_CHECKING:
    from tests.conftest import Eventually
    from tests.integration.store.conftest import Ground


def test_an_accepted_trigger_is_pending_once_for_each_recipient_and_campaign(ground: Ground) -> None:
    filed = ground.file("a", "b", campaigns=[65, 66])
    assert (filed.pending, filed.duplicates, filed.passed_over) == (4, 0, 0)
    assert ground.states() == dict.fromkeys(range(4), Status.PENDING)
    assert [ground.cell(n).campaign for n in range(4)] == [65, 66, 65, 66]
    assert ground.total(Status.PENDING) == 4


def test_an_accepted_entry_leaves_the_stream(ground: Ground) -> None:
    ground.file("a")
    assert ground.status().intake == 0
    assert ground.store.intake.take_over("other", 0, 10) == []


def test_a_second_delivery_with_a_live_key_ends_as_duplicate_and_names_the_first(ground: Ground) -> None:
    ground.file("x")
    ground.file("a")
    filed = ground.file("a")
    assert (filed.pending, filed.duplicates) == (0, 1)
    (outcome,) = ground.outcomes.of([2])
    assert (outcome.status, outcome.reason) == (Status.DUPLICATE, Reason.DUPLICATE)
    assert (outcome.duplicate_of, outcome.batch) == (1, None)


def test_delivery_zero_can_be_the_first_of_a_duplicate(ground: Ground) -> None:
    ground.file("a", "a")
    assert ground.outcomes.of([1])[0].duplicate_of == 0


def test_a_third_delivery_names_the_first_and_not_the_second(ground: Ground) -> None:
    ground.file("a", "a", "a")
    assert [o.duplicate_of for o in ground.outcomes.of([1, 2])] == [0, 0]


def test_a_repeated_recipient_in_one_trigger_ends_as_duplicate(ground: Ground) -> None:
    filed = ground.file("a", "b", "a", campaigns=[65, 66])
    assert (filed.pending, filed.duplicates) == (4, 2)
    assert ground.states()[4] is ground.states()[5] is Status.DUPLICATE


def test_the_same_value_as_another_kind_is_another_recipient(ground: Ground) -> None:
    body = {**ground.body("x"), "to": {"identity": ["x"], "objectId": ["x"]}}
    assert ground.accept(body).duplicates == 0


@pytest.mark.parametrize(
    "other",
    [{"campaigns": [66]}, {"name": "B"}, {"dedupe_key": "k"}],
    ids=["another campaign", "another content", "a key of its own"],
)
def test_a_delivery_of_anything_else_is_no_duplicate(ground: Ground, other: dict[str, object]) -> None:
    ground.file("a")
    assert ground.file("a", **other).duplicates == 0


def test_an_explicit_key_joins_different_contents(ground: Ground) -> None:
    ground.file("a", dedupe_key="order-1")
    assert ground.file("a", name="B", dedupe_key="order-1").duplicates == 1


def test_an_explicit_key_does_not_join_different_recipients_or_campaigns(ground: Ground) -> None:
    ground.file("a", dedupe_key="order-1")
    assert ground.file("b", dedupe_key="order-1").duplicates == 0
    assert ground.file("a", dedupe_key="order-1", campaigns=[66]).duplicates == 0


def test_another_priority_does_not_hide_a_duplicate(ground: Ground) -> None:
    ground.file("a")
    assert ground.file("a", priority="urgent").duplicates == 1


def test_window_zero_dedupes_nothing_and_leaves_no_key(ground: Ground) -> None:
    ground.file("a", dedupe_window=0)
    assert ground.file("a", dedupe_window=0).pending == 1
    assert ground.dedupe_keys() == {}


def test_a_key_lives_as_long_as_its_window(ground: Ground) -> None:
    ground.file("a")
    ground.file("b", dedupe_key="k")
    ground.file("c", dedupe_window=2_592_000)
    for life, window_ms in zip(ground.dedupe_lives(), (600_000, 3_600_000, 2_592_000_000), strict=True):
        assert window_ms - 30_000 < life <= window_ms


def test_when_the_window_has_passed_the_next_one_is_sent(ground: Ground, eventually: Eventually) -> None:
    ground.file("a", dedupe_window=1)
    assert ground.file("a", dedupe_window=1).duplicates == 1
    eventually(lambda: not ground.dedupe_keys())
    assert ground.file("a", dedupe_window=1).pending == 1


def test_campaigns_of_a_recipient_that_are_duplicates_do_not_hold_back_the_others(ground: Ground) -> None:
    ground.file("a", campaigns=[66])
    ground.file("a", campaigns=[65, 66, 67])
    assert ground.states()[2] is Status.DUPLICATE
    assert sorted(ground.drain()) == [0, 1, 3]


def test_the_greatest_campaign_id_survives_every_step(ground: Ground) -> None:
    greatest = 2**47
    ground.file("a", campaigns=[greatest - 1, greatest])
    ground.file("a", campaigns=[greatest])
    assert ground.drain() == [0, 1]
    assert [o.campaign for o in ground.outcomes.of([0, 1, 2])] == [greatest - 1, greatest, greatest]
    assert ground.outcomes.counts() == {
        (greatest - 1, Status.ACCEPTED): 1,
        (greatest, Status.ACCEPTED): 1,
        (greatest, Status.DUPLICATE): 1,
    }


def test_delivery_numbers_of_thirteen_digits_are_kept_exactly(ground: Ground) -> None:
    far = 2**40 - SEGMENT - 3
    ground.store.schema.check()
    ground.client.hset(f"{ground.root}next", "delivery", far - far % SEGMENT)
    first = far - far % SEGMENT
    ground.file("a", "b", campaigns=[65, 66])
    ground.file("a", campaigns=[65])
    assert ground.outcomes.of([first + 4])[0].duplicate_of == first
    assert ground.cancel(first + 1) == 1
    assert sorted(ground.drain()) == [first, first + 2, first + 3]
    assert ground.requeue(first + 1).taken == 1
    assert ground.drain() == [first + 1]


def test_batch_numbers_are_kept_exactly_up_to_five_bytes(ground: Ground) -> None:
    ground.store.schema.check()
    ground.client.hset(f"{ground.root}next", "batch", 2**40 - 2)
    ground.file("a")
    batch = ground.on_the_wire()
    assert batch.number == 2**40 - 1
    assert ground.settle(batch, Status.REJECTED, text="words")
    (outcome,) = ground.outcomes.of([0])
    assert (outcome.batch, outcome.text) == (2**40 - 1, "words")


def test_a_trigger_over_segment_borders_is_kept_whole(ground: Ground) -> None:
    ground.file_people(SEGMENT - 1)
    ground.file("border", campaigns=[65, 66, 67])
    ground.file_people(SEGMENT, name="B")
    assert ground.outcomes.of([SEGMENT])[0].recipient.value == "border"
    last = 2 * SEGMENT + 1
    assert ground.outcomes.of([last])[0].recipient.value == f"u{SEGMENT - 1}"
    assert len(ground.drain()) == last + 1


def test_the_last_delivery_of_a_segment_may_be_the_last_of_a_trigger(ground: Ground) -> None:
    ground.file_people(SEGMENT)
    ground.file("next")
    assert ground.outcomes.of([SEGMENT])[0].recipient.value == "next"
    assert ground.keys("seg:*:cells") == {"seg:0:cells", "seg:1:cells"}


def test_a_chunk_handed_over_twice_changes_nothing(ground: Ground) -> None:
    ground.append(ground.body("a", "b"), ground.body("c", expires_at=time.time() + 60))
    chunk = [section for entry in ground.read() for section in ground.sections(entry)]
    assert ground.deliveries.accept(chunk, [], 3).pending == 3
    before = ground.client.hgetall(f"{ground.root}next"), ground.keys("*")
    again = ground.deliveries.accept(chunk, [], 3)
    assert (again.pending, again.duplicates, again.passed_over) == (0, 0, 2)
    assert (ground.client.hgetall(f"{ground.root}next"), ground.keys("*")) == before


def test_a_chunk_that_is_half_known_files_only_the_rest_without_a_gap(ground: Ground) -> None:
    ground.append(ground.body("a", "b"), ground.body("c"), ground.body("d"))
    first, second, third = (ground.sections(entry) for entry in ground.read())
    ground.deliveries.accept(second, [], 3)
    filed = ground.deliveries.accept([*first, *second, *third], [], 3)
    assert (filed.pending, filed.passed_over) == (3, 1)
    assert [o.recipient.value for o in ground.outcomes.of(range(10))] == ["c", "a", "b", "d"]
    ground.file("e")
    assert ground.outcomes.of([4])[0].recipient.value == "e"


def test_an_entry_that_nobody_read_is_not_accepted(ground: Ground) -> None:
    (entry,) = ground.append(ground.body("a"))
    found = ground.sections(ground.read()[0])
    ground.client.xack(ground.store.intake.stream, "volley", entry)
    assert ground.deliveries.accept(found, [], 3).passed_over == 1
    assert ground.states() == {}


def test_what_is_passed_over_in_a_chunk_stays_in_the_stream(ground: Ground) -> None:
    """A server has come back with less than it had: of two that were read, one is there and unread again."""
    stream = ground.store.intake.stream
    ground.append(ground.body("a"))
    before = ground.client.dump(stream)
    ground.append(ground.body("b"))
    found = [section for entry in ground.read() for section in ground.sections(entry)]
    ground.client.restore(stream, 0, before, replace=True)
    assert ground.deliveries.accept(found, [], 3).passed_over == 2
    assert ground.accept().pending == 1
    assert [outcome.recipient.value for outcome in ground.outcomes.of([0])] == ["a"]


def test_a_chunk_that_fails_in_the_middle_is_accepted_later(ground: Ground) -> None:
    """The group of consumers is gone: asking for the first piece of the second entry fails."""
    ground.append(ground.body("x"), ground.body("a", "b", "c", "d"))
    whole, large = ground.read()
    ground.client.xgroup_destroy(ground.store.intake.stream, "volley")
    with pytest.raises(ResponseError, match="NOGROUP"):
        ground.deliveries.accept([*ground.sections(whole), *ground.sections(large, 2)[:1]], [], 3)
    ground.store.intake.open()
    assert ground.accept().pending == 5
    assert set(ground.states().values()) == {Status.PENDING}
    ground.audit()


@pytest.mark.parametrize("key", ["days", "segments", "expiry"])
def test_a_chunk_that_fails_while_it_is_written_is_neither_lost_nor_doubled(ground: Ground, key: str) -> None:
    """A key of the account has another type, by somebody's hand."""
    ground.store.schema.check()
    ground.append(*(ground.body(person, expires_at=time.time() + 600) for person in "ab"))
    found = [section for entry in ground.read() for section in ground.sections(entry)]
    ground.client.set(f"{ground.root}{key}", "no zset")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        ground.deliveries.accept(found, [], 3)
    ground.client.delete(f"{ground.root}{key}")
    for section in found:  # one by one, as is done after an error
        assert ground.deliveries.accept([section], [], 3).passed_over == 0
    sent = [outcome.recipient.value for outcome in ground.outcomes.of(ground.drain())]
    assert sorted(sent) == ["a", "b"]
    assert ground.client.xlen(ground.store.intake.stream) == 0
    ground.client.flushall()  # cells that were written in vain are there still, and count for nothing


def test_the_same_entry_twice_in_a_chunk_is_accepted_once(ground: Ground) -> None:
    ground.append(ground.body("a"), ground.body("b"))
    first, second = (section for entry in ground.read() for section in ground.sections(entry))
    filed = ground.deliveries.accept([first, first, second], [], 3)
    assert (filed.pending, filed.passed_over) == (2, 1)
    ground.audit()


def test_an_entry_that_was_trimmed_after_it_was_read_is_accepted_with_its_neighbours(ground: Ground) -> None:
    entries = ground.append(*(ground.body(person) for person in "abcd"))
    found = [section for entry in ground.read() for section in ground.sections(entry)]
    assert ground.deliveries.accept(found[:1], [], 3).pending == 1
    ground.client.xdel(ground.store.intake.stream, entries[1])
    filed = ground.deliveries.accept(found, [], 3)
    assert (filed.pending, filed.passed_over) == (3, 1)
    assert {outcome.recipient.value for outcome in ground.outcomes.of([0, 1, 2, 3])} == set("abcd")
    assert ground.client.xlen(ground.store.intake.stream) == 0
    ground.audit()


def test_a_key_whose_window_is_over_is_taken_out_and_one_that_was_taken_again_is_not(
    ground: Ground, eventually: Eventually
) -> None:
    ground.file("a", "b", dedupe_window=1)
    assert ground.deliveries.lapse() == (0, False), "their minute has not come"
    eventually(lambda: not ground.dedupe_keys())
    assert ground.file("a", dedupe_window=3600).pending == 1
    assert len(ground.client.hkeys(f"{ground.root}dedupe")) == 2
    make_lapse(ground)
    assert ground.deliveries.lapse() == (1, True)
    assert ground.deliveries.lapse() == (0, False)
    assert ground.client.hkeys(f"{ground.root}dedupe") == list(ground.dedupe_keys())
    assert ground.key_holders() == {2}


def test_many_keys_are_taken_out_piece_by_piece(ground: Ground, eventually: Eventually) -> None:
    for person in "abcdefgh":
        ground.file(person, dedupe_window=1)
    ground.file_people(300, dedupe_window=1)
    eventually(lambda: not ground.dedupe_keys())
    make_lapse(ground)
    taken = []
    while (found := ground.deliveries.lapse(5))[1]:
        taken.append(found[0])
    assert taken == [5, 303]
    assert not ground.keys("dedupe") | ground.keys("lapse*")


def make_lapse(ground: Ground) -> None:
    """The minute of the keys that lapse first has come."""
    (slot,) = ground.client.zrange(f"{ground.root}lapse", 0, 0)
    ground.client.zadd(f"{ground.root}lapse", {slot: 0})


def test_of_equal_keys_in_one_chunk_the_first_one_holds(ground: Ground) -> None:
    ground.append(
        ground.body("a", campaigns=[65, 66]), ground.body("b"), ground.body("a", campaigns=[66, 67])
    )
    filed = ground.accept()
    assert (filed.pending, filed.duplicates) == (4, 1)
    assert ground.key_holders() == {0, 1, 2, 4}


def test_a_trigger_for_later_sleeps_until_its_time(ground: Ground, eventually: Eventually) -> None:
    due_ms = ground.deliveries.now_ms() + 300
    ground.file("a", "b", campaigns=[65, 66], send_at=due_ms / 1000)
    assert ground.total(Status.SCHEDULED) == 4
    assert ground.deliveries.view() is None
    assert ground.status().next_due_ms == -(-due_ms // 100) * 100
    assert ground.cell(0).first_ms == due_ms
    eventually(lambda: ground.deliveries.promote()[0])
    assert ground.deliveries.now_ms() >= due_ms
    assert len(ground.drain()) == 4


def test_a_trigger_whose_time_has_passed_is_pending_at_once(ground: Ground) -> None:
    ground.file("a", send_at=time.time() - 60)
    assert ground.states() == {0: Status.PENDING}


def test_a_duplicate_of_a_scheduled_delivery_does_not_sleep(ground: Ground) -> None:
    ground.file("a", send_at=time.time() + 3600)
    ground.file("a", send_at=time.time() + 3600)
    assert ground.states() == {0: Status.SCHEDULED, 1: Status.DUPLICATE}
    ground.cancel(0)


def test_deliveries_that_expire_are_found_when_their_time_has_come(
    ground: Ground, eventually: Eventually
) -> None:
    ground.file("keeps")
    ground.file("a", "b", campaigns=[65, 66], expires_at=time.time() + 0.2)
    assert ground.deliveries.due_ending() is None
    due = eventually(ground.deliveries.due_ending)
    assert due.deliveries == range(1, 5)
    assert ground.deliveries.due_ending() == due, "it stays until it is done"
    endings = ground.endings(due.deliveries)
    assert ground.deliveries.finish(Status.EXPIRED, Reason.EXPIRED, [Status.PENDING], endings) == 4
    ground.deliveries.ending_done(due)
    ground.deliveries.ending_done(due)
    assert ground.deliveries.due_ending() is None
    assert ground.keys("expiry*") == set()


def test_two_ranges_in_one_expiry_slot_are_both_found(ground: Ground, eventually: Eventually) -> None:
    at = time.time() + 0.1
    ground.file("a", expires_at=at)
    ground.file("b", name="B", expires_at=at)
    found = []
    for _ in range(2):
        due = eventually(ground.deliveries.due_ending)
        found.append(due.deliveries)
        ground.deliveries.ending_done(due)
    assert found == [range(1), range(1, 2)]
    assert ground.deliveries.due_ending() is None


def test_equal_content_and_priority_is_one_group(ground: Ground) -> None:
    for people, keys in (("a", {}), ("b", {}), ("c", {"priority": "bulk"}), ("d", {"name": "B"})):
        ground.file(people, **keys)
    assert len(ground.keys("group:*")) == 3
    assert [o.priority for o in ground.outcomes.of([1, 2])] == [Priority.NORMAL, Priority.BULK]


def test_a_group_whose_deliveries_are_all_duplicates_expires_like_any_other(ground: Ground) -> None:
    ground.file("a", dedupe_key="k")
    ground.file("a", dedupe_key="k", name="never sent")
    for key in ("group:2", *ground.keys("gid:*")):
        if key != "gid:" + ground.client.hget(f"{ground.root}group:1", "key").decode():
            assert ground.client.pttl(ground.root + key) > 0, key


def test_accepting_says_how_many_permits_are_free(ground: Ground) -> None:
    assert ground.file("a").free_permits == 3
    assert ground.store.permits.acquire("t", 100, 60_000)
    assert ground.file("b").free_permits == 2
