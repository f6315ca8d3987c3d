"""Which layout an account's keys have, and whether this code may touch them.

The key ``schema`` holds a number. It is raised only where older code would misread what newer code writes;
what older code simply leaves alone (a new key, a new field, a new reason) keeps it. So versions with the same
number may run side by side, each with its own scripts: a script is called by the digest of its text, and two
texts meet only in the data. A version that raises the number carries the data over while no worker runs.

Nothing of this is on the way of a delivery: one GET before the first script of a process, and one every
``RECHECK_SECONDS``, so that code that has grown old notices.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from redis.exceptions import OutOfMemoryError

from worker.store import keys
from worker.store.connection import LayoutError, RedisClient

log = logging.getLogger("volley")

#: The layout that this code writes. A key that is missing means 1: either the account is new, or it was
#: written before layouts had numbers.
LAYOUT = 1
#: The layouts that this code reads.
READABLE = frozenset({1})
#: Between two looks at the number, seconds.
RECHECK_SECONDS = 5.0


class Schema:
    """The layout of one account. Errors: redis.exceptions.RedisError, LayoutError among them."""

    def __init__(
        self, client: RedisClient, account: str, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._account = account
        self._key = f"{keys.root(account)}schema"
        self._monotonic = monotonic
        self._trusted_until = float("-inf")
        self._told_until = float("-inf")

    def verify(self) -> None:
        """Looks, and writes nothing. Raises LayoutError."""
        self._judge(self._client.get(self._key))

    def check(self) -> None:
        """Before anything is changed: looks if the last look was a while ago, and notes this code's layout
        where none is noted. Two that start at once note the same, or the second one sees the first one's.

        Raises LayoutError, which is logged too, at most once in ``RECHECK_SECONDS``.
        """
        now = self._monotonic()
        if now < self._trusted_until:
            return
        try:
            self._judge(self._client.get(self._key) or self._note())
        except LayoutError as error:
            if now >= self._told_until:
                self._told_until = now + RECHECK_SECONDS
                log.error("%s", error)  # noqa: TRY400  # the sentence says all
            raise
        self._trusted_until = now + RECHECK_SECONDS

    def _note(self) -> bytes | None:
        """Notes this code's layout unless somebody was quicker: theirs is returned then."""
        try:
            found: bytes | None = self._client.set(self._key, LAYOUT, nx=True, get=True)
        except OutOfMemoryError:  # a full server is emptied by scripts that must go on: it is noted later
            return None
        return found

    def _judge(self, found: bytes | None) -> None:
        if found is None or (found.isdigit() and int(found) in READABLE):
            return
        reads = ", ".join(map(str, sorted(READABLE)))
        raise LayoutError(
            f"The data of account {self._account} has layout {found[:20].decode(errors='replace')!a}, and "
            f"this version of Volley reads only {reads}: install a version that reads it. Nothing was "
            "changed."
        )
