"""Cells and rows: how a delivery is kept in Redis (lua/_cells.lua draws the layout).

A cell is 26 bytes that change; a row is a JSON list that does not: ``[group, kind letter,
recipient, trigger id, producer's id, expires_at_ms, dedupe_key, window_seconds, source]``, cut
behind its last value. Both are found by the delivery's number.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field

import orjson

from worker.core.model import REASONS, STATUS_CODES, Kind, Reason, Recipient, Status, Trigger

CELL_BYTES = 26
#: Deliveries in a segment.
SEGMENT = 1024
#: Times in cells count from here: 2020-01-01T00:00:00Z in epoch milliseconds.
EPOCH_MS = 1_577_836_800_000

_CELL = struct.Struct(">cBHBIBIBHIBI")
#: To be copied: that is half the price of a new one.
_INDEX_HASH = hashlib.blake2b(digest_size=5)
#: That it waited together with others is over when it is sent.
_TOLD_REASONS = {number: reason for number, reason in REASONS.items() if reason is not Reason.JOINED}
_TOLD = struct.Struct(">BBHIBI")
#: What a claim says of a delivery.
TOLD_BYTES = _TOLD.size
_STATUS = {code.encode(): status for status, code in STATUS_CODES.items()}
#: Kinds of recipients by their letter in a row.
KINDS = {kind.value[0]: kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class Cell:
    """Where a delivery is. ``batch`` is the last batch it was in; for a duplicate, the first delivery.

    ``first_ms`` is when it was accepted (or its ``send_at``) and, once it was tried, its first attempt.
    """

    status: Status
    reason: Reason
    http: int
    batch: int
    updated_ms: int
    attempts: int
    campaign: int
    first_ms: int


@dataclass(frozen=True, slots=True)
class Told:
    """What a batch's holder learns of a delivery: its reason so far, its
    attempts, when the first of them began.
    """

    reason: Reason
    attempts: int
    campaign: int
    first_ms: int


@dataclass(frozen=True, slots=True)
class Row:
    """What a delivery is, written once when it was accepted."""

    group: int
    recipient: Recipient
    trigger: str
    producer_id: str | None = None
    expires_at_ms: int | None = None
    dedupe_key: str | None = field(default=None, repr=False)
    dedupe_window_seconds: int | None = None
    source: str | None = None


def read_cell(data: bytes) -> Cell:
    """A cell from its 26 bytes."""
    status, reason, http, b1, b4, u1, u4, attempts, c2, c4, f1, f4 = _CELL.unpack(data)
    return Cell(
        status=_STATUS[status],
        reason=REASONS.get(reason, Reason.NONE),
        http=http,
        batch=b1 << 32 | b4,
        updated_ms=(u1 << 32 | u4) + EPOCH_MS,
        attempts=attempts,
        campaign=c2 << 32 | c4,
        first_ms=(f1 << 32 | f4) + EPOCH_MS,
    )


def read_told(data: bytes) -> list[Told]:
    """What a claim or a recovery returns of its cells, 13 bytes each."""
    return [
        Told(_TOLD_REASONS.get(reason, Reason.NONE), attempts, c2 << 32 | c4, (f1 << 32 | f4) + EPOCH_MS)
        for reason, attempts, c2, c4, f1, f4 in _TOLD.iter_unpack(data)
    ]


def pack_row(trigger: Trigger, entry: str, recipient: Recipient) -> bytes:
    """The JSON row behind its group (the accept script puts that in front), with no trailing nulls."""
    values = [
        recipient.kind[0],
        recipient.value,
        entry,
        trigger.id,
        trigger.expires_at_ms,
        trigger.dedupe_key,
        trigger.dedupe_window_seconds,
        trigger.source,
    ]
    while values[-1] is None:
        values.pop()
    return orjson.dumps(values)[1:]


def read_row(data: bytes) -> Row:
    """A row from its JSON."""
    group, kind, value, *rest = orjson.loads(data)
    return Row(group, Recipient(KINDS[kind], value), *rest)


def index_hash(kind: str, value: str) -> bytes:
    """Five bytes that stand for a recipient, trigger id (``t``) or producer's id (``p``) in the index.

    The first byte names the bucket. Two values may share a hash: a look-up compares the rows it finds.
    """
    hashed = _INDEX_HASH.copy()
    hashed.update(f"{kind}:{value}".encode())
    return hashed.digest()


def dedupe_digest(campaign: int, recipient: Recipient, key: str | None, content_digest: str) -> bytes:
    """Sixteen bytes that stand for (campaign, recipient, the trigger's dedupe_key or else its content)."""
    by = f"k{key}" if key is not None else f"c{content_digest}"
    # The recipient's length stands before it, so that no recipient can imitate another one with a key.
    text = f"{campaign} {recipient.kind[0]}{len(recipient.value)} {recipient.value} {by}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
