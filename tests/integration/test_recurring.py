"""Recurring sends driven by hand: real files, sets and HTTP servers, several engines."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from config.settings import Settings, load
from worker.clevertap.client import Client
from worker.core.errors import UnreadableSource
from worker.engine import Engine
from worker.engine import recurring as recurring_module
from worker.engine.recurring import FAULTY_AT_MOST
from worker.store import AWAY, Store, open_store
from worker.store.connection import connect
from worker.store.embedded import EmbeddedServer
from worker.store.firings import Fired, Step
from worker.store.members import members_of

if TYPE_CHECKING:
    from tests.conftest import Eventually

ROOT = "volley:{default}:"
CAMPAIGNS = 'campaigns = [17]\ncontent = { Name = "A" }\n'


def never() -> bool:
    return False


def worked(engine: Engine) -> bool:
    """Fires for a moment."""
    engine.recurring.fire(0.2, never)
    return True


class Ground:
    """One account with the sends of a TOML file, and what its workers do by hand."""

    def __init__(self, redis_url: str, folder: Path) -> None:
        self.url = redis_url
        self.folder = folder
        self.raw: Any = connect(redis_url)
        self.http = Client(connections=1)
        self.stores: list[Store] = []

    def engine(
        self,
        *sends: str,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        **environ: str,
    ) -> Engine:
        """An engine of its own: another process's, for what it knows."""
        toml = self.folder / "volley.toml"
        toml.write_text("\n".join(f"[[sends]]\n{CAMPAIGNS}{send}" for send in sends))
        settings: Settings = load(
            {
                "VOLLEY_REDIS_URL": self.url,
                "VOLLEY_ACCOUNT_ID": "A",
                "VOLLEY_PASSCODE": "passcode-1",
                "VOLLEY_CONFIG": str(toml),
                **environ,
            }
        )
        self.stores.append(open_store(settings, "default"))
        return Engine(
            settings, settings.account(), self.stores[-1], self.http, monotonic=monotonic, sleep=sleep
        )

    def people(self, name: str, *addresses: str) -> str:
        (self.folder / name).write_text("email\n" + "".join(f"{each}\n" for each in addresses))
        return f'file = "{name}"\n'

    def came(self, name: str, ago_ms: int = 1000) -> int:
        """Lets the send have been seen and decided up to ``ago_ms`` before now: then, epoch ms."""
        seconds, micros = self.raw.time()
        (first,) = [f for f in self.raw.hkeys(f"{ROOT}send:{name}") if f.startswith(b"first:")]
        then: int = seconds * 1000 + micros // 1000 - ago_ms
        self.raw.hset(f"{ROOT}send:{name}", mapping={first: then, "decided": then})
        return then

    def triggers(self) -> list[dict[str, Any]]:
        """What is in the intake, parsed."""
        return [json.loads(fields[b"trigger"]) for _, fields in self.raw.xrange(f"{ROOT}intake")]

    def addressed(self) -> Counter[tuple[str, str]]:
        """(dedupe key, address) -> in how many triggers."""
        return Counter(
            (trigger["dedupe_key"], each)
            for trigger in self.triggers()
            for values in trigger["to"].values()
            for each in values
        )

    def report(self, name: str) -> tuple[Fired | None, tuple[Fired, ...]]:
        found = self.stores[-1].firings.report(name)
        return found.current, found.past

    def appended(self, name: str) -> int:
        """Recipients of the firing under way that are in the intake."""
        current, _ = self.report(name)
        return current.appended if current else 0

    def close(self) -> None:
        for store in self.stores:
            store.close()
        self.http.close()
        self.raw.close()


@pytest.fixture
def ground(redis_url: str, tmp_path: Path) -> Iterator[Ground]:
    made = Ground(redis_url, tmp_path)
    yield made
    made.close()


EVERY_SECOND = 'name = "news"\ncron = "* * * * * *"\n'
HOURLY = 'name = "news"\ncron = "0 * * * *"\n'
#: Yearly: it is never due while a test runs, unless the year turns.
RARELY = 'name = "news"\ncron = "0 0 1 1 *"\n'


def test_a_slot_becomes_triggers_that_name_it(ground: Ground) -> None:
    source = ground.people("p.csv", "a@x.de", "b@x.de")
    engine = ground.engine(EVERY_SECOND + source + "expires_after = 60\n")
    engine.recurring.fire(10, never)
    assert not ground.triggers()  # seen for the first time: it owes nothing
    ground.came("news")
    engine.recurring.fire(10, never)
    first = ground.triggers()[0]
    slot = ground.report("news")[1][-1].slot
    assert first["to"] == {"email": ["a@x.de", "b@x.de"]}
    assert first["id"] == f"news@{slot}#1"
    assert first["dedupe_key"] == f"news@{slot}"
    assert (first["source"], first["priority"]) == ("schedule:news", "bulk")
    assert (first["campaign_id_list"], first["ExternalTrigger"]) == ([17], {"Name": "A"})
    assert first["expires_at"] == recurring_module._moment_ms(slot) // 1000 + 60  # type: ignore[operator]


def test_of_many_planners_one_decides_each_slot(ground: Ground) -> None:
    source = ground.people("p.csv", "a@x.de")
    send = EVERY_SECOND + source + 'missed = "all"\n'
    engines = [ground.engine(send) for _ in range(6)]
    engines[0].recurring.fire(10, never)
    ground.came("news", ago_ms=30_000)
    start = threading.Barrier(len(engines))

    def plan(engine: Engine) -> None:
        start.wait()
        for _ in range(5):
            engine.recurring.fire(10, never)

    threads = [threading.Thread(target=plan, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    # The intake takes 20 at once: make room until all of it has been appended.
    slots: Counter[tuple[str, str]] = Counter()
    for _ in range(200):
        slots += ground.addressed()
        ground.raw.xtrim(f"{ROOT}intake", maxlen=0)
        engines[0].recurring.fire(0.5, never)
        if len(slots) >= 30 and not ground.report("news")[0]:
            break
    assert len(slots) >= 30
    assert set(slots.values()) == {1}


def test_two_calendars_of_one_send_do_not_fire_what_was_before_them(ground: Ground) -> None:
    source = ground.people("p.csv", "a@x.de")
    ground.engine(RARELY + source).recurring.fire(10, never)
    ground.came("news", ago_ms=10_000)
    changed = ground.engine(EVERY_SECOND + source)
    changed.recurring.fire(10, never)
    assert not ground.triggers()


@pytest.mark.parametrize(
    ("missed", "within", "slots"), [("latest", 7200, 1), ("all", 10_800, 3), ("skip", 7200, 0)]
)
def test_missed_slots_follow_the_policy(ground: Ground, missed: str, within: int, slots: int) -> None:
    source = ground.people("p.csv", "a@x.de")
    seconds, _ = ground.raw.time()
    # A slot half an hour ago and each hour before it, so that none comes now.
    minute = (seconds // 60 - 30) % 60
    send = (
        f'name = "news"\ncron = "{minute} * * * *"\n{source}missed = "{missed}"\nmissed_within = {within}\n'
    )
    engine = ground.engine(send)
    engine.recurring.fire(10, never)
    ground.came("news", ago_ms=3 * 3_600_000)
    for _ in range(4):
        engine.recurring.fire(10, never)
    assert len(ground.triggers()) == slots
    states = Counter(fired.state for fired in ground.report("news")[1])
    assert states["done"] == slots
    assert states["missed"] == (0 if missed == "all" else 1)


def test_many_recipients_go_into_triggers_of_a_thousand(ground: Ground) -> None:
    source = ground.people("p.csv", *(f"p{n}@x.de" for n in range(2500)))
    engine = ground.engine(RARELY + source)
    engine.store.firings.fire_now("news")
    engine.recurring.fire(10, never)
    assert [len(trigger["to"]["email"]) for trigger in ground.triggers()] == [1000, 1000, 500]
    assert [trigger["id"][-2:] for trigger in ground.triggers()] == ["#1", "#2", "#3"]
    _, (done,) = ground.report("news")
    assert (done.state, done.recipients, done.appended, done.triggers) == ("done", 2500, 2500, 3)
    # Nothing is left behind but what it came to.
    assert set(ground.raw.keys(f"{ROOT}*:news")) == {
        f"{ROOT}{key}:news".encode() for key in ("send", "fired")
    }


def test_a_trigger_keeps_to_the_bound_of_its_bytes(ground: Ground) -> None:
    source = ground.people("p.csv", *(f"person-{n:04d}@example.com" for n in range(300)))
    engine = ground.engine(RARELY + source, VOLLEY_MAX_TRIGGER_BYTES="2048")
    engine.store.firings.fire_now("news")
    engine.recurring.fire(10, never)
    sizes = [len(fields[b"trigger"]) for _, fields in ground.raw.xrange(f"{ROOT}intake")]
    assert max(sizes) <= 2048
    assert len(ground.addressed()) == 300


def test_whom_the_source_names_twice_is_sent_to_once(ground: Ground) -> None:
    source = ground.people("p.csv", *["a@x.de", "b@x.de"] * 1200)
    engine = ground.engine(RARELY + source)
    engine.store.firings.fire_now("news")
    engine.recurring.fire(10, never)
    while engine.store.status().intake:
        engine.wait_and_accept(0.01, never)
    counts = {status.value: count for (_, status), count in engine.store.status().counts.items()}
    assert counts == {"pending": 2, "duplicate": 2398}


def test_a_firing_waits_while_the_intake_is_full(ground: Ground, eventually: Eventually) -> None:
    source = ground.people("p.csv", *(f"p{n}@x.de" for n in range(3000)))
    engine = ground.engine(RARELY + source, VOLLEY_MAX_INTAKE="2")
    engine.store.firings.fire_now("news")
    eventually(lambda: worked(engine) and ground.appended("news") == 2000)
    engine.recurring.fire(0.2, never)
    current, _ = ground.report("news")
    assert current is not None
    assert (current.state, current.appended, current.recipients) == ("appending", 2000, 3000)
    assert len(ground.triggers()) == 2
    ground.raw.xtrim(f"{ROOT}intake", maxlen=0)
    engine.recurring.fire(10, never)
    assert len(ground.triggers()) == 1
    assert ground.report("news")[1][0].state == "done"


def test_a_worker_that_is_told_to_stop_leaves_the_firing_to_the_next_one(ground: Ground) -> None:
    source = ground.people("p.csv", *(f"p{n}@x.de" for n in range(5000)))
    first, second = ground.engine(RARELY + source), ground.engine(RARELY + source)
    first.store.firings.fire_now("news")
    asked = iter([False] * 9 + [True] * 100)
    first.recurring.fire(10, lambda: next(asked))
    appended = len(ground.triggers())
    assert 0 < appended < 5
    second.recurring.fire(10, never)
    assert set(ground.addressed().values()) == {1}
    assert len(ground.addressed()) == 5000


def test_one_that_was_away_for_longer_than_its_lease_appends_nothing_more(ground: Ground) -> None:
    source = ground.people("p.csv", *(f"p{n}@x.de" for n in range(3000)))
    engine = ground.engine(RARELY + source)
    firings = engine.store.firings
    firings.fire_now("news")
    held = firings.take("news", "zombie", 60_000, 2)
    assert held is not None
    assert firings.stage(held, 60_000, 0, [(1, b'{"email":["old@x.de"]}')])
    # While the lease holds nobody else gets it; its holder does, again and again.
    assert firings.take("news", "other", 60_000, 2) is None
    again = firings.take("news", "zombie", 60_000, 2)
    assert again is not None
    assert (again.slot, again.began_ms) == (held.slot, held.began_ms)
    ground.raw.zadd(f"{ROOT}firings", {"news": 1})
    engine.recurring.fire(10, never)
    assert not firings.stage(held, 60_000, 1, [(1, b'{"email":["late@x.de"]}')])
    assert not firings.read(held, b"")
    assert firings.append(held, 60_000, 100) is Step.LOST
    assert not firings.done(held)
    # What the dead reader had put aside was read anew, not sent.
    assert len(ground.addressed()) == 3000
    assert set(ground.addressed().values()) == {1}


def test_a_reader_that_died_has_sent_nothing_and_the_next_one_reads_anew(ground: Ground) -> None:
    source = ground.people("p.csv", "a@x.de")
    engine = ground.engine(RARELY + source)
    firings = engine.store.firings
    firings.fire_now("news")
    held = firings.take("news", "dead", 1, 2)
    assert held is not None
    firings.stage(held, 1, 0, [(1, b'{"email":["a@x.de"]}')])
    firings.stage_faulty(held, 1, 0, [("w", "y", b"raw")])
    ground.raw.zadd(f"{ROOT}firings", {"news": 1})
    engine.recurring.fire(10, never)
    assert [trigger["to"] for trigger in ground.triggers()] == [{"email": ["a@x.de"]}]
    assert not list(engine.store.intake.dead_letters())


def test_every_step_that_is_repeated_after_a_lost_reply_has_one_effect(ground: Ground) -> None:
    engine = ground.engine(RARELY + ground.people("p.csv", "a@x.de"))
    firings = engine.store.firings
    firings.fire_now("news")
    assert firings.take("news", "t", 60_000, 2)
    held = firings.take("news", "t", 60_000, 2)
    assert held is not None
    to = [(1, b'{"email":["a@x.de"]}'), (2, b'{"email":["b@x.de","c@x.de"]}')]
    for _ in range(2):
        assert firings.stage(held, 60_000, 0, to)
        assert firings.stage_faulty(held, 60_000, 0, [("line 3", "names nobody", b"x")])
    for _ in range(2):
        assert firings.read(held, b'"campaign_id":1,"ExternalTrigger":{},"dedupe_key":"k"')
    assert [firings.append(held, 60_000, 100) for _ in range(4)] == [
        Step.APPENDED,
        Step.APPENDED,
        Step.ALL,
        Step.ALL,
    ]
    assert firings.done(held)
    assert not firings.done(held)
    assert set(ground.addressed().values()) == {1}
    assert len(list(engine.store.intake.dead_letters())) == 1
    assert ground.report("news")[1][0].recipients == 3


def test_a_full_server_holds_a_firing_up_and_loses_nothing(ground: Ground) -> None:
    source = ground.people("p.csv", *(f"p{n}@x.de" for n in range(2000)))
    engine = ground.engine(RARELY + source)
    engine.store.firings.fire_now("news")
    ground.raw.config_set("maxmemory", 1)
    with pytest.raises(AWAY):
        engine.recurring.fire(10, never)
    ground.raw.config_set("maxmemory", 0)
    assert not ground.triggers()
    # Its holder is as good as dead: the lease has to end.
    ground.raw.zadd(f"{ROOT}firings", {"news": 1})
    engine.recurring.fire(10, never)
    assert set(ground.addressed().values()) == {1}
    assert len(ground.addressed()) == 2000


def test_a_set_whose_server_starts_anew_meanwhile_is_not_trusted(
    ground: Ground, tmp_path: Path, server_binary: Path | None
) -> None:
    with EmbeddedServer(
        tmp_path / "crm", fsync="always", ends_with_parent=True, binary=server_binary
    ) as server:
        with connect(server.url) as crm:
            crm.sadd("crm:news", *(f"u{n}" for n in range(5000)))
        members = members_of("crm:news", ground.raw, server.url)
        next(members)
        server.stop()
        server.start()
        with pytest.raises(UnreadableSource, match="was started anew"):
            list(members)


def test_lines_that_name_nobody_become_dead_letters(ground: Ground) -> None:
    (ground.folder / "p.ndjson").write_text('{"email":"a@x.de"}\nnope\n{"email":"not an address"}\n"u1"\n')
    engine = ground.engine(RARELY + 'file = "p.ndjson"\n')
    slot = engine.store.firings.fire_now("news")
    engine.recurring.fire(10, never)
    assert [trigger["to"] for trigger in ground.triggers()] == [{"email": ["a@x.de"]}]
    dead = {letter.where: (letter.reason, letter.trigger) for letter in engine.store.intake.dead_letters()}
    assert dead == {
        f"send news, {slot}, line 2": ("is not JSON", b"nope"),
        f"send news, {slot}, line 3": ("is not an e-mail address", b'{"email":"not an address"}'),
        f"send news, {slot}, line 4": ("is a text, and the send has no kind", b'"u1"'),
    }
    assert ground.report("news")[1][0].bad_lines == 3


def test_a_source_that_is_mostly_wrong_sends_nothing(ground: Ground) -> None:
    lines = ["a@x.de", *(f"nobody {n}" for n in range(FAULTY_AT_MOST + 1))]
    engine = ground.engine(RARELY + ground.people("p.csv", *lines))
    engine.store.firings.fire_now("news")
    engine.recurring.fire(10, never)
    current, _ = ground.report("news")
    assert current is not None
    assert "more than 1000 lines name nobody" in current.reason
    assert not ground.triggers()
    assert not list(engine.store.intake.dead_letters())


def test_a_source_that_cannot_be_read_is_tried_again(ground: Ground) -> None:
    engine = ground.engine(RARELY + 'file = "later.csv"\n')
    engine.store.firings.fire_now("news")
    engine.recurring.fire(10, never)
    current, _ = ground.report("news")
    assert current is not None
    assert (current.state, current.reason) == (
        "reading",
        "the file cannot be read: No such file or directory",
    )
    ground.people("later.csv", "a@x.de")
    # Not before its time.
    assert not engine.store.firings.look({"news": ""})[1]["news"].waits
    ground.raw.hset(f"{ROOT}firing:news", "again", 0)
    engine.recurring.fire(10, never)
    assert len(ground.triggers()) == 1


def test_a_firing_that_is_too_late_fails_and_is_reported_once(
    ground: Ground, caplog: pytest.LogCaptureFixture
) -> None:
    engine = ground.engine(RARELY + 'file = "never.csv"\n')
    engine.store.firings.fire_now("news")
    with caplog.at_level(logging.WARNING, "volley"):
        engine.recurring.fire(10, never)
        ground.raw.hset(f"{ROOT}firing:news", mapping={"again": 0, "began": 1})
        ground.raw.hincrby(f"{ROOT}firing:news", "began", int(ground.raw.time()[0]) * 1000 - 3_700_000)
        engine.recurring.fire(10, never)
        engine.recurring.fire(10, never)
    _, (failed,) = ground.report("news")
    assert (failed.state, failed.reason) == ("failed", "the file cannot be read: No such file or directory")
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.ERROR]


def test_a_later_slot_takes_the_place_of_one_whose_source_cannot_be_read(ground: Ground) -> None:
    engine = ground.engine(RARELY + 'file = "never.csv"\n')
    first, second = engine.store.firings.fire_now("news"), None
    for _ in range(5):
        second = second or engine.store.firings.fire_now("news")
        if ground.raw.exists(f"{ROOT}firing:news"):
            ground.raw.hset(f"{ROOT}firing:news", "again", 0)
        engine.recurring.fire(10, never)
    assert [fired.slot for fired in ground.report("news")[1]] == [first]
    engine.recurring.fire(10, never)
    current, _ = ground.report("news")
    assert current is not None
    assert current.slot == second


def test_what_is_not_finished_within_a_day_is_given_up(ground: Ground, eventually: Eventually) -> None:
    source = ground.people("p.csv", *(f"p{n}@x.de" for n in range(3000)))
    engine = ground.engine(RARELY + source, VOLLEY_MAX_INTAKE="1")
    engine.store.firings.fire_now("news")
    eventually(lambda: worked(engine) and ground.appended("news") == 1000)
    ground.raw.hincrby(f"{ROOT}firing:news", "began", -86_400_001)
    engine.recurring.fire(0.2, never)
    _, (failed,) = ground.report("news")
    assert (failed.state, failed.reason) == ("failed", "it was not finished within a day")
    assert (failed.appended, failed.recipients) == (1000, 3000)


def test_a_paused_send_skips_its_slots_and_holds_what_is_under_way(
    ground: Ground, eventually: Eventually
) -> None:
    source = ground.people("p.csv", *(f"p{n}@x.de" for n in range(2000)))
    engine = ground.engine(EVERY_SECOND + source, VOLLEY_MAX_INTAKE="1")
    firings = engine.store.firings
    engine.recurring.fire(10, never)
    slot = firings.fire_now("news")
    eventually(lambda: worked(engine) and ground.appended("news") == 1000)
    assert firings.pause("news")
    assert not firings.pause("news")
    then = ground.came("news", ago_ms=20_000)
    ground.raw.xtrim(f"{ROOT}intake", maxlen=0)
    engine.recurring.fire(10, never)
    assert not ground.triggers()
    waiting = ground.raw.llen(f"{ROOT}slots:news")
    assert firings.resume("news")
    assert not firings.resume("news")
    _, found = firings.look({"news": engine.recurring._digests["news"]})
    # Slots of the last 20 s stay skipped.
    assert found["news"].after_ms >= then + 20_000
    assert ground.raw.llen(f"{ROOT}slots:news") == waiting
    eventually(lambda: worked(engine) and ground.triggers())
    assert ground.triggers()[0]["id"] == f"news@{slot}#2"


def test_one_send_at_work_does_not_stop_another_but_two_do(ground: Ground) -> None:
    names = ("a", "b", "c")
    source = ground.people("p.csv", "a@x.de")
    engine = ground.engine(*(RARELY.replace("news", name) + source for name in names))
    firings = engine.store.firings
    for name in names:
        firings.fire_now(name)
    assert firings.take("a", "1", 60_000, 2)
    assert firings.take("b", "2", 60_000, 2)
    assert firings.take("c", "3", 60_000, 2) is None
    ground.raw.zadd(f"{ROOT}firings", {"a": 1})
    assert firings.take("c", "3", 60_000, 2)


def test_too_many_slots_behind_each_other_are_passed_over(ground: Ground) -> None:
    engine = ground.engine(RARELY + ground.people("p.csv", "a@x.de"))
    firings = engine.store.firings
    engine.recurring.fire(10, never)
    for _ in range(100):
        firings.fire_now("news")
    _, found = firings.look({"news": engine.recurring._digests["news"]})
    digest = engine.recurring._digests["news"]
    assert firings.decide("news", digest, found["news"], 2, slots_ms=[1000])
    assert ground.raw.llen(f"{ROOT}slots:news") == 100
    assert ground.report("news")[1][0].state == "missed"
    # Decided once: the same look again changes nothing.
    assert not firings.decide("news", digest, found["news"], 3, slots_ms=[2000])


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_set_is_read_member_by_member(ground: Ground, elsewhere: bool) -> None:
    people = [f"u{n}" for n in range(3000)]
    ground.raw.sadd("crm:news", *people, b"\xff")
    where = 'redis_url_env = "CRM"\n' if elsewhere else ""
    engine = ground.engine(RARELY + f'redis_set = "crm:news"\nkind = "identity"\n{where}', CRM=ground.url)
    engine.store.firings.fire_now("news")
    engine.recurring.fire(10, never)
    assert {address for _, address in ground.addressed()} == set(people)
    assert all(set(trigger["to"]) == {"identity"} for trigger in ground.triggers())
    assert ground.raw.scard("crm:news") == 3001  # it is only read
    assert [letter.reason for letter in engine.store.intake.dead_letters()] == ["is not UTF-8"]


def test_what_is_no_set_cannot_be_read_and_one_that_is_not_there_is_empty(ground: Ground) -> None:
    ground.raw.set("text", "secret value")
    engine = ground.engine(
        'name = "wrong"\ncron = "0 0 1 1 *"\nredis_set = "text"\nkind = "identity"\n',
        'name = "gone"\ncron = "0 0 1 1 *"\nredis_set = "gone"\nkind = "identity"\n',
        'name = "shut"\ncron = "0 0 1 1 *"\nredis_set = "text"\nkind = "identity"\nredis_url_env = "LESS"\n',
        'name = "away"\ncron = "0 0 1 1 *"\nredis_set = "gone"\nkind = "identity"\nredis_url_env = "CRM"\n',
        CRM="redis://127.0.0.1:1",
        LESS=ground.url.replace("//", "//less:password@"),
    )
    ground.raw.acl_setuser("less", enabled=True, passwords=["+password"], commands=["+info"], reset=True)
    for name in ("wrong", "gone", "shut", "away"):
        engine.store.firings.fire_now(name)
    engine.recurring.fire(30, never)
    reasons = {
        name: current.reason for name in ("wrong", "shut", "away") if (current := ground.report(name)[0])
    }
    assert reasons == {
        "wrong": "Redis refuses to read the set: WRONGTYPE",
        "shut": "Redis does not let this user read the set (NOPERM)",
        "away": "the server of the set does not answer",
    }
    ground.raw.acl_deluser("less")
    assert ground.report("gone")[1][0].recipients == 0


class _Answers(BaseHTTPRequestHandler):
    seen: ClassVar[list[tuple[str, str | None]]] = []
    answer: ClassVar[Callable[[_Answers], None]]

    def do_GET(self) -> None:
        type(self).seen.append((self.path, self.headers.get("Authorization")))
        type(self).answer(self)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


def _all(handler: _Answers, people: int = 1500) -> None:
    handler.send_response(200)
    handler.end_headers()
    for n in range(people):
        handler.wfile.write(b'{"email":"p%d@x.de"}\n' % n)


def _refuses(handler: _Answers) -> None:
    handler.send_response(503)
    handler.end_headers()


def _elsewhere(handler: _Answers) -> None:
    handler.send_response(302)
    handler.send_header("Location", "/people")
    handler.end_headers()


def _cut(handler: _Answers) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    handler.wfile.write(b'{"email":"p0@x.de"}\n' * 1000)


def _slow(handler: _Answers) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b'{"email":"p0@x.de"}\n')
        threading.Event().wait(0.1)


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    _Answers.seen.clear()
    yield f"http://127.0.0.1:{server.server_port}/people"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_url_is_read_line_by_line(ground: Ground, url: str) -> None:
    _Answers.answer = _all
    engine = ground.engine(RARELY + f'url = "{url}"\nheader_env = "CRM"\n', CRM="Bearer secret-1")
    engine.store.firings.fire_now("news")
    engine.recurring.fire(10, never)
    assert len(ground.addressed()) == 1500
    assert _Answers.seen == [("/people", "Bearer secret-1")]


@pytest.mark.parametrize(
    ("answer", "keys", "reason"),
    [
        (_refuses, "", "the url answered HTTP 503"),
        (_elsewhere, "", "the url answered HTTP 302"),
        (_cut, "", r"the url gave no whole answer \(RemoteProtocolError\)"),
        (_slow, "timeout = 1\n", r"the url gave no whole answer \(ReadTimeout\)|was not read within 1 s"),
        (_all, "max_bytes = 1000\n", "the url answered more than 1000 bytes"),
    ],
)
def test_an_answer_that_is_not_whole_sends_nothing(
    ground: Ground, url: str, answer: Callable[[_Answers], None], keys: str, reason: str
) -> None:
    _Answers.answer = answer
    engine = ground.engine(RARELY + f'url = "{url}"\n{keys}')
    engine.store.firings.fire_now("news")
    engine.recurring.fire(10, never)
    current, _ = ground.report("news")
    assert current is not None
    assert current.state == "reading"
    (send,) = engine.recurring._sends.values()
    with pytest.raises(UnreadableSource, match=reason):
        engine.recurring.survey(send)
    assert not ground.triggers()
    assert len(_Answers.seen) == 2  # no redirect was followed


def test_a_worker_with_nothing_to_do_asks_once(ground: Ground) -> None:
    engine = ground.engine(*(RARELY.replace("news", f"n{n}") + 'file = "p.csv"\n' for n in range(20)))
    engine.recurring.fire(10, never)
    before = ground.raw.info("stats")["total_commands_processed"]
    rounds = _round_trips(engine)
    after = ground.raw.info("stats")["total_commands_processed"]
    assert rounds == 1
    assert after - before <= 20 * 4 + 3


def _round_trips(engine: Engine) -> int:
    """How many times one look talks to Redis."""
    client = engine.store.firings.client
    count = 0
    original = client.connection_pool.get_connection

    def counted(*arguments: Any, **keywords: Any) -> Any:
        nonlocal count
        count += 1
        return original(*arguments, **keywords)

    client.connection_pool.get_connection = counted
    try:
        engine.recurring.fire(10, never)
    finally:
        client.connection_pool.get_connection = original
    return count
