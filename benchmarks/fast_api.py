"""A stand-in of the API that costs next to nothing, so that the judge is not the brake.

One process, one thread, HTTP/1.1 as far as keep-alive clients need it. It accepts everything after the
latency that it was told, keeps the time of every call, and counts recipients by itself. Started as
``python -m benchmarks.fast_api``; it prints its port.

    POST /1/..., /2/...     a call
    POST /control/latency   body: milliseconds that each call takes from now on
    POST /control/forget    forgets the calls so far
    GET  /control/calls     [[first byte, whole, answered, recipients, campaigns, mark], ...] (seconds)
    GET  /control/audit     totals: calls, deliveries, distinct ones, most in flight at once
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import orjson

_ANSWER = b'{"status":"success","message":"Added to queue for processing"}'
#: Priority or number that a scenario wrote into its content, to tell its calls apart.
MARK = "mark"


@dataclass(slots=True)
class Call:
    """One call; times are monotonic seconds, the same clock in every process of a machine."""

    first_byte: float
    whole: float
    named: list[str]
    campaigns: list[str]
    mark: str
    answered: float = 0.0


@dataclass(slots=True)
class Book:
    """What has been received."""

    latency_seconds: float = 0.0
    calls: list[Call] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0

    def audit(self) -> dict[str, int]:
        """Totals, the distinct deliveries counted one by one."""
        seen = {(name, campaign) for call in self.calls for name in call.named for campaign in call.campaigns}
        return {
            "calls": len(self.calls),
            "deliveries": sum(len(call.named) * len(call.campaigns) for call in self.calls),
            "distinct": len(seen),
            "most_in_flight": self.most_in_flight,
        }

    def listed(self) -> list[list[object]]:
        """Every call as a list."""
        return [
            [c.first_byte, c.whole, c.answered, len(c.named), len(c.campaigns), c.mark] for c in self.calls
        ]


class Connection(asyncio.Protocol):
    """One client's connection; requests one after the other."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._buffer = b""
        self._began = 0.0
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the way back."""
        if isinstance(transport, asyncio.WriteTransport):
            self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets it."""
        del exc
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Answers every whole request."""
        if not self._buffer:
            self._began = time.monotonic()
        self._buffer += data
        while True:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            body = self._buffer[end + 4 : end + 4 + length]
            self._buffer = self._buffer[end + 4 + length :]
            self._request(head.split(b" ", 2)[1], body)
            self._began = time.monotonic()

    def _request(self, path: bytes, body: bytes) -> None:
        if path.startswith(b"/control/"):
            self._write(_control(self._book, path[9:], body))
            return
        call = _read(body, self._began)
        book = self._book
        book.calls.append(call)
        book.in_flight += 1
        book.most_in_flight = max(book.most_in_flight, book.in_flight)
        if book.latency_seconds:
            asyncio.get_running_loop().call_later(book.latency_seconds, self._accept, call)
        else:
            self._accept(call)

    def _accept(self, call: Call) -> None:
        self._book.in_flight -= 1
        self._write(_ANSWER)
        call.answered = time.monotonic()

    def _write(self, body: bytes) -> None:
        if self._transport is not None:
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
                + body
            )


def _read(body: bytes, began: float) -> Call:
    data: dict[str, Any] = orjson.loads(body)
    to: dict[str, list[str]] = data["to"]
    named = next(iter(to.values())) if len(to) == 1 else [name for names in to.values() for name in names]
    listed = data.get("campaign_id_list")
    campaigns = [str(c) for c in listed] if listed else [str(data["campaign_id"])]
    return Call(began, time.monotonic(), named, campaigns, str(data["ExternalTrigger"].get(MARK, "")))


def _control(book: Book, what: bytes, body: bytes) -> bytes:
    match what:
        case b"latency":
            book.latency_seconds = int(body) / 1000
        case b"forget":
            book.calls.clear()
            book.most_in_flight = book.in_flight
        case b"calls":
            return orjson.dumps(book.listed())
        case b"audit":
            return orjson.dumps(book.audit())
        case _:
            return b"null"
    return b"true"


async def _serve() -> None:
    book = Book()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(book), "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve())
