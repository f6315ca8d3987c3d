"""One attempt: a POST of a ready body, and what came back as a value.

What surely was not sent is told apart from what may have been (``NOT_SENT`` below): the first is tried
again without fear, the second may double a message. No retry happens here, no redirect is followed, no
cookie is kept, no proxy or other setting is taken from the environment, TLS is verified.

A kept connection that the server closes just as a request starts gives an honest NoAnswer although nothing
was processed. Connections are therefore kept for KEEPALIVE_SECONDS only, which is less than the idle time
of common servers (5 s at the shortest), and one that the server has closed already is noticed before it is
used.
"""

from __future__ import annotations

import math
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Self

import httpcore
import httpx

from worker.clevertap import wire
from worker.clevertap.deadline import Deadline, DeadlineBackend
from worker.core.answers import Answer, Answered, NoAnswer, NotSent

#: How long an idle connection is kept, in seconds.
KEEPALIVE_SECONDS = 4.0
#: How much of an answer is read, in bytes. The documented answers have a few hundred.
ANSWER_MAX_BYTES = 65_536

#: Exceptions that come before the first byte of a request. The last three mean a base URL or a header that
#: cannot be sent at all; as values they end as failed deliveries, with a reason, not as a crashing worker.
NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
    httpx.InvalidURL,
)
#: Every other exception of httpx: sent, or perhaps sent.
PERHAPS_SENT = (httpx.HTTPError, httpx.StreamError, httpx.CookieConflict)


@dataclass(frozen=True, slots=True)
class Door:
    """Where and as whom a request is made. The secrets are in no ``repr``."""

    base_url: str  #: scheme and host, for example ``https://in1.api.clevertap.com``
    account_id: str
    passcode: str = field(repr=False)
    token: str | None = field(default=None, repr=False)  #: None: only ``/1`` can be called
    connect_timeout_seconds: float | None = None  #: None: the client's
    read_timeout_seconds: float | None = None  #: for one read of the answer; None: the whole deadline


class Client:
    """The one HTTP client of a process, for all its threads and accounts. Made after a fork, never before.

    ``connections`` bounds the requests in flight: the sum of the accounts' limits, or the number of threads.
    """

    def __init__(
        self,
        *,
        connections: int = 32,
        connect_timeout_seconds: float = 5.0,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``tls`` replaces the default, certifi's authorities; ``clock`` gives monotonic seconds."""
        self._clock = clock
        self._deadline = Deadline(clock)
        self._connect_timeout_seconds = connect_timeout_seconds
        tls = tls or httpx.create_ssl_context(trust_env=False)
        transport = httpx.HTTPTransport(verify=tls, trust_env=False)
        # httpx offers no way to hand over a network backend: its pool is replaced by one of the same kind.
        transport._pool = httpcore.ConnectionPool(  # noqa: SLF001
            ssl_context=tls,
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=KEEPALIVE_SECONDS,
            network_backend=DeadlineBackend(self._deadline),
        )
        self._http = httpx.Client(
            transport=transport,
            trust_env=False,
            follow_redirects=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            # The raw bytes are read, so that a small answer cannot unpack into a large one.
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "volley"},
        )

    def post(self, door: Door, body: bytes, *, endpoint: wire.Endpoint, deadline_seconds: float) -> Answer:
        """Send ``body`` through ``door`` and wait for the whole answer, at most ``deadline_seconds``.

        Never raises for anything that the network or the server does. What interrupts the thread itself (a
        task's time limit, Ctrl-C) passes through: the message may then have been sent.
        """
        started = self._clock()
        try:
            request = self._http.build_request(
                "POST",
                door.base_url.rstrip("/") + wire.path(endpoint),
                content=body,
                headers=wire.headers(door.account_id, door.passcode, door.token if endpoint == 2 else None),
                timeout=httpx.Timeout(
                    deadline_seconds,
                    connect=door.connect_timeout_seconds or self._connect_timeout_seconds,
                    read=door.read_timeout_seconds or deadline_seconds,
                ),
            )
        except (httpx.InvalidURL, ValueError, TypeError) as error:  # its text may hold a header's value
            return NotSent(_why(error, "the request could not be built"), self._clock() - started)
        try:
            with self._deadline.within(deadline_seconds):
                status, headers, answer = self._exchange(request)
        except NOT_SENT as error:
            return NotSent(_why(error, "no connection was made"), self._clock() - started)
        except PERHAPS_SENT as error:
            return NoAnswer(_why(error, "no whole answer came"), self._clock() - started)
        return Answered(status, wire.read(answer), retry_after_seconds(headers), self._clock() - started)

    def _exchange(self, request: httpx.Request) -> tuple[int, Mapping[str, str], bytes]:
        answer = bytearray()
        response = self._http.send(request, stream=True)
        try:
            for chunk in response.iter_raw():
                answer += chunk
                if len(answer) > ANSWER_MAX_BYTES:
                    break
        finally:
            response.close()  # closes the connection too, unless the answer was read to its end
            # Else the two hold each other, and the request's body, until Python looks for cycles: seldom.
            response.stream = httpx.ByteStream(b"")
        return response.status_code, response.headers, bytes(answer[:ANSWER_MAX_BYTES])

    def close(self) -> None:
        """Close all connections. No request may be in flight."""
        self._http.close()

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        self.close()


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """``Retry-After`` as seconds from now, >= 0; None when absent or unreadable (RFC 9110, 10.2.3).

    A date is measured against the answer's own ``Date``, so that no clock of ours is compared with the
    server's.
    """
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            then, now = (parsedate_to_datetime(text) for text in (value, headers.get("date", "")))
            seconds = (then.replace(tzinfo=UTC) - now.replace(tzinfo=UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _why(error: Exception, phrase: str) -> str:
    """The exception's name and a fixed phrase: its own text may hold a host, a header or an address."""
    return f"{type(error).__name__}: {phrase}"
