"""Outcomes and snapshots as people and programs read them: tables, and JSON objects with stable keys.

The JSON keys are a contract: one is added now and then, none is renamed or removed. Times are ISO 8601 in
UTC with milliseconds. What is absent is ``null``, never a missing key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from worker.cli.app import safe
from worker.cli.times import clock, iso, span
from worker.core.door import CAUSES
from worker.core.model import Reason, Status
from worker.store.control import ALL
from worker.store.door import ParkedThing
from worker.store.outcomes import Outcome
from worker.store.rules import Wait, Why
from worker.store.status import Snapshot

#: A sweep older than this means that beat does not run, ms. It runs once a second.
SWEEP_LATE_MS = 5_000
#: Characters of the vendor's text in a table; JSON holds all of it.
_SAID_CHARS = 72

#: How a status looks: what needs nobody is quiet.
STYLES: Mapping[Status, str] = {
    Status.ACCEPTED: "green",
    Status.DUPLICATE: "dim",
    Status.CANCELLED: "dim",
    Status.SUPPRESSED: "dim",
    Status.HELD: "yellow",
    Status.EXPIRED: "yellow",
    Status.RETRYING: "yellow",
    Status.REJECTED: "red",
    Status.FAILED: "red",
    Status.UNKNOWN: "bold red",
}


def outcome_json(outcome: Outcome) -> dict[str, object]:
    """One outcome: ``volley outcomes --json`` prints one a line.

    ``delivery`` is its number; ``reason`` a label, null where there is nothing to explain; ``trigger`` the
    stream entry's id and ``id`` the producer's; ``batch`` the last one it was in; ``duplicate_of`` the
    delivery that holds the key; ``first`` the first attempt (before it: when it was, or is, due), ``last``
    the last change; ``text`` the vendor's words.
    """
    expires = outcome.expires_at_ms
    return {
        "delivery": outcome.delivery,
        "status": outcome.status.value,
        "reason": None if outcome.reason is Reason.NONE else outcome.reason.label,
        "campaign": outcome.campaign,
        "recipient": {"kind": outcome.recipient.kind.value, "value": outcome.recipient.value},
        "trigger": outcome.trigger,
        "id": outcome.producer_id,
        "priority": outcome.priority.value if outcome.priority else None,
        "attempts": outcome.attempts,
        "http": outcome.http,
        "batch": outcome.batch,
        "duplicate_of": outcome.duplicate_of,
        "first": iso(outcome.first_ms),
        "last": iso(outcome.updated_ms),
        "expires_at": None if expires is None else iso(expires),
        "source": outcome.source,
        "text": outcome.text or None,
    }


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the table. It is left out where the terminal has fewer columns than ``from_width``.

    Its cells are never folded where it is ``fixed``, or where none is longer than ``whole``.
    """

    head: str
    cell: Callable[[Outcome], Text | str]
    from_width: int = 0
    fixed: bool = True
    whole: int = 0
    right: bool = False


_COLUMNS = (
    _Column("time (UTC)", lambda o: clock(o.updated_ms), 100),
    _Column("campaign", lambda o: str(o.campaign)),
    _Column("recipient", lambda o: safe(o.recipient.value), fixed=False, whole=32),
    _Column("status", lambda o: Text(o.status.value, STYLES.get(o.status, ""))),
    _Column("reason", lambda o: "" if o.reason is Reason.NONE else o.reason.label),
    _Column("http", lambda o: str(o.http or ""), 120, right=True),
    _Column("attempts", lambda o: str(o.attempts or ""), 120, right=True),
    _Column("trigger", lambda o: safe(o.trigger), 160),
    _Column("id", lambda o: safe(o.producer_id or ""), 100, fixed=False),
    _Column("batch", lambda o: str(o.batch or ""), 160, right=True),
    _Column("said", lambda o: safe(_said(o), _SAID_CHARS), 140, fixed=False),
)


def outcomes_table(outcomes: Sequence[Outcome], width: int, *, title: str | None = None) -> Table:
    """One row for each outcome, for a terminal of this width; a column that would be empty is left out.

    A narrow terminal shows fewer columns; JSON has everything.
    """
    table = Table(title=title, title_justify="left")
    columns = []
    for column in _COLUMNS:
        cells = [column.cell(outcome) for outcome in outcomes] if width >= column.from_width else []
        if any(str(each) for each in cells):
            table.add_column(
                column.head,
                no_wrap=column.fixed or all(len(cell) <= column.whole for cell in cells),
                overflow="fold",
                justify="right" if column.right else "left",
            )
            columns.append(cells)
    for row in zip(*columns, strict=True):
        table.add_row(*row)
    return table


def _said(outcome: Outcome) -> str:
    return outcome.text if outcome.duplicate_of is None else f"repeats delivery {outcome.duplicate_of}"


def counts_table(
    counts: Mapping[tuple[int, Status], int],
    *,
    paused: Iterable[str] = (),
    names: Mapping[int, str] | None = None,
    calls: Mapping[int, int] | None = None,
    title: str | None = None,
) -> Table:
    """A row for each campaign, a column for each status that occurs; sums where there are several rows.

    With ``calls``: how many each campaign had a part in, and what share of all that is.
    """
    campaigns = sorted({campaign for campaign, _ in counts})
    statuses = [status for status in Status if any(counts.get((c, status)) for c in campaigns)]
    held = frozenset(paused)
    table = Table(title=title, title_justify="left", show_footer=len(campaigns) > 1)
    table.add_column("campaign", footer="all")
    for status in statuses:
        total = sum(counts.get((c, status), 0) for c in campaigns)
        table.add_column(status.value, footer=f"{total:,}", justify="right", style=STYLES.get(status, ""))
    table.add_column("sum", footer=f"{sum(counts.values()):,}", justify="right")
    made = sum((calls or {}).values())
    if calls is not None:
        table.add_column("calls", footer=f"{made:,}", justify="right")
        table.add_column("share", justify="right")
    for campaign in campaigns:
        row = [counts.get((campaign, status), 0) for status in statuses]
        head = Text(str(campaign))
        if names and campaign in names:
            head.append(f"  {names[campaign]}", "dim")
        if str(campaign) in held or ALL in held:
            head.append("  paused", "yellow")
        cells = [*(f"{count:,}" if count else "" for count in row), f"{sum(row):,}"]
        if calls is not None:
            own = calls.get(campaign, 0)
            cells += [f"{own:,}" if own else "", f"{own / made:.0%}" if own else ""]
        table.add_row(head, *cells)
    return table


def snapshot_json(account: str, snapshot: Snapshot, permits: int | None) -> dict[str, object]:
    """How an account stands: ``volley status --json`` prints one object a line. ``permits``: its limit.

    ``full`` lists bounds that are reached; ``permits.usable`` is null while all may be used; a parked
    ``name`` is a campaign, or ``*``: the account.
    ``calls`` has for each campaign how many it had a part in, and its share of all (0 to 1). ``waits`` are
    campaigns whose due work waits for a rule: ``why`` is quiet, canary, hour, day or pace; ``until`` is null
    where an operator's word is waited for; of canary and guards, ``count`` recipients have gone and ``most``
    may.
    """
    counts: dict[str, dict[str, int]] = {}
    for (campaign, status), count in sorted(snapshot.counts.items()):
        counts.setdefault(str(campaign), {})[status.value] = count
    next_due, swept = snapshot.next_due_ms, snapshot.swept_ms
    return {
        "account": account,
        "at": iso(snapshot.now_ms),
        "live": snapshot.live,
        "totals": {status.value: total for status in Status if (total := snapshot.total(status))},
        "campaigns": counts,
        "calls": {
            str(campaign): {"calls": made, "share": round(snapshot.share(campaign), 4)}
            for campaign, made in sorted(snapshot.calls.items())
        },
        "waits": [
            {
                "campaign": wait.campaign,
                "why": wait.why.value,
                "until": None if wait.until_ms is None else iso(wait.until_ms),
                "count": wait.count if wait.most else None,
                "most": wait.most or None,
                "free_with": _let_go_by(wait),
            }
            for wait in snapshot.waits
        ],
        "intake": snapshot.intake,
        "full": [
            {"bound": each.bound.value, "value": each.value, "most": each.most} for each in snapshot.full
        ],
        "dead_letters": snapshot.dead_letters,
        "permits": {"held": snapshot.permits_held, "usable": snapshot.permits_usable, "limit": permits},
        "accept_tasks": snapshot.accept_tasks,
        "next_due": None if next_due is None else iso(next_due),
        "paused": sorted(snapshot.paused),
        "held": [
            {"what": name.kind, "value": name.value, "since": iso(since)}
            for name, since in snapshot.held.items()
        ],
        "cancelling": [
            {"what": each.what.kind, "value": each.what.value, "since": iso(each.since_ms)}
            for each in snapshot.cancels
        ],
        "test_mode": {
            "campaigns": {str(campaign): count for campaign, count in snapshot.testing.items() if campaign},
            "all_others": snapshot.testing.get(0),
        },
        "parked": [
            {
                "name": thing.name,
                "reason": thing.reason.label,
                "http": thing.http or None,
                "text": thing.text or None,
                "since": iso(thing.since_ms),
                "next_probe": iso(thing.next_probe_ms),
                "tries": thing.tries,
                "causes": CAUSES.get(thing.reason),
                "free_with": _freed_by(thing),
            }
            for thing in snapshot.parked
        ],
        "held_until": None if snapshot.held_until_ms is None else iso(snapshot.held_until_ms),
        "splitting": snapshot.splitting,
        "last_sweep": None if swept is None else iso(swept),
    }


def snapshot_view(account: str, snapshot: Snapshot, permits: int | None) -> RenderableType:
    """How an account stands, for people: what is wrong is red and says what to look at."""
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(snapshot, permits):
        facts.add_row(Text(name, "dim"), value)
    title = Text.assemble(("account ", ""), (account, "bold"), (f"  {clock(snapshot.now_ms)} UTC", "dim"))
    if not snapshot.counts:
        return Group(title, Text("no deliveries are kept"), facts)
    return Group(title, counts_table(snapshot.counts, paused=snapshot.paused, calls=snapshot.calls), facts)


def _facts(snapshot: Snapshot, permits: int | None) -> list[tuple[str, Text]]:
    now = snapshot.now_ms
    facts = [
        ("intake", Text(f"{snapshot.intake:,} triggers wait to be accepted")),
        (
            "dead letters",
            Text(f"{snapshot.dead_letters:,}", "red") if snapshot.dead_letters else Text("none"),
        ),
        ("permits in use", _permits(snapshot, permits)),
        ("next due", Text("nothing" if snapshot.next_due_ms is None else _until(snapshot.next_due_ms, now))),
        (
            "accept tasks",
            Text(str(snapshot.accept_tasks))
            if snapshot.accept_tasks
            else Text("0: no worker runs (or it has just been started)", "red"),
        ),
        ("last sweep", _sweep(snapshot)),
    ]
    facts[1:1] = [("full", Text(f"{each}: appends are refused", "red")) for each in snapshot.full]
    if snapshot.paused:
        named = ", ".join("all campaigns" if name == ALL else name for name in sorted(snapshot.paused))
        facts.append(("paused", Text(named, "yellow")))
    facts += [
        ("paused", Text.from_markup(f"{safe(name.words)}, for {span(now - since)}", style="yellow"))
        for name, since in snapshot.held.items()
    ]
    facts += [
        ("cancelling", Text.from_markup(f"{safe(each.what.words)}, for {span(now - each.since_ms)}"))
        for each in snapshot.cancels
    ]
    if snapshot.testing:
        facts.append(("test mode", Text(_testing(snapshot.testing), "yellow")))
    if snapshot.splitting:
        facts.append(("splitting", Text(f"{snapshot.splitting:,} parts of refused batches wait")))
    facts += [("waits", _waiting(wait, now)) for wait in snapshot.waits]
    facts += [("parked", _parked(thing, now)) for thing in snapshot.parked]
    return facts


def _testing(testing: dict[int, int]) -> str:
    """Which campaigns really send to a few recipients alone; their number, never who they are."""
    named = [
        f"{f'campaign {campaign}' if campaign else 'all other campaigns'}: {count:,} recipients alone"
        for campaign, count in sorted(testing.items(), key=lambda pair: (pair[0] == 0, pair[0]))
    ]
    return "; ".join(named)


def _permits(snapshot: Snapshot, permits: int | None) -> Text:
    text = Text(str(snapshot.permits_held))
    if permits is not None:
        text.append(f" of {permits}")
    if snapshot.permits_usable is not None and snapshot.permits_usable != permits:
        text.append(f", {snapshot.permits_usable} may be used: others use the account's API too", "yellow")
    if snapshot.held_until_ms is not None:
        text.append(f", no call for {span(snapshot.held_until_ms - snapshot.now_ms)}", "yellow")
    return text


def _parked(thing: ParkedThing, now_ms: int) -> Text:
    name = "the account" if thing.name == ALL else f"campaign {thing.name}"
    said = f"\nit said: {safe(thing.text, 2 * _SAID_CHARS)}" if thing.text else ""
    http = f" (HTTP {thing.http})" if thing.http else ""
    likely = f"\nlikely: {CAUSES[thing.reason]}" if thing.reason in CAUSES else ""
    probes = thing.tries - 1
    probed = f"probed in vain {probes:,} time{'' if probes == 1 else 's'}" if probes else "not probed yet"
    due = thing.next_probe_ms > now_ms
    when = f"in {span(thing.next_probe_ms - now_ms)}" if due else "as soon as work waits for it"
    return Text.from_markup(
        f"{name}, for {span(now_ms - thing.since_ms)} (since {clock(thing.since_ms)} UTC): "
        f"{thing.reason.sentence}{http}{said}{likely}\n"
        f"{probed}; next probe {when}; `{_freed_by(thing)}` lets it go on at once",
        style="red",
    )


def _waiting(wait: Wait, now_ms: int) -> Text:
    when = "" if wait.until_ms is None else f"goes on {_until(wait.until_ms, now_ms)}"
    match wait.why:
        case Why.QUIET:
            said = f"quiet hours until {clock(wait.until_ms or now_ms)} UTC; {when}"
        case Why.PACE:
            said = f"its pace; {when}"
        case Why.CANARY:
            said = f"its canary is out ({wait.count:,} of {wait.most:,}); "
            by = f"`{_let_go_by(wait)}`"
            said += f"{when}, or {by} lets it go on at once" if when else f"waits for {by}"
        case Why.HOUR | Why.DAY:
            span = "in an hour" if wait.why is Why.HOUR else "in a day"
            said = f"its guard is reached: {wait.count:,} of {wait.most:,} recipients {span}; "
            said += f"{when or 'goes on as that allows'}, or `{_let_go_by(wait)}` lets N more go at once"
    return Text(f"campaign {wait.campaign}: {said}", "yellow")


def _let_go_by(wait: Wait) -> str | None:
    match wait.why:
        case Why.CANARY:
            return f"volley resume {wait.campaign}"
        case Why.HOUR | Why.DAY:
            return f"volley resume {wait.campaign} --beyond-guard N"
        case _:
            return None


def _freed_by(thing: ParkedThing) -> str:
    return f"volley resume {'--all' if thing.name == ALL else thing.name}"


def _until(due_ms: int, now_ms: int) -> str:
    return f"in {span(due_ms - now_ms)}" if due_ms > now_ms else f"since {span(now_ms - due_ms)}"


def _sweep(snapshot: Snapshot) -> Text:
    if snapshot.swept_ms is None:
        return Text("never: beat does not run", "red")
    age = max(0, snapshot.now_ms - snapshot.swept_ms)
    if age > SWEEP_LATE_MS:
        return Text(f"{span(age)} ago: beat does not run, or no worker does", "red")
    return Text(f"{span(age)} ago")
