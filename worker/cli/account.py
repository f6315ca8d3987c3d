"""One account, as a command gets hold of it: its store, and the hint that wakes the workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from config.accounts import ACCOUNT_NAME
from config.settings import Settings, load
from worker.cli.app import ExitCode, Refusal, complain, settings_with_redis
from worker.store import Store, open_store


@contextmanager
def opened(account: str, data: Path) -> Iterator[tuple[Settings, Store]]:
    """The settings and the account's store, closed behind the block.

    An operator's machine needs no credentials: where no account is configured at all, any name is taken.
    Raises SettingsError for a name that is none of those configured, or that cannot be one, and LayoutError
    where the account's data is another version's.
    """
    settings = settings_with_redis(data, require_account=False)
    check_account(settings, account)
    store = open_store(settings, account)
    try:
        store.schema.verify()
        yield settings, store
    finally:
        store.close()


EveryAccountOption = Annotated[
    bool, typer.Option("--every-account", help="The same for every account that is configured here.")
]


@contextmanager
def opened_accounts(account: str, data: Path, *, every: bool) -> Iterator[tuple[Settings, list[Store]]]:
    """As `opened`, for one account or for all that are configured. Raises Refusal where none is."""
    settings = settings_with_redis(data, require_account=False)
    if every and not settings.accounts:
        raise Refusal("No account is configured here: name one with --account.", ExitCode.USAGE)
    with ExitStack() as stack:
        names = sorted(settings.accounts) if every else [account]
        stores = [stack.enter_context(opened(name, data))[1] for name in names]
        yield settings, stores


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
