"""`volley schedule`: recurring sends, those of `[[sends]]` in the TOML file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.table import Table

from config.sends import SetSource
from config.settings import Send, Settings, SettingsError, load
from worker.clevertap.client import Client
from worker.cli.app import (
    DATA_FOLDER,
    DataOption,
    ExitCode,
    JsonOption,
    Refusal,
    YesOption,
    app,
    confirm,
    console,
    print_json,
    safe,
    settings_with_redis,
)
from worker.cli.times import clock, iso
from worker.core.errors import UnreadableSource
from worker.core.slots import next_slot
from worker.engine import Engine
from worker.engine.recurring import calendar_of
from worker.store import Store, open_store
from worker.store.firings import Fired, Report

_HELP = "Show the recurring sends of the TOML file, start one now, or pause and resume them."

schedule = typer.Typer(name="schedule", help=_HELP, no_args_is_help=True)
app.add_typer(schedule)

SendName = Annotated[str, typer.Argument(metavar="NAME", help="The send, by its name in the TOML file.")]


@schedule.command("list")
def list_(*, json: JsonOption = False, data: DataOption = DATA_FOLDER) -> None:
    """Show when each one is due next, and what became of its last slot. Exit code 4: there is none."""
    settings = settings_with_redis(data, require_account=False)
    if not settings.sends:
        raise Refusal(
            "There are no recurring sends: VOLLEY_CONFIG names no file with [[sends]].", ExitCode.NOTHING
        )
    table = Table()
    for head in ("name", "cron", "time zone", "next (UTC)", "last slot", "what became of it"):
        table.add_column(head, overflow="fold")
    with _stores(settings) as stores:
        for send in settings.sends:
            firings = stores[send.account].firings
            report, (now_ms, _) = firings.report(send.name), firings.look({})
            next_ms = None if report.paused else next_slot(calendar_of(send), now_ms)
            if json:
                print_json(_report_json(send, report, next_ms))
                continue
            last = _last(report)
            table.add_row(
                send.name,
                send.cron,
                send.time_zone,
                "paused" if report.paused else clock(next_ms) if next_ms else "never",
                last.slot if last else "none yet",
                _became(last, len(report.waiting)),
            )
    if not json:
        console().print(table)


@schedule.command("run-now")
def run_now(
    name: SendName,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only read its recipients here, count them, and send nothing.")
    ] = False,
    json: JsonOption = False,
    yes: YesOption = False,
    data: DataOption = DATA_FOLDER,
) -> None:
    """Fire a send at once, beside its slots, which stay as they are. The workers read its recipients."""
    if dry_run:
        _survey(name, data, json=json)
        return
    settings = settings_with_redis(data, require_account=False)
    send = _send(settings, name)
    with _stores(settings) as stores:
        firings = stores[send.account].firings
        if firings.report(name).paused:
            raise Refusal(f"{name} is paused: `volley schedule resume {name}` comes first.")
        confirm(f"Send {name} to all its recipients now?", yes=yes)
        slot = firings.fire_now(name)
    if json:
        print_json({"name": name, "slot": slot})
    else:
        console().print(f"{name}: slot {slot} waits for a worker (`volley schedule list`)")


@schedule.command("pause")
def pause(name: SendName, *, yes: YesOption = False, data: DataOption = DATA_FOLDER) -> None:
    """Skip the slots of a send from now on. What is being appended is held until it is resumed."""
    settings = settings_with_redis(data, require_account=False)
    send = _send(settings, name)
    with _stores(settings) as stores:
        confirm(f"Pause {name}?", yes=yes)
        new = stores[send.account].firings.pause(name)
    console().print(f"{name}: {'paused' if new else 'was paused already'}")


@schedule.command("resume")
def resume(name: SendName, *, yes: YesOption = False, data: DataOption = DATA_FOLDER) -> None:
    """Fire the slots of a send again, from the next one on: those that were skipped stay so."""
    settings = settings_with_redis(data, require_account=False)
    send = _send(settings, name)
    with _stores(settings) as stores:
        confirm(f"Resume {name}?", yes=yes)
        was = stores[send.account].firings.resume(name)
    console().print(f"{name}: {'resumed' if was else 'was not paused'}")


def _survey(name: str, data: Path, *, json: bool) -> None:
    settings = load(require_account=False)
    send = _send(settings, name)
    if isinstance(send.source, SetSource) and send.source.url is None:
        settings = settings_with_redis(data, require_account=False)
    elif settings.embedded:
        settings = settings.connected_to("redis://127.0.0.1")  # which is not called
    with _stores(settings, verify=False) as stores, Client(connections=1) as client:
        # An engine that calls nobody: it only reads.
        engine = Engine(settings, settings.account(send.account), stores[send.account], client)
        try:
            survey = engine.recurring.survey(send)
        except UnreadableSource as unreadable:
            raise Refusal(f"{name} cannot be read: {unreadable}.") from None
    if json:
        print_json(
            {
                "name": name,
                "recipients": survey.recipients,
                "triggers": survey.triggers,
                "bad_lines": survey.bad_lines,
                "first_trigger": survey.first,
            }
        )
        return
    console().print(
        f"{name} names {survey.recipients:,} recipients, in {survey.triggers:,} triggers; "
        f"{survey.bad_lines:,} lines name nobody. Nothing was sent."
    )
    if survey.triggers:
        console().print("The first trigger, with counts in the place of recipients:")
        console().print(safe(orjson.dumps(survey.first).decode()))


def _send(settings: Settings, name: str) -> Send:
    """Raises SettingsError that names those that exist."""
    for send in settings.sends:
        if send.name == name:
            return send
    known = ", ".join(send.name for send in settings.sends) or "none"
    raise SettingsError(f"There is no recurring send {name[:40]!a}; those of the TOML file: {known}.")


@contextmanager
def _stores(settings: Settings, *, verify: bool = True) -> Iterator[dict[str, Store]]:
    """The stores of all accounts that have sends. Raises LayoutError unless told not to look."""
    with ExitStack() as stack:
        stores: dict[str, Store] = {}
        for account in dict.fromkeys(send.account for send in settings.sends):
            stores[account] = open_store(settings, account)
            stack.callback(stores[account].close)
            if verify:
                stores[account].schema.verify()
        yield stores


def _last(report: Report) -> Fired | None:
    return report.current or (report.past[0] if report.past else None)


def _became(last: Fired | None, waiting: int) -> str:
    behind = f"; {waiting} more wait" if waiting else ""
    if last is None:
        return behind.removeprefix("; ")
    if last.state == "reading":
        words = f"reading, {last.recipients:,} recipients so far"
        return f"waits: {last.reason}{behind}" if last.reason else words + behind
    words = f"{last.state}: {last.appended:,} of {last.recipients:,} recipients in {last.triggers:,} triggers"
    if last.state == "missed":
        words = "missed"
    if last.bad_lines:
        words += f", {last.bad_lines:,} bad lines (volley dead)"
    return safe(f"{words}{f': {last.reason}' if last.reason else ''}{behind}")


def _report_json(send: Send, report: Report, next_ms: int | None) -> dict[str, Any]:
    return {
        "name": send.name,
        "account": send.account,
        "cron": send.cron,
        "time_zone": send.time_zone,
        "paused": report.paused,
        "next": iso(next_ms) if next_ms else None,
        "waiting": list(report.waiting),
        "current": _fired_json(report.current) if report.current else None,
        "past": [_fired_json(each) for each in report.past],
    }


def _fired_json(fired: Fired) -> dict[str, Any]:
    return {
        "slot": fired.slot,
        "state": fired.state,
        "began": iso(fired.began_ms) if fired.began_ms else None,
        "ended": iso(fired.ended_ms) if fired.ended_ms else None,
        "recipients": fired.recipients,
        "appended": fired.appended,
        "triggers": fired.triggers,
        "bad_lines": fired.bad_lines,
        "reason": fired.reason or None,
    }
