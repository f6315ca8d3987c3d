"""What an accepted trigger must become, read by other means than the product's own parser.

Python's own json stands for the reading; of a repeated key the last one counts in both. It says nothing of
whether a trigger must be accepted: only what follows if it is.
"""

from __future__ import annotations

import json
from collections import Counter

#: (campaign, kind of recipient, recipient): what is sent to whom.
Pair = tuple[str, str, str]


def deliveries(raw: bytes) -> Counter[Pair]:
    """How often each recipient of each campaign is a delivery of this trigger."""
    found: Counter[Pair] = Counter()
    for trigger in _triggers(raw):
        for pair in _pairs(trigger):
            found[pair] += 1
    return found


def contents(raw: bytes) -> set[tuple[Pair, str]]:
    """Each pair with its content, as canonical JSON."""
    return {
        (pair, canonical(trigger["ExternalTrigger"] if "ExternalTrigger" in trigger else trigger["content"]))
        for trigger in _triggers(raw)
        for pair in _pairs(trigger)
    }


def canonical(content: object) -> str:
    """Equal for equal contents, whatever the order of their keys."""
    return json.dumps(content, sort_keys=True)


def _triggers(raw: bytes) -> list[dict[str, object]]:
    document = json.loads(raw.decode())
    return list(document["d"]) if "d" in document else [document]


def _pairs(trigger: dict[str, object]) -> list[Pair]:
    to = trigger["to"]
    assert isinstance(to, dict)
    named = trigger.get("campaign_id", trigger.get("campaign_id_list"))
    campaigns = {str(int(str(c))) for c in (named if isinstance(named, list) else [named])}
    return [
        (campaign, kind, value)
        for kind in ("email", "identity", "objectId")
        for value in to.get(kind, ())
        for campaign in sorted(campaigns)
    ]
