"""The vendor's JSON: the only file that knows it.

    parse    what a producer enqueued -> triggers, or InvalidTrigger
    encode   a batch -> the body of one request
    read     the body of an answer -> what it says

Shapes are those of the vendor's page External Trigger API, with the variants of its own samples: ``content``
for ``ExternalTrigger``, ``campaign_id`` holding a list, a body wrapped as ``{"d": [...]}``. What is sent
always uses the names of the page's table.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal

import orjson

from worker.clevertap.shape import (
    CAMPAIGN_ID_MAX,
    CAMPAIGNS_MAX,
    CONTENT_MAX_BYTES,
    CONTENT_MAX_DEPTH,
    EMAIL_MAX_BYTES,
    IDENTITY_MAX_BYTES,
    RECIPIENTS_MAX,
    TIME_END_SECONDS,
    TIME_MIN_SECONDS,
    Body,
    To,
    checked,
    join,
)
from worker.core.answers import Reply, Verdict
from worker.core.errors import InvalidTrigger
from worker.core.model import Kind, Priority, Recipient, Trigger

Endpoint = Literal[1, 2]

#: The vendor's text is kept up to so many characters.
ERROR_MAX_CHARS = 300


def parse(raw: bytes, *, max_bytes: int) -> tuple[Trigger, ...]:
    """The triggers in one entry of the intake stream: one, or as many as ``{"d": [...]}`` wraps.

    Raises InvalidTrigger for everything else, whatever the bytes are. Of a key that an object repeats, the
    last value counts, as in most JSON readers. ``null`` for an optional key of ours means that it is absent.
    """
    if len(raw) > max_bytes:
        raise InvalidTrigger("trigger", f"is {len(raw)} bytes long, the most is {max_bytes}")
    document = _loaded(raw)
    if not isinstance(document, dict) or "d" not in document:
        return (_trigger(document, ""),)
    wrapped = document["d"]
    if len(document) > 1:
        raise InvalidTrigger("d", "must be the only key of its object")
    if not isinstance(wrapped, list) or not wrapped:
        raise InvalidTrigger("d", "must be a list with at least one trigger")
    return tuple(_trigger(one, f"d[{index}]") for index, one in enumerate(wrapped))


def encode(
    endpoint: Endpoint, recipients: Sequence[Recipient], campaigns: Sequence[int], content: bytes
) -> bytes:
    """The body of one request; ``content`` (canonical JSON of the map) is embedded as it is.

    ``/1`` carries one campaign as a string, ``/2`` a list of integers (External Trigger API, Body). How
    many of each one call may carry is the caller's to know. Raises ValueError without any recipient or
    campaign, and for ``/1`` with several campaigns.
    """
    if not recipients or not campaigns:
        raise ValueError("a request needs at least one recipient and one campaign")
    values: dict[Kind, list[str]] = {kind: [] for kind in Kind}
    for recipient in recipients:
        values[recipient.kind].append(recipient.value)
    request: dict[str, object] = {"to": {kind.value: named for kind, named in values.items() if named}}
    if endpoint == 2:
        request["campaign_id_list"] = list(campaigns)
    elif len(campaigns) == 1:
        request["campaign_id"] = str(campaigns[0])
    else:
        raise ValueError("/1 carries exactly one campaign")
    request["ExternalTrigger"] = orjson.Fragment(content)
    return orjson.dumps(request)


def path(endpoint: Endpoint) -> str:
    """Where a request goes, below the region's host."""
    return f"/{endpoint}/send/externaltrigger.json"


def headers(account_id: str, passcode: str, token: str | None) -> dict[str, str]:
    """All headers. Only ``/2`` needs the token, None leaves it out (External Trigger API, Headers)."""
    named = {
        "X-CleverTap-Account-Id": account_id,
        "X-CleverTap-Passcode": passcode,
        "Content-Type": "application/json",
    }
    if token is not None:
        named["X-CleverTap-Token"] = token
    return named


def read(answer: bytes) -> Reply:
    """What the body of an answer says. Total: what cannot be read is ``Verdict.UNREADABLE``.

    ``dropped`` holds the campaigns that a partial answer lists in brackets (External Trigger API, Answers).
    ``error`` is one line of at most ERROR_MAX_CHARS characters, with everything masked that looks like an
    e-mail address or a telephone number with its plus sign.
    """
    try:
        said = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return Reply(Verdict.UNREADABLE, f"not JSON ({len(answer)} bytes)" if answer else "empty body")
    if not isinstance(said, dict):
        return Reply(Verdict.UNREADABLE, "not a JSON object")
    status, text = said.get("status"), said.get("error")
    verdict = _VERDICTS.get(status.strip().lower(), Verdict.UNREADABLE) if isinstance(status, str) else None
    if text is None and verdict is not Verdict.SUCCESS:
        text = said.get("message")
    if not isinstance(text, str):
        text = _as_text(text)
    dropped = _listed(text) if verdict is Verdict.PARTIAL else frozenset[int]()
    return Reply(verdict or Verdict.UNREADABLE, _presentable(text), dropped)


# --- parse: from the checked shape to a trigger


def _loaded(raw: bytes) -> object:
    try:
        document: object = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        # NaN, lone surrogates, invalid UTF-8 and nesting beyond 1024 levels end here too.
        position = error.pos
    else:
        return document
    # Outside the handler: as its context, the decoder's error would carry the whole document along.
    raise InvalidTrigger("trigger", f"is not JSON (at character {position})")


def _trigger(document: object, at: str) -> Trigger:
    body = checked(document, at)
    recipients = _recipients(body["to"], at)
    content = _content(body, at)
    send_at_ms = _epoch_ms(body.get("send_at"), at, "send_at")
    expires_at_ms = _epoch_ms(body.get("expires_at"), at, "expires_at")
    if send_at_ms is not None and expires_at_ms is not None and expires_at_ms <= send_at_ms:
        raise InvalidTrigger(join(at, "expires_at"), "must be later than send_at")
    return Trigger(
        recipients=recipients,
        campaigns=_campaigns(body, at),
        content=content,
        digest=_digest(content),
        id=body.get("id"),
        priority=_PRIORITIES[body.get("priority")],
        dedupe_key=body.get("dedupe_key"),
        dedupe_window_seconds=body.get("dedupe_window"),
        send_at_ms=send_at_ms,
        expires_at_ms=expires_at_ms,
        source=body.get("source"),
    )


def _recipients(to: To, at: str) -> tuple[Recipient, ...]:
    recipients: list[Recipient] = []
    for kind, name, max_bytes in _KINDS:
        values = to.get(name)
        if not values:
            continue
        # Pydantic has counted characters; only values that are not ASCII can have more bytes.
        if not all(map(str.isascii, values)):
            for index, value in enumerate(values):
                if len(value.encode()) > max_bytes:
                    raise InvalidTrigger(join(at, "to", name, index), f"is longer than {max_bytes} bytes")
        recipients += [Recipient(kind, value) for value in values]
    if not recipients:
        raise InvalidTrigger(join(at, "to"), "names no recipient")
    if len(recipients) > RECIPIENTS_MAX:
        why = f"names {len(recipients)} recipients, the most is {RECIPIENTS_MAX}"
        raise InvalidTrigger(join(at, "to"), why)
    return tuple(recipients)


def _campaigns(body: Body, at: str) -> tuple[int, ...]:
    name, value = _one_of(body, "campaign_id", "campaign_id_list", at)
    if not isinstance(value, list):
        if name == "campaign_id_list":
            raise InvalidTrigger(join(at, name), "must be a list")
        return (_campaign(value, at, name),)
    if not value:
        raise InvalidTrigger(join(at, name), "must not be empty")
    distinct = sorted({_campaign(one, at, name, index) for index, one in enumerate(value)})
    if len(distinct) > CAMPAIGNS_MAX:
        raise InvalidTrigger(join(at, name), f"names {len(distinct)} campaigns, the most is {CAMPAIGNS_MAX}")
    return tuple(distinct)


def _campaign(value: object, at: str, *steps: str | int) -> int:
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        value = int(value)
    # type(), because True is an int to isinstance.
    if type(value) is not int or not 1 <= value <= CAMPAIGN_ID_MAX:
        raise InvalidTrigger(join(at, *steps), "must be an integer from 1 to 2^47, or its decimal digits")
    return value


def _content(body: Body, at: str) -> bytes:
    name, value = _one_of(body, "ExternalTrigger", "content", at)
    if not isinstance(value, dict):
        raise InvalidTrigger(join(at, name), "must be an object")
    if fault := _leaf_fault(value, 1):
        steps, why = fault
        raise InvalidTrigger(join(at, name, *reversed(steps)), why)
    canonical = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    if len(canonical) > CONTENT_MAX_BYTES:
        raise InvalidTrigger(join(at, name), f"is longer than {CONTENT_MAX_BYTES} bytes")
    return canonical


@lru_cache(maxsize=32)
def _digest(content: bytes) -> str:
    """As the model says. Most triggers of a campaign share their content."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _leaf_fault(value: dict[str, object] | list[object], depth: int) -> tuple[list[str | int], str] | None:
    """The first thing wrong inside the map, with the steps to it from the inside out; None if all is well."""
    if isinstance(value, dict) and "" in value:
        return [], "has an empty key"
    leaves = value.values() if isinstance(value, dict) else value
    if set(map(type, leaves)) <= _ONLY_STR:
        return None
    for step, leaf in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(leaf, str):
            continue
        if not isinstance(leaf, dict | list):
            return [step], "must be a string (or a list or object of strings)"
        if depth == CONTENT_MAX_DEPTH:
            return [step], f"is nested deeper than {CONTENT_MAX_DEPTH} levels"
        if fault := _leaf_fault(leaf, depth + 1):
            fault[0].append(step)
            return fault
    return None


def _epoch_ms(value: object, at: str, name: str) -> int | None:
    if value is None:
        return None
    seconds: float
    if isinstance(value, str):
        instant = _instant(value)
        if instant is None:
            why = "is neither ISO 8601 with an offset (2026-01-31T18:00:00+05:30) nor epoch seconds"
            raise InvalidTrigger(join(at, name), why)
        seconds = instant.timestamp()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value
    else:
        raise InvalidTrigger(join(at, name), "must be a time: ISO 8601 with an offset, or epoch seconds")
    if not TIME_MIN_SECONDS <= seconds < TIME_END_SECONDS:
        raise InvalidTrigger(join(at, name), "is outside the years 2000 to 2053 (epoch times are in seconds)")
    return round(seconds * 1000)


def _instant(text: str) -> datetime | None:
    if not _ISO_WITH_OFFSET.fullmatch(
        text
    ):  # fromisoformat takes more: dates alone, weeks, times without offset
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:  # a month 13, a leap second
        return None


def _one_of(body: Body, name: str, other: str, at: str) -> tuple[str, Any]:
    keys: Mapping[str, Any] = body
    if name in keys and other in keys:
        raise InvalidTrigger(join(at, other), f"must not be given together with {name}")
    if name not in keys and other not in keys:
        raise InvalidTrigger(join(at, name), "is missing")
    return (name, keys[name]) if name in keys else (other, keys[other])


_KINDS: tuple[tuple[Kind, Literal["email", "identity", "objectId"], int], ...] = (
    (Kind.EMAIL, "email", EMAIL_MAX_BYTES),
    (Kind.IDENTITY, "identity", IDENTITY_MAX_BYTES),
    (Kind.OBJECT_ID, "objectId", IDENTITY_MAX_BYTES),
)
_PRIORITIES: dict[str | None, Priority] = {None: Priority.NORMAL, **{each.value: each for each in Priority}}
_ONLY_STR = frozenset({str})
_DECIMAL = re.compile(r"[1-9][0-9]{0,14}")
_ISO_WITH_OFFSET = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ]"
    r"[0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]{1,9})?)?"
    r"(Z|[+-][0-9]{2}(:?[0-9]{2})?)"
)


# --- read: from the vendor's text to what may be shown


_VERDICTS = {verdict.value: verdict for verdict in (Verdict.SUCCESS, Verdict.PARTIAL, Verdict.FAIL)}
_BRACKETED_IDS = re.compile(r"\[([0-9,;\s\"']+)\]")
_ID = re.compile(r"(?<![0-9])[0-9]{1,15}(?![0-9])")
_WORD = re.compile(r"[^\s\"'`,;:<>()\[\]{}=|/\\]+")
_TELEPHONE = re.compile(r"\+[0-9][0-9.-]{6,}")


def _listed(text: str) -> frozenset[int]:
    """The ids in the first brackets that hold nothing but ids."""
    found = _BRACKETED_IDS.search(text)
    return frozenset(int(one) for one in _ID.findall(found[1])) if found else frozenset()


def _as_text(value: object) -> str:
    if value is None:
        return ""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # nested deeper than it writes
        return "an error that is not text"


def _presentable(text: str) -> str:
    masked = _WORD.sub(_mask, text)
    one_line = " ".join("".join(char if char.isprintable() else " " for char in masked).split())
    return one_line[:ERROR_MAX_CHARS]


def _mask(word: re.Match[str]) -> str:
    found = word[0]
    return "[address]" if "@" in found or "%40" in found or _TELEPHONE.fullmatch(found) else found
