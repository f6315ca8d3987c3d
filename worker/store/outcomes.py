"""What became of deliveries: look-ups by number, trigger, producer's
id, recipient, campaign, status and time.

Nothing is kept per look-up but 10 bytes in an index bucket: a bucket is a day's share
of hashes, each with the delivery that it stands for. Rows that are found are compared
with what was asked, so a shared hash does no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from worker.core.model import STATUS_CODES, Kind, Priority, Reason, Recipient, Status
from worker.store import keys
from worker.store.cells import CELL_BYTES, SEGMENT, Cell, Row, index_hash, read_cell, read_row
from worker.store.connection import RedisClient

_PRIORITIES = {priority.value[0]: priority for priority in Priority}
_LETTERS = {letter.encode(): status for status, letter in STATUS_CODES.items()}
#: Bytes of an index entry: 4 of the hash, 6 of the delivery.
_ENTRY_BYTES = 10
#: Deliveries read in one round trip.
_PAGE = 1000
#: A day's index entries live for the retention and at least this much longer, ms (lua/accept.lua).
_INDEXED_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one delivery. Times are epoch ms; ``text`` is the vendor's, cut and scrubbed."""

    delivery: int
    status: Status
    reason: Reason
    campaign: int
    recipient: Recipient
    trigger: str
    producer_id: str | None
    priority: Priority | None
    attempts: int
    http: int | None
    batch: int | None
    duplicate_of: int | None
    first_ms: int
    updated_ms: int
    expires_at_ms: int | None
    source: str | None
    text: str
    row: Row = field(repr=False)
    digest: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which deliveries are meant; None or empty means any. Times bound the last change, epoch ms."""

    campaigns: frozenset[int] = frozenset()
    statuses: frozenset[Status] = frozenset()
    since_ms: int | None = None
    until_ms: int | None = None

    def admits(self, cell: Cell) -> bool:
        """Whether a delivery is meant."""
        return (
            (not self.campaigns or cell.campaign in self.campaigns)
            and (not self.statuses or cell.status in self.statuses)
            and (self.since_ms is None or cell.updated_ms >= self.since_ms)
            and (self.until_ms is None or cell.updated_ms < self.until_ms)
        )


class Outcomes:
    """Read-only views of one account. Errors: redis.exceptions.RedisError."""

    def __init__(self, client: RedisClient, account: str, *, retention_ms: int) -> None:
        self._client = client
        self._root = keys.root(account)
        self._indexed_ms = retention_ms + _INDEXED_MS

    def of(self, deliveries: Sequence[int], only: Filter = Filter()) -> list[Outcome]:
        """The outcomes of these deliveries that the filter admits; those that are gone are left out."""
        found = [(n, cell, row) for n, cell, row in self._read(deliveries) if only.admits(cell)]
        groups = sorted({row.group for _, _, row in found})
        batches = sorted({cell.batch for _, cell, _ in found if cell.batch and _in_batch(cell)})
        pipe = self._client.pipeline(transaction=False)
        for gid in groups:
            pipe.hget(f"{self._root}group:{gid}", "key")
        for batch in batches:
            pipe.get(f"{self._root}said:{batch}")
        answers = pipe.execute() if groups else []
        names = dict(zip(groups, answers, strict=False))
        said = dict(zip(batches, answers[len(groups) :], strict=False))
        return [_outcome(n, cell, row, names[row.group], _said(said, cell)) for n, cell, row in found]

    def by_trigger(self, entry: str, only: Filter = Filter()) -> Iterator[Outcome]:
        """The deliveries of the trigger with this stream entry id, in order."""
        return self._walk(index_hash("t", entry), lambda row: row.trigger == entry, only)

    def by_producer_id(self, id_: str, only: Filter = Filter()) -> Iterator[Outcome]:
        """The deliveries of all triggers that carried this ``id``."""
        return self._walk(index_hash("p", id_), lambda row: row.producer_id == id_, only)

    def by_recipient(
        self, value: str, kind: Kind | None = None, only: Filter = Filter()
    ) -> Iterator[Outcome]:
        """The deliveries to one recipient; without a kind, to the value as any kind."""
        for each in [kind] if kind else list(Kind):
            yield from self._walk(index_hash(each.value[0], value), _is_to(Recipient(each, value)), only)

    def select(self, only: Filter) -> Iterator[Outcome]:
        """All deliveries that the filter admits, newest first. Segments without any are not read."""
        segments = self._client.zrangebyscore(
            f"{self._root}segments", "-inf" if only.since_ms is None else only.since_ms, "+inf"
        )
        numbers = sorted(map(int, segments), reverse=True)
        for first in range(0, len(numbers), 100):
            page = numbers[first : first + 100]
            pipe = self._client.pipeline(transaction=False)
            for k in page:
                pipe.hgetall(f"{self._root}seg:{k}")
            for k, counts in zip(page, pipe.execute(), strict=True):
                if _may_hold(counts, only):
                    cells = self._client.get(f"{self._root}seg:{k}:cells") or b""
                    matching = [
                        k * SEGMENT + i
                        for i in range(len(cells) // CELL_BYTES - 1, -1, -1)
                        if only.admits(read_cell(cells[i * CELL_BYTES : (i + 1) * CELL_BYTES]))
                    ]
                    yield from self.of(matching, only)

    def counts(self) -> dict[tuple[int, Status], int]:
        """Deliveries kept in Redis, by campaign and status."""
        return read_counts(self._client.hgetall(f"{self._root}counts"))

    def _walk(self, hashed: bytes, meant: Callable[[Row], bool], only: Filter) -> Iterator[Outcome]:
        """From each delivery that the index names for this hash, on through its neighbours that are meant;
        and those that have waited for longer than the index remembers.
        """
        seen: set[int] = set()
        for start in self._indexed(hashed):
            at: int | None = start
            size = 8
            while at is not None and at not in seen:
                numbers = list(range(at, at + size))
                found = []
                first, at = at, None
                none = True
                for n, _, row in self._read(numbers):
                    none = False
                    if not meant(row) or n in seen:
                        break
                    seen.add(n)
                    found.append(n)
                else:
                    if found and found[-1] == numbers[-1]:
                        at = found[-1] + 1
                    elif none and first == start:
                        # Its segment is forgotten; the rest may lie in the next one.
                        at = (start // SEGMENT + 1) * SEGMENT
                yield from self.of(found, only)
                size = _PAGE
        for segment in self._older_than_the_index():
            every = range(segment * SEGMENT, (segment + 1) * SEGMENT)
            found = [n for n, _, row in self._read(every) if n not in seen and meant(row)]
            yield from self.of(found, only)

    def _older_than_the_index(self) -> Iterator[int]:
        """Segments that begin with a trigger which the index may have forgotten: something in them was
        paused, parked or asleep for longer than the retention.
        """
        now_seconds, _ = self._client.time()
        before_ms = int(now_seconds) * 1000 - self._indexed_ms
        for segment in sorted(map(int, self._client.zrange(f"{self._root}segments", 0, -1))):
            first = self._client.lindex(f"{self._root}seg:{segment}:rows", 0)
            if first is not None and int(read_row(first).trigger.partition("-")[0]) > before_ms:
                return
            yield segment

    def _indexed(self, hashed: bytes) -> list[int]:
        """The deliveries that the index names for this hash, of all days, oldest first."""
        days = self._client.zrange(f"{self._root}days", 0, -1)
        if not days:
            return []
        texts = self._client.mget([f"{self._root}ix:{day.decode()}:{hashed[0]}" for day in days])
        found = set()
        for text in texts:
            at = text.find(hashed[1:5]) if text else -1
            while at >= 0:
                if at % _ENTRY_BYTES == 0:
                    found.add(int.from_bytes(text[at + 4 : at + _ENTRY_BYTES], "big"))
                at = text.find(hashed[1:5], at + 1)
        return sorted(found)

    def _read(self, deliveries: Sequence[int]) -> Iterator[tuple[int, Cell, Row]]:
        """Cells and rows of these deliveries, in their order, one round trip a page."""
        for first in range(0, len(deliveries), _PAGE):
            spans = list(_spans(deliveries[first : first + _PAGE]))
            pipe = self._client.pipeline(transaction=False)
            for span in spans:
                k, low, high = min(span) // SEGMENT, min(span) % SEGMENT, max(span) % SEGMENT
                pipe.getrange(f"{self._root}seg:{k}:cells", low * CELL_BYTES, (high + 1) * CELL_BYTES - 1)
                pipe.lrange(f"{self._root}seg:{k}:rows", low, high)
            answers = pipe.execute()
            for i, span in enumerate(spans):
                cells, rows = answers[2 * i : 2 * i + 2]
                for n in span:
                    offset = n - min(span)
                    cell = cells[offset * CELL_BYTES : (offset + 1) * CELL_BYTES]
                    # Between the two answers a trigger may have been accepted, or the segment forgotten.
                    if offset < len(rows) and len(cell) == CELL_BYTES:
                        yield n, read_cell(cell), read_row(rows[offset])


def _said(said: dict[int, bytes | None], cell: Cell) -> bytes | None:
    """The vendor's words about a delivery; they are not about those of the batch that were accepted."""
    return None if cell.status in {Status.DUPLICATE, Status.ACCEPTED} else said.get(cell.batch)


def _in_batch(cell: Cell) -> bool:
    """Whether a cell speaks of a batch: that of a duplicate and of one
    that waits with others names a delivery.
    """
    if cell.status is Status.DUPLICATE:
        return False
    return cell.reason is not Reason.JOINED or cell.status is Status.IN_FLIGHT


def _reason(cell: Cell) -> Reason:
    """The reason, unless it is of no meaning for a reader: joined with none that is left, or sent by now."""
    alone = cell.reason is Reason.JOINED and (cell.http == 1 or cell.status is Status.IN_FLIGHT)
    return Reason.NONE if alone else cell.reason


def _is_to(recipient: Recipient) -> Callable[[Row], bool]:
    return lambda row: row.recipient == recipient


def read_counts(counters: dict[bytes, bytes]) -> dict[tuple[int, Status], int]:
    """The hash ``counts`` as values: (campaign, status) -> deliveries, without the zeros."""
    counts = {}
    for name, value in counters.items():
        campaign, _, letter = name.partition(b":")
        if int(value):
            counts[int(campaign), _LETTERS[letter]] = int(value)
    return counts


def _spans(deliveries: Sequence[int]) -> Iterable[list[int]]:
    """Runs of neighbours (up or down) that lie in one segment."""
    ups = groupby(enumerate(deliveries), key=lambda pair: (pair[1] // SEGMENT, pair[1] - pair[0]))
    spans = [[n for _, n in run] for _, run in ups]
    if len(spans) < len(deliveries):
        return spans
    downs = groupby(enumerate(deliveries), key=lambda pair: (pair[1] // SEGMENT, pair[1] + pair[0]))
    return [[n for _, n in run] for _, run in downs]


def _may_hold(counts: dict[bytes, bytes], only: Filter) -> bool:
    held: Collection[tuple[int, Status]] = read_counts(
        {name: value for name, value in counts.items() if name != b"live"}
    )
    return any(
        (not only.campaigns or campaign in only.campaigns) and (not only.statuses or status in only.statuses)
        for campaign, status in held
    )


def _outcome(n: int, cell: Cell, row: Row, name: bytes | None, said: bytes | None) -> Outcome:
    duplicate, in_batch = cell.status is Status.DUPLICATE, _in_batch(cell)
    return Outcome(
        delivery=n,
        status=cell.status,
        reason=_reason(cell),
        campaign=cell.campaign,
        recipient=row.recipient,
        trigger=row.trigger,
        producer_id=row.producer_id,
        priority=_PRIORITIES[name[:1].decode()] if name else None,
        attempts=cell.attempts,
        http=cell.http if in_batch and cell.http else None,
        batch=cell.batch if in_batch and cell.batch else None,
        duplicate_of=cell.batch if duplicate else None,
        first_ms=cell.first_ms,
        updated_ms=cell.updated_ms,
        expires_at_ms=row.expires_at_ms,
        source=row.source,
        text=said.decode() if said else "",
        row=row,
        digest=name[1:].decode() if name else "",
    )
