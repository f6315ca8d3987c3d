"""Whatever stands on a command line or in the environment: an answer, or a sentence and an exit code."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
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


def _every(path: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from _every((*path, name), inner)


for _, module, _ in COMMANDS:
    import_module(f"worker.cli.{module}")
#: Every command and subcommand, as the program itself knows them, with its options and arguments.
GROUP: Any = get_group(app)
EVERY: dict[tuple[str, ...], Any] = dict(_every((), GROUP))
#: These go on until somebody ends them: of them the command line is only read.
LASTING = frozenset({"up", "sandbox", "demo", "gateway"})
#: ... as of those with this option.
WATCH = "watch"
RUN = [path for path in EVERY if path and path[0] not in LASTING]
READ = [path for path in EVERY if path and path[0] in LASTING]

#: What an argument can hold: anything but NUL, bytes that are no UTF-8 included. Without a slash, so that a
#: path stays in the folder of the test.
ANYTHING = st.binary(max_size=12).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"").replace(b"/", b"")))
TEXT = st.text(st.characters(exclude_characters="\0/", codec="utf-8"), max_size=20)
#: Given once to each option and argument of each command.
EDGES = ("", "\udcff", "-1", "9" * 400, "nan", "inf", "\x1b[2J[/]\u202e🙂")
#: As those, and what some command may well understand.
KNOWN = (
    *EDGES,
    *("0", "65", "1e9", "1e300", "2h", "99999999w", "2026-01-31T18:00:00Z", "default", "offer", "x" * 5000),
    *("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "accepted", "email", "urgent", "1-1", "*"),
    *("{default}", "../..", "/dev/null", "[bold]", "%s", "a@b", "٣", "1_000", "good.ndjson", "people.csv"),
    *("-", "--", "--x", "--help"),
)
VALUES = st.one_of(st.sampled_from(KNOWN), ANYTHING, TEXT)
WORDS = st.lists(VALUES, max_size=6)


def use(parameter: Any) -> st.SearchStrategy[list[str]]:
    """An option or argument on a command line, right or wrong."""
    if parameter.param_type_name == "argument":
        return st.lists(VALUES, min_size=1, max_size=2)
    names = st.sampled_from([*parameter.opts, *parameter.secondary_opts])
    alone, joined = names.map(lambda name: [name]), st.builds(lambda n, v: [f"{n}={v}"], names, VALUES)
    return alone if parameter.is_flag else st.builds(lambda n, v: [n, v], names, VALUES) | joined


def lines(command: Any, parameter: Any) -> st.SearchStrategy[list[str]]:
    """A command line with this option or argument, those without which there is none, and perhaps others."""
    needed = [use(each) for each in command.params if each.required and each is not parameter]
    others = st.lists(st.one_of([use(each) for each in command.params]), max_size=2)
    return st.builds(
        lambda *parts: [word for part in parts for word in part],
        use(parameter),
        *needed,
        others.map(lambda uses: [word for each in uses for word in each]),
    )


def edges(command: Any, parameter: Any) -> Iterator[list[str]]:
    """Each of EDGES as the value of this option or argument."""
    needed = [
        word
        for each in command.params
        if each.required and each is not parameter
        for word in ([each.opts[0], "new"] if each.param_type_name == "option" else ["65"])
    ]
    for edge in EDGES[:1] if getattr(parameter, "is_flag", False) else EDGES:
        option = parameter.param_type_name == "option"
        yield [*needed, *([f"{parameter.opts[0]}={edge}"] if option else ["--", edge])]


Run = Callable[[list[str]], tuple[Any, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command line: its exit code and what it said. No terminal, nothing to read, an empty folder."""
    monkeypatch.chdir(tmp_path)
    # Made once: a command line makes it anew, which costs more than the command.
    for place in ("typer.main", "worker.cli.app"):
        monkeypatch.setattr(f"{place}.get_group", lambda _: GROUP)

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


@pytest.fixture
def installation(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server, an account, a recurring send, and the files that KNOWN names."""
    (tmp_path / "people.csv").write_text("a@example.com\n")
    (tmp_path / "good.ndjson").write_text(
        '{"to": {"email": ["a@example.com"]}, "campaign_id": "65", "ExternalTrigger": {"Name": "A"}}\n'
    )
    (tmp_path / "volley.toml").write_text(
        '[[sends]]\nname = "offer"\ncron = "0 9 * * MON"\ncampaigns = [65]\ncontent = { Name = "A" }\n'
        'file = "people.csv"\n'
    )
    environ = {"ACCOUNT_ID": "TEST", "PASSCODE": "passcode", "CONFIG": str(tmp_path / "volley.toml")}
    for name, value in {**environ, "REDIS_URL": redis_url}.items():
        monkeypatch.setenv(f"VOLLEY_{name}", value)


def check(run: Run, line: list[str]) -> None:
    code, said = run(line)
    assert code in set(ExitCode), f"{line}: {code}"
    assert code == 0 or said.strip(), f"{line}: it says nothing"
    assert "Traceback" not in said
    if code == ExitCode.USAGE:
        assert names_its_fault(said, line), f"{line}: {said}"


#: The names of options and arguments, without dashes.
NAMES = {name.lstrip("-") for command in EVERY.values() for each in command.params for name in each.opts}


def names_its_fault(said: str, line: list[str]) -> bool:
    """Whether a refusal names an option, an argument or a setting, or repeats the beginning of a word."""
    # Without the frame around it, and wherever it was broken into lines.
    fault = said.partition("╭─ Error")[2] or said.partition("volley:")[2]
    if not fault:  # nothing was asked for: all that can be is shown
        return "Usage:" in said and "Commands" in said
    if NAMES & set(re.findall(r"[a-z-]+", fault.lower().replace("--", ""))):
        return True
    typed = [*line, *(word.partition("=")[2] for word in line)]
    beginnings = [re.sub(r"\s+", "", each)[:10] for word in typed for each in (word, ascii(word)[1:-1])]
    known = [
        "Missingargument",
        "Missingcommand",
        "extraargument",
        "Nosuchcommand",
        "Nosuchoption",
        "VOLLEY_",
        "TOML",
        "UTF-8",
    ]
    return any(each in re.sub(r"[\s│]+", "", fault) for each in filter(None, [*beginnings, *known]))


def lasts(path: tuple[str, ...], line: list[str]) -> bool:
    """Whether this would go on for ever."""
    if not any(each.name == WATCH for each in EVERY[path].params):
        return False
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            return bool(EVERY[path].make_context(path[-1], list(line)).params[WATCH])
        except (TyperException, Exit):
            return False


def named(parameters: list[tuple[tuple[str, ...], Any]]) -> list[Any]:
    return [pytest.param(path, each, id=" ".join((*path, each.opts[0]))) for path, each in parameters]


@pytest.mark.parametrize(
    ("path", "parameter"), named([(path, each) for path in RUN for each in EVERY[path].params])
)
def test_any_value_of_any_option_ends_in_an_answer_or_a_sentence(
    run: Run, installation: None, path: tuple[str, ...], parameter: Any
) -> None:
    command = EVERY[path]
    for line in edges(command, parameter):
        check(run, [*path, *line])

    @settings(unhurried, max_examples=3)
    @given(lines(command, parameter))
    def others(line: list[str]) -> None:
        if not lasts(path, line):
            check(run, [*path, *line])

    others()


@pytest.mark.parametrize(
    ("path", "parameter"), named([(path, each) for path in READ for each in EVERY[path].params])
)
def test_any_value_of_an_option_of_a_lasting_command_is_read_or_refused(
    path: tuple[str, ...], parameter: Any
) -> None:
    command = EVERY[path]

    @unhurried
    @given(lines(command, parameter) | st.sampled_from(list(edges(command, parameter))))
    def read(line: list[str]) -> None:
        with contextlib.suppress(TyperException, Exit), contextlib.redirect_stdout(io.StringIO()):
            command.make_context(path[-1], list(line))

    read()


@pytest.mark.parametrize(
    "line",
    [
        ["bad", "remove", "\udcff", "--yes"],
        ["dry-run", "--waiting", "--json", "--out", "\udcff"],
        ["outcomes", "--id", "\udcff", "--json"],
        ["outcomes", "--limit", "9" * 30],
        ["outcomes", "--since", "0001-01-01T00:00:00+23:59"],
        ["outcomes", "--since", "999999999w"],
        ["outcomes", "--until", "9999-12-31T23:59:59-23:59"],
        ["pause", "\udcff", "--yes"],
        ["ready", "--within", "inf"],
        ["resume", "9" * 400, "--yes"],
    ],
    ids=ascii,
)
def test_a_line_that_once_ended_in_a_traceback_ends_in_an_answer_or_a_sentence(
    run: Run, installation: None, line: list[str]
) -> None:
    check(run, line)


@pytest.mark.parametrize("path", RUN, ids=" ".join)
def test_any_words_behind_a_command_end_in_an_answer_or_a_sentence(
    run: Run, installation: None, path: tuple[str, ...]
) -> None:
    @settings(unhurried, max_examples=5)
    @given(WORDS)
    def behind(words: list[str]) -> None:
        if not lasts(path, words):
            check(run, [*path, *words])

    behind()


def test_without_a_server_the_command_line_is_refused_with_a_sentence(run: Run) -> None:
    @unhurried
    @given(st.sampled_from(RUN), WORDS)
    @example(("status",), ["--data", "\udcff"])
    @example(("enqueue",), ["\udcff"])
    @example(("enqueue",), ["x" * 5000])
    def refused(path: tuple[str, ...], words: list[str]) -> None:
        check(run, [*path, *words])

    refused()


@unhurried
@given(WORDS)
def test_any_word_in_place_of_a_command_is_refused_with_a_sentence(run: Run, words: list[str]) -> None:
    if {name for name, _, _ in COMMANDS}.isdisjoint(words):
        check(run, words)


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
