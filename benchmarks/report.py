"""Prints results, and writes them to the file that the README quotes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.results import Measure, Point, Result


def show(result: Result, console: Console) -> None:
    """One scenario: its values beside their targets, and the processors that each part used."""
    table = Table(title=f"{result.scenario} ({result.seconds:.0f} s)", title_justify="left")
    for name in ("measured", "value", "", "target", ""):
        table.add_column(name, justify="right" if name in {"value", "target"} else "left")
    for measure in result.measures:
        table.add_row(measure.what, number(measure.value), measure.unit, target(measure), verdict(measure))
    console.print(table)
    if any(result.shares.values()):
        parts = sorted({part for shares in result.shares.values() for part in shares})
        used = Table(title="processors used", title_justify="left")
        used.add_column("run")
        for part in parts:
            used.add_column(part, justify="right")
        for run, shares in result.shares.items():
            used.add_row(run, *(f"{shares[part]:.2f}" if part in shares else "" for part in parts))
        console.print(used)
    if result.series:
        console.print(plot(result.series))
    for note in result.notes:
        console.print(f"  {note}", highlight=False)


def plot(series: Mapping[str, list[Point]]) -> Table:
    """Courses over time: a row for each tenth of it, with the highest value in it, and a bar from zero."""
    shown = Table(title="over time (the highest of each tenth, MB)", title_justify="left")
    shown.add_column("seconds", justify="right")
    for name in series:
        shown.add_column(name)
    tenth = max(at for points in series.values() for at, _ in points) / 10
    for row in range(10):
        cells = []
        for points in series.values():
            here = [value for at, value in points if min(9, int(at / tenth)) == row]
            bar = "█" * round(30 * max(here) / max(value for _, value in points)) if here else ""
            cells.append(f"{max(here):7.1f} {bar}" if here else "")
        shown.add_row(f"{tenth * row:.0f}-{tenth * (row + 1):.0f}", *cells)
    return shown


def summary(results: Sequence[Result], console: Console) -> None:
    """Every value that has a target."""
    table = Table(title="Targets", title_justify="left")
    for name in ("scenario", "what", "value", "", "target", ""):
        table.add_column(name, justify="right" if name in {"value", "target"} else "left")
    for result in results:
        for measure in result.measures:
            if measure.met is not None:
                table.add_row(
                    result.scenario,
                    measure.what,
                    number(measure.value),
                    measure.unit,
                    target(measure),
                    verdict(measure),
                )
    console.print(table)


def write(results: Sequence[Result], machine: dict[str, Any], path: Path) -> None:
    """Everything as JSON; beside it, with the ending ``.md``, the values that have targets."""
    path.write_text(json.dumps(document(results, machine), indent=1) + "\n")
    lines = [
        f"Measured {machine['when'][:10]} on {machine['cores']} cores ({machine['processor']}), "
        f"{machine['server']}, Python {machine['python']}: server, worker, API, producer all on them. "
        f"Scale {results[0].scale:g}.",
        "",
        "| what | measured | target | |",
        "|---|---|---|---|",
    ]
    for result in results:
        lines += [
            f"| {m.what} | {number(m.value)} {m.unit} | {target(m)} | {'met' if m.met else 'missed'} |"
            for m in result.measures
            if m.met is not None
        ]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")


def document(results: Sequence[Result], machine: dict[str, Any]) -> dict[str, Any]:
    """Everything that was measured."""
    return {"machine": machine, "results": [result.document() for result in results]}


def number(value: float) -> str:
    """As a person reads it: 12,345 or 1.23."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"


def target(measure: Measure) -> str:
    """``>= 20`` or ``<= 5``."""
    if measure.target is None:
        return ""
    return f"{'>=' if measure.at_least else '<='} {measure.target:,.10g}"


def verdict(measure: Measure) -> str:
    """``met`` or ``MISSED``."""
    return {None: "", True: "[green]met[/]", False: "[red]MISSED[/]"}[measure.met]
