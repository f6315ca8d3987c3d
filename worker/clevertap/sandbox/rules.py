"""What CleverTap accepts: a call is read leniently, then judged strictly (External Trigger API page).

The variants in the vendor's samples do not pass, only the documented names: it is strict about what we send.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import orjson

from .answers import ACCEPTED, Answer, Refusal, partial, refused
from .scenario import CampaignState, Scenario

KINDS = ("email", "identity", "objectId")
MULTIPLE_MAX_CAMPAIGNS = 5
MULTIPLE_MAX_RECIPIENTS = 1000


class Endpoint(StrEnum):
    """The paths that take sends."""

    SINGLE = "/1/send/externaltrigger.json"  #: one campaign, named by a string; needs no token
    MULTIPLE = "/2/send/externaltrigger.json"  #: up to five campaigns, named by integers; needs the token


@dataclass(frozen=True, slots=True)
class Headers:
    """The headers that the API looks at; one that is missing is an empty string."""

    account: str
    passcode: str = field(repr=False)
    token: str = field(repr=False)
    content_type: str


@dataclass(frozen=True, slots=True)
class Call:
    """A request as far as it can be understood: right or wrong, faults match it and the ledger shows it."""

    endpoint: str
    #: The parsed body; None if it is not JSON.
    body: object
    #: Campaign ids as decimal strings, in the order of the call.
    campaigns: tuple[str, ...]
    #: Kind -> identity values, in the order of the call.
    recipients: Mapping[str, list[str]]

    @property
    def content(self) -> object:
        """The personalisation map; None if there is none."""
        return self.body.get("ExternalTrigger") if isinstance(self.body, dict) else None


@dataclass(frozen=True, slots=True)
class Judgement:
    """How CleverTap answers a call, and for which campaigns it accepts the call's recipients."""

    answer: Answer
    accepted_campaigns: tuple[str, ...] = ()


def read_call(endpoint: str, raw: bytes) -> Call:
    """Take from a body what can be understood of it; never raises."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return Call(endpoint, None, (), {})
    if not isinstance(body, dict):
        return Call(endpoint, body, (), {})
    return Call(endpoint, body, _campaigns(endpoint, body), _recipients(body.get("to")))


def judge(call: Call, headers: Headers, scenario: Scenario) -> Judgement:
    """Decide as CleverTap would. A call is accepted or refused for all its recipients at once."""
    if headers.content_type != "application/json":
        return Judgement(refused(400, Refusal.WRONG_CONTENT_TYPE))
    if not _known(call.endpoint, headers, scenario):
        return Judgement(refused(scenario.credentials_refused_with, Refusal.INVALID_CREDENTIALS))
    if not scenario.external_trigger_enabled:
        return Judgement(refused(400, Refusal.NOT_ENABLED))
    flaw = _flaw(call, scenario)
    if flaw is not None:
        return Judgement(refused(400, flaw))
    states = {campaign: scenario.state_of(campaign) for campaign in call.campaigns}
    if CampaignState.MISSING in states.values():
        return Judgement(refused(400, Refusal.CAMPAIGN_MISSING))
    bad = scenario.bad_recipients
    if bad and not all(bad.isdisjoint(values) for values in call.recipients.values()):
        return Judgement(refused(400, Refusal.INVALID_RECIPIENTS))
    if call.endpoint == Endpoint.SINGLE:
        return _judge_single(call, states[call.campaigns[0]])
    return _judge_multiple(call, states)


def _judge_single(call: Call, state: CampaignState) -> Judgement:
    match state:
        case CampaignState.RUNNING:
            return Judgement(ACCEPTED, call.campaigns)
        case CampaignState.STOPPED | CampaignState.NEEDS_APPROVAL:
            return Judgement(refused(400, Refusal.CAMPAIGN_STATUS))
        case CampaignState.NOT_READY:
            return Judgement(refused(400, Refusal.CAMPAIGN_NOT_READY))
        case CampaignState.WRONG_TYPE:
            return Judgement(refused(400, Refusal.CAMPAIGN_TYPE))
        case CampaignState.MISSING:
            return Judgement(refused(400, Refusal.CAMPAIGN_MISSING))


def _judge_multiple(call: Call, states: Mapping[str, CampaignState]) -> Judgement:
    accepted = tuple(c for c in call.campaigns if states[c] is CampaignState.RUNNING)
    dropped = [c for c in call.campaigns if states[c] is not CampaignState.RUNNING]
    return Judgement(partial(dropped) if dropped else ACCEPTED, accepted)


def _known(endpoint: str, headers: Headers, scenario: Scenario) -> bool:
    needs_token = endpoint == Endpoint.MULTIPLE
    if not headers.account or not headers.passcode or (needs_token and not headers.token):
        return False
    if scenario.credentials is None:
        return True
    held = scenario.credentials.get(headers.account)
    return (
        held is not None
        and headers.passcode == held.passcode
        and (not needs_token or headers.token == held.token)
    )


def _flaw(call: Call, scenario: Scenario) -> Refusal | None:
    """What is wrong with the body by itself, if anything."""
    if not isinstance(call.body, dict):
        return Refusal.NOT_JSON
    campaign_field = "campaign_id" if call.endpoint == Endpoint.SINGLE else "campaign_id_list"
    if not call.body.keys() <= {"to", campaign_field, "ExternalTrigger"}:
        return Refusal.UNKNOWN_FIELD
    return (
        _flaw_of_to(call, call.body.get("to"), scenario)
        or _flaw_of_campaigns(call, call.body.get(campaign_field))
        or _flaw_of_content(call.content)
    )


def _flaw_of_to(call: Call, to: object, scenario: Scenario) -> Refusal | None:
    if to is None:
        return Refusal.TO_MISSING
    # What the lenient reading left out is what is wrong.
    if not isinstance(to, dict) or call.recipients != to:
        return Refusal.TO_WRONG
    count = sum(map(len, call.recipients.values()))
    if count == 0:
        return Refusal.NO_RECIPIENTS
    if not all(all(values) for values in call.recipients.values()):
        return Refusal.INVALID_RECIPIENTS
    if call.endpoint == Endpoint.SINGLE and count > scenario.single_max_recipients:
        return (
            Refusal.ONE_RECIPIENT_ONLY if scenario.single_max_recipients == 1 else Refusal.TOO_MANY_RECIPIENTS
        )
    if call.endpoint == Endpoint.MULTIPLE and count > MULTIPLE_MAX_RECIPIENTS:
        return Refusal.TOO_MANY_RECIPIENTS
    return None


def _flaw_of_campaigns(call: Call, value: object) -> Refusal | None:
    if value is None or value in ("", []):
        return Refusal.CAMPAIGN_EMPTY
    if call.endpoint == Endpoint.SINGLE:
        right = isinstance(value, str) and value.isascii() and value.isdigit()
        return None if right else Refusal.CAMPAIGN_WRONG
    if not isinstance(value, list) or not all(type(campaign) is int for campaign in value):
        return Refusal.CAMPAIGNS_WRONG
    return Refusal.TOO_MANY_CAMPAIGNS if len(value) > MULTIPLE_MAX_CAMPAIGNS else None


def _flaw_of_content(content: object) -> Refusal | None:
    if content is None:
        return Refusal.CONTENT_MISSING
    right = isinstance(content, dict) and _has_string_leaves(content)
    return None if right else Refusal.CONTENT_WRONG


def _has_string_leaves(value: object) -> bool:
    match value:
        case str():
            return True
        case dict():
            return all(map(_has_string_leaves, value.values()))
        case list():
            return all(map(_has_string_leaves, value))
        case _:
            return False


def _campaigns(endpoint: str, body: Mapping[str, object]) -> tuple[str, ...]:
    if endpoint == Endpoint.SINGLE:
        campaign = body.get("campaign_id")
        return (campaign,) if isinstance(campaign, str) else ()
    campaigns = body.get("campaign_id_list")
    return tuple(map(str, campaigns)) if isinstance(campaigns, list) else ()


def _recipients(to: object) -> dict[str, list[str]]:
    if not isinstance(to, dict):
        return {}
    return {
        kind: values
        for kind, values in to.items()
        if kind in KINDS and isinstance(values, list) and all(type(value) is str for value in values)
    }
