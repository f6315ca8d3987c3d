"""A producer that appends without a pause, repeats itself now and then, and keeps its own book."""

from __future__ import annotations

import json
import random
import threading
import time
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from worker.store.connection import connect
from worker.store.keys import intake

CAMPAIGNS = (1709550110, 1709550111)
#: Seconds between two appends, about, and how many of them are of many people, come later, and are repeated.
RHYTHM_SECONDS, BULK, LATER, REPEATED = 0.12, 0.12, 0.05, 0.08

#: Campaign and recipient; the producer writes to nobody twice.
Pair = tuple[str, str]


@dataclass(slots=True)
class Book:
    """What the server has confirmed."""

    #: When each pair was first confirmed, epoch seconds.
    confirmed: dict[Pair, float] = field(default_factory=dict)
    #: Appends that were confirmed, the repeated ones included.
    appends: int = 0


class Producer(threading.Thread):
    """Appends until ``stop``; what fails it tries again until it is confirmed."""

    def __init__(self, redis_url: str, seed: int) -> None:
        super().__init__(name="producer", daemon=True)
        self.book = Book()
        self._dice = random.Random(seed)
        self._redis = connect(redis_url)
        self._ending = threading.Event()
        self._failed: BaseException | None = None

    def stop(self) -> None:
        """Ends it when its last append is confirmed. Raises what ended it before."""
        self._ending.set()
        self.join(60)
        self._redis.close()
        if self._failed is not None or self.is_alive():
            raise RuntimeError("the producer could not go on") from self._failed

    def run(self) -> None:
        try:
            serial = 0
            while not self._ending.wait(self._dice.uniform(0.2, 1.8) * RHYTHM_SECONDS):
                serial += 1
                trigger, pairs = self._trigger(serial)
                for _ in range(2 if self._dice.random() < REPEATED else 1):
                    self._append(trigger)
                    now = time.time()
                    for pair in pairs:
                        self.book.confirmed.setdefault(pair, now)
        except BaseException as error:
            self._failed = error

    def _append(self, trigger: str) -> None:
        while True:
            try:
                self._redis.xadd(intake("default"), {"trigger": trigger})
            except RedisError:
                # Away or full. It may have been done all the same: then the second one is a duplicate.
                time.sleep(0.05)
            else:
                self.book.appends += 1
                return

    def _trigger(self, serial: int) -> tuple[str, list[Pair]]:
        dice = self._dice
        many = dice.random() < BULK
        people = [f"p{serial}-{n}@example.com" for n in range(10 if many else 1)]
        campaigns = CAMPAIGNS if many else CAMPAIGNS[:1]
        trigger: dict[str, object] = {
            "to": {"email": people},
            "campaign_id_list": list(campaigns),
            # Some contents come again, so that calls are shared.
            "ExternalTrigger": {"Name": f"N{serial % 7 if many else serial}"},
            "priority": dice.choice(["urgent", "normal", "bulk"]),
        }
        if dice.random() < LATER:
            trigger["send_at"] = time.time() + dice.uniform(1, 4)
        return json.dumps(trigger), [(str(campaign), person) for campaign in campaigns for person in people]
