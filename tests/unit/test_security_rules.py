"""The linter's security rules (`S`, those of bandit) hold, and each exception says why."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PYPROJECT = (PROJECT / "pyproject.toml").read_text()
LINT = tomllib.loads(PYPROJECT)["tool"]["ruff"]["lint"]
PRODUCT = ("config", "tasks", "worker")
SECURITY = re.compile(r"S\d*")


def test_they_are_asked_for() -> None:
    assert "S" in LINT["select"]


def test_no_part_of_the_product_is_left_out_of_them() -> None:
    everywhere = [rule for rule in LINT["ignore"] if SECURITY.fullmatch(rule)]
    in_the_product = [
        (files, rule)
        for files, rules in LINT["per-file-ignores"].items()
        for rule in rules
        if SECURITY.fullmatch(rule) and not files.startswith(("tests/", "benchmarks/", "requirements/"))
    ]
    of_whole_files = [
        path.name
        for folder in PRODUCT
        for path in (PROJECT / folder).rglob("*.py")
        if re.search(r"^\s*#\s*(ruff|flake8):", path.read_text(), re.MULTILINE)
    ]
    assert (everywhere, in_the_product, of_whole_files) == ([], [], [])
    assert not {"exclude", "extend-exclude"} & (set(LINT) | set(tomllib.loads(PYPROJECT)["tool"]["ruff"]))


def test_each_one_that_is_ignored_for_files_has_its_reason_beside_it() -> None:
    ignored = re.findall(r'^ +"S\d+",(.*)$', PYPROJECT, re.MULTILINE)
    assert ignored
    assert all(re.match(r" +# \S", reason) for reason in ignored)


def test_each_one_that_is_ignored_for_a_line_has_its_reason_beside_it() -> None:
    bare = [
        f"{path.relative_to(PROJECT)}:{number}"
        for folder in (*PRODUCT, "benchmarks", "docs", "requirements", "tests")
        for path in (PROJECT / folder).rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"# noqa(?!: [A-Z0-9, ]+? +[-#] \w)", line)
        and re.search(r"# noqa(: [A-Z0-9, ]*\bS\d+|\s*$)", line)
    ]
    assert bare == []
