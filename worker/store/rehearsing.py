"""A private copy of what waits in an account, and a clock for it: for the full dry run alone.

The original is only read. A picture that is taken while workers run may be off by what moved meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from worker.store import keys
from worker.store.connection import RedisClient

#: What is not copied: leases, the state of the door and an operator's pauses (the dry run shows what would be
#: sent without them), and what is on the wire or has been said.
LEFT_OUT = (
    "permits",
    "acceptors",
    "flight",
    "batch:",
    "splitting",
    "door",
    "parked",
    "probes",
    "paused",
    "held",
)
LEFT_OUT_TOO = ("nonce:", "dead", "said:", "swept", "tried", "calls", "lapse", "lapse:")
#: Keys, items and stream entries that are read in one round trip.
_PAGE = 500


def copy_account(source: RedisClient, target: RedisClient, account: str) -> None:
    """Copies what waits in an account to an empty server. Errors: redis.exceptions.RedisError."""
    root = keys.root(account)
    stream, dedupe = keys.intake(account).encode(), f"{root}dedupe".encode()
    found = source.scan_iter(match=f"{root}*", count=1000)
    while page := list(islice(found, _PAGE)):
        names = [key for key in page if key not in {stream, dedupe}]
        wanted = [key for key in names if not _left_out(key.decode(errors="replace"), root)]
        _copy(source, target, wanted)
    # As large as all deliveries of a day, perhaps: in pages.
    for fields in _pages(source.hscan_iter(dedupe, count=_PAGE)):
        target.hset(dedupe, mapping=dict(fields))
    _copy_stream(source, target, stream.decode())


def bring_forward(client: RedisClient, account: str) -> int | None:
    """Makes what sleeps next due now; when it would have been due (epoch ms), or None when nothing sleeps."""
    due = f"{keys.root(account)}due"
    slots = client.zrange(due, 0, 0)
    if not slots:
        return None
    client.zadd(due, {slots[0]: 0})
    return int(slots[0])


def _left_out(key: str, root: str) -> bool:
    name = key.removeprefix(root)
    return any(
        name == each or (each.endswith(":") and name.startswith(each)) for each in LEFT_OUT + LEFT_OUT_TOO
    )


def _copy(source: RedisClient, target: RedisClient, names: Sequence[bytes]) -> None:
    reading: Any = source.pipeline(transaction=False)
    for name in names:
        reading.type(name)
    kinds = [kind.decode() for kind in reading.execute()]
    known = [(name, kind) for name, kind in zip(names, kinds, strict=True) if kind in _READ]
    for name, kind in known:
        _READ[kind](reading, name)
    writing: Any = target.pipeline(transaction=False)
    for (name, kind), value in zip(known, reading.execute(), strict=True):
        for command in _writes(name, kind, value):
            writing.execute_command(*command)
    writing.execute()


_READ: dict[str, Any] = {
    "string": lambda pipe, name: pipe.get(name),
    "list": lambda pipe, name: pipe.lrange(name, 0, -1),
    "hash": lambda pipe, name: pipe.hgetall(name),
    "set": lambda pipe, name: pipe.smembers(name),
    "zset": lambda pipe, name: pipe.zrange(name, 0, -1, withscores=True),
}


def _writes(name: bytes, kind: str, value: Any) -> Iterator[list[Any]]:
    """The commands that write a value that was read; none where it had gone meanwhile."""
    if not value:
        return
    match kind:
        case "string":
            yield ["SET", name, value]
        case "list":
            yield from (["RPUSH", name, *page] for page in _pages(value))
        case "hash":
            yield from (["HSET", name, *_flat(page)] for page in _pages(value.items()))
        case "set":
            yield from (["SADD", name, *page] for page in _pages(value))
        case _:
            yield from (["ZADD", name, *_flat((s, m) for m, s in page)] for page in _pages(value))


def _copy_stream(source: RedisClient, target: RedisClient, stream: str) -> None:
    start = "-"
    while entries := source.xrange(stream, min=start, count=_PAGE):
        pipe: Any = target.pipeline(transaction=False)
        for id_, fields in entries:
            pipe.xadd(stream, fields, id=id_)
        pipe.execute()
        start = f"({entries[-1][0].decode()}"


def _pages(items: Iterable[Any]) -> Iterator[list[Any]]:
    rest = iter(items)
    while page := list(islice(rest, _PAGE)):
        yield page


def _flat(pairs: Iterable[tuple[Any, Any]]) -> list[Any]:
    return [each for pair in pairs for each in pair]
