"""One run: plays the plan, waits until all has ended, and asks the judge."""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from redis.exceptions import RedisError

from tests.chaos.evidence import Cause
from tests.chaos.judge import Judgement, judge
from tests.chaos.load import Producer
from tests.chaos.plan import Fault, Kind
from tests.chaos.proxy import FaultyNetwork, Mode
from tests.chaos.stage import Stage
from worker.clevertap.sandbox import Fault as ApiFault
from worker.clevertap.sandbox import FaultKind

#: Seconds that all deliveries may take to end, when nothing goes wrong any more.
DRAIN_SECONDS = 240.0
_TICK_SECONDS = 0.02
#: Seconds between two looks of the operator, who frees an account that is parked: the API is well again.
_OPERATOR_SECONDS = 3.0
#: A wall clock is wrong by so much at most, seconds.
_CLOCK_SECONDS = 3600.0
#: Calls that one of the API's own faults claims at most.
_API_CALLS = 4
_KILLS = frozenset({Kind.KILL_WORKER, Kind.KILL_PARENT, Kind.KILL_CHILD, Kind.KILL_BEAT})

_MODES = {
    "latency": Mode.LATENCY,
    "half-open": Mode.HALF_OPEN,
    "black hole": Mode.BLACK_HOLE,
    "trickle": Mode.TRICKLE,
}


@dataclass(slots=True)
class Run:
    """A run under way. ``tell`` hears what happens, for people who watch."""

    plan: list[Fault]
    seed: int
    tell: Callable[[str], None]
    done: Counter[Kind] = field(default_factory=Counter)
    #: Seconds from the last fault until every delivery had ended.
    drained_seconds: float = 0.0
    restarts: int = 0
    _later: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: count[int] = field(default_factory=count)

    @property
    def kills(self) -> int:
        """Processes that were killed with SIGKILL, the server not counted."""
        return sum(self.done[kind] for kind in _KILLS)

    def play(self, folder: Path, seconds: float) -> Judgement:
        """Plays the plan in ``folder`` and judges. Raises TimeoutError if no worker comes up."""
        stage = Stage(folder, self.seed)
        try:
            producer = Producer(stage.server.url, self.seed)
            stage.supervise()
            stage.await_waiting()
            producer.start()
            began = time.monotonic()
            for fault in self.plan:
                self._at(began + fault.at_seconds, lambda fault=fault: self._strike(stage, fault))  # type: ignore[misc]
            self._operate(stage)
            while (now := time.monotonic()) < began + seconds or len(self._later) > 1:
                while self._later and self._later[0][0] <= now:
                    heapq.heappop(self._later)[2]()
                stage.supervise()
                time.sleep(_TICK_SECONDS)
            producer.stop()
            self._drain(stage)
            self.restarts = stage.restarts
            return judge(
                producer.book,
                stage.store,
                stage.sandbox,
                stage.losses,
                stage.evidence,
            )
        finally:
            stage.close()

    def _operate(self, stage: Stage) -> None:
        with suppress(RedisError):
            stage.store.door.unpark("*")
        self._for(_OPERATOR_SECONDS, lambda: self._operate(stage))

    def _at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._later, (when, next(self._order), action))

    def _for(self, seconds: float, action: Callable[[], None]) -> None:
        self._at(time.monotonic() + seconds, action)

    def _strike(self, stage: Stage, fault: Fault) -> None:
        if self._struck(stage, fault):
            self.done[fault.kind] += 1
            lasts = f" for {fault.seconds:.1f} s" if fault.seconds else ""
            self.tell(f"{fault.at_seconds:6.1f}  {fault.kind}{lasts}")

    def _struck(self, stage: Stage, fault: Fault) -> bool:  # noqa: PLR0912  # one for each kind
        """Whether there was something to strike."""
        running = stage.running() or stage.workers
        worker = running[int(fault.dice * len(running))]
        match fault.kind:
            case Kind.KILL_WORKER | Kind.KILL_PARENT:
                return stage.kill(worker, group=fault.kind is Kind.KILL_WORKER)
            case Kind.KILL_CHILD:
                return stage.kill_child(fault.dice) or stage.kill(worker, group=True)
            case Kind.KILL_BEAT:
                return stage.kill(stage.beat, group=True)
            case Kind.STOP_WORKER:
                return stage.terminate(worker)
            case Kind.FREEZE:
                if not stage.freeze(worker, fault.dice * len(stage.workers) % 1):
                    return False
                self._for(fault.seconds, lambda: stage.thaw(worker))
            case Kind.CLOCK:
                stage.shift_clock(worker, (fault.dice * len(stage.workers) % 1 * 2 - 1) * _CLOCK_SECONDS)
            case Kind.SERVER:
                stage.crash()
                self._for(fault.seconds, stage.revive)
            case Kind.FULL:
                stage.fill()
                self._for(fault.seconds, stage.free)
            case Kind.EVERYSEC:
                stage.everysec()
            case Kind.ERRORS:
                times = 1 + int(fault.dice * _API_CALLS)
                stage.sandbox.add_fault(ApiFault(kind=FaultKind.ANSWER, status=503, times=times))
            case Kind.CUT_CALLS:
                accepting = fault.dice < 0.5
                stage.sandbox.add_fault(ApiFault(kind=FaultKind.CUT, times=2, after_accepting=accepting))
            case _:
                self._spoil(stage, fault)
        return True

    def _spoil(self, stage: Stage, fault: Fault) -> None:
        where, _, how = fault.kind.value.partition(" ")
        network: FaultyNetwork = stage.api_network if where == "api" else stage.redis_network
        if how == "reset":
            if where == "api":
                stage.note(Cause.API)
            network.reset()
            return
        mode = _MODES[how]
        network.set(mode)
        trouble = stage.note(Cause.REDIS) if where == "redis" and mode is not Mode.LATENCY else None

        def heal() -> None:
            if trouble is not None:
                trouble.until = time.time()
            elif where == "api" and mode is Mode.HALF_OPEN:
                stage.note(Cause.API)
            network.set(Mode.WELL)

        self._for(fault.seconds, heal)

    def _drain(self, stage: Stage) -> None:
        """Until every delivery has ended, or for DRAIN_SECONDS: what has not by then counts as unfinished."""
        began = time.monotonic()
        stage.sandbox.clear_faults()
        self.tell("        nothing goes wrong any more; waiting until all has ended")
        while time.monotonic() < began + DRAIN_SECONDS:
            stage.supervise()
            try:
                stage.store.door.unpark("*")
                status = stage.store.status()
            except RedisError:
                continue
            if not status.live and not status.intake:
                break
            time.sleep(0.1)
        self.drained_seconds = time.monotonic() - began
