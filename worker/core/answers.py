"""What came back from one attempt, as a value.

    Answer = Answered    the API spoke: an HTTP status and what its body says
           | NotSent     surely not sent: no connection was made
           | NoAnswer    sent, or perhaps sent, and no whole answer came

``decide`` (``decision_table.py``) says what one means for the batch that was sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What the ``status`` of the answer's body says. The HTTP status may say otherwise."""

    SUCCESS = "success"  #: queued for every campaign of the call
    PARTIAL = "partial"  #: queued, but not for the campaigns that the text lists (``/2`` only)
    FAIL = "fail"  #: refused as a whole
    UNREADABLE = "unreadable"  #: not JSON, not an object, or no status that we know


@dataclass(frozen=True, slots=True)
class Reply:
    """The body of an answer. ``error`` is the vendor's text, cut and free of addresses (``wire.read``)."""

    verdict: Verdict
    error: str = ""
    dropped: frozenset[int] = frozenset()  #: campaigns that a partial answer lists; empty if it lists none


@dataclass(frozen=True, slots=True)
class Answered:
    """The API answered in full."""

    status: int
    reply: Reply
    retry_after_seconds: float | None = None  #: ``Retry-After``, >= 0; None when absent or unreadable
    seconds: float = 0.0  #: from the start of the attempt to the answer's last byte


@dataclass(frozen=True, slots=True)
class NotSent:
    """Surely not sent: trying again cannot double a message. ``why`` holds no address and no secret."""

    why: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """May have been sent: nobody knows. ``why`` holds no address and no secret."""

    why: str
    seconds: float = 0.0


Answer = Answered | NotSent | NoAnswer
