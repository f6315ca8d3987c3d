"""What one line of the decision table is made of: when it fits, and what then."""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from dataclasses import dataclass

from worker.core.answers import Answer, Answered, NoAnswer, NotSent, Reply, Verdict
from worker.core.decisions import Accept, By, Decision, Park, Reject, Retry, Split, Unsure
from worker.core.model import Reason

#: HTTP statuses that say success. The body may still say otherwise.
SUCCESSFUL = range(200, 300)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt as the table sees it."""

    answer: Answer
    campaigns: tuple[int, ...]
    recipients: int

    @property
    def http(self) -> int:
        """The HTTP status; 0 where nothing answered."""
        return self.answer.status if isinstance(self.answer, Answered) else 0

    @property
    def reply(self) -> Reply:
        """What the body says; unreadable where nothing answered."""
        return self.answer.reply if isinstance(self.answer, Answered) else Reply(Verdict.UNREADABLE)

    @property
    def text(self) -> str:
        """The vendor's text, or why there is none."""
        return self.answer.reply.error if isinstance(self.answer, Answered) else self.answer.why

    @property
    def retry_after_ms(self) -> int | None:
        """``Retry-After``, if it came."""
        if not isinstance(self.answer, Answered) or self.answer.retry_after_seconds is None:
            return None
        # In this order a value that is not a number becomes the bound.
        return int(max(0.0, min(1e9, self.answer.retry_after_seconds)) * 1000)

    @property
    def refused(self) -> bool:
        """Refused, the cause in the text: HTTP 400, or a 2xx that says ``fail`` (a sibling endpoint does)."""
        return self.http == 400 or (self.http in SUCCESSFUL and self.reply.verdict is Verdict.FAIL)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: when it fits, what then, and an example that documents and tests it."""

    answer: str  #: what came back, for the reader
    meaning: str
    then: Callable[[Attempt], Decision]
    source: str
    example: Attempt
    kind: type[Answered | NotSent | NoAnswer] = Answered
    http: Container[int] | None = None  #: None: any
    verdicts: Container[Verdict] = frozenset(Verdict)
    text: re.Pattern[str] | None = None  #: searched in the vendor's text
    also: Callable[[Attempt], bool] | None = None  #: what the columns above cannot say

    def fits(self, attempt: Attempt) -> bool:
        """Whether every column agrees with the attempt."""
        return (
            isinstance(attempt.answer, self.kind)
            and (self.http is None or attempt.http in self.http)
            and attempt.reply.verdict in self.verdicts
            and (self.text is None or self.text.search(attempt.text) is not None)
            and (self.also is None or self.also(attempt))
        )


def saw(
    status: int,
    verdict: Verdict = Verdict.UNREADABLE,
    error: str = "",
    *,
    dropped: frozenset[int] = frozenset(),
    campaigns: tuple[int, ...] = (65,),
    recipients: int = 1,
) -> Attempt:
    """An example: this answer to a batch of so many campaigns and recipients."""
    return Attempt(Answered(status, Reply(verdict, error, dropped)), campaigns, recipients)


# What a row may say. Each takes the attempt, so that a row reads as a sentence.


def accept(attempt: Attempt) -> Decision:
    """Queued for every campaign."""
    return Accept(frozenset(), attempt.http, attempt.text)


def accept_the_rest(attempt: Attempt) -> Decision:
    """Queued, but not for the campaigns that the text lists."""
    return Accept(attempt.reply.dropped.intersection(attempt.campaigns), attempt.http, attempt.text)


def reject(reason: Reason) -> Callable[[Attempt], Decision]:
    """Refused for good."""
    return lambda attempt: Reject(reason, attempt.http, attempt.text)


def retry(reason: Reason, *, counts: bool = True) -> Callable[[Attempt], Decision]:
    """Not accepted; later perhaps."""
    return lambda attempt: Retry(reason, counts, attempt.retry_after_ms, attempt.http, attempt.text)


def unsure(reason: Reason) -> Callable[[Attempt], Decision]:
    """Nobody knows."""
    return lambda attempt: Unsure(reason, attempt.http, attempt.text)


def split(reason: Reason, by: By) -> Callable[[Attempt], Decision]:
    """Refused, perhaps for only some."""
    return lambda attempt: Split(reason, by, attempt.http, attempt.text)


def park_account(reason: Reason) -> Callable[[Attempt], Decision]:
    """Refused for all that the account sends."""
    return lambda attempt: Park(reason, None, attempt.http, attempt.text)


def park_campaign(reason: Reason) -> Callable[[Attempt], Decision]:
    """Refused for all that the campaign sends."""
    return lambda attempt: Park(reason, frozenset(attempt.campaigns), attempt.http, attempt.text)


# When a row fits, beyond its columns.


def lists_ours(attempt: Attempt) -> bool:
    """The answer lists at least one campaign of the batch."""
    return not attempt.reply.dropped.isdisjoint(attempt.campaigns)


def several_campaigns(attempt: Attempt) -> bool:
    """There are campaigns to split."""
    return len(attempt.campaigns) > 1


def several_recipients(attempt: Attempt) -> bool:
    """There are recipients to split."""
    return attempt.recipients > 1


def several_deliveries(attempt: Attempt) -> bool:
    """There is something to split."""
    return attempt.recipients * len(attempt.campaigns) > 1
