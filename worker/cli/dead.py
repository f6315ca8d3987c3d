"""`volley dead`: the triggers that could not be understood, to look at, put back or discard."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
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
from worker.store.intake import DeadLetter, Intake

#: Dead letters read in one round trip: each holds a whole trigger.
_PAGE = 100
#: Rows of one table.
_TABLE_ROWS = 500
_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")

dead = typer.Typer(
    name="dead",
    help="Show dead letters (triggers that could not be understood), put them back, or discard them.",
)
app.add_typer(dead)

Ids = Annotated[
    list[str] | None, typer.Argument(metavar="ID...", help="Ids of dead letters.", show_default=False)
]
ShowTriggerOption = Annotated[
    bool, typer.Option("--show-trigger", help="Show the original bytes too, recipients included.")
]


@dead.callback(invoke_without_command=True)
def dead_letters(
    ctx: typer.Context,
    *,
    show_trigger: ShowTriggerOption = False,
    account: AccountOption = "default",
    json: JsonOption = False,
    data: DataOption = DATA_FOLDER,
) -> None:
    """Show dead letters (triggers that could not be understood), put them back, or discard them."""
    if ctx.invoked_subcommand is None:
        list_(show_trigger=show_trigger, account=account, json=json, data=data)


@dead.command("list")
def list_(
    *,
    show_trigger: ShowTriggerOption = False,
    account: AccountOption = "default",
    json: JsonOption = False,
    data: DataOption = DATA_FOLDER,
) -> None:
    """Show them, the oldest first. Exit code 4: there is none."""
    with opened(account, data) as (_, store):
        found = _all(store.intake)
        first = next(found, None)
        if first is None:
            raise Refusal("There are no dead letters.", ExitCode.NOTHING)
        letters = [first]
        for letter in found:
            if len(letters) == _TABLE_ROWS:
                _show(letters, show_trigger=show_trigger, json=json)
                letters = []
            letters.append(letter)
        _show(letters, show_trigger=show_trigger, json=json)


@dead.command("put-back")
def put_back(
    ids: Ids = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All that there are now.")] = False,
    account: AccountOption = "default",
    yes: YesOption = False,
    data: DataOption = DATA_FOLDER,
) -> None:
    """Append them to the intake again, as they were: after a repair, or a change of the limits."""
    if bool(ids) == every:
        raise typer.BadParameter("give ids, or --all.")
    given = _ids(ids)
    with opened(account, data) as (_, store):
        # The ids first: what is put back in vain comes to the end of the list again, under a new id.
        chosen = [letter.id for letter in _all(store.intake)] if every else given
        if not chosen:
            raise Refusal("There are no dead letters.", ExitCode.NOTHING)
        confirm(f"Append {_letters(len(chosen))} to the intake of account {account} again?", yes=yes)
        _each(chosen, store.intake.put_back, "put back")


@dead.command("discard")
def discard(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of dead letters.")],
    *,
    account: AccountOption = "default",
    yes: YesOption = False,
    data: DataOption = DATA_FOLDER,
) -> None:
    """Remove them for good."""
    chosen = _ids(ids)
    with opened(account, data) as (_, store):
        confirm(f"Discard {_letters(len(chosen))} of account {account} for good?", yes=yes)
        _each(chosen, store.intake.discard, "discarded")


def _ids(ids: list[str] | None) -> list[str]:
    """Each once. Raises a usage error for what cannot be the id of a stream's entry."""
    for id_ in ids or ():
        if not _ID.fullmatch(id_):
            raise typer.BadParameter(f"{id_!a} is no id of a dead letter: they are like 1795479619993-0.")
    return list(dict.fromkeys(ids or ()))


def _all(intake: Intake) -> Iterator[DeadLetter]:
    start = "-"
    while page := list(intake.dead_letters(start, _PAGE)):
        yield from page
        start = f"({page[-1].id}"


def _each(ids: list[str], act: Callable[[str], bool], done: str) -> None:
    """Acts on each. Raises Refusal (NOTHING) where some are not there."""
    count = 0
    for id_ in ids:
        if act(id_):
            count += 1
        else:
            complain(f"there is no dead letter {id_!a}.")
    console().print(f"{_letters(count)} {done}")
    if count < len(ids):
        raise Refusal(f"{len(ids) - count:,} of {len(ids):,} were not there.", ExitCode.NOTHING)


def _show(letters: list[DeadLetter], *, show_trigger: bool, json: bool) -> None:
    if json:
        for letter in letters:
            print_json(_json(letter, show_trigger=show_trigger))
        return
    table = Table()
    for head in ("id", "time (UTC)", "entry", "where", "reason"):
        table.add_column(head, overflow="fold")
    table.add_column("bytes", justify="right")
    if show_trigger:
        table.add_column("trigger", overflow="fold")
    for letter in letters:
        row = [
            letter.id,
            clock(_time_ms(letter.id)),
            safe(letter.entry),
            safe(letter.where),
            safe(letter.reason),
            f"{len(letter.trigger):,}",
        ]
        table.add_row(*row, *([safe(_text(letter.trigger))] if show_trigger else []))
    console().print(table)


def _json(letter: DeadLetter, *, show_trigger: bool) -> dict[str, object]:
    """One dead letter. ``trigger``, if it was asked for, is the original as text (what is not UTF-8 replaced)."""
    shown: dict[str, object] = {
        "id": letter.id,
        "at": iso(_time_ms(letter.id)),
        "entry": letter.entry,
        "where": letter.where or None,
        "reason": letter.reason,
        "bytes": len(letter.trigger),
    }
    return shown | ({"trigger": _text(letter.trigger)} if show_trigger else {})


def _text(trigger: bytes) -> str:
    return trigger.decode(errors="replace")


def _time_ms(id_: str) -> int:
    """A stream's ids begin with the server's time."""
    return int(id_.partition("-")[0])


def _letters(count: int) -> str:
    return f"{count:,} dead letter{'' if count == 1 else 's'}"
