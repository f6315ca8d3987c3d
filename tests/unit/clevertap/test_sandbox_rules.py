"""The sandbox's rules, call by call: what CleverTap accepts, and the words in which it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from worker.clevertap.sandbox import CampaignState, Credentials, Scenario
from worker.clevertap.sandbox.answers import ACCEPTED
from worker.clevertap.sandbox.rules import Endpoint, Headers, Judgement, judge, read_call

HEADERS = Headers("acc-1", "pass-1", "token-1", "application/json")
CONTENT = {"Name": "John Doe", "items": [{"name": "Apple Watch", "prices": ["$8.66"]}]}
SINGLE: dict[str, Any] = {
    "to": {"email": ["a@example.com"]},
    "campaign_id": "1709550110",
    "ExternalTrigger": CONTENT,
}
MULTIPLE: dict[str, Any] = {
    "to": {"email": ["a@example.com", "b@example.com"], "identity": ["u-17"], "objectId": ["o-1"]},
    "campaign_id_list": [11, 12, 13, 14, 15],
    "ExternalTrigger": CONTENT,
}


def judged(
    endpoint: Endpoint, body: object, scenario: Scenario | None = None, headers: Headers = HEADERS
) -> Judgement:
    return judge(read_call(endpoint, json.dumps(body).encode()), headers, scenario or Scenario())


def refusal(judgement: Judgement) -> tuple[int, str]:
    """The code and the words of a refusal, after a look at its shape."""
    body = json.loads(judgement.answer.body)
    assert body == {"status": "fail", "error": body["error"], "code": judgement.answer.status}
    assert judgement.accepted_campaigns == ()
    return judgement.answer.status, body["error"]


def without(body: dict[str, Any], field: str) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != field}


def test_a_documented_call_is_accepted_in_the_vendors_words() -> None:
    single = judged(Endpoint.SINGLE, SINGLE)
    multiple = judged(Endpoint.MULTIPLE, MULTIPLE)
    assert single == Judgement(ACCEPTED, ("1709550110",))
    assert multiple == Judgement(ACCEPTED, ("11", "12", "13", "14", "15"))
    assert json.loads(ACCEPTED.body) == {"message": "Added to queue for processing", "status": "success"}
    assert ACCEPTED.status == 200


@pytest.mark.parametrize("kind", ["email", "identity", "objectId"])
def test_every_kind_of_recipient_is_accepted(kind: str) -> None:
    assert judged(Endpoint.SINGLE, SINGLE | {"to": {kind: ["x"]}}).answer == ACCEPTED


@pytest.mark.parametrize("endpoint", Endpoint)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"to": None}, "'to' is missing"),
        ({"to": []}, "'to' must hold lists of strings"),
        ({"to": "a@example.com"}, "'to' must hold lists of strings"),
        ({"to": {"email": "a@example.com"}}, "'to' must hold lists of strings"),
        ({"to": {"email": [17]}}, "'to' must hold lists of strings"),
        ({"to": {"email": ["a@example.com"], "identity": None}}, "'to' must hold lists of strings"),
        ({"to": {"phone": ["+49"]}}, "'to' must hold lists of strings"),
        ({"to": {}}, "'to' holds no recipients"),
        ({"to": {"email": []}}, "'to' holds no recipients"),
        ({"to": {"email": [""]}}, "Invalid recipients"),
        ({"ExternalTrigger": None}, "'ExternalTrigger' is missing"),
        ({"ExternalTrigger": "Name"}, "'ExternalTrigger' must be a map"),
        ({"ExternalTrigger": ["Name"]}, "'ExternalTrigger' must be a map"),
        ({"ExternalTrigger": {"n": 1}}, "only the String data type"),
        ({"ExternalTrigger": {"n": True}}, "only the String data type"),
        ({"ExternalTrigger": {"n": None}}, "only the String data type"),
        ({"ExternalTrigger": {"a": [{"b": {"c": 1.5}}]}}, "only the String data type"),
        ({"content": CONTENT}, "a field that is not known"),
        ({"d": []}, "a field that is not known"),
    ],
)
def test_a_flaw_of_the_body_refuses_the_call(endpoint: Endpoint, change: dict[str, Any], words: str) -> None:
    good = SINGLE if endpoint is Endpoint.SINGLE else MULTIPLE
    code, error = refusal(judged(endpoint, good | change))
    assert code == 400
    assert words in error


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"campaign_id": ""}, "Campaign id is empty"),
        ({"campaign_id": None}, "Campaign id is empty"),
        ({"campaign_id": 1709550110}, "string of digits"),
        ({"campaign_id": ["1709550110"]}, "string of digits"),
        ({"campaign_id": "17a"}, "string of digits"),
        ({"campaign_id_list": [1]}, "a field that is not known"),
        ({"to": {"email": ["a"], "identity": ["b"]}}, "only one recipient identity is accepted"),
    ],
)
def test_the_single_endpoint_takes_one_string_and_one_recipient(change: dict[str, Any], words: str) -> None:
    code, error = refusal(judged(Endpoint.SINGLE, SINGLE | change))
    assert code == 400
    assert words in error


def test_a_missing_campaign_id_is_empty() -> None:
    assert refusal(judged(Endpoint.SINGLE, without(SINGLE, "campaign_id"))) == (400, "Campaign id is empty")
    multiple = judged(Endpoint.MULTIPLE, without(MULTIPLE, "campaign_id_list"))
    assert refusal(multiple) == (400, "Campaign id is empty")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"campaign_id_list": []}, "Campaign id is empty"),
        ({"campaign_id_list": ["11"]}, "list of integers"),
        ({"campaign_id_list": [True]}, "list of integers"),
        ({"campaign_id_list": [1.0]}, "list of integers"),
        ({"campaign_id_list": 11}, "list of integers"),
        ({"campaign_id_list": [1, 2, 3, 4, 5, 6]}, "More than 5 campaign ids"),
        ({"campaign_id": [11]}, "a field that is not known"),
    ],
)
def test_the_multiple_endpoint_takes_a_list_of_five_integers(change: dict[str, Any], words: str) -> None:
    code, error = refusal(judged(Endpoint.MULTIPLE, MULTIPLE | change))
    assert code == 400
    assert words in error


def test_a_thousand_recipients_are_counted_over_all_kinds() -> None:
    emails = [f"p{i}@example.com" for i in range(600)]
    full = {"email": emails, "identity": [f"u{i}" for i in range(400)]}
    over = {"email": emails, "identity": [f"u{i}" for i in range(401)]}
    assert judged(Endpoint.MULTIPLE, MULTIPLE | {"to": full}).answer == ACCEPTED
    code, error = refusal(judged(Endpoint.MULTIPLE, MULTIPLE | {"to": over}))
    assert code == 400
    assert "more recipient identities" in error


def test_the_single_endpoint_takes_more_recipients_if_the_scenario_allows_it() -> None:
    three = {"to": {"email": ["a", "b"], "identity": ["c"]}}
    assert judged(Endpoint.SINGLE, SINGLE | three, Scenario(single_max_recipients=3)).answer == ACCEPTED
    refused = judged(Endpoint.SINGLE, SINGLE | three, Scenario(single_max_recipients=2))
    assert refusal(refused)[0] == 400


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"x"', b"null", b"\xff"])
def test_a_body_that_is_no_json_object_is_refused(raw: bytes) -> None:
    judgement = judge(read_call(Endpoint.SINGLE, raw), HEADERS, Scenario())
    assert refusal(judgement) == (400, "Payload is not a valid JSON object")


@pytest.mark.parametrize(
    ("headers", "endpoints"),
    [
        (Headers("", "pass-1", "token-1", "application/json"), set(Endpoint)),
        (Headers("acc-1", "", "token-1", "application/json"), set(Endpoint)),
        (Headers("acc-2", "pass-1", "token-1", "application/json"), set(Endpoint)),
        (Headers("acc-1", "pass-2", "token-1", "application/json"), set(Endpoint)),
        (Headers("acc-1", "pass-1", "", "application/json"), {Endpoint.MULTIPLE}),
        (Headers("acc-1", "pass-1", "token-2", "application/json"), {Endpoint.MULTIPLE}),
        (HEADERS, set()),
    ],
)
def test_wrong_credentials_are_refused_and_only_the_multiple_endpoint_asks_for_the_token(
    headers: Headers, endpoints: set[Endpoint]
) -> None:
    scenario = Scenario(credentials={"acc-1": Credentials("pass-1", "token-1")})
    for endpoint, body in ((Endpoint.SINGLE, SINGLE), (Endpoint.MULTIPLE, MULTIPLE)):
        judgement = judged(endpoint, body, scenario, headers)
        if endpoint in endpoints:
            assert refusal(judgement) == (401, "Invalid Credentials")
        else:
            assert judgement.answer == ACCEPTED


def test_an_account_without_a_token_may_not_use_the_multiple_endpoint() -> None:
    scenario = Scenario(credentials={"acc-1": Credentials("pass-1")})
    assert judged(Endpoint.SINGLE, SINGLE, scenario).answer == ACCEPTED
    assert refusal(judged(Endpoint.MULTIPLE, MULTIPLE, scenario)) == (401, "Invalid Credentials")


def test_any_credentials_pass_if_none_are_set_but_not_empty_ones() -> None:
    someone = Headers("anybody", "x", "y", "application/json")
    nobody = Headers("anybody", "", "", "application/json")
    assert judged(Endpoint.MULTIPLE, MULTIPLE, headers=someone).answer == ACCEPTED
    assert refusal(judged(Endpoint.MULTIPLE, MULTIPLE, headers=nobody)) == (401, "Invalid Credentials")


def test_credentials_may_be_refused_with_400_as_in_the_vendors_sample() -> None:
    scenario = Scenario(credentials={}, credentials_refused_with=400)
    assert refusal(judged(Endpoint.SINGLE, SINGLE, scenario)) == (400, "Invalid Credentials")


def test_another_content_type_is_refused() -> None:
    headers = Headers("acc-1", "pass-1", "token-1", "text/plain")
    assert refusal(judged(Endpoint.SINGLE, SINGLE, headers=headers))[0] == 400


def test_an_account_without_external_trigger_is_refused() -> None:
    judgement = judged(Endpoint.SINGLE, SINGLE, Scenario(external_trigger_enabled=False))
    assert refusal(judgement) == (400, "External Trigger is not enabled for this account")


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (CampaignState.STOPPED, "Campaign has no valid status"),
        (CampaignState.NEEDS_APPROVAL, "Campaign has no valid status"),
        (CampaignState.NOT_READY, "Campaign is not ready"),
        (CampaignState.WRONG_TYPE, "Campaign is not of type external trigger"),
        (CampaignState.MISSING, "Campaign does not exist"),
    ],
)
def test_the_single_endpoint_refuses_a_campaign_that_does_not_run(state: CampaignState, error: str) -> None:
    judgement = judged(Endpoint.SINGLE, SINGLE, Scenario(campaigns={"1709550110": state}))
    assert refusal(judgement) == (400, error)


def test_the_multiple_endpoint_names_the_campaigns_it_drops_and_accepts_the_others() -> None:
    states = {
        "11": CampaignState.STOPPED,
        "12": CampaignState.NOT_READY,
        "14": CampaignState.NEEDS_APPROVAL,
        "15": CampaignState.WRONG_TYPE,
    }
    judgement = judged(Endpoint.MULTIPLE, MULTIPLE, Scenario(campaigns=states))
    assert judgement.accepted_campaigns == ("13",)
    assert judgement.answer.status == 200
    assert json.loads(judgement.answer.body) == {
        "message": "Added to queue for processing",
        "status": "partial",
        "code": 200,
        "error": "The following campaignIDs have not been added to the processing queue: [11, 12, 14, 15] "
        "as they have either been stopped, or are not ready, or require approval or lack type external "
        "trigger. ",
    }


def test_the_multiple_endpoint_refuses_the_whole_call_for_a_campaign_that_does_not_exist() -> None:
    judgement = judged(Endpoint.MULTIPLE, MULTIPLE, Scenario(campaigns={"13": CampaignState.MISSING}))
    assert refusal(judgement) == (400, "Campaign does not exist")


def test_only_known_campaigns_exist_if_the_scenario_says_so() -> None:
    scenario = Scenario(campaigns={"1": CampaignState.RUNNING}, other_campaigns=CampaignState.MISSING)
    assert judged(Endpoint.SINGLE, SINGLE | {"campaign_id": "1"}, scenario).answer == ACCEPTED
    judgement = judged(Endpoint.SINGLE, SINGLE | {"campaign_id": "2"}, scenario)
    assert refusal(judgement) == (400, "Campaign does not exist")


@pytest.mark.parametrize("recipient", ["b@example.com", "u-17", "o-1"])
def test_one_bad_recipient_of_any_kind_refuses_the_whole_call(recipient: str) -> None:
    judgement = judged(Endpoint.MULTIPLE, MULTIPLE, Scenario(bad_recipients=frozenset({recipient})))
    assert refusal(judgement) == (400, "Invalid recipients")


@pytest.mark.parametrize(
    "wrong",
    [{"ceiling": -1}, {"single_max_recipients": 0}, {"latency_ms": -1}, {"latency_ms": (2, 1)}],
)
def test_a_scenario_refuses_a_value_that_makes_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Scenario(**wrong)


def test_credentials_are_never_shown() -> None:
    scenario = Scenario(credentials={"acc-1": Credentials("pass-1", "token-1")})
    assert "pass-1" not in f"{scenario} {HEADERS}"
    assert "token-1" not in f"{scenario} {HEADERS}"
