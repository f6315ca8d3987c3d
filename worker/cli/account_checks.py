"""What `volley doctor` thinks of an account: its settings, its workers, and what waits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from config.accounts import LEASE_MARGIN_SECONDS
from config.settings import Account, Region
from worker.cli.findings import Finding, ok, problem, skipped, warning
from worker.cli.times import span
from worker.core.model import Status
from worker.store import LayoutError, OldLayoutError, Store
from worker.store.bounds import Bounds
from worker.store.control import ALL
from worker.store.status import Snapshot

#: How CleverTap's dashboard writes an account's id and passcode.
_ID = re.compile(r"(TEST-)?[0-9A-Z]{3}-[0-9A-Z]{3}-[0-9A-Z]{4}")
_PASSCODE = re.compile(r"[0-9A-Z]{3}-[0-9A-Z]{3}-[0-9A-Z]{4}")
#: What examples and templates hold in place of a value.
_PLACEHOLDER = re.compile(r"(?i)x{4,}|chang|your|secret|passcode|password|example|todo|[<>{}$]")
#: Share of a bound from which on it is worth a word.
_BOUND_WARNING_SHARE = 0.8


def settings_checks(account: Account) -> Iterator[Finding]:
    """Its credentials by their form alone, and its leases."""
    yield replace(_credentials(account), account=account.name)
    lease, deadline = account.permit_lease_seconds, account.request_deadline_seconds
    spare = lease - deadline
    text = f"a permit is leased for {lease:g} s, a request takes {deadline:g} s at most"
    if spare < 2 * LEASE_MARGIN_SECONDS:
        finding = warning(
            "leases",
            f"{text}: settling has {spare:g} s",
            "On a slow machine that is short: 10 s or more between VOLLEY_PERMIT_LEASE and "
            "VOLLEY_REQUEST_DEADLINE.",
        )
    else:
        finding = ok("leases", text)
    yield replace(finding, account=account.name)


def _credentials(account: Account) -> Finding:
    account_id, passcode = account.account_id, account.passcode.get_secret_value()
    token = account.token.get_secret_value() if account.token else None
    mend = "Compare with CleverTap's dashboard: Settings > Project."
    if account.base_url not in {region.base_url for region in Region}:
        return ok("credentials", "not CleverTap's host, so any form will do")
    if passcode in {account_id, token}:
        return problem("credentials", "the passcode is the same as the account id or the token", mend)
    for name, value, form in (
        ("account id", account_id, _ID),
        ("passcode", passcode, _PASSCODE),
        ("token", token or "", None),
    ):
        if form is not None and form.fullmatch(value):
            continue
        if _PLACEHOLDER.search(value) or value.startswith(("'", '"')):
            return problem(
                "credentials", f"the {name} looks like a placeholder, or has quotes around it", mend
            )
    if not _ID.fullmatch(account_id):
        return warning("credentials", "the account id does not look like ABC-DEF-GHIJ", mend)
    if not _PASSCODE.fullmatch(passcode):
        return warning("credentials", "the passcode does not look like ABC-DEF-GHIJ", mend)
    api = "with a token: /2" if token else "without a token: /1, one recipient a call"
    return ok("credentials", f"their form is right ({api}); whether they are, only a call can tell")


def account_checks(
    store: Store, bounds: Bounds, idle_seconds: float, testing: Mapping[int, int]
) -> Iterator[Finding]:
    """What Redis says of the account; ``testing`` are its campaigns in test mode.

    Raises redis.exceptions.RedisError.
    """
    try:
        store.schema.verify()
    except LayoutError as error:
        advice = "Install the version that wrote it."
        if isinstance(error, OldLayoutError):
            advice = "Start a worker of this version: celery -A worker.app worker (or `volley up`)."
        yield replace(problem("data", str(error), advice), account=store.account)
        return
    snapshot = replace(store.status(), testing=dict(testing))
    for finding in _checks(store, snapshot, bounds, idle_seconds):
        yield replace(finding, account=store.account)


def _checks(store: Store, snapshot: Snapshot, bounds: Bounds, idle_seconds: float) -> Iterator[Finding]:
    yield ok("data", "of this version")
    yield _group(store, snapshot)
    yield _worker(snapshot)
    yield _beat(snapshot)
    # Where no sweep has run it is said already; and to ask then would note the layout of a new account.
    stuck = store.progress().stuck(int(idle_seconds * 1000)) if snapshot.swept_ms is not None else None
    if snapshot.swept_ms is None:
        yield skipped("progress", "no sweep has ever run")
    elif stuck:
        yield problem(
            "progress", stuck, "Look at the logs of worker and beat; `volley status` tells what waits."
        )
    else:
        yield ok("progress", "work moves, or there is none")
    yield _room(snapshot, bounds)
    yield from _held_back(snapshot)
    yield _dead_letters(snapshot)
    yield _unknown(snapshot)


def _group(store: Store, snapshot: Snapshot) -> Finding:
    if store.intake.has_readers():
        return ok("intake", f"{snapshot.intake:,} triggers wait")
    if snapshot.intake:
        found = f"{snapshot.intake:,} triggers wait, and no worker has ever read them"
        return problem("intake", found, "Start a worker with this account in its settings.")
    return warning("intake", "no worker has ever read it", "The first worker makes what it needs: start one.")


def _worker(snapshot: Snapshot) -> Finding:
    if snapshot.accept_tasks:
        return ok("worker", "waits at the intake")
    return problem(
        "worker", "none waits at the intake", "Start one: celery -A worker.app worker (or `volley up`)."
    )


def _beat(snapshot: Snapshot) -> Finding:
    if snapshot.swept_ms is None:
        return problem("beat", "no sweep has ever run", "Start exactly one: celery -A worker.app beat.")
    age_ms = max(0, snapshot.now_ms - snapshot.swept_ms)
    if age_ms > 5_000:
        advice = "Is beat running, and a worker? celery -A worker.app beat."
        return problem("beat", f"the last sweep was {span(age_ms)} ago", advice)
    return ok("beat", f"the last sweep was {span(age_ms)} ago")


def _room(snapshot: Snapshot, bounds: Bounds) -> Finding:
    text = f"{snapshot.intake:,} triggers in the intake, {snapshot.live:,} deliveries under way"
    advice = "Producers are told to wait. Do workers run, does CleverTap answer? Or raise the bound."
    if snapshot.full:
        return problem("room", "; ".join(str(each) for each in snapshot.full), advice)
    near = bounds.reached(
        entries=snapshot.intake,
        entry_bytes=0,
        live=snapshot.live,
        memory=0,
        max_memory=0,
        from_share=_BOUND_WARNING_SHARE,
    )
    if near:
        return warning(
            "room", "; ".join(str(each) for each in near), advice.replace("are told", "will be told")
        )
    return ok("room", text)


def _held_back(snapshot: Snapshot) -> Iterator[Finding]:
    if snapshot.paused:
        names = ", ".join("everything" if name == ALL else name for name in sorted(snapshot.paused))
        yield warning("paused", names, "An operator said so: `volley resume` ends it.")
    else:
        yield ok("paused", "nothing")
    if snapshot.held:
        found = f"{len(snapshot.held):,} triggers or ids are held back"
        yield warning(
            "held", found, "An operator said so: `volley status` names them, `volley resume` ends it."
        )
    if snapshot.testing:
        found = ", ".join(str(each) if each else "everything" for each in sorted(snapshot.testing))
        yield warning("test mode", found, "Only recipients of the allow-list are sent to: meant so?")
    parked = snapshot.parked
    if parked:
        names = ", ".join(
            f"{'the account' if each.name == ALL else each.name} ({each.reason.label})" for each in parked
        )
        advice = "CleverTap refuses it: `volley status` shows the reason and the likely causes."
        make = problem if any(each.name == ALL for each in parked) else warning
        yield make("parked", names, advice)
    else:
        yield ok("parked", "nothing")


def _dead_letters(snapshot: Snapshot) -> Finding:
    if not snapshot.dead_letters:
        return ok("dead letters", "none")
    return warning("dead letters", f"{snapshot.dead_letters:,}", "`volley dead` shows where and why.")


def _unknown(snapshot: Snapshot) -> Finding:
    unknown = snapshot.total(Status.UNKNOWN)
    if not unknown:
        return ok("unknown outcomes", "none")
    return warning(
        "unknown outcomes",
        f"{unknown:,}: sent, perhaps, and no answer came",
        "Compare with CleverTap's report; `volley retry --status unknown` sends them again.",
    )
