"""Whether an account's work moves: what waits to be done now, and when something was last done."""

from __future__ import annotations

from dataclasses import dataclass

from worker.store import keys
from worker.store.connection import RedisClient
from worker.store.deliveries import Deliveries
from worker.store.permits import Permits


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at an account; times are epoch ms of the server's clock."""

    now_ms: int
    #: Since when the work waits that a free permit could serve; None: there is none, or no permit is free.
    due_since_ms: int | None
    #: When the oldest trigger was appended that waits to be accepted.
    intake_since_ms: int | None
    #: Accept tasks that wait at the intake.
    readers: int
    #: When a delivery last changed; None: there are none.
    moved_ms: int | None
    #: When a sweep last ran.
    swept_ms: int | None

    def waits(self, sweep_within_ms: int) -> bool:
        """Whether something is there to be done now, and nobody is known to do it."""
        unread = self.intake_since_ms is not None and not self.readers
        unswept = self.swept_ms is None or self.now_ms - self.swept_ms > sweep_within_ms
        return self.due_since_ms is not None or unread or unswept

    def stuck(self, within_ms: int) -> str | None:
        """Why nothing moves, in a sentence; None where the work is done or has not waited for long."""

        def seconds(since_ms: int) -> str:
            return f"{max(0, self.now_ms - since_ms) / 1000:.0f} s"

        if self.swept_ms is None:
            return "No sweep has ever run: there is no worker, or no beat."
        if self.now_ms - self.swept_ms > within_ms:
            return f"The last sweep was {seconds(self.swept_ms)} ago: there is no worker, or no beat."
        moved_ms = self.moved_ms or 0
        if self.now_ms - moved_ms <= within_ms:
            return None
        since = f"and nothing has moved for {seconds(moved_ms)}" if moved_ms else "and nothing has ever moved"
        if self.intake_since_ms is not None and self.now_ms - self.intake_since_ms > within_ms:
            return f"A trigger has waited {seconds(self.intake_since_ms)} to be accepted, {since}."
        if self.due_since_ms is not None and self.now_ms - self.due_since_ms > within_ms:
            return f"Due work has waited {seconds(self.due_since_ms)}, a permit is free, {since}."
        return None


def read_progress(
    client: RedisClient, account: str, deliveries: Deliveries, permits: Permits, most: int
) -> Progress:
    """How an account's work moves now; ``most`` is how many permits it has."""
    root = keys.root(account)
    pipe = client.pipeline(transaction=False)
    pipe.time()
    pipe.xrange(keys.intake(account), count=1)
    pipe.zrange(f"{root}segments", 0, 0, desc=True, withscores=True)
    pipe.get(f"{root}swept")
    (seconds, micros), oldest, moved, swept = pipe.execute()
    view = deliveries.view() if permits.free(most) else None
    moved_ms = int(moved[0][1]) if moved else None
    lanes = [lane.since_ms for group in view.groups for lane in group.lanes] if view else []
    # Parts of a refused batch do not say since when they wait: since the last time that anything moved.
    due_since_ms = (min(lanes) if lanes else moved_ms) if view else None
    return Progress(
        now_ms=int(seconds) * 1000 + int(micros) // 1000,
        due_since_ms=due_since_ms,
        intake_since_ms=int(oldest[0][0].partition(b"-")[0]) if oldest else None,
        readers=permits.seated(),
        moved_ms=moved_ms,
        swept_ms=int(swept) if swept else None,
    )
