"""The use cases of one account, in the order of a trigger's life: accept, deliver, settle, sweep, send again.

Each module says what happens; the store says how it is atomic, the core what an
answer means, the client how a call is made. A process may die between any two lines
here: what it leaves is found by its lease (``sweeping``).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence

from config.settings import Account, Settings
from worker.core.model import RETRYABLE, Status
from worker.engine.accepting import Accepting
from worker.engine.delivering import Delivering
from worker.engine.parts import Parts, Poster, Stopping
from worker.engine.recurring import Recurring
from worker.engine.settling import Settling
from worker.engine.sweeping import Sweeping
from worker.store import Store
from worker.store.batches import Requeued
from worker.store.outcomes import Outcome

__all__ = ["Engine", "Stopping"]


class Engine:
    """One account's use cases. ``hint`` is called when work may be waiting for a permit that is free.

    Raises one of ``worker.store.AWAY`` where Redis is away; whatever was begun is found again by ``sweep``.
    """

    def __init__(
        self,
        settings: Settings,
        account: Account,
        store: Store,
        client: Poster,
        *,
        hint: Callable[[], bool | None] = lambda: None,
        uniform: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        parts = Parts(settings, account, store, client, hint, uniform, monotonic, sleep)
        settling = Settling(parts)
        self.account = account
        self.store = store
        self._hint = hint
        self._accepting = Accepting(parts)
        self._delivering = Delivering(parts, settling)
        self._sweeping = Sweeping(parts, settling)
        self.recurring = Recurring(parts, [send for send in settings.sends if send.account == account.name])

    def enqueue(self, triggers: Sequence[bytes], *, nonce: str) -> list[str]:
        """Appends triggers (JSON) to the intake; their entry ids. Again
        with the same nonce: no second effect. Raises FullError where a bound is reached.
        """
        return self.store.intake.append(triggers, nonce)

    def bury(self, trigger: bytes, where: str, reason: str) -> None:
        """Keeps a trigger that cannot be accepted with the dead letters."""
        self.store.intake.bury(trigger, where, reason)

    def wait_and_accept(self, seconds: float, stopping: Stopping) -> bool:
        """Waits at the intake for ``seconds`` and accepts what comes.
        False: enough others wait there already.
        """
        return self._accepting.wait_and_accept(seconds, stopping)

    def deliver(self, seconds: float, stopping: Stopping) -> None:
        """Takes a permit and sends what is due until nothing is, for
        ``seconds`` at most; hints if work is left.
        """
        self._delivering.deliver(seconds, stopping)

    def sweep(self) -> None:
        """Wakes what is due, takes over what the dead left, ends what
        expired. Safe twice, at once, or never.
        """
        self._sweeping.sweep()

    def retain(self) -> None:
        """Forgets what is older than the retention."""
        self._sweeping.retain()

    def requeue(self, outcomes: Iterable[Outcome], may_take: Iterable[Status] = RETRYABLE) -> Requeued:
        """Makes deliveries pending again that ended as one of ``may_take``
        (at most 500 a call); others are left.
        """
        deliveries = self.store.deliveries
        ended = [outcome for outcome in outcomes if outcome.status in RETRYABLE]
        done = deliveries.requeue(
            may_take,
            [(deliveries.ending_of(outcome), deliveries.window_of(outcome.row)) for outcome in ended],
        )
        if done.taken:
            self._hint()
        return done
