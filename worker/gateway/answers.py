"""What the gateway answers, in the shapes of the vendor's (External Trigger API, Answers; API Errors).

``code`` and ``error`` stand beside ``status`` as the vendor has them. The words of 200, of 429 over the limit
and of wrong credentials are its own; where Volley has more to say, the words are Volley's.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import orjson
from aiohttp import web

#: Seconds after which a caller that was refused for a while may try again.
RETRY_AFTER = {"Retry-After": "1"}
#: The same where work has to be done first.
RETRY_AFTER_WORK = {"Retry-After": "5"}


class Refusal(StrEnum):
    """The ``error`` text of a refusal."""

    INVALID_CREDENTIALS = "Invalid Credentials"
    OVER_LIMIT = "Too many concurrent requests"
    WRONG_CONTENT_TYPE = "Content-Type must be application/json, without a Content-Encoding"
    TOO_LARGE = "Payload is too large"
    TOO_SLOW = "Payload did not arrive in time"
    CUT_OFF = "Payload is not complete"
    WRONG_KEY = "Idempotency-Key must be 1 to 255 printable ASCII characters"
    KEY_REUSED = "Idempotency-Key was used with another payload within the last hour"
    NO_SUCH_RESOURCE = "Resource not found"
    WRONG_METHOD = "Method not allowed"
    NOT_CONFIRMED = (
        "Redis is away, too slow or full: not confirmed. Send it again, with the same Idempotency-Key "
        "if it must not count twice"
    )
    FAULT = "Internal error"


def accepted(ids: tuple[str, ...]) -> web.Response:
    """The vendor's success; the stream entry's id is in a header, as outcomes show it."""
    body = {"message": "Added to queue for processing", "status": "success"}
    return _answer(200, body, {"X-Volley-Trigger": ",".join(ids)})


def refused(status: int, error: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """A call that was not taken."""
    return _answer(status, {"status": "fail", "error": error, "code": status}, headers)


def health(error: str | None) -> web.Response:
    """Whether calls can be taken now."""
    if error is None:
        return _answer(200, {"status": "ok"})
    return _answer(503, {"status": "unavailable", "error": error})


def _answer(
    status: int, body: Mapping[str, object], headers: Mapping[str, str] | None = None
) -> web.Response:
    return web.Response(
        status=status, body=orjson.dumps(body), content_type="application/json", headers=headers
    )
