"""`volley outcomes`: what became of deliveries."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
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
    app,
    complain,
    console,
    print_json,
)
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
from worker.cli.show import outcome_json, outcomes_table
from worker.store.outcomes import Outcome

#: Rows of one table: without a limit there is one table after the other, so memory stays small.
_TABLE_ROWS = 500


@app.command()
def outcomes(
    *,
    trigger: TriggerOption = None,
    producer_id: ProducerIdOption = None,
    recipient: RecipientOption = None,
    kind: KindOption = None,
    campaign: CampaignsOption = None,
    status: StatusesOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: Annotated[
        int, typer.Option("--limit", min=0, metavar="N", help="At most so many; 0 is all.")
    ] = 50,
    account: AccountOption = "default",
    json: JsonOption = False,
    data: DataOption = DATA_FOLDER,
) -> None:
    """Show what became of deliveries: the newest first, of one trigger in its own order.

    Options that are given must all hold. Exit code 4: nothing matched.
    """
    check_kind(recipient, kind)
    wanted = Wanted(
        trigger,
        producer_id,
        recipient,
        kind,
        frozenset(campaign or ()),
        frozenset(status or ()),
        since,
        until,
    )
    with opened(account, data) as (_, store):
        only = wanted.filter(store.deliveries.now_ms())
        found = wanted.find(store.outcomes, only)
        first = next(found, None)
        if first is None:
            raise Refusal("No delivery matches.", ExitCode.NOTHING)
        found = chain([first], found)
        _show(islice(found, limit) if limit else found, json=json)
        if limit and next(found, None) is not None:
            complain(f"there are more than these {limit}: --limit 0 shows all.")


def _show(found: Iterator[Outcome], *, json: bool) -> None:
    if json:
        for outcome in found:
            print_json(outcome_json(outcome))
        return
    while page := list(islice(found, _TABLE_ROWS)):
        console().print(outcomes_table(page))
