"""The frame of the command: what it escapes, asks, prints, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from importlib import import_module
from io import BytesIO, StringIO, TextIOWrapper

import pytest
import typer
from redis.exceptions import AuthenticationError, ConnectionError, ResponseError  # noqa: A004
from rich.console import Console
from typer.testing import CliRunner

from config.settings import SettingsError
from worker.cli import app as frame
from worker.cli.app import COMMANDS, ExitCode, Refusal, confirm, main, print_json, safe
from worker.store.embedded import EmbeddedServerError


def run_main(monkeypatch: pytest.MonkeyPatch, error: Exception, *arguments: str) -> int:
    """The exit code of a command that raises the error."""
    lone = typer.Typer()

    @lone.callback()
    def options(debug: bool = False) -> None:
        frame._debug.set(debug)

    @lone.command("fail")
    def fail() -> None:
        raise error

    monkeypatch.setattr(frame, "app", lone)
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "fail"])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (SettingsError("VOLLEY_X is wrong."), ExitCode.USAGE, "VOLLEY_X is wrong."),
        (Refusal("Nothing was changed."), ExitCode.FAILED, "Nothing was changed."),
        (Refusal("Nothing matched.", ExitCode.NOTHING), ExitCode.NOTHING, "Nothing matched."),
        (EmbeddedServerError("The folder is full."), ExitCode.FAILED, "The folder is full."),
        (ConnectionError("refused"), ExitCode.REDIS, "Redis does not answer: refused"),
        (AuthenticationError("no password"), ExitCode.REDIS, "Redis does not answer: no password"),
        (
            ResponseError("WRONGTYPE for a@example.com"),
            ExitCode.REDIS,
            "Redis refuses: WRONGTYPE (--debug shows all).",
        ),
    ],
)
def test_what_is_no_bug_ends_in_one_sentence_and_a_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: ExitCode,
    sentence: str,
) -> None:
    assert run_main(monkeypatch, error) == code
    assert capsys.readouterr().err == f"volley: {sentence}\n"


def test_debug_shows_the_error_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError):
        run_main(monkeypatch, SettingsError("wrong"), "--debug")


def test_a_bug_is_not_explained_away(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        run_main(monkeypatch, ZeroDivisionError())


@pytest.mark.parametrize(
    "text",
    [
        "\x1b]0;title\x07",
        "\x1b[2Jgone",
        "a\rb\nc\td",
        "\x9b31m",
        "safe\u202egnp.exe",
        "zero\u200bwidth",
        "line\u2028break",
        "\ud800",
        "[bold]not bold[/bold]",
        "[link=http://example.com]x[/link]",
        "trailing \\",
        "\\[red]",
    ],
)
def test_untrusted_text_neither_steers_the_terminal_nor_is_markup(text: str) -> None:
    console = Console(
        file=StringIO(), force_terminal=True, color_system="truecolor", width=200, highlight=False
    )
    console.print("<" + safe(text) + ">")
    assert isinstance(console.file, StringIO)
    printed = console.file.getvalue()
    assert printed.removesuffix("\n").isprintable()
    assert printed.startswith("<")
    assert printed.endswith(">\n")
    if text.isprintable():
        assert printed == f"<{text}>\n"


def test_letters_of_all_languages_are_shown_as_they_are() -> None:
    assert safe("Ünal 李 مرحبا नमस्ते €") == "Ünal 李 مرحبا नमस्ते €"


def test_a_long_text_is_cut_to_the_given_length() -> None:
    assert safe("x" * 10, 4) == "xxx…"
    assert safe("xxxx", 4) == "xxxx"


def test_json_is_one_object_a_line_with_times_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    class Colour(StrEnum):
        RED = "red"

    @dataclass(frozen=True)
    class Thing:
        colour: Colour
        at: datetime

    out = TextIOWrapper(BytesIO())
    monkeypatch.setattr(sys, "stdout", out)
    print_json(Thing(Colour.RED, datetime(2026, 1, 31, 12, 30, tzinfo=UTC)))
    print_json({1: "ü\n"})
    assert isinstance(out.buffer, BytesIO)
    first, second, rest = out.buffer.getvalue().split(b"\n")
    assert json.loads(first) == {"colour": "red", "at": "2026-01-31T12:30:00Z"}
    assert json.loads(second) == {"1": "ü\n"}
    assert rest == b""


def test_where_nobody_can_answer_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", StringIO("y\n"))
    with pytest.raises(Refusal, match="--yes"):
        confirm("Really?", yes=False)
    confirm("Really?", yes=True)


@pytest.mark.parametrize(("answer", "goes_on"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_only_a_yes_is_a_yes(answer: str, goes_on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    lone = typer.Typer()

    @lone.command()
    def ask() -> None:
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
        confirm("Really?", yes=False)

    ended = CliRunner().invoke(lone, input=answer)
    assert (ended.exception is None) == goes_on
    assert goes_on or isinstance(ended.exception, Refusal)


@pytest.mark.parametrize(("name", "module", "summary"), COMMANDS, ids=[name for name, _, _ in COMMANDS])
def test_a_command_says_in_the_list_what_its_own_help_says(name: str, module: str, summary: str) -> None:
    import_module(f"worker.cli.{module}")
    registered = typer.main.get_group(frame.app).commands[name]
    assert (registered.help or "").partition("\n")[0].strip() == summary


def test_help_lists_every_command_and_loads_nothing_slow() -> None:
    program = (
        "import sys\n"
        "from worker.cli import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "finally:\n"
        "    slow = {'aiohttp', 'celery', 'httpx', 'kombu', 'pydantic', 'redis', 'sentry_sdk'}\n"
        "    print('loaded', sorted(slow & set(sys.modules)), file=sys.stderr)\n"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stderr == "loaded []\n"
    for name, _, _ in COMMANDS:
        assert f" {name} " in shown.stdout


def test_an_unknown_command_is_a_usage_error() -> None:
    ended = CliRunner().invoke(frame.app, ["unknown"])
    assert ended.exit_code == ExitCode.USAGE


def test_the_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == ExitCode.OK
    assert capsys.readouterr().out.startswith("volley ")
