"""Where recurring sends take their recipients from, besides Redis: files, and addresses that answer a GET.

Everything is read as a stream, and what is wrong with a line is told beside it: one bad line stops nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

from config.sends import FileSource, UrlSource
from worker.sources.http import fetched
from worker.sources.lines import Named, named_in_csv, named_in_ndjson, numbered
from worker.sources.regular_file import blocks_of

__all__ = ["Named", "named_at_url", "named_in_file"]


def named_in_file(source: FileSource) -> Generator[Named, None, None]:
    """The recipients of a file, line by line. Raises UnreadableSource."""
    lines = numbered(blocks_of(source.path))
    if source.path.suffix.lower() == ".csv":
        yield from named_in_csv(lines, source.kind)
    else:
        yield from named_in_ndjson(lines, source.kind)


def named_at_url(
    source: UrlSource,
    timeout_seconds: float,
    clock: Callable[[], float],
    alive: Callable[[], None] = lambda: None,
) -> Generator[Named, None, None]:
    """The recipients that a GET answers with, line by line. Raises UnreadableSource.

    ``alive`` is called between any two waits for the answer.
    """
    yield from named_in_ndjson(numbered(fetched(source, timeout_seconds, clock, alive)), source.kind)
