"""Deliveries on their way out."""

from __future__ import annotations

from config.settings import DEFAULT_ACCOUNT
from worker.app import app, engine, settings, stopping
from worker.store import AWAY

#: How long one deliver task goes on before it makes room for others, seconds.
DELIVER_SECONDS = 10.0
#: The same for a worker of one or two slots, in which nobody else might accept what comes meanwhile.
DELIVER_ALONE_SECONDS = 0.5


@app.task(name="deliveries.deliver", throws=AWAY)
def deliver(account: str = DEFAULT_ACCOUNT) -> None:
    """Takes a permit and sends what is due; ends at once when none is free."""
    engine(account).deliver(DELIVER_SECONDS if settings.concurrency > 2 else DELIVER_ALONE_SECONDS, stopping)
