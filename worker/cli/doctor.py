"""`volley doctor`: what is wrong with an installation, and what to change. It changes nothing itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated

import typer
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from config.redis_url import address_of
from config.settings import DEFAULT_ACCOUNT, Settings
from worker.cli.account import check_account
from worker.cli.account_checks import account_checks, settings_checks
from worker.cli.app import (
    DATA_FOLDER,
    DataOption,
    ExitCode,
    JsonOption,
    app,
    console,
    print_json,
    settings_with_redis,
)
from worker.cli.findings import Finding, Level, findings_table, ok, problem, skipped, warning
from worker.cli.server_checks import server_checks
from worker.store import bounds_of, keys, open_store
from worker.store.connection import RedisClient, connect
from worker.store.server import foreign_keys, read_server, streams

#: Seconds that work may wait where VOLLEY_IDLE_EXIT is 0.
_IDLE_SECONDS = 60.0
#: Messages of producers that wait at the broker and are worth a word.
_MANY_MESSAGES = 1000
#: Names that are shown of a longer list.
_NAMED = 5


@app.command()
def doctor(
    account: Annotated[
        str | None, typer.Option("--account", help="This account only; all that are configured if not given.")
    ] = None,
    json: JsonOption = False,
    data: DataOption = DATA_FOLDER,
) -> None:
    """Check server, settings, worker, beat and what waits; say what to change.

    Exit code 1 where anything is a problem; warnings alone are 0. It changes nothing, and never calls
    CleverTap. With --json: one object for each finding.
    """
    settings = settings_with_redis(data, require_account=False)
    names = [account] if account else sorted(settings.accounts) or [DEFAULT_ACCOUNT]
    for name in names:
        check_account(settings, name)
    findings = list(_examine(settings, names))
    if json:
        for finding in findings:
            print_json(finding.json())
    else:
        console().print(findings_table(findings))
        console().print(_summary(findings))
    if any(finding.level is Level.PROBLEM for finding in findings):
        raise typer.Exit(ExitCode.FAILED)


def _summary(findings: Iterable[Finding]) -> str:
    levels = [finding.level for finding in findings]
    parts = [
        f"{count} {level.value}{'s' if count > 1 else ''}"
        for level in (Level.PROBLEM, Level.WARNING)
        if (count := levels.count(level))
    ]
    return f"{' and '.join(parts)}." if parts else "All is well."


def _examine(settings: Settings, names: list[str]) -> Iterator[Finding]:
    with connect(settings.redis_address()) as client:
        try:
            facts = read_server(client)
        except RedisError as error:
            yield problem(
                "server",
                f"does not answer ({type(error).__name__})",
                "Does it run; is VOLLEY_REDIS_URL right?",
            )
            return
        yield ok("server", "answers")
        yield from server_checks(facts, settings.max_memory_share)
        yield _broker(settings)
        for name in names:
            if name in settings.accounts:
                yield from settings_checks(settings.accounts[name])
            yield from _account(settings, name)
        yield _unread_streams(settings, client, names)
        yield _foreign(client)


def _account(settings: Settings, name: str) -> Iterator[Finding]:
    store = open_store(settings, name)
    try:
        idle_seconds = settings.idle_exit_seconds or _IDLE_SECONDS
        yield from account_checks(store, bounds_of(settings), idle_seconds, settings.in_test_mode(name))
    except NoPermissionError:
        yield Finding("account", Level.SKIPPED, "this user may not read all of it (ACL)", account=name)
    finally:
        store.close()


def _broker(settings: Settings) -> Finding:
    from config.celeryconfig import ENQUEUE_QUEUE

    if settings.broker_url is None:
        return skipped("broker", "none is given")
    same = settings.broker_url == settings.redis_url
    try:
        with connect(address_of(settings.broker_url, settings.sentinel_master)) as client:
            client.ping()
            waiting = client.llen(ENQUEUE_QUEUE)
            policy = None if same else client.info("memory").get("maxmemory_policy")
    except (NoPermissionError, ResponseError):
        return skipped("broker", "answers; this user may not look into it (ACL)")
    except RedisError as error:
        return problem(
            "broker",
            f"does not answer ({type(error).__name__})",
            "Without it nothing is sent: does it run; is VOLLEY_BROKER_URL right?",
        )
    text = f"{'the same server' if same else 'answers'}, {waiting:,} messages of producers wait"
    if policy not in {None, "noeviction"}:
        return problem(
            "broker",
            f"{text}; its eviction policy is {policy}",
            "CONFIG SET maxmemory-policy noeviction there.",
        )
    if waiting > _MANY_MESSAGES:
        return warning("broker", text, "Do workers consume volley.enqueue, or is a bound reached (`room`)?")
    return ok("broker", text)


def _unread_streams(settings: Settings, client: RedisClient, names: list[str]) -> Finding:
    """Appends under a name that no account has wait for ever."""
    if not settings.accounts:
        return skipped("unread streams", "no account is configured here")
    try:
        found = streams(client)
    except (NoPermissionError, ResponseError):
        return skipped("unread streams", "SCAN: this user may not look (ACL)")
    known = {
        f"{keys.root(name)}{what}" for name in {*names, *settings.accounts} for what in ("intake", "dead")
    }
    unread = [name for name in found.names if name not in known]
    if not unread:
        return ok("unread streams", f"none{'' if found.all_seen else ' among the keys looked at'}")
    return problem(
        "unread streams",
        f"{_some(unread)}: no account of this name is configured",
        "Producers append to volley:{ACCOUNT}:intake, braces included; the account must be `default` or a "
        "table of the TOML file.",
    )


def _foreign(client: RedisClient) -> Finding:
    try:
        found = foreign_keys(client)
    except (NoPermissionError, ResponseError):
        return skipped("foreign keys", "SCAN: this user may not look (ACL)")
    if not found.names:
        return ok("foreign keys", f"none{'' if found.all_seen else ' among the keys looked at'}")
    return warning(
        "foreign keys",
        f"{_some(found.names)}: not written by this version of Volley",
        "Names that begin with volley: are Volley's; let others use another prefix.",
    )


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _NAMED:,} more" if len(listed) > _NAMED else ""
    return ", ".join(name[:80] for name in listed[:_NAMED]) + more
