"""The rules of an account as the scripts take them: one text, made anew when quiet hours have moved on.

lua/_rules.lua says what the lines mean. Times in it are compared with the server's clock. Quiet hours reach a
day back and two days ahead of this machine's clock, so one that is wrong by less than a day does no harm.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import orjson

from config.rules import NO_RULES, CampaignRules, QuietHours
from worker.core.quiet import quiet_windows
from worker.store import keys
from worker.store.connection import RedisClient
from worker.store.scripts import Scripts

_DAY_MS = 86_400_000
#: Seconds after which quiet hours are worked out again.
_FRESH_SECONDS = 600.0
#: How long an operator's allowance beyond a guard holds, milliseconds: a day.
ALLOWANCE_MS = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRules:
    """The rules of an account and of its campaigns."""

    calls_per_second: float = 0  #: 0: as many as the permits let through
    recipients_per_second: float = 0  #: recipients of calls, however many campaigns a call has
    full_call: int = 1000  #: recipients of a call that cannot be fuller
    default: CampaignRules = NO_RULES
    campaigns: Mapping[int, CampaignRules] = field(default_factory=dict)


class RuleText:
    """The rules as text; '' when there are none."""

    def __init__(self, rules: AccountRules, now: Callable[[], float] = time.time) -> None:
        self._rules = rules
        self._now = now
        self._made: tuple[float, str] | None = None

    def __call__(self) -> str:
        """As the scripts take it now."""
        now = self._now()
        made = self._made
        if made is None or abs(now - made[0]) > _FRESH_SECONDS:
            # Threads may make it twice; it is the same.
            made = self._made = now, self._make(int(now * 1000))
        return made[1]

    def _make(self, now_ms: int) -> str:
        rules = self._rules
        known: dict[QuietHours, list[tuple[int, int]]] = {}
        default = _line(rules.default, now_ms, known)
        lines = {} if not default else {"-": default}
        for campaign, own in rules.campaigns.items():
            if own != rules.default:
                lines[str(campaign)] = _line(own, now_ms, known)
        account = {
            key: rate
            for key, rate in (("c", rules.calls_per_second), ("r", rules.recipients_per_second))
            if rate
        }
        if not account and not any(lines.values()):
            return ""
        lines["*"] = {"f": rules.full_call, **account}
        return "\n" + "".join(f"{name} {orjson.dumps(line).decode()}\n" for name, line in lines.items())


def _line(
    rules: CampaignRules, now_ms: int, known: dict[QuietHours, list[tuple[int, int]]]
) -> dict[str, object]:
    line: dict[str, object] = {
        "p": rules.recipients_per_hour,
        "l": int(rules.linger_seconds * 1000),
        "h": rules.max_per_hour,
        "d": rules.max_per_day,
        "n": rules.canary,
        "w": rules.canary and rules.canary_wait_seconds * 1000,
    }
    if rules.quiet is not None:
        if rules.quiet not in known:
            known[rules.quiet] = quiet_windows(rules.quiet, now_ms - _DAY_MS, now_ms + 2 * _DAY_MS)
        line["q"] = known[rules.quiet]
    return {key: value for key, value in line.items() if value}


class Why(StrEnum):
    """Why a campaign waits though it has work that is due."""

    QUIET = "quiet"  #: its quiet hours
    CANARY = "canary"  #: the first of this run are out; the rest waits for a time or an operator
    HOUR = "hour"  #: as many recipients as it may have in an hour
    DAY = "day"  #: as many recipients as it may have in a day
    PACE = "pace"  #: its recipients an hour; it goes on in a moment


@dataclass(frozen=True, slots=True)
class Wait:
    """A campaign whose due work waits for a rule. Times are epoch ms, counts are of recipients."""

    campaign: int
    why: Why
    until_ms: int | None  #: None: until an operator lets it go on
    count: int = 0  #: canary and guards: how many there have been
    most: int = 0  #: canary and guards: how many there may be


class Ruled:
    """What the rules of one account hold back. Errors: redis.exceptions.RedisError."""

    def __init__(self, client: RedisClient, scripts: Scripts, account: str, text: Callable[[], str]) -> None:
        self._client = client
        self._scripts = scripts
        self._root = keys.root(account)
        self._text = text

    def waits(self) -> tuple[Wait, ...]:
        """What waits for a rule now, by campaign; without a round trip when there are no rules."""
        return self._read("")

    def fresh(self) -> tuple[Wait, ...]:
        """Guards and canaries that hold a campaign and were not told of yet: each is told once, a canary for
        its run, a guard for as long as its window.
        """
        return self._read("1")

    def approve(self, campaign: int) -> bool:
        """Lets the rest of a run go on whose canary is out; False: there is none that waits."""
        return bool(self._scripts.run("allow", [self._root], campaign, "", 0))

    def allow(self, campaign: int, recipients: int) -> None:
        """Lets so many recipients more go beyond the campaign's guards, within a day from now."""
        self._scripts.run("allow", [self._root], campaign, recipients, ALLOWANCE_MS)

    def _read(self, only_fresh: str) -> tuple[Wait, ...]:
        text = self._text()
        if not text:
            return ()
        found = orjson.loads(self._scripts.run("ruled", [self._root], text, only_fresh))
        waits = [
            Wait(
                campaign=int(each["campaign"]),
                why=Why(each["why"]),
                until_ms=each.get("until"),
                count=each.get("count", 0),
                most=each.get("of", 0),
            )
            for each in found
        ]
        return tuple(sorted(waits, key=lambda wait: wait.campaign))
