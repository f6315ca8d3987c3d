"""`volley pause` and `volley resume`: hold campaigns or triggers back, and let them go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from worker.cli.account import EveryAccountOption, opened_accounts, send_hint
from worker.cli.app import (
    DATA_FOLDER,
    AccountOption,
    DataOption,
    ExitCode,
    JsonOption,
    Refusal,
    YesOption,
    app,
    complain,
    confirm,
    console,
    print_json,
    safe,
)
from worker.cli.selection import ProducerIdOption, TriggerOption, check_entry
from worker.core.model import WAITING
from worker.store import Store
from worker.store.control import ALL, Named

Campaigns = Annotated[
    list[int] | None, typer.Argument(metavar="CAMPAIGN...", min=1, help="Campaign ids.", show_default=False)
]


@dataclass(frozen=True, slots=True)
class _Scope:
    """What is meant: campaigns by number (or all of them), or one trigger."""

    campaigns: tuple[str, ...] = ()
    trigger: Named | None = None

    @property
    def words(self) -> str:
        return safe(self.trigger.words) if self.trigger else _words(list(self.campaigns))


@app.command()
def pause(
    campaigns: Campaigns = None,
    *,
    trigger: TriggerOption = None,
    producer_id: ProducerIdOption = None,
    every: Annotated[
        bool, typer.Option("--all", help="All campaigns of the account, also those that come later.")
    ] = False,
    account: AccountOption = "default",
    every_account: EveryAccountOption = False,
    json: JsonOption = False,
    yes: YesOption = False,
    data: DataOption = DATA_FOLDER,
) -> None:
    """Hold campaigns, or a trigger, back from the next call on. What waits keeps its place, and may expire.

    A trigger is held wherever its deliveries are: due, scheduled, retrying, still at the intake. Exit code 4:
    no trigger has this entry id.
    """
    scope = _scope(campaigns, trigger, producer_id, every=every)
    with opened_accounts(account, data, every=every_account) as (_, stores):
        found = [store for store in stores if _is_there(store, scope)]
        if not found:
            raise Refusal(f"There is no {scope.words}: nothing was paused.", ExitCode.NOTHING)
        confirm(f"Pause {scope.words} of {_accounts(found)}?", yes=yes)
        for store in found:
            if scope.trigger is not None:
                new = store.control.hold(scope.trigger)
                waiting = sum(1 for _ in scope.trigger.find(store.outcomes, WAITING))
                _tell(store, scope.trigger, new, {"waiting": waiting}, json=json)
            for name in scope.campaigns:
                _tell(store, name, store.control.pause(name), {}, json=json)


@app.command()
def resume(
    campaigns: Campaigns = None,
    *,
    trigger: TriggerOption = None,
    producer_id: ProducerIdOption = None,
    beyond_guard: Annotated[
        int | None,
        typer.Option(
            "--beyond-guard",
            metavar="N",
            min=1,
            max=1_000_000_000,
            help="Let so many recipients more of a campaign go than max_per_hour and max_per_day allow, "
            "within a day from now.",
        ),
    ] = None,
    every: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Take back `pause --all`, free a parked account; what was paused by name stays so.",
        ),
    ] = False,
    account: AccountOption = "default",
    every_account: EveryAccountOption = False,
    json: JsonOption = False,
    yes: YesOption = False,
    data: DataOption = DATA_FOLDER,
) -> None:
    """Let go on what was paused, or parked after CleverTap had refused it, or waits behind its canary."""
    scope = _scope(campaigns, trigger, producer_id, every=every)
    if beyond_guard is not None and not campaigns:
        raise typer.BadParameter("--beyond-guard needs campaign ids.")
    with opened_accounts(account, data, every=every_account) as (settings, stores):
        beyond = f" and let {beyond_guard:,} more recipients go beyond its guard" if beyond_guard else ""
        confirm(f"Resume {scope.words} of {_accounts(stores)}{beyond}?", yes=yes)
        for store in stores:
            if _resume(store, scope, beyond_guard, json=json):
                send_hint(settings, store.account)
            _tell_still_paused(store, json=json)


def _resume(store: Store, scope: _Scope, beyond_guard: int | None, *, json: bool) -> bool:
    """Whether something may go on now."""
    resumed = False
    if scope.trigger is not None:
        was_held, count = store.control.let_go(scope.trigger, store.outcomes)
        resumed = was_held or count > 0
        done = [f"resumed, {count:,} deliveries are pending again"] if resumed else []
        _tell_resumed(store, scope.trigger, done, {"resumed": was_held, "pending": count}, json=json)
    for name in scope.campaigns:
        was_paused, was_parked = store.control.resume(name), store.door.unpark(name)
        approved = name != ALL and store.ruled.approve(int(name))
        if beyond_guard is not None:
            store.ruled.allow(int(name), beyond_guard)
        words = {
            "resumed": was_paused,
            "no longer parked": was_parked,
            "its canary is approved": approved,
            f"{beyond_guard or 0:,} more may go beyond its guard": beyond_guard is not None,
        }
        resumed = resumed or any(words.values())
        more: dict[str, object] = {
            "resumed": was_paused,
            "unparked": was_parked,
            "approved": approved,
            "beyond_guard": beyond_guard,
        }
        _tell_resumed(store, name, [word for word, was in words.items() if was], more, json=json)
    return resumed


def _scope(
    campaigns: list[int] | None, trigger: str | None, producer_id: str | None, *, every: bool
) -> _Scope:
    if sum((bool(campaigns), every, trigger is not None, producer_id is not None)) != 1:
        raise typer.BadParameter("give campaign ids, or --trigger, or --id, or --all.")
    if trigger is not None:
        check_entry(trigger)
        return _Scope(trigger=Named.trigger(trigger))
    if producer_id is not None:
        return _Scope(trigger=Named.producer_id(producer_id))
    names = [ALL] if every else [str(campaign) for campaign in dict.fromkeys(campaigns or ())]
    return _Scope(campaigns=tuple(names))


def _is_there(store: Store, scope: _Scope) -> bool:
    """False for a stream entry's id that nobody knows: a slip of the pen. A producer's id may yet come."""
    if scope.trigger is None or not scope.trigger.name.startswith("t:"):
        return True
    entry = scope.trigger.value
    return store.intake.entry(entry).trigger is not None or any(store.outcomes.by_trigger(entry))


def _tell(store: Store, what: Named | str, new: bool, more: dict[str, int], *, json: bool) -> None:
    if json:
        print_json({**_named(store, what), "paused": new, **more})
        return
    waits = f", {more['waiting']:,} deliveries of it wait" if more else ""
    console().print(f"{_name(what)}: {'paused' if new else 'was paused already'}{waits}")


def _tell_resumed(
    store: Store, what: Named | str, done: list[str], more: dict[str, object], *, json: bool
) -> None:
    if json:
        print_json({**_named(store, what), **more})
        return
    was = "was neither paused nor parked" if isinstance(what, str) else "was not paused"
    console().print(f"{_name(what)}: {', '.join(done) or was}")


def _tell_still_paused(store: Store, *, json: bool) -> None:
    still = [_words(sorted(paused))] if (paused := store.control.paused()) else []
    still += [safe(name.words) for name in store.control.held()]
    if still and json:
        complain(f"still paused: {', '.join(still)}")
    elif still:
        console().print(f"still paused: {', '.join(still)}", style="yellow")


def _named(store: Store, what: Named | str) -> dict[str, object]:
    """What a line of JSON is about: all of it null means all campaigns."""
    named = what.name if isinstance(what, Named) else ""
    return {
        "account": store.account,
        "campaign": int(what) if isinstance(what, str) and what != ALL else None,
        "trigger": named[2:] if named.startswith("t:") else None,
        "id": named[2:] if named.startswith("p:") else None,
    }


def _name(what: Named | str) -> str:
    return safe(what.words) if isinstance(what, Named) else _words([what])


def _words(names: list[str]) -> str:
    if ALL in names:
        return "all campaigns"
    return f"{'campaign' if len(names) == 1 else 'campaigns'} {', '.join(names)}"


def _accounts(stores: list[Store]) -> str:
    names = ", ".join(store.account for store in stores)
    return f"account{'' if len(stores) == 1 else 's'} {names}"
