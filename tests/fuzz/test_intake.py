"""The short form of `make fuzz`, and the parser against another reader of the same bytes."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import hostile, oracle
from tests.fuzz.intake import fuzz
from worker.clevertap import wire
from worker.core.errors import InvalidTrigger
from worker.core.model import Trigger

if TYPE_CHECKING:
    from worker.clevertap.sandbox import Sandbox


def test_of_hostile_entries_each_is_a_dead_letter_or_deliveries_and_nothing_else_is_sent(
    redis_url: str, sandbox: Sandbox
) -> None:
    report = fuzz(redis_url, sandbox, count=1500, seed=7)
    assert report.faults == []
    assert report.entries == report.dead_letters + report.accepted == 1500
    assert report.dead_letters > 400
    assert report.accepted > 400


@given(st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=200)
def test_what_is_accepted_is_what_another_reader_finds(chance: random.Random) -> None:
    entry = hostile.entry(chance)
    raw = entry.trigger
    if raw is None:
        return
    fault, triggers = parsed(raw)
    if fault:
        assert not entry.right, f"{fault}: {raw!r}"
        assert fault.isprintable(), "it goes to logs and terminals"
        return
    found = {
        ((str(campaign), recipient.kind.value, recipient.value), trigger.content)
        for trigger in triggers
        for recipient in trigger.recipients
        for campaign in trigger.campaigns
    }
    expected = oracle.contents(raw)
    assert {pair for pair, _ in found} == {pair for pair, _ in expected}
    assert {(pair, oracle.canonical(json.loads(content))) for pair, content in found} == expected


def parsed(raw: bytes) -> tuple[str, tuple[Trigger, ...]]:
    """What is wrong with a trigger, or what it is."""
    try:
        return "", wire.parse(raw, max_bytes=hostile.MAX_TRIGGER_BYTES)
    except InvalidTrigger as invalid:
        return str(invalid), ()


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b'{"to":{"identity":["a"]},"campaign_id":1,"ExternalTrigger":{"a":NaN}}', "is not JSON"),
        (b'{"to":{"identity":["\\ud800"]},"campaign_id":1,"ExternalTrigger":{}}', "is not JSON"),
        (b'{"to":{"identity":["a\xff"]},"campaign_id":1,"ExternalTrigger":{}}', "is not JSON"),
        (b'{"to":{"identity":[1]},"campaign_id":1,"ExternalTrigger":{}}', "must be a string"),
        (b'{"to":{"identity":["a"]},"campaign_id":1.0,"ExternalTrigger":{}}', "must be an integer"),
        (b'{"to":{"identity":["a"]},"campaign_id":true,"ExternalTrigger":{}}', "must be an integer"),
        (b'{"to":{"identity":["a"]},"campaign_id":1e400,"ExternalTrigger":{}}', ""),
        (b'{"to":{"identity":["a"]},"campaign_id":1,"ExternalTrigger":{"a":1}}', "must be a string"),
        (b'{"to":{"identity":["a"]},"campaign_id":1,"ExternalTrigger":{"":"a"}}', "empty key"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"to":' * 10_000, "is not JSON"),
        (b"\x00", "is not JSON"),
        (b"", "is not JSON"),
    ],
)
def test_what_json_or_the_contract_forbids_is_a_dead_letter(raw: bytes, why: str) -> None:
    with pytest.raises(InvalidTrigger) as invalid:
        wire.parse(raw, max_bytes=10**6)
    assert why in invalid.value.why


def test_of_a_repeated_key_the_last_value_counts_and_the_digest_is_that_of_what_is_sent() -> None:
    right = b'{"to":{"identity":["b"]},"campaign_id":2,"ExternalTrigger":{"Name":"B"}}'
    repeated = (
        b'{"to":{"identity":["a"]},"to":{"identity":["a"],"identity":["b"]},"campaign_id":1,"campaign_id":2,'
        b'"ExternalTrigger":{"Name":"x"},"ExternalTrigger":{"Name":"A","Name":"B"}}'
    )
    (one,), (two,) = (wire.parse(raw, max_bytes=1000) for raw in (right, repeated))
    assert one == two
    assert one.digest == two.digest
    body = wire.encode(2, two.recipients, two.campaigns, two.content)
    assert body == (b'{"to":{"identity":["b"]},"campaign_id_list":[2],"ExternalTrigger":{"Name":"B"}}')
