"""Appends of many calls in one round trip: what arrives while one is under way goes with the next.

An idle gateway appends at once; a busy one appends in steps as large as its load, without a timer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Executor
from typing import TypeAlias

from worker.store.bounds import Reached
from worker.store.intake import Append, Appended, Intake, NonceReused

#: What one step appends at most: so many appends, and no more behind so many bytes.
STEP_APPENDS, STEP_BYTES = 500, 4_194_304

Result: TypeAlias = Appended | Reached | NonceReused


class Appender:
    """The way into one account's intake. Belongs to the event loop; the store is called in ``threads``."""

    def __init__(self, intake: Intake, threads: Executor) -> None:
        self._intake = intake
        self._threads = threads
        self._waiting: deque[tuple[Append, asyncio.Future[Result]]] = deque()
        self._running: asyncio.Task[None] | None = None

    async def append(self, append: Append) -> Result:
        """What became of it. Raises one of ``worker.store.AWAY``: then it may have been made or not."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((append, future))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while step := self._step():
                appends = [append for append, _ in step]
                try:
                    results = await loop.run_in_executor(self._threads, self._intake.append_all, appends)
                except Exception as error:  # whatever it is, every caller has to learn of it
                    for _, future in step:
                        if not future.done():
                            future.set_exception(error)
                else:
                    for (_, future), result in zip(step, results, strict=True):
                        if not future.done():
                            future.set_result(result)
        finally:
            self._running = None

    def _step(self) -> list[tuple[Append, asyncio.Future[Result]]]:
        step: list[tuple[Append, asyncio.Future[Result]]] = []
        size = 0
        while self._waiting and len(step) < STEP_APPENDS and size < STEP_BYTES:
            step.append(self._waiting.popleft())
            size += sum(map(len, step[-1][0].triggers))
        return step
