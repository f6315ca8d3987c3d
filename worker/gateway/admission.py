"""How many calls are open at once, and how many bytes of theirs are held."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Admission:
    """Counts; belongs to the event loop. A call alone is admitted whatever its size."""

    def __init__(self, most_calls: int, most_bytes: int) -> None:
        self._most_calls = most_calls
        self._most_bytes = most_bytes
        self._calls = 0
        self._bytes = 0

    @property
    def calls(self) -> int:
        """Calls that are open."""
        return self._calls

    @contextmanager
    def enter(self, size: int) -> Iterator[bool]:
        """For the block's time, whether there is a place for a call of this size; if not it takes none."""
        fits = self._calls < self._most_calls and (not self._calls or self._bytes + size <= self._most_bytes)
        if not fits:
            yield False
            return
        self._calls += 1
        self._bytes += size
        try:
            yield True
        finally:
            self._calls -= 1
            self._bytes -= size
