"""The command line in this process, on the shared server, with a worker's engine and a sandbox beside it."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from config.settings import Settings, load
from worker.clevertap.client import Client
from worker.clevertap.sandbox import Sandbox
from worker.cli import main
from worker.engine import Engine
from worker.store import Store, open_store


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The JSON objects that it printed, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]


Volley = Callable[..., Ran]


@pytest.fixture
def environ(redis_url: str, sandbox: Sandbox) -> dict[str, str]:
    return {
        "VOLLEY_REDIS_URL": redis_url,
        "VOLLEY_BASE_URL": sandbox.url,
        "VOLLEY_ACCOUNT_ID": "cli-account",
        "VOLLEY_PASSCODE": "cli-passcode",
        "VOLLEY_TOKEN": "cli-token",
        "VOLLEY_REQUEST_DEADLINE": "2",
        "VOLLEY_MAX_ATTEMPTS": "1",
    }


@pytest.fixture
def volley(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Volley:
    """`volley("outcomes", "--json", stdin=b"")`: runs a command line."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        said = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return Ran(code, said.out, said.err)

    return run


@pytest.fixture
def settings(environ: dict[str, str]) -> Settings:
    return load(environ)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    opened = open_store(settings, "default")
    yield opened
    opened.close()


@pytest.fixture
def work(settings: Settings, store: Store) -> Iterator[Callable[[], None]]:
    """Does what a worker does: accepts all that waits at the intake, then sends all that is due."""
    with Client() as client:
        engine = Engine(settings, settings.account(), store, client)

        def until_idle() -> None:
            while store.status().intake:
                engine.wait_and_accept(0.01, lambda: False)
            engine.deliver(60, lambda: False)

        yield until_idle


@pytest.fixture
def append(store: Store) -> Callable[..., str]:
    """Appends one trigger and returns its entry id."""
    count = iter(range(1_000_000))

    def one(
        *emails: str,
        campaigns: list[int] | None = None,
        content: dict[str, str] | None = None,
        **keys: object,
    ) -> str:
        trigger = {
            "to": {"email": list(emails)},
            "campaign_id_list": campaigns or [65],
            "ExternalTrigger": content or {"Name": "A"},
            **keys,
        }
        return store.intake.append([json.dumps(trigger).encode()], f"test-{next(count)}")[0]

    return one
