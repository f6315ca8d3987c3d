"""What beat calls. Each is safe to run twice, at once, or never."""

from __future__ import annotations

from worker.app import app, engine, send_hint, settings, stopping
from worker.store import AWAY

#: How long one fire task goes on before it makes room for others, seconds.
FIRE_SECONDS = 10.0
#: The same for a worker of one or two slots, where what it appends waits to be accepted behind it.
FIRE_ALONE_SECONDS = 0.5


@app.task(name="scheduled.sweep", throws=AWAY)
def sweep() -> None:
    """Wakes what is due, takes over what the dead left, ends what expired, and sends hints that were lost."""
    for account in settings.accounts:
        engine(account).sweep()
        for _ in range(engine(account).store.permits.seated(), settings.accept_tasks):
            send_hint("triggers.accept", account)


@app.task(name="scheduled.fire", throws=AWAY)
def fire() -> None:
    """Lets recurring sends of which a slot has come append their triggers."""
    seconds = FIRE_SECONDS if settings.concurrency > 2 else FIRE_ALONE_SECONDS
    for account in dict.fromkeys(send.account for send in settings.sends):
        engine(account).recurring.fire(seconds, stopping)


@app.task(name="scheduled.retain", throws=AWAY)
def retain() -> None:
    """Forgets what is older than the retention."""
    for account in settings.accounts:
        engine(account).retain()
