"""Carries an account's data over from the layout before this code's own; schema.py says when.

Whoever is at it notes so first, in the place of the layout's number, and waits until every worker of the
version before has seen it. It may be done twice, by two at once, and by somebody else who goes on with it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from worker.store import keys
from worker.store.connection import SOCKET_TIMEOUT_SECONDS, RedisClient
from worker.store.schema import LAYOUT, RECHECK_SECONDS
from worker.store.scripts import source

log = logging.getLogger("volley")

#: How long a worker may still run scripts after a new number has been noted: it has just looked, and where it
#: loses the connection it asks again, a few times.
NOTICED_SECONDS = RECHECK_SECONDS + 6 * SOCKET_TIMEOUT_SECONDS
#: Keys carried over in one step.
_PAGE = 500
_DIGEST_BYTES = 16


def carry_over(
    client: RedisClient, accounts: Sequence[str], *, sleep: Callable[[float], None] = time.sleep
) -> None:
    """From layout 1 to 2, where there is such data: the dedupe keys. Interrupted, it is done anew.

    Looks through all keys of the server twice or more for each account: some seconds for each million.
    Errors: redis.exceptions.RedisError.
    """
    script: Any = client.register_script(source("carry_over"))
    begun = [account for account in accounts if script(keys=[keys.root(account)], args=["begin"])]
    if begun:
        log.warning("the data is carried over to layout %d: %s", LAYOUT, ", ".join(begun))
        sleep(NOTICED_SECONDS)
    for account in begun:
        carried = _keys_of(client, script, keys.root(account))
        script(keys=[keys.root(account)], args=["end"])
        log.warning(
            "account %s: its data has layout %d; %d dedupe keys carried over", account, LAYOUT, carried
        )


def _keys_of(client: RedisClient, script: Any, root: str) -> int:
    length = len(f"{root}d:") + _DIGEST_BYTES
    carried, complete = 0, False
    while not complete:
        server, found = _run_id(client), 0
        names = (name for name in client.scan_iter(match=f"{root}d:*", count=_PAGE) if len(name) == length)
        while page := list(islice(names, _PAGE)):
            found += len(page)
            carried += int(script(keys=[root], args=["go on", *page]))
        # A server that was started anew knows nothing of a scan that was under way, and ends it anywhere.
        complete = not found and server == _run_id(client)
    return carried


def _run_id(client: RedisClient) -> str:
    return str(client.info("server")["run_id"])
