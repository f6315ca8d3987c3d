"""`volley cancel`: take back what has not been sent.

Life of a run that takes back a campaign, a trigger or everything: an order is written first, and from that
moment on no worker sends anything of it that had been enqueued before, wherever it is: due, retrying,
scheduled, still at the intake, or on the wire and about to be retried. Then what waits is ended page by page.
A run that dies in the middle leaves the order: the sweeps go on with it, and so does a second run. By
recipient, or with several filters, only what waits now is ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from worker.cli.account import EveryAccountOption, opened_accounts
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
    check_entry,
    check_kind,
)
from worker.core.model import WAITING, Status
from worker.engine.cancelling import end_pages, end_waiting
from worker.store import Store
from worker.store.control import Cancel, Named


@app.command()
def cancel(
    *,
    trigger: TriggerOption = None,
    producer_id: ProducerIdOption = None,
    recipient: RecipientOption = None,
    kind: KindOption = None,
    campaign: CampaignsOption = None,
    every: Annotated[bool, typer.Option("--all", help="All that was enqueued to the account.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be cancelled.")] = False,
    account: AccountOption = "default",
    every_account: EveryAccountOption = False,
    json: JsonOption = False,
    yes: YesOption = False,
    data: DataOption = DATA_FOLDER,
) -> None:
    """Take back what was enqueued and has not been sent: it ends cancelled.

    With --campaign, --trigger, --id or --all alone this holds from the next call on, also for what is still
    at the intake; what is on the wire ends as it ends, and is not tried again. What is enqueued later is
    sent. With --recipient, or with several of them together, only what has been accepted is taken back.
    Exit code 4: nothing matched.
    """
    check_kind(recipient, kind)
    if trigger is not None:
        check_entry(trigger)
    if every == any(value is not None for value in (trigger, producer_id, recipient, campaign)):
        raise typer.BadParameter("say which deliveries (--campaign, --trigger, --id, --recipient), or --all.")
    wanted = Wanted(trigger, producer_id, recipient, kind, frozenset(campaign or ()), WAITING)
    names = _names(wanted, every=every)
    with opened_accounts(account, data, every=every_account) as (_, stores):
        counts = {store.account: _count(store, wanted, names) for store in stores}
        count = sum(counts.values())
        coming = [_coming(store) for store in stores] if names else []
        if not count and not any(map(any, coming)):
            raise Refusal("No delivery that waits matches.", ExitCode.NOTHING)
        if dry_run or not json:
            _tell("would be cancelled", count, json=json and dry_run)
            if any(map(any, coming)):
                intake, in_flight = (sum(each) for each in zip(*coming, strict=True))
                on_their_way = f"{intake:,} triggers at the intake and {in_flight:,} deliveries on the wire"
                complain(f"{on_their_way} may hold more of it.")
        if dry_run:
            return
        confirm(f"Cancel {count:,} deliveries?", yes=yes)
        # Everywhere first, so that the sending stops in all accounts before the long part begins.
        orders = {store.account: store.control.begin_cancel(names) if names else [] for store in stores}
        ended = 0
        try:
            with bar("cancelling", count) as advance:
                for store in stores:
                    for page in _pages(store, wanted, orders[store.account]):
                        ended += page
                        advance(page)
        except KeyboardInterrupt:
            complain(_interrupted(ended, bool(names)))
            raise
        _tell("cancelled", ended, json=json)
        for store in stores:
            _tell_the_rest(store, orders[store.account])


def _names(wanted: Wanted, *, every: bool) -> list[Named]:
    """What an order can name: one kind of thing alone."""
    match wanted:
        case Wanted(trigger=None, producer_id=None, recipient=None):
            return [Named.all()] if every else [Named.campaign(number) for number in sorted(wanted.campaigns)]
        case Wanted(trigger=str(entry), producer_id=None, recipient=None) if not wanted.campaigns:
            return [Named.trigger(entry)]
        case Wanted(trigger=None, producer_id=str(id_), recipient=None) if not wanted.campaigns:
            return [Named.producer_id(id_)]
        case _:
            return []


def _count(store: Store, wanted: Wanted, names: list[Named]) -> int:
    if wanted.trigger is None and wanted.producer_id is None and names:
        return sum(
            count
            for (campaign, status), count in store.status().counts.items()
            if status in WAITING and (not wanted.campaigns or campaign in wanted.campaigns)
        )
    return sum(1 for _ in wanted.find(store.outcomes, wanted.filter(0)))


def _coming(store: Store) -> tuple[int, int]:
    """What may hold more of it: triggers at the intake, and deliveries on the wire."""
    status = store.status()
    return status.intake, status.total(Status.IN_FLIGHT)


def _pages(store: Store, wanted: Wanted, orders: list[Cancel]) -> Iterator[int]:
    for order in orders:
        yield from end_waiting(store, order)
    if not orders:
        yield from end_pages(store, wanted.find(store.outcomes, wanted.filter(0)))


def _interrupted(ended: int, ordered: bool) -> str:
    if ordered:
        return f"{ended:,} were cancelled; the rest is not sent, and the workers' sweeps cancel it."
    return f"{ended:,} were cancelled, and the rest was not: run it again."


def _tell(what: str, count: int, *, json: bool) -> None:
    if json:
        print_json({what.replace(" ", "_"): count})
    else:
        console().print(f"{count:,} deliveries {what}")


def _tell_the_rest(store: Store, orders: list[Cancel]) -> None:
    status = store.status()
    if in_flight := status.total(Status.IN_FLIGHT):
        complain(f"{in_flight:,} deliveries of account {store.account} are on the wire and end as they end.")
    if {order.order for order in orders} & {order.order for order in store.control.cancels()}:
        complain(
            f"what else was enqueued before ({status.intake:,} triggers are at the intake of account "
            f"{store.account}) is not sent: it ends cancelled as it is accepted."
        )
