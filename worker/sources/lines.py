"""Lines of CSV or NDJSON as recipients. Memory does not grow with the source, whatever it holds."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import orjson

from config.sends import Kind as KindChoice
from worker.core.errors import UnreadableSource
from worker.core.model import Kind, Recipient

#: The longest line, in bytes.
LINE_MAX_BYTES = 65_536

_BOM = b"\xef\xbb\xbf"
_KINDS = {kind.value.lower(): kind for kind in Kind}


class Named(NamedTuple):
    """What one line (or one member of a set) names: a recipient, or why it names none."""

    place: str  #: ``line 3``
    raw: bytes  #: the line as it stands there
    recipient: Recipient | None
    fault: str = ""


def numbered(blocks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers from 1; empty ones are left out.

    One that is too long is cut, to no less than LINE_MAX_BYTES + 1.
    """
    number, rest = 0, b""
    for block in blocks:
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            number += 1
            if text := _bare(line, number):
                yield number, text
        if len(rest) > LINE_MAX_BYTES:
            rest = rest[: LINE_MAX_BYTES + 1]
    if text := _bare(rest, number + 1):
        yield number + 1, text


def named_in_ndjson(lines: Iterable[tuple[int, bytes]], kind: KindChoice | None) -> Iterator[Named]:
    """A line is an object with email, identity or objectId, or a text where ``kind`` says what it is.

    Of several kinds in one object the first counts, or that of ``kind``; other keys are passed over.
    """
    only = Kind(kind.value) if kind else None
    for number, line in lines:
        recipient, fault = _of_json(line, only)
        yield Named(f"line {number}", line[:LINE_MAX_BYTES], recipient, fault)


def named_in_csv(lines: Iterable[tuple[int, bytes]], kind: KindChoice | None) -> Iterator[Named]:
    """The first line names the columns; a row names one person, by the first of them that is filled in.

    Columns other than email, identity and objectId, or than ``kind`` where it is given, are passed over. The
    separator is the first of comma, semicolon and tab that the first line holds. Raises UnreadableSource.
    """
    rows = iter(lines)
    _, head = next(rows, (0, b""))
    try:
        text = head.decode()
    except UnicodeDecodeError:
        text = ""
    separator = next((char for char in ",;\t" if char in text), ",")
    names = [name.strip().lower() for name in _cells(text, separator) or []]
    columns = [(at, _KINDS[name]) for at, name in enumerate(names) if name in _KINDS]
    if kind:
        columns = [(at, each) for at, each in columns if each.value == kind.value]
    if not columns:
        wanted = kind.value if kind else "email, identity or objectId"
        raise UnreadableSource(f"its first line does not name a column {wanted}")
    for number, line in rows:
        recipient, fault = _of_row(line, separator, columns)
        yield Named(f"line {number}", line[:LINE_MAX_BYTES], recipient, fault)


def _bare(line: bytes, number: int) -> bytes:
    return (line.removeprefix(_BOM) if number == 1 else line).strip(b" \t\r")


def _of_json(line: bytes, only: Kind | None) -> tuple[Recipient | None, str]:
    if len(line) > LINE_MAX_BYTES:
        return None, f"is longer than {LINE_MAX_BYTES} bytes"
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None, "is not JSON"
    if isinstance(value, str):
        return (Recipient(only, value), "") if only else (None, "is a text, and the send has no kind")
    if not isinstance(value, dict):
        return None, "is neither an object nor a text"
    for key, name in value.items():
        kind = _KINDS.get(key.lower())
        if kind is None or (only and kind is not only) or name is None:
            continue
        return (Recipient(kind, name), "") if isinstance(name, str) else (None, f"its {kind} is not a text")
    return None, f"names no {only or 'email, identity or objectId'}"


def _of_row(line: bytes, separator: str, columns: list[tuple[int, Kind]]) -> tuple[Recipient | None, str]:
    if len(line) > LINE_MAX_BYTES:
        return None, f"is longer than {LINE_MAX_BYTES} bytes"
    try:
        cells = _cells(line.decode(), separator)
    except UnicodeDecodeError:
        return None, "is not UTF-8"
    if cells is None:
        return None, "is not CSV"
    for at, kind in columns:
        if at < len(cells) and (value := cells[at].strip()):
            return Recipient(kind, value), ""
    return None, "names nobody"


def _cells(text: str, separator: str) -> list[str] | None:
    if '"' not in text:
        return text.split(separator)
    try:
        return next(csv.reader([text], delimiter=separator, strict=True), [])
    except csv.Error:  # a quotation mark that is not closed in its line
        return None
