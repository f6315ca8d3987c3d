"""`volley enqueue`: triggers from a file to the intake stream.

The file is read twice: every trigger is checked before the first one is appended, so a mistake in line
900,000 is told before anything is sent. A chunk whose answer was lost is appended again under its own nonce,
which makes it one append. A command that stopped half-way says with which `--resume` it goes on: from the
chunk behind the last confirmed one, with the same nonces, so that nothing is left out or appended twice.
"""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from secrets import token_hex
from time import sleep
from typing import IO, Annotated

import typer
from redis.exceptions import RedisError

from worker.cli.account import check_account, checked_settings
from worker.cli.app import (
    DATA_FOLDER,
    AccountOption,
    DataOption,
    ExitCode,
    JsonOption,
    Refusal,
    YesOption,
    app,
    complain,
    confirm,
    console,
    print_json,
    settings_with_redis,
)
from worker.cli.progress import bar
from worker.cli.trigger_file import Item, UnreadableFileError, items, sizes, spool, with_keys
from worker.core.errors import InvalidTrigger
from worker.core.model import Priority
from worker.store import AWAY, FullError, open_store
from worker.store.intake import Intake

#: More recipients than this are asked about.
ASK_ABOVE_RECIPIENTS = 1000
#: Triggers, and bytes of triggers, that are appended in one call.
CHUNK_TRIGGERS, CHUNK_BYTES = 500, 4 * 1024 * 1024
#: Bad triggers that are shown; --json prints all.
_SHOWN = 20
#: Waits before a chunk is appended again while Redis is away, seconds.
_PAUSES_SECONDS = (0.2, 1.0, 3.0)
#: Between two tries while there is no room, seconds.
_FULL_PAUSE_SECONDS = 0.5
_TOKEN = re.compile(r"([0-9a-f]{16})-([0-9]{1,15})-([0-9]{1,15})")


@dataclass
class _Survey:
    """What the first reading found. ``bad`` holds the ordinals of the triggers that are wrong, from 0."""

    triggers: int = 0
    recipients: int = 0
    deliveries: int = 0
    bad: array[int] = field(default_factory=lambda: array("Q"))

    def words(self) -> str:
        return (
            f"{_number(self.triggers, 'trigger')} for {_number(self.recipients, 'recipient')} "
            f"({_number(self.deliveries, 'delivery')})"
        )


@dataclass
class _Run:
    """How far the appending has come; written as ``--resume`` takes it."""

    name: str = field(default_factory=lambda: token_hex(8))
    done: int = 0  #: triggers appended
    number: int = 0  #: of the last one's line or place in the array

    @classmethod
    def resumed(cls, token: str | None) -> _Run:
        """A new run, or the one of a token."""
        if token is None:
            return cls()
        found = _TOKEN.fullmatch(token)
        if found is None:
            raise typer.BadParameter("--resume takes what a run that had stopped has said")
        return cls(found[1], int(found[2]), int(found[3]))

    def __str__(self) -> str:
        return f"{self.name}-{self.done}-{self.number}"


@app.command()
def enqueue(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON or NDJSON; - is standard input.")],
    *,
    priority: Annotated[
        Priority | None, typer.Option("--priority", help="Set this priority in every trigger.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", help="Set this source in every trigger; outcomes show it.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave triggers out that are wrong, and append the others.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Without: what is wrong becomes a dead letter.")
    ] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check and count.")] = False,
    wait: Annotated[
        float,
        typer.Option(
            "--wait", min=0, metavar="SECONDS", help="How long to wait for room where a bound is reached."
        ),
    ] = 60.0,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume", metavar="TOKEN", help="Go on with the same file where a run has stopped that said so."
        ),
    ] = None,
    account: AccountOption = "default",
    json: JsonOption = False,
    yes: YesOption = False,
    data: DataOption = DATA_FOLDER,
) -> None:
    """Append triggers to the intake: one JSON object, an array of them, or one object a line (NDJSON).

    Nothing is appended if any of them is wrong. Asks where there are more than 1000 recipients. With --json:
    one object for each trigger, with its place in the file and either its entry id or what is wrong with it.

    Where the intake, the backlog or the memory is full it waits for room, and ends with exit code 5 if there
    is none; the same command with the --resume that it then shows goes on.
    """
    run = _Run.resumed(resume)
    keys = {"priority": priority.value if priority else None, "source": source}
    given = {key: value for key, value in keys.items() if value is not None}
    settings = checked_settings(account)
    with _readable(file) as readable:
        survey = _survey(readable, given, max_bytes=settings.max_trigger_bytes, check=check, json=json)
        if survey.bad and not skip_bad:
            total = _number(survey.triggers + len(survey.bad), "trigger")
            raise Refusal(
                f"Of {total} {len(survey.bad):,} cannot be sent: nothing was appended "
                "(--skip-bad appends the rest)."
            )
        if dry_run:
            _say(f"{survey.words()} would be appended to account {account}.", json=json)
            return
        if survey.triggers <= run.done:
            raise Refusal("There is nothing to append.")
        if survey.recipients > ASK_ABOVE_RECIPIENTS:
            confirm(f"Append {survey.words()} to account {account}?", yes=yes)
        # Not `opened`: it would look at Redis at once, and a Redis that is away for a moment is waited for.
        settings = settings_with_redis(data, require_account=False)
        check_account(settings, account)
        store = open_store(settings, account)
        try:
            first, last = _append(store.intake, readable, given, survey, run, wait_seconds=wait, json=json)
        finally:
            store.close()
    entries = f"entry {first}" if first == last else f"entries {first} to {last}"
    _say(f"appended {survey.words()} to account {account}: {entries}.", json=json)


def _readable(file: str) -> IO[bytes]:
    try:
        if file == "-":
            return spool(sys.stdin.buffer)
        opened_file = Path(file).open("rb")  # noqa: SIM115  # the caller's `with` closes it
        if opened_file.seekable():
            return opened_file
        with opened_file:  # a pipe, as of a shell's <(...)
            return spool(opened_file)
    except OSError as error:
        raise Refusal(f"{file} cannot be read: {error.strerror}.") from None


def _items(readable: IO[bytes]) -> Iterator[Item]:
    try:
        yield from items(readable)
    except UnreadableFileError as fault:
        raise Refusal(str(fault)) from None


def _survey(readable: IO[bytes], keys: dict[str, str], *, max_bytes: int, check: bool, json: bool) -> _Survey:
    survey = _Survey()
    for ordinal, item in enumerate(_items(readable)):
        try:
            size = sizes(with_keys(item.raw, keys), max_bytes=max_bytes)
        except InvalidTrigger as invalid:
            if check:
                survey.bad.append(ordinal)
                _complain_of(item, invalid, len(survey.bad), json=json)
                continue
        else:
            survey.recipients += size.recipients
            survey.deliveries += size.deliveries
        survey.triggers += 1
    if len(survey.bad) > _SHOWN and not json:
        complain(f"... and {len(survey.bad) - _SHOWN:,} more (--json prints all).")
    return survey


def _complain_of(item: Item, invalid: InvalidTrigger, count: int, *, json: bool) -> None:
    if json:
        print_json({"place": item.place, "entry": None, "where": invalid.where, "reason": invalid.why})
    elif count <= _SHOWN:
        complain(f"{item.place}: {invalid}")


def _append(
    intake: Intake,
    readable: IO[bytes],
    keys: dict[str, str],
    survey: _Survey,
    run: _Run,
    *,
    wait_seconds: float,
    json: bool,
) -> tuple[str, str]:
    """Appends all but the bad ones and those of an earlier run; the first and the last entry id."""
    first, last, place = "", "", f"number {run.number}" if run.number else "the beginning"
    # No more than were surveyed: somebody may still be writing the file.
    good = _without(islice(_items(readable), survey.triggers + len(survey.bad)), survey.bad)
    rest = (item for item in good if item.number > run.number)
    patience = _Patience(wait_seconds)
    try:
        with bar("appending", survey.triggers) as advance:
            advance(run.done)
            for chunk in _chunks(rest, lambda item: _with_keys_or_raw(item.raw, keys)):
                ids = patience.append(intake, [raw for _, raw in chunk], f"{run.name}-{run.done}")
                last_item = chunk[-1][0]
                run.done, run.number = run.done + len(ids), last_item.number
                first, last, place = first or ids[0], ids[-1], last_item.place
                advance(len(ids))
                if json:
                    for (item, _), id_ in zip(chunk, ids, strict=True):
                        print_json({"place": item.place, "entry": id_, "where": None, "reason": None})
    except FullError as full:
        complain(f"{_number(run.done, 'trigger')} had been appended, up to {place}. To go on: --resume {run}")
        raise Refusal(f"{full}.", ExitCode.FULL) from None
    except (RedisError, KeyboardInterrupt, OSError):
        complain(
            f"{_number(run.done, 'trigger')} had been appended, up to {place}, and perhaps the next few. "
            f"To go on without repeating any, within an hour: --resume {run}"
        )
        raise
    return first, last


@dataclass
class _Patience:
    """Waits for room, ``seconds`` for each chunk, and says so once."""

    seconds: float
    told: bool = False

    def append(self, intake: Intake, triggers: list[bytes], nonce: str) -> list[str]:
        """The entry ids. Raises FullError when there still is no room."""
        waited = 0.0
        while True:
            try:
                return _append_surely(intake, triggers, nonce)
            except FullError as full:
                if waited >= self.seconds:
                    raise
                if not self.told:
                    complain(f"{full}; waiting for room.")
                    self.told = True
                sleep(_FULL_PAUSE_SECONDS)
                waited += _FULL_PAUSE_SECONDS


def _append_surely(intake: Intake, triggers: list[bytes], nonce: str) -> list[str]:
    for pause in _PAUSES_SECONDS:
        try:
            return intake.append(triggers, nonce)
        except AWAY:
            sleep(pause)
    return intake.append(triggers, nonce)


def _with_keys_or_raw(raw: bytes, keys: dict[str, str]) -> bytes:
    try:
        return with_keys(raw, keys)
    except InvalidTrigger:  # --no-check: the worker will say what is wrong
        return raw


def _without(all_items: Iterator[Item], bad: array[int]) -> Iterator[Item]:
    skipped = iter(bad)
    skip = next(skipped, None)
    for ordinal, item in enumerate(all_items):
        if ordinal == skip:
            skip = next(skipped, None)
        else:
            yield item


def _chunks(good: Iterator[Item], final: Callable[[Item], bytes]) -> Iterator[list[tuple[Item, bytes]]]:
    chunk: list[tuple[Item, bytes]] = []
    size = 0
    for item in good:
        raw = final(item)
        if chunk and (len(chunk) == CHUNK_TRIGGERS or size + len(raw) > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append((item, raw))
        size += len(raw)
    if chunk:
        yield chunk


def _say(sentence: str, *, json: bool) -> None:
    if json:
        complain(sentence)  # stdout is for the objects
    else:
        console().print(sentence)


def _number(count: int, noun: str) -> str:
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun.removesuffix('y') + 'ie' if noun.endswith('y') else noun}s"
