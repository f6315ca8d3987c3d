"""`volley dry-run`: the exact bodies that would be sent, in a file, and nobody is called."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated

import typer
from rich.table import Table

from config.settings import DEFAULT_ACCOUNT, Account, Endpoint, Settings, load
from worker.cli.app import (
    DATA_FOLDER,
    AccountOption,
    DataOption,
    JsonOption,
    Refusal,
    app,
    complain,
    console,
    print_json,
    safe,
    settings_with_redis,
)
from worker.cli.progress import bar
from worker.cli.rehearsal import Bodies, Rehearsal
from worker.cli.show import counts_table
from worker.cli.trigger_file import UnreadableFileError, items, spool
from worker.core.model import Status
from worker.store.intake import Intake

#: Triggers that are appended in one call.
_CHUNK = 500
#: Dead letters that the table names; --json names all.
_SHOWN = 20
#: Where no account is configured: one with a token, so that bodies are those of /2.
_STAND_IN = {"VOLLEY_ACCOUNT_ID": "dry-run", "VOLLEY_PASSCODE": "dry-run", "VOLLEY_TOKEN": "dry-run"}


@app.command(name="dry-run")
def dry_run(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE", help="Triggers, JSON or NDJSON; - is standard input.", show_default=False
        ),
    ] = None,
    *,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE", help="Where the bodies go: a new file, for its owner alone."),
    ],
    waiting: Annotated[
        bool, typer.Option("--waiting", help="What waits in the account now, instead of a file.")
    ] = False,
    account: AccountOption = DEFAULT_ACCOUNT,
    json: JsonOption = False,
    data: DataOption = DATA_FOLDER,
) -> None:
    """Write the exact bodies that would be sent to a file, and call nobody.

    The real pipeline runs on a private server in a temporary folder, with the settings of this shell. A file
    of triggers needs no Redis and no credentials. What is scheduled is sent "at" its time. Not looked at:
    pace, quiet hours, pauses and parks (they say when, not what), and, for a file, what has been sent before.
    """
    if (file is None) is not waiting:
        raise typer.BadParameter("give a FILE of triggers, or --waiting.")
    settings, known = _settings(account, data, redis=waiting)
    with _created(out) as body_file, _quiet(), Rehearsal(settings, known, Bodies(body_file)) as rehearsal:
        if file is None:
            rehearsal.copy(settings.redis_address())
        else:
            _append(rehearsal.store.intake, file)
        with bar("rehearsing", 0) as advance:
            rehearsal.run(lambda: advance(1))
        _tell(rehearsal, out, json=json)


def _settings(account: str, data: Path, *, redis: bool) -> tuple[Settings, Account]:
    settings = settings_with_redis(data, require_account=False) if redis else load(require_account=False)
    if not settings.accounts and account == DEFAULT_ACCOUNT:
        complain("no account is configured: the bodies are those of an account with a token.")
        url = settings.redis_url
        settings = load({**os.environ, **_STAND_IN})
        settings = settings.connected_to(url.get_secret_value()) if url else settings
    return settings, settings.account(account)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the log's words on each dead letter: they are told at the end, counted."""
    log = logging.getLogger("volley")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


@contextmanager
def _created(out: Path) -> Iterator[IO[bytes]]:
    """A new file that its owner alone may read: it holds recipients. It is removed where the run fails."""
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise Refusal(f"{out} cannot be made: {error.strerror}.") from None
    done = False
    try:
        with os.fdopen(descriptor, "wb") as opened:
            yield opened
        done = True
    finally:
        if not done:
            out.unlink(missing_ok=True)


def _append(intake: Intake, file: str) -> None:
    try:
        with spool(sys.stdin.buffer) if file == "-" else _opened(Path(file)) as readable:
            chunk: list[bytes] = []
            count = 0
            for item in items(readable):
                chunk.append(item.raw)
                if len(chunk) == _CHUNK:
                    intake.append(chunk, f"dry-run-{count}")
                    chunk, count = [], count + 1
            if chunk:
                intake.append(chunk, f"dry-run-{count}")
    except OSError as error:
        raise Refusal(f"{file} cannot be read: {error.strerror}.") from None
    except UnreadableFileError as fault:
        raise Refusal(str(fault)) from None


def _opened(path: Path) -> IO[bytes]:
    source = path.open("rb")
    if source.seekable():
        return source
    with source:  # a pipe, as of a shell's <(...)
        return spool(source)


def _tell(rehearsal: Rehearsal, out: Path, *, json: bool) -> None:
    bodies, status, dead = rehearsal.bodies, rehearsal.store.status(), rehearsal.dead_letters()
    if json:
        counts: dict[str, dict[str, int]] = {}
        for (campaign, each), count in sorted(status.counts.items()):
            counts.setdefault(str(campaign), {})[each.value] = count
        letters = [{"where": w, "reason": r, "count": n} for (w, r), n in sorted(dead.items())]
        print_json(
            {
                # A name may hold bytes that are no UTF-8, which JSON cannot.
                "bodies": str(out).encode(errors="backslashreplace").decode(),
                "calls": bodies.calls,
                "scheduled_calls": bodies.scheduled,
                "recipients": bodies.recipients,
                "messages": bodies.messages,
                "body_bytes": bodies.size,
                "endpoint": 1 if rehearsal.account.endpoint is Endpoint.SINGLE else 2,
                "campaigns": counts,
                "calls_of": {str(campaign): count for campaign, count in sorted(status.calls.items())},
                "dead_letters": letters,
            }
        )
        return
    facts = Table(title="What it would cost", title_justify="left", show_header=False)
    facts.add_column()
    facts.add_column(justify="right")
    for name, value in (
        ("API calls", bodies.calls),
        ("of them scheduled or retried later", bodies.scheduled),
        ("messages that CleverTap would take (recipients x campaigns)", bodies.messages),
        ("left out as duplicates", status.total(Status.DUPLICATE)),
        ("suppressed by test mode", status.total(Status.SUPPRESSED)),
        ("expired", status.total(Status.EXPIRED)),
        ("known as bad", status.total(Status.REJECTED)),
        ("on the wire now, and not part of this", status.total(Status.IN_FLIGHT)),
        ("cancelled, and not part of this", status.total(Status.HELD) + status.total(Status.CANCELLED)),
        ("triggers that cannot be understood", sum(dead.values())),
    ):
        if value or name == "API calls":
            facts.add_row(name, f"{value:,}")
    if status.counts:
        console().print(counts_table(status.counts, title="What would become of them"))
    console().print(facts)
    for (where, reason), count in dead.most_common(_SHOWN):
        console().print(f"[red]cannot be understood, {count:,} x[/] {safe(where)}: {safe(reason)}")
    console().print(f"{bodies.calls:,} bodies are in {safe(out)}. They name recipients: delete it after use.")
