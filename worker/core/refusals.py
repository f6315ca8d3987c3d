"""The causes of a refusal, recognised in the vendor's text.

A refused request (HTTP 400, or 200 with ``status: fail``) names its cause only in free text. The page
External Trigger API lists the causes, not their words ("Invalid Credentials" is its only sample), so each
pattern looks for the words that its cause cannot do without. A text may fit several: the decision table asks
in its own order.
"""

from __future__ import annotations

import re


def _any_of(*alternatives: str) -> re.Pattern[str]:
    return re.compile("|".join(alternatives), re.IGNORECASE)


_CAMPAIGN = r"\b(campaign|target).{0,80}?"
_PERSON = r"(recipient|identit|e-?mail|object.?id|\busers?\b)"
_TO = r"(?<!\w)['\"`]to['\"`](?!\w)"

#: Wrong account id, passcode or token; a call to another region's host looks the same.
CREDENTIALS = _any_of(
    r"credential", r"passcode", r"unauthori[sz]ed", r"(invalid|unknown|wrong|bad).{0,20}(token|account)"
)
#: The account may not use this API.
NOT_ENABLED = _any_of(
    r"external.?trigger.{0,40}\b(not|isn'?t)\b.{0,20}(enabled|activated|allowed)",
    r"(feature|account).{0,40}\bnot\b.{0,20}enabled",
    r"\bnot\b.{0,20}enabled.{0,40}account",
)
#: Over the concurrency limit, said without HTTP 429.
THROTTLED = _any_of(r"too many (concurrent )?(requests|calls)", r"concurren.{0,40}(limit|exceed)")
CAMPAIGN_MISSING = _any_of(
    _CAMPAIGN + r"(does ?n[o']t exist|do ?n[o']t exist|not exist|not found|unknown)",
    r"(no such|unknown|invalid).{0,10}\bcampaign",
)
CAMPAIGN_NOT_READY = _any_of(
    _CAMPAIGN + r"(valid.{0,3}status|\bnot\b.{0,10}(ready|running|active|approved))",
    _CAMPAIGN + r"(stopped|approval|of type|lack)",
)
#: The request names no campaign.
CAMPAIGN_EMPTY = _any_of(
    _CAMPAIGN + r"(empty|missing|required|mandatory|blank|null|absent)",
    r"(empty|missing|required|blank|no)\b.{0,20}\bcampaign",
)
#: ``to`` is missing or empty, or holds several where one is allowed (``/1``): about the request as a whole.
TO_WRONG = _any_of(
    _TO + r".{0,30}(missing|required|mandatory|empty|absent|null|not present)",
    r"^to .{0,20}(missing|required|mandatory|empty|absent|null|not present)",
    r"(missing|required|mandatory|empty|no)\b.{0,30}" + _TO,
    r"\b(only (one|1|a single)|more than (one|1)|several|multiple)\b.{0,20}\b(recipient|identit)",
    r"\b(no|missing|empty)\b.{0,20}\b(recipient|identit)",
    r"\brecipients?\b.{0,20}\b(missing|empty|required)",
)
INVALID_RECIPIENTS = _any_of(
    r"\b(invalid|malformed|bad|unknown|not valid)\b.{0,40}" + _PERSON,
    _PERSON + r".{0,60}\b(invalid|malformed|not valid|does not exist|not found)",
)
