"""Loads the Lua scripts by name and runs them.

A script is its file behind the ``SHARED`` ones. Scripts that drain carry ``allow-oom``:
at ``maxmemory`` they must go on, or a full server could never empty itself. The ones
that take in more are refused by the server then.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from importlib.resources import files
from typing import Any

from redis.commands.core import Script
from redis.exceptions import (
    ConnectionError,  # noqa: A004  # redis-py's name
    NoScriptError,
    TimeoutError,  # noqa: A004  # as above
)

from worker.store.asked import Asked
from worker.store.connection import RedisClient
from worker.store.schema import Schema

#: Scripts that take in more work: the server refuses them when its memory is full.
GROWING = frozenset({"accept", "enqueue", "firing_append", "firing_stage", "put_back", "requeue"})


#: What stands in front of every script, in this order.
SHARED = ("_cells", "_dedupe", "_rules", "_lanes", "_door", "_holds")
#: What stands in front of some, behind those.
ALSO = {"accept": ("_joining",), "enqueue": ("_memory",), "firing_stage": ("_memory",)}


@cache
def source(name: str) -> str:
    """The whole text of a script: header, shared functions, body."""
    folder = files("worker.store").joinpath("lua")
    header = "#!lua" if name in GROWING else "#!lua flags=allow-oom"
    parts = (*SHARED, *ALSO.get(name, ()), name)
    return "\n".join([header, *(folder.joinpath(f"{part}.lua").read_text() for part in parts)])


class Scripts:
    """The scripts of one account: ``scripts.run("claim", [root], token, ...)``, one round trip each."""

    def __init__(self, client: RedisClient, schema: Schema) -> None:
        self._client = client
        self._schema = schema
        self._scripts: dict[str, Script] = {}

    def run(self, name: str, keys: list[str], *args: Any) -> Any:
        """Runs a script and returns its result, as the head of its file describes it.

        Raises LayoutError where the account's data is another version's.
        """
        self._schema.check()
        return self._script(name)(keys=keys, args=args)

    def start(self, name: str, keys: list[str], *args: Any) -> Running:
        """Sends a script and does not wait for it: meanwhile the caller may make the next one ready.

        Raises LayoutError as ``run`` does; all other errors come with the result.
        """
        self._schema.check()
        return Running(self._client, self._schema, self._script(name), keys, args)

    def _script(self, name: str) -> Script:
        script = self._scripts.get(name)
        if script is None:
            script = self._scripts[name] = self._client.register_script(source(name))
        return script


class Running:
    """A script that has been sent. Its result is taken once, or it is dropped."""

    def __init__(
        self, client: RedisClient, schema: Schema, script: Script, keys: list[str], args: tuple[Any, ...]
    ) -> None:
        self._schema, self._script, self._keys, self._args = schema, script, keys, args
        self._asked: Asked | None = None
        with suppress(ConnectionError, TimeoutError):
            self._asked = Asked(client, "EVALSHA", script.sha, len(keys), *keys, *args)

    def result(self) -> Any:
        """Waits for the result. Where the connection broke it is run again, as every script may be."""
        if self._asked is not None:
            with suppress(ConnectionError, TimeoutError, NoScriptError):
                return self._asked.answer()
        self._schema.check()
        again: Any = self._script
        return again(keys=self._keys, args=self._args)

    def drop(self) -> None:
        """Lets go of it: nobody learns whether it happens."""
        if self._asked is not None:
            self._asked.drop()
