"""`volley cancel`: take back what has not been sent.

Life of a run: what is meant by campaign is paused first, so that it stops from the next call on, on all
machines; then what waits, retries or is scheduled is ended page by page; at last the pause is taken back.
A run that dies in the middle leaves the campaign paused and the rest waiting: run again, it goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Annotated

import typer

from worker.cli.account import opened
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
    TriggerOption,
    Wanted,
    check_kind,
)
from worker.core.model import Reason, Status
from worker.store import Store
from worker.store.control import ALL

#: What can be taken back.
WAITING = frozenset({Status.SCHEDULED, Status.PENDING, Status.RETRYING})
#: Deliveries that one atomic step ends.
_PAGE = 500


@app.command()
def cancel(
    *,
    trigger: TriggerOption = None,
    producer_id: ProducerIdOption = None,
    recipient: RecipientOption = None,
    kind: KindOption = None,
    campaign: CampaignsOption = None,
    every: Annotated[bool, typer.Option("--all", help="Everything that waits in the account.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be cancelled.")] = False,
    account: AccountOption = "default",
    json: JsonOption = False,
    yes: YesOption = False,
    data: DataOption = DATA_FOLDER,
) -> None:
    """Take back what waits, retries or is scheduled: it ends cancelled and is not sent.

    What is on the wire ends as it ends; triggers that still wait at the intake are not touched. Exit code 4:
    nothing matched.
    """
    check_kind(recipient, kind)
    if every == any(value is not None for value in (trigger, producer_id, recipient, campaign)):
        raise typer.BadParameter("say which deliveries (--campaign, --trigger, --id, --recipient), or --all.")
    wanted = Wanted(trigger, producer_id, recipient, kind, frozenset(campaign or ()), WAITING)
    by_campaign = every or (campaign is not None and trigger is producer_id is recipient is None)
    with opened(account, data) as (_, store):
        count = _count(store, wanted, by_campaign=by_campaign)
        if not count:
            raise Refusal("No delivery that waits matches.", ExitCode.NOTHING)
        if dry_run or not json:
            _tell("would be cancelled", count, json=json and dry_run)
        if dry_run:
            return
        confirm(f"Cancel {count:,} deliveries?", yes=yes)
        names = [ALL] if every else [str(number) for number in campaign or ()]
        with _paused(store, names if by_campaign else []):
            ended = _end(store, wanted, count)
        _tell("cancelled", ended, json=json)
        if in_flight := store.status().total(Status.IN_FLIGHT):
            complain(f"{in_flight:,} deliveries of the account are on the wire and end as they end.")


def _count(store: Store, wanted: Wanted, *, by_campaign: bool) -> int:
    if by_campaign:
        return sum(
            count
            for (campaign, status), count in store.status().counts.items()
            if status in WAITING and (not wanted.campaigns or campaign in wanted.campaigns)
        )
    return sum(1 for _ in wanted.find(store.outcomes, wanted.filter(0)))


@contextmanager
def _paused(store: Store, names: list[str]) -> Iterator[None]:
    """Holds these campaigns back, and lets those go on again that were not held back before."""
    held = [name for name in names if store.control.pause(name)]
    yield
    for name in held:
        store.control.resume(name)


def _end(store: Store, wanted: Wanted, count: int) -> int:
    ended = 0
    with bar("cancelling", count) as advance:
        found = wanted.find(store.outcomes, wanted.filter(0))
        while page := list(islice(found, _PAGE)):
            endings = [store.deliveries.ending_of(outcome) for outcome in page]
            ended += store.deliveries.finish(Status.CANCELLED, Reason.CANCELLED, WAITING, endings)
            advance(len(page))
    return ended


def _tell(what: str, count: int, *, json: bool) -> None:
    if json:
        print_json({what.replace(" ", "_"): count})
    else:
        console().print(f"{count:,} deliveries {what}")
