"""Who is in a batch, as the claiming scripts answer it: read only as far as somebody asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import orjson

from worker.core.model import Recipient
from worker.store.cells import KINDS, TOLD_BYTES, Row, Told, read_row, read_told


@dataclass(frozen=True, slots=True)
class Member:
    """One recipient of a batch: its deliveries (one for each campaign of the batch) and their rows.

    Deliveries that were enqueued apart and joined have rows of their own: each its trigger and dedupe key.
    """

    deliveries: tuple[int, ...]
    told: tuple[Told, ...]
    rows: tuple[Row, ...]

    @property
    def row(self) -> Row:
        """The row of the first: group, recipient and expires_at are the same in all."""
        return self.rows[0]


class Members(Sequence[Member]):
    """The members of a batch. A call that goes well needs no more of them than who they are."""

    __slots__ = ("_heads", "_rows", "_spans", "_told", "_whole", "_width")

    def __init__(self, spans: bytes, told: bytes, rows: Sequence[bytes | list[bytes]], width: int) -> None:
        """``spans``, ``told`` and ``rows`` as claim.lua describes them; ``width`` campaigns."""
        self._spans, self._told, self._rows, self._width = spans, told, rows, width
        self._heads: list[list[Any]] | None = None
        self._whole: tuple[Member, ...] | None = None

    def recipients(self) -> list[Recipient]:
        """Who they are."""
        return [Recipient(KINDS[head[1]], head[2]) for head in self._read_heads()]

    def first_expiry(self) -> int | None:
        """The earliest ``expires_at`` of them, epoch ms."""
        return min(
            (head[5] for head in self._read_heads() if len(head) > 5 and head[5] is not None), default=None
        )

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Member: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Member]: ...
    def __getitem__(self, index: int | slice) -> Member | Sequence[Member]:
        return self._read_all()[index]

    def __iter__(self) -> Iterator[Member]:
        return iter(self._read_all())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._read_all() == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def _read_heads(self) -> list[list[Any]]:
        """The JSON row of each one's first delivery."""
        if self._heads is None:
            firsts = [row if isinstance(row, bytes) else row[0] for row in self._rows]
            self._heads = orjson.loads(b"[" + b",".join(firsts) + b"]")
        return self._heads

    def _read_all(self) -> tuple[Member, ...]:
        if self._whole is None:
            width = self._width
            told = read_told(self._told)
            same = tuple(told) if len(self._told) == width * TOLD_BYTES else None
            numbers: list[int] = []
            spans = list(map(int, self._spans.split()))
            for first, count in zip(spans[::2], spans[1::2], strict=True):
                numbers.extend(range(first, first + count))
            self._whole = tuple(
                Member(
                    tuple(numbers[at : at + width]),
                    same or tuple(told[at : at + width]),
                    tuple(map(read_row, row)) if isinstance(row, list) else (read_row(row),) * width,
                )
                for at, row in zip(range(0, len(numbers), width), self._rows, strict=True)
            )
        return self._whole


def first_expiry(members: Sequence[Member]) -> int | None:
    """The earliest ``expires_at`` of these, epoch ms; None: none has any."""
    if isinstance(members, Members):
        return members.first_expiry()
    times = (member.row.expires_at_ms for member in members)
    return min((time for time in times if time is not None), default=None)


def recipients_of(members: Sequence[Member]) -> list[Recipient]:
    """Who these are."""
    if isinstance(members, Members):
        return members.recipients()
    return [member.row.recipient for member in members]
