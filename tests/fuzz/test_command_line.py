"""Whatever stands on a command line or in the environment: an answer, or a sentence and an exit code."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer import Exit
from typer.exceptions import TyperException
from typer.main import get_group

from config.settings import Settings, SettingsError, describe, load
from worker.cli.app import COMMANDS, ExitCode, app, main

#: The fixtures stay the same for all examples: nothing that is run here may change anything.
unhurried = settings(
    deadline=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

#: Run for real. Of the others, which go on until somebody ends them, the command line is only read.
RUN = ["status", "outcomes", "retry", "cancel", "dead", "bad", "pause", "resume", "enqueue"]
READ = [name for name, _, _ in COMMANDS if name not in RUN]
OPTIONS = [
    *("--account", "--data", "--json", "--yes", "-y", "--campaign", "--status", "--since", "--until"),
    *(
        "--limit",
        "--kind",
        "--recipient",
        "--id",
        "--trigger",
        "--dry-run",
        "--priority",
        "--source",
        "--all",
    ),
    *(
        "--skip-bad",
        "--no-check",
        "--show-trigger",
        "--port",
        "--seed",
        "--worker",
        "--help",
        "--",
        "-",
        "--x",
    ),
]
SUBCOMMANDS = ["list", "put-back", "discard", "remove"]
#: What an argument can hold: anything but NUL, bytes that are no UTF-8 included.
ANYTHING = st.binary(max_size=12).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"")))
VALUES = st.one_of(
    ANYTHING,
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20),
    st.sampled_from(
        [
            *("0", "-1", "65", "1e9", "9" * 400, "nan", "2h", "99999999w", "2026-01-31T18:00:00Z", "default"),
            *("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "accepted", "email", "1-1", "*"),
            *("\x1b[2J", "{default}", "../..", "/dev/null", "[bold]", "[/]", "🙂", "\udcff", "%s", "a@b"),
            *("٣", "1_000"),
        ]
    ),
)
LINES = st.lists(st.one_of(st.sampled_from(OPTIONS), st.sampled_from(SUBCOMMANDS), VALUES), max_size=6)


Run = Callable[[list[str]], tuple[Any, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command line: its exit code and what it said. No terminal, nothing to read, an empty folder."""
    monkeypatch.chdir(tmp_path)

    def once(line: list[str]) -> tuple[Any, str]:
        out, err = BytesIO(), BytesIO()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"")))
            patch.setattr(sys, "stdout", TextIOWrapper(out))
            patch.setattr(sys, "stderr", TextIOWrapper(err, errors="backslashreplace"))
            try:
                main(line)
            except SystemExit as ended:
                sys.stdout.flush()
                sys.stderr.flush()
                return ended.code, (out.getvalue() + err.getvalue()).decode(errors="replace")
        pytest.fail("it did not end")

    return once


def check(run: Run, line: list[str]) -> None:
    code, said = run(line)
    assert code in set(ExitCode), f"{line}: {code}"
    assert code == 0 or said.strip(), f"{line}: it says nothing"
    assert "Traceback" not in said


@pytest.mark.parametrize("command", RUN)
def test_any_command_line_ends_in_an_answer_or_a_sentence(
    run: Run, redis_url: str, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("VOLLEY_REDIS_URL", redis_url)

    @unhurried
    @given(LINES)
    @example(["--recipient", "\udcff"])
    @example(["--id", "\udcff", "--json"])
    @example(["--trigger", "\udcff"])
    @example(["--account", "\udcff"])
    @example(["\udcff", "--yes"])
    @example(["remove", "\udcff", "--yes"])
    @example(["--since", "0001-01-01T00:00:00+23:59"])
    @example(["--since", "999999999w"])
    @example(["--until", "9999-12-31T23:59:59-23:59"])
    @example(["--campaign", "9" * 400])
    @example(["9" * 400, "--yes"])
    @example(["--limit", "9" * 30])
    def lines(line: list[str]) -> None:
        check(run, [command, *line])

    lines()


def test_without_a_server_the_command_line_is_refused_with_a_sentence(run: Run) -> None:
    @unhurried
    @given(st.sampled_from(RUN), LINES)
    @example("status", ["--data", "\udcff"])
    @example("enqueue", ["\udcff"])
    @example("enqueue", ["x" * 5000])
    def lines(command: str, line: list[str]) -> None:
        check(run, [command, *line])

    lines()


@unhurried
@given(LINES)
def test_any_word_in_place_of_a_command_is_refused_with_a_sentence(run: Run, line: list[str]) -> None:
    if set(line).isdisjoint({*RUN, *READ}):
        check(run, line)


@pytest.mark.parametrize("command", READ)
def test_the_options_of_a_lasting_command_are_read_or_refused(command: str) -> None:
    import_module(f"worker.cli.{next(module for name, module, _ in COMMANDS if name == command)}")
    group: Any = get_group(app)

    @unhurried
    @given(LINES)
    def lines(line: list[str]) -> None:
        with contextlib.suppress(TyperException, Exit), contextlib.redirect_stdout(io.StringIO()):
            group.commands[command].make_context(command, list(line))

    lines()


VARIABLES = [name for name, _, _, _ in describe() if not name.endswith("_FILE") and name != "VOLLEY_CONFIG"]


@unhurried
@given(st.dictionaries(st.sampled_from(VARIABLES), VALUES, max_size=8))
@example({"VOLLEY_REDIS_URL": "redis://\udcff"})
@example({"VOLLEY_ACCOUNT_ID": "\udcff", "VOLLEY_PASSCODE": "p"})
@example({"VOLLEY_BASE_URL": "https://\udcff", "VOLLEY_ACCOUNT_ID": "a", "VOLLEY_PASSCODE": "p"})
@example({"VOLLEY_SENTRY_DSN": "\udcff"})
@example({"VOLLEY_ENVIRONMENT": "\udcff"})
def test_any_bytes_in_the_environment_give_settings_or_one_printable_sentence(
    environ: dict[str, str],
) -> None:
    told = settings_or_sentence(environ)
    assert isinstance(told, Settings) or (told.isprintable() and told.endswith("."))


def settings_or_sentence(environ: dict[str, str]) -> Settings | str:
    try:
        return load(environ, require_account=False)
    except SettingsError as error:
        return str(error)


@unhurried
@given(
    st.sampled_from([n for n, _, _, _ in describe() if n.endswith("_FILE") or n == "VOLLEY_CONFIG"]), ANYTHING
)
def test_any_bytes_in_the_path_of_a_file_give_one_sentence(name: str, path: str) -> None:
    # Nothing that exists: the test must not read whatever the bytes happen to name.
    with pytest.raises(SettingsError) as refused:
        load({name: f"/nowhere/{path}"}, require_account=False)
    assert str(refused.value).isprintable()


@unhurried
@given(st.binary(max_size=40))
@example(b"\xef\xbb\xbf")
@example(b"\0")
@example(b"\n")
@example(b"p\nq")
def test_any_bytes_in_the_file_of_a_secret_give_settings_or_one_sentence(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "passcode"
        file.write_bytes(content)
        told = settings_or_sentence({"VOLLEY_ACCOUNT_ID": "a", "VOLLEY_PASSCODE_FILE": str(file)})
    if isinstance(told, Settings):
        assert told.account().passcode.get_secret_value().isascii()
    else:
        assert told.isprintable()
