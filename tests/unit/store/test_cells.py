"""Cells, rows and digests: what is written is what is read, and both languages mean the same."""

from __future__ import annotations

import re
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.model import LIVE, REASONS, STATUS_CODES, Kind, Reason, Recipient, Status, Trigger
from worker.core.retry import MAY_HAVE_BEEN_SENT
from worker.store.cells import (
    CELL_BYTES,
    EPOCH_MS,
    SEGMENT,
    dedupe_digest,
    index_hash,
    pack_row,
    read_cell,
    read_row,
    read_told,
)
from worker.store.scripts import source

#: No deadline: a busy machine is not a fault.
unhurried = settings(deadline=None)

FIVE_BYTES = st.integers(0, 2**40 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
RECIPIENTS = st.builds(Recipient, st.sampled_from(Kind), TEXT)
OPTIONAL_MS = st.none() | st.integers(1, 10**13)


def _five(number: int) -> bytes:
    return number.to_bytes(5, "big")


@unhurried
@given(
    st.sampled_from(Status),
    st.sampled_from(Reason),
    st.integers(0, 999),
    FIVE_BYTES,
    FIVE_BYTES,
    st.integers(0, 255),
    st.integers(0, 2**48 - 1),
    FIVE_BYTES,
)
def test_a_cell_is_read_as_the_scripts_write_it(  # noqa: PLR0917 - hypothesis draws by position
    status: Status,
    reason: Reason,
    http: int,
    batch: int,
    updated: int,
    attempts: int,
    campaign: int,
    first: int,
) -> None:
    head = STATUS_CODES[status].encode() + struct.pack(">BH", reason, http) + _five(batch) + _five(updated)
    tail = bytes([attempts]) + campaign.to_bytes(6, "big") + _five(first)
    assert len(head + tail) == CELL_BYTES
    cell = read_cell(head + tail)
    assert (cell.status, cell.reason, cell.http, cell.batch) == (status, reason, http, batch)
    assert (cell.attempts, cell.campaign) == (attempts, campaign)
    assert (cell.updated_ms, cell.first_ms) == (updated + EPOCH_MS, first + EPOCH_MS)
    (told,) = read_told(bytes([reason]) + tail)
    # That it waited together with others means nothing to whoever sends it.
    assert told.reason is (Reason.NONE if reason is Reason.JOINED else reason)
    assert (told.attempts, told.campaign) == (attempts, campaign)
    assert told.first_ms == cell.first_ms


@unhurried
@given(
    RECIPIENTS,
    st.none() | TEXT,
    OPTIONAL_MS,
    st.none() | TEXT,
    st.none() | st.integers(0, 10**7),
    st.none() | TEXT,
    st.integers(1, 10**12),
)
def test_a_row_is_read_as_it_was_packed(  # noqa: PLR0917 - hypothesis draws by position
    recipient: Recipient,
    id_: str | None,
    expires: int | None,
    key: str | None,
    window: int | None,
    origin: str | None,
    group: int,
) -> None:
    trigger = Trigger(
        (recipient,),
        (65,),
        b"{}",
        "0" * 32,
        id=id_,
        expires_at_ms=expires,
        dedupe_key=key,
        dedupe_window_seconds=window,
        source=origin,
    )
    row = read_row(b"[%d," % group + pack_row(trigger, "1-0", recipient))
    assert (row.group, row.recipient, row.trigger, row.producer_id) == (group, recipient, "1-0", id_)
    assert (row.expires_at_ms, row.dedupe_key) == (expires, key)
    assert (row.dedupe_window_seconds, row.source) == (window, origin)


DELIVERIES = st.tuples(
    st.integers(1, 2**48 - 1), RECIPIENTS, st.none() | TEXT, st.sampled_from(["0" * 32, "f" * 32])
)


@unhurried
@given(DELIVERIES, DELIVERIES)
def test_deliveries_share_a_dedupe_key_exactly_when_they_agree_in_what_it_stands_for(
    one: tuple[int, Recipient, str | None, str], other: tuple[int, Recipient, str | None, str]
) -> None:
    def stands_for(d: tuple[int, Recipient, str | None, str]) -> tuple[object, ...]:
        campaign, recipient, key, content = d
        return (campaign, recipient, "content", content) if key is None else (campaign, recipient, "key", key)

    assert (dedupe_digest(*one) == dedupe_digest(*other)) is (stands_for(one) == stands_for(other))


@unhurried
@given(TEXT, TEXT, TEXT)
def test_no_recipient_imitates_another_one_with_a_key(value: str, key: str, tail: str) -> None:
    def digest(recipient: str, own: str | None) -> bytes:
        return dedupe_digest(65, Recipient(Kind.IDENTITY, recipient), own, "0" * 32)

    assert digest(value, f"{key} k{tail}") != digest(f"{value} k{key}", tail)
    assert digest(f"{value} c{'0' * 32}", key) != digest(value, None)


@unhurried
@given(TEXT, TEXT)
def test_an_index_hash_tells_kinds_apart(value: str, other: str) -> None:
    assert len(index_hash("e", value)) == 5
    assert index_hash("t", value) != index_hash("p", value)
    assert (index_hash("e", value) == index_hash("e", other)) is (value == other)


def test_status_letters_are_distinct_and_every_status_has_one() -> None:
    assert set(STATUS_CODES) == set(Status)
    assert len(set(STATUS_CODES.values())) == len(Status)
    assert all(len(letter) == 1 and letter.isascii() for letter in STATUS_CODES.values())


def test_kinds_have_distinct_first_letters_that_no_other_index_uses() -> None:
    letters = [kind.value[0] for kind in Kind]
    assert len({*letters, "t", "p"}) == len(Kind) + 2


def test_reasons_fit_one_byte_and_have_distinct_numbers() -> None:
    assert len(REASONS) == len(Reason)
    assert all(0 <= number <= 255 for number in REASONS)


def _lua_table(name: str) -> str:
    found = re.search(rf"local {name} = \{{(.*?)\}}", source("settle"))
    assert found is not None
    return found[1]


def test_the_scripts_know_the_same_reasons_of_what_may_have_been_sent() -> None:
    numbers = {int(n) for n in re.findall(r"\[(\d+)\] = true", _lua_table("MAYBE_SENT"))}
    assert numbers == {int(reason) for reason in MAY_HAVE_BEEN_SENT}


def test_the_scripts_know_the_same_live_states() -> None:
    letters = set(re.findall(r"(\w) = true", _lua_table("LIVE")))
    assert letters == {STATUS_CODES[status] for status in LIVE}


def test_the_scripts_know_the_same_sizes() -> None:
    found = re.search(r"local CELL, HEAD, SEG, EPOCH = (\d+), (\d+), (\d+), (\d+)", source("settle"))
    assert found is not None
    assert [int(n) for n in found.groups()] == [CELL_BYTES, 14, SEGMENT, EPOCH_MS]
