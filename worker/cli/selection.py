"""Which deliveries a command is about: the options that ``outcomes`` and ``retry`` share, and the look-up."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import typer

from worker.cli.times import When, parse_when
from worker.core.model import Kind, Status
from worker.store.outcomes import Filter, Outcome, Outcomes


def _when(text: str) -> When:
    try:
        return parse_when(text)
    except ValueError as fault:
        raise typer.BadParameter(str(fault)) from None


TriggerOption = Annotated[
    str | None, typer.Option("--trigger", metavar="ENTRY", help="Of the trigger with this stream entry id.")
]
ProducerIdOption = Annotated[
    str | None, typer.Option("--id", metavar="ID", help="Of triggers with this producer's id.")
]
RecipientOption = Annotated[
    str | None,
    typer.Option("--recipient", metavar="VALUE", help="To this e-mail address, identity or objectId."),
]
KindOption = Annotated[
    Kind | None, typer.Option("--kind", help="What --recipient is; any of them if not given.")
]
CampaignsOption = Annotated[
    list[int] | None, typer.Option("--campaign", metavar="N", help="Of this campaign; may be repeated.")
]
StatusesOption = Annotated[
    list[Status] | None,
    typer.Option("--status", metavar="STATUS", help=f"One of {', '.join(Status)}; may be repeated."),
]
SinceOption = Annotated[
    When | None,
    typer.Option(
        "--since",
        metavar="WHEN",
        parser=_when,
        help="Last changed at or after WHEN: 15m, 2h, 3d (ago), or ISO 8601 with an offset.",
    ),
]
UntilOption = Annotated[
    When | None,
    typer.Option("--until", metavar="WHEN", parser=_when, help="Last changed before WHEN."),
]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for; everything that is given must hold."""

    trigger: str | None = None
    producer_id: str | None = None
    recipient: str | None = None
    kind: Kind | None = None
    campaigns: frozenset[int] = frozenset()
    statuses: frozenset[Status] = frozenset()
    since: When | None = None
    until: When | None = None

    def filter(self, now_ms: int) -> Filter:
        """The part that a cell can answer; ``now_ms`` is the server's clock."""
        return Filter(
            campaigns=self.campaigns,
            statuses=self.statuses,
            since_ms=self.since.resolved(now_ms) if self.since else None,
            until_ms=self.until.resolved(now_ms) if self.until else None,
        )

    def find(self, outcomes: Outcomes, only: Filter) -> Iterator[Outcome]:
        """The deliveries that are meant, as a stream.

        By trigger or producer's id in the order in which they were accepted, else the newest first.
        """
        if self.trigger is not None:
            found = outcomes.by_trigger(self.trigger, only)
        elif self.producer_id is not None:
            found = outcomes.by_producer_id(self.producer_id, only)
        elif self.recipient is not None:
            # One person's deliveries are few, whatever the account sends: sorting them is no burden.
            one = outcomes.by_recipient(self.recipient, self.kind, only)
            found = iter(sorted(one, key=lambda outcome: -outcome.delivery))
        else:
            found = outcomes.select(only)
        return filter(self._admits, found)

    def _admits(self, outcome: Outcome) -> bool:
        return (
            (self.trigger is None or outcome.trigger == self.trigger)
            and (self.producer_id is None or outcome.producer_id == self.producer_id)
            and (self.recipient is None or outcome.recipient.value == self.recipient)
            and (self.kind is None or outcome.recipient.kind is self.kind)
        )


def check_entry(entry: str) -> None:
    """Raises a usage error where a text cannot be a stream entry's id."""
    if not re.fullmatch(r"[0-9]{1,19}-[0-9]{1,19}", entry):
        raise typer.BadParameter("a stream entry's id looks like 1764000000000-0 (a producer's own: --id).")


def check_kind(recipient: str | None, kind: Kind | None) -> None:
    """Raises a usage error where a kind is given without a recipient."""
    if kind is not None and recipient is None:
        raise typer.BadParameter("--kind says what --recipient is: give that too.")
