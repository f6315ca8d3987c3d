"""`make chaos ARGS="--minutes 10 --seed 7"`: all dies at random, and a judge counts what comes of it."""

from __future__ import annotations

import json as json_module
import random
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tests.chaos.judge import Judgement
from tests.chaos.plan import make_plan
from tests.chaos.run import Run


def main(
    minutes: Annotated[float, typer.Option(min=0.1, help="How long things go wrong.")] = 5.0,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Repeats the plan of a run; random if left out.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    keep: Annotated[
        Path | None, typer.Option(help="Keep all logs in this folder, which must be empty.")
    ] = None,
) -> None:
    """Kills, freezes, fills and cuts, minute after minute, and compares the books at the end.

    The exit code is 1 if a promise of README.md was broken.
    """
    if keep is not None and keep.exists() and not (keep.is_dir() and not any(keep.iterdir())):
        typer.echo(f"{keep} is not an empty folder: name another one for the logs.", err=True)
        raise typer.Exit(2)
    seed = random.randrange(1, 10**6) if seed is None else seed
    plan = make_plan(seed, minutes * 60)
    screen = Console(stderr=json, highlight=False)
    screen.print(
        f"Seed {seed}: {len(plan)} faults in {minutes:g} minutes; the same seed makes the same plan."
    )
    run = Run(plan, seed, screen.print)
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        result = run.play(folder, minutes * 60)
    if json:
        sys.stdout.write(json_module.dumps(_as_json(run, result, seed, minutes)) + "\n")
    else:
        _show(screen, run, result, seed, minutes)
    raise typer.Exit(not result.holds)


def _as_json(run: Run, result: Judgement, seed: int, minutes: float) -> dict[str, object]:
    return {
        "seed": seed,
        "minutes": minutes,
        "faults": {kind.value: number for kind, number in sorted(run.done.items())},
        "kills": run.kills,
        "restarts": run.restarts,
        "drained_seconds": round(run.drained_seconds, 1),
        **result.as_json(),
    }


def _show(screen: Console, run: Run, result: Judgement, seed: int, minutes: float) -> None:
    faults = Table("fault", "times", title="What went wrong")
    for kind, number in sorted(run.done.items()):
        faults.add_row(kind.value, f"{number:,}")
    screen.print(faults)
    table = Table(
        "", "number", "excused, and why", title=f"Seed {seed}, {minutes:g} minutes: what came of it"
    )
    everysec = "the last second under everysec"
    rows = [
        ("processes killed with -9", run.kills, ""),
        ("deliveries enqueued", result.deliveries, ""),
        ("calls received by the API", result.calls, ""),
        ("accepted", result.accepted, ""),
        (
            "unknown",
            result.unknown,
            f"{result.unknown_batches} calls, {result.unknown_batches_at_most} possible",
        ),
        ("unknown calls without a cause", result.unexplained, ""),
        ("set apart", result.set_apart, "workers died of them over and over"),
        ("lost", result.lost, f"{result.excused_lost}: {everysec}"),
        ("doubled", result.doubled, f"{result.excused_doubled}: {everysec}"),
        (
            "over the limit",
            result.over_limit,
            f"{result.excused_over_limit}: {everysec}; {result.cut_off_over_limit}: behind cut calls",
        ),
        ("unfinished", result.unfinished, f"all had ended {run.drained_seconds:.0f} s after the last fault"),
        ("contradictions", result.otherwise, ""),
    ]
    for name, number, why in rows:
        table.add_row(name, f"{number:,}", why)
    screen.print(table)
    for example in result.examples:
        screen.print(example, markup=False)
    screen.print("Every promise was kept." if result.holds else "A promise was BROKEN.")


if __name__ == "__main__":
    typer.run(main)
