"""Running a gateway: in a thread beside a test, or as a process of its own."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from aiohttp import web

from config.settings import Settings
from worker.gateway.server import Options, Server
from worker.store import open_store

#: Threads beside those of the accounts' appends: they check long bodies.
_CHECKING_THREADS = 4
#: Connections that a kept-alive one may wait for its next call, seconds.
_KEEP_ALIVE_SECONDS = 60.0
#: How long a call may still take that was not answered in the time for that, seconds.
_CUT_SECONDS = 0.2


class Gateway:
    """A gateway in a thread of its own, for the time of a ``with`` block.

    Entering raises OSError if the address cannot be listened on. Leaving waits for open calls.
    """

    def __init__(self, settings: Settings, options: Options | None = None) -> None:
        self._settings = settings
        self._options = options or Options(port=0)
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="gateway", daemon=True)
        self.url = ""  #: base URL, such as ``http://127.0.0.1:40123``; empty before it was started

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
        async with _listening(self._settings, self._options) as self.url:
            self._started.set()
            await self._stop.wait()


def serve(settings: Settings, options: Options, on_ready: Callable[[str], None]) -> None:
    """Runs a gateway in the foreground until SIGINT or SIGTERM; only in a process's main thread.

    Told to stop, it takes no new call and answers the open ones. Calls ``on_ready`` with the base URL once it
    answers. Raises OSError if the address cannot be listened on.
    """
    asyncio.run(_serve(settings, options, on_ready))


async def _serve(settings: Settings, options: Options, on_ready: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with _listening(settings, options) as url:
        on_ready(url)
        await stop.wait()


@asynccontextmanager
async def _listening(settings: Settings, options: Options) -> AsyncIterator[str]:
    stores = {name: open_store(settings, name) for name in settings.accounts}
    threads = ThreadPoolExecutor(len(stores) + _CHECKING_THREADS, thread_name_prefix="gateway")
    server = Server(settings, options, stores, threads)
    runner = web.AppRunner(
        server.application(),
        access_log=None,
        logger=_silent(),
        # A compressed body may be a thousand times as long as it looks: it is refused unread.
        auto_decompress=False,
        keepalive_timeout=_KEEP_ALIVE_SECONDS,
        shutdown_timeout=_CUT_SECONDS,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, options.host, options.port).start()
        host, port = runner.addresses[0][:2]
        yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    finally:
        # First no new connections, then the open calls, and only then aiohttp's own way out, which reads no
        # more of a body that is on its way.
        for site in list(runner.sites):
            await site.stop()
        await server.drain()
        await runner.cleanup()
        await asyncio.get_running_loop().run_in_executor(None, threads.shutdown)
        for store in stores.values():
            store.close()


def _silent() -> logging.Logger:
    """Instead of aiohttp's own log, which quotes malformed requests, passcodes included."""
    quiet = logging.getLogger("volley.gateway.http")
    quiet.disabled = True
    return quiet
