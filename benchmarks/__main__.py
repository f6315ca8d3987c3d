"""``python -m benchmarks``: runs the scenarios one after the other; ``--help`` lists the options."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import report
from benchmarks.results import Context, Result, machine
from benchmarks.scenarios import SCENARIOS
from benchmarks.stage import Stage

RESULTS = Path(__file__).parent / "results.json"
#: Of the whole work, with a backlog of five million, what is done where nothing else is said.
SCALE = 0.5


def main() -> int:
    """Runs what was asked for. The exit code says whether all of it ran, not whether targets were met."""
    options = _options()
    started = time.monotonic()
    # With --json, standard output is for the document alone.
    console = Console(stderr=options.json, width=None if sys.stdout.isatty() else 132)
    names = options.scenario or list(SCENARIOS)
    results: list[Result] = []
    failed = False
    for name in names:
        console.print(f"[bold]{name}[/]", highlight=False)
        began = time.monotonic()
        try:
            result = SCENARIOS[name](
                Context(
                    options.scale, options.soak, lambda text: console.print(f"  ... {text}", highlight=False)
                )
            )
        except Exception:
            console.print_exception()
            failed = True
            continue
        result.scale, result.seconds = options.scale, time.monotonic() - began
        results.append(result)
        report.show(result, console)
    with Stage() as stage:
        info = stage.redis.info("server")
        where = machine(
            f"{info.get('server_name', 'redis')} {info.get('valkey_version', info['redis_version'])}"
        )
    if len(results) > 1:
        report.summary(results, console)
    path: Path | None = options.out
    if path is None and not options.scenario and options.scale == SCALE and not failed:
        path = RESULTS
    if path is not None:
        report.write(results, where, path)
        console.print(f"written to {path} and {path.with_suffix('.md')}", highlight=False)
    console.print(f"all of it took {time.monotonic() - started:,.0f} s", highlight=False)
    if options.json:
        sys.stdout.write(json.dumps(report.document(results, where)) + "\n")
    return 1 if failed else 0


def _options() -> Any:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="What Volley achieves, beside its peers.",
        epilog="scenarios, in the order in which they run:\n" + "\n".join(_explained()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--scenario",
        action="append",
        choices=list(SCENARIOS),
        metavar="NAME",
        help="only this one of those below; may be given again",
    )
    parser.add_argument(
        "--scale",
        type=_size,
        default=SCALE,
        help=f"size of the work (default {SCALE}: under ten minutes); 0.1 is the quick form, 1 the whole",
    )
    parser.add_argument(
        "--soak", type=_seconds, default=0.0, help="seconds of the scenario memory (3600: the hour)"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--out", type=_file, help="file for the results; by default benchmarks/results.json after a whole run"
    )
    return parser.parse_args()


def _size(text: str) -> float:
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!a} is no number above 0.")
    return value


def _seconds(text: str) -> float:
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!a} is no number of seconds.")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _file(text: str) -> Path:
    """A place for the results, which would be lost if only their end found that there is none."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"the folder {str(path.parent)!a} does not exist.")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!a} is a folder, not a file.")
    return path


def _explained() -> Iterator[str]:
    """Each scenario with what it measures, from its docstring."""
    for name, scenario in SCENARIOS.items():
        measures = (scenario.__doc__ or "").partition("\n")[0].replace("``", "")
        yield f"  {name:<14}{measures}"


if __name__ == "__main__":
    sys.exit(main())
