"""The shape of a trigger: its keys, types and bounds, checked in one pass by pydantic's compiled validator.

What a schema cannot say (bytes, sums, campaigns, times, the map) is checked in ``wire.py``.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Required

from pydantic import (
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    with_config,
)
from typing_extensions import TypedDict  # pydantic refuses typing's own before Python 3.12

from worker.core.errors import InvalidTrigger

#: The most recipients that one trigger may name, over all kinds.
RECIPIENTS_MAX = 100_000
#: The most distinct campaigns that one trigger may name.
CAMPAIGNS_MAX = 100
#: The greatest campaign id.
CAMPAIGN_ID_MAX = 2**47
#: The longest identity or objectId, in bytes of UTF-8.
IDENTITY_MAX_BYTES = 1024
#: The longest e-mail address, in bytes of UTF-8 (local part 64, @, domain 255: RFC 5321).
EMAIL_MAX_BYTES = 320
#: The largest ``ExternalTrigger``, in bytes of its canonical JSON.
CONTENT_MAX_BYTES = 65_536
#: The deepest ``ExternalTrigger``: a flat map has depth 1.
CONTENT_MAX_DEPTH = 8
#: The longest ``dedupe_window``, in seconds: 30 days.
DEDUPE_WINDOW_MAX_SECONDS = 2_592_000
#: The bounds of ``send_at`` and ``expires_at``, epoch seconds: 2000 to 2053 (a cell's time ends in 2054).
TIME_MIN_SECONDS, TIME_END_SECONDS = 946_684_800, 2_650_838_400

_STRICT = ConfigDict(extra="forbid", strict=True)

# Pydantic counts characters; wire.py counts the bytes of those few values that are not ASCII.
_Identity = Annotated[str, StringConstraints(min_length=1, max_length=IDENTITY_MAX_BYTES)]
_Email = Annotated[
    str,
    StringConstraints(
        min_length=1, max_length=EMAIL_MAX_BYTES, pattern=r"^[^@\s\p{Cc}\p{Cf}]+@[^@\s\p{Cc}\p{Cf}]+$"
    ),
]
_Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]


@with_config(_STRICT)
class To(TypedDict, total=False):
    """``to``: who it is for, at least one over all kinds."""

    email: Annotated[list[_Email], FailFast()]
    identity: Annotated[list[_Identity], FailFast()]
    objectId: Annotated[list[_Identity], FailFast()]


@with_config(_STRICT)
class Body(TypedDict, total=False):
    """The vendor's body and our keys. What is ``Any`` here is checked in ``wire.py``."""

    to: Required[To]
    campaign_id: Any
    campaign_id_list: Any
    ExternalTrigger: Any
    content: Any
    id: _Name | None
    priority: Literal["urgent", "normal", "bulk"] | None
    dedupe_key: _Name | None
    dedupe_window: Annotated[int, Field(ge=0, le=DEDUPE_WINDOW_MAX_SECONDS)] | None
    send_at: Any
    expires_at: Any
    source: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None


_validate = TypeAdapter(Body).validator.validate_python
_BODY_KEYS, _TO_KEYS = tuple(Body.__annotations__), tuple(To.__annotations__)


def checked(document: object, at: str) -> Body:
    """``document`` as a body; ``at`` is where it was found. Raises InvalidTrigger with the first fault."""
    try:
        body: Body = _validate(document)
    except ValidationError as error:
        fault = _fault(error, at)
    else:
        return body
    raise fault  # outside the handler: as its context, pydantic's error would carry the value along


def _fault(error: ValidationError, at: str) -> InvalidTrigger:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    steps, kind = first["loc"], first["type"]
    if kind == "extra_forbidden":
        unknown, known = str(steps[-1]), _TO_KEYS if len(steps) > 1 else _BODY_KEYS
        near = get_close_matches(unknown[:64], known, n=1)
        if known is _TO_KEYS and not near:
            steps = (*steps[:-1], "?")  # a recipient where the kind belongs: it is not shown
        return InvalidTrigger(
            join(at, *steps), "is not a known key" + (f", did you mean {near[0]}?" if near else "")
        )
    if kind == "string_too_long":  # pydantic's own sentence ends in the bound: "at most 64 characters"
        return InvalidTrigger(join(at, *steps), "is longer than " + first["msg"].rpartition(" at most ")[2])
    return InvalidTrigger(join(at, *steps), _WHY.get(kind, "is not valid"))


def join(at: str, *steps: str | int) -> str:
    """The path as operators read it. A key that is not like a name may be anything, even an address."""
    for step in steps:
        if isinstance(step, int):
            at += f"[{step}]"
        else:
            shown = step if _LIKE_A_NAME.fullmatch(step) else "?"
            at += f".{shown}" if at else shown
    return at or "trigger"


_LIKE_A_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_WHY = {
    "dict_type": "must be an object",
    "list_type": "must be a list",
    "string_type": "must be a string",
    "string_too_short": "must not be empty",
    "string_pattern_mismatch": "is not an e-mail address",
    "missing": "is missing",
    "literal_error": "must be urgent, normal or bulk",
    "int_type": "must be an integer",
    "greater_than_equal": "must not be negative",
    "less_than_equal": f"must not be more than {DEDUPE_WINDOW_MAX_SECONDS}",
}
