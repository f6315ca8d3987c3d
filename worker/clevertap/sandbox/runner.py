"""Running a sandbox: in a thread beside a test, or as a process of its own."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from aiohttp import web

from .control import Control
from .faults import Fault
from .ledger import Ledger
from .options import SandboxOptions
from .server import SandboxServer

#: How long calls in flight may take to end when the sandbox stops; then they are cut.
_SHUTDOWN_SECONDS = 0.2


class Sandbox:
    """A sandbox in a thread of its own, for the time of a `with` block. Other threads may use all of it.

    Entering raises `OSError` if the address cannot be listened on. Leaving cuts the calls in flight.
    """

    def __init__(self, options: SandboxOptions | None = None) -> None:
        self._server = SandboxServer(options or SandboxOptions())
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._url = ""
        self._thread = threading.Thread(target=self._run, name="sandbox", daemon=True)

    @property
    def url(self) -> str:
        """The base URL, such as `http://127.0.0.1:40123`; empty before it was started."""
        return self._url

    @property
    def ledger(self) -> Ledger:
        """What it received and accepted."""
        return self._server.ledger

    def add_fault(self, fault: Fault) -> None:
        """Set one more fault, after the others."""
        self._server.faults.add(fault)

    def clear_faults(self) -> None:
        """Remove all faults."""
        self._server.faults.replace([])

    def change(self, **changes: object) -> None:
        """Replace fields of the scenario (see `Scenario`), for all calls that come from now on."""
        self._server.change(changes)

    def reset(self) -> None:
        """Return to the scenario and the faults of the options, with an empty ledger."""
        self._server.reset()

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as failure:  # raised again in the thread that waits for the start
            self._failure = failure
        finally:
            self._started.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with _listening(self._server) as self._url:
            self._started.set()
            await self._stop.wait()


def serve(options: SandboxOptions, on_ready: Callable[[str], None]) -> None:
    """Run a sandbox in the foreground until SIGINT or SIGTERM; only in a process's main thread.

    Calls `on_ready` with the base URL once it answers. Raises `OSError` if the address cannot be listened on.
    """
    asyncio.run(_serve(SandboxServer(options), on_ready))


async def _serve(server: SandboxServer, on_ready: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, stop.set)
    async with _listening(server) as url:
        on_ready(url)
        await stop.wait()


@asynccontextmanager
async def _listening(server: SandboxServer) -> AsyncIterator[str]:
    """Listen for the block's time; gives the base URL."""
    options = server.options
    app = web.Application(client_max_size=options.max_body_bytes)
    app.add_routes([*Control(server).routes(), *server.routes()])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, options.host, options.port).start()
        host, port = runner.addresses[0][:2]
        yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    finally:
        await runner.cleanup()
