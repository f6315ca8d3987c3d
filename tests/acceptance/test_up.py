"""`volley up` as a real process tree: it delivers, it ends whole, and it keeps its data."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from config.settings import load
from worker.clevertap.sandbox import Fault, FaultKind, Sandbox
from worker.core.model import Status
from worker.store import open_store
from worker.store.connection import connect
from worker.store.embedded import EmbeddedServer, EmbeddedServerError, running_url
from worker.store.status import Snapshot

if TYPE_CHECKING:
    from tests.conftest import Eventually, Process, Processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the process tree from /proc")


class Up:
    """Starts `volley up` on one data folder, appends as producers do, and looks at processes and outcomes."""

    def __init__(
        self,
        folder: Path,
        sandbox: Sandbox,
        processes: Processes,
        eventually: Eventually,
        binary: Path | None,
    ) -> None:
        self.folder = folder
        self.binary = binary
        self._processes = processes
        self._eventually = eventually
        self.environ = {
            "VOLLEY_ACCOUNT_ID": "TEST-ACCOUNT",
            "VOLLEY_PASSCODE": "passcode-f2c91b",
            "VOLLEY_TOKEN": "token-8d07ae",
            "VOLLEY_BASE_URL": sandbox.url,
        }

    def run(self, *options: str, **environ: str) -> Process:
        """Starts it and returns at once."""
        return self._processes.python(
            "-m", "worker", "up", "--data", str(self.folder), *options, environ={**self.environ, **environ}
        )

    def start(self, *options: str, **environ: str) -> Process:
        """Starts it and returns when its worker waits at the intake."""
        started = self.run(*options, **environ)
        self.await_accepting(started)
        return started

    def await_accepting(self, started: Process) -> None:
        self._eventually(lambda: self.is_accepting() or not started.is_running, 60)
        assert started.is_running, started.output

    def is_accepting(self) -> bool:
        return self.url is not None and self.status().accept_tasks > 0

    @property
    def url(self) -> str | None:
        return running_url(self.folder)

    def append(self, *emails: str, name: str = "everybody") -> None:
        assert self.url is not None
        content = {"to": {"email": emails}, "campaign_id": "1709550110", "ExternalTrigger": {"Name": name}}
        with connect(self.url) as client:
            client.xadd("volley:{default}:intake", {"trigger": json.dumps(content)})

    def status(self, url: str | None = None) -> Snapshot:
        store = open_store(load(self.environ).connected_to(url or self.url or ""), "default")
        with contextlib.closing(store):
            return store.status()

    def await_total(self, status: Status, count: int) -> None:
        self._eventually(lambda: self.status().total(status) == count, 60)

    def kept(self) -> Snapshot:
        """What the data folder holds, read while nothing runs in it."""
        with EmbeddedServer(self.folder, ends_with_parent=True, binary=self.binary) as server:
            return self.status(server.url)


@pytest.fixture
def up(
    tmp_path: Path,
    sandbox: Sandbox,
    processes: Processes,
    eventually: Eventually,
    server_binary: Path | None,
) -> Iterator[Up]:
    folder = tmp_path / "data"
    yield Up(folder, sandbox, processes, eventually, server_binary)
    processes.end_all()
    if folder.exists():
        with contextlib.suppress(EmbeddedServerError), EmbeddedServer(folder, binary=server_binary):
            pass  # takes over a server that was left, and stops it


def family(pid: int) -> set[int]:
    """The process and all that it and its children have started."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def alive(pids: set[int]) -> set[int]:
    """Those that run; a zombie does not."""
    running = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                running.add(pid)
    return running


def the(role: str, pids: set[int]) -> int:
    """The one process among them that is the "worker", the "beat" or the "server"."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
            if (
                "valkey-server" in command
                if role == "server"
                else f"\0celery\0-A\0worker.app\0--quiet\0{role}\0" in command
            ):
                found.append(pid)
    (only,) = found
    return only


def test_it_delivers_ends_whole_at_ctrl_c_and_keeps_its_data(up: Up, sandbox: Sandbox) -> None:
    first = up.start()
    up.append("a@example.com", "b@example.com")
    up.await_total(Status.ACCEPTED, 2)
    tree = family(first.pid)
    assert len(tree) == 4  # itself, the server, a worker (its tasks are threads), beat
    os.killpg(first.pid, signal.SIGINT)  # what a terminal does
    assert first.wait() == 0
    assert not alive(tree)
    assert up.url is None

    second = up.start()
    assert up.status().total(Status.ACCEPTED) == 2
    up.append("a@example.com")
    up.await_total(Status.DUPLICATE, 1)
    second.send(signal.SIGTERM)
    assert second.wait() == 0
    assert sandbox.ledger.totals().accepted == 2


def test_its_output_says_which_process_speaks_and_holds_no_secret(up: Up, eventually: Eventually) -> None:
    started = up.start()
    up.append("a@example.com")
    eventually(lambda: "attempt" in started.output)
    started.send(signal.SIGTERM)
    assert started.wait() == 0
    lines = started.output.splitlines()
    assert {line.partition("|")[0] for line in lines} == {"volley ", "worker "}  # a healthy beat is silent
    assert f"{up.folder}" in lines[0]
    for secret in ("passcode-f2c91b", "token-8d07ae", "a@example.com"):
        assert secret not in started.output


def test_a_request_in_flight_is_waited_for_and_recorded(
    up: Up, sandbox: Sandbox, eventually: Eventually
) -> None:
    sandbox.change(latency_ms=1500)
    started = up.start()
    up.append("a@example.com")
    eventually(lambda: up.status().total(Status.IN_FLIGHT))
    started.send(signal.SIGINT)
    assert started.wait() == 0
    assert up.kept().total(Status.ACCEPTED) == 1
    assert sandbox.ledger.totals().accepted == 1


def test_a_second_ctrl_c_does_not_wait(up: Up, sandbox: Sandbox, eventually: Eventually) -> None:
    sandbox.add_fault(Fault(kind=FaultKind.HANG))
    started = up.start(VOLLEY_REQUEST_DEADLINE="100", VOLLEY_PERMIT_LEASE="110")
    up.append("a@example.com")
    eventually(lambda: up.status().total(Status.IN_FLIGHT))
    tree = family(started.pid)
    started.send(signal.SIGINT)
    eventually(lambda: "ending worker and beat" in started.output)
    started.send(signal.SIGINT)
    assert started.wait() == 1
    assert "killing worker" in started.output
    assert not alive(tree)


def test_killed_itself_it_leaves_only_the_server_which_the_next_one_takes_over(
    up: Up, eventually: Eventually
) -> None:
    first = up.start()
    tree = family(first.pid)
    server = the("server", tree)
    os.kill(first.pid, signal.SIGKILL)
    eventually(lambda: alive(tree) <= {server})
    url = up.url
    assert url is not None
    up.append("a@example.com")  # while nobody works

    second = up.start()
    assert up.url == url
    up.await_total(Status.ACCEPTED, 1)
    second.send(signal.SIGTERM)
    assert second.wait() == 0
    eventually(lambda: not alive({server}))


@pytest.mark.parametrize("child", ["worker", "beat"])
def test_a_child_that_dies_is_started_again(up: Up, eventually: Eventually, child: str) -> None:
    started = up.start()
    dead = the(child, family(started.pid))
    os.kill(dead, signal.SIGKILL)
    eventually(lambda: f"{child} was ended by SIGKILL; it is started again in 1 s" in started.output)

    def successor() -> bool:
        with contextlib.suppress(ValueError):
            return the(child, family(started.pid)) != dead
        return False

    eventually(successor)
    up.append("a@example.com")
    up.await_total(Status.ACCEPTED, 1)
    started.send(signal.SIGTERM)
    assert started.wait() == 0


def test_a_server_that_dies_is_started_again(up: Up, eventually: Eventually) -> None:
    started = up.start()
    url = up.url
    server = the("server", family(started.pid))
    os.kill(server, signal.SIGKILL)
    eventually(lambda: "server has died" in started.output and up.url is not None)
    assert up.url == url
    up.append("a@example.com")
    up.await_total(Status.ACCEPTED, 1)
    started.send(signal.SIGTERM)
    assert started.wait() == 0


def test_with_a_redis_given_it_starts_no_server(up: Up, redis_url: str, eventually: Eventually) -> None:
    started = up.run("--no-beat", VOLLEY_REDIS_URL=redis_url)
    eventually(lambda: up.status(redis_url).accept_tasks or not started.is_running)
    assert len(family(started.pid)) == 2
    started.send(signal.SIGTERM)
    assert started.wait() == 0
    assert not up.folder.exists()


def test_it_runs_in_a_folder_whose_packages_have_the_names_of_ours(
    up: Up, tmp_path: Path, processes: Processes
) -> None:
    elsewhere = tmp_path / "shop"
    for package in ("tasks", "config", "worker"):
        (elsewhere / package).mkdir(parents=True)
        (elsewhere / package / "__init__.py").write_text("raise SystemExit('the wrong package')")
    started = processes.python(
        "-c",
        "import sys; sys.path.remove(''); from worker.cli import main; main(sys.argv[1:])",
        *("up", "--data", str(up.folder)),
        environ=up.environ,
        cwd=elsewhere,
    )
    up.await_accepting(started)
    up.append("a@example.com")
    up.await_total(Status.ACCEPTED, 1)
    started.send(signal.SIGTERM)
    assert started.wait() == 0


def test_a_second_one_on_the_same_folder_is_refused(up: Up) -> None:
    first = up.start()
    second = up.run()
    assert second.wait() == 1
    assert second.output == (
        f"volley: {up.folder} is in use by process {first.pid}: stop that one, or use another data folder.\n"
    )
    first.send(signal.SIGTERM)
    assert first.wait() == 0


@pytest.mark.parametrize(
    ("options", "environ", "sentence"),
    [
        ((), {"VOLLEY_PASSCODE": ""}, r"volley: .*VOLLEY_PASSCODE is not: .*\.\n"),
        ((), {"VOLLEY_REDIS_URL": "nonsense"}, r"volley: VOLLEY_REDIS_URL must be a URL.*\.\n"),
        (("--log-level", "loud"), {}, r"volley: VOLLEY_LOG_LEVEL is 'loud' but .*\.\n"),
    ],
)
def test_wrong_settings_are_one_sentence(
    up: Up, options: tuple[str, ...], environ: dict[str, str], sentence: str
) -> None:
    refused = up.run(*options, **environ)
    assert refused.wait() == 2
    assert re.fullmatch(sentence, refused.output), refused.output
    assert not up.folder.exists()


def test_a_closed_pipe_ends_it(up: Up, processes: Processes) -> None:
    started = processes.start(
        *("sh", "-c", '"$0" -m worker up --data "$1" | head -n 1', sys.executable, str(up.folder)),
        environ=up.environ,
    )
    assert started.wait() == 0
    assert "server redis://" in started.output
    assert up.url is None


def test_help_names_every_option() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "worker", "up", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for option in ("--data", "--concurrency", "--no-beat", "--log-level"):
        assert option in shown
