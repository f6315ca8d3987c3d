"""`volley status`: how an account stands, at a glance or watched."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live

from config.settings import Settings
from worker.cli.account import check_account
from worker.cli.app import DATA_FOLDER, DataOption, JsonOption, app, console, print_json, settings_with_redis
from worker.cli.show import snapshot_json, snapshot_view
from worker.store import Store, open_store
from worker.store.status import Snapshot


@app.command()
def status(
    account: Annotated[
        str | None, typer.Option("--account", help="This account only; all that are configured if not given.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again and again, until Ctrl-C.")] = False,
    every: Annotated[
        float,
        typer.Option("--every", min=0.1, max=86_400, metavar="SECONDS", help="How often --watch looks."),
    ] = 1.0,
    json: JsonOption = False,
    data: DataOption = DATA_FOLDER,
) -> None:
    """Show what waits, what is under way, what became of the rest, and whether worker and beat run."""
    settings = settings_with_redis(data, require_account=False)
    names = [account] if account else sorted(settings.accounts) or ["default"]
    for name in names:
        check_account(settings, name)
    stores = [open_store(settings, name) for name in names]
    try:
        for store in stores:
            store.schema.verify()
        _show(settings, stores, json=json, watch=watch, every=every)
    finally:
        for store in stores:
            store.close()


def _show(settings: Settings, stores: list[Store], *, json: bool, watch: bool, every: float) -> None:
    if watch and not json and console().is_terminal:
        with Live(_view(settings, stores), console=console(), auto_refresh=False) as live:
            while True:
                time.sleep(every)
                live.update(_view(settings, stores), refresh=True)
    while True:
        if json:
            _print(settings, stores)
        else:
            console().print(_view(settings, stores))
        if not watch:
            return
        time.sleep(every)


def _print(settings: Settings, stores: list[Store]) -> None:
    for store in stores:
        print_json(snapshot_json(store.account, _status(settings, store), _limit(settings, store)))


def _view(settings: Settings, stores: list[Store]) -> RenderableType:
    return Group(*(snapshot_view(s.account, _status(settings, s), _limit(settings, s)) for s in stores))


def _status(settings: Settings, store: Store) -> Snapshot:
    """The account at a glance, with what this machine's settings say of test mode."""
    return replace(store.status(), testing=settings.in_test_mode(store.account))


def _limit(settings: Settings, store: Store) -> int | None:
    """How many permits the account has; None where this machine does not know it."""
    known = settings.accounts.get(store.account)
    return known.max_in_flight if known else None
