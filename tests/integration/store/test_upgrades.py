"""Data that an older version wrote is carried through to outcomes; data of an unknown layout is left alone.

`tests/data/layout-1.json` was written by the version before layouts had numbers, with a clock that stood at
2024-01-01, and holds deliveries in every state. It is a list of commands; each character is a byte (Latin-1).
"""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from config.settings import load
from worker.clevertap.client import Client
from worker.clevertap.sandbox import Sandbox
from worker.cli.app import ExitCode, main
from worker.core.model import Reason, Status
from worker.engine import Engine
from worker.store import LayoutError, carrying_over
from worker.store.carrying_over import NOTICED_SECONDS, carry_over
from worker.store.connection import connect
from worker.store.schema import LAYOUT, RECHECK_SECONDS, Schema
from worker.store.scripts import source

if TYPE_CHECKING:
    from redis import Redis

    from tests.conftest import Eventually, Processes
    from tests.integration.store.conftest import Ground

DATA = Path(__file__).resolve().parents[2] / "data" / "layout-1.json"
SCHEMA = "volley:{default}:schema"


@pytest.fixture
def old(ground: Ground) -> dict[str, Any]:
    """The server holds what the older version left; which deliveries were what."""
    written = json.loads(DATA.read_text())
    ground.client.flushall()
    for command in written["commands"]:
        ground.client.execute_command(*(part.encode("latin-1") for part in command))
    deliveries: dict[str, Any] = written["deliveries"]
    return deliveries


@pytest.fixture
def environ(redis_url: str, sandbox: Sandbox) -> dict[str, str]:
    return {
        "VOLLEY_REDIS_URL": redis_url,
        "VOLLEY_BASE_URL": sandbox.url,
        "VOLLEY_ACCOUNT_ID": "account",
        "VOLLEY_PASSCODE": "passcode-1",
        "VOLLEY_TOKEN": "token-1",
    }


@pytest.fixture
def engine(ground: Ground, environ: dict[str, str]) -> Iterator[Engine]:
    settings = load(environ)
    with Client(connections=1) as client:
        yield Engine(settings, settings.account(), ground.store, client)


def test_what_an_older_version_wrote_is_read_as_it_was(old: dict[str, Any], ground: Ground) -> None:
    states = ground.states()
    waiting = ("waiting", "waiting_bulk", "waiting_2", "paused", "parked", "expires", "big_first_piece")
    expected = {
        **dict.fromkeys(old["accepted"], Status.ACCEPTED),
        **dict.fromkeys(old["rejected"], Status.REJECTED),
        **dict.fromkeys(old["failed"], Status.FAILED),
        **dict.fromkeys(old["unknown"], Status.UNKNOWN),
        **dict.fromkeys(old["duplicate"], Status.DUPLICATE),
        **dict.fromkeys(old["cancelled"], Status.CANCELLED),
        **dict.fromkeys(old["retrying"], Status.RETRYING),
        **dict.fromkeys(old["scheduled_then"] + old["scheduled_2050"], Status.SCHEDULED),
        **dict.fromkeys(old["splitting"], Status.PENDING),
        **dict.fromkeys(old["part_claimed"] + old["claimed"] + old["on_the_wire"], Status.IN_FLIGHT),
        **{number: Status.PENDING for label in waiting for number in old[label]},
    }
    assert states == expected
    (refused,) = ground.outcomes.of(old["rejected"])
    assert (refused.text, refused.reason, refused.recipient.value) == (
        "bad campaign",
        Reason.REFUSED,
        "rej1",
    )
    assert [o.duplicate_of for o in ground.outcomes.of(old["duplicate"])] == [2, 3]
    assert [o.delivery for o in ground.outcomes.by_producer_id("order-1")] == old["accepted"]
    assert {o.recipient.value for o in ground.outcomes.by_recipient("acc1")} == {"acc1"}
    assert ground.status().dead_letters == 1
    assert [letter.trigger for letter in ground.store.intake.dead_letters()] == [b"\xff{ not json"]
    carry_over(ground.client, ["default"], sleep=lambda _: None)
    ground.deliveries.retire()  # which counts anew what an older version did not count


def test_what_an_older_version_left_unfinished_is_carried_to_outcomes(
    old: dict[str, Any], ground: Ground, engine: Engine, sandbox: Sandbox, eventually: Eventually
) -> None:
    still = {*old["scheduled_2050"], *old["paused"]}
    carry_over(ground.client, ["default"], sleep=lambda _: None)

    def all_but_the_held_back_have_ended() -> bool:
        engine.sweep()
        engine.wait_and_accept(0.01, lambda: False)
        engine.deliver(30, lambda: False)
        snapshot = ground.status()
        return not snapshot.intake and snapshot.live == len(still)

    eventually(all_but_the_held_back_have_ended)
    ground.audit()
    ground.store.control.resume("74")
    ground.cancel(*old["scheduled_2050"])
    engine.requeue(ground.outcomes.of(old["failed"]))
    engine.deliver(30, lambda: False)

    ends = {number: (cell, ground.cell(number).reason) for number, cell in ground.states().items()}
    for label, status in {
        "accepted": Status.ACCEPTED,
        "rejected": Status.REJECTED,
        "failed": Status.ACCEPTED,  # an operator has sent it again
        "unknown": Status.UNKNOWN,
        "duplicate": Status.DUPLICATE,
        "cancelled": Status.CANCELLED,
        "retrying": Status.ACCEPTED,
        "scheduled_then": Status.ACCEPTED,
        "scheduled_2050": Status.CANCELLED,
        "splitting": Status.ACCEPTED,
        "claimed": Status.ACCEPTED,
        "on_the_wire": Status.UNKNOWN,
        "expires": Status.EXPIRED,
        "paused": Status.ACCEPTED,
        "parked": Status.ACCEPTED,
        "waiting": Status.ACCEPTED,
        "waiting_bulk": Status.ACCEPTED,
        "waiting_2": Status.ACCEPTED,
        "big_first_piece": Status.ACCEPTED,
    }.items():
        assert {ends[number][0] for number in old[label]} == {status}, label
    assert {ends[number][1] for number in old["on_the_wire"]} == {Reason.WORKER_DIED}
    assert ground.status().live == 0

    sent = Counter((pair.campaign, pair.recipient) for pair in sandbox.ledger.pairs())
    assert max(pair.count for pair in sandbox.ledger.pairs()) == 1
    by_us = {n for n, (end, _) in ends.items() if end is Status.ACCEPTED} - set(old["accepted"])
    assert sent == Counter((str(o.campaign), o.recipient.value) for o in ground.outcomes.of(sorted(by_us)))
    people = {person for _, person in sent}
    assert people >= {f"big{i}" for i in range(6)} | {"readonly", "unread"}
    assert not people & {"acc2@example.com", "can1", "wire1", "exp1", "unk1"}


def test_a_starting_worker_carries_the_dedupe_keys_of_the_layout_before_over(
    old: dict[str, Any], ground: Ground
) -> None:
    held = {key: int(ground.client.get(f"{ground.root}d:".encode() + key)) for key in old_keys(ground)}
    lives = sorted(ground.client.pttl(f"{ground.root}d:".encode() + key) for key in held)
    assert len(held) == 37
    waited: list[float] = []

    def others_notice(seconds: float) -> None:
        waited.append(seconds)
        assert ground.client.get(SCHEMA) == b"1>2", "which no version reads"
        assert len(old_keys(ground)) == len(held)

    carry_over(ground.client, ["default", "new"], sleep=others_notice)
    assert waited == [NOTICED_SECONDS]
    assert ground.dedupe_keys() == held
    assert old_keys(ground) == set()
    for life, before in zip(ground.dedupe_lives(), lives, strict=True):
        assert before - 30_000 < life <= before
    assert ground.client.get(SCHEMA) == str(LAYOUT).encode()
    carry_over(ground.client, ["default", "new"])  # at once, as nothing is left to do
    assert ground.client.get(SCHEMA) == str(LAYOUT).encode()
    ground.audit()


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize("number", [None, b"1", b"1>2"])
def test_nobody_but_a_starting_worker_touches_the_layout_before(
    ground: Ground, engine: Engine, number: bytes | None
) -> None:
    if number:
        ground.client.set(SCHEMA, number)
    before = everything(ground.client)
    for act in (
        ground.store.schema.verify,
        ground.store.progress,
        lambda: ground.store.intake.append([b"{}"], "nonce"),
        lambda: engine.wait_and_accept(0.01, lambda: False),
        engine.sweep,
    ):
        with pytest.raises(LayoutError, match="a worker of this version does so when it starts"):
            act()
    assert everything(ground.client) == before


@pytest.mark.usefixtures("old")
def test_whoever_dies_while_he_carries_over_is_followed_by_one_who_goes_on(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {key: int(ground.client.get(f"{ground.root}d:".encode() + key)) for key in old_keys(ground)}
    monkeypatch.setattr(carrying_over, "_PAGE", 7)
    script = ground.client.register_script(source("carry_over"))
    pages = iter(range(3))

    def die_at_the_third_page(**given: Any) -> Any:
        if given["args"][0] == "go on" and next(pages) == 2:
            raise KeyboardInterrupt
        return script(**given)

    with monkeypatch.context() as patched:
        patched.setattr(type(ground.client), "register_script", lambda *_: die_at_the_third_page)
        with pytest.raises(KeyboardInterrupt):
            carry_over(ground.client, ["default"], sleep=lambda _: None)
    assert ground.dedupe_keys()
    assert old_keys(ground)
    carry_over(ground.client, ["default"], sleep=lambda _: None)
    assert ground.dedupe_keys() == held
    assert old_keys(ground) == set()
    assert ground.client.get(SCHEMA) == str(LAYOUT).encode()


@pytest.mark.usefixtures("old")
def test_a_scan_that_a_restart_of_the_server_cut_is_made_anew(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new server knows nothing of the old one's scans: it ends them anywhere, and says nothing."""
    whole = type(ground.client).scan_iter
    restarts = iter([True, False, False])
    run_ids = iter("abbbbb")

    def scan_iter(*args: Any, **given: Any) -> Any:
        return iter(()) if next(restarts) else whole(*args, **given)

    monkeypatch.setattr(type(ground.client), "scan_iter", scan_iter)
    monkeypatch.setattr(carrying_over, "_run_id", lambda _: next(run_ids))
    carry_over(ground.client, ["default"], sleep=lambda _: None)
    assert len(ground.dedupe_keys()) == 37


def test_who_comes_after_a_later_version_notes_nothing(ground: Ground) -> None:
    script = ground.client.register_script(source("carry_over"))
    ground.client.set(SCHEMA, LAYOUT + 1)
    for step in ("begin", "end"):
        assert script(keys=[ground.root], args=[step]) == 0
        assert ground.client.get(SCHEMA) == str(LAYOUT + 1).encode()


def test_an_account_whose_number_was_lost_with_all_its_data_begins_anew(ground: Ground) -> None:
    """Within the seconds in which nobody looks at it: the server has come back empty."""
    ground.file("a")
    ground.client.flushall()
    ground.store.intake.open()
    ground.file("b")
    assert ground.client.get(SCHEMA) == str(LAYOUT).encode()


@pytest.mark.usefixtures("old")
def test_a_worker_goes_on_at_its_start_with_what_somebody_had_begun_to_carry_over(
    ground: Ground, environ: dict[str, str], processes: Processes, eventually: Eventually
) -> None:
    ground.client.set(SCHEMA, "1>2")
    worker = processes.python("-m", "celery", "-A", "worker.app", "worker", environ=environ)
    eventually(lambda: "carried over to layout 2: default" in worker.output, 60)
    assert ground.client.get(SCHEMA) == b"1>2"
    worker.send(signal.SIGTERM)
    worker.wait(60)


def old_keys(ground: Ground) -> set[bytes]:
    """The dedupe keys that are keys of the server's own, as they were in layout 1."""
    prefix = f"{ground.root}d:"
    return {key.removeprefix(prefix.encode()) for key in ground.client.keys(f"{prefix}*")}


def test_a_store_without_a_layout_gets_this_codes_and_keeps_it(ground: Ground) -> None:
    assert ground.client.get(SCHEMA) is None
    ground.file("a")
    assert ground.client.get(SCHEMA) == str(LAYOUT).encode()


def test_many_that_start_at_once_note_one_layout_and_none_is_refused(redis_url: str) -> None:
    barrier = threading.Barrier(8)
    faults: list[BaseException] = []

    def start() -> None:
        with connect(redis_url) as client:
            barrier.wait()
            try:
                Schema(client, "default").check()
            except BaseException as fault:  # a thread's own would be lost
                faults.append(fault)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    with connect(redis_url) as client:
        assert client.get(SCHEMA) == str(LAYOUT).encode()


@pytest.mark.parametrize("found", [str(LAYOUT + 1).encode(), b"0", b"", b"-1", b"one", b"\xff\n"])
def test_data_of_a_layout_that_is_not_read_is_refused_and_not_touched(
    redis_url: str, client: Redis, environ: dict[str, str], found: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    from worker.store import open_store

    settings = load(environ)
    store = open_store(settings, "default")
    store.intake.open()
    store.intake._client.set(SCHEMA, found)
    entry = client.xadd(store.intake.stream, {"trigger": b'{"no": "trigger"}'})
    before = everything(client)
    with Client(connections=1) as http:
        engine = Engine(settings, settings.account(), store, http)
        for act in (
            engine.sweep,
            lambda: engine.deliver(1, lambda: False),
            lambda: engine.wait_and_accept(0.01, lambda: False),
            lambda: engine.enqueue([b"{}"], nonce="n"),
        ):
            with caplog.at_level(logging.ERROR), pytest.raises(LayoutError, match="install a version"):
                act()
    store.close()
    assert everything(client) == before
    assert len(caplog.records) == 1, "it is told once, not with every task"
    assert [id_ for id_, _ in client.xrange(store.intake.stream) or ()] == [entry]


def test_code_that_grew_old_while_it_ran_notices(client: Redis) -> None:
    now = 0.0
    schema = Schema(client, "default", monotonic=lambda: now)
    schema.check()
    client.set(SCHEMA, LAYOUT + 1)
    schema.check()
    now += RECHECK_SECONDS
    with pytest.raises(LayoutError):
        schema.check()
    client.set(SCHEMA, LAYOUT)
    schema.check()


def test_a_worker_that_is_too_old_ends_at_its_start_with_one_sentence(
    client: Redis, environ: dict[str, str], processes: Processes
) -> None:
    client.set(SCHEMA, LAYOUT + 1)
    worker = processes.python("-m", "celery", "-A", "worker.app", "worker", environ=environ)
    assert worker.wait(60) == 1
    assert "volley: The data of account default has layout '3'" in worker.output
    assert "Traceback" not in worker.output
    assert everything(client).keys() == {SCHEMA.encode()}


@pytest.mark.parametrize("command", [["status"], ["outcomes"], ["dead"], ["pause", "--all", "--yes"]])
def test_a_command_refuses_data_of_another_version(
    client: Redis,
    environ: dict[str, str],
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    client.set(SCHEMA, LAYOUT + 1)
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == ExitCode.FAILED
    assert "install a version that reads it" in capsys.readouterr().err
    assert everything(client).keys() == {SCHEMA.encode()}


def everything(client: Any) -> dict[bytes, bytes]:
    """Every key with its value, without what a mere look changes (a stream's consumers)."""
    return {
        key: repr(client.xrange(key)).encode() if client.type(key) == b"stream" else client.dump(key)
        for key in client.keys("*")
    }
