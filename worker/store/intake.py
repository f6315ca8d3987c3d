"""The intake stream and the dead letters of one account."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import ResponseError

from worker.store import keys
from worker.store.bounds import Bound, Bounds, FullError, Reached
from worker.store.connection import RedisClient
from worker.store.scripts import Running, Scripts

#: The stream's consumer group.
CONSUMERS = "volley"
#: The idle time of an entry that was given back: more than anybody waits for, ms.
GIVEN_BACK_MS = 86_400_000
#: Entries that one wait takes at most, whatever their size.
WAITED_FOR = 16
#: Nothing is refused.
NO_BOUNDS = Bounds()
#: How long an append may be asked for again without a second effect, ms.
NONCE_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the intake stream: its id and the trigger's bytes (None: the field is missing)."""

    id: str
    trigger: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Reading:
    """A read that has been asked for."""

    running: Running


@dataclass(frozen=True, slots=True)
class Append:
    """Triggers (JSON) that go into the intake together, once for their nonce.

    With a fingerprint, the nonce is refused for an append that has another one.
    """

    triggers: Sequence[bytes] = field(repr=False)
    nonce: str
    fingerprint: str = ""  #: without blanks


@dataclass(frozen=True, slots=True)
class Appended:
    """It is in the intake: the ids of its entries."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NonceReused:
    """Its nonce belongs to another append: nothing was done."""


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

    def __init__(
        self, client: RedisClient, scripts: Scripts, account: str, bounds: Bounds = NO_BOUNDS
    ) -> None:
        self._client = client
        self._bounds = bounds
        self._scripts = scripts
        self._root = keys.root(account)
        self.stream = keys.intake(account)
        self.dead = f"{self._root}dead"

    def append(self, triggers: Sequence[bytes], nonce: str) -> list[str]:
        """Appends triggers (JSON) and returns their entry ids; again with
        the same nonce: the same ids, no effect. Raises FullError.
        """
        (result,) = self.append_all([Append(triggers, nonce)])
        match result:
            case Appended(ids):
                return list(ids)
            case Reached():
                raise FullError(result)
            case NonceReused():
                raise ValueError("the nonce belongs to an append that has a fingerprint")

    def append_all(self, appends: Sequence[Append]) -> list[Appended | Reached | NonceReused]:
        """Makes several appends in one step; what became of each, one that a bound refused included."""
        args: list[object] = []
        for append in appends:
            args += (append.nonce, append.fingerprint, len(append.triggers), *append.triggers)
        results = self._scripts.run(
            "enqueue", [self._root, self.stream], NONCE_MS, *self._bounds.arguments, *args
        )
        return [_result(result) for result in results]

    def backlog_reached(self) -> bool:
        """Whether so much is under way that the intake is to be left alone."""
        most = self._bounds.backlog
        return most > 0 and int(self._client.get(f"{self._root}live") or 0) >= most

    def open(self) -> None:
        """Makes stream and consumer group; entries that were appended before it are seen too."""
        try:
            self._client.xgroup_create(self.stream, CONSUMERS, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def has_readers(self) -> bool:
        """Whether stream and consumer group are there, as the first worker makes them."""
        try:
            groups = self._client.xinfo_groups(self.stream)
        except ResponseError:  # no stream yet
            return False
        return any(group["name"] == CONSUMERS.encode() for group in groups)

    def wait(self, consumer: str, seconds: float) -> list[Entry]:
        """Waits up to so long for new entries, and takes the first one or few for this consumer."""
        # Under this name redis-py does not make a dictionary of each entry's fields.
        command = ("XREADGROUP GROUP", CONSUMERS, consumer, "COUNT", WAITED_FOR, "BLOCK")
        milliseconds = max(1, int(seconds * 1000))
        answer = self._opened(
            lambda: self._client.execute_command(*command, milliseconds, "STREAMS", self.stream, ">")
        )
        return [Entry(id_.decode(), _trigger(fields)) for _, items in answer or () for id_, fields in items]

    def start_read(self, consumer: str, most: int, most_bytes: int) -> Reading:
        """Asks for new entries that are there already: at most so many, and about so many bytes.
        ``finish_read`` takes them, once.
        """
        keys_ = [self._root, self.stream]
        return Reading(self._scripts.start("read", keys_, CONSUMERS, consumer, most, most_bytes))

    def finish_read(self, reading: Reading) -> tuple[list[Entry], bool]:
        """The entries of a read that was started, and whether there may be more."""
        full, *flat = self._opened(reading.running.result) or (0,)
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return [Entry(id_.decode(), trigger) for id_, trigger in pairs], bool(full)

    def _opened(self, ask: Callable[[], Any]) -> Any:
        """What is answered; None where there is no stream or no group yet, which is made then."""
        try:
            return ask()
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            self.open()
            return None

    def take_over(self, consumer: str, idle_seconds: float, count: int) -> list[str]:
        """Ids of entries that somebody read and has not held for that long: now this consumer's."""
        try:
            answer = self._client.xautoclaim(
                self.stream, CONSUMERS, consumer, int(idle_seconds * 1000), "0-0", count=count, justid=True
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            self.open()
            return []
        return [id_.decode() for id_ in answer]

    def entry(self, id_: str) -> Entry:
        """One entry by its id; without a trigger when it is gone."""
        found = self._client.xrange(self.stream, id_, id_)
        return _entry(*found[0]) if found else Entry(id_, None)

    def hold(self, consumer: str, ids: Sequence[str]) -> None:
        """Says that these entries are still being worked on, so that nobody takes them over."""
        if ids:
            self._client.xclaim(self.stream, CONSUMERS, consumer, 0, list(ids), justid=True)

    def give_back(self, consumer: str, ids: Sequence[str]) -> None:
        """Leaves entries that were read to whoever takes over next, at once."""
        if ids:
            self._client.xclaim(
                self.stream, CONSUMERS, consumer, 0, list(ids), idle=GIVEN_BACK_MS, justid=True
            )

    def begin(self, id_: str) -> int:
        """Counts that an entry which was taken over is begun again; how often that was."""
        return int(self._client.hincrby(f"{self._root}tried", id_, 1))

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

    def bury(self, trigger: bytes, where: str, reason: str) -> None:
        """Adds a dead letter that never was in the stream."""
        self._client.xadd(self.dead, {"trigger": trigger, "where": where, "reason": reason, "entry": ""})

    def put_back(self, id_: str) -> bool:
        """Appends a dead letter to the stream again, as it was; False when there is none of that id."""
        return bool(self._scripts.run("put_back", [self._root, self.stream, self.dead], id_))

    def discard(self, id_: str) -> bool:
        """Removes a dead letter for good; False when there is none of that id."""
        return bool(self._client.xdel(self.dead, id_))


def _result(result: bytes | list[bytes]) -> Appended | Reached | NonceReused:
    if isinstance(result, list):
        bound, value, most = result
        return Reached(Bound(bound.decode()), int(value), int(most))
    if result == b"OTHER":
        return NonceReused()
    return Appended(tuple(result.decode().split(",")) if result else ())


def _trigger(fields: list[bytes] | None) -> bytes | None:
    """The field `trigger` of an entry's fields, which stand there as name, value, name, value."""
    if not fields:  # the entry was deleted meanwhile
        return None
    if len(fields) == 2:  # as producers write it
        return fields[1] if fields[0] == b"trigger" else None
    return dict(zip(fields[::2], fields[1::2], strict=True)).get(b"trigger")


def _entry(id_: bytes, fields: dict[bytes, bytes] | None) -> Entry:
    return Entry(id_.decode(), (fields or {}).get(b"trigger"))
