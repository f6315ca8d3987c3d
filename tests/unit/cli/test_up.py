"""What `volley up` asks of its supervisor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import worker.cli.up  # noqa: F401  # registers the command
from worker.cli.app import app


def test_a_worker_may_end_when_the_permits_of_its_slowest_account_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    class Supervisor:
        def __init__(self, *_: Any, patience_seconds: float, **__: Any) -> None:
            asked.append(patience_seconds)

        def run(self) -> bool:
            return True

    (tmp_path / "volley.toml").write_text(
        '[accounts.shop]\naccount_id = "B"\npasscode = "p"\nrequest_deadline = 40\npermit_lease = 120\n'
    )
    environ = {"ACCOUNT_ID": "A", "PASSCODE": "p", "REDIS_URL": "redis://127.0.0.1:1"}
    for name, value in {**environ, "CONFIG": str(tmp_path / "volley.toml")}.items():
        monkeypatch.setenv(f"VOLLEY_{name}", value)
    monkeypatch.setattr("worker.cli.supervisor.Supervisor", Supervisor)
    assert CliRunner().invoke(app, ["up"]).exit_code == 0
    assert asked == [120 + 15]
