"""The concurrency ceiling: how many requests of an account are in flight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """A request's way in."""

    #: Whether it has a place under the ceiling; otherwise it is one too many.
    admitted: bool
    #: Requests of the account that are open now, this one and those over the ceiling included.
    open: int


class Gate:
    """Counts requests in flight per account. Not thread-safe: it belongs to the event loop."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()
        self._admitted: Counter[str] = Counter()

    @contextmanager
    def enter(self, account: str, ceiling: int) -> Iterator[Entry]:
        """Hold a place for the block's time, if one is free; a request over the ceiling takes none."""
        admitted = self._admitted[account] < ceiling
        self._open[account] += 1
        self._admitted[account] += admitted
        try:
            yield Entry(admitted, self._open[account])
        finally:
            self._open[account] -= 1
            self._admitted[account] -= admitted

    def in_flight(self) -> dict[str, int]:
        """Account -> its requests that are open now; only accounts that have some."""
        return {account: count for account, count in self._open.items() if count > 0}
