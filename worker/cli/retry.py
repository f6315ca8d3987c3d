"""`volley retry`: send again what ended without an acceptance.

Life of a run: the numbers of all deliveries that match are collected first, since what is sent again changes
and would be met again; the preview tells what they are; then each page is read anew and taken back to pending
in one atomic step. A delivery that has moved on since is left alone, so a second run sends nothing twice.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from config.settings import Account, Endpoint
from worker.cli.account import opened, send_hint
from worker.cli.app import (
    DATA_FOLDER,
    AccountOption,
    DataOption,
    ExitCode,
    JsonOption,
    Refusal,
    YesOption,
    app,
    complain,
    confirm,
    console,
    print_json,
)
from worker.cli.progress import bar
from worker.cli.selection import (
    CampaignsOption,
    KindOption,
    ProducerIdOption,
    RecipientOption,
    SinceOption,
    StatusesOption,
    TriggerOption,
    UntilOption,
    Wanted,
    check_kind,
)
from worker.cli.show import STYLES
from worker.core.model import RETRYABLE, Reason, Status
from worker.store import Store
from worker.store.batches import Requeued
from worker.store.control import ALL
from worker.store.outcomes import Filter, Outcome

#: What is taken where no --status is given. The others are either perhaps sent, or were ended on purpose.
DEFAULT_STATUSES = frozenset({Status.FAILED, Status.REJECTED})
#: Deliveries that one atomic step takes back.
_PAGE = 100

_WARNING = (
    "{count} of these are unknown: their request may have reached CleverTap although no answer came. "
    "Whoever got the message then gets it a second time."
)


@dataclass
class _Found:
    """What matches: the numbers, and what the preview tells of them."""

    now_ms: int
    deliveries: array[int] = field(default_factory=lambda: array("Q"))
    rows: Counter[tuple[Status, Reason, int]] = field(default_factory=Counter)
    recipients: set[int] = field(default_factory=set)
    #: Group of equal content and priority -> deliveries, and the campaigns among them.
    groups: Counter[int] = field(default_factory=Counter)
    campaigns: dict[int, set[int]] = field(default_factory=dict)
    past_expiry: int = 0

    def add(self, outcome: Outcome) -> None:
        if outcome.expires_at_ms is not None and outcome.expires_at_ms <= self.now_ms:
            self.past_expiry += 1  # it would only expire again
            return
        self.deliveries.append(outcome.delivery)
        self.rows[outcome.status, outcome.reason, outcome.campaign] += 1
        self.recipients.add(hash((outcome.recipient.kind, outcome.recipient.value)))
        self.groups[outcome.row.group] += 1
        self.campaigns.setdefault(outcome.row.group, set()).add(outcome.campaign)

    def least_calls(self, account: Account | None) -> int:
        """The fewest calls that can carry them: each has one content; on /2 1000 recipients, 5 campaigns."""
        if account is not None and account.endpoint is Endpoint.SINGLE:
            return sum(-(-n // account.single_recipients) for n in self.groups.values())
        return sum(-(-n // (1000 * min(5, len(self.campaigns[g])))) for g, n in self.groups.items())

    def unknown(self) -> int:
        return sum(count for (status, _, _), count in self.rows.items() if status is Status.UNKNOWN)


@app.command()
def retry(
    *,
    trigger: TriggerOption = None,
    producer_id: ProducerIdOption = None,
    recipient: RecipientOption = None,
    kind: KindOption = None,
    campaign: CampaignsOption = None,
    status: StatusesOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be sent again.")] = False,
    account: AccountOption = "default",
    json: JsonOption = False,
    yes: YesOption = False,
    data: DataOption = DATA_FOLDER,
) -> None:
    """Send again what ended without an acceptance: failed and rejected, others only if --status names them.

    Shows what matches and asks. Exit code 4: nothing matched.
    """
    check_kind(recipient, kind)
    statuses = frozenset(status or DEFAULT_STATUSES)
    if not statuses <= RETRYABLE:
        named = ", ".join(sorted(each.value for each in statuses - RETRYABLE))
        raise typer.BadParameter(f"{named} cannot be sent again, only {', '.join(sorted(RETRYABLE))}.")
    wanted = Wanted(trigger, producer_id, recipient, kind, frozenset(campaign or ()), statuses, since, until)
    with opened(account, data) as (settings, store):
        now_ms = store.deliveries.now_ms()
        only = wanted.filter(now_ms)
        found = _Found(now_ms)
        for outcome in wanted.find(store.outcomes, only):
            found.add(outcome)
        if not found.deliveries:
            late = (
                f" that is not past its expires_at ({found.past_expiry:,} are)" if found.past_expiry else ""
            )
            raise Refusal(f"No delivery matches{late}.", ExitCode.NOTHING)
        _preview(found, settings.accounts.get(account), json=json)
        _tell_parked(found, store)
        _tell_bad(found, store)
        if dry_run:
            return
        confirm(f"Send {len(found.deliveries):,} deliveries again?", yes=yes)
        done = _requeue(store, found.deliveries, only)
        if done.taken:
            send_hint(settings, account)
        _tell(done, json=json)


def _requeue(store: Store, deliveries: array[int], only: Filter) -> Requeued:
    """Takes them back page by page; only those that still are what was asked for."""
    taken = moved_on = key_held = content_gone = 0
    with bar("sending again", len(deliveries)) as advance:
        # The oldest first, as they would have gone out.
        for page in _pages(sorted(deliveries)):
            outcomes = store.outcomes.of(page, only)
            done = store.deliveries.requeue(
                only.statuses,
                [(store.deliveries.ending_of(o), store.deliveries.window_of(o.row)) for o in outcomes],
            )
            taken += done.taken
            moved_on += done.moved_on + len(page) - len(outcomes)
            key_held += done.key_held
            content_gone += done.content_gone
            advance(len(page))
    return Requeued(taken, moved_on, key_held, content_gone)


def _pages(deliveries: list[int]) -> Iterator[list[int]]:
    return (deliveries[first : first + _PAGE] for first in range(0, len(deliveries), _PAGE))


def _preview(found: _Found, account: Account | None, *, json: bool) -> None:
    calls = found.least_calls(account)
    if json:
        print_json(
            {
                "matched": len(found.deliveries),
                "recipients": len(found.recipients),
                "calls_at_least": calls,
                "past_expiry": found.past_expiry,
                "deliveries": [
                    {"status": s.value, "reason": r.label, "campaign": c, "count": n}
                    for (s, r, c), n in sorted(found.rows.items())
                ],
            }
        )
    else:
        console().print(_table(found.rows.items()))
        console().print(
            f"{len(found.deliveries):,} deliveries to {len(found.recipients):,} recipients, "
            f"in {calls:,} API calls or more (an estimate from equal content)"
        )
    if found.past_expiry:
        complain(f"{found.past_expiry:,} more match, but are past their expires_at: they are left alone.")
    if unknown := found.unknown():
        complain(f"WARNING: {_WARNING.format(count=f'{unknown:,}')}")


def _tell_parked(found: _Found, store: Store) -> None:
    """What is parked is not called: sending again to it would change nothing."""
    campaigns = {str(campaign) for _, _, campaign in found.rows}
    for thing in store.door.parked():
        if thing.name == ALL:
            complain(
                f"the account is parked ({thing.reason.label}): see `volley status`, `volley resume --all`."
            )
        elif thing.name in campaigns:
            complain(
                f"campaign {thing.name} is parked ({thing.reason.label}), so its deliveries wait or end at "
                f"once: `volley resume {thing.name}` frees it."
            )


def _tell_bad(found: _Found, store: Store) -> None:
    """Recipients known as bad are refused without a call: sending again to them would change nothing."""
    known = {hash((bad.kind, bad.value)) for bad in store.door.bad_recipients()}
    if count := len(found.recipients & known):
        complain(
            f"{count:,} of the recipients {'is' if count == 1 else 'are'} known as bad, so what goes to them "
            "is rejected again without a call: `volley bad` lists them, `volley bad remove` removes them."
        )


def _table(rows: Iterable[tuple[tuple[Status, Reason, int], int]]) -> Table:
    table = Table()
    for head in ("status", "reason", "campaign"):
        table.add_column(head)
    table.add_column("deliveries", justify="right")
    for (status, reason, campaign), count in sorted(rows):
        styled = Text(status.value, STYLES.get(status, ""))
        table.add_row(styled, reason.label, str(campaign), f"{count:,}")
    return table


def _tell(done: Requeued, *, json: bool) -> None:
    if json:
        print_json(
            {
                "taken": done.taken,
                "moved_on": done.moved_on,
                "key_held": done.key_held,
                "content_gone": done.content_gone,
            }
        )
        return
    console().print(f"{done.taken:,} are pending again")
    for count, what in (
        (done.moved_on, "had moved on meanwhile"),
        (done.key_held, "were left: another delivery of the same key was sent, or is under way"),
        (done.content_gone, "were left: their content is gone"),
    ):
        if count:
            console().print(f"{count:,} {what}")
