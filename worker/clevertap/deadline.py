"""One deadline for a whole request, held below HTTP: at every connect, write and read of the socket.

An HTTP client's timeouts are per operation: a server that sends one byte now and then keeps a request alive
for ever, in the headers as in the body. Here each operation gets at most the time that is left, so a
request outlives its deadline by no more than one operation's start. Not bounded: the name lookup, which the
system's resolver bounds (``options timeout`` in resolv.conf).
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore


class Deadline:
    """When the request that this thread now makes must be over. A thread makes one at a time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock`` gives monotonic seconds."""
        self._clock = clock
        self._ends = threading.local()

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Everything that this thread does on sockets inside the block ends within ``seconds``."""
        self._ends.at = self._clock() + seconds
        try:
            yield
        finally:
            del self._ends.at

    def left(self, timeout_seconds: float | None, over: type[Exception]) -> float:
        """Seconds for the next operation, at most ``timeout_seconds``. Raises ``over`` if none is left."""
        seconds: float = self._ends.at - self._clock()
        if seconds <= 0:
            raise over("the deadline has passed")
        return seconds if timeout_seconds is None else min(seconds, timeout_seconds)


class DeadlineBackend(httpcore.NetworkBackend):
    """Sockets that keep to a deadline."""

    def __init__(self, deadline: Deadline) -> None:
        """``deadline`` must be running (``within``) in every thread that uses a connection."""
        self._deadline = deadline
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address of ``host`` that answers; all of them share the deadline."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that IDNA cannot encode
            raise httpcore.ConnectError("the host name was not found") from error
        failure: Exception = httpcore.ConnectError("the host has no address")
        for address in dict.fromkeys(str(info[4][0]) for info in found):
            left = self._deadline.left(timeout, httpcore.ConnectTimeout)
            try:
                stream = self._backend.connect_tcp(address, port, left, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return DeadlineStream(stream, self._deadline)
        raise failure


class DeadlineStream(httpcore.NetworkStream):
    """A connection whose every operation keeps to the deadline of the request that uses it."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        """Wraps a connected ``stream``."""
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """One read; ReadTimeout at the deadline."""
        return self._stream.read(max_bytes, self._deadline.left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write all of ``buffer``; WriteTimeout at the deadline, however slowly the server takes it."""
        sock: socket.socket = self._stream.get_extra_info("socket")
        rest = memoryview(buffer)
        while rest:
            sock.settimeout(self._deadline.left(timeout, httpcore.WriteTimeout))
            try:
                rest = rest[sock.send(rest) :]
            except TimeoutError as error:
                raise httpcore.WriteTimeout("the request was not taken in time") from error
            except OSError as error:
                raise httpcore.WriteError("the connection failed while writing") from error

    def close(self) -> None:
        """Close the socket. Never waits."""
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """The TLS handshake; ConnectTimeout at the deadline (Python bounds a handshake as a whole)."""
        left = self._deadline.left(timeout, httpcore.ConnectTimeout)
        return DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        """What the connection knows of itself, for example ``is_readable``."""
        return self._stream.get_extra_info(info)
