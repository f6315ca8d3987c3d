"""What beat calls. Each is safe to run twice, at once, or never."""

from __future__ import annotations

from worker.app import app, engine, send_hint, settings
from worker.store import AWAY


@app.task(name="scheduled.sweep", throws=AWAY)
def sweep() -> None:
    """Wakes what is due, takes over what the dead left, ends what expired, and sends hints that were lost."""
    for account in settings.accounts:
        engine(account).sweep()
        if not engine(account).store.permits.seated():
            send_hint("triggers.accept", account)


@app.task(name="scheduled.retain", throws=AWAY)
def retain() -> None:
    """Forgets what is older than the retention."""
    for account in settings.accounts:
        engine(account).retain()
