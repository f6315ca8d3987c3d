"""Triggers in a file: one JSON object, an array of them, or NDJSON (one object a line).

NDJSON is read line by line, so memory does not grow with the file. A file that is one JSON document is read
whole; beyond DOCUMENT_MAX_BYTES it has to be NDJSON.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, BinaryIO

import orjson

from worker.clevertap import wire
from worker.core.errors import InvalidTrigger

#: The largest file that is read as one JSON document, bytes.
DOCUMENT_MAX_BYTES = 256 * 1024 * 1024
#: The longest line that is read in one piece, bytes: a file that is no text must not fill the memory.
LINE_MAX_BYTES = 128 * 1024 * 1024
#: A stream is kept in memory up to so many bytes, then in a file.
_SPOOL_BYTES = 8 * 1024 * 1024


class UnreadableFileError(Exception):
    """The file as a whole cannot be triggers; the text is made for people and holds nothing of the file."""


@dataclass(frozen=True, slots=True)
class Item:
    """One trigger as it stands in the file. ``place`` is ``line 3`` of NDJSON, ``item 3`` of an array."""

    place: str
    raw: bytes = field(repr=False)

    @property
    def number(self) -> int:
        """Of its line, or its place in the array: from 1 on, rising."""
        return int(self.place.rpartition(" ")[2])


@dataclass(frozen=True, slots=True)
class Sizes:
    """What one trigger comes to. Deliveries are recipients x campaigns."""

    recipients: int
    deliveries: int


def spool(stream: BinaryIO) -> IO[bytes]:
    """A copy of a stream that can be read twice. The caller closes it."""
    # The caller's `with` is the context manager.
    copy = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115
    try:
        shutil.copyfileobj(stream, copy)
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return copy


def items(file: IO[bytes]) -> Iterator[Item]:
    """All triggers of a file, from its beginning. Raises UnreadableFileError."""
    file.seek(0)
    first = _first_line(file)
    if not first.startswith(b"[") and _loads(first) is not _NOTHING:
        yield from _lines(file)
        return
    file.seek(0)
    whole = file.read(DOCUMENT_MAX_BYTES + 1)
    document = _loads(whole) if len(whole) <= DOCUMENT_MAX_BYTES else _NOTHING
    if isinstance(document, list):
        del whole
        for number, one in enumerate(document, start=1):
            yield Item(f"item {number}", orjson.dumps(one))
    elif document is not _NOTHING:
        yield Item("item 1", orjson.dumps(document))
    elif first.startswith(b"["):
        much = f" of at most {DOCUMENT_MAX_BYTES >> 20} MiB" if len(whole) > DOCUMENT_MAX_BYTES else ""
        raise UnreadableFileError(f"It begins like a JSON array but is none{much}.")
    else:
        del whole
        yield from _lines(file)  # whose first line is bad


def sizes(raw: bytes, *, max_bytes: int) -> Sizes:
    """Checks a trigger as the worker will. Raises InvalidTrigger."""
    triggers = wire.parse(raw, max_bytes=max_bytes)
    return Sizes(
        sum(len(t.recipients) for t in triggers),
        sum(len(t.recipients) * len(t.campaigns) for t in triggers),
    )


def with_keys(raw: bytes, keys: dict[str, str]) -> bytes:
    """The trigger (or each one that ``{"d": [...]}`` wraps) with these keys set. Raises InvalidTrigger."""
    if not keys:
        return raw
    document = _loads(raw)
    if not isinstance(document, dict):
        raise InvalidTrigger("trigger", "is not JSON" if document is _NOTHING else "must be an object")
    wrapped = document.get("d")
    for each in wrapped if isinstance(wrapped, list) else [document]:
        if isinstance(each, dict):
            each.update(keys)
    return orjson.dumps(document)


def _first_line(file: IO[bytes]) -> bytes:
    while line := file.readline(LINE_MAX_BYTES):
        if text := line.removeprefix(_BOM).strip():
            return text
    raise UnreadableFileError("It is empty.")


def _lines(file: IO[bytes]) -> Iterator[Item]:
    file.seek(0)
    number = 0
    while line := file.readline(LINE_MAX_BYTES):
        number += 1
        if number == 1:
            line = line.removeprefix(_BOM)
        if text := line.strip():
            yield Item(f"line {number}", text)


def _loads(text: bytes) -> object:
    try:
        return orjson.loads(text.removeprefix(_BOM))
    except orjson.JSONDecodeError:
        return _NOTHING


#: Some editors put it in front of UTF-8.
_BOM = b"\xef\xbb\xbf"
_NOTHING = object()
