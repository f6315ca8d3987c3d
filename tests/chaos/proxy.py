"""A network that fails on purpose: a proxy between two parties that speak TCP."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Self

#: Bytes that pass at once, and in between the pause, while data trickles.
_TRICKLE_BYTES, _TRICKLE_SECONDS = 200, 0.05
#: How late each piece of data comes while there is latency.
_LATENCY_SECONDS = 0.15
_RESET = struct.pack("ii", 1, 0)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Mode(StrEnum):
    """How the network is."""

    WELL = "well"
    LATENCY = "latency"
    HALF_OPEN = "half-open"
    BLACK_HOLE = "black hole"
    TRICKLE = "trickle"


@dataclass(slots=True)
class Call:
    """A request as the network saw it. Times are epoch seconds."""

    #: Of the client's side.
    port: int
    #: When its first bytes came from the client.
    began: float
    request: bytearray = field(default_factory=bytearray, repr=False)
    answer: bytearray = field(default_factory=bytearray, repr=False)
    #: Whether some of the answer has come from the API.
    answer_began: bool = False
    #: When the last byte of its answer was with the client.
    answered: float | None = None
    #: When its connection ended without that, and whether the client ended it: it hung up, or died.
    ended: float | None = None
    hung_up: bool = False

    @property
    def body(self) -> bytes:
        """The request's body, as far as it came."""
        return bytes(self.request).partition(b"\r\n\r\n")[2]


def _is_whole(message: bytearray) -> bool:
    """Whether an HTTP message is there to its end; all in a run say how long they are."""
    head, end, body = bytes(message).partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return bool(end) and len(body) >= (int(length[1]) if length else 0)


class FaultyNetwork:
    """Listens on a port of its own and leads to ``port``. A context; other threads may use it.

    With ``calls``, what flows is HTTP, and each request is noted there.
    """

    def __init__(self, port: int, calls: list[Call] | None = None) -> None:
        self._upstream = port
        self.calls = calls
        self._mode = Mode.WELL
        self._loop = asyncio.new_event_loop()
        self._connections: set[_Connection] = set()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"network-{port}", daemon=True)
        self._healed = asyncio.Event()
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._listening.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def set(self, mode: Mode) -> None:
        """From now on the network is so. The end of HALF_OPEN resets the connections that led nowhere."""
        self._loop.call_soon_threadsafe(self._set, mode)

    def reset(self) -> None:
        """Resets all connections, on both sides."""
        self._loop.call_soon_threadsafe(self._reset)

    @property
    def blocked(self) -> bool:
        return self._mode in {Mode.HALF_OPEN, Mode.BLACK_HOLE}

    async def pass_on(self, data: bytes, sink: asyncio.StreamWriter) -> None:
        """Takes data to the other side, as the network is now."""
        while self.blocked:
            await self._healed.wait()
        if self._mode is Mode.LATENCY:
            await asyncio.sleep(_LATENCY_SECONDS)
        while self._mode is Mode.TRICKLE and data:
            piece, data = data[:_TRICKLE_BYTES], data[_TRICKLE_BYTES:]
            sink.write(piece)
            await asyncio.sleep(_TRICKLE_SECONDS)
        sink.write(data)
        await sink.drain()

    def _set(self, mode: Mode) -> None:
        if self._mode is Mode.HALF_OPEN and mode is not Mode.HALF_OPEN:
            self._reset()
        self._mode = mode
        if self.blocked:
            self._healed.clear()
        else:
            self._healed.set()

    def _reset(self) -> None:
        for connection in list(self._connections):
            connection.end(reset=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, reader, writer)
        self._connections.add(connection)
        try:
            await connection.serve(self._upstream)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(connection)
            connection.end()


class _Connection:
    """Two sockets, and what flows between them. What is held up when one side leaves is lost."""

    def __init__(
        self, network: FaultyNetwork, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._network = network
        self._near = reader, writer
        self._writers = [writer]
        # A client that has gone already has none, and makes no call.
        self._port: int = (writer.get_extra_info("peername") or ("", 0))[1]
        self._hung_up = False
        self._call: Call | None = None  # the newest
        self._ended = False
        self._tasks: list[asyncio.Task[None]] = []

    async def serve(self, port: int) -> None:
        far = await asyncio.open_connection("127.0.0.1", port)
        self._writers.append(far[1])
        if self._ended:
            return
        self._tasks = [
            asyncio.ensure_future(self._pump(self._near[0], far[1], asks=True)),
            asyncio.ensure_future(self._pump(far[0], self._near[1], asks=False)),
        ]
        await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        self._hung_up = not self._tasks[1].done()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, asks: bool) -> None:
        # Reading goes on while what was read is held up, so that an end is seen at once.
        held: asyncio.Queue[bytes] = asyncio.Queue()
        passing = asyncio.ensure_future(self._pass(held, sink, asks=asks))
        try:
            with contextlib.suppress(OSError):
                while data := await source.read(1 << 16):
                    if asks:
                        self._note_request(data)
                    held.put_nowait(data)
            if not asks and not self._network.blocked:
                # The last bytes of an answer come before the end of its connection.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(held.join(), 2)
        finally:
            passing.cancel()

    async def _pass(self, held: asyncio.Queue[bytes], sink: asyncio.StreamWriter, *, asks: bool) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = await held.get()
                # The next request may come before this is noted.
                answered = None if asks else self._call
                if answered is not None:
                    answered.answer_began = True
                await self._network.pass_on(data, sink)
                if answered is not None:
                    answered.answer += data
                    if _is_whole(answered.answer):
                        answered.answered = time.time()
                held.task_done()

    def _note_request(self, data: bytes) -> None:
        if self._network.calls is None:
            return
        if self._call is None or _is_whole(self._call.request):
            self._call = Call(self._port, time.time())
            self._network.calls.append(self._call)
        self._call.request += data

    def end(self, *, reset: bool = False) -> None:
        """Closes both sides."""
        if self._ended:
            return
        self._ended = True
        if self._call is not None and self._call.answered is None:
            self._call.hung_up = self._hung_up
            self._call.ended = time.time()
        for task in self._tasks:
            task.cancel()
        for writer in self._writers:
            with contextlib.suppress(OSError):
                if reset:
                    sock = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()
