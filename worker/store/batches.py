"""What the transitions of deliveries take and give: chunks on the way in, batches on the way out, fates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from worker.core.model import Priority, Reason, Recipient, Status, Trigger
from worker.store.taken import Member


@dataclass(frozen=True, slots=True)
class Windows:
    """How long a dedupe key lives: one given by the producer, and one made of the content. Seconds."""

    key_seconds: int
    digest_seconds: int

    def of(self, key: str | None, own_seconds: int | None) -> int:
        """The window of a delivery; 0 means that it is not deduplicated."""
        if own_seconds is not None:
            return own_seconds
        return self.key_seconds if key is not None else self.digest_seconds


@dataclass(frozen=True, slots=True)
class Section:
    """One trigger's piece in a chunk: some of its recipients. ``final`` is the entry's last piece."""

    entry: str
    piece: int
    final: bool
    trigger: Trigger = field(repr=False)
    recipients: tuple[Recipient, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An entry of a chunk that goes to the dead letters."""

    entry: str
    where: str
    reason: str
    trigger: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Filed:
    """What an accepted chunk came to. ``passed_over`` sections had been accepted before."""

    pending: int
    duplicates: int
    passed_over: int
    free_permits: int


@dataclass(frozen=True, slots=True)
class Job:
    """The splitting that a batch is a part of: calls made for it so far, and how many it may make."""

    number: int
    calls: int
    budget: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What one call carries. ``token`` is the permit or, after a recovery, the fence of who took it over."""

    number: int
    token: str
    digest: str
    priority: Priority
    campaigns: tuple[int, ...]
    content: bytes = field(repr=False)
    members: Sequence[Member]
    job: Job | None = None
    sent: bool = True  #: after a recovery: whether it was on the wire

    @property
    def gid(self) -> int:
        """Its group."""
        return self.members[0].row.group

    def __len__(self) -> int:
        """How many deliveries it carries."""
        return len(self.members) * len(self.campaigns)

    def of(self, members: Sequence[Member]) -> Batch:
        """The batch with only these members."""
        return self if len(members) == len(self.members) else replace(self, members=tuple(members))


class SplitBy(StrEnum):
    """Into which halves a refused batch is split."""

    RECIPIENTS = "recipients"
    CAMPAIGNS = "campaigns"


@dataclass(frozen=True, slots=True)
class Ending:
    """A delivery together with the dedupe key that it may hold (empty: none)."""

    delivery: int
    gid: int
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeptOut:
    """A delivery that ends before its batch is sent, without having been sent."""

    ending: Ending
    status: Status
    reason: Reason


@dataclass(frozen=True, slots=True)
class DueEnding:
    """Neighbouring deliveries with the same expires_at, which has come."""

    slot: str
    text: bytes
    deliveries: range


@dataclass(frozen=True, slots=True)
class FateRow:
    """One fate of a settlement: status, reason, attempts added (0 or 1), milliseconds until due (None: at
    once).
    """

    status: Status
    reason: Reason
    counted: int
    due_in_ms: int | None


@dataclass(frozen=True, slots=True)
class Requeued:
    """What became of deliveries that were to be sent again."""

    taken: int = 0
    moved_on: int = 0
    key_held: int = 0
    content_gone: int = 0


class HeldBackError(Exception):
    """An operator has just paused or cancelled something in the batch: it was undone, nothing is sent."""


class PermitLostError(Exception):
    """The permit has lapsed: nothing may be sent with it."""
