"""Who is in a batch, read from what the claiming scripts answer."""

from __future__ import annotations

import struct

import orjson
import pytest

from worker.core.model import Kind, Reason, Recipient
from worker.store.taken import Members, first_expiry, recipients_of


def told(*campaigns: int, attempts: int = 0) -> bytes:
    return b"".join(struct.pack(">BBHIBI", 0, attempts, 0, campaign, 0, 1) for campaign in campaigns)


def row(value: str, *more: object) -> bytes:
    return orjson.dumps([7, "i", value, "1-1", *more])


def test_what_all_are_told_alike_is_each_ones() -> None:
    alike = Members(b"5 4", told(65, 66), [row("a"), row("b")], 2)
    apart = Members(b"5 4", told(65, 66) * 2, [row("a"), row("b")], 2)
    assert [member.deliveries for member in alike] == [(5, 6), (7, 8)]
    assert [t.campaign for member in alike for t in member.told] == [65, 66, 65, 66]
    assert {t.reason for member in alike for t in member.told} == {Reason.NONE}
    assert alike == apart
    assert alike != Members(b"5 4", told(65, 66) + told(65, 66, attempts=1), [row("a"), row("b")], 2)


def test_deliveries_that_are_no_neighbours_are_numbered_in_the_order_of_the_batch() -> None:
    members = Members(b"9 1 3 2 4000000000000 1", told(65, 66) * 2, [row("a"), [row("b"), row("b", "id")]], 2)
    assert [member.deliveries for member in members] == [(9, 3), (4, 4_000_000_000_000)]
    assert [[each.producer_id for each in member.rows] for member in members] == [[None, None], [None, "id"]]


def test_who_they_are_is_the_same_read_early_or_late() -> None:
    rows: list[bytes | list[bytes]] = [row("a"), [row('q"\\'), row('q"\\', "id")], row("é")]
    members = Members(b"0 6", told(65, 66), rows, 2)
    expected = [Recipient(Kind.IDENTITY, value) for value in ("a", 'q"\\', "é")]
    assert recipients_of(members) == expected
    assert recipients_of(list(members)) == expected
    assert recipients_of(members[1:]) == expected[1:]
    assert len(members) == 3


@pytest.mark.parametrize(("more", "expected"), [((), False), ((None, None, "key"), False), ((None, 5), True)])
def test_one_that_may_expire_makes_all_of_them_be_looked_at(more: tuple[object, ...], expected: bool) -> None:
    members = Members(b"0 2", told(65), [row("a"), row("b", *more)], 1)
    assert (first_expiry(members) is not None) is expected
    assert (first_expiry(list(members)) is not None) is expected


def test_numbers_that_do_not_fit_the_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        list(Members(b"0 3", told(65), [row("a"), row("b")], 1))
