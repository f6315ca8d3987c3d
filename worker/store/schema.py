"""Which layout an account's keys have, and whether this code may touch them.

The key ``schema`` holds a number. It is raised only where older code would misread what newer code writes;
what older code simply leaves alone (a new key, a new field, a new reason) keeps it. So versions with the same
number may run side by side, each with its own scripts: a script is called by the digest of its text, and two
texts meet only in the data. A version that raises the number carries the data over when a worker of it
starts (carrying_over.py).

Nothing of this is on the way of a delivery: one GET before the first script of a process, and one every
``RECHECK_SECONDS``, so that code that has grown old notices.

Layout 1 had a key of the server's own for each dedupe key; layout 2 has one hash for all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from redis.exceptions import OutOfMemoryError

from worker.store import keys
from worker.store.connection import LayoutError, OldLayoutError, RedisClient

log = logging.getLogger("volley")

#: The layout that this code writes, and the only one that it reads.
LAYOUT = 2
_OURS = str(LAYOUT).encode()
#: The layout that it carries over; data without a number has it too, from before there were numbers.
_BEFORE = b"1"
#: What stands in the place of the number while somebody carries the data over. No version reads it.
_UNDER_WAY = b"1>2"
#: Between two looks at the number, seconds.
RECHECK_SECONDS = 5.0


class Schema:
    """The layout of one account. Errors: redis.exceptions.RedisError, LayoutError among them."""

    def __init__(
        self,
        client: RedisClient,
        account: str,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._account = account
        self._root = keys.root(account)
        self._key = f"{self._root}schema"
        self._monotonic = monotonic
        self._trusted_until = float("-inf")
        self._told_until = float("-inf")

    def verify(self) -> None:
        """Looks, and writes nothing. Raises LayoutError."""
        self._judge(self._found())

    def check(self) -> None:
        """Before anything is changed: looks if the last look was a while ago, and notes this code's layout
        where none is noted. Two that start at once note the same, or the second one sees the first one's.

        Raises LayoutError, which is logged too, at most once in ``RECHECK_SECONDS``.
        """
        now = self._monotonic()
        if now < self._trusted_until:
            return
        found = self._found()
        if found is None:
            try:
                found = self._client.set(self._key, LAYOUT, nx=True, get=True)
            except OutOfMemoryError:  # a full server is emptied by scripts that must go on: it is noted later
                return
        try:
            self._judge(found)
        except LayoutError as error:
            if now >= self._told_until:
                self._told_until = now + RECHECK_SECONDS
                log.error("%s", error)  # noqa: TRY400  # the sentence says all
            raise
        self._trusted_until = now + RECHECK_SECONDS

    def _found(self) -> bytes | None:
        """The number of the layout; None: the account is new."""
        found: bytes | None = self._client.get(self._key)
        if found is None and self._client.exists(f"{self._root}next"):
            # Unless somebody has just begun.
            return self._client.get(self._key) or _BEFORE
        return found

    def _judge(self, found: bytes | None) -> None:
        if found is None or found == _OURS:
            return
        if found in {_BEFORE, _UNDER_WAY}:
            raise OldLayoutError(
                f"The data of account {self._account} has the layout before this version's, or is just being "
                "carried over: a worker of this version does so when it starts. Nothing was changed here."
            )
        raise LayoutError(
            f"The data of account {self._account} has layout {found[:20].decode(errors='replace')!a}, and "
            f"this version of Volley reads only {LAYOUT}: install a version that reads it. Nothing was "
            "changed."
        )
