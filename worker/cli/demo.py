"""`volley demo`: a realistic day in small, from the intake to the books.

It needs nothing: an embedded server, a sandbox for the API, and a real worker and beat are started in a
temporary folder, and end with it. What Volley says became of each recipient is then compared with what the
sandbox wrote down on its own.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from secrets import token_hex
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from worker.clevertap import wire
from worker.clevertap.sandbox import Totals
from worker.cli.app import Refusal, app, complain, console
from worker.cli.demo_books import Finding, compare, expected_total, ledger_digests
from worker.cli.demo_day import NAMES, Day, make_day
from worker.cli.demo_stage import Stage, staged
from worker.cli.show import counts_table, outcomes_table
from worker.core.errors import InvalidTrigger
from worker.core.model import LIVE, Status, Trigger
from worker.store.outcomes import Filter
from worker.store.status import Snapshot

#: Longer than any healthy run; then something is wrong.
_PATIENCE_SECONDS = 120.0
_LOOK_SECONDS = 0.1
#: Between two lines where no terminal shows a bar.
_LINE_SECONDS = 1.0
#: Triggers that are appended in one call.
_CHUNK = 500


@app.command()
def demo(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer people, a faster API.")] = False,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep", help="Leave it running afterwards, until Ctrl-C, and keep its folder and logs."
        ),
    ] = False,
) -> None:
    """Send a realistic day in small to a stand-in of the API, and compare the books.

    Needs no server and no credentials, sends nothing to anybody, and takes less than a minute. Exit code 0
    only if outcomes and ledger agree exactly.
    """
    size = (1200, 12, 8) if quick else (4000, 60, 30)
    day = make_day(people=size[0], orders=size[1], codes=size[2], now_seconds=int(time.time()))
    latency_ms = 60 if quick else 150
    console().print(
        f"A day in small: {len(day.triggers) + len(day.late):,} triggers, {day.expected.total():,} "
        f"deliveries (recipient x campaign), an API that takes {latency_ms} ms a call, three calls at a time."
    )
    # Being told to end is like Ctrl-C here: everything that was started has to end too.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with staged(day, latency_ms=latency_ms, keep=keep) as stage:
            _run(stage, day)
            if keep:
                _wait(stage)
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(stage: Stage, day: Day) -> None:
    """The day, what became of it, and the verdict. Raises Refusal where the books do not agree."""
    started = time.monotonic()
    with _reporting(day) as report:
        enqueued = 0
        for triggers in (day.triggers, day.late):
            enqueued += sum(len(each.recipients) * len(each.campaigns) for each in _parsed(stage, triggers))
            for first in range(0, len(triggers), _CHUNK):
                stage.store.intake.append(triggers[first : first + _CHUNK], token_hex(8))
            _drain(stage, enqueued, report)
    seconds = time.monotonic() - started
    totals, snapshot = stage.sandbox.ledger.totals(), stage.store.status()
    console().print(counts_table(snapshot.counts, names=NAMES, title="What became of the deliveries"))
    console().print(_cost(day, totals, seconds))
    history = sorted(stage.store.outcomes.by_recipient(day.somebody), key=lambda outcome: outcome.delivery)
    console().print(outcomes_table(history, console().width, title="One recipient's history"))
    account = stage.settings.account()
    findings = compare(
        stage.store.outcomes.select(Filter()),
        stage.sandbox.ledger.pairs(),
        totals,
        digests=ledger_digests(_parsed(stage, (*day.triggers, *day.late))),
        expected=day.expected,
        permits=account.max_in_flight,
        dead_letters=(snapshot.dead_letters, day.dead_letters),
    )
    console().print(_verdict(findings))
    if not all(finding.holds for finding in findings):
        raise Refusal(f"The books do not agree: the logs are in {stage.folder}.")
    console().print("Outcomes and ledger agree exactly.", style="bold green")


def _parsed(stage: Stage, triggers: Sequence[bytes]) -> Iterator[Trigger]:
    """The triggers as a worker understands them, without those that it does not."""
    for raw in triggers:
        try:
            yield from wire.parse(raw, max_bytes=stage.settings.max_trigger_bytes)
        except InvalidTrigger:
            continue


def _drain(stage: Stage, deliveries: int, report: Callable[[Snapshot], None]) -> None:
    """Waits until so many deliveries have ended. Raises Refusal where that does not come."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        snapshot = stage.store.status()
        report(snapshot)
        if not snapshot.intake and not snapshot.live and sum(snapshot.counts.values()) >= deliveries:
            return
        stage.check_running()
        if time.monotonic() > deadline:
            raise Refusal(
                f"{snapshot.live:,} deliveries have not ended after {_PATIENCE_SECONDS:.0f} s: "
                f"the logs are in {stage.folder}."
            )
        time.sleep(_LOOK_SECONDS)


@contextmanager
def _reporting(day: Day) -> Iterator[Callable[[Snapshot], None]]:
    """Gives what shows a snapshot: a bar for each campaign, or without a terminal a line now and then."""
    if not console().is_terminal:
        yield _lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[statuses]}"),
    )
    with Progress(*columns, console=console(), transient=True) as progress:
        tasks = {
            campaign: progress.add_task(
                name, total=sum(n for (c, _), n in day.expected.items() if c == campaign), statuses=""
            )
            for campaign, name in NAMES.items()
        }

        def show(snapshot: Snapshot) -> None:
            for campaign, task in tasks.items():
                counts = {s: n for (c, s), n in snapshot.counts.items() if c == campaign}
                ended = sum(n for status, n in counts.items() if status not in LIVE)
                progress.update(task, completed=ended, statuses=_words(counts))

        yield show


def _lines() -> Callable[[Snapshot], None]:
    started = time.monotonic()
    last = started - _LINE_SECONDS

    def show(snapshot: Snapshot) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _LINE_SECONDS:
            return
        last = now
        totals = {status: snapshot.total(status) for status in Status}
        waits = f"intake {snapshot.intake:,}  " if snapshot.intake else ""
        console().print(f"{now - started:5.0f} s  {waits}{_words(totals)}")

    return show


def _words(counts: dict[Status, int]) -> str:
    return "  ".join(f"{status.value} {counts[status]:,}" for status in Status if counts.get(status))


def _cost(day: Day, totals: Totals, seconds: float) -> Table:
    """Calls that were made, against one call for each recipient and campaign."""
    single = day.expected.total() - expected_total(day.expected, Status.DUPLICATE)
    table = Table(title="What it cost", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("API calls made, refused and repeated ones included", f"{totals.requests:,}")
    table.add_row("at one call per recipient and campaign", f"{single:,}")
    table.add_row("seconds from the first trigger to the last outcome", f"{seconds:.1f}")
    return table


def _verdict(findings: Sequence[Finding]) -> Table:
    table = Table(title="The books compared: outcomes and the API's own ledger", title_justify="left")
    for head in ("", "what must hold", "counted"):
        table.add_column(head)
    for finding in findings:
        mark = "[green]ok[/]" if finding.holds else "[bold red]WRONG[/]"
        table.add_row(mark, finding.claim, finding.counted)
    return table


def _wait(stage: Stage) -> None:
    """Until Ctrl-C: the run itself has been a success by then."""
    complain(
        f"it goes on running until Ctrl-C. Look around from another terminal:\n"
        f"  volley status --data {stage.folder}\n"
        f"  volley outcomes --data {stage.folder}"
    )
    try:
        while True:
            stage.check_running()
            time.sleep(1)
    except KeyboardInterrupt:
        complain(f"ended; data and logs are in {stage.folder}.")
