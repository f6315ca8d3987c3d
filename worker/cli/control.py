"""`volley pause` and `volley resume`: hold campaigns back, and let them go on."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.cli.account import opened, send_hint
from worker.cli.app import DATA_FOLDER, AccountOption, DataOption, YesOption, app, confirm, console
from worker.store.control import ALL

Campaigns = Annotated[
    list[int] | None, typer.Argument(metavar="CAMPAIGN...", min=1, help="Campaign ids.", show_default=False)
]


@app.command()
def pause(
    campaigns: Campaigns = None,
    every: Annotated[
        bool, typer.Option("--all", help="All campaigns of the account, also those that come later.")
    ] = False,
    account: AccountOption = "default",
    yes: YesOption = False,
    data: DataOption = DATA_FOLDER,
) -> None:
    """Hold campaigns back from the next call on. What waits keeps its place, and may expire meanwhile."""
    names = _names(campaigns, every)
    with opened(account, data) as (_, store):
        confirm(f"Pause {_words(names)} of account {account}?", yes=yes)
        for name in names:
            new = store.control.pause(name)
            console().print(f"{_words([name])}: {'paused' if new else 'was paused already'}")


@app.command()
def resume(
    campaigns: Campaigns = None,
    every: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Take back `pause --all`, free a parked account; campaigns paused by number stay so.",
        ),
    ] = False,
    account: AccountOption = "default",
    yes: YesOption = False,
    data: DataOption = DATA_FOLDER,
) -> None:
    """Let campaigns go on that were paused, or parked after CleverTap had refused them."""
    names = _names(campaigns, every)
    with opened(account, data) as (settings, store):
        confirm(f"Resume {_words(names)} of account {account}?", yes=yes)
        resumed = False
        for name in names:
            was_paused, was_parked = store.control.resume(name), store.door.unpark(name)
            resumed = resumed or was_paused or was_parked
            done = [word for word, was in (("resumed", was_paused), ("no longer parked", was_parked)) if was]
            console().print(f"{_words([name])}: {', '.join(done) or 'was neither paused nor parked'}")
        if resumed:
            send_hint(settings, account)
        if still := store.control.paused():
            console().print(f"still paused: {_words(sorted(still))}", style="yellow")


def _names(campaigns: list[int] | None, every: bool) -> list[str]:
    if bool(campaigns) == every:
        raise typer.BadParameter("give campaign ids, or --all.")
    return [ALL] if every else [str(campaign) for campaign in dict.fromkeys(campaigns or ())]


def _words(names: list[str]) -> str:
    if ALL in names:
        return "all campaigns"
    return f"{'campaign' if len(names) == 1 else 'campaigns'} {', '.join(names)}"
