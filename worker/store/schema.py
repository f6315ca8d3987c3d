"""Which layout an account's keys have, and whether this code may touch them.

The key ``schema`` holds a number. It is raised only where older code would misread what newer code writes;
what older code simply leaves alone (a new key, a new field, a new reason) keeps it. So versions with the same
number may run side by side, each with its own scripts: a script is called by the digest of its text, and two
texts meet only in the data. A version that raises the number carries the data over, while no worker of the
version before runs: whoever of it is the first to run a script does so, and notes the new number at the end.

Nothing of this is on the way of a delivery: one GET before the first script of a process, and one every
``RECHECK_SECONDS``, so that code that has grown old notices.

Layout 1 had a key of the server's own for each dedupe key; layout 2 has one hash for all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress

from redis.exceptions import OutOfMemoryError

from worker.store import keys
from worker.store.connection import LayoutError, RedisClient

log = logging.getLogger("volley")

#: The layout that this code writes, and the only one that it reads.
LAYOUT = 2
#: The layout that it carries over; data without a number has it too, from before there were numbers.
BEFORE = 1
#: Between two looks at the number, seconds.
RECHECK_SECONDS = 5.0


class Schema:
    """The layout of one account. Errors: redis.exceptions.RedisError, LayoutError among them."""

    def __init__(
        self,
        client: RedisClient,
        account: str,
        carry_over: Callable[[], None],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._account = account
        self._carry_over = carry_over
        self._root = keys.root(account)
        self._key = f"{self._root}schema"
        self._monotonic = monotonic
        self._trusted_until = float("-inf")
        self._told_until = float("-inf")

    def verify(self) -> None:
        """Looks, and writes nothing. Raises LayoutError."""
        found = self._found()
        if found == str(BEFORE).encode():
            raise LayoutError(
                f"The data of account {self._account} has the layout before this version's: start a worker "
                "of this version, which carries it over, when none of the version before runs any more. "
                "Nothing was changed."
            )
        self._judge(found)

    def check(self) -> None:
        """Before anything is changed: looks if the last look was a while ago, carries over what the version
        before has left, and notes this code's layout where none is noted. Two that start at once do the same,
        or the second one sees what the first one did.

        Raises LayoutError, which is logged too, at most once in ``RECHECK_SECONDS``.
        """
        now = self._monotonic()
        if now < self._trusted_until:
            return
        try:
            found = self._found()
            if found == str(BEFORE).encode():
                self._carry_over()
                with suppress(OutOfMemoryError):  # as below
                    self._client.set(self._key, LAYOUT)
            else:
                self._judge(found or self._note())
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
            return self._client.get(self._key) or str(BEFORE).encode()
        return found

    def _note(self) -> bytes | None:
        """Notes this code's layout unless somebody was quicker: theirs is returned then."""
        try:
            found: bytes | None = self._client.set(self._key, LAYOUT, nx=True, get=True)
        except OutOfMemoryError:  # a full server is emptied by scripts that must go on: it is noted later
            return None
        return found

    def _judge(self, found: bytes | None) -> None:
        if found is None or found == str(LAYOUT).encode():
            return
        raise LayoutError(
            f"The data of account {self._account} has layout {found[:20].decode(errors='replace')!a}, and "
            f"this version of Volley reads only {LAYOUT}: install a version that reads it. Nothing was "
            "changed."
        )
