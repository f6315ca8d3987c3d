"""What the store's tests share: an account on a real server, the steps of a life as single calls, an audit.

The audit reads every key of the account and counts again: cells, counters, groups, lanes, sleepers, batches.
It runs after every test that uses `ground`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
import pytest
from redis import Redis

from worker.clevertap import wire
from worker.core.model import FREES_KEY, LIVE, RETRYABLE, STATUS_CODES, Reason, Status, Trigger
from worker.core.planning import Limits, plan
from worker.store import Rules, Store, scripts
from worker.store.batches import (
    Batch,
    Ending,
    FateRow,
    Filed,
    KeptOut,
    Requeued,
    Section,
    SplitBy,
    Unreadable,
    Windows,
)
from worker.store.cells import CELL_BYTES, SEGMENT, Cell, read_cell, read_row
from worker.store.intake import Entry
from worker.store.outcomes import Outcome
from worker.store.permits import no_rules
from worker.store.rules import AccountRules, RuleText
from worker.store.status import Snapshot

DAY_MS = 86_400_000
LONG_MS = 60_000
WAITING = (Status.SCHEDULED, Status.PENDING, Status.RETRYING, Status.HELD)


class Ground:
    """The account `default`: digest window 600 s, key window 3600 s, retention one day unless told."""

    def __init__(
        self,
        client: Redis,
        *,
        retention_ms: int = DAY_MS,
        permits: int = 100,
        text: Callable[[], str] = no_rules,
    ) -> None:
        self.client: Any = client
        self.root = "volley:{default}:"
        self.store = Store(
            client,
            "default",
            windows=Windows(3600, 600),
            retention_ms=retention_ms,
            rules=Rules(permits=100, text=text),
        )
        self.deliveries, self.outcomes = self.store.deliveries, self.store.outcomes
        self.store.intake.open()

    # -- on the way in

    def append(self, *bodies: dict[str, Any]) -> list[str]:
        """Appends as a producer does; entry ids."""
        return [
            self.client.xadd(self.store.intake.stream, {"trigger": orjson.dumps(body)}).decode()
            for body in bodies
        ]

    def read(self, consumer: str = "c", most: int = 1000, most_bytes: int = 10**9) -> list[Entry]:
        """What is new in the intake."""
        intake = self.store.intake
        return intake.finish_read(intake.start_read(consumer, most, most_bytes))[0]

    def accept(self, *bodies: dict[str, Any]) -> Filed:
        """Appends these triggers and accepts them in one chunk."""
        self.append(*bodies)
        return self.deliveries.accept([s for e in self.read() for s in sections(e)], [], 3)

    def file(self, *people: str, **keys: Any) -> Filed:
        """Accepts one trigger to these people (see `body`)."""
        return self.accept(body(*people, **keys))

    def file_people(self, count: int, **keys: Any) -> Filed:
        """Accepts one trigger to u0, u1, ... in one section."""
        return self.file(*(f"u{i}" for i in range(count)), **keys)

    def body(self, *people: str, **keys: Any) -> dict[str, Any]:
        """A trigger: names with an @ are addresses, with # objectIds, all others identities."""
        return body(*people, **keys)

    def sections(self, entry: Entry, size: int = 100_000) -> list[Section]:
        """An entry in pieces of `size` recipients."""
        return sections(entry, size)

    def dead_letter(self, *entries: Entry) -> Filed:
        """Sends entries to the dead letters."""
        dead = [Unreadable(entry.id, "to", "is missing", entry.trigger or b"") for entry in entries]
        return self.deliveries.accept([], dead, 3)

    # -- on the way out

    def claim(
        self, token: str = "t", *, recipients: int = 1000, campaigns: int = 5, lease_ms: int = LONG_MS
    ) -> Batch:
        """Takes a permit and the best batch that is due; fails if there is none."""
        assert self.hold(token, lease_ms)
        view = self.deliveries.view()
        assert view is not None, "nothing is due"
        planned = plan(view, Limits(recipients, campaigns))
        assert planned is not None
        batch = self.deliveries.claim(planned, token)
        assert batch is not None
        return batch

    def on_the_wire(self, token: str = "t", *, lease_ms: int = LONG_MS, **limits: int) -> Batch:
        """A batch that was claimed and marked."""
        batch = self.claim(token, **limits)
        assert self.deliveries.mark(batch, lease_ms)
        return batch

    def settle(
        self,
        batch: Batch,
        status: Status,
        reason: Reason = Reason.NONE,
        *,
        counted: int = 1,
        due_ms: int | None = None,
        text: str = "",
    ) -> bool:
        """One fate for the whole batch; keys are freed where the status says so."""
        freed = self.endings_of(batch) if status in FREES_KEY else []
        fate = FateRow(status, reason, counted, due_ms)
        return self.deliveries.settle(
            batch, http=200, text=text, fates=[fate], assignment=b"\x01", freed=freed
        )

    def endings_of(self, batch: Batch) -> list[Ending]:
        """Every delivery of a batch with its key."""
        return [
            self.deliveries.key_of(delivery, told.campaign, row, batch.digest)
            for member in batch.members
            for delivery, told, row in zip(member.deliveries, member.told, member.rows, strict=True)
        ]

    def kept_out(self, endings: Sequence[Ending]) -> list[KeptOut]:
        """These deliveries, expired when their batch was to be sent."""
        return [KeptOut(ending, Status.EXPIRED, Reason.EXPIRED) for ending in endings]

    def hold(self, token: str, lease_ms: int = LONG_MS, *, most: int = 100) -> bool:
        """Takes or renews a permit, of so many that there are."""
        return self.store.permits.acquire(token, most, lease_ms)

    def free(self, most: int = 100) -> int:
        """How many permits are free, of so many that there are."""
        return self.store.permits.free(most)

    def split(self, batch: Batch, by: SplitBy, *, budget: int = 100) -> bool:
        """Refuses a batch in such a way that its halves are tried apart."""
        fate = FateRow(Status.PENDING, Reason.SPLITTING, 0, None)
        return self.deliveries.settle(
            batch, http=400, text="", fates=[fate], assignment=b"\x01", freed=[], split=by, budget=budget
        )

    def claim_part(self, token: str = "t") -> Batch | None:
        """The next part of a refused batch."""
        assert self.hold(token)
        return self.deliveries.claim_part("n", token)

    # -- by an operator

    def endings(self, numbers: Sequence[int]) -> list[Ending]:
        """These deliveries with their keys."""
        return [self.ending(outcome) for outcome in self.outcomes.of(numbers)]

    def ending(self, outcome: Outcome) -> Ending:
        """A delivery with its key."""
        return self.deliveries.key_of(outcome.delivery, outcome.campaign, outcome.row, outcome.digest)

    def cancel(self, *numbers: int) -> int:
        """Cancels what waits."""
        return self.deliveries.finish(Status.CANCELLED, Reason.CANCELLED, WAITING, self.endings(numbers))

    def requeue(self, *numbers: int, may_take: Sequence[Status] | None = None) -> Requeued:
        """Sends again what ended."""
        found = self.outcomes.of(numbers)
        states = may_take or list(RETRYABLE)
        return self.deliveries.requeue(
            states, [(self.ending(o), self.deliveries.window_of(o.row)) for o in found]
        )

    def pause(self, *names: str) -> None:
        """Holds campaigns back, or all of them (*)."""
        self.client.sadd(f"{self.root}paused", *names)

    def resume(self, *names: str) -> None:
        """Lets them go again."""
        self.client.srem(f"{self.root}paused", *names)

    # -- looking

    def cell(self, number: int) -> Cell:
        """Where a delivery is."""
        at = number % SEGMENT * CELL_BYTES
        return read_cell(
            self.client.getrange(f"{self.root}seg:{number // SEGMENT}:cells", at, at + CELL_BYTES - 1)
        )

    def states(self) -> dict[int, Status]:
        """Where every delivery is."""
        return {number: cell.status for number, cell in cells_of(self.client, self.root)}

    def status(self) -> Snapshot:
        """The account at a glance."""
        return self.store.status()

    def total(self, status: Status) -> int:
        """Deliveries of this status, as counted."""
        return self.status().total(status)

    def keys(self, pattern: str) -> set[str]:
        """Names behind the account's root."""
        found = self.client.keys(f"{self.root}{pattern}")
        return {key.decode(errors="backslashreplace").removeprefix(self.root) for key in found}

    def dedupe_keys(self) -> dict[bytes, int]:
        """Each dedupe key that is held now, with the delivery that holds it."""
        return {key: n for key, (n, till) in self._keys().items() if till > self.deliveries.now_ms()}

    def dedupe_lives(self) -> list[int]:
        """For how many milliseconds each dedupe key is still held, in this order."""
        now = self.deliveries.now_ms()
        return sorted(till - now for _, till in self._keys().values())

    def free_dedupe_key(self, key: bytes) -> None:
        """As if its window had ended."""
        self.client.hdel(f"{self.root}dedupe", key)

    def _keys(self) -> dict[bytes, tuple[int, int]]:
        held = self.client.hgetall(f"{self.root}dedupe")
        return {key: (int.from_bytes(v[:6]), int.from_bytes(v[6:])) for key, v in held.items()}

    def audit(self) -> None:
        """Fails unless every delivery is in exactly one place and every counter is right."""
        audit(self.client, self.root)

    def key_holders(self) -> set[int]:
        """The deliveries that hold a dedupe key."""
        return set(self.dedupe_keys().values())

    def drain(self, token: str = "drain") -> list[int]:
        """Claims and accepts until nothing is due; the deliveries, in order."""
        drained: list[int] = []
        while self.deliveries.view() is not None:
            assert self.hold(token)
            view = self.deliveries.view()
            if view is not None and not view.flow:
                batch = self.deliveries.claim_part(view.priority, token)
            else:
                planned = plan(view, Limits(1000, 5)) if view else None
                assert planned is not None, "the view shows work that cannot be planned"
                batch = self.deliveries.claim(planned, token)
            if batch is None:
                continue
            assert self.deliveries.mark(batch, LONG_MS)
            assert self.settle(batch, Status.ACCEPTED)
            drained += [n for member in batch.members for n in member.deliveries]
        self.store.permits.release(token)
        return drained


def body(*people: str, campaigns: Sequence[int] = (65,), name: str = "A", **keys: Any) -> dict[str, Any]:
    to = {
        "email": [p for p in people if "@" in p],
        "objectId": [p for p in people if "#" in p],
        "identity": [p for p in people if "@" not in p and "#" not in p],
    }
    return {
        "to": {kind: values for kind, values in to.items() if values},
        "campaign_id_list": list(campaigns),
        "ExternalTrigger": {"Name": name},
        **keys,
    }


def parsed(entry: Entry) -> tuple[Trigger, ...]:
    """An entry's triggers."""
    assert entry.trigger is not None
    return wire.parse(entry.trigger, max_bytes=4_194_304)


def sections(entry: Entry, size: int = 100_000) -> list[Section]:
    """An entry in pieces of `size` recipients."""
    cuts = [
        (trigger, first) for trigger in parsed(entry) for first in range(0, len(trigger.recipients), size)
    ]
    return [
        Section(entry.id, piece, piece == len(cuts) - 1, trigger, trigger.recipients[first : first + size])
        for piece, (trigger, first) in enumerate(cuts)
    ]


def cells_of(client: Any, root: str) -> Iterator[tuple[int, Cell]]:
    """Every delivery that is kept."""
    for key in client.keys(f"{root}seg:*:cells"):
        segment = int(key.decode().removeprefix(f"{root}seg:").split(":")[0])
        data = client.get(key)
        assert len(data) % CELL_BYTES == 0
        assert len(data) // CELL_BYTES == client.llen(f"{root}seg:{segment}:rows")
        for i in range(len(data) // CELL_BYTES):
            yield segment * SEGMENT + i, read_cell(data[i * CELL_BYTES : (i + 1) * CELL_BYTES])


def row_numbers(row: bytes, width: int) -> list[int]:
    """The deliveries of a row in a lane."""
    if b"," in row:
        return [int(n) for n in row.split(b",")]
    return [int(row) + i for i in range(width)]


def audit(client: Any, root: str) -> None:
    """Every delivery is in exactly one place, and every counter is what a recount gives."""
    cells = dict(cells_of(client, root))
    _audit_counters(client, root, cells)
    _audit_places(client, root, cells)


def _audit_counters(client: Any, root: str, cells: dict[int, Cell]) -> None:
    by_segment: dict[int, Counter[str]] = {}
    live_of_group: Counter[int] = Counter()
    for number, cell in cells.items():
        counts = by_segment.setdefault(number // SEGMENT, Counter())
        counts[f"{cell.campaign}:{STATUS_CODES[cell.status]}"] += 1
        if cell.status in LIVE:
            counts["live"] += 1
            row = read_row(client.lindex(f"{root}seg:{number // SEGMENT}:rows", number % SEGMENT))
            live_of_group[row.group] += 1
    total: Counter[str] = Counter()
    for segment, counts in by_segment.items():
        assert _counted(client.hgetall(f"{root}seg:{segment}")) == counts, f"counts of segment {segment}"
        assert client.zscore(f"{root}segments", segment) is not None
        total += counts
    del total["live"]
    assert _counted(client.hgetall(f"{root}counts")) == total, "counts of the account"
    live = sum(cell.status in LIVE for cell in cells.values())
    # Missing: nothing has changed since a version wrote this that did not count them.
    assert int(client.get(f"{root}live") or live) == live, "live deliveries of the account"
    for key in client.keys(f"{root}group:*"):
        gid = int(key.decode().removeprefix(f"{root}group:"))
        live = live_of_group.pop(gid, 0)
        assert int(client.hget(key, "live") or 0) == live, f"live deliveries of group {gid}"
        name = client.hget(key, "key")
        if name is None and not client.exists(key):  # it has expired just now
            continue
        for kept in (key, f"{root}gid:".encode() + name):
            assert (client.pttl(kept) == -1) == (live > 0), f"{kept.decode()} expires exactly when unused"
    assert not live_of_group, f"live deliveries whose group is gone: {live_of_group}"


def _counted(fields: dict[bytes, bytes]) -> dict[str, int]:
    return {name.decode(): int(value) for name, value in fields.items() if int(value)}


def _audit_places(client: Any, root: str, cells: dict[int, Cell]) -> None:
    waiting = _lanes(client, root, cells) | _parts(client, root)
    sleeping = _sleepers(client, root, cells)
    in_batches: Counter[int] = Counter()
    for key in client.keys(f"{root}batch:*"):
        number = int(key.decode().removeprefix(f"{root}batch:"))
        assert client.zscore(f"{root}flight", number) is not None, f"batch {number} has no lease"
        fields = client.hgetall(key)
        if b"spans" in fields:
            spans = list(map(int, fields[b"spans"].split()))
            pairs = zip(spans[::2], spans[1::2], strict=True)
            numbers = [n for first, count in pairs for n in range(first, first + count)]
        else:  # written by an older version
            numbers = list(map(int, fields[b"rows"].split(b",")))
        for n in numbers:
            in_batches[n] += 1
            assert cells[n].status is Status.IN_FLIGHT, f"{n} is {cells[n].status} and in batch {number}"
            assert cells[n].batch == number
    for number in client.zrange(f"{root}flight", 0, -1):
        assert client.exists(f"{root}batch:{number.decode()}")
    for n, cell in cells.items():
        match cell.status:
            case Status.PENDING:
                assert (cell.campaign, n) in waiting, f"pending {n} is in no lane and no part"
            case Status.SCHEDULED | Status.RETRYING:
                assert (cell.campaign, n) in sleeping, f"{cell.status} {n} is in no due slot"
            case Status.HELD:
                assert not in_batches[n], f"held {n} is in a batch"
            case Status.IN_FLIGHT:
                assert in_batches[n] == 1, f"in-flight {n} is in {in_batches[n]} batches"
            case _:
                pass


def belongs(cell: Cell | None, row: Sequence[int]) -> bool:
    """Whether a delivery belongs to a row that lists it: one that was joined, only to its last one."""
    if cell is None or cell.reason is not Reason.JOINED or cell.status is Status.IN_FLIGHT:
        return True
    return cell.http == len(row) and cell.batch in row


def _lanes(client: Any, root: str, cells: dict[int, Cell]) -> set[tuple[int, int]]:
    """(campaign, delivery) in lanes; each lane is in its flow exactly once, each flow among the ready."""
    listed: set[tuple[int, int]] = set()
    flows: Counter[tuple[str, str]] = Counter()
    for key in client.keys(f"{root}lane:*"):
        gid, campaigns = key.decode().removeprefix(f"{root}lane:").split(":")
        priority = client.hget(f"{root}group:{gid}", "priority").decode()
        assert client.hexists(f"{root}group:{gid}", f"lane:{campaigns}")
        assert client.lrange(f"{root}flow:{priority}:{campaigns}", 0, -1).count(gid.encode()) == 1
        flows[priority, campaigns] += 1
        names = [int(c) for c in campaigns.split(",")]
        stale = 0
        rows = client.lrange(key, 0, -1)
        for row in rows:
            numbers = row_numbers(row, len(names))
            # One that has ended and been forgotten is listed until its row comes to the front.
            own = {
                (c, n)
                for c, n in zip(names, numbers, strict=True)
                if n in cells and belongs(cells[n], numbers)
            }
            # One that was tried or sent again does not remember that its row is another one.
            stale += not all(cells[n].status is Status.PENDING and _is_pristine(cells[n]) for _, n in own)
            stale += len(own) < len(numbers)
            listed |= own
        counted = int(client.hget(f"{root}group:{gid}", f"stale:{campaigns}") or 0)
        assert 0 <= counted <= len(rows)
        assert counted <= stale + _twice(rows), f"lane {campaigns} counts {counted} stale rows, of {stale}"
    for key in client.keys(f"{root}flow:*"):
        priority, campaigns = key.decode().removeprefix(f"{root}flow:").split(":")
        assert client.llen(key) == flows[priority, campaigns], "a flow lists groups without rows"
        assert client.zscore(f"{root}ready:{priority}", campaigns) is not None
    for priority in "unb":
        for campaigns in client.zrange(f"{root}ready:{priority}", 0, -1):
            if campaigns == b"split":
                assert client.exists(f"{root}split:{priority}")
                continue
            assert flows[priority, campaigns.decode()], f"{campaigns.decode()} is ready without rows"
    return listed


def _is_pristine(cell: Cell) -> bool:
    return cell.reason is Reason.JOINED or (cell.reason, cell.http, cell.batch) == (Reason.NONE, 0, 0)


def _twice(rows: Sequence[bytes]) -> int:
    """Rows that are listed again: of those that list the same, one is sent."""
    return len(rows) - len(set(rows))


def _parts(client: Any, root: str) -> set[tuple[int, int]]:
    """(campaign, delivery) in parts of refused batches; each list is among the ready flows."""
    listed: set[tuple[int, int]] = set()
    for key in client.keys(f"{root}split:*"):
        priority = key.decode().removeprefix(f"{root}split:")
        assert client.zscore(f"{root}ready:{priority}", "split") is not None
        for item in client.lrange(key, 0, -1):
            _, _, campaigns, *rows = item.split(b" ")
            names = [int(c) for c in campaigns.split(b",")]
            for row in rows:
                listed |= set(zip(names, row_numbers(row, len(names)), strict=True))
    return listed


def _sleepers(client: Any, root: str, cells: dict[int, Cell]) -> set[tuple[int, int]]:
    """(campaign, delivery) in due slots; each slot is listed."""
    listed: set[tuple[int, int]] = set()
    for key in client.keys(f"{root}due:*"):
        slot = key.decode().removeprefix(f"{root}due:")
        assert client.zscore(f"{root}due", slot) == float(slot)
        for item in client.lrange(key, 0, -1):
            _, campaigns, *rows = item.split(b" ")
            names = [int(c) for c in campaigns.split(b",")]
            for row in rows:
                numbers = row_numbers(row, len(names))
                listed |= {
                    (c, n) for c, n in zip(names, numbers, strict=True) if belongs(cells.get(n), numbers)
                }
    return listed


class Clock:
    """The server's clock as the scripts read it, moved by hand: a day passes at once."""

    _READS = "local clock = redis.call('TIME')"

    def __init__(self, client: Redis) -> None:
        self._client: Any = client
        seconds, _ = self._client.time()
        self.set(int(seconds) * 1000)

    def set(self, now_ms: int) -> None:
        """It is now that moment."""
        self.now_ms = now_ms
        self._client.set("clock", now_ms)

    def advance(self, ms: int) -> None:
        """So much time passes."""
        self.set(self.now_ms + ms)

    @classmethod
    def reading(cls, name: str) -> str:
        """A script that reads this clock."""
        text = _source(name)
        assert text.count(cls._READS) == 1
        ours = "local clock = { redis.call('GET', 'clock') / 1000, 0 }"
        return text.replace(cls._READS, ours)


_source = scripts.source


@contextmanager
def clock_by_hand(client: Redis) -> Iterator[Clock]:
    """All scripts read a clock that is moved by hand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scripts, "source", Clock.reading)
        yield Clock(client)


@pytest.fixture
def clock(client: Redis) -> Iterator[Clock]:
    """The server's clock, moved by hand."""
    with clock_by_hand(client) as clock:
        yield clock


@pytest.fixture
def ruled(client: Redis, clock: Clock) -> Iterator[Callable[..., Ground]]:
    """Accounts with rules (see AccountRules) by a clock that is moved by hand; audited at the end."""
    made: list[Ground] = []

    def make(**rules: Any) -> Ground:
        text = RuleText(AccountRules(**rules), now=lambda: clock.now_ms / 1000)
        made.append(Ground(client, text=text))
        return made[-1]

    yield make
    for each in made:
        each.audit()


@pytest.fixture
def ground(client: Redis) -> Iterator[Ground]:
    """An account with nothing in it; audited at the end of the test."""
    made = Ground(client)
    yield made
    made.audit()


@pytest.fixture
def forgetful_ground(client: Redis) -> Ground:
    """An account that forgets at once what has ended (retention 1 ms). Not audited by itself."""
    return Ground(client, retention_ms=1)
