"""Whatever the bytes, parse gives triggers or InvalidTrigger; whatever the trigger, encode gives its body."""

from __future__ import annotations

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.clevertap import wire
from worker.clevertap.shape import Body
from worker.core.answers import Reply
from worker.core.errors import InvalidTrigger
from worker.core.model import Kind

#: No deadline: a busy machine is not a fault.
unhurried = settings(deadline=None)

TEXT = st.text(st.characters(codec="utf-8"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
NAME = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
EMAIL = st.from_regex(r"[a-z0-9.+é-]{1,20}@[a-z0-9.-]{1,20}", fullmatch=True)
MAP = st.dictionaries(
    NAME,
    st.recursive(
        TEXT, lambda leaf: st.lists(leaf, max_size=3) | st.dictionaries(NAME, leaf, max_size=3), max_leaves=6
    ),
    max_size=4,
).filter(lambda value: orjson.dumps(value).count(b"[") + orjson.dumps(value).count(b"{") <= 7)
TO = st.fixed_dictionaries(
    {},
    optional={
        "email": st.lists(EMAIL, max_size=5),
        "identity": st.lists(NAME, max_size=5),
        "objectId": st.lists(NAME),
    },
).filter(lambda to: any(to.values()))
CAMPAIGNS = st.lists(st.integers(1, 2**47), min_size=1, max_size=10)
KEYS = [*Body.__annotations__, "d"]
RIGHT = st.fixed_dictionaries({"to": TO, "campaign_id_list": CAMPAIGNS, "ExternalTrigger": MAP})
NEARLY_RIGHT = st.builds(
    lambda right, wrong: right | wrong, RIGHT, st.dictionaries(st.sampled_from(KEYS), JSON, max_size=2)
)


def check(raw: bytes) -> None:
    try:
        triggers = wire.parse(raw, max_bytes=100_000)
    except InvalidTrigger:
        return
    assert triggers
    for trigger in triggers:
        assert trigger.recipients
        assert trigger.campaigns
        assert trigger.campaigns == tuple(sorted(set(trigger.campaigns)))
        assert orjson.dumps(orjson.loads(trigger.content), option=orjson.OPT_SORT_KEYS) == trigger.content


@given(st.binary() | JSON.map(orjson.dumps) | NEARLY_RIGHT.map(orjson.dumps))
@unhurried
def test_any_bytes_give_triggers_or_an_invalid_trigger(raw: bytes) -> None:
    check(raw)


@given(NEARLY_RIGHT.map(orjson.dumps), st.data())
@unhurried
def test_damaged_json_gives_triggers_or_an_invalid_trigger(raw: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(raw) - 1))
    check(raw[:at])
    check(raw[:at] + data.draw(st.binary(min_size=1, max_size=2)) + raw[at + 1 :])


@given(RIGHT)
@unhurried
def test_a_right_body_is_understood_and_sent_with_nothing_lost(
    document: dict[str, dict[str, list[str]]],
) -> None:
    (trigger,) = wire.parse(orjson.dumps(document), max_bytes=10**6)
    sent = orjson.loads(wire.encode(2, trigger.recipients, trigger.campaigns, trigger.content))
    assert sent == {
        "to": {kind.value: document["to"][kind.value] for kind in Kind if document["to"].get(kind.value)},
        "campaign_id_list": sorted(set(document["campaign_id_list"])),
        "ExternalTrigger": document["ExternalTrigger"],
    }
    assert set(sent) == {"to", "campaign_id_list", "ExternalTrigger"}


@given(RIGHT)
@unhurried
def test_the_order_of_keys_changes_neither_content_nor_digest(document: dict[str, object]) -> None:
    content = document["ExternalTrigger"]
    assert isinstance(content, dict)
    turned = document | {"ExternalTrigger": dict(reversed(content.items()))}
    (one,), (two,) = (wire.parse(orjson.dumps(each), max_bytes=10**6) for each in (document, turned))
    assert (one.content, one.digest) == (two.content, two.digest)


@given(
    st.binary()
    | st.fixed_dictionaries({}, optional={"status": JSON, "error": JSON, "message": JSON}).map(orjson.dumps)
)
@unhurried
def test_any_answer_is_read_into_a_short_printable_line(answer: bytes) -> None:
    reply = wire.read(answer)
    assert isinstance(reply, Reply)
    assert len(reply.error) <= wire.ERROR_MAX_CHARS
    assert reply.error.isprintable()


@given(TEXT, EMAIL, TEXT)
@unhurried
def test_no_address_in_an_answer_survives(before: str, address: str, after: str) -> None:
    said = orjson.dumps({"status": "fail", "error": f"{before} {address} {after}"})
    assert address not in wire.read(said).error
    assert "@" not in wire.read(said).error
