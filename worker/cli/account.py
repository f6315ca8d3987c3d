"""One account, as a command gets hold of it: its store, and the hint that wakes the workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from config.accounts import ACCOUNT_NAME
from config.settings import Settings, load
from worker.cli.app import complain, settings_with_redis
from worker.store import Store, open_store


@contextmanager
def opened(account: str, data: Path) -> Iterator[tuple[Settings, Store]]:
    """The settings and the account's store, closed behind the block.

    An operator's machine needs no credentials: where no account is configured at all, any name is taken.
    Raises SettingsError for a name that is none of those configured, or that cannot be one.
    """
    settings = settings_with_redis(data, require_account=False)
    check_account(settings, account)
    store = open_store(settings, account)
    try:
        yield settings, store
    finally:
        store.close()


def checked_settings(account: str) -> Settings:
    """The settings of a command that may need no Redis. Raises SettingsError, as check_account too."""
    settings = load(require_account=False)
    check_account(settings, account)
    return settings


def check_account(settings: Settings, account: str) -> None:
    """Raises SettingsError unless the account is configured, or could be where none is."""
    if settings.accounts or not ACCOUNT_NAME.fullmatch(account):
        settings.account(account)


def send_hint(settings: Settings, account: str) -> None:
    """Tells the workers that deliveries wait. Where the broker is away, beat's next sweep does it."""
    # Here and not above: most commands send no hint, and Celery is slow to import.
    from celery import Celery
    from kombu.exceptions import OperationalError

    from config.celeryconfig import celery_settings

    app = Celery("volley", set_as_current=False)
    app.conf.update(celery_settings(settings))
    try:
        app.send_task("deliveries.deliver", args=[account], retry=False)
    except OperationalError:
        complain("the broker is away: the workers will see it with the next sweep.")
    finally:
        app.close()
