"""What an answer means for the door itself, beside what it means for the batch that knocked.

    Lesson = Nothing     no call was made
           | Fine        the API deals with our calls (whatever it thinks of this one's recipients)
           | Throttled   somebody uses the account's slots: fewer permits for a while
           | Trouble     it is down or out of reach: after a few in a row nobody calls but a probe
           | Parked      it refuses the account, or a campaign, until somebody changes something there

A door that is shut costs no delivery an attempt: what waits goes on waiting, and a probe, one small call of
real work, finds out when it opens.
"""

from __future__ import annotations

from dataclasses import dataclass

from worker.core.decisions import Accept, Decision, Park, Reject, Retry, Split, Unsure
from worker.core.model import Reason

#: Calls in a row without a usable answer that shut the door for all but a probe.
TROUBLE_AFTER = 5
#: Milliseconds until the next probe of an API in trouble: an outage of an hour costs some ninety calls, and
#: its end is seen within 45 s.
TROUBLE_PAUSES_MS = (1_000, 2_000, 4_000, 8_000, 15_000, 30_000, 45_000)
#: Milliseconds until the next probe of something that a person has to mend (credentials, a stopped campaign).
PARKED_PAUSES_MS = (60_000, 120_000, 300_000, 600_000, 900_000)
#: Longest time that a Retry-After holds the door shut, milliseconds.
HOLD_AT_MOST_MS = 600_000


@dataclass(frozen=True, slots=True)
class Nothing:
    """No call was made: whoever was to probe gives its turn back."""


@dataclass(frozen=True, slots=True)
class Fine:
    """Calls are dealt with. ``campaigns`` were accepted or do not exist: they are not merely stopped."""

    campaigns: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Throttled:
    """Too many requests at once. ``hold_ms`` is what a Retry-After asked for, or 0."""

    hold_ms: int


@dataclass(frozen=True, slots=True)
class Trouble:
    """No usable answer."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Parked:
    """Refused until somebody changes something. ``campaigns`` None: the whole account."""

    reason: Reason
    campaigns: frozenset[int] | None


Lesson = Nothing | Fine | Throttled | Trouble | Parked


def lesson(decision: Decision, campaigns: tuple[int, ...]) -> Lesson:
    """What a decision about a batch for these campaigns teaches about the door."""
    match decision:
        case Accept(rejected=rejected) if rejected:
            return Parked(Reason.CAMPAIGN_NOT_READY, rejected)
        case Accept():
            return Fine(frozenset(campaigns))
        case Retry(reason=Reason.THROTTLED, not_before_ms_from_now=wait):
            return Throttled(min(wait or 0, HOLD_AT_MOST_MS))
        case Retry(reason=Reason.NOT_CONNECTED, counts=False):
            # This process was held up and did not call: no fault of the API.
            return Nothing()
        case Retry(reason=Reason.SERVER_ERROR | Reason.NOT_CONNECTED as reason):
            return Trouble(reason)
        case Unsure(reason=Reason.WORKER_DIED):
            return Nothing()
        case Unsure(reason=reason):
            return Trouble(reason)
        case Park(reason=reason, campaigns=parked):
            return Parked(reason, parked)
        case Reject(reason=Reason.CAMPAIGN_MISSING):
            # Were it parked, what waits for it would be rejected by one small probe after the other.
            return Fine(frozenset(campaigns))
        case Reject() | Split() | Retry():
            return Fine()


#: What is likely wrong, for whoever reads why something is parked.
CAUSES: dict[Reason, str] = {
    Reason.CREDENTIALS: "account id, passcode or token are wrong, or the host is another region's",
    Reason.NOT_ENABLED: "External Trigger is not enabled for the account, or the passcode may not use it",
    Reason.WRONG_CALL: "the base URL does not lead to the External Trigger API",
    Reason.CAMPAIGN_NOT_READY: "the campaign is stopped, not ready, waits for approval or is of another type",
    Reason.SERVER_ERROR: "the API answers with errors of its own",
    Reason.NOT_CONNECTED: "no connection to the API: network, DNS, TLS or the host's name",
    Reason.NO_ANSWER: "the API does not answer in time",
    Reason.UNREADABLE_ANSWER: "something that is not the API answers: a proxy, or the wrong host",
}
