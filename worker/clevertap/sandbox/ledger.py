"""The ledger: an independent record of what the sandbox received and what it accepted.

The counts per pair (recipient x campaign) cover everything since the start or the last reset; of the requests
themselves only the newest are kept. A call that repeats no pair costs a few dictionary operations, however
many recipients it has, so some millions of pairs are no burden.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import orjson

from .faults import FaultKind
from .rules import Call, read_call


class Verdict(StrEnum):
    """What became of a request, whether or not its client heard of it."""

    ACCEPTED = "accepted"  #: queued for all its campaigns and recipients
    PARTIAL = "partial"  #: queued for the campaigns that were not dropped
    REFUSED = "refused"  #: refused by the rules
    OVER_LIMIT = "over_limit"  #: refused with 429: one request too many in flight
    FAILED = "failed"  #: answered by a fault; not accepted
    HUNG = "hung"  #: never answered, because of a fault; not accepted
    CUT = "cut"  #: its connection was closed, because of a fault; not accepted
    INCOMPLETE = "incomplete"  #: the client left before it had sent the whole body; not accepted


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request, as the ledger keeps it. Holds no credentials."""

    #: 1 for the first request since the start or the last reset.
    sequence: int
    #: When the headers had been read; epoch milliseconds.
    received_at_ms: int
    account: str
    endpoint: str
    verdict: Verdict
    #: HTTP code of the answer. None: no answer was meant to be given.
    status: int | None
    #: The campaigns for which the request's recipients were accepted.
    accepted_campaigns: tuple[str, ...] = ()
    #: The fault that claimed the request.
    fault: FaultKind | None = None
    #: `content_digest` of the personalisation map. None: there is none.
    content_digest: str | None = None
    #: The body as it came.
    body: bytes = field(default=b"", repr=False)

    @property
    def campaigns(self) -> tuple[str, ...]:
        """The campaign ids that the body names."""
        return self._call.campaigns

    @property
    def recipients(self) -> Mapping[str, list[str]]:
        """Kind -> identity values, as in the body's `to`."""
        return self._call.recipients

    @property
    def json(self) -> object:
        """The parsed body; None if it is not JSON."""
        return self._call.body

    @property
    def _call(self) -> Call:
        # Parsed anew when somebody asks: kept, it would take several times the room of the body.
        return read_call(self.endpoint, self.body)


@dataclass(frozen=True, slots=True)
class AcceptedPair:
    """One recipient x one campaign that was accepted at least once."""

    account: str
    campaign: str
    kind: str
    recipient: str = field(repr=False)
    #: The content digest of each time it was accepted, in order.
    contents: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many times it was accepted."""
        return len(self.contents)


@dataclass(frozen=True, slots=True)
class Totals:
    """The ledger's counts since the start or the last reset."""

    #: All requests.
    requests: int
    #: Requests of each verdict that occurred.
    verdicts: Mapping[Verdict, int]
    #: Pairs (recipient x campaign) accepted, each time counted.
    accepted: int
    #: Different pairs accepted.
    pairs: int
    #: How many of `accepted` repeat a pair with the same content.
    duplicates: int
    #: Account -> the most requests that it had in flight at once, those over the limit included.
    max_in_flight: Mapping[str, int]


def content_digest(content: object) -> str:
    """16 hex digits that are equal for equal JSON values, whatever the order of their keys."""
    canonical = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(canonical, digest_size=8).hexdigest()


#: Account, campaign and kind; under each group, identity value -> content digests.
_Group = tuple[str, str, str]


class Ledger:
    """The record of one sandbox. Safe to use from several threads."""

    def __init__(self, requests_kept: int) -> None:
        self._changed = threading.Condition()
        self._newest: deque[RequestRecord] = deque(maxlen=requests_kept)
        self._clear()

    def reset(self) -> None:
        """Forget everything."""
        with self._changed:
            self._clear()
            self._changed.notify_all()

    def totals(self) -> Totals:
        """The counts at this moment."""
        with self._changed:
            return self._totals()

    def times_accepted(self, campaign: str, recipient: str) -> int:
        """How many times this pair was accepted, over all accounts and kinds of recipients."""
        with self._changed:
            return sum(
                len(contents.get(recipient, ()))
                for group, contents in self._accepted.items()
                if group[1] == campaign
            )

    def pairs(self) -> Iterator[AcceptedPair]:
        """Every pair that was accepted. Pairs accepted meanwhile may or may not be among them."""
        with self._changed:
            groups = list(self._accepted)
        for group in groups:
            with self._changed:
                contents = list(self._accepted.get(group, {}).items())
            for recipient, digests in contents:
                yield AcceptedPair(*group, recipient, digests)

    def duplicates(self) -> list[AcceptedPair]:
        """The pairs that were accepted more than once with the same content."""
        return [pair for pair in self.pairs() if len(set(pair.contents)) < pair.count]

    def requests(self, limit: int | None = None) -> list[RequestRecord]:
        """The newest requests, at most `limit`, in the order in which they were recorded."""
        with self._changed:
            kept = list(self._newest)
        return kept if limit is None else kept[max(0, len(kept) - limit) :]

    def max_in_flight(self, account: str) -> int:
        """The most requests that the account had in flight at once, those over the limit included."""
        with self._changed:
            return self._max_in_flight.get(account, 0)

    def wait_for(self, condition: Callable[[Totals], bool], timeout_seconds: float = 10) -> Totals:
        """Block until the condition holds, and return the totals for which it did; raises `TimeoutError`."""
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self._totals()), timeout_seconds):
                raise TimeoutError(
                    f"the ledger did not come to it within {timeout_seconds} s: {self._totals()}"
                )
            return self._totals()

    def note_in_flight(self, account: str, requests: int) -> None:
        """Record that the account now has this many requests in flight."""
        with self._changed:
            if requests > self._max_in_flight.get(account, 0):
                self._max_in_flight[account] = requests
                self._changed.notify_all()

    def record(
        self,
        *,
        received_at_ms: int,
        account: str,
        call: Call,
        body: bytes = b"",
        verdict: Verdict,
        status: int | None,
        accepted_campaigns: tuple[str, ...] = (),
        fault: FaultKind | None = None,
    ) -> None:
        """Enter one request, and the pairs that it was accepted for."""
        digest = None if call.content is None else content_digest(call.content)
        with self._changed:
            self._requests += 1
            self._verdicts[verdict] += 1
            self._newest.append(
                RequestRecord(
                    sequence=self._requests,
                    received_at_ms=received_at_ms,
                    account=account,
                    endpoint=call.endpoint,
                    verdict=verdict,
                    status=status,
                    accepted_campaigns=accepted_campaigns,
                    fault=fault,
                    content_digest=digest,
                    body=body,
                )
            )
            for campaign in accepted_campaigns:
                for kind, recipients in call.recipients.items():
                    self._accept((account, campaign, kind), recipients, digest or "")
            self._changed.notify_all()

    def _accept(self, group: _Group, recipients: list[str], digest: str) -> None:
        contents = self._accepted.setdefault(group, {})
        self._accepted_count += len(recipients)
        once = (digest,)  # one tuple for the whole call: a pair costs its key and a pointer
        fresh = dict.fromkeys(recipients, once)
        if len(fresh) == len(recipients) and contents.keys().isdisjoint(fresh):
            contents.update(fresh)
            self._pairs += len(fresh)
            return
        for recipient in recipients:
            earlier = contents.get(recipient, ())
            self._pairs += not earlier
            self._duplicates += digest in earlier
            contents[recipient] = earlier + once

    def _totals(self) -> Totals:
        return Totals(
            requests=self._requests,
            verdicts=dict(self._verdicts),
            accepted=self._accepted_count,
            pairs=self._pairs,
            duplicates=self._duplicates,
            max_in_flight=dict(self._max_in_flight),
        )

    def _clear(self) -> None:
        self._newest.clear()
        self._accepted: dict[_Group, dict[str, tuple[str, ...]]] = {}
        self._max_in_flight: dict[str, int] = {}
        self._verdicts: Counter[Verdict] = Counter()
        self._requests = 0
        self._accepted_count = 0
        self._pairs = 0
        self._duplicates = 0
