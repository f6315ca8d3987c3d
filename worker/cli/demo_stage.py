"""The demo's stage: an embedded server, a sandbox, and real worker and beat processes, all for one run.

Whatever happens, all of it ends with the block: by its end where it is left, and by the kernel (on Linux)
where this process is killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import worker
from config.settings import Settings, load
from worker.clevertap.sandbox import Credentials, Sandbox, SandboxOptions
from worker.cli.app import Refusal
from worker.cli.demo_day import Day
from worker.store import Store, open_store
from worker.store.embedded import EmbeddedServer
from worker.store.tether import tethered

#: Short, so that a request that hangs ends within the demo.
DEADLINE_SECONDS, LEASE_SECONDS = 3, 9
#: Seconds that worker and beat have to end before they are killed.
_STOP_SECONDS = 10.0
#: Lines of a log that a failure shows.
_LOG_LINES = 15


@dataclass(frozen=True, slots=True)
class Stage:
    """What the demo acts on. ``processes`` are by name: worker and beat."""

    folder: Path
    settings: Settings
    sandbox: Sandbox
    store: Store
    processes: Mapping[str, subprocess.Popen[bytes]]

    def check_running(self) -> None:
        """Raises Refusal, with the end of its log, where a process has ended by itself."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                lines = (self.folder / f"{name}.log").read_text(errors="replace").splitlines()
                end = "\n".join(lines[-_LOG_LINES:])
                raise Refusal(f"The {name} ended with code {process.returncode}. The end of its log:\n{end}")


@contextmanager
def staged(day: Day, *, latency_ms: float, keep: bool) -> Iterator[Stage]:
    """Sets the stage, gives it once all was started, and clears it; ``keep`` and a Refusal leave the folder.

    Only in the main thread: the processes are tied to the thread that starts them.
    """
    folder = Path(tempfile.mkdtemp(prefix="volley-demo-"))
    try:
        with _running(day, folder, latency_ms, append_only=keep) as stage:
            yield stage
    except Refusal:
        keep = True
        raise
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running(day: Day, folder: Path, latency_ms: float, *, append_only: bool) -> Iterator[Stage]:
    with ExitStack() as stack:
        account, passcode, token = "demo-account", token_hex(8), token_hex(8)
        options = SandboxOptions(
            credentials={account: Credentials(passcode, token)},
            latency_ms=(latency_ms * 0.7, latency_ms * 1.3),
            campaigns=day.campaigns,
            bad_recipients=day.bad_recipients,
            faults=day.faults,
        )
        sandbox = stack.enter_context(Sandbox(options))
        server = stack.enter_context(EmbeddedServer(folder, append_only=append_only, ends_with_parent=True))
        volley = {
            "VOLLEY_REDIS_URL": server.url,
            "VOLLEY_BASE_URL": sandbox.url,
            "VOLLEY_ACCOUNT_ID": account,
            "VOLLEY_PASSCODE": passcode,
            "VOLLEY_TOKEN": token,
            "VOLLEY_REQUEST_DEADLINE": str(DEADLINE_SECONDS),
            "VOLLEY_PERMIT_LEASE": str(LEASE_SECONDS),
            "VOLLEY_BACKOFF_BASE": "0.5",
        }
        settings = load(volley)
        store = open_store(settings, "default")
        stack.callback(store.close)
        processes: dict[str, subprocess.Popen[bytes]] = {}
        stack.callback(_end, processes)
        for name in ("worker", "beat"):
            processes[name] = _start(name, folder, volley)
        yield Stage(folder, settings, sandbox, store, processes)


def _start(name: str, folder: Path, volley: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """``celery -A worker.app worker`` or ``beat``, with no setting but ours, logging to a file."""
    environ = {key: value for key, value in os.environ.items() if not key.upper().startswith("VOLLEY_")}
    project = str(Path(worker.__file__).resolve().parents[1])
    path = os.pathsep.join([project, *filter(None, [environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "celery", "-A", "worker.app", name]
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(  # noqa: S603  # nothing in it comes from outside
            tethered(command, signal.SIGKILL),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**environ, **volley, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for the demo, which ends them
        )


def _end(processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
    try:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
