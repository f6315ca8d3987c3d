"""Faults: what goes wrong on purpose, for which calls, how often."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from .answers import Answer, Refusal, refused
from .rules import Call
from .scenario import LatencyMs, check_latency


class FaultKind(StrEnum):
    """What happens to a call that a fault has claimed."""

    DELAY = "delay"  #: nothing but the fault's latency; judged and answered as usual
    ANSWER = "answer"  #: answered with the fault's status and body
    HANG = "hang"  #: never answered; keeps its place in flight until the client leaves
    CUT = "cut"  #: the connection is closed without an answer
    TRICKLE = "trickle"  #: judged as usual; the answer's body comes byte by byte


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault. It claims a call that matches all that it names, with its probability, and `times` at most.

    Raises `ValueError` for a value that makes no sense.
    """

    kind: FaultKind
    #: Calls that it claims before it is spent. None: all, until it is removed.
    times: int | None = None
    #: Chance that it claims a call that matches, from 0 to 1.
    probability: float = 1.0
    #: Only calls that name this campaign id.
    campaign: str | None = None
    #: Only calls that hold this identity value.
    recipient: str | None = None
    #: ANSWER, HANG, CUT: the rules judge the call first, and what they accept counts as accepted, although
    #: the client never hears of it. Otherwise the call is not accepted.
    after_accepting: bool = False
    #: Replaces the scenario's latency for the calls that it claims.
    latency_ms: LatencyMs | None = None
    #: ANSWER: the HTTP code.
    status: int = 503
    #: ANSWER: the body as it is. None: a refusal in the vendor's shape.
    body: str | None = None
    #: ANSWER: the value of a `Retry-After` header, seconds or an HTTP date. None: no such header.
    retry_after: str | None = None
    #: TRICKLE: pause before each byte of the body, in milliseconds.
    interval_ms: float = 20

    def __post_init__(self) -> None:
        if self.times is not None and self.times < 1:
            raise ValueError("times must be at least 1")
        if not 0 <= self.probability <= 1:
            raise ValueError("probability must be between 0 and 1")
        if not 200 <= self.status <= 599:
            raise ValueError("status must be an HTTP code from 200 to 599")
        if self.interval_ms < 0:
            raise ValueError("interval_ms must not be negative")
        if self.latency_ms is not None:
            check_latency(self.latency_ms)
        if self.after_accepting and self.kind in {FaultKind.DELAY, FaultKind.TRICKLE}:
            raise ValueError(
                f"after_accepting says nothing about {self.kind}: the rules judge such a call anyway"
            )

    def matches(self, call: Call) -> bool:
        """Whether the call is one of those that the fault names."""
        return (self.campaign is None or self.campaign in call.campaigns) and (
            self.recipient is None or any(self.recipient in values for values in call.recipients.values())
        )

    def answer(self) -> Answer:
        """What an ANSWER fault answers."""
        headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
        if self.body is not None:
            return Answer(self.status, self.body.encode(), headers)
        return Answer(self.status, refused(self.status, _ERRORS.get(self.status, "Refused")).body, headers)


_ERRORS = {
    401: Refusal.INVALID_CREDENTIALS,
    403: "Operation not allowed",
    404: Refusal.NO_SUCH_RESOURCE,
    405: Refusal.WRONG_METHOD,
    409: "Conflict",
    429: Refusal.OVER_LIMIT,
    500: "Internal error",
    502: "Bad gateway",
    503: "Service unavailable, try again later",
    504: "Gateway timeout",
}


class FaultBook:
    """The faults that are set, in order. Safe to use from several threads."""

    def __init__(self, faults: Iterable[Fault], seed: int) -> None:
        self._lock = threading.Lock()
        self._random = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._open: list[_OpenFault] = []
        self.replace(faults)

    def replace(self, faults: Iterable[Fault]) -> None:
        """Remove all faults and set these."""
        with self._lock:
            self._open = [_OpenFault(fault, fault.times) for fault in faults]

    def add(self, fault: Fault) -> None:
        """Set one more fault, after the others."""
        with self._lock:
            self._open.append(_OpenFault(fault, fault.times))

    def claim(self, call: Call) -> Fault | None:
        """The first fault that takes the call, if any; this counts as one of its times."""
        with self._lock:
            for entry in self._open:
                if entry.fault.matches(call) and self._random.random() < entry.fault.probability:
                    self._count(entry)
                    return entry.fault
        return None

    def remaining(self) -> list[tuple[Fault, int | None]]:
        """The faults that are set, each with the number of calls that it will still claim (None: no end)."""
        with self._lock:
            return [(entry.fault, entry.left) for entry in self._open]

    def _count(self, entry: _OpenFault) -> None:
        if entry.left is not None:
            entry.left -= 1
            if entry.left == 0:
                self._open.remove(entry)


@dataclass(slots=True, eq=False)
class _OpenFault:
    fault: Fault
    left: int | None
