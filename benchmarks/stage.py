"""What a scenario runs on: a server, the API and processes of its own, on free ports, gone when it ends."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from config.settings import load
from worker.core.model import Status
from worker.store import Store, open_store
from worker.store.connection import connect
from worker.store.embedded import EmbeddedServer
from worker.store.tether import tethered

PROJECT = Path(__file__).resolve().parents[1]
#: How long anything that is waited for may take, seconds.
PATIENCE_SECONDS = 240.0
_TICKS = os.sysconf("SC_CLK_TCK")


class StuckError(Exception):
    """What was waited for did not come; the message ends with what the processes said last."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One call as the API saw it; times are monotonic seconds."""

    first_byte: float
    whole: float
    answered: float
    recipients: int
    campaigns: int
    mark: str


class Api:
    """The API's process, and what it has counted."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdout is None:
            raise StuckError("the API has no way to say its port")
        self.process = process
        self.port = int(process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"

    def latency(self, milliseconds: int) -> None:
        """How long each call takes from now on."""
        self._ask("POST", "latency", str(milliseconds))

    def forget(self) -> None:
        """Forgets the calls so far."""
        self._ask("POST", "forget")

    def calls(self) -> list[Seen]:
        """Every call so far."""
        return [Seen(*row) for row in self._ask("GET", "calls")]

    def audit(self) -> dict[str, int]:
        """Calls, deliveries, distinct deliveries, most in flight."""
        found: dict[str, int] = self._ask("GET", "audit")
        return found

    def _ask(self, method: str, what: str, body: str | None = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, f"/control/{what}", body)
            return orjson.loads(connection.getresponse().read())
        finally:
            connection.close()


class Stage:
    """A server with append-only ``everysec``, the API, and what a scenario starts beside them."""

    def __init__(self, *, settings: Mapping[str, str] | None = None) -> None:
        self._settings = settings or {}
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []

    def __enter__(self) -> Self:
        """Starts the server and the API."""
        self._folder = tempfile.TemporaryDirectory(prefix="volley-bench-")
        self.folder = Path(self._folder.name)
        try:
            self.server = EmbeddedServer(self.folder / "server", ends_with_parent=True)
            self.server.start()
            self.redis: Any = connect(self.server.url)
            self.api = Api(self.python("api", "-m", "benchmarks.fast_api", pipe=True))
            self.environ = {
                "VOLLEY_REDIS_URL": self.server.url,
                "VOLLEY_ACCOUNT_ID": "BENCH",
                "VOLLEY_PASSCODE": "passcode-of-the-bench",
                "VOLLEY_TOKEN": "token-of-the-bench",
                "VOLLEY_BASE_URL": self.api.url,
                **self._settings,
            }
            self.store: Store = open_store(load(self.environ), "default")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends everything that was started."""
        self.close()

    def close(self) -> None:
        """Ends all processes by their ids, the server last."""
        for _, process in reversed(self._processes):
            process.kill()
        for _, process in self._processes:
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._processes.clear()
        self.server.stop()
        self._folder.cleanup()

    # -- processes

    def python(
        self, part: str, *arguments: str, pipe: bool = False, environ: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Starts this Python in the project's folder as a process of a part (``worker``, ``api``, ...)."""
        log = (self.folder / f"{len(self._processes)}-{part}.log").open("wb")
        with log:
            process = subprocess.Popen(
                tethered([sys.executable, *arguments], signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipe else log,
                stderr=log,
                cwd=PROJECT,
                env={**_clean_environ(), **(environ or {})},
            )
        self._processes.append((part, process))
        return process

    def volley(self, *, workers: int = 1, beat: bool = True) -> list[subprocess.Popen[bytes]]:
        """Starts Volley as in production, and returns when an accept task waits at the intake."""
        celery = ("-m", "celery", "-A", "worker.app", "--quiet")
        alone = ("--without-gossip", "--without-mingle")
        started = [
            self.python("worker", *celery, "worker", *alone, "-n", f"w{i}@%h", environ=self.environ)
            for i in range(workers)
        ]
        if beat:
            self.python("beat", *celery, "beat", environ=self.environ)
        self.until(lambda: self.store.status().accept_tasks)
        return started

    def end(self, part: str) -> None:
        """Ends a part's processes as a supervisor does: SIGTERM, then waiting."""
        for process in [process for each, process in self._processes if each == part]:
            process.terminate()
            process.wait(60)

    # -- looking

    def until(
        self, look: Callable[[], object], pause: float = 0.02, seconds: float = PATIENCE_SECONDS
    ) -> None:
        """Until a look gives something true. Raises StuckError, or when a process has died."""
        deadline = time.monotonic() + seconds
        while not look():
            dead = [part for part, process in self._processes if process.poll() not in {None, 0, -15}]
            if dead or time.monotonic() > deadline:
                raise StuckError(f"{dead or 'nothing'} died; {self.last_words()}")
            time.sleep(pause)

    def last_words(self) -> str:
        """The end of what each process has written."""
        return "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in self.folder.glob("*.log")
        )

    def count(self, status: Status) -> int:
        """Deliveries of a status."""
        return self.store.status().total(status)

    def cpu_seconds(self) -> dict[str, float]:
        """Processor seconds used so far, by part; ``producer`` is this process."""
        used: dict[str, float] = {"server": _cpu(self.server.pid or 0), "producer": time.process_time()}
        for part, process in self._processes:
            used[part] = used.get(part, 0.0) + _cpu(process.pid)
        return used

    @contextmanager
    def shares(self, into: dict[str, float]) -> Iterator[None]:
        """Processor time that each part takes inside the block, as a share of the block's length."""
        before, began = self.cpu_seconds(), time.monotonic()
        yield
        took = time.monotonic() - began
        for part, seconds in self.cpu_seconds().items():
            into[part] = (seconds - before.get(part, 0.0)) / took


def resident_bytes(pid: int) -> dict[int, int]:
    """Resident memory of a process and of each of its children, by their ids.

    What they share counts for each of them.
    """
    found = {}
    for each in (pid, *_children(pid)):
        with suppress(OSError, IndexError):  # a child that has ended since
            status = Path(f"/proc/{each}/status").read_text()
            found[each] = int(status.partition("VmRSS:")[2].split(maxsplit=1)[0]) * 1024
    return found


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _cpu(pid: int) -> float:
    """Processor seconds of a process and its living children; 0 for one that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS + sum(map(_cpu, _children(pid)))
    except (OSError, IndexError):
        return 0.0


def _clean_environ() -> dict[str, str]:
    """The environment without settings of Volley: a scenario says all of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VOLLEY_")}
    return {**kept, "PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1"}
