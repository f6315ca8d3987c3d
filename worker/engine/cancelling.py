"""Ending what an operator takes back: page by page, by the command that asked and by every sweep after it.

The order itself stands in Redis (``Control.begin_cancel``) and stops the sending at once; whoever dies in
here leaves the rest to the next sweep.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from worker.core.model import WAITING, Reason, Status
from worker.store import Store
from worker.store.control import Cancel
from worker.store.outcomes import Outcome

#: Deliveries that one atomic step ends.
PAGE = 250


def end_waiting(store: Store, cancel: Cancel) -> Iterator[int]:
    """Ends what waits of a cancel, and tells after each page how many that were.

    Run to its end it takes the cancel off the list, unless something of it may still come from the intake or
    the wire.
    """
    complete = store.control.nothing_comes(cancel)
    found = filter(cancel.covers, cancel.what.find(store.outcomes, WAITING))
    yield from end_pages(store, found)
    if complete:
        store.control.end_cancel(cancel)


def end_pages(store: Store, found: Iterator[Outcome]) -> Iterator[int]:
    """Ends these deliveries as cancelled where they still wait; tells after each page how many that were."""
    while page := list(islice(found, PAGE)):
        endings = [store.deliveries.ending_of(outcome) for outcome in page]
        yield store.deliveries.finish(Status.CANCELLED, Reason.CANCELLED, WAITING, endings)
