"""Carries an account's data over from the layout before this code's own; schema.py says when."""

from __future__ import annotations

import logging
from itertools import islice
from typing import Any

from worker.store import keys
from worker.store.connection import RedisClient
from worker.store.scripts import source

log = logging.getLogger("volley")

#: Keys carried over in one step.
_PAGE = 500


def carry_over(client: RedisClient, account: str, layout: int) -> None:
    """From layout 1 to 2: the dedupe keys. Interrupted, it is done anew, and goes on.

    Looks through all keys of the server, twice at least: some seconds for each million.
    """
    root = keys.root(account)
    script: Any = client.register_script(source("carry_over"))
    carried, complete = 0, False
    while not complete:
        server = _run_id(client)
        found = 0
        names = client.scan_iter(match=f"{root}d:*", count=_PAGE)
        while page := list(islice(names, _PAGE)):
            found += len(page)
            carried += int(script(keys=[root], args=["", *page]))
        # A server that was started anew knows nothing of a scan that was under way, and ends it anywhere.
        complete = not found and server == _run_id(client)
    script(keys=[root], args=[layout])
    log.info(
        "account %s: its data has layout %d now; %d dedupe keys were carried over", account, layout, carried
    )


def _run_id(client: RedisClient) -> str:
    return str(client.info("server")["run_id"])
