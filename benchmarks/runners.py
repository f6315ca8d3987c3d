"""Processes that only accept: ``python -m benchmarks.runners volley|script|parse|read``.

Each says that it is ready, waits for its word to go, and then reads the intake until it is ended. The three
others than Volley are floors: as little as can be done with a trigger without losing it.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable
from secrets import token_hex
from typing import Any

import orjson

from benchmarks.load import STREAM
from config.collecting import collect_rarely
from config.settings import Settings, load
from worker.clevertap.client import Client
from worker.engine import Engine
from worker.store import Store, open_store
from worker.store.connection import connect
from worker.store.intake import CONSUMERS

#: A list that each process takes its word to go from; ``<GO>:ready`` counts those that wait for it.
GO = "bench:go"
_COUNT = 1000

#: Dedupes, keeps a row, acknowledges and deletes.
_SCRIPT = """
local rows, done = {}, {}
for i = 3, #ARGV, 3 do
  if redis.call('SET', 'bench:d:' .. ARGV[i + 1], '1', 'NX', 'PX', ARGV[2]) then
    rows[#rows + 1] = ARGV[i + 2]
  end
  done[#done + 1] = ARGV[i]
end
if #rows > 0 then redis.call('RPUSH', KEYS[2], unpack(rows)) end
redis.call('XACK', KEYS[1], ARGV[1], unpack(done))
redis.call('XDEL', KEYS[1], unpack(done))
return #rows
"""


def main(kind: str) -> None:
    """Runs until it is ended."""
    settings = load(os.environ)
    redis: Any = connect(settings.redis_address())
    store = open_store(settings, "default")
    store.intake.open()
    step = _volley(settings, store) if kind == "volley" else _floor(redis, kind)
    redis.incr(f"{GO}:ready")
    while redis.blpop(GO, 2) is None:
        pass
    while True:
        step()


def _volley(settings: Settings, store: Store) -> Callable[[], None]:
    engine = Engine(settings, settings.account(), store, Client(connections=1))
    collect_rarely()  # as worker/app.py does

    def step() -> None:
        if not engine.wait_and_accept(10, lambda: False):
            time.sleep(0.05)  # the places at the intake are taken

    return step


def _floor(redis: Any, kind: str) -> Callable[[], None]:
    consumer = token_hex(4)
    script = redis.register_script(_SCRIPT)

    def step() -> None:
        answer = redis.xreadgroup(CONSUMERS, consumer, {STREAM: ">"}, count=_COUNT, block=500)
        entries = [entry for _, some in answer or [] for entry in some]
        if not entries:
            return
        if kind == "read":
            ids = [id_ for id_, _ in entries]
            pipe = redis.pipeline(transaction=False)
            pipe.xack(STREAM, CONSUMERS, *ids)
            pipe.xdel(STREAM, *ids)
            pipe.execute()
            return
        args: list[object] = [CONSUMERS, 3_600_000]
        for id_, fields in entries:
            raw = fields[b"trigger"]
            row = orjson.dumps(orjson.loads(raw)["to"]) if kind == "parse" else raw
            args += (id_, hashlib.blake2b(raw, digest_size=16).digest(), row)
        script(keys=[STREAM, "bench:rows"], args=args)

    return step


if __name__ == "__main__":
    main(sys.argv[1])
