"""What is understood of a producer's JSON, what is sent, and what is read from an answer."""

from __future__ import annotations

import hashlib

import orjson
import pytest

from worker.clevertap import shape, wire
from worker.core.answers import Reply, Verdict
from worker.core.errors import InvalidTrigger
from worker.core.model import Kind, Priority, Recipient, Trigger

SECRET = "s3cret.person@example.com"
PARTIAL = (
    b'{"message": "Added to queue for processing", "status": "partial", "code": 200, "error": "The following '
    b"campaignIDs have not been added to the processing queue: [65, 66] as they have either been stopped, or "
    b'are not ready, or require approval or lack type external trigger. "}'
)


def body(**keys: object) -> dict[str, object]:
    """A body that is right, with these keys set; a key set to ``...`` is left out."""
    right: dict[str, object] = {
        "to": {"email": ["a@example.com"]},
        "campaign_id": "1709550110",
        "ExternalTrigger": {"Name": "A"},
    }
    return {key: value for key, value in (right | keys).items() if value is not ...}


def parsed(document: object) -> Trigger:
    (trigger,) = wire.parse(orjson.dumps(document), max_bytes=10**7)
    return trigger


def fault(document: object) -> str:
    raw = document if isinstance(document, bytes) else orjson.dumps(document)
    with pytest.raises(InvalidTrigger) as caught:
        wire.parse(raw, max_bytes=10**7)
    # What the decoder or the validator raised holds the values: it must not travel with our error.
    assert caught.value.__context__ is None
    return str(caught.value)


# parse


def test_a_body_of_the_vendor_is_a_trigger() -> None:
    content = b'{"Name":"A"}'
    assert parsed(body()) == Trigger(
        recipients=(Recipient(Kind.EMAIL, "a@example.com"),),
        campaigns=(1709550110,),
        content=content,
        digest=hashlib.blake2b(content, digest_size=16).hexdigest(),
    )


def test_every_key_of_ours_is_understood() -> None:
    trigger = parsed(
        body(
            id="order-1",
            priority="urgent",
            dedupe_key="k",
            dedupe_window=0,
            send_at="2026-01-31T18:00:00+05:30",
            expires_at=1_769_864_400.5,
            source="checkout",
        )
    )
    assert trigger.id == "order-1"
    assert trigger.priority is Priority.URGENT
    assert (trigger.dedupe_key, trigger.dedupe_window_seconds) == ("k", 0)
    assert (trigger.send_at_ms, trigger.expires_at_ms) == (1_769_862_600_000, 1_769_864_400_500)
    assert trigger.source == "checkout"


def test_a_null_for_a_key_of_ours_is_as_if_it_were_absent() -> None:
    names = ("id", "priority", "dedupe_key", "dedupe_window", "send_at", "expires_at", "source")
    assert parsed(body(**dict.fromkeys(names))) == parsed(body())


@pytest.mark.parametrize(
    "variant",
    [
        body(campaign_id=1709550110),
        body(campaign_id=["1709550110"]),
        body(campaign_id=[1709550110, "1709550110"]),
        body(campaign_id=..., campaign_id_list=[1709550110]),
        body(ExternalTrigger=..., content={"Name": "A"}),
        {"d": [body()]},
    ],
)
def test_the_variants_of_the_vendors_samples_mean_the_same(variant: dict[str, object]) -> None:
    assert parsed(variant) == parsed(body())


def test_a_wrapped_body_gives_as_many_triggers_as_it_holds() -> None:
    raw = orjson.dumps({"d": [body(id="1"), body(id="2")]})
    assert [trigger.id for trigger in wire.parse(raw, max_bytes=10_000)] == ["1", "2"]


def test_recipients_keep_their_order_within_a_kind_and_may_repeat() -> None:
    to = {"objectId": ["o"], "identity": ["2", "1", "2"], "email": []}
    named = [(recipient.kind.value, recipient.value) for recipient in parsed(body(to=to)).recipients]
    assert named == [("identity", "2"), ("identity", "1"), ("identity", "2"), ("objectId", "o")]


def test_campaigns_are_sorted_and_distinct() -> None:
    assert parsed(body(campaign_id=[3, "1", 2, 3])).campaigns == (1, 2, 3)


def test_equal_maps_have_equal_content_however_they_are_written() -> None:
    one = wire.parse(
        b'{"to":{"identity":["a"]},"campaign_id":1,"content":{"b":"\\u00e9","a":["x"]}}', max_bytes=999
    )
    two = parsed({"to": {"identity": ["b"]}, "campaign_id": 2, "content": {"a": ["x"], "b": "é"}})
    assert one[0].content == two.content == '{"a":["x"],"b":"é"}'.encode()
    assert one[0].digest == two.digest


def test_a_trigger_may_hold_many_recipients_and_campaigns_up_to_the_bounds() -> None:
    to = {"identity": [str(number) for number in range(shape.RECIPIENTS_MAX)]}
    trigger = parsed(body(to=to, campaign_id=list(range(1, shape.CAMPAIGNS_MAX + 1))))
    assert (len(trigger.recipients), len(trigger.campaigns)) == (100_000, 100)
    to["email"] = ["a@example.com"]
    assert fault(body(to=to)) == "to: names 100001 recipients, the most is 100000"
    ids = list(range(1, shape.CAMPAIGNS_MAX + 2))
    assert fault(body(campaign_id=ids)) == "campaign_id: names 101 campaigns, the most is 100"


def nested(levels: int) -> object:
    """Maps and lists in turn, so many levels of them, the outermost a map."""
    value: object = "leaf"
    for level in range(levels, 0, -1):
        value = {"k": value} if level % 2 else [value]
    return value


CAMPAIGN = "must be an integer from 1 to 2^47, or its decimal digits"
STRING = "must be a string (or a list or object of strings)"
TIME = "is neither ISO 8601 with an offset (2026-01-31T18:00:00+05:30) nor epoch seconds"


BROKEN: list[tuple[object, str]] = [
    (b"", "trigger: is not JSON (at character 0)"),
    (b"[" * 5000, "trigger: is not JSON (at character 1025)"),
    (b'{"to": NaN}', "trigger: is not JSON (at character 7)"),
    (b'{"to": "\xff"}', "trigger: is not JSON (at character 0)"),
    (b'"\\ud800"', "trigger: is not JSON (at character 1)"),
    ([], "trigger: must be an object"),
    ("x", "trigger: must be an object"),
    ({}, "to: is missing"),
    ({"d": []}, "d: must be a list with at least one trigger"),
    ({"d": {}}, "d: must be a list with at least one trigger"),
    ({"d": [1]}, "d[0]: must be an object"),
    ({"d": [{"d": []}]}, "d[0].to: is missing"),
    ({"d": [body()], "id": "x"}, "d: must be the only key of its object"),
    ({"d": [body(), body(to={"email": ["a"]})]}, "d[1].to.email[0]: is not an e-mail address"),
    (body(to=[]), "to: must be an object"),
    (body(to={}), "to: names no recipient"),
    (body(to={"email": []}), "to: names no recipient"),
    (body(to={"email": "a@b"}), "to.email: must be a list"),
    (body(to={"Email": ["a@b"]}), "to.Email: is not a known key, did you mean email?"),
    (body(to={"identity": ["a", ""]}), "to.identity[1]: must not be empty"),
    (body(to={"identity": [1]}), "to.identity[0]: must be a string"),
    (body(to={"identity": ["x" * 1025]}), "to.identity[0]: is longer than 1024 characters"),
    (body(to={"objectId": ["a", "é" * 513]}), "to.objectId[1]: is longer than 1024 bytes"),
    (body(to={"email": ["x" * 316 + "@e.co"]}), "to.email[0]: is longer than 320 characters"),
    (body(to={"email": ["é" * 160 + "@e"]}), "to.email[0]: is longer than 320 bytes"),
    (body(to={"email": ["a@b", "ab", "a@b@c"]}), "to.email[1]: is not an e-mail address"),
    (body(to={"email": ["a@b@c"]}), "to.email[0]: is not an e-mail address"),
    (body(to={"email": ["@b"]}), "to.email[0]: is not an e-mail address"),
    (body(to={"email": ["a@"]}), "to.email[0]: is not an e-mail address"),
    (body(to={"email": ["a b@c"]}), "to.email[0]: is not an e-mail address"),
    (body(to={"email": ["a@b\n"]}), "to.email[0]: is not an e-mail address"),
    (body(to={"email": ["a\x00@b"]}), "to.email[0]: is not an e-mail address"),
    (body(to={"email": ["a\u200b@b"]}), "to.email[0]: is not an e-mail address"),
    (body(campaign_id=...), "campaign_id: is missing"),
    (body(campaign_id_list=[1]), "campaign_id_list: must not be given together with campaign_id"),
    (body(campaign_id=[]), "campaign_id: must not be empty"),
    (body(campaign_id=..., campaign_id_list=1), "campaign_id_list: must be a list"),
    (body(campaign_id=""), f"campaign_id: {CAMPAIGN}"),
    (body(campaign_id=None), f"campaign_id: {CAMPAIGN}"),
    (body(campaign_id=True), f"campaign_id: {CAMPAIGN}"),
    (body(campaign_id=1.0), f"campaign_id: {CAMPAIGN}"),
    (body(campaign_id=0), f"campaign_id: {CAMPAIGN}"),
    (body(campaign_id=2**47 + 1), f"campaign_id: {CAMPAIGN}"),
    (body(campaign_id="9" * 5000), f"campaign_id: {CAMPAIGN}"),
    (body(campaign_id="٣"), f"campaign_id: {CAMPAIGN}"),
    (body(campaign_id=[1, " 2"]), f"campaign_id[1]: {CAMPAIGN}"),
    (body(campaign_id=[[1]]), f"campaign_id[0]: {CAMPAIGN}"),
    (body(ExternalTrigger=...), "ExternalTrigger: is missing"),
    (body(content={}), "content: must not be given together with ExternalTrigger"),
    (body(ExternalTrigger=[]), "ExternalTrigger: must be an object"),
    (body(ExternalTrigger={"": "x"}), "ExternalTrigger: has an empty key"),
    (body(ExternalTrigger={"a": 1}), f"ExternalTrigger.a: {STRING}"),
    (body(ExternalTrigger={"a": [{"b": [None]}]}), f"ExternalTrigger.a[0].b[0]: {STRING}"),
    (body(ExternalTrigger={SECRET: 1}), f"ExternalTrigger.?: {STRING}"),
    (body(ExternalTrigger=nested(9)), "ExternalTrigger.k[0].k[0].k[0].k[0]: is nested deeper than 8 levels"),
    (body(ExternalTrigger={"a": "x" * 65_536}), "ExternalTrigger: is longer than 65536 bytes"),
    (body(campain_id=1), "campain_id: is not a known key, did you mean campaign_id?"),
    (body(zzz=1), "zzz: is not a known key"),
    (body(**{SECRET: 1}), "?: is not a known key"),
    (body(id=""), "id: must not be empty"),
    (body(id=7), "id: must be a string"),
    (body(id="x" * 257), "id: is longer than 256 characters"),
    (body(dedupe_key="x" * 257), "dedupe_key: is longer than 256 characters"),
    (body(source="x" * 65), "source: is longer than 64 characters"),
    (body(priority="high"), "priority: must be urgent, normal or bulk"),
    (body(dedupe_window=-1), "dedupe_window: must not be negative"),
    (body(dedupe_window=2_592_001), "dedupe_window: must not be more than 2592000"),
    (body(dedupe_window=True), "dedupe_window: must be an integer"),
    (body(dedupe_window=1.5), "dedupe_window: must be an integer"),
    (body(send_at="tomorrow"), f"send_at: {TIME}"),
    (body(send_at="2026-01-31T18:00:00"), f"send_at: {TIME}"),
    (body(send_at="2026-01-31"), f"send_at: {TIME}"),
    (body(send_at="2026-13-31T18:00:00Z"), f"send_at: {TIME}"),
    (body(send_at="1769864400"), f"send_at: {TIME}"),
    (body(send_at=True), "send_at: must be a time: ISO 8601 with an offset, or epoch seconds"),
    (body(send_at=[]), "send_at: must be a time: ISO 8601 with an offset, or epoch seconds"),
    (
        body(send_at=1_769_864_400_000),
        "send_at: is outside the years 2000 to 2053 (epoch times are in seconds)",
    ),
    (
        body(expires_at="0001-01-01T00:00:00+14:00"),
        "expires_at: is outside the years 2000 to 2053 (epoch times are in seconds)",
    ),
    (
        body(send_at=1_769_864_400, expires_at=1_769_864_400),
        "expires_at: must be later than send_at",
    ),
]


@pytest.mark.parametrize(
    ("document", "sentence"),
    BROKEN,
    ids=[f"{number} {sentence}" for number, (_, sentence) in enumerate(BROKEN)],
)
def test_what_breaks_the_contract_is_named(document: object, sentence: str) -> None:
    assert fault(document) == sentence


def test_an_entry_larger_than_the_setting_is_refused_unread() -> None:
    raw = orjson.dumps(body())
    assert len(wire.parse(raw, max_bytes=len(raw))) == 1
    with pytest.raises(InvalidTrigger, match=f"is {len(raw)} bytes long, the most is {len(raw) - 1}"):
        wire.parse(raw, max_bytes=len(raw) - 1)


def test_a_map_of_eight_levels_is_deep_enough() -> None:
    assert parsed(body(ExternalTrigger=nested(8))).content == b'{"k":[{"k":[{"k":[{"k":["leaf"]}]}]}]}'


@pytest.mark.parametrize(
    "when", ["2026-01-31T12:30:00Z", "2026-01-31 18:00:00.000+0530", "2026-01-31T12:30+00", 1_769_862_600]
)
def test_a_time_is_iso_8601_with_an_offset_or_epoch_seconds(when: object) -> None:
    assert parsed(body(send_at=when)).send_at_ms == 1_769_862_600_000


def test_no_value_of_a_trigger_is_in_its_repr() -> None:
    trigger = parsed(body(to={"email": [SECRET]}, ExternalTrigger={"otp": "815-273"}))
    assert SECRET not in repr(trigger)
    assert "815-273" not in repr(trigger)


# encode


RECIPIENTS = (
    Recipient(Kind.IDENTITY, "u-17"),
    Recipient(Kind.EMAIL, "b@example.com"),
    Recipient(Kind.EMAIL, "a@example.com"),
)


def test_a_single_campaign_is_sent_as_a_string_id() -> None:
    assert wire.encode(1, RECIPIENTS[:1], (1709550110,), b'{"Name":"A"}') == (
        b'{"to":{"identity":["u-17"]},"campaign_id":"1709550110","ExternalTrigger":{"Name":"A"}}'
    )
    assert wire.path(1) == "/1/send/externaltrigger.json"


def test_several_campaigns_are_sent_as_a_list_of_integers() -> None:
    assert wire.encode(2, RECIPIENTS, (65, 66), b"{}") == (
        b'{"to":{"email":["b@example.com","a@example.com"],"identity":["u-17"]},'
        b'"campaign_id_list":[65,66],"ExternalTrigger":{}}'
    )
    assert wire.path(2) == "/2/send/externaltrigger.json"


def test_a_request_that_the_api_has_no_shape_for_is_a_bug() -> None:
    with pytest.raises(ValueError, match="exactly one campaign"):
        wire.encode(1, RECIPIENTS, (65, 66), b"{}")
    with pytest.raises(ValueError, match="at least one"):
        wire.encode(2, (), (65,), b"{}")
    with pytest.raises(ValueError, match="at least one"):
        wire.encode(2, RECIPIENTS, (), b"{}")


def test_the_headers_are_the_vendors_and_the_token_is_left_out_without_one() -> None:
    named = {
        "X-CleverTap-Account-Id": "A",
        "X-CleverTap-Passcode": "P",
        "Content-Type": "application/json",
    }
    assert wire.headers("A", "P", None) == named
    assert wire.headers("A", "P", "T") == named | {"X-CleverTap-Token": "T"}


# read


def test_the_documented_answers_are_read() -> None:
    success = b'{"message": "Added to queue for processing", "status": "success"}'
    assert wire.read(success) == Reply(Verdict.SUCCESS)
    refused = b'{"status": "fail", "error": "Invalid Credentials", "code": 400}'
    assert wire.read(refused) == Reply(Verdict.FAIL, "Invalid Credentials")
    partial = wire.read(PARTIAL)
    assert (partial.verdict, partial.dropped) == (Verdict.PARTIAL, frozenset({65, 66}))
    assert partial.error.endswith("lack type external trigger.")


@pytest.mark.parametrize(
    ("text", "dropped"),
    [
        ("queue: [65] as", {65}),
        ("queue: [ 65,66 ,67] as", {65, 66, 67}),
        ("queue: ['65', \"66\"]", {65, 66}),
        ("[see below] queue: [65] as", {65}),
        ("queue: [] as", set()),
        ("queue: 65 as", set()),
        ("queue: [" + "9" * 5000 + "]", set()),
    ],
)
def test_the_campaigns_of_a_partial_answer_are_those_in_its_brackets(text: str, dropped: set[int]) -> None:
    assert wire.read(orjson.dumps({"status": "partial", "error": text})).dropped == dropped


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", "empty body"),
        (b"<html>", "not JSON (6 bytes)"),
        (b"\xff", "not JSON (1 bytes)"),
        (b"[" * 5000, "not JSON (5000 bytes)"),
        (b"[]", "not a JSON object"),
        (b"{}", ""),
        (b'{"status": null}', ""),
        (b'{"status": ["success"]}', ""),
        (b'{"status": "queued", "message": "m"}', "m"),
        (b'{"error": "Too many concurrent requests"}', "Too many concurrent requests"),
        (b'{"error": {"code": 7}}', '{"code":7}'),
        (b'{"error": ' + b"[" * 500 + b"]" * 500 + b"}", "an error that is not text"),
    ],
)
def test_an_answer_of_another_shape_is_unreadable_and_keeps_its_text(answer: bytes, error: str) -> None:
    assert wire.read(answer) == Reply(Verdict.UNREADABLE, error)


def test_the_vendors_text_is_one_masked_line_of_bounded_length() -> None:
    said = f"Invalid recipients:\n\x1b[31m<{SECRET}>,\ta%40b.co or +44 20/+442071838750\u2028" + "x" * 400
    error = wire.read(orjson.dumps({"status": "fail", "error": said})).error
    assert error.startswith("Invalid recipients: [31m<[address]>, [address] or +44 20/[address] x")
    assert len(error) == wire.ERROR_MAX_CHARS
    assert error.isprintable()
