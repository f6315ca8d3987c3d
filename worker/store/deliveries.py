"""The deliveries of one account: one method for each transition, one
script and one round trip for each method.

Life of a delivery here: ``accept`` files it, ``view`` shows what is due, ``claim`` puts it into a batch,
``mark`` lets the batch on the wire, ``settle`` gives it its fate. ``promote`` wakes what slept, ``recover``
takes over what a dead worker left, ``finish`` ends what must not be sent, ``requeue`` starts it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import orjson

from worker.core.model import STATUS_CODES, Priority, Reason, Status
from worker.core.planning import PATIENCE_MS, Group, Lane, Plan, View
from worker.store import keys
from worker.store.batches import (
    Batch,
    DueEnding,
    Ending,
    FateRow,
    Filed,
    HeldBackError,
    Job,
    KeptOut,
    PermitLostError,
    Requeued,
    Section,
    SplitBy,
    Unreadable,
    Windows,
)
from worker.store.cells import Row, dedupe_digest
from worker.store.chunks import Filing, PackedChunk, pack_chunk
from worker.store.connection import RedisClient
from worker.store.outcomes import Outcome
from worker.store.permits import Rules
from worker.store.scripts import Scripts
from worker.store.taken import Members

#: Groups that a view shows at most.
WINDOW = 16
#: The name under which parts of refused batches stand among the flows.
SPLIT = "split"
#: What mark.lua says when an operator holds something of the batch back.
_HELD_BACK = 2

_PRIORITIES = {priority.value[0]: priority for priority in Priority}


class Deliveries:
    """Errors: redis.exceptions.RedisError; after one, the transition has happened whole or not at all."""

    def __init__(
        self,
        client: RedisClient,
        scripts: Scripts,
        account: str,
        *,
        windows: Windows,
        retention_ms: int,
        rules: Rules,
    ) -> None:
        self._client = client
        self._scripts = scripts
        self._root = keys.root(account)
        self._stream = keys.intake(account)
        self._windows = windows
        self._retention_ms = retention_ms
        self._rules = rules

    def accept(self, sections: Sequence[Section], unreadable: Sequence[Unreadable], permits: int) -> Filed:
        """Dedupes, files and acknowledges a chunk (at most 1000 deliveries) in one step; twice is once."""
        return self.start_accept(self.pack(sections, unreadable, permits)).filed()

    def pack(
        self, sections: Sequence[Section], unreadable: Sequence[Unreadable], permits: int
    ) -> PackedChunk:
        """A chunk made ready to be accepted."""
        return pack_chunk(sections, unreadable, permits, self._windows, self._retention_ms)

    def start_accept(self, chunk: PackedChunk) -> Filing:
        """As ``accept``, not waiting for it; the next one may be packed meanwhile."""
        return Filing(
            self._scripts.start("accept", [self._root, self._stream, f"{self._root}dead"], *chunk.arguments)
        )

    def view(self) -> View | None:
        """What is due now, or None when nothing may be sent."""
        found = self.look()
        return found if isinstance(found, View) else None

    def look(self) -> View | int | None:
        """As ``view``; or, when it waits for time alone, in how many milliseconds something may be sent."""
        answer = self._scripts.run("view", [self._root], WINDOW, *self._rules.arguments, PATIENCE_MS)
        if not answer:
            return None
        data = orjson.loads(answer)
        if "wait_ms" in data:
            return int(data["wait_ms"])
        groups = tuple(
            Group(g["gid"], tuple(Lane(_campaigns(c), rows, since) for c, rows, since in g["lanes"] or ()))
            for g in data.get("groups") or ()
        )
        return View(
            priority=data["priority"],
            flow=() if data["flow"] == SPLIT else _campaigns(data["flow"]),
            groups=groups,
            blocked=frozenset(int(c) for c in data.get("shut") or ()),
            now_ms=data["now_ms"],
            over=data["over"],
            others=data["others"],
            normal=data["normal"],
            probe=data.get("probe", ""),
            drop=data.get("drop", False),
            bad=data["bad"],
            room=data.get("room"),
        )

    def claim(
        self, plan: Plan, token: str, probe: str = "", charge: float = 1.0, *, free: bool = False
    ) -> Batch | None:
        """Takes a plan's rows as a batch, or fewer where the rules let fewer through by now; None when
        they were gone, nothing may go any more, or somebody else probes (look again).

        ``charge`` is what the call costs its flow's turn: 1 / weight. ``free``: there will be no call, so the
        rules have no say.
        Raises PermitLostError when the permit has lapsed.
        """
        takes = [value for take in plan.takes for value in (_csv(take.lane), take.rows)]
        answer = self._scripts.run(
            "claim",
            [self._root],
            token,
            plan.gid,
            _csv(plan.campaigns),
            plan.priority,
            _csv(plan.flow),
            charge,
            self._retention_ms,
            probe,
            "" if free else self._rules.text(),
            *takes,
        )
        return self._claimed(answer, token)

    def claim_part(self, priority: str, token: str) -> Batch | None:
        """Takes the next part of a refused batch that is being split; None when there was none (look again).

        Raises PermitLostError when the permit has lapsed.
        """
        answer = self._scripts.run(
            "claim_part",
            [self._root],
            token,
            priority,
            1,
            self._retention_ms,
            self._rules.permits,
            self._rules.text(),
        )
        batch = self._claimed(answer, token)
        return replace(batch, job=Job(*answer[7:10])) if batch else None

    def _claimed(self, answer: Any, token: str) -> Batch | None:
        if answer == b"LOST":
            raise PermitLostError
        return None if answer == b"NONE" else _batch(answer, token)

    def mark(
        self, batch: Batch, lease_ms: int, kept_out: Sequence[KeptOut] = (), *, expires_ms: int | None = None
    ) -> bool:
        """Marks a batch "on the wire"; what is ``kept_out`` of it ends
        here. False: the batch or permit is lost.

        ``expires_ms`` is the earliest expires_at of what is to be sent. Raises HeldBackError when that
        has come, or an operator's word, since it was claimed: all of it waits again.
        """
        ended = [
            value
            for each in kept_out
            for value in (each.ending.delivery, STATUS_CODES[each.status], int(each.reason), each.ending.key)
        ]
        marked = self._scripts.run(
            "mark",
            [self._root],
            batch.number,
            batch.token,
            lease_ms,
            self._retention_ms,
            expires_ms or 0,
            *ended,
        )
        if marked == _HELD_BACK:
            raise HeldBackError
        return bool(marked)

    def settle(
        self,
        batch: Batch,
        *,
        http: int,
        text: str,
        fates: Sequence[FateRow],
        assignment: bytes,
        freed: Iterable[Ending],
        split: SplitBy | None = None,
        budget: int = 0,
    ) -> bool:
        """Gives each delivery of a batch its fate. ``assignment`` holds the number (from 1) of each one's
        fate, recipient by recipient, or a single byte for all. False: somebody else has the batch by now.
        """
        table = [
            value
            for fate in fates
            for value in (
                STATUS_CODES[fate.status],
                int(fate.reason),
                fate.counted,
                -1 if fate.due_in_ms is None else fate.due_in_ms,
            )
        ]
        pairs = [value for ending in freed for value in (ending.delivery, ending.key)]
        return bool(
            self._scripts.run(
                "settle",
                [self._root],
                batch.number,
                batch.token,
                http,
                text,
                self._retention_ms,
                budget,
                split or "",
                len(fates),
                *table,
                assignment,
                *pairs,
            )
        )

    def promote(self, most: int = 1000) -> tuple[int, bool]:
        """Wakes due rows; how many, and whether more are due."""
        woken, more = self._scripts.run("promote", [self._root], self._retention_ms, most)
        return woken, bool(more)

    def recover(self, token: str, lease_ms: int) -> Batch | bool:
        """Takes over one batch whose lease has ended.

        False: there is none. True: it had not been sent and is pending again. A Batch: it may
        have been sent, and is now to be settled with ``token``. One that is not ``sent`` was
        claimed by workers that died of it, one after the other.
        """
        answer = self._scripts.run("recover", [self._root], token, lease_ms, self._retention_ms)
        if isinstance(answer, bytes):
            return answer == b"BACK"
        return replace(_batch(answer, token), sent=answer[7] == b"wire")

    def finish(
        self, status: Status, reason: Reason, may_end: Iterable[Status], endings: Sequence[Ending]
    ) -> int:
        """Ends deliveries that wait (at most 1000 a call); those that have
        moved on are left. How many it ended.
        """
        letters = "".join(STATUS_CODES[s] for s in may_end)
        triples = [value for e in endings for value in (e.delivery, e.gid, e.key)]
        return int(
            self._scripts.run(
                "finish",
                [self._root],
                STATUS_CODES[status],
                int(reason),
                letters,
                self._retention_ms,
                *triples,
            )
        )

    def requeue(self, may_take: Iterable[Status], endings: Sequence[tuple[Ending, int]]) -> Requeued:
        """Makes ended deliveries pending again (at most 500 a call);
        each with its dedupe window in seconds.
        """
        letters = "".join(STATUS_CODES[s] for s in may_take)
        items = [value for e, window in endings for value in (e.delivery, e.gid, e.key, window * 1000)]
        return Requeued(*self._scripts.run("requeue", [self._root], letters, self._retention_ms, *items))

    def retire(self, most: int = 50) -> tuple[int, bool]:
        """Forgets segments older than the retention; how many, and whether there may be more."""
        forgotten, more = self._scripts.run("retire", [self._root], self._retention_ms, most)
        return forgotten, bool(more)

    def lapse(self, most: int = 1000) -> tuple[int, bool]:
        """Takes dedupe keys out whose window is over; how many, and whether there may be more."""
        gone, more = self._scripts.run("lapse", [self._root], most)
        return gone, bool(more)

    def due_ending(self) -> DueEnding | None:
        """The oldest range of deliveries whose expires_at has come, or None."""
        slots = self._client.zrangebyscore(f"{self._root}expiry", "-inf", self.now_ms(), start=0, num=1)
        if not slots:
            return None
        slot = slots[0].decode()
        text = self._client.lindex(f"{self._root}expiry:{slot}", 0) or b"0 0"
        first, count = map(int, text.split())
        return DueEnding(slot, text, range(first, first + count))

    def ending_done(self, ending: DueEnding, again_in_ms: int = 0) -> None:
        """Takes a range away after all of it has been ended, or until it is to be looked at again."""
        self._scripts.run("ending_done", [self._root], ending.slot, ending.text, again_in_ms)

    def swept(self) -> None:
        """Notes that a sweep has been made, so that its absence is seen."""
        self._scripts.run("swept", [self._root])

    def key_of(self, delivery: int, campaign: int, row: Row, digest: str) -> Ending:
        """The delivery with the dedupe key that it was accepted under."""
        if not self.window_of(row):
            return Ending(delivery, row.group, b"")
        return Ending(delivery, row.group, dedupe_digest(campaign, row.recipient, row.dedupe_key, digest))

    def ending_of(self, outcome: Outcome) -> Ending:
        """The delivery of an outcome with the dedupe key that it was accepted under."""
        return self.key_of(outcome.delivery, outcome.campaign, outcome.row, outcome.digest)

    def window_of(self, row: Row) -> int:
        """The dedupe window of a delivery, seconds."""
        return self._windows.of(row.dedupe_key, row.dedupe_window_seconds)

    def now_ms(self) -> int:
        """The server's clock."""
        seconds, micros = self._client.time()
        return int(seconds) * 1000 + int(micros) // 1000


def _csv(campaigns: Sequence[int]) -> str:
    return ",".join(map(str, campaigns))


def _campaigns(csv: str) -> tuple[int, ...]:
    return tuple(map(int, csv.split(",")))


def _batch(answer: Sequence[Any], token: str) -> Batch:
    """A batch as the claiming scripts answer it."""
    number, content, spans, told, rows, key, names, *_ = answer
    campaigns = _campaigns(names.decode())
    return Batch(
        number=number,
        token=token,
        digest=key[1:].decode(),
        priority=_PRIORITIES[key[:1].decode()],
        campaigns=campaigns,
        content=content,
        members=Members(spans, told, rows, len(campaigns)),
    )
