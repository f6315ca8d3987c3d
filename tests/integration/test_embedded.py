"""The embedded server, as a real process: its data, its locks, and what is left when owners are killed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError

from worker.store import embedded
from worker.store.connection import connect
from worker.store.embedded import EmbeddedServer, EmbeddedServerError, FolderInUseError, running_url

if TYPE_CHECKING:
    from tests.conftest import Eventually, Process, Processes

OWNER = """
import sys, time
from pathlib import Path
from worker.store.embedded import EmbeddedServer
folder, binary, tied = sys.argv[1:]
binary = Path(binary) if binary else None
server = EmbeddedServer(Path(folder), ends_with_parent=tied == "tied", binary=binary)
server.start()
print("server", server.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def make(tmp_path: Path, server_binary: Path | None) -> Iterator[Callable[..., EmbeddedServer]]:
    """Makes servers, by default in the same folder; all of them have been stopped after the test."""
    made: list[EmbeddedServer] = []

    def make(folder: Path = tmp_path / "data", **options: Any) -> EmbeddedServer:
        made.append(EmbeddedServer(folder, binary=server_binary, **options))
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture
def start_owner(
    tmp_path: Path, processes: Processes, eventually: Eventually, server_binary: Path | None
) -> Iterator[Callable[..., tuple[Process, int]]]:
    """Starts another process that owns a server in the same folder; gives it and the server's process id."""
    folder = tmp_path / "data"

    def start(how: str = "free") -> tuple[Process, int]:
        owner = processes.python("-c", OWNER, str(folder), str(server_binary or ""), how)
        eventually(lambda: "server " in owner.output or not owner.is_running)
        return owner, int(owner.output.split()[1])

    yield start
    processes.end_all()
    with contextlib.suppress(EmbeddedServerError), EmbeddedServer(folder, binary=server_binary):
        pass  # takes over what is left, and stops it


def lives(pid: int) -> bool:
    """Whether a process runs; a zombie, which nobody in this container may wait for, does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def on(server: EmbeddedServer) -> Redis:
    client: Redis = connect(server.url)
    return client


def test_it_listens_on_loopback_and_evicts_nothing(make: Callable[..., EmbeddedServer]) -> None:
    server = make()
    assert server.start().startswith("redis://127.0.0.1:")
    with on(server) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
        assert client.config_get("append*")["appendonly"] == "yes"
        assert client.config_get("append*")["appendfsync"] == "everysec"
        assert client.config_get("save") == {"save": ""}


def test_a_second_start_finds_the_data_on_the_same_port(make: Callable[..., EmbeddedServer]) -> None:
    with make() as first, on(first) as client:
        client.set("kept", "yes")
        url = first.url
    second = make()
    assert second.start() == url
    with on(second) as client:
        assert client.get("kept") == b"yes"


def test_a_port_that_was_taken_meanwhile_is_left_to_its_taker(make: Callable[..., EmbeddedServer]) -> None:
    with make() as first, on(first) as client:
        client.set("kept", "yes")
        port = int((first.folder / "port").read_text())
    with socket.create_server(("127.0.0.1", port)):
        second = make()
        assert second.start() != f"redis://127.0.0.1:{port}/0"
        with on(second) as client:
            assert client.get("kept") == b"yes"


def test_another_server_at_the_noted_port_is_not_taken_for_ours(
    make: Callable[..., EmbeddedServer], tmp_path: Path
) -> None:
    other = make(tmp_path / "other")
    other.start()
    ours = make()
    ours.folder.mkdir()
    (ours.folder / "port").write_text((other.folder / "port").read_text())
    assert running_url(ours.folder) is None
    assert ours.start() != other.url
    with on(ours) as client:
        assert client.config_get("dir") == {"dir": str(ours.folder)}


def test_a_second_owner_is_told_the_folder_and_the_process(
    make: Callable[..., EmbeddedServer], start_owner: Callable[..., tuple[Process, int]]
) -> None:
    owner, _ = start_owner()
    second = make()
    with pytest.raises(FolderInUseError) as refused:
        second.start()
    assert str(second.folder) in str(refused.value)
    assert f"process {owner.pid}:" in str(refused.value)
    assert owner.is_running


def test_two_owners_in_one_process_do_not_share_a_folder(make: Callable[..., EmbeddedServer]) -> None:
    first = make()
    first.start()
    with pytest.raises(FolderInUseError):
        make().start()
    first.stop()
    make().start()


def test_a_server_whose_owner_was_killed_is_taken_over(
    make: Callable[..., EmbeddedServer],
    start_owner: Callable[..., tuple[Process, int]],
    eventually: Eventually,
) -> None:
    owner, pid = start_owner()
    owner.kill()
    heir = make(max_memory_bytes=100_000_000, fsync="always")
    heir.start()
    assert heir.pid == pid
    assert heir.is_running()
    with on(heir) as client:
        client.set("kept", "yes")
        assert client.config_get("maxmemory") == {"maxmemory": "100000000"}
        assert client.config_get("appendfsync") == {"appendfsync": "always"}
    heir.stop()
    assert not heir.is_running()
    eventually(lambda: not lives(pid))
    with make() as next_one, on(next_one) as client:
        assert next_one.pid != pid
        assert client.get("kept") == b"yes"


def test_a_server_that_was_taken_over_can_be_killed(
    make: Callable[..., EmbeddedServer],
    start_owner: Callable[..., tuple[Process, int]],
    eventually: Eventually,
) -> None:
    owner, pid = start_owner()
    owner.kill()
    heir = make()
    heir.start()
    heir.kill()
    eventually(lambda: not lives(pid))
    assert heir.pid is None
    assert heir.restart()
    assert heir.pid != pid


def test_a_server_that_does_not_answer_is_not_doubled(
    make: Callable[..., EmbeddedServer],
    start_owner: Callable[..., tuple[Process, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner, pid = start_owner()
    owner.kill()
    os.kill(pid, signal.SIGSTOP)
    try:
        monkeypatch.setattr(embedded, "_START_SECONDS", 0.1)
        with pytest.raises(EmbeddedServerError, match=f"does not answer .process {pid}. holds"):
            make().start()
    finally:
        os.kill(pid, signal.SIGCONT)
    monkeypatch.undo()
    heir = make()
    heir.start()
    assert heir.pid == pid


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent has ended")
def test_a_tied_server_ends_with_its_killed_owner(
    start_owner: Callable[..., tuple[Process, int]], eventually: Eventually
) -> None:
    owner, pid = start_owner("tied")
    assert lives(pid)
    owner.kill()
    eventually(lambda: not lives(pid))


def test_a_crash_loses_nothing_that_was_synced(make: Callable[..., EmbeddedServer]) -> None:
    server = make(fsync="always")
    url = server.start()
    with on(server) as client:
        client.set("kept", "yes")
    server.kill()
    assert not server.is_running()
    assert server.restart() == url
    with on(server) as client:
        assert client.get("kept") == b"yes"


def test_without_append_only_nothing_is_kept(make: Callable[..., EmbeddedServer]) -> None:
    server = make(append_only=False)
    server.start()
    with on(server) as client:
        client.set("kept", "no")
    server.restart()
    with on(server) as client:
        assert client.dbsize() == 0


def test_at_the_memory_limit_writes_are_refused(make: Callable[..., EmbeddedServer]) -> None:
    server = make(max_memory_bytes=1)
    server.start()
    with on(server) as client, pytest.raises(OutOfMemoryError):
        client.set("more", "data")


def test_a_server_that_cannot_start_shows_the_end_of_its_log(make: Callable[..., EmbeddedServer]) -> None:
    with make() as server, on(server) as client:
        client.set("kept", "yes")
    (manifest,) = (server.folder / "appendonlydir").glob("*.manifest")
    kept = manifest.read_text()
    manifest.write_text("nonsense\n")
    with pytest.raises(EmbeddedServerError) as failed:
        make().start()
    assert str(server.log_path) in str(failed.value)
    assert "Invalid AOF manifest" in str(failed.value)
    manifest.write_text(kept)
    with make() as mended, on(mended) as client:
        assert client.get("kept") == b"yes"


def test_a_folder_that_cannot_be_one_is_named(make: Callable[..., EmbeddedServer], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedServerError, match=r"/file cannot hold the data: "):
        make(tmp_path / "file").start()


def test_a_folder_may_have_any_name_and_is_private(
    make: Callable[..., EmbeddedServer], tmp_path: Path
) -> None:
    folder = tmp_path / "Übung \"1\" --port 7 'x' \\ %h"
    with make(folder) as server, on(server) as client:
        client.set("kept", "yes")
        assert folder.stat().st_mode & 0o077 == 0
        assert running_url(folder) == server.url
    with make(folder) as server, on(server) as client:
        assert client.get("kept") == b"yes"


def test_stopping_is_safe_at_any_time(make: Callable[..., EmbeddedServer]) -> None:
    server = make()
    server.stop()
    with pytest.raises(EmbeddedServerError):
        _ = server.url
    server.start()
    pid = server.pid
    assert server.start() == server.url
    assert server.pid == pid
    server.stop()
    server.stop()
    assert server.pid is None
    assert running_url(server.folder) is None
