"""A Redis that answers and refuses for now: whoever calls goes on as while it is away."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from config.settings import load
from worker.clevertap.client import Client
from worker.core.model import Status
from worker.engine import Engine
from worker.engine.settling import Settling
from worker.store import AWAY, open_store
from worker.store.connection import PASSING, RefusedError, connect
from worker.store.deliveries import Deliveries
from worker.store.embedded import EmbeddedServer
from worker.store.outcomes import Filter

if TYPE_CHECKING:
    from tests.conftest import Eventually
    from worker.clevertap.sandbox import Sandbox


class Server:
    """A server that refuses every write while it is told to."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.raw: Any = connect(url)

    def refuse(self, yes: bool) -> None:
        self.raw.config_set("min-replicas-to-write", int(yes))


@pytest.fixture
def server_of_moods(redis_url: str) -> Iterator[Server]:
    made = Server(redis_url)
    yield made
    made.refuse(False)
    made.raw.close()


class Run:
    """An engine that is driven by hand, with one trigger in its intake."""

    def __init__(self, url: str, sandbox: Sandbox) -> None:
        settings = load(
            {
                "VOLLEY_REDIS_URL": url,
                "VOLLEY_BASE_URL": sandbox.url,
                "VOLLEY_ACCOUNT_ID": "account",
                "VOLLEY_PASSCODE": "passcode-1",
                "VOLLEY_TOKEN": "token-1",
            }
        )
        self.store = open_store(settings, "default")
        self.http = Client(connections=1)
        self.engine = Engine(settings, settings.account(), self.store, self.http, hint=lambda: True)
        self.store.intake.open()
        body = {"to": {"identity": ["a"]}, "campaign_id": "65", "ExternalTrigger": {"Name": "A"}}
        self.engine.enqueue([orjson.dumps(body)], nonce="n")

    def statuses(self) -> list[Status]:
        return [outcome.status for outcome in self.store.outcomes.select(Filter())]

    def close(self) -> None:
        self.http.close()
        self.store.close()


@pytest.fixture
def run(server_of_moods: Server, sandbox: Sandbox) -> Iterator[Run]:
    made = Run(server_of_moods.url, sandbox)
    yield made
    made.close()


def in_pipeline(client: Any, transaction: bool) -> None:
    pipe = client.pipeline(transaction=transaction)
    pipe.get("b")
    pipe.set("a", 1)
    pipe.execute()


CALLS: dict[str, Callable[[Any], Any]] = {
    "command": lambda client: client.set("a", 1),
    "pipeline": lambda client: in_pipeline(client, False),
    "transaction": lambda client: in_pipeline(client, True),
    "script": lambda client: client.eval("#!lua\nreturn redis.call('SET', KEYS[1], 1)", 1, "a"),
    "registered script": lambda client: client.register_script("return redis.call('SET', KEYS[1], 1)")(["a"]),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_refusal_that_passes_is_one_whichever_way_the_command_takes(
    server_of_moods: Server, call: Callable[[Any], Any]
) -> None:
    server_of_moods.refuse(True)
    with pytest.raises(RefusedError, match="NOREPLICAS"):
        call(server_of_moods.raw)
    server_of_moods.refuse(False)
    # The connection goes on to serve: no reply was left unread.
    call(server_of_moods.raw)
    assert server_of_moods.raw.get("a") == b"1"


def test_a_server_that_runs_a_long_script_refuses_for_now(
    tmp_path: Path, server_binary: Path | None, eventually: Eventually
) -> None:
    def loop() -> None:
        with suppress(ResponseError, RedisConnectionError), connect(own.url) as other:
            other.eval("while true do end", 0)

    with (
        EmbeddedServer(tmp_path, ends_with_parent=True, binary=server_binary) as own,
        connect(own.url) as raw,
    ):
        raw.config_set("lua-time-limit", 20)
        busy = threading.Thread(target=loop)
        busy.start()

        def refused() -> bool:
            try:
                raw.get("a")
            except RefusedError as error:
                return str(error).startswith("BUSY ")
            return False

        try:
            eventually(refused)
        finally:
            eventually(raw.script_kill)
            busy.join(30)
        assert not busy.is_alive()


@pytest.mark.parametrize("word", sorted(PASSING))
def test_each_refusal_that_passes_counts_as_away(server_of_moods: Server, word: str) -> None:
    with pytest.raises(AWAY):
        server_of_moods.raw.eval("return redis.error_reply(ARGV[1])", 0, f"{word} for now")


def test_another_error_does_not_count_as_away(server_of_moods: Server) -> None:
    with pytest.raises(ResponseError) as caught:
        server_of_moods.raw.eval("return redis.error_reply(ARGV[1])", 0, "BUSYGROUP there is one")
    assert not isinstance(caught.value, AWAY)


def test_an_answer_is_kept_while_redis_refuses_to_record_it(
    run: Run, server_of_moods: Server, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = Settling.settle
    refusals: list[RefusedError] = []

    def refused_twice(*args: Any, **named: Any) -> bool:
        server_of_moods.refuse(len(refusals) < 2)
        try:
            return settle(*args, **named)
        except RefusedError as error:
            refusals.append(error)
            raise

    monkeypatch.setattr(Settling, "settle", refused_twice)
    run.engine.wait_and_accept(0.01, lambda: False)
    run.engine.deliver(30, lambda: False)
    assert len(refusals) == 2
    assert run.statuses() == [Status.ACCEPTED]
    assert sandbox.ledger.totals().requests == 1


def test_a_good_trigger_is_no_poison_while_redis_refuses(
    run: Run, server_of_moods: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Deliveries.start_accept

    def refused(*args: Any, **named: Any) -> Any:
        server_of_moods.refuse(True)
        return start(*args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Deliveries, "start_accept", refused)
        with pytest.raises(RefusedError):
            run.engine.wait_and_accept(0.01, lambda: False)
    server_of_moods.refuse(False)
    assert list(run.store.intake.dead_letters()) == []
    assert (run.statuses(), run.store.status().intake) == ([], 1)
    # The place at the intake ends with its lease, and what was read is free for others when nobody renews it.
    server_of_moods.raw.delete("volley:{default}:acceptors")
    monkeypatch.setattr("worker.engine.accepting.UNFINISHED_SECONDS", 0.0)
    run.engine.wait_and_accept(0.01, lambda: False)
    assert (run.statuses(), run.store.status().intake) == ([Status.PENDING], 0)
