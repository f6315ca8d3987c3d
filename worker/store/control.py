"""What an operator tells an account: what is held back, and what is taken back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from worker.core.model import Status
from worker.store import keys
from worker.store.connection import RedisClient
from worker.store.outcomes import Filter, Outcome, Outcomes
from worker.store.scripts import Scripts

#: Stands for every campaign of the account, those that come later included.
ALL = "*"


@dataclass(frozen=True, slots=True)
class Named:
    """One trigger (by its stream entry's id), the triggers of a producer's id, a campaign, or everything."""

    name: str  #: as it stands in Redis: ``t:1764-0``, ``p:order-7001``, ``c:65`` or ``*``

    @classmethod
    def trigger(cls, entry: str) -> Named:
        """The trigger with this stream entry id."""
        return cls(f"t:{entry}")

    @classmethod
    def producer_id(cls, id_: str) -> Named:
        """All triggers that carry this ``id``."""
        return cls(f"p:{id_}")

    @classmethod
    def campaign(cls, number: int) -> Named:
        """A campaign."""
        return cls(f"c:{number}")

    @classmethod
    def all(cls) -> Named:
        """Everything of the account."""
        return cls(ALL)

    @property
    def value(self) -> str:
        """The id alone."""
        return self.name if self.name == ALL else self.name[2:]

    @property
    def kind(self) -> str:
        """What is named: ``trigger``, ``id``, ``campaign`` or ``all``."""
        return "all" if self.name == ALL else {"t": "trigger", "p": "id", "c": "campaign"}[self.name[0]]

    @property
    def words(self) -> str:
        """For people: ``trigger 1764-0``, ``id order-7001``, ``campaign 65``, ``everything``."""
        return "everything" if self.name == ALL else f"{self.kind} {self.value}"

    def find(self, outcomes: Outcomes, statuses: Iterable[Status]) -> Iterator[Outcome]:
        """Its deliveries of these statuses."""
        only = Filter(statuses=frozenset(statuses))
        match self.name[0]:
            case "t":
                return outcomes.by_trigger(self.value, only)
            case "p":
                return outcomes.by_producer_id(self.value, only)
            case "c":
                campaigns = frozenset({int(self.value)})
                return outcomes.select(Filter(campaigns=campaigns, statuses=only.statuses))
            case _:
                return outcomes.select(only)


@dataclass(frozen=True, slots=True)
class Cancel:
    """A cancel that is not complete yet: it covers what had been enqueued up to the entry ``until``."""

    what: Named
    order: str  #: as it stands in Redis
    since_ms: int

    @property
    def until(self) -> tuple[int, int]:
        """The last stream entry that it covers."""
        return _entry(self.order.partition(" ")[0])

    def covers(self, outcome: Outcome) -> bool:
        """Whether the delivery's trigger had been enqueued before."""
        return _entry(outcome.trigger) <= self.until


class Control:
    """The switches of one account. Errors: redis.exceptions.RedisError."""

    def __init__(self, client: RedisClient, scripts: Scripts, account: str, *, retention_ms: int) -> None:
        self._client = client
        self._scripts = scripts
        self._retention_ms = retention_ms
        self._root = keys.root(account)
        self._stream = keys.intake(account)
        self._paused = f"{self._root}paused"
        self._held = f"{self._root}held"
        self._cancels = f"{self._root}cancels"
        self._freeing = f"{self._root}freeing"

    def pause(self, name: str) -> bool:
        """Holds a campaign back (its number, or ``ALL``) from the next call on; False: it was paused already.

        Calls that are on the wire end as they end. What is held back keeps its place, and may expire.
        """
        return bool(self._client.sadd(self._paused, name))

    def resume(self, name: str) -> bool:
        """Lets a campaign (its number, or ``ALL``) go on; False: it was not paused.

        ``ALL`` takes back only a pause of all: campaigns that were paused by number stay so. What waits needs
        a hint after this, or it waits for the next sweep.
        """
        return bool(self._client.srem(self._paused, name))

    def paused(self) -> frozenset[str]:
        """The campaigns that are held back, perhaps with ``ALL`` among them."""
        return frozenset(name.decode() for name in self._client.smembers(self._paused))

    def hold(self, what: Named) -> bool:
        """Holds a trigger (or the triggers of a producer's id) back from the next call on; False: it was.

        It holds wherever the deliveries are: due, asleep, being accepted, still in the intake, or on the wire
        and about to be retried. A worker that meets one makes it ``held``.
        """
        return bool(self._client.hsetnx(self._held, what.name, self._now_ms()))

    def let_go(self, what: Named, outcomes: Outcomes) -> tuple[bool, int]:
        """Takes a hold back: whether there was one, and how many deliveries are pending again.

        Run again where it was interrupted, it goes on; so does the sweep. What waits needs a hint after this.
        """
        pipe = self._client.pipeline(transaction=True)
        pipe.hset(self._freeing, what.name, self._now_ms())
        pipe.hdel(self._held, what.name)
        _, was = pipe.execute()
        return bool(was), self._finish_freeing(what, outcomes)

    def let_strays_go(self, outcomes: Outcomes) -> int:
        """Frees deliveries that are held although nothing holds them any more: their resume was
        interrupted, or they were sent again in mid-cancel.
        """
        names = [Named(name.decode()) for name in self._client.hkeys(self._freeing)]
        free = sum(self._finish_freeing(what, outcomes) for what in names)
        if self.held() or self.cancels():
            return free
        return free + self._free(outcomes.select(Filter(statuses=frozenset({Status.HELD}))))

    def _finish_freeing(self, what: Named, outcomes: Outcomes) -> int:
        free = self._free(what.find(outcomes, {Status.HELD}))
        self._client.hdel(self._freeing, what.name)
        return free

    def held(self) -> dict[Named, int]:
        """The triggers that are held back, and since when (epoch ms)."""
        return read_held(self._client.hgetall(self._held))

    def begin_cancel(self, names: Sequence[Named]) -> list[Cancel]:
        """Takes back what is named and had been enqueued before: from now on none of it is sent.

        What waits of it is then to be ended (worker/engine/cancelling.py); whatever comes back from the wire
        or out of the intake is held until then. `volley retry` can send it again once the cancel is complete.
        """
        order = self._scripts.run("cancel", [self._root, self._stream], *(each.name for each in names))
        return [_cancel(each.name, order.decode()) for each in names]

    def cancels(self) -> list[Cancel]:
        """The cancels that are not complete yet."""
        return read_cancels(self._client.hgetall(self._cancels))

    def nothing_comes(self, cancel: Cancel) -> bool:
        """Whether all that is left of a cancel waits: nothing of it can come from the intake or the wire."""
        return self._cancel_done(cancel, "")

    def end_cancel(self, cancel: Cancel) -> bool:
        """Takes a cancel off the list once nothing comes any more and all that waited has been ended."""
        return self._cancel_done(cancel, "1")

    def _cancel_done(self, cancel: Cancel, take_off: str) -> bool:
        keys_ = [self._root, self._stream]
        return bool(self._scripts.run("cancel_done", keys_, cancel.what.name, cancel.order, take_off))

    def _free(self, found: Iterator[Outcome]) -> int:
        free = 0
        # Collected first: what is let go changes under the search.
        pairs = sorted((outcome.delivery, outcome.row.group) for outcome in found)
        for first in range(0, len(pairs), _PAGE):
            page = [value for pair in pairs[first : first + _PAGE] for value in pair]
            free += int(self._scripts.run("let_go", [self._root], self._retention_ms, *page))
        return free

    def _now_ms(self) -> int:
        seconds, micros = self._client.time()
        return int(seconds) * 1000 + int(micros) // 1000


#: Deliveries that one script lets go.
_PAGE = 1000


def read_held(fields: dict[bytes, bytes]) -> dict[Named, int]:
    """The hash ``held`` as values."""
    return {Named(name.decode()): int(since) for name, since in sorted(fields.items())}


def read_cancels(fields: dict[bytes, bytes]) -> list[Cancel]:
    """The hash ``cancels`` as values."""
    return [_cancel(name.decode(), order.decode()) for name, order in sorted(fields.items())]


def _cancel(name: str, order: str) -> Cancel:
    return Cancel(Named(name), order, int(order.split(" ")[2]))


def _entry(id_: str) -> tuple[int, int]:
    ms, _, seq = id_.partition("-")
    return int(ms), int(seq or 0)
