"""Asks a public database of advisories (OSV) whether a locked package has a known weakness.

`python requirements/audit.py` is `make audit`: exit status 1 for a finding, 2 where the audit could not be
done. With `--if-it-answers`, as in `make check`, an audit that could not be done is one loud line within a
few seconds and no failure: a machine without the network can still check the rest. What is accepted, and why,
is in `accepted.toml`.
"""

import argparse
import re
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx

FOLDER = Path(__file__).resolve().parent
SERVICE = "https://api.osv.dev"
ECOSYSTEM = "PyPI"
#: Seconds for asking, and again for the details of findings, if it must be done; and if it need not be.
PATIENT_SECONDS, HURRIED_SECONDS = 60.0, 5.0
#: The service's documentation has it as a sample with findings: an answer without any is worth nothing.
CONTROL = ("jinja2", "2.4.1")
#: Pages that one answer may have.
MOST_PAGES = 20

ResultT = TypeVar("ResultT")
#: Package, version, advisory with its other names, where it is fixed.
Row = tuple[str, str, str, str]

_PIN = re.compile(r"([a-z0-9][a-z0-9._-]*)==([^\s;\\]+)")
#: Names and versions as they may come from the service: nothing in them steers a terminal.
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+!-]{0,99}")


class UnreadableError(Exception):
    """A file of this folder is not as it should be; the message is one sentence."""


class NotDoneError(Exception):
    """The service did not answer, or not what can be understood; the message goes on after its name."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """A known weakness of a locked package."""

    package: str
    version: str
    advisory: str


@dataclass(frozen=True, slots=True)
class Details:
    """What the service says of an advisory. ``fixed`` None: it was not said."""

    aliases: frozenset[str] = frozenset()
    fixed: tuple[str, ...] | None = None
    withdrawn: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """One entry of accepted.toml."""

    package: str
    advisory: str
    since: date
    until: date  #: from this day on it counts as a finding again
    reason: str


def locked(folder: Path) -> list[tuple[str, str]]:
    """Name and version of every package of the lock files, each once. Raises UnreadableError."""
    found = set()
    for path in sorted(folder.glob("*.lock")):
        for line in path.read_text().splitlines():
            if not line or line.startswith(("#", " ")):
                continue
            match = _PIN.match(line)
            if match is None:
                raise UnreadableError(f"{path} has a line that is no pinned package: {line}")
            found.add((match[1], match[2]))
    if not found:
        raise UnreadableError(f"No package is locked in {folder}.")
    return sorted(found)


def accepted(path: Path) -> list[Accepted]:
    """The findings that are lived with. Raises UnreadableError."""
    try:
        entries = tomllib.loads(path.read_text()).get("accepted", [])
        made = [Accepted(**entry) for entry in entries]
    except (OSError, ValueError, TypeError) as error:
        raise UnreadableError(f"{path} cannot be read: {error}") from error
    for each in made:
        texts = (each.package, each.advisory, each.reason)
        are_texts = all(text and type(text) is str for text in texts)
        are_days = {type(each.since), type(each.until)} == {date}  # TOML has date-times as well
        if not (are_texts and are_days and each.since < each.until):
            raise UnreadableError(f"{path}: an entry has package, advisory, reason, since, a later until.")
    return made


def ask(client: httpx.Client, packages: list[tuple[str, str]]) -> list[Finding]:
    """The weaknesses that the service knows. Raises NotDoneError."""
    found: set[Finding] = set()
    # https://google.github.io/osv.dev/post-v1-querybatch/: answers in the order of the questions, in pages.
    left: list[tuple[tuple[str, str], dict[str, str]]] = [(each, {}) for each in (CONTROL, *packages)]
    for _ in range(MOST_PAGES):
        queries = [
            {"package": {"name": name, "ecosystem": ECOSYSTEM}, "version": version, **page}
            for (name, version), page in left
        ]
        answer = _understood(client.post("/v1/querybatch", json={"queries": queries}))
        results = answer.get("results")
        if not isinstance(results, list) or len(results) != len(left):
            raise NotDoneError("does not answer with one result for each package")
        further = []
        for (package, _), result in zip(left, results, strict=True):
            token = result.get("next_page_token") if isinstance(result, dict) else None
            found |= {Finding(*package, advisory) for advisory in _advisories(result)}
            if token:
                further.append((package, {"page_token": str(token)}))
        left = further
        if not left:
            break
    else:
        raise NotDoneError("answers without an end")
    wanted = [each for each in found if (each.package, each.version) != CONTROL or CONTROL in packages]
    if not any((each.package, each.version) == CONTROL for each in found):
        raise NotDoneError(f"finds nothing in {' '.join(CONTROL)}, which has known weaknesses")
    return sorted(wanted)


def details(client: httpx.Client, finding: Finding) -> Details:
    """Where it is fixed, and its other names. Raises NotDoneError, httpx.HTTPError."""
    said = _understood(client.get(f"/v1/vulns/{finding.advisory}"))
    try:
        # https://ossf.github.io/osv-schema/
        fixed = [
            event["fixed"]
            for affected in said.get("affected", [])
            if _normal(affected.get("package", {}).get("name", "")) == finding.package
            for span in affected.get("ranges", [])
            if span["type"] == "ECOSYSTEM"
            for event in span["events"]
            if "fixed" in event
        ]
        aliases = list(said.get("aliases", []))
    except (AttributeError, KeyError, TypeError) as error:
        raise NotDoneError("does not answer with an advisory") from error
    withdrawn = said.get("withdrawn") is not None
    return Details(frozenset(_words(aliases)), tuple(dict.fromkeys(_words(fixed))), withdrawn)


def report(
    found: Mapping[Finding, Details], lived_with: list[Accepted], today: date
) -> tuple[list[Row], list[str]]:
    """What fails the audit, and what else is to be said."""
    rows: list[Row] = []
    notes: list[str] = []
    needed = set()
    for finding, known in sorted(found.items()):
        names = {finding.advisory, *known.aliases}
        entry = next((e for e in lived_with if e.package == finding.package and e.advisory in names), None)
        if entry is not None:
            needed.add(entry)
        if known.withdrawn:
            continue
        if entry is not None and today < entry.until:
            notes.append(
                f"accepted until {entry.until}: {finding.package} {finding.advisory} ({entry.reason})"
            )
            continue
        if entry is not None:
            notes.append(f"no longer accepted since {entry.until}: {finding.package} {entry.advisory}")
        advisory = ", ".join([finding.advisory, *sorted(known.aliases)])
        fixed = "not said" if known.fixed is None else ", ".join(known.fixed) or "no version yet"
        rows.append((finding.package, finding.version, advisory, fixed))
    notes += [
        f"accepted.toml names what is no finding (any more): {entry.package} {entry.advisory}"
        for entry in lived_with
        if entry not in needed
    ]
    return rows, notes


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--if-it-answers", action="store_true", help="no failure where it cannot be done")
    parser.add_argument("--service", default=SERVICE, help=f"another service of this kind than {SERVICE}")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the lock files are")
    options = parser.parse_args(arguments)
    seconds = HURRIED_SECONDS if options.if_it_answers else PATIENT_SECONDS
    try:
        packages, lived_with = locked(options.folder), accepted(options.folder / "accepted.toml")
        with httpx.Client(base_url=options.service, timeout=seconds) as client:
            found = _looked_up(client, packages, seconds)
    except UnreadableError as error:
        print(f"dependency audit: {error}", file=sys.stderr)
        return 2
    except NotDoneError as error:
        print(f"dependency audit: NOT done, {options.service} {error}", file=sys.stderr)
        return 0 if options.if_it_answers else 2
    rows, notes = report(found, lived_with, datetime.now(UTC).date())
    for line in [*_table(rows), *notes]:
        print(line)
    known = f"{len(rows)} known weaknesses" if rows else "no known weakness"
    print(f"dependency audit: {len(packages)} locked packages, {known} ({options.service})")
    return 1 if rows else 0


def _looked_up(
    client: httpx.Client, packages: list[tuple[str, str]], seconds: float
) -> dict[Finding, Details]:
    """Every finding, with its details where the service gives them in time: a finding is never lost."""
    found = dict.fromkeys(_within(seconds, lambda: ask(client, packages)), Details())

    def look_up() -> None:
        for finding in list(found):
            with suppress(NotDoneError, httpx.HTTPError):
                found[finding] = details(client, finding)

    if found:
        with suppress(NotDoneError):
            _within(seconds, look_up)
    return dict(found)


def _within(seconds: float, work: Callable[[], ResultT]) -> ResultT:
    """What the work returns. Raises NotDoneError, also when it takes longer.

    In a thread that may be left behind: looking up a host's name has no deadline of its own.
    """
    results: list[ResultT] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:  # it is raised below
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    match errors, results:
        case [], []:
            raise NotDoneError(f"does not answer within {seconds:.0f} s")
        case [], [result]:
            return result
        case [httpx.HTTPError() | httpx.InvalidURL() as error, *_], _:
            raise NotDoneError(f"does not answer ({str(error) or type(error).__name__})") from error
        case _:
            raise errors[0]


def _understood(response: httpx.Response) -> dict[str, Any]:
    if response.status_code != httpx.codes.OK:
        raise NotDoneError(f"answers with status {response.status_code}")
    try:
        said = response.json()
    except ValueError as error:
        raise NotDoneError("answers with what is no JSON") from error
    if not isinstance(said, dict):
        raise NotDoneError("answers with JSON that is no object")
    return said


def _advisories(result: object) -> Iterator[str]:
    listed = (result.get("vulns") or []) if isinstance(result, dict) else None
    if not isinstance(listed, list):
        raise NotDoneError("answers with a result that cannot be read")
    for each in listed:
        name = each.get("id") if isinstance(each, dict) else None
        if not isinstance(name, str) or not _WORD.fullmatch(name):
            raise NotDoneError("answers with an advisory without a proper name")
        yield name


def _normal(name: str) -> str:
    """As the lock files write a package's name."""
    return re.sub("[-_.]+", "-", name).lower()


def _words(listed: list[Any]) -> list[str]:
    return [each for each in listed if isinstance(each, str) and _WORD.fullmatch(each)]


def _table(rows: list[Row]) -> Iterator[str]:
    shown = [("package", "version", "advisory", "fixed in"), *rows] if rows else []
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
