"""A real worker and a real beat start with the configuration, take work from every queue, and end cleanly."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from celery import Celery

if TYPE_CHECKING:
    from tests.conftest import Eventually, Processes

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

@app.task(name="triggers.accept")
def accept(): print("ran accept", flush=True)

@app.task(name="triggers.enqueue")
def enqueue(trigger): print("ran enqueue", flush=True)

@app.task(name="deliveries.deliver")
def deliver(): print("ran deliver", flush=True)

@app.task(name="scheduled.sweep")
def sweep(): print("ran sweep", flush=True)
"""


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_worker_and_beat_started_without_options_run_every_queues_tasks(
    pool: str, tmp_path: Path, redis_url: str, processes: Processes, eventually: Eventually
) -> None:
    (tmp_path / "throwaway.py").write_text(APP)
    environ = {
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{PROJECT}",
        "VOLLEY_REDIS_URL": redis_url,
        "VOLLEY_ACCOUNT_ID": "ABC-123",
        "VOLLEY_PASSCODE": "invented-passcode",
        "VOLLEY_LOG_LEVEL": "debug",
        "VOLLEY_POOL": pool,
    }
    celery = ("-m", "celery", "-A", "throwaway")
    worker = processes.python(*celery, "worker", environ=environ, cwd=tmp_path)
    beat = processes.python(*celery, "beat", environ=environ, cwd=tmp_path)
    # By name and queue, as an app sends that does not know this project.
    foreign = Celery("foreign", broker=redis_url, set_as_current=False)
    foreign.send_task("triggers.accept", queue="volley.accept")
    foreign.send_task("triggers.enqueue", args=[{"to": {"email": ["a@b.example"]}}], queue="volley.enqueue")
    foreign.send_task("deliveries.deliver", queue="volley.deliver")
    foreign.close()
    # The sweep is what beat sends.
    ran = {"ran accept", "ran enqueue", "ran deliver", "ran sweep"}
    eventually(lambda: ran <= set(worker.output.splitlines()), seconds=60)
    for process in (worker, beat):
        process.send(signal.SIGTERM)
    assert [worker.wait(30), beat.wait(30)] == [0, 0]
    for told in (worker.output, beat.output):
        assert "invented-passcode" not in told
        assert "a@b.example" not in told
    assert not list(tmp_path.glob("celerybeat-schedule*"))
