"""What `make bench` prints of a course over time, and of itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import __main__ as bench
from benchmarks import report
from benchmarks.results import Point, Result, thin
from benchmarks.scenarios import SCENARIOS
from benchmarks.scenarios.memory import growth
from benchmarks.stage import resident_bytes
from tests.fuzz import intake

PROJECT = Path(__file__).resolve().parents[2]


def course(*values: float) -> list[Point]:
    return [(float(second), value) for second, value in enumerate(values)]


def test_a_thinned_course_has_no_more_points_than_wanted_and_keeps_every_peak() -> None:
    points = course(*[100.0] * 3600)
    points[1234] = (1234.0, 180.0)
    thinned = thin(points, 60)
    assert len(thinned) == 60
    assert (1234.0, 180.0) in thinned
    assert thin(points[:7], 60) == points[:7]


def test_growth_compares_the_last_third_with_the_second() -> None:
    assert growth(course(1, 1, 100, 100, 110, 110)) == pytest.approx(10)
    assert growth(course(50, 100, 100)) == pytest.approx(0)
    assert growth(course(50, 100)) == 0


def test_a_course_is_plotted_in_ten_rows_with_bars_from_zero() -> None:
    result = Result("memory", series={"worker": course(*[50.0] * 50, *[100.0] * 50), "server": course(7.0)})
    console = Console(record=True, width=132, file=StringIO())
    report.show(result, console)
    rows = [line for line in console.export_text().splitlines() if "█" in line]
    assert [row.count("█") for row in rows] == [15 + 30, *[15] * 4, *[30] * 5]
    assert "100.0" in rows[-1]


def test_a_course_is_part_of_the_document() -> None:
    shown = Result("memory", series={"worker": course(1.5)}).document()
    assert json.loads(json.dumps(shown))["series"] == {"worker": [[0.0, 1.5]]}


@pytest.mark.skipif(sys.platform != "linux", reason="it is read from /proc")
def test_resident_memory_is_told_of_a_process_and_of_each_child() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        found = resident_bytes(os.getpid())
        assert {os.getpid(), child.pid} <= set(found)
        assert found[os.getpid()] > 10_000_000
        child.communicate(b"\n")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--scale", "nan"], "argument --scale: 'nan' is no number above 0."),
        (["--scale", "-1"], "argument --scale: '-1' is no number above 0."),
        (["--scale", "0"], "argument --scale: '0' is no number above 0."),
        (["--scale", "inf"], "argument --scale: 'inf' is no number above 0."),
        (["--scale", "much"], "argument --scale: 'much' is no number above 0."),
        (["--soak", "nan"], "argument --soak: 'nan' is no number of seconds."),
        (["--out", "no/such/file"], "argument --out: the folder 'no/such' does not exist."),
        (["--out", "."], "argument --out: '.' is a folder, not a file."),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *options])
    monkeypatch.setattr(bench, "SCENARIOS", {})
    with pytest.raises(SystemExit) as refused:
        bench.main()
    assert refused.value.code == 2
    assert capsys.readouterr().err.endswith(f"error: {sentence}\n")


def test_a_run_says_at_its_end_how_long_all_of_it_took(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["benchmarks", "--scenario", "nothing", "--out", str(tmp_path / "results.json")]
    )
    monkeypatch.setattr(bench, "SCENARIOS", {"nothing": lambda _: Result("nothing")})
    assert bench.main() == 0
    assert re.search(r"^all of it took \d+ s$", capsys.readouterr().out, re.MULTILINE)
    assert (tmp_path / "results.json").exists()


@pytest.mark.parametrize("count", ["0", "-1", "many"])
def test_fuzzing_with_no_entry_at_all_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], count: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["fuzz", "--count", count])
    with pytest.raises(SystemExit) as refused:
        intake.main()
    assert refused.value.code == 2
    said = f"error: argument --count: '{count}' is no number of entries: 1 or more.\n"
    assert capsys.readouterr().err.endswith(said)


def test_the_help_says_of_every_scenario_what_it_measures() -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--help"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    told = [line.split(maxsplit=1) for line in asked.stdout.partition("scenarios, ")[2].splitlines()[1:]]
    assert [name for name, _ in told] == list(SCENARIOS)
    assert all(sentence.endswith(".") for _, sentence in told)
