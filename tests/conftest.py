"""What tests share: a real server with a clean database, a sandbox, and processes that surely end.

Each test process (each xdist worker) has a server, ports and folders of its own, so runs do not collide.
TEST_SERVER_BINARY names another server to test against, such as /usr/bin/redis-server.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import pytest
from redis import Redis

from worker.store.connection import connect
from worker.store.embedded import EmbeddedServer
from worker.store.tether import tethered

if TYPE_CHECKING:
    from worker.clevertap.sandbox import Sandbox

PROJECT = Path(__file__).resolve().parents[1]

ResultT = TypeVar("ResultT")


@pytest.fixture(autouse=True)
def _no_settings_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests set what they need; above all, none ever empties the server of the shell's VOLLEY_REDIS_URL."""
    for name in [name for name in os.environ if name.upper().startswith("VOLLEY_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def server_binary() -> Path | None:
    """For tests that start an EmbeddedServer of their own."""
    binary = os.environ.get("TEST_SERVER_BINARY")
    return Path(binary) if binary else None


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, server_binary: Path | None) -> Iterator[EmbeddedServer]:
    """The shared server. A test that stops, kills or fills it starts one of its own instead."""
    folder = tmp_path_factory.mktemp("server")
    with EmbeddedServer(folder, ends_with_parent=True, binary=server_binary) as started:
        yield started


@pytest.fixture
def redis_url(server: EmbeddedServer) -> str:
    """URL of the shared server with nothing in it."""
    with connect(server.url) as client:
        client.flushall()
        client.config_set("maxmemory", 0)
    return server.url


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    """A client as the worker makes it, on the clean database."""
    with connect(redis_url) as connected:
        yield connected


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """The API's stand-in, on a free port of its own."""
    from worker.clevertap.sandbox import Sandbox

    with Sandbox() as started:
        yield started


class Process:
    """A started process: its id, what it has said so far, and its end."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Path) -> None:
        self._popen = popen
        self.log = log

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def output(self) -> str:
        """stdout and stderr so far."""
        return self.log.read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        return self._code() is None

    def send(self, number: signal.Signals) -> None:
        """To this process alone; nothing if it has ended."""
        if self.is_running:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL to it and to all that lives in its group, its children for example."""
        if self._popen.returncode is None:
            with contextlib.suppress(PermissionError, ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait(timeout=30)

    def wait(self, seconds: float = 60) -> int:
        """Its exit code, negative for a signal. Raises subprocess.TimeoutExpired."""
        deadline = time.monotonic() + seconds
        while (code := self._code()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self._popen.args, seconds)
            time.sleep(0.01)
        return code

    def _code(self) -> int | None:
        """The exit code, read without giving up the process id: `kill` needs it for the group."""
        if self._popen.returncode is not None or sys.platform != "linux":
            return self._popen.poll()
        found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


class Processes:
    """Starts processes; all of them have ended after the test, however it went."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[Process] = []
        self._count = 0

    def start(
        self,
        *command: str,
        environ: Mapping[str, str] | None = None,
        cwd: Path = PROJECT,
        tie: bool = True,
    ) -> Process:
        """Starts a command in a process group of its own, in the project's folder.

        `environ` is added to this process's environment. `tie=False`: it may outlive this process.
        """
        self._count += 1
        log = self._folder / f"{self._count}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                tethered(command, signal.SIGKILL) if tie else command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1", **(environ or {})},
                start_new_session=True,
            )
        self._started.append(Process(popen, log))
        return self._started[-1]

    def python(
        self, *arguments: str, environ: Mapping[str, str] | None = None, cwd: Path = PROJECT
    ) -> Process:
        """`start` with this Python: `python("-m", "celery", "-A", "worker.app", "worker")`."""
        return self.start(sys.executable, *arguments, environ=environ, cwd=cwd)

    def end_all(self) -> None:
        """Ends what still runs and shows what each one said: pytest prints it where a test failed."""
        ended, self._started = self._started, []
        for process in reversed(ended):
            process.kill()
        for process in ended:
            sys.stdout.write(f"--- output of process {process.pid}\n{process.output}\n")


@pytest.fixture
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    started = Processes(tmp_path_factory.mktemp("processes"))
    try:
        yield started
    finally:
        started.end_all()


class Eventually(Protocol):
    """`eventually(look, seconds=30)`: see the fixture."""

    def __call__(self, look: Callable[[], ResultT | None], seconds: float = 30) -> ResultT: ...


@pytest.fixture
def eventually() -> Eventually:
    """Looks again and again until the look gives something true, which it returns; fails after `seconds`."""

    def wait(look: Callable[[], ResultT | None], seconds: float = 30) -> ResultT:
        deadline = time.monotonic() + seconds
        while not (seen := look()):
            if time.monotonic() > deadline:
                pytest.fail(f"still {seen!r} after {seconds} seconds")
            time.sleep(0.02)
        return seen

    return wait
