"""The words of the project as types: triggers, recipients, deliveries, their states and reasons.

The life of a delivery (one recipient x one campaign of one trigger):

    scheduled -> pending -> in_flight -> accepted | rejected | unknown | retrying
    retrying -> pending when due, or -> failed at the last attempt or the greatest age
    scheduled, pending, retrying, held -> expired | cancelled
    pending -> held when its trigger is paused, and back to pending when that is resumed
    pending -> suppressed when test mode does not let its recipient through
    a second delivery with a live dedupe key is born as duplicate
    retry (the admin command): failed, rejected, unknown, expired, cancelled, suppressed -> pending

All times are epoch milliseconds of the Redis server's clock (``*_ms``), all durations carry their unit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum


class Status(StrEnum):
    """Where a delivery is. The value's first letter is not its code: see ``STATUS_CODES``."""

    SCHEDULED = "scheduled"  #: waits for its ``send_at``
    PENDING = "pending"  #: due; waits for a permit
    IN_FLIGHT = "in_flight"  #: member of a batch that is claimed or on the wire
    RETRYING = "retrying"  #: an attempt failed; waits for its next due time
    HELD = "held"  #: due, but an operator holds its trigger back
    ACCEPTED = "accepted"  #: CleverTap queued it (not: a phone showed it)
    REJECTED = "rejected"  #: CleverTap refused it, and would refuse it again
    FAILED = "failed"  #: given up at the last attempt or the greatest age
    UNKNOWN = "unknown"  #: may have been sent; nobody knows; an operator decides
    EXPIRED = "expired"  #: its ``expires_at`` came first; never sent
    CANCELLED = "cancelled"  #: an operator took it back before it was sent
    SUPPRESSED = "suppressed"  #: not sent: test mode, and its recipient is not on the allow-list
    DUPLICATE = "duplicate"  #: an earlier delivery holds the same dedupe key


#: One letter a status: how Redis stores it (the first byte of a delivery's cell, see store/cells.py).
STATUS_CODES: dict[Status, str] = {
    Status.SCHEDULED: "s",
    Status.PENDING: "p",
    Status.IN_FLIGHT: "i",
    Status.RETRYING: "r",
    Status.HELD: "h",
    Status.ACCEPTED: "a",
    Status.REJECTED: "x",
    Status.FAILED: "f",
    Status.UNKNOWN: "u",
    Status.EXPIRED: "e",
    Status.CANCELLED: "c",
    Status.SUPPRESSED: "t",
    Status.DUPLICATE: "d",
}

#: States from which a delivery still moves by itself.
LIVE = frozenset({Status.SCHEDULED, Status.PENDING, Status.IN_FLIGHT, Status.RETRYING, Status.HELD})
#: States in which a delivery waits and is not on the wire: it may expire or be cancelled.
WAITING = LIVE - {Status.IN_FLIGHT}
#: States that the admin command ``retry`` takes back to pending.
RETRYABLE = frozenset(
    {Status.FAILED, Status.REJECTED, Status.UNKNOWN, Status.EXPIRED, Status.CANCELLED, Status.SUPPRESSED}
)
#: Ends without having been sent: the dedupe key is freed. (Accepted and unknown keep theirs.)
FREES_KEY = frozenset({Status.REJECTED, Status.FAILED, Status.EXPIRED, Status.CANCELLED, Status.SUPPRESSED})


class Reason(IntEnum):
    """Why a delivery has its status: a closed list, one byte in Redis. Numbers are never used again."""

    NONE = 0, "nothing to explain"
    INVALID_RECIPIENT = 1, "CleverTap calls the recipient invalid"
    CAMPAIGN_NOT_READY = (
        2,
        "the campaign is stopped, not ready, needs approval or is not of type External Trigger",
    )
    CAMPAIGN_MISSING = 3, "the campaign does not exist for this account"
    REFUSED = 4, "CleverTap refused the request as a whole (HTTP 400 or status fail)"
    CREDENTIALS = 5, "CleverTap refused the credentials, or the host is another region's"
    NOT_ENABLED = 6, "External Trigger is not enabled for the account, or the operation is not allowed"
    WRONG_CALL = 7, "CleverTap does not know this resource or method (HTTP 404 or 405)"
    CONFLICT = 8, "CleverTap answered HTTP 409"
    THROTTLED = 9, "too many concurrent requests (HTTP 429); costs no attempt"
    SERVER_ERROR = 10, "CleverTap answered HTTP 5xx"
    NOT_CONNECTED = 11, "no connection was made: surely not sent"
    NO_ANSWER = 12, "sent, or perhaps sent, and no answer came"
    UNREADABLE_ANSWER = 13, "an answer came that says neither success nor failure"
    WORKER_DIED = 14, "the worker died while the request was on the wire"
    EXPIRED = 15, "expires_at had passed"
    CANCELLED = 16, "an operator cancelled it"
    DUPLICATE = 17, "an earlier delivery holds the same dedupe key"
    REQUEUED = 18, "an operator sent it again"
    KNOWN_BAD_RECIPIENT = 19, "CleverTap refused this recipient lately; it is not called again for a while"
    NOT_ISOLATED = 20, "the bad recipient of its batch was not isolated within the budget of calls"
    POISON = 21, "the worker itself failed on it several times"
    SPLITTING = 22, "its batch was refused and is being split to find the bad part"
    TOO_LARGE = 23, "the request would exceed the API's size bound"
    JOINED = 24, "waits together with other deliveries of the same content to the same person"
    SUPPRESSED = 25, "test mode: not on the allow-list"

    sentence: str

    def __new__(cls, value: int, sentence: str) -> Reason:
        """A number together with its sentence."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        return member

    @property
    def label(self) -> str:
        """The name as users see it: ``invalid_recipient``."""
        return self.name.lower()


#: Reasons by their number.
REASONS: dict[int, Reason] = {reason.value: reason for reason in Reason}


class Priority(StrEnum):
    """Which due work takes the next free permit. The first letter is its code in Redis keys."""

    URGENT = "urgent"
    NORMAL = "normal"
    BULK = "bulk"


class Kind(StrEnum):
    """How a recipient is named, in the API's words. The first letter is its code in Redis."""

    EMAIL = "email"
    IDENTITY = "identity"
    OBJECT_ID = "objectId"


@dataclass(frozen=True, slots=True)
class Recipient:
    """A person as the API names one. The value is personal: it never appears in ``repr``, logs or errors."""

    kind: Kind
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Trigger:
    """What a producer enqueued, understood and checked.

    ``content`` is the canonical JSON of ``ExternalTrigger``: keys sorted, no spaces, UTF-8; equal maps are
    equal bytes. ``digest`` is 32 hex digits of its BLAKE2b hash. Campaigns are sorted and distinct.
    Recipients keep the producer's order and may repeat (a repeat ends as duplicate).
    """

    recipients: tuple[Recipient, ...] = field(repr=False)
    campaigns: tuple[int, ...]
    content: bytes = field(repr=False)
    digest: str
    id: str | None = None
    priority: Priority = Priority.NORMAL
    dedupe_key: str | None = None
    dedupe_window_seconds: int | None = None
    send_at_ms: int | None = None
    expires_at_ms: int | None = None
    source: str | None = None
