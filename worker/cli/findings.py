"""A finding of `volley doctor`, and how findings are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from rich.table import Table
from rich.text import Text

from worker.cli.app import safe


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"  #: As it should be.
    SKIPPED = "skipped"  #: This user may not ask, or there is nothing to ask.
    WARNING = "warning"  #: Works, and should be looked at.
    PROBLEM = "problem"  #: Breaks a promise, or stops the work.


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was found and, unless all is well, what to change. Nothing secret, no recipient."""

    check: str
    level: Level
    found: str
    advice: str = ""
    account: str | None = None  #: None: it is about the installation

    def json(self) -> dict[str, object]:
        """As ``--json`` prints it; ``advice`` is null where there is none."""
        return {
            "account": self.account,
            "check": self.check,
            "level": self.level.value,
            "found": self.found,
            "advice": self.advice or None,
        }


_STYLES = {Level.OK: "green", Level.SKIPPED: "dim", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}


def findings_table(findings: Sequence[Finding]) -> Table:
    """One row for each finding; the advice stands under what was found."""
    table = Table(show_lines=False)
    table.add_column("check", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("found", overflow="fold")
    for each in findings:
        name = f"{each.account}: {each.check}" if each.account else each.check
        text = Text.from_markup(safe(each.found))
        if each.advice:
            text.append("\n").append_text(Text.from_markup(safe(each.advice), style=_STYLES[each.level]))
        table.add_row(name, Text(each.level.value, _STYLES[each.level]), text)
    return table


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, Level.OK, found)


def skipped(check: str, found: str) -> Finding:
    """It could not be looked at."""
    return Finding(check, Level.SKIPPED, found)


def warning(check: str, found: str, advice: str) -> Finding:
    """To be looked at."""
    return Finding(check, Level.WARNING, found, advice)


def problem(check: str, found: str, advice: str) -> Finding:
    """To be mended."""
    return Finding(check, Level.PROBLEM, found, advice)
