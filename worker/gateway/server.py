"""The handlers: a call goes through admission, credentials, checks and append to its answer."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from secrets import token_hex

from aiohttp import web

from config.settings import Settings
from worker.clevertap import wire
from worker.core.errors import InvalidTrigger
from worker.gateway.admission import Admission
from worker.gateway.answers import RETRY_AFTER, RETRY_AFTER_WORK, Refusal, accepted, health, refused
from worker.gateway.appending import Appender
from worker.gateway.callers import Callers
from worker.store import AWAY, Store
from worker.store.bounds import Bound, Reached
from worker.store.intake import Append, Appended, NonceReused

log = logging.getLogger("volley")

#: Bodies that are longer are checked in a thread: the checks of 100,000 recipients take a while.
THREAD_FROM_BYTES = 32_768
#: How long the answer to "is Redis there?" may take, and how long it holds, seconds.
HEALTH_SECONDS, HEALTH_HOLDS_SECONDS = 2.0, 0.5
#: Between two lines of the log about the same trouble, seconds.
TOLD_SECONDS = 10.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where the gateway listens, and what it takes on at once."""

    host: str = "127.0.0.1"
    port: int = 8710  #: 0 takes a free one
    max_calls: int = 1000  #: calls that are open at once; one more is answered 429
    max_bytes: int = 134_217_728  #: bytes of bodies that are held at once
    body_seconds: float = 30.0  #: for a body to arrive
    shutdown_seconds: float = 20.0  #: for open calls to end when the gateway is told to stop


class Server:
    """What the handlers share. Belongs to the event loop; stores are called in ``threads``."""

    def __init__(
        self, settings: Settings, options: Options, stores: Mapping[str, Store], threads: Executor
    ) -> None:
        self._settings = settings
        self._options = options
        self._threads = threads
        self._stores = stores
        self._callers = Callers(settings.accounts.values())
        self._appenders = {name: Appender(store.intake, threads) for name, store in stores.items()}
        self._admission = Admission(options.max_calls, options.max_bytes)
        self._health: asyncio.Task[str | None] | None = None
        self._health_until = 0.0
        self._told: dict[str, float] = {}
        self._draining = False

    def application(self) -> web.Application:
        """All routes, with every answer in the vendor's shape."""

        @web.middleware
        async def shape(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._vendors_shape(request, handler)

        app = web.Application(client_max_size=self._settings.max_trigger_bytes, middlewares=[shape])
        app.router.add_get("/healthz", self._healthz)
        app.router.add_post(wire.path(1), self._send)
        app.router.add_post(wire.path(2), self._send)
        return app

    async def drain(self) -> None:
        """Waits for the open calls, as long as they may take. Their connections end with the answers."""
        self._draining = True
        end = time.monotonic() + self._options.shutdown_seconds
        # Nothing would set an event: calls end in many ways.
        while self._admission.calls and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def _vendors_shape(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = await self._answered(request, handler)
        if self._draining:
            answer.force_close()
        return answer

    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPRequestEntityTooLarge:
            return refused(413, Refusal.TOO_LARGE)
        except web.HTTPNotFound:
            return refused(404, Refusal.NO_SUCH_RESOURCE)
        except web.HTTPMethodNotAllowed as wrong:
            return refused(405, Refusal.WRONG_METHOD, {"Allow": ", ".join(sorted(wrong.allowed_methods))})
        except web.HTTPException as other:
            return refused(other.status, other.reason)
        except ConnectionError:
            raise  # the caller has left
        except Exception:
            log.exception("a call could not be answered")
            return refused(500, Refusal.FAULT)

    async def _send(self, request: web.Request) -> web.StreamResponse:
        most = self._settings.max_trigger_bytes
        size = most if request.content_length is None else request.content_length
        if size > most:
            return refused(413, Refusal.TOO_LARGE)
        account = self._callers.account_of(request, needs_token=request.path.startswith("/2/"))
        if account is None:
            return refused(401, Refusal.INVALID_CREDENTIALS)
        with self._admission.enter(size) as admitted:
            if not admitted:
                return refused(429, Refusal.OVER_LIMIT, RETRY_AFTER)
            return await self._take(request, account)

    async def _take(self, request: web.Request, account: str) -> web.StreamResponse:
        if request.content_type != "application/json" or "Content-Encoding" in request.headers:
            return refused(400, Refusal.WRONG_CONTENT_TYPE)
        key = request.headers.get("Idempotency-Key")
        if key is not None and not (1 <= len(key) <= 255 and key.isascii() and key.isprintable()):
            return refused(400, Refusal.WRONG_KEY)
        try:
            async with asyncio.timeout(self._options.body_seconds):
                body = await request.read()
        except TimeoutError:
            answer = refused(408, Refusal.TOO_SLOW)
            answer.force_close()
            return answer
        try:
            await self._check(body)
        except InvalidTrigger as invalid:
            return refused(400, str(invalid))
        return await self._append(account, _append_of(body, key))

    async def _check(self, body: bytes) -> None:
        """Raises InvalidTrigger for what a worker could not accept."""
        most = self._settings.max_trigger_bytes
        if len(body) < THREAD_FROM_BYTES:
            wire.parse(body, max_bytes=most)
        else:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._threads, lambda: bool(wire.parse(body, max_bytes=most)))

    async def _append(self, account: str, append: Append) -> web.StreamResponse:
        try:
            result = await self._appenders[account].append(append)
        except AWAY as away:
            self._tell("away", "%s: calls are answered 503", type(away).__name__)
            return refused(503, Refusal.NOT_CONFIRMED, RETRY_AFTER)
        match result:
            case Appended(ids):
                return accepted(ids)
            case NonceReused():
                return refused(409, Refusal.KEY_REUSED)
            case Reached(bound):
                self._tell(account, "account %s: %s: calls are refused", account, result)
                status = 503 if bound is Bound.MEMORY else 429
                return refused(status, f"{result}: not taken, try again later", RETRY_AFTER_WORK)

    async def _healthz(self, _: web.Request) -> web.StreamResponse:
        # One look at a time, however many ask: each one may take a thread for seconds.
        if self._health is None or (self._health.done() and time.monotonic() >= self._health_until):
            self._health = asyncio.create_task(self._look())
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                return health(await asyncio.shield(self._health))
        except TimeoutError:
            return health("Redis does not answer in time")

    async def _look(self) -> str | None:
        loop = asyncio.get_running_loop()
        try:
            for store in self._stores.values():
                await loop.run_in_executor(self._threads, store.ping)
        except AWAY as away:
            return f"Redis cannot be used ({type(away).__name__})"
        finally:
            self._health_until = time.monotonic() + HEALTH_HOLDS_SECONDS
        return None

    def _tell(self, what: str, message: str, *args: object) -> None:
        """Logs a trouble, the same one only now and then."""
        now = time.monotonic()
        if now - self._told.get(what, -TOLD_SECONDS) >= TOLD_SECONDS:
            self._told[what] = now
            log.warning(message, *args)


def _append_of(body: bytes, key: str | None) -> Append:
    """A repeated call with the same key and body is one append."""
    if key is None:
        return Append([body], token_hex(16))
    nonce = "key:" + hashlib.blake2b(key.encode(), digest_size=20).hexdigest()
    return Append([body], nonce, hashlib.blake2b(body, digest_size=16).hexdigest())
