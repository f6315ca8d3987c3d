"""What CleverTap answers, in its own words and shapes (External Trigger API and API Errors pages)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import orjson


class Refusal(StrEnum):
    """The `error` text of a refusal.

    The vendor publishes the words of INVALID_CREDENTIALS, INVALID_RECIPIENTS and OVER_LIMIT. Of the other
    causes it only describes when they occur; their words here follow that description.
    """

    INVALID_CREDENTIALS = "Invalid Credentials"
    INVALID_RECIPIENTS = "Invalid recipients"
    OVER_LIMIT = "Too many concurrent requests"
    NOT_ENABLED = "External Trigger is not enabled for this account"
    WRONG_CONTENT_TYPE = "Content-Type must be application/json"
    NOT_JSON = "Payload is not a valid JSON object"
    TOO_LARGE = "Payload is too large"
    UNKNOWN_FIELD = "Payload holds a field that is not known"
    TO_MISSING = "Field 'to' is missing"
    TO_WRONG = "Field 'to' must hold lists of strings under email, identity or objectId"
    NO_RECIPIENTS = "Field 'to' holds no recipients"
    ONE_RECIPIENT_ONLY = "Field 'to' holds several recipients: only one recipient identity is accepted"
    TOO_MANY_RECIPIENTS = "Field 'to' holds more recipient identities than a call may carry"
    CAMPAIGN_EMPTY = "Campaign id is empty"
    CAMPAIGN_WRONG = "Campaign id must be a string of digits"
    CAMPAIGNS_WRONG = "Campaign ids must be a list of integers"
    TOO_MANY_CAMPAIGNS = "More than 5 campaign ids"
    CONTENT_MISSING = "Field 'ExternalTrigger' is missing"
    CONTENT_WRONG = (
        "Field 'ExternalTrigger' must be a map: only the String data type is supported for its values"
    )
    CAMPAIGN_MISSING = "Campaign does not exist"
    CAMPAIGN_STATUS = "Campaign has no valid status"
    CAMPAIGN_NOT_READY = "Campaign is not ready"
    CAMPAIGN_TYPE = "Campaign is not of type external trigger"
    NO_SUCH_RESOURCE = "Resource not found"
    WRONG_METHOD = "Method not allowed"


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer: its code, its body and the headers beyond the ordinary ones."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


ACCEPTED = Answer(200, b'{"message": "Added to queue for processing", "status": "success"}')


def partial(dropped: Sequence[str]) -> Answer:
    """The answer of `/2` that names the campaigns it dropped; the blank at the end is the vendor's."""
    error = (
        "The following campaignIDs have not been added to the processing queue: "
        f"[{', '.join(dropped)}] as they have either been stopped, or are not ready, or require approval "
        "or lack type external trigger. "
    )
    return _answer(
        200, {"message": "Added to queue for processing", "status": "partial", "code": 200, "error": error}
    )


def refused(status: int, error: str) -> Answer:
    """The answer that refuses a call as a whole."""
    return _answer(status, {"status": "fail", "error": error, "code": status})


def _answer(status: int, body: dict[str, object]) -> Answer:
    return Answer(status, orjson.dumps(body))
