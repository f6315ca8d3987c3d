"""The processes of a run: workers of both pools, beat, the server, and the networks between them."""

from __future__ import annotations

import os
import random
import signal
import struct
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from redis.exceptions import RedisError, ResponseError

from config.settings import load
from tests.chaos.evidence import Cause, Evidence, Trouble, Watch, group_of, ports_of
from tests.chaos.plan import DEADLINE_SECONDS, LEASE_SECONDS
from tests.chaos.proxy import Call, FaultyNetwork
from tests.conftest import Process, Processes
from worker.clevertap.sandbox import Sandbox, SandboxOptions
from worker.store import Store, open_store
from worker.store.connection import connect
from worker.store.embedded import EmbeddedServer

#: The API's latency, milliseconds.
LATENCY_MS = (30, 250)
#: Worker pools, and beat.
POOLS = ("threads", "threads", "prefork")
CLOCKS = Path(__file__).parent / "clock"
#: Seconds between two looks at the size of the append-only file.
_SAMPLE_SECONDS = 0.1
#: Bytes of the server's memory that are filled up.
_BALLAST_BYTES = 4_000_000


@dataclass(slots=True)
class Part:
    """A place for a process that is started again whenever it ends."""

    name: str
    command: tuple[str, ...]
    environ: dict[str, str]
    clock: Path
    process: Process | None = None
    starts: int = 0
    stopping: bool = False
    #: Process ids that are frozen.
    frozen: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Loss:
    """A crash of the server's machine: what was confirmed in between (epoch seconds) may be gone."""

    since: float
    until: float


class Stage:
    """Starts everything in a folder; `close` ends everything."""

    def __init__(self, folder: Path, seed: int, binary: Path | None = None) -> None:
        self._open = ExitStack()
        self._dice = random.Random(seed)
        self.losses: list[Loss] = []
        self.evidence = Evidence()
        self.server = EmbeddedServer(folder / "server", fsync="always", ends_with_parent=True, binary=binary)
        self._everysec = False
        self._sizes: list[tuple[float, Path, int]] = []
        try:
            self._open.callback(self.server.stop)
            self.server.start()
            self.redis = connect(self.server.url)
            self._open.callback(self.redis.close)
            self.configure()
            self.sandbox = self._open.enter_context(
                Sandbox(SandboxOptions(latency_ms=LATENCY_MS, seed=seed, requests_kept=1_000_000))
            )
            self.redis_network = self._network(self.server.url)
            self.api_network = self._network(self.sandbox.url, self.evidence.calls)
            self.environ = {
                "VOLLEY_REDIS_URL": f"redis://127.0.0.1:{self.redis_network.port}/0",
                "VOLLEY_BASE_URL": f"http://127.0.0.1:{self.api_network.port}",
                "VOLLEY_ACCOUNT_ID": "CHAOS",
                "VOLLEY_PASSCODE": "chaos-passcode",
                "VOLLEY_TOKEN": "chaos-token",
                "VOLLEY_REQUEST_DEADLINE": f"{DEADLINE_SECONDS:g}",
                "VOLLEY_PERMIT_LEASE": f"{LEASE_SECONDS:g}",
                "VOLLEY_BACKOFF_BASE": "0.2",
                "VOLLEY_BACKOFF_CAP": "1",
                "VOLLEY_MAX_ATTEMPTS": "100",
                "VOLLEY_IDLE_EXIT": "30",
            }
            self.store: Store = open_store(
                load({**self.environ, "VOLLEY_REDIS_URL": self.server.url}), "default"
            )
            self._open.callback(self.store.close)
            self._watch = Watch(self.server.url, self.evidence)
            self._watch.start()
            self._open.callback(self._watch.stop)
            self._processes = Processes(folder)
            self._open.callback(self._end_processes)
            alone = ("--without-gossip", "--without-mingle", "--without-heartbeat")
            self.workers = [
                self._part(folder, f"worker {n} ({pool})", ("worker", *alone, "-n", f"w{n}@%h"), pool)
                for n, pool in enumerate(POOLS, 1)
            ]
            self.beat = self._part(folder, "beat", ("beat",), "threads")
            self.parts = [*self.workers, self.beat]
            self._sampling = threading.Thread(target=self._sample, name="sampling", daemon=True)
            self._sampled = threading.Event()
            self._open.callback(self._sampled.set)
            self._sampling.start()
        except BaseException:
            self._open.close()
            raise

    def close(self) -> None:
        """Ends all processes, the networks, the sandbox and the server."""
        self._open.close()

    def supervise(self) -> None:
        """Starts what does not run, as a supervisor does."""
        for part in self.parts:
            if part.process is None or not part.process.is_running:
                if part.process is not None:
                    # What is left of its group goes with it, as with a container's end.
                    self._kill_group(part)
                part.process = self._processes.python(
                    "-m", "celery", "-A", "worker.app", *part.command, environ=part.environ
                )
                part.starts += 1
                part.stopping = False
                part.frozen.clear()

    def await_waiting(self, seconds: float = 60) -> None:
        """Until a worker waits at the intake. Raises TimeoutError."""
        end = time.monotonic() + seconds
        while not self.store.status().accept_tasks:
            if time.monotonic() > end:
                raise TimeoutError(f"no worker is up after {seconds} s")
            self.supervise()
            time.sleep(0.05)

    @property
    def restarts(self) -> int:
        """Processes that were started again."""
        return sum(part.starts - 1 for part in self.parts)

    # -- processes

    def running(self) -> list[Part]:
        """The workers that run now."""
        return [part for part in self.workers if part.process is not None and part.process.is_running]

    def kill(self, part: Part, *, group: bool) -> bool:
        """SIGKILL to a process, with its children or alone; whether it ran."""
        if part.process is None or not part.process.is_running:
            return False
        if group:
            self._kill_group(part)
        else:
            # The children of a pool end by themselves when they find it gone, whatever they are at.
            self._seize(part, [part.process.pid], Cause.KILL, orphans=tuple(self._children(part)))
            part.process.send(signal.SIGKILL)
        return True

    def kill_child(self, dice: float) -> bool:
        """SIGKILL to one child of a pool; whether there was one."""
        children = [(part, child) for part in self.workers for child in self._children(part)]
        if not children:
            return False
        part, child = children[int(dice * len(children))]
        self._seize(part, [child], Cause.KILL)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        return True

    def terminate(self, part: Part) -> bool:
        """SIGTERM; whether it ran."""
        if part.process is None or not part.process.is_running or part.stopping:
            return False
        part.stopping = True
        part.process.send(signal.SIGTERM)
        return True

    def freeze(self, part: Part, dice: float) -> bool:
        """SIGSTOP to a worker, or to one child of its pool; whether it ran."""
        if part.process is None or not part.process.is_running or part.frozen:
            return False
        ids = [part.process.pid, *self._children(part)]
        part.frozen += self._seize(part, ids if dice < 0.5 else ids[-1:], Cause.FREEZE)
        return True

    def thaw(self, part: Part) -> None:
        """SIGCONT to what is frozen of it and has not been killed meanwhile."""
        if part.process is not None and part.process.is_running:
            for each in set(part.frozen) & {part.process.pid, *self._children(part)}:
                with suppress(ProcessLookupError):
                    os.kill(each, signal.SIGCONT)
        part.frozen.clear()
        # The plan freezes one part at a time.
        for trouble in self.evidence.troubles:
            if trouble.cause is Cause.FREEZE:
                trouble.until = min(trouble.until, time.time())

    def _kill_group(self, part: Part) -> None:
        """SIGKILL to a process that may have ended already, and to all that lives in its group."""
        assert part.process is not None
        if members := group_of(part.process.pid):
            self._seize(part, members, Cause.KILL)
        part.process.kill()

    def _seize(
        self, part: Part, pids: list[int], cause: Cause, *, orphans: tuple[int, ...] = ()
    ) -> list[int]:
        """SIGSTOP, and a note of the connections that they have at that instant; those that there were.

        A process that is killed is stopped first: between the look and the kill it can begin no call. Beat
        delivers nothing, so its end is not noted.
        """
        at = time.time()
        stopped = []
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                stopped.append(pid)
        if part is not self.beat:
            until = inf if cause is Cause.FREEZE else at
            ports = ports_of([*stopped, *orphans], self.api_network.port)
            self.evidence.troubles.append(Trouble(cause, at, until, ports))
            self._watch.look()
        return stopped

    def shift_clock(self, part: Part, seconds: float) -> None:
        """The wall clock of a worker is wrong by so much from now on."""
        with part.clock.open("r+b") as file:
            file.write(struct.pack("d", seconds))

    def _part(self, folder: Path, name: str, command: tuple[str, ...], pool: str) -> Part:
        clock = folder / f"clock-{name.partition(' (')[0].replace(' ', '-')}"
        clock.write_bytes(struct.pack("d", 0.0))
        path = os.pathsep.join([str(CLOCKS), str(CLOCKS.parents[2])])
        environ = {**self.environ, "VOLLEY_POOL": pool, "CHAOS_CLOCK": str(clock), "PYTHONPATH": path}
        return Part(name, command, environ, clock)

    @staticmethod
    def _children(part: Part) -> list[int]:
        if part.process is None or not part.process.is_running:
            return []
        pid = part.process.pid
        with suppress(OSError):
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return []

    def _end_processes(self) -> None:
        for part in self.parts if hasattr(self, "parts") else ():
            if part.process is not None:
                part.process.kill()

    # -- the networks

    def note(self, cause: Cause) -> Trouble:
        """A trouble that begins now; whoever ends it says so."""
        trouble = Trouble(cause, time.time(), time.time() if cause is Cause.API else inf)
        self.evidence.troubles.append(trouble)
        return trouble

    # -- the server

    def configure(self) -> None:
        """What the server is told after each start, beside its own settings."""
        self.redis.config_set("auto-aof-rewrite-percentage", 0)
        self.redis.config_set("appendfsync", "everysec" if self._everysec else "always")

    def everysec(self) -> None:
        """From now on the server syncs its file every second."""
        self._everysec = True
        # If it is away just now, it is told when it comes back.
        with suppress(RedisError):
            self.configure()

    def crash(self) -> None:
        """SIGKILL to the server; with `everysec` as if its machine crashed: what was not synced is gone."""
        self._watch.look()
        before = time.time()
        self._crashed = self.note(Cause.CRASH)
        self.server.kill()
        if self._everysec:
            kept = [sample for sample in self._sizes if before - 1 <= sample[0] <= before]
            if kept:
                at, file, size = kept[0]
                with file.open("r+b") as opened:
                    opened.truncate(size)
                self.losses.append(Loss(at - _SAMPLE_SECONDS, before + 0.1))
                self._crashed.took_back = True
        self._sizes.clear()

    def revive(self) -> None:
        """Starts the server again, at its port."""
        url = self.server.url
        if self.server.start() != url:
            raise RuntimeError("the server's port was taken meanwhile")
        self._crashed.until = time.time()
        self._watch.look()
        self.configure()

    def fill(self) -> None:
        """Fills the server's memory: from now on it refuses whatever takes more."""
        used = int(self.redis.info("memory")["used_memory"])
        self.redis.config_set("maxmemory", used + _BALLAST_BYTES)
        with suppress(ResponseError):
            for number in range(_BALLAST_BYTES // 100_000 + 10):
                self.redis.set(f"ballast:{number}", b"x" * 100_000)

    def free(self) -> None:
        """Frees the memory again."""
        self.redis.config_set("maxmemory", 0)
        for key in self.redis.scan_iter("ballast:*"):
            self.redis.delete(key)

    def _sample(self) -> None:
        """Notes how large the append-only file was when."""
        folder = self.server.folder / "appendonlydir"
        while not self._sampled.wait(_SAMPLE_SECONDS):
            with suppress(OSError, RedisError):
                file = max(folder.glob("*.incr.aof"), key=lambda path: path.stat().st_mtime, default=None)
                if file is not None:
                    now = time.time()
                    self._sizes = [*self._sizes[-20:], (now, file, file.stat().st_size)]

    def _network(self, url: str, calls: list[Call] | None = None) -> FaultyNetwork:
        port = int(url.rpartition(":")[2].partition("/")[0])
        return self._open.enter_context(FaultyNetwork(port, calls))
