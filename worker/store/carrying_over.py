"""Carries an account's data over from the layout before this code's own; schema.py says when."""

from __future__ import annotations

import logging
from itertools import islice

from worker.store import keys
from worker.store.connection import RedisClient
from worker.store.scripts import source

log = logging.getLogger("volley")

#: Keys carried over in one step.
_PAGE = 500


def carry_over(client: RedisClient, account: str) -> None:
    """From layout 1 to 2: the dedupe keys. Interrupted, it is done anew, and goes on.

    Looks through all keys of the server, so it takes some seconds for each million.
    """
    root = keys.root(account)
    script = client.register_script(source("carry_over"))
    found = client.scan_iter(match=f"{root}d:*", count=_PAGE)
    carried = 0
    while page := list(islice(found, _PAGE)):
        carried += int(script(keys=[root], args=page))
    log.info("account %s: %d dedupe keys carried over to layout 2", account, carried)
