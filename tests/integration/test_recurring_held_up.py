"""Recurring sends that are held up: by a slow source, a pause, a full Redis or intake, or by nobody there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.test_recurring import RARELY, ROOT, Ground, never, worked
from worker.core.slots import slot_name
from worker.store.firings import Fired, Step

if TYPE_CHECKING:
    from tests.conftest import Eventually

HOUR_MS = 3_600_000


class Clock:
    """An engine's time: it passes where it is told to, and in its sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def ground(redis_url: str, tmp_path: Path) -> Iterator[Ground]:
    made = Ground(redis_url, tmp_path)
    yield made
    made.close()


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """An address that answers so, for as long as the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/people"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def current_of(ground: Ground) -> Fired:
    current, _ = ground.report("news")
    assert current is not None
    return current


def server_ms(ground: Ground) -> int:
    seconds, micros = ground.raw.time()
    return int(seconds * 1000 + micros // 1000)


# -- a slow source


@pytest.mark.parametrize("piece", [b'{"email":"p%d@x.de"}\n', b"\n", b"x"])
def test_a_url_that_answers_for_longer_than_the_lease_is_read_to_its_end(
    ground: Ground, piece: bytes
) -> None:
    """A recipient, an empty line, a part of one: whatever comes, the firing stays its reader's."""
    clock = Clock()
    asked: list[str] = []
    renewals: list[bool] = []

    def renewed() -> bool:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if (ground.raw.zscore(f"{ROOT}firings", "news") or 0) > server_ms(ground):
                return True
            time.sleep(0.005)
        return False

    def slowly(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        handler.send_response(200)
        handler.end_headers()
        for n in range(7):
            # Ten seconds pass without a word, and as far as Redis knows the whole lease has passed.
            ground.raw.zadd(f"{ROOT}firings", {"news": 1})
            clock.sleep(10)
            handler.wfile.write(piece % n if b"%d" in piece else piece)
            renewals.append(renewed())
            if not renewals[-1]:
                return
        handler.wfile.write(b'\n{"email":"last@x.de"}\n')

    with answering(slowly) as url:
        engine = ground.engine(RARELY + f'url = "{url}"\n', monotonic=clock, sleep=clock.sleep)
        slot = engine.store.firings.fire_now("news")
        engine.recurring.fire(10, never)
        engine.recurring.fire(10, never)
    assert renewals == [True] * 7
    assert asked == ["/people"]
    _, (done,) = ground.report("news")
    assert (done.slot, done.state) == (slot, "done")
    assert (f"news@{slot}", "last@x.de") in ground.addressed()


def cut(handler: BaseHTTPRequestHandler) -> bool:
    """Writes empty lines, more than any buffer holds. True: its reader closed the connection meanwhile."""
    try:
        for _ in range(1024):
            handler.wfile.write(b"\n" * 65_536)
    except OSError:
        return True
    return False


def test_whoever_reads_slowly_and_has_lost_the_firing_reads_no_further(
    ground: Ground, eventually: Eventually
) -> None:
    clock = Clock()
    was_cut: list[bool] = []

    def slowly(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        ground.raw.hset(f"{ROOT}firing:news", "token", "somebody else's")
        clock.sleep(10)
        was_cut.append(cut(handler))

    with answering(slowly) as url:
        engine = ground.engine(RARELY + f'url = "{url}"\n', monotonic=clock, sleep=clock.sleep)
        engine.store.firings.fire_now("news")
        engine.recurring.fire(10, never)
        eventually(lambda: was_cut)
    assert was_cut == [True]
    assert ground.raw.hget(f"{ROOT}firing:news", "token") == b"somebody else's"
    assert current_of(ground).reason == ""
    assert not ground.triggers()


def test_a_worker_that_is_told_to_stop_does_not_wait_for_a_slow_source(
    ground: Ground, eventually: Eventually
) -> None:
    clock = Clock()
    stop = threading.Event()
    was_cut: list[bool] = []

    def slowly(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        stop.set()
        clock.sleep(10)
        was_cut.append(cut(handler))

    with answering(slowly) as url:
        engine = ground.engine(RARELY + f'url = "{url}"\n', monotonic=clock, sleep=clock.sleep)
        engine.store.firings.fire_now("news")
        engine.recurring.fire(10, stop.is_set)
        eventually(lambda: was_cut)
    assert was_cut == [True]
    assert current_of(ground).reason == ""
    # Left to the next one, at once.
    assert ground.raw.zscore(f"{ROOT}firings", "news") is None


def test_a_step_that_finds_what_lay_there_gone_adds_nothing_to_the_rest(ground: Ground) -> None:
    firings = ground.engine(RARELY + ground.people("p.csv", "a@x.de")).store.firings
    firings.fire_now("news")
    held = firings.take("news", "t", 60_000, 2)
    assert held is not None
    assert firings.stage(held, 60_000, 0, [(1, b'{"email":["a@x.de"]}')])
    assert firings.stage(held, 60_000, 1, ())
    ground.raw.delete(f"{ROOT}staged:news")
    assert not firings.stage(held, 60_000, 1, [(1, b'{"email":["b@x.de"]}')])
    assert not firings.stage(held, 60_000, 1, ())


# -- a pause, and what is left of a firing behind it


def half_appended(ground: Ground, eventually: Eventually) -> Any:
    source = ground.people("p.csv", *(f"p{n}@x.de" for n in range(3000)))
    engine = ground.engine(RARELY + source, VOLLEY_MAX_INTAKE="1")
    engine.store.firings.fire_now("news")
    eventually(lambda: worked(engine) and ground.appended("news") == 1000)
    return engine


def test_a_paused_firing_is_seen_however_long_the_pause_lasts(ground: Ground, eventually: Eventually) -> None:
    engine = half_appended(ground, eventually)
    assert engine.store.firings.pause("news")
    engine.recurring.fire(0.2, never)
    # What is large may expire; the firing itself does not.
    assert ground.raw.pttl(f"{ROOT}staged:news") > 0
    assert ground.raw.pttl(f"{ROOT}firing:news") == -1
    # Three days later.
    ground.raw.delete(f"{ROOT}staged:news")
    ground.raw.hincrby(f"{ROOT}firing:news", "began", -3 * 24 * HOUR_MS)
    assert (current_of(ground).state, current_of(ground).appended) == ("appending", 1000)
    assert engine.store.firings.resume("news")
    engine.recurring.fire(0.2, never)
    current, (failed,) = ground.report("news")
    assert current is None
    assert (failed.state, failed.reason) == ("failed", "it was not finished within a day")
    assert (failed.appended, failed.recipients) == (1000, 3000)


def test_a_firing_of_which_the_rest_is_gone_has_failed(ground: Ground, eventually: Eventually) -> None:
    engine = half_appended(ground, eventually)
    ground.raw.delete(f"{ROOT}staged:news")
    ground.raw.xtrim(f"{ROOT}intake", maxlen=0)
    engine.recurring.fire(0.2, never)
    _, (failed,) = ground.report("news")
    assert (failed.state, failed.appended, failed.recipients) == ("failed", 1000, 3000)
    assert failed.reason == "what it had still to append is gone from Redis"


# -- slots that nobody began


def test_a_slot_that_was_decided_long_ago_is_missed_and_the_next_one_is_fired(ground: Ground) -> None:
    engine = ground.engine(RARELY + ground.people("p.csv", "a@x.de") + "missed_within = 3600\n")
    now_ms = server_ms(ground)
    days_ago, too_old, in_time = (
        slot_name(now_ms - ago_ms) for ago_ms in (72 * HOUR_MS, HOUR_MS + 5000, HOUR_MS // 2)
    )
    ground.raw.rpush(f"{ROOT}slots:news", days_ago, too_old, in_time)
    engine.recurring.fire(10, never)
    assert [trigger["dedupe_key"] for trigger in ground.triggers()] == [f"news@{in_time}"]
    _, past = ground.report("news")
    assert [(fired.slot, fired.state) for fired in past] == [
        (in_time, "done"),
        (too_old, "missed"),
        (days_ago, "missed"),
    ]
    assert past[-1].reason == "nobody could begin it in time"


def test_a_slot_that_began_in_time_is_finished_however_late(ground: Ground, eventually: Eventually) -> None:
    source = ground.people("p.csv", *(f"p{n}@x.de" for n in range(2000)))
    engine = ground.engine(RARELY + source + "missed_within = 3600\n", VOLLEY_MAX_INTAKE="1")
    ground.raw.rpush(f"{ROOT}slots:news", slot_name(server_ms(ground) - HOUR_MS // 2))
    eventually(lambda: worked(engine) and ground.appended("news") == 1000)
    # Two hours pass.
    began_ms = current_of(ground).began_ms
    assert began_ms is not None
    ground.raw.hset(
        f"{ROOT}firing:news",
        mapping={"slot": slot_name(began_ms - 5 * HOUR_MS // 2), "began": began_ms - 2 * HOUR_MS},
    )
    ground.raw.xtrim(f"{ROOT}intake", maxlen=0)
    engine.recurring.fire(10, never)
    assert ground.report("news")[1][0].state == "done"


def test_a_slot_that_began_in_time_is_read_again_although_it_is_old_by_now(ground: Ground) -> None:
    engine = ground.engine(RARELY + 'file = "p.csv"\nmissed_within = 3600\n')
    ground.raw.rpush(f"{ROOT}slots:news", slot_name(server_ms(ground)))
    engine.recurring.fire(10, never)
    assert "No such file" in current_of(ground).reason
    # It began 45 minutes after its slot, half an hour ago.
    began_ms, slot = server_ms(ground) - HOUR_MS // 2, slot_name(server_ms(ground) - 5 * HOUR_MS // 4)
    ground.raw.hset(f"{ROOT}firing:news", mapping={"slot": slot, "began": began_ms, "again": 0})
    ground.people("p.csv", "a@x.de")
    engine.recurring.fire(10, never)
    assert [trigger["dedupe_key"] for trigger in ground.triggers()] == [f"news@{slot}"]


# -- room


def test_a_source_that_is_larger_than_the_room_in_redis_is_put_off_and_shuts_nobody_out(
    ground: Ground, eventually: Eventually
) -> None:
    people = [f"person-{n:06d}-with-a-long-address@example.com" for n in range(60_000)]
    engine = ground.engine(RARELY + ground.people("p.csv", *people), VOLLEY_MAX_MEMORY_SHARE="0.5")
    engine.recurring.fire(10, never)
    engine.store.firings.fire_now("news")
    used = ground.raw.info("memory")["used_memory"]
    # About a third of the source finds room.
    ground.raw.config_set("maxmemory", 2 * (used + 1_000_000))
    engine.recurring.fire(10, never)
    current = current_of(ground)
    assert (current.state, current.recipients) == ("reading", 0)
    assert current.reason.startswith("no room for its recipients: ")
    assert "(VOLLEY_MAX_MEMORY_SHARE)" in current.reason
    assert not ground.raw.exists(f"{ROOT}staged:news", f"{ROOT}faulty:news")
    assert not engine.store.firings.look({"news": ""})[1]["news"].waits  # later
    eventually(lambda: ground.raw.info("memory")["used_memory"] < used + 1_000_000)
    assert engine.enqueue([b"{}"], nonce="another producer's")
    # There is room again.
    ground.raw.config_set("maxmemory", 0)
    ground.raw.xtrim(f"{ROOT}intake", maxlen=0)
    ground.raw.hset(f"{ROOT}firing:news", "again", 0)
    engine.recurring.fire(0.2, never)
    assert current_of(ground).recipients == len(people)


def test_a_firing_that_finds_no_room_in_the_intake_lets_others_have_its_place(ground: Ground) -> None:
    clock = Clock()
    names = ("a", "b", "c")
    source = ground.people("p.csv", *(f"p{n}@x.de" for n in range(3000)))
    engine = ground.engine(
        *(RARELY.replace("news", name) + source for name in names),
        monotonic=clock,
        sleep=clock.sleep,
        VOLLEY_MAX_INTAKE="1",
    )
    firings = engine.store.firings
    for name in names:
        firings.fire_now(name)
    before = clock.now
    engine.recurring.fire(10, never)
    # Each has been read and has looked for room for a moment: none was kept from it by the first ones.
    assert clock.now - before < 3
    assert [fired.state for name in names if (fired := ground.report(name)[0])] == ["appending"] * 3
    assert ground.raw.zcard(f"{ROOT}firings") == 0
    held = firings.take("a", "another worker's", 60_000, 2)
    assert held is not None
    assert firings.append(held, 60_000, 100) is Step.APPENDED
