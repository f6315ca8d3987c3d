"""An address that answers GET with NDJSON, as blocks of bytes.

Only the address of the settings is called: no redirect is followed, no proxy or other setting is taken from
the environment, TLS is verified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpcore
import httpx

from config.sends import UrlSource
from worker.clevertap.deadline import Deadline, DeadlineBackend
from worker.core.errors import UnreadableSource

#: Seconds that connecting may take, and each single read.
CONNECT_SECONDS, READ_SECONDS = 5.0, 30.0


def fetched(
    source: UrlSource,
    timeout_seconds: float,
    clock: Callable[[], float],
    alive: Callable[[], None] = lambda: None,
) -> Iterator[bytes]:
    """What the address answers, as it comes. Raises UnreadableSource for everything but a whole HTTP 200.

    The whole answer may take ``timeout_seconds`` of ``clock``, between two blocks the reader's own time
    included. ``alive`` is called at least every READ_SECONDS, also while nothing comes but a header now and
    then; what it raises ends the request.
    """

    def asked() -> float:  # by the deadline, before each operation of the socket
        alive()
        return clock()

    deadline = Deadline(asked)
    tls = httpx.create_ssl_context(trust_env=False)
    transport = httpx.HTTPTransport(verify=tls, trust_env=False)
    # httpx offers no way to hand over a network backend: its pool is replaced by one of the same kind.
    transport._pool = httpcore.ConnectionPool(  # noqa: SLF001
        ssl_context=tls, network_backend=DeadlineBackend(deadline)
    )
    headers = {
        "Accept": "application/x-ndjson, application/json;q=0.5, text/plain;q=0.2",
        # The raw bytes are counted, so that a small answer cannot unpack into a large one.
        "Accept-Encoding": "identity",
        "User-Agent": "volley",
    }
    if source.header_value is not None:
        headers[source.header] = source.header_value.get_secret_value()
    fault = ""
    try:
        with (
            deadline.within(timeout_seconds),
            httpx.Client(
                transport=transport,
                trust_env=False,
                follow_redirects=False,
                timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
            ) as client,
            client.stream("GET", source.url, headers=headers) as answer,
        ):
            if answer.status_code != 200:
                fault = f"the url answered HTTP {answer.status_code}"
            elif answer.headers.get("content-encoding", "identity") != "identity":
                fault = "the url answered in a content encoding that was not asked for"
            else:
                size = 0
                for block in answer.iter_raw():
                    size += len(block)
                    if size > source.max_bytes:
                        fault = f"the url answered more than {source.max_bytes} bytes"
                        break
                    yield block
    except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, ValueError) as error:
        # Its text may hold the address with its key, or a host.
        fault = f"the url gave no whole answer ({type(error).__name__})"
    if fault:
        raise UnreadableSource(fault)
