"""The frame of the command `volley`: the list of its subcommands, how they print, ask and end.

A subcommand lives in a module of this folder, registers itself there with `@app.command()` (or `add_typer`)
and has a line in `COMMANDS`. Its module is imported when it is called, not for `volley --help`. It writes
answers to stdout, raises `Refusal` where it cannot do what it was asked, and lets SettingsError and
RedisError pass: `main` turns them into one sentence on stderr.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from enum import IntEnum
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

if TYPE_CHECKING:
    from rich.console import Console

    from config.settings import Settings

#: The subcommands in the order of `volley --help`: name, module of this folder, the line that help shows.
COMMANDS: tuple[tuple[str, str, str], ...] = (
    ("up", "up", "Run everything here: a server unless one is given, a worker and beat."),
    ("sandbox", "sandbox", "Run a stand-in of the API until Ctrl-C."),
    ("demo", "demo", "Send a realistic day in small to a stand-in of the API, and compare the books."),
    ("gateway", "gateway", "Take External Trigger calls over HTTP, for apps that call CleverTap today."),
    ("doctor", "doctor", "Check server, settings and workers, and say what to change."),
    ("enqueue", "enqueue", "Append triggers from a JSON or NDJSON file to the intake."),
    ("dry-run", "dry_run", "Write the exact bodies that would be sent to a file, and call nobody."),
    ("status", "status", "Show what waits, what became of the rest, and whether worker and beat run."),
    ("ready", "ready", "Say whether work moves, as an exit code, for health checks."),
    ("outcomes", "outcomes", "Show what became of deliveries."),
    ("retry", "retry", "Send again what ended without an acceptance."),
    ("cancel", "cancel", "Take back what was enqueued and has not been sent."),
    ("dead", "dead", "Show triggers that could not be understood, put them back, or discard them."),
    ("bad", "bad", "Show the recipients that CleverTap called invalid lately, or remove some."),
    ("pause", "control", "Hold campaigns, or a trigger, back."),
    ("resume", "control", "Let go on what was held back."),
    ("schedule", "schedule", "Show recurring sends, start one now, or pause and resume them."),
)

#: Where the embedded server keeps its data, seen from the current folder.
DATA_FOLDER = Path(".volley")

#: Columns of what is printed into a pipe or a file, which has no width of its own.
_COLUMNS = 160


class ExitCode(IntEnum):
    """How a command ends."""

    OK = 0  #: It did what was asked.
    FAILED = 1  #: It refused, was told not to, or failed.
    USAGE = 2  #: The command line or the settings are wrong.
    REDIS = 3  #: Redis is away or refuses.
    NOTHING = 4  #: Nothing matched what was asked for.
    FULL = 5  #: The intake, the backlog or the memory is as full as it may be: try again later.
    INTERRUPTED = 130  #: Ctrl-C.


class Refusal(Exception):  # noqa: N818  # it is an answer to the operator, not an error of the program
    """Ends the command with one sentence on stderr. No secret, and no recipient that was not typed in."""

    def __init__(self, sentence: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(sentence)
        self.code = code


AccountOption = Annotated[str, typer.Option("--account", help="The account, by its name in the settings.")]
DataOption = Annotated[
    Path,
    typer.Option(
        "--data",
        metavar="FOLDER",
        help="Data folder of the embedded server, which is used where VOLLEY_REDIS_URL is not set.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


class _Commands(TyperGroup):
    """Imports the module of a subcommand when that is called; until then it is its line of help."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # noqa: ARG002
        return [name for name, _, _ in COMMANDS]

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]  # noqa: ARG002
        summaries = {name: summary for name, _, summary in COMMANDS}
        if cmd_name in self.commands or cmd_name not in summaries:
            return self.commands.get(cmd_name)
        return TyperCommand(cmd_name, help=summaries[cmd_name])

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]
        for name, module, _ in COMMANDS:
            if args[:1] == [name]:
                import_module(f"worker.cli.{module}")
                self.commands = get_group(app).commands
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="volley",
    cls=_Commands,
    help="Gets External Trigger sends to CleverTap: each one once, in time, three requests at a time.",
    no_args_is_help=True,
    add_completion=False,
    # A traceback with the values of variables could show passcodes and recipients.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_debug: ContextVar[bool] = ContextVar("debug", default=False)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command line, the process's own if None, and exits with an `ExitCode`."""
    try:
        app(args=arguments, prog_name="volley")
    except Exception as error:
        explained = None if _debug.get() else _explained(error)
        if explained is None:
            raise
        sentence, code = explained
        complain(sentence)
        sys.exit(code)
    sys.exit(ExitCode.OK)


def complain(sentence: str) -> None:
    """One line on stderr that begins with `volley: `."""
    print(f"volley: {sentence}", file=sys.stderr)


@cache
def console() -> Console:
    """Where answers are printed: without colour if stdout is no terminal or NO_COLOR is set."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _COLUMNS, highlight=False)


#: Control characters that JSON lets pass, and invisible marks that turn the direction of writing.
_OBEYED = re.compile("[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def print_json(value: object) -> None:
    """One JSON object on a line of its own. Enums, dataclasses, UUIDs and aware datetimes are understood."""
    import orjson

    line = orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS)
    if not line.isascii() or b"\x7f" in line:
        # JSON must escape only some control characters; a terminal obeys others too. All stand in strings.
        line = _OBEYED.sub(_escaped, line.decode()).encode()
    sys.stdout.flush()
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def safe(value: object, most: int | None = None) -> str:
    """Any text from outside, safe to print through `console()`: a recipient, an id, the vendor's words.

    Control characters, invisible ones and those that change the direction of writing are escaped, so they can
    neither steer the terminal nor imitate other output, and rich's markup is taken as text. `most` cuts it to
    so many characters.
    """
    from rich.markup import escape

    text = str(value)
    if most is not None and len(text) > most:
        text = text[: most - 1] + "…"
    return escape("".join(char if char.isprintable() else ascii(char)[1:-1] for char in text))


def confirm(question: str, *, yes: bool) -> None:
    """Asks, unless `yes`. Raises Refusal where the answer is no, or where nobody is there to answer."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Refusal("This asks before it acts, and there is no terminal to ask at: give --yes.")
    if not typer.confirm(question, err=True):
        raise Refusal("Nothing was changed.")


def settings_with_redis(data: Path = DATA_FOLDER, *, require_account: bool = True) -> Settings:
    """The settings, connected to the Redis that they name or else to the server of `volley up` in `data`.

    Raises SettingsError, and Refusal (REDIS) where neither is there.
    """
    from config.settings import load

    settings = load(require_account=require_account)
    if not settings.embedded:
        return settings
    from worker.store.embedded import running_url

    url = running_url(data)
    if url is None:
        raise Refusal(
            f"VOLLEY_REDIS_URL is not set, and no `volley up` runs with the data folder {data.resolve()}.",
            ExitCode.REDIS,
        )
    return settings.connected_to(url)


def _explained(error: Exception) -> tuple[str, ExitCode] | None:
    """The sentence and the code for an error that is no bug. Only here are the libraries needed to tell."""
    from redis.exceptions import ConnectionError, RedisError, TimeoutError  # noqa: A004  # redis-py's names

    from config.settings import SettingsError
    from worker.store.bounds import FullError
    from worker.store.connection import LayoutError
    from worker.store.embedded import EmbeddedServerError

    match error:
        case Refusal():
            return str(error), error.code
        case SettingsError():
            return str(error), ExitCode.USAGE
        case EmbeddedServerError() | LayoutError():
            return str(error), ExitCode.FAILED
        case FullError():
            return f"{error}.", ExitCode.FULL
        case UnicodeEncodeError():
            # Python keeps bytes that are no UTF-8 as lone surrogates, and those reach no server.
            return "The command line or the environment holds bytes that are not UTF-8.", ExitCode.USAGE
        case ConnectionError() | TimeoutError():
            return f"Redis does not answer: {error}", ExitCode.REDIS
        case RedisError():
            # The rest of what a server says may repeat the command, with recipients in it.
            return f"Redis refuses: {str(error).partition(' ')[0]} (--debug shows all).", ExitCode.REDIS
        case _:
            return None


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"volley {version('volley')}")
        except PackageNotFoundError:
            print("volley (not installed, run from its folder)")
        raise typer.Exit


@app.callback()
def _global_options(
    *,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks, which may hold recipients.")
    ] = False,
    version: Annotated[  # noqa: ARG001  # its callback answers it
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    _debug.set(debug)
