"""The intake stream and the dead letters of one account."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from redis.exceptions import ResponseError

from worker.store import keys
from worker.store.connection import RedisClient
from worker.store.scripts import Scripts

#: The stream's consumer group.
CONSUMERS = "volley"
#: How long an append may be asked for again without a second effect, ms.
NONCE_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the intake stream: its id and the trigger's bytes (None: the field is missing)."""

    id: str
    trigger: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A trigger that could not be accepted: where and why, and its original bytes."""

    id: str
    entry: str
    where: str
    reason: str
    trigger: bytes = field(repr=False)


class Intake:
    """What stands before acceptance. Errors: redis.exceptions.RedisError."""

    def __init__(self, client: RedisClient, scripts: Scripts, account: str) -> None:
        self._client = client
        self._scripts = scripts
        self._root = keys.root(account)
        self.stream = keys.intake(account)
        self.dead = f"{self._root}dead"

    def append(self, triggers: Sequence[bytes], nonce: str) -> list[str]:
        """Appends triggers (JSON) and returns their entry ids; again with the same nonce: the same ids, no
        effect.
        """
        ids = self._scripts.run("enqueue", [self._root, self.stream], nonce, NONCE_MS, *triggers)
        return str(ids, "ascii").split(",") if ids else []

    def open(self) -> None:
        """Makes stream and consumer group; entries that were appended before it are seen too."""
        try:
            self._client.xgroup_create(self.stream, CONSUMERS, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def read(self, consumer: str, count: int, block_seconds: float) -> list[Entry]:
        """New entries for this consumer, waiting up to ``block_seconds`` for the first one."""
        try:
            answer = self._client.xreadgroup(
                CONSUMERS, consumer, {self.stream: ">"}, count=count, block=max(1, int(block_seconds * 1000))
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            self.open()
            return []
        return [_entry(*item) for _, items in answer or [] for item in items]

    def unfinished(self, consumer: str, idle_seconds: float, count: int) -> list[Entry]:
        """Entries that a consumer read and has not acknowledged for that long: now this consumer's."""
        try:
            _, items, *_ = self._client.xautoclaim(
                self.stream, CONSUMERS, consumer, int(idle_seconds * 1000), "0-0", count=count
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            self.open()
            return []
        return [_entry(*item) for item in items]

    def deliveries(self, first: str, last: str) -> dict[str, int]:
        """How often each unfinished entry between these ids was given to a consumer."""
        found = self._client.xpending_range(self.stream, CONSUMERS, first, last, 1000)
        return {item["message_id"].decode(): item["times_delivered"] for item in found}

    def progress(self, entry: str) -> int:
        """The next piece wanted of a trigger that is accepted in pieces."""
        return int(self._client.hget(f"{self._root}accepting", entry) or 0)

    def forget_consumers(self, idle_seconds: float) -> None:
        """Removes the names of consumers that are long gone and hold nothing."""
        try:
            consumers = self._client.xinfo_consumers(self.stream, CONSUMERS)
        except ResponseError:  # no stream or no group yet
            return
        for consumer in consumers:
            if consumer["pending"] == 0 and consumer["idle"] > idle_seconds * 1000:
                self._client.xgroup_delconsumer(self.stream, CONSUMERS, consumer["name"])

    def dead_letters(self, start: str = "-", count: int = 100) -> Iterator[DeadLetter]:
        """Dead letters from the oldest, from id ``start`` on (``-``: the first; ``(id``: behind it)."""
        for id_, fields in self._client.xrange(self.dead, min=start, count=count):
            yield DeadLetter(
                id=id_.decode(),
                entry=fields.get(b"entry", b"").decode(),
                where=fields.get(b"where", b"").decode(),
                reason=fields.get(b"reason", b"").decode(),
                trigger=fields.get(b"trigger", b""),
            )

    def put_back(self, id_: str) -> bool:
        """Appends a dead letter to the stream again, as it was; False when there is none of that id."""
        return bool(self._scripts.run("put_back", [self._root, self.stream, self.dead], id_))

    def discard(self, id_: str) -> bool:
        """Removes a dead letter for good; False when there is none of that id."""
        return bool(self._client.xdel(self.dead, id_))


def _entry(id_: bytes, fields: dict[bytes, bytes] | None) -> Entry:
    return Entry(id_.decode(), (fields or {}).get(b"trigger"))
