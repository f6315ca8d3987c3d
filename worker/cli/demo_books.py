"""The two books of the demo, compared: what the sandbox accepted, and what Volley says became of it.

An entry is (campaign, kind, recipient, content): a person may well get two messages of one campaign, but
never the same one twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from worker.clevertap.sandbox import AcceptedPair, Totals, Verdict, content_digest
from worker.core.model import Status, Trigger
from worker.store.outcomes import Outcome

#: Campaign, kind, recipient, digest of the content as the ledger makes it.
Entry = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Finding:
    """One comparison: what must hold, whether it does, and what was counted. Holds no recipient."""

    claim: str
    holds: bool
    counted: str


def ledger_digests(triggers: Iterable[Trigger]) -> dict[str, str]:
    """The digest that Volley gives a content -> the one that the ledger gives it."""
    import orjson

    return {trigger.digest: content_digest(orjson.loads(trigger.content)) for trigger in triggers}


def compare(
    outcomes: Iterable[Outcome],
    pairs: Iterable[AcceptedPair],
    totals: Totals,
    *,
    digests: Mapping[str, str],
    expected: Mapping[tuple[int, Status], int],
    permits: int,
    dead_letters: tuple[int, int],
) -> list[Finding]:
    """All comparisons. ``dead_letters`` are those found and those expected."""
    found = list(outcomes)
    by_number = {outcome.delivery: outcome for outcome in found}
    entry = {outcome.delivery: _entry(outcome, digests) for outcome in found}
    booked: Counter[Entry] = Counter()
    for pair in pairs:
        booked.update((pair.campaign, pair.kind, pair.recipient, digest) for digest in pair.contents)

    def entries(status: Status) -> Counter[Entry]:
        return Counter(entry[outcome.delivery] for outcome in found if outcome.status is status)

    accepted, unknown = entries(Status.ACCEPTED), entries(Status.UNKNOWN)
    once = sum(booked[each] == count == 1 for each, count in accepted.items())
    beyond = booked - accepted
    explained = beyond - (beyond - unknown)
    duplicates = [outcome for outcome in found if outcome.status is Status.DUPLICATE]
    right = sum(_repeats(outcome, by_number, entry) for outcome in duplicates)
    counts = Counter((outcome.campaign, outcome.status) for outcome in found)
    over = totals.verdicts.get(Verdict.OVER_LIMIT, 0)
    most = max(totals.max_in_flight.values(), default=0)
    return [
        Finding(
            "every delivery enqueued has one outcome, the one that it must have",
            counts == Counter(expected),
            f"{counts.total():,} of {sum(expected.values()):,}",
        ),
        Finding(
            "every accepted delivery is in the ledger exactly once",
            once == len(accepted) == accepted.total(),
            f"{once:,} of {accepted.total():,}",
        ),
        Finding(
            "the ledger holds nothing else, but for unknown deliveries",
            beyond == explained,
            f"{beyond.total():,} more, {explained.total():,} of them unknown",
        ),
        Finding(
            "unknown are those alone whose request got no answer",
            unknown.total() == expected_total(expected, Status.UNKNOWN),
            f"{unknown.total():,}: {explained.total():,} had been accepted, "
            f"{unknown.total() - explained.total():,} had not",
        ),
        Finding(
            "every duplicate repeats a delivery that was sent",
            right == len(duplicates) == expected_total(expected, Status.DUPLICATE),
            f"{right:,} of {len(duplicates):,}",
        ),
        Finding("no message was accepted twice", totals.duplicates == 0, f"{totals.duplicates:,}"),
        Finding(
            f"never more than {permits} requests were in flight, none was over the limit",
            most <= permits and over == 0,
            f"at most {most}, over the limit {over:,}",
        ),
        Finding(
            "what could not be understood is a dead letter",
            dead_letters[0] == dead_letters[1],
            f"{dead_letters[0]:,} of {dead_letters[1]:,}",
        ),
    ]


def expected_total(expected: Mapping[tuple[int, Status], int], status: Status) -> int:
    """Deliveries that must end so, over all campaigns."""
    return sum(count for (_, each), count in expected.items() if each is status)


def _entry(outcome: Outcome, digests: Mapping[str, str]) -> Entry:
    recipient = outcome.recipient
    digest = digests.get(outcome.digest, "")
    return str(outcome.campaign), recipient.kind.value, recipient.value, digest


def _repeats(duplicate: Outcome, by_number: Mapping[int, Outcome], entry: Mapping[int, Entry]) -> bool:
    """Whether the delivery that it names is the same message to the same person, and was not a duplicate too."""
    first = by_number.get(duplicate.duplicate_of or 0)
    return (
        first is not None
        and entry[first.delivery] == entry[duplicate.delivery]
        and first.status in {Status.ACCEPTED, Status.UNKNOWN}
    )
