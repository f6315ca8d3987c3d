"""Has pip-audit ask a public database of advisories (OSV) whether a locked package has a known weakness.

`python requirements/audit.py` is `make audit`: exit status 1 for a finding, 2 where the audit could not be
done. With `--if-it-answers`, as in `make check`, an audit that could not be done is one loud line and no
failure: a machine without the network can still check the rest. What is accepted is in `accepted.toml`.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from datetime import UTC, date, datetime
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PIP_AUDIT = [sys.executable, "-m", "pip_audit", "--vulnerability-service=osv", "--strict", "--disable-pip"]
PIP_AUDIT += ["--require-hashes", "--format=json", "--progress-spinner=off", "--requirement=/dev/stdin"]
#: Seconds for each answer and for all of them, if it must be done; and if it need not be.
PATIENT, HURRIED = (30, 600), (4, 20)
#: It is known to be weak and asked for first: a database that finds nothing in it is worth nothing.
CONTROL = "jinja2==2.4.1"


class NotDoneError(Exception):
    """pip-audit came to no result; the message says why."""


def accepted(path: Path) -> dict[str, str]:
    """The advisories that are lived with today, each with a sentence about it. Raises ValueError."""
    lived_with = {}
    for advisory, entry in tomllib.loads(path.read_text()).items():
        match entry:
            case {"until": date() as until, "reason": str(why)} if why and not isinstance(until, datetime):
                if datetime.now(UTC).date() < until:
                    lived_with[advisory] = f"accepted until {until}: {advisory} ({why})"
            case _:
                raise ValueError(f"{advisory} needs a day as `until` and words as `reason`")
    return lived_with


def ask(options: list[str], seconds: float) -> tuple[int, list[tuple[str, ...]]]:
    """How many packages were asked about, and a row for each finding. Raises NotDoneError."""
    locked = "".join((FOLDER / name).read_text() for name in ("run.lock", "dev.lock"))
    # Without their conditions: pip-audit leaves out what would not be installed on this machine.
    given = f"{CONTROL} --hash=sha256:0\n" + re.sub(r" ; .*(?= \\$)", "", locked, flags=re.MULTILINE)
    command = [*PIP_AUDIT, *options]
    try:
        ended = subprocess.run(
            command, input=given, capture_output=True, text=True, check=False, timeout=seconds
        )
    except subprocess.TimeoutExpired as error:
        raise NotDoneError(f"no result within {seconds:.0f} s") from error
    # It writes JSON with findings and without; where it fails, only a message or a traceback.
    try:
        control, *packages = json.loads(ended.stdout)["dependencies"]
    except (ValueError, KeyError):
        packages = []
    if not packages or any("vulns" not in package for package in packages):
        said = re.findall(r".*(?:[Ee]rror: |ERROR:).*", ended.stderr)
        raise NotDoneError(said[-1] if said else f"pip-audit ended with status {ended.returncode}")
    if not control["vulns"]:
        raise NotDoneError(f"the database finds nothing in {CONTROL}, which has known weaknesses")
    return len(packages), [
        (package["name"], package["version"], ", ".join([each["id"], *sorted(each["aliases"])]), fixed)
        for package in packages
        for each in package["vulns"]
        for fixed in [", ".join(each["fix_versions"]) or "not said"]
    ]


def main() -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--if-it-answers", action="store_true", help="no failure where it cannot be done")
    hurried = parser.parse_args().if_it_answers
    each, together = HURRIED if hurried else PATIENT
    try:
        lived_with = accepted(FOLDER / "accepted.toml")
        ignored = [f"--ignore-vuln={advisory}" for advisory in lived_with]
        count, rows = ask([f"--timeout={each}", *ignored], together)
    except (OSError, ValueError) as error:
        print(f"dependency audit: a file of requirements/ cannot be used: {error}", file=sys.stderr)
        return 2
    except NotDoneError as error:
        print("dependency audit: NOT done,", "".join(filter(str.isprintable, str(error))), file=sys.stderr)
        return 0 if hurried else 2
    table = [("package", "version", "advisory", "fixed in"), *rows] if rows else []
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        print("".join(filter(str.isprintable, line)))
    known = f"{len(rows)} known weaknesses" if rows else "no known weakness"
    print(*lived_with.values(), f"dependency audit: {count} locked packages, {known}", sep="\n")
    return 1 if rows else 0


if __name__ == "__main__":
    sys.exit(main())
