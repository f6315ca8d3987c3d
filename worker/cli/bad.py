"""`volley bad`: the recipients that CleverTap called invalid lately: they are kept out of calls."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

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
    safe,
)
from worker.cli.times import clock, iso
from worker.core.model import Kind, Recipient

_HELP = (
    "Show the recipients that CleverTap called invalid lately (they are kept out of calls), or remove some."
)

bad = typer.Typer(name="bad", help=_HELP)
app.add_typer(bad)


@bad.callback(invoke_without_command=True, help=_HELP)
def bad_recipients(
    ctx: typer.Context,
    *,
    account: AccountOption = "default",
    json: JsonOption = False,
    data: DataOption = DATA_FOLDER,
) -> None:
    """Without a subcommand it lists them."""
    if ctx.invoked_subcommand is None:
        list_(account=account, json=json, data=data)


@bad.command("list")
def list_(
    *,
    account: AccountOption = "default",
    json: JsonOption = False,
    data: DataOption = DATA_FOLDER,
) -> None:
    """Show them, the one that is forgotten first at the top. Exit code 4: there is none."""
    with opened(account, data) as (_, store):
        found = store.door.bad_recipients()
    if not found:
        raise Refusal("No recipient is known as bad.", ExitCode.NOTHING)
    if json:
        for recipient, until_ms in found.items():
            print_json({"kind": recipient.kind.value, "value": recipient.value, "until": iso(until_ms)})
        return
    table = Table()
    for head in ("kind", "recipient", "until (UTC)"):
        table.add_column(head, overflow="fold")
    for recipient, until_ms in found.items():
        table.add_row(recipient.kind.value, safe(recipient.value), clock(until_ms))
    console().print(table)


@bad.command("remove")
def remove(
    values: Annotated[
        list[str], typer.Argument(metavar="VALUE...", help="E-mail addresses, identities or objectIds.")
    ],
    *,
    kind: Annotated[Kind | None, typer.Option("--kind", help="What they are; any if not given.")] = None,
    account: AccountOption = "default",
    yes: YesOption = False,
    data: DataOption = DATA_FOLDER,
) -> None:
    """Let them into calls again. What was rejected stays so until `volley retry`.

    Exit code 4: some were not known.
    """
    wanted = list(dict.fromkeys(values))
    kinds = list(Kind) if kind is None else [kind]
    with opened(account, data) as (_, store):
        confirm(f"Let {_recipients(len(wanted))} of account {account} into calls again?", yes=yes)
        missing = 0
        for value in wanted:
            if not sum(store.door.forget_bad(Recipient(each, value)) for each in kinds):
                missing += 1
                complain(f"{value!a} is not known as bad.")
        console().print(f"{_recipients(len(wanted) - missing)} removed")
    if missing:
        raise Refusal(f"{missing:,} of {len(wanted):,} were not known as bad.", ExitCode.NOTHING)


def _recipients(count: int) -> str:
    return f"{count:,} recipient{'' if count == 1 else 's'}"
