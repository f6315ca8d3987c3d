"""The rights that docs/security.md gives to each role are enough for it, and no more, on the real server."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from redis import Redis
from redis.exceptions import NoPermissionError

from config.celeryconfig import ENQUEUE_QUEUE
from config.settings import load
from worker.clevertap.sandbox import CampaignState, Fault, FaultKind, Sandbox
from worker.cli.app import ExitCode, main
from worker.core.model import Status
from worker.store import Store, open_store
from worker.store.connection import connect
from worker.store.embedded import EmbeddedServer
from worker.store.outcomes import Filter

if TYPE_CHECKING:
    from tests.conftest import Eventually, Processes

PAGE = Path(__file__).resolve().parents[2] / "docs" / "security.md"
INTAKE = "volley:{default}:intake"
PASSWORD = "a-password-of-this-test"


def roles() -> dict[str, list[str]]:
    """The users that the page describes: name to rules."""
    lines = re.findall(r"^user (\S+) on >… (.+)$", PAGE.read_text(), re.MULTILINE)
    return {name: rules.split() for name, rules in lines}


class Guarded:
    """A server whose users are those of the page, and its default user, who looks on."""

    def __init__(self, server: EmbeddedServer) -> None:
        self.admin: Any = connect(server.url)
        self.host = server.url.removeprefix("redis://")
        for name, rules in roles().items():
            self.admin.execute_command("ACL", "SETUSER", name, "reset", "on", f">{PASSWORD}", *rules)

    def url(self, role: str) -> str:
        """As that role."""
        return f"redis://volley-{role}:{PASSWORD}@{self.host}"

    def refusals(self) -> list[str]:
        """What was asked for and not allowed, but for a client's greeting, which may be refused."""
        found = [one for one in self.admin.acl_log() if one["object"] != "client|setinfo"]
        return [
            f"{one['username']}: {one['reason']} {one['object']} ({one['client-info']['cmd']})"
            for one in found
        ]


@pytest.fixture
def guarded(tmp_path: Path, server_binary: Path | None) -> Iterator[Guarded]:
    with EmbeddedServer(tmp_path / "server", ends_with_parent=True, binary=server_binary) as server:
        made = Guarded(server)
        yield made
        sys.stdout.write("\n".join(["refused:", *made.refusals()]))
        made.admin.close()


@pytest.fixture
def environ(guarded: Guarded, sandbox: Sandbox) -> dict[str, str]:
    return {
        "VOLLEY_REDIS_URL": guarded.url("worker"),
        "VOLLEY_BASE_URL": sandbox.url,
        "VOLLEY_ACCOUNT_ID": "account",
        "VOLLEY_PASSCODE": "passcode-1",
        "VOLLEY_TOKEN": "token-1",
        "VOLLEY_BACKOFF_BASE": "0.05",
        "VOLLEY_BACKOFF_CAP": "0.1",
        "VOLLEY_REQUEST_DEADLINE": "2",
        "VOLLEY_PERMIT_LEASE": "7",
    }


@pytest.fixture
def store(environ: dict[str, str]) -> Iterator[Store]:
    opened = open_store(load(environ), "default")
    yield opened
    opened.close()


def trigger(*people: str, campaign: int = 65, **keys: object) -> dict[str, Any]:
    return {"to": {"identity": people}, "campaign_id": campaign, "ExternalTrigger": {"Name": "A"}, **keys}


def test_a_producer_appends_and_does_nothing_else(guarded: Guarded) -> None:
    with Redis.from_url(guarded.url("producer")) as producer:
        assert producer.xadd(INTAKE, {"trigger": json.dumps(trigger("a"))})
        attempts: list[tuple[str, ...]] = [
            ("XRANGE", INTAKE, "-", "+"),
            ("XREAD", "STREAMS", INTAKE, "0"),
            ("XREADGROUP", "GROUP", "volley", "x", "STREAMS", INTAKE, ">"),
            ("XGROUP", "CREATE", INTAKE, "volley", "0"),
            ("XLEN", INTAKE),
            ("XDEL", INTAKE, "1-1"),
            ("XTRIM", INTAKE, "MAXLEN", "0"),
            ("XACK", INTAKE, "volley", "1-1"),
            ("XINFO", "STREAM", INTAKE),
            ("DEL", INTAKE),
            ("TYPE", INTAKE),
            ("XADD", "volley:{default}:dead", "*", "a", "b"),
            ("XADD", "volley:{other}:intake", "*", "a", "b"),
            ("XADD", f"{INTAKE}x", "*", "a", "b"),
            ("SADD", "volley:{default}:paused", "*"),
            ("GET", "volley:{default}:schema"),
            ("LPUSH", ENQUEUE_QUEUE, "x"),
            ("EVAL", "return redis.call('XLEN', KEYS[1])", "1", INTAKE),
            ("SCRIPT", "FLUSH"),
            ("KEYS", "*"),
            ("SCAN", "0"),
            ("CONFIG", "GET", "*"),
            ("FLUSHALL",),
            ("PUBLISH", "/0.celery.pidbox", "x"),
            ("ACL", "LIST"),
            ("SHUTDOWN",),
        ]
        for attempt in attempts:
            with pytest.raises(NoPermissionError):
                producer.execute_command(*attempt)
    assert guarded.admin.xlen(INTAKE) == 1
    assert guarded.admin.keys("*") == [INTAKE.encode()]


def test_a_producer_with_celery_enqueues_and_reads_nothing(guarded: Guarded) -> None:
    with Celery("a producer", broker=guarded.url("celery"), set_as_current=False) as app:
        app.send_task("triggers.enqueue", args=[trigger("a")], queue=ENQUEUE_QUEUE)
    assert guarded.admin.llen(ENQUEUE_QUEUE) == 1
    assert guarded.refusals() == []
    with Redis.from_url(guarded.url("celery")) as producer:
        for attempt in (
            ("RPOP", ENQUEUE_QUEUE),
            ("LRANGE", ENQUEUE_QUEUE, "0", "-1"),
            ("LPUSH", "volley.sweep", "x"),
            ("XADD", INTAKE, "*", "a", "b"),
            ("PUBLISH", "/0.celery.pidbox", "x"),
            ("HGETALL", "unacked"),
        ):
            with pytest.raises(NoPermissionError):
                producer.execute_command(*attempt)


def test_workers_and_beat_need_no_more_than_their_rights(
    *,
    guarded: Guarded,
    environ: dict[str, str],
    store: Store,
    sandbox: Sandbox,
    processes: Processes,
    eventually: Eventually,
) -> None:
    sandbox.change(campaigns={"66": CampaignState.STOPPED, "67": CampaignState.MISSING})
    sandbox.add_fault(Fault(kind=FaultKind.ANSWER, status=503, times=1, campaign="70"))
    sandbox.add_fault(Fault(kind=FaultKind.ANSWER, status=429, times=1, campaign="71"))
    sandbox.add_fault(Fault(kind=FaultKind.CUT, times=1, campaign="72"))
    worker = processes.python("-m", "celery", "-A", "worker.app", "worker", environ=environ)
    beat = processes.python("-m", "celery", "-A", "worker.app", "beat", environ=environ)
    now = time.time()
    triggers = [
        trigger("a", "b"),
        trigger("a", "b"),
        trigger("a", campaign=66),
        trigger("a", campaign=67),
        trigger("a", "c", campaign=70),
        trigger("a", campaign=71),
        trigger("a", campaign=72),
        trigger("later", send_at=now + 1),
        trigger("too late", expires_at=now - 1),
        trigger(*(f"u{i}" for i in range(1200)), campaign=73),
    ]
    with Redis.from_url(guarded.url("producer")) as producer:
        for each in triggers:
            producer.xadd(INTAKE, {"trigger": json.dumps(each)})
        producer.xadd(INTAKE, {"no": "trigger"})
    with Celery("a producer", broker=guarded.url("celery"), set_as_current=False) as app:
        app.send_task("triggers.enqueue", args=[trigger("by celery")], queue=ENQUEUE_QUEUE)

    total = 2 + 2 + 1 + 1 + 2 + 1 + 1 + 1 + 1 + 1200 + 1

    def ended() -> bool:
        snapshot = store.status()
        return not snapshot.live and sum(snapshot.counts.values()) == total and not snapshot.intake

    eventually(ended, 60)
    assert guarded.refusals() == []
    assert beat.is_running
    assert worker.is_running
    assert store.status().dead_letters == 1


def test_every_command_needs_no_more_than_the_workers_rights(
    *,
    guarded: Guarded,
    environ: dict[str, str],
    store: Store,
    sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from worker.clevertap.client import Client
    from worker.engine import Engine

    settings = load(environ)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "triggers.ndjson"
    people = [trigger("a", "b"), trigger("c", campaign=67), trigger("d", campaign=68)]
    file.write_text("\n".join(map(json.dumps, people)))
    sandbox.change(campaigns={"67": CampaignState.MISSING})
    with Client(connections=1) as http:
        engine = Engine(settings, settings.account(), store, http)

        def work() -> None:
            while store.status().intake:
                engine.wait_and_accept(0.01, lambda: False)
            engine.sweep()
            engine.deliver(30, lambda: False)
            engine.retain()

        engine.bury(b"\xff", "here", "is not JSON")
        store.door.remember_bad([store_recipient("x")], 60_000)
        run: Callable[..., None] = lambda *line, code=ExitCode.OK: _run(line, code)  # noqa: E731
        run("enqueue", str(file))
        run("pause", "68", "--yes")
        work()
        run("status")
        run("status", "--json")
        run("outcomes")
        run("outcomes", "--recipient", "a")
        run("retry", "--yes")
        run("cancel", "--campaign", "68", "--yes")
        run("resume", "68", "67", "--yes")
        run("pause", "--all", "--yes")
        run("resume", "--all", "--yes")
        run("bad")
        run("bad", "remove", "x", "--yes")
        run("dead", "--show-trigger")
        run("dead", "put-back", "--all", "--yes")
        work()
        letters = [letter.id for letter in store.intake.dead_letters()]
        run("dead", "discard", *letters, "--yes")
    statuses = {outcome.status for outcome in store.outcomes.select(Filter())}
    assert statuses >= {Status.ACCEPTED, Status.CANCELLED}
    assert guarded.refusals() == []


def store_recipient(value: str) -> Any:
    from worker.core.model import Kind, Recipient

    return Recipient(Kind.IDENTITY, value)


def _run(line: tuple[str, ...], code: ExitCode) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(line))
    sys.stdout.flush()
    assert ended.value.code == code, line


def test_workers_of_one_account_reach_no_other_account(guarded: Guarded, environ: dict[str, str]) -> None:
    with open_store(load(environ), "default")._client as worker:
        for attempt in (
            ("XRANGE", "volley:{other}:intake", "-", "+"),
            ("HGETALL", "volley:{other}:counts"),
            ("GET", "anything"),
            ("EVAL", "return redis.call('GET', 'volley:{other}:schema')", "0"),
            ("CONFIG", "GET", "requirepass"),
            ("KEYS", "*"),
            ("FLUSHALL",),
            ("FLUSHDB",),
            ("ACL", "LIST"),
            ("SHUTDOWN",),
            ("REPLICAOF", "NO", "ONE"),
            ("MONITOR",),
        ):
            with pytest.raises(Exception, match=r"(?i)permission|NOPERM|ACL failure"):
                worker.execute_command(*attempt)
