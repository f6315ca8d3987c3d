"""`volley ready`: whether work moves, as an exit code, for health checks."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.cli.account import check_account
from worker.cli.app import DATA_FOLDER, DataOption, ExitCode, JsonOption, app, print_json, settings_with_redis
from worker.store import open_store

#: Seconds that work may wait where VOLLEY_IDLE_EXIT is 0.
_WITHIN_SECONDS = 60.0
#: The longest that can be asked for: a year.
_MAX_SECONDS = 31_536_000


@app.command()
def ready(
    account: Annotated[
        str | None, typer.Option("--account", help="This account only; all that are configured if not given.")
    ] = None,
    within: Annotated[
        float | None,
        typer.Option(
            "--within",
            min=1,
            max=_MAX_SECONDS,
            metavar="SECONDS",
            help="How long work may wait (VOLLEY_IDLE_EXIT, or 60).",
        ),
    ] = None,
    json: JsonOption = False,
    data: DataOption = DATA_FOLDER,
) -> None:
    """Say whether work moves: exit code 0 if it does, 1 if something waits and nobody works, 3 without Redis.

    Work that is paused, parked or not yet due is not waited for.
    """
    settings = settings_with_redis(data, require_account=False)
    names = [account] if account else sorted(settings.accounts) or ["default"]
    seconds = within or settings.idle_exit_seconds or _WITHIN_SECONDS
    moves = True
    for name in names:
        check_account(settings, name)
        store = open_store(settings, name)
        try:
            stuck = store.progress().stuck(int(seconds * 1000))
        finally:
            store.close()
        moves = moves and stuck is None
        if json:
            print_json({"account": name, "ready": stuck is None, "why": stuck})
        else:
            print(f"{name}: {stuck or 'ready'}")
    if not moves:
        raise typer.Exit(ExitCode.FAILED)
