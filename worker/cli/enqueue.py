"""`volley enqueue`: triggers from a file to the intake stream.

The file is read twice: every trigger is checked before the first one is appended, so a mistake in line
900,000 is told before anything is sent. A chunk whose answer was lost is appended again under its own nonce,
which makes it one append.
"""

from __future__ import annotations

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

from worker.cli.account import checked_settings, opened
from worker.cli.app import (
    DATA_FOLDER,
    AccountOption,
    DataOption,
    JsonOption,
    Refusal,
    YesOption,
    app,
    complain,
    confirm,
    console,
    print_json,
)
from worker.cli.progress import bar
from worker.cli.trigger_file import Item, UnreadableFileError, items, sizes, spool, with_keys
from worker.core.errors import InvalidTrigger
from worker.core.model import Priority
from worker.store import AWAY
from worker.store.intake import Intake

#: More recipients than this are asked about.
ASK_ABOVE_RECIPIENTS = 1000
#: Triggers, and bytes of triggers, that are appended in one call.
CHUNK_TRIGGERS, CHUNK_BYTES = 500, 4 * 1024 * 1024
#: Bad triggers that are shown; --json prints all.
_SHOWN = 20
#: Waits before a chunk is appended again while Redis is away, seconds.
_PAUSES_SECONDS = (0.2, 1.0, 3.0)


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
    account: AccountOption = "default",
    json: JsonOption = False,
    yes: YesOption = False,
    data: DataOption = DATA_FOLDER,
) -> None:
    """Append triggers to the intake: one JSON object, an array of them, or one object a line (NDJSON).

    Nothing is appended if any of them is wrong. Asks where there are more than 1000 recipients. With --json:
    one object for each trigger, with its place in the file and either its entry id or what is wrong with it.
    """
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
        if not survey.triggers:
            raise Refusal("There is nothing to append.")
        if survey.recipients > ASK_ABOVE_RECIPIENTS:
            confirm(f"Append {survey.words()} to account {account}?", yes=yes)
        with opened(account, data) as (_, store):
            first, last = _append(store.intake, readable, given, survey, json=json)
    entries = f"entry {first}" if survey.triggers == 1 else f"entries {first} to {last}"
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
    intake: Intake, readable: IO[bytes], keys: dict[str, str], survey: _Survey, *, json: bool
) -> tuple[str, str]:
    """Appends all but the bad ones; the first and the last entry id."""
    run, done, first, last, place = token_hex(8), 0, "", "", "the beginning"
    # No more than were surveyed: somebody may still be writing the file.
    good = _without(islice(_items(readable), survey.triggers + len(survey.bad)), survey.bad)
    try:
        with bar("appending", survey.triggers) as advance:
            for chunk in _chunks(good, lambda item: _with_keys_or_raw(item.raw, keys)):
                ids = _append_surely(intake, [raw for _, raw in chunk], f"{run}-{done}")
                done += len(ids)
                first, last, place = first or ids[0], ids[-1], chunk[-1][0].place
                advance(len(ids))
                if json:
                    for (item, _), id_ in zip(chunk, ids, strict=True):
                        print_json({"place": item.place, "entry": id_, "where": None, "reason": None})
    except (RedisError, KeyboardInterrupt, OSError):
        complain(f"{_number(done, 'trigger')} had been appended, up to {place}, and perhaps the next few.")
        raise
    return first, last


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
