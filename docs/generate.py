"""Writes what README.md and docs/*.md have from the code: `make docs`. A test holds them to it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from enum import Enum
from pathlib import Path

from config.settings import describe
from worker.cli.app import COMMANDS, ExitCode
from worker.core.decision_table import decision_table_markdown
from worker.core.door import PARKED_PAUSES_MS, TROUBLE_AFTER, TROUBLE_PAUSES_MS
from worker.core.model import Reason, Status
from worker.store.scripts import SHARED

ROOT = Path(__file__).resolve().parents[1]
LUA = ROOT / "worker" / "store" / "lua"
PAGES = ("README.md", "docs/decisions.md", "docs/redis.md")


def settings() -> str:
    """A table of every environment variable."""
    rows = [
        f"| `{name}` | {default and f'`{default}`'} | {text.replace('|', '/')} |"
        for name, _, default, text in describe()
    ]
    return "\n".join(["| variable | default | what it is |", "|---|---|---|", *rows])


def commands() -> str:
    """A table of every command, and the exit codes."""
    rows = [f"| `volley {name}` | {text} |" for name, _, text in COMMANDS]
    return "\n".join(["| command | what it does |", "|---|---|", *rows])


def exit_codes() -> str:
    """A table of how a command may end."""
    sentences = _sentences(ExitCode)
    rows = [f"| {code.value} | {sentences[code.name]} |" for code in ExitCode]
    return "\n".join(["| exit code | meaning |", "|---|---|", *rows])


def statuses() -> str:
    """A table of every status that a delivery may have."""
    sentences = _sentences(Status)
    rows = [f"| `{status.value}` | {sentences[status.name].replace('``', '`')} |" for status in Status]
    return "\n".join(["| status | meaning |", "|---|---|", *rows])


def _sentences(members: type[Enum]) -> dict[str, str]:
    """The sentence behind each member of an enumeration, by its name."""
    return dict(re.findall(r"^    ([A-Z_]+) = .*?  #: (.+)$", inspect.getsource(members), re.MULTILINE))


def reasons() -> str:
    """A table of every reason that an outcome may have."""
    rows = [f"| `{reason.label}` | {reason.sentence} |" for reason in Reason]
    return "\n".join(["| reason | meaning |", "|---|---|", *rows])


def pauses() -> str:
    """The pauses between probes, and what shuts the door."""

    def listed(pauses_ms: tuple[int, ...]) -> str:
        return ", ".join(str(pause // 1000) for pause in pauses_ms)

    return (
        f"- Trouble (5xx, no connection, no answer): after {TROUBLE_AFTER} calls in a row; probes after "
        f"{listed(TROUBLE_PAUSES_MS)} seconds, and then every {TROUBLE_PAUSES_MS[-1] // 1000}.\n"
        f"- Refusals that a person has to mend: at once; probes after {listed(PARKED_PAUSES_MS)} seconds, "
        f"and then every {PARKED_PAUSES_MS[-1] // 1000}."
    )


def adapting() -> str:
    """How permits fall and rise again; the numbers stand in the script that counts."""
    text = (LUA / "report.lua").read_text()
    found = re.search(r"RAISE_AFTER, RAISE_AT_MOST = (\d+), (\d+)", text)
    if found is None:
        raise LookupError("report.lua no longer says when permits rise")
    after, at_most = found.groups()
    return (
        "- Down: a 429 halves the permits in use, rounded up, but not below one.\n"
        f"- Up: {after} calls that went well since then add one. If another 429 follows that rise, the next "
        f"one takes twice as many calls, up to {at_most}."
    )


def keys() -> str:
    """The key names, from the module that owns them."""
    import worker.store.keys

    return f"```\n{worker.store.keys.__doc__}```"


def scripts() -> str:
    """A table of every script, by the first sentence of its file."""
    rows = []
    for file in sorted(LUA.glob("*.lua")):
        head = " ".join(line[2:].strip() for line in _head(file))
        first = re.split(r"(?<=\.)\s", head)[0].rstrip(".")
        rows.append(f"| `{file.name}` | {first}{' (shared)' if file.stem in SHARED else ''} |")
    return "\n".join(["| script | what it does |", "|---|---|", *rows])


def _head(file: Path) -> list[str]:
    lines = file.read_text().splitlines()
    return lines[: next(i for i, line in enumerate(lines) if not line.startswith("--"))]


BLOCKS: dict[str, Callable[[], str]] = {
    "settings": settings,
    "commands": commands,
    "exit-codes": exit_codes,
    "statuses": statuses,
    "reasons": reasons,
    "decision-table": decision_table_markdown,
    "pauses": pauses,
    "adapting": adapting,
    "keys": keys,
    "scripts": scripts,
}


def generated(page: str) -> str:
    """The page with its blocks made anew. Raises KeyError for a block that nobody makes."""

    def block(match: re.Match[str]) -> str:
        return f"<!-- {match[1]} -->\n{BLOCKS[match[1]]().strip()}\n<!-- /{match[1]} -->"

    return re.sub(r"<!-- ([a-z-]+) -->.*?<!-- /\1 -->", block, page, flags=re.DOTALL)


if __name__ == "__main__":
    for name in PAGES:
        path = ROOT / name
        path.write_text(generated(path.read_text()))
