"""From what came back to what it means for the batch: one table, read from top to bottom.

``DECISION_TABLE`` *is* the rule: ``decide`` takes the first row that fits, and the documentation is printed
from the same rows, so the two cannot differ.

Sources named in the table: "API" is the vendor's page External Trigger API with its tables of answers,
"Errors" its page API Errors, "Limits" its page API Request Limit, "RFC" is RFC 9110 (HTTP semantics),
"ours" is a choice of this project where the vendor says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from worker.core import refusals
from worker.core.answers import Answer, NoAnswer, NotSent, Verdict
from worker.core.decisions import By, Decision, costs_an_attempt, describe
from worker.core.model import Reason
from worker.core.rows import (
    SUCCESSFUL,
    Attempt,
    Row,
    accept,
    accept_the_rest,
    lists_ours,
    park_account,
    park_campaign,
    reject,
    retry,
    saw,
    several_campaigns,
    several_deliveries,
    several_recipients,
    split,
    unsure,
)


def decide(answer: Answer, campaigns: tuple[int, ...], recipients: int) -> Decision:
    """What ``answer`` means for a batch of these campaigns and so many recipients, at least one of each.

    Total: every answer gives a decision, the last row fits all that no other row fits.
    """
    attempt = Attempt(answer, campaigns, recipients)
    return next(row.then(attempt) for row in DECISION_TABLE if row.fits(attempt))


def decision_table_markdown() -> str:
    """The table for the documentation; decision and cost are computed from each row's example."""
    lines = ["| answer | meaning | decision | costs an attempt | source |", "|---|---|---|---|---|"]
    for row in DECISION_TABLE:
        decision = row.then(row.example)
        cost = "yes" if costs_an_attempt(decision) else "no"
        lines.append(f"| {row.answer} | {row.meaning} | {describe(decision)} | {cost} | {row.source} |")
    return "\n".join(lines) + "\n"


_SAID_YES = frozenset({Verdict.SUCCESS, Verdict.PARTIAL})
_C1, _C2, _MANY = (65,), (65, 66), 1000


def _refusal(
    text: re.Pattern[str] | None,
    words: str,
    meaning: str,
    then: Callable[[Attempt], Decision],
    *,
    also: Callable[[Attempt], bool] | None = None,
    of: str = "",
    campaigns: tuple[int, ...] = _C1,
    recipients: int = _MANY,
) -> Row:
    """A row for one cause of a refusal."""
    shown = f"`{words}`" if text is not None else "any other text"
    return Row(
        f"400, or 200 `fail`: {shown}{', ' + of if of else ''}",
        meaning,
        then,
        "API" if text is not None else "ours",
        saw(400, Verdict.FAIL, words, campaigns=campaigns, recipients=recipients),
        text=text,
        also=lambda attempt: attempt.refused and (also is None or also(attempt)),
    )


#: Read from top to bottom; the first row that fits decides.
DECISION_TABLE: tuple[Row, ...] = (
    Row(
        "connection not made (refused, name not found, TLS, connect timeout, no free connection)",
        "surely not sent",
        retry(Reason.NOT_CONNECTED),
        "ours",
        Attempt(NotSent("ConnectError: no connection was made"), _C1, 1),
        NotSent,
    ),
    Row(
        "no whole answer (cut, timed out, deadline)",
        "may have been sent",
        unsure(Reason.NO_ANSWER),
        "ours",
        Attempt(NoAnswer("ReadTimeout: no whole answer came"), _C1, 1),
        NoAnswer,
    ),
    Row(
        "2xx `success`",
        "queued for every campaign of the call",
        accept,
        "API",
        saw(200, Verdict.SUCCESS),
        http=SUCCESSFUL,
        verdicts=frozenset({Verdict.SUCCESS}),
    ),
    Row(
        "2xx `partial` that lists campaigns of the call",
        "the listed campaigns were dropped for every recipient, the others were queued",
        accept_the_rest,
        "API",
        saw(
            200, Verdict.PARTIAL, "not added to the processing queue", dropped=frozenset({65}), campaigns=_C2
        ),
        http=SUCCESSFUL,
        verdicts=frozenset({Verdict.PARTIAL}),
        also=lists_ours,
    ),
    Row(
        "2xx `partial` that lists none of them",
        "some campaigns were dropped, nobody knows which",
        unsure(Reason.UNREADABLE_ANSWER),
        "ours",
        saw(200, Verdict.PARTIAL, campaigns=_C2),
        http=SUCCESSFUL,
        verdicts=frozenset({Verdict.PARTIAL}),
    ),
    Row(
        "2xx without a readable status",
        "may have been accepted",
        unsure(Reason.UNREADABLE_ANSWER),
        "ours",
        saw(200),
        http=SUCCESSFUL,
        verdicts=frozenset({Verdict.UNREADABLE}),
    ),
    Row(
        "any other status whose body says `success` or `partial`",
        "contradicts itself: may have been accepted",
        unsure(Reason.UNREADABLE_ANSWER),
        "ours",
        saw(500, Verdict.SUCCESS),
        verdicts=_SAID_YES,
    ),
    _refusal(
        refusals.CREDENTIALS,
        "Invalid Credentials",
        "wrong credentials or wrong region's host",
        park_account(Reason.CREDENTIALS),
    ),
    _refusal(
        refusals.NOT_ENABLED,
        "External Trigger is not enabled for the account",
        "feature not enabled",
        park_account(Reason.NOT_ENABLED),
    ),
    _refusal(
        refusals.THROTTLED,
        "Too many concurrent requests",
        "too many requests in flight",
        retry(Reason.THROTTLED, counts=False),
    ),
    _refusal(
        refusals.CAMPAIGN_MISSING,
        "Campaign does not exist",
        "at least one campaign is unknown",
        split(Reason.CAMPAIGN_MISSING, By.CAMPAIGNS),
        also=several_campaigns,
        of="several campaigns",
        campaigns=_C2,
    ),
    _refusal(
        refusals.CAMPAIGN_MISSING,
        "Campaign does not exist",
        "the campaign is unknown",
        reject(Reason.CAMPAIGN_MISSING),
        of="one campaign",
    ),
    _refusal(
        refusals.CAMPAIGN_NOT_READY,
        "Campaign is not ready",
        "at least one campaign is stopped, not ready or unapproved",
        split(Reason.CAMPAIGN_NOT_READY, By.CAMPAIGNS),
        also=several_campaigns,
        of="several campaigns",
        campaigns=_C2,
    ),
    _refusal(
        refusals.CAMPAIGN_NOT_READY,
        "Campaign has no valid status",
        "the campaign is stopped, not ready or unapproved",
        park_campaign(Reason.CAMPAIGN_NOT_READY),
        of="one campaign",
    ),
    _refusal(
        refusals.CAMPAIGN_EMPTY,
        "Campaign id is empty",
        "the request is wrong as a whole",
        reject(Reason.REFUSED),
    ),
    _refusal(
        refusals.TO_WRONG,
        "'to' is missing",
        "`to` is missing, empty, or holds too many: the request is wrong as a whole",
        reject(Reason.REFUSED),
    ),
    _refusal(
        refusals.INVALID_RECIPIENTS,
        "Invalid recipients",
        "at least one recipient is invalid",
        split(Reason.INVALID_RECIPIENT, By.RECIPIENTS),
        also=several_recipients,
        of="several recipients",
    ),
    _refusal(
        refusals.INVALID_RECIPIENTS,
        "Invalid recipients",
        "the recipient is invalid",
        reject(Reason.INVALID_RECIPIENT),
        of="one recipient",
        recipients=1,
    ),
    _refusal(
        None,
        "Bad request",
        "may be about only some",
        split(Reason.REFUSED, By.BOTH),
        also=several_deliveries,
        of="several deliveries",
    ),
    _refusal(
        None,
        "Bad request",
        "refused",
        reject(Reason.REFUSED),
        of="one delivery",
        recipients=1,
    ),
    Row(
        "401",
        "wrong credentials or wrong region's host",
        park_account(Reason.CREDENTIALS),
        "Errors",
        saw(401),
        http=frozenset({401}),
    ),
    Row(
        "403",
        "operation not allowed",
        park_account(Reason.NOT_ENABLED),
        "Errors",
        saw(403),
        http=frozenset({403}),
    ),
    Row(
        "404, 405, 3xx",
        "no such resource, wrong method, moved: every call would fail alike",
        park_account(Reason.WRONG_CALL),
        "Errors",
        saw(404),
        http=frozenset({404, 405, *range(300, 400)}),
    ),
    Row(
        "408",
        "the server gave up waiting; may have been sent",
        unsure(Reason.NO_ANSWER),
        "RFC",
        saw(408),
        http=frozenset({408}),
    ),
    Row(
        "409",
        "conflict",
        retry(Reason.CONFLICT),
        "Errors",
        saw(409),
        http=frozenset({409}),
    ),
    Row(
        "413, several deliveries",
        "the body is too large",
        split(Reason.TOO_LARGE, By.BOTH),
        "RFC",
        saw(413, recipients=_MANY),
        http=frozenset({413}),
        also=several_deliveries,
    ),
    Row(
        "413, one delivery",
        "the body is too large",
        reject(Reason.TOO_LARGE),
        "RFC",
        saw(413),
        http=frozenset({413}),
    ),
    Row(
        "429",
        "too many requests in flight; `Retry-After` is honoured if it comes",
        retry(Reason.THROTTLED, counts=False),
        "Limits",
        saw(429),
        http=frozenset({429}),
    ),
    Row(
        "any other 4xx",
        "refused",
        reject(Reason.REFUSED),
        "ours",
        saw(422),
        http=range(400, 500),
    ),
    Row(
        "504",
        "a gateway gave up waiting; may have been accepted behind it",
        unsure(Reason.NO_ANSWER),
        "RFC",
        saw(504),
        http=frozenset({504}),
    ),
    Row(
        "500, 502, 503, any other 5xx",
        "error inside the API, or unavailable: documented as not accepted",
        retry(Reason.SERVER_ERROR),
        "API",
        saw(503),
        http=range(500, 600),
    ),
    Row(
        "anything else",
        "no status that HTTP knows: may have been accepted",
        unsure(Reason.UNREADABLE_ANSWER),
        "ours",
        saw(999),
    ),
)
