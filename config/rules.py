"""When and how fast a campaign may be sent: quiet hours, pace, linger, guards and the canary.

Each of them may stand in `[campaigns.<id>]` and, for all campaigns, in a `VOLLEY_` variable; 0 or an empty
text in the table takes back what the variable says.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Protocol, TypeVar
from zoneinfo import ZoneInfo

from pydantic import Field

from config.wording import SettingsError, Unit, shown

Rate = Annotated[float, Field(ge=0, le=100_000, allow_inf_nan=False)]
CallRate = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
Messages = Annotated[int, Field(ge=0, le=1_000_000_000)]
LingerSeconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False), Unit("seconds")]
WaitSeconds = Annotated[int, Field(ge=0, le=604_800), Unit("seconds")]

_RANGE = re.compile(r"([01][0-9]|2[0-4]):([0-5][0-9])-([01][0-9]|2[0-4]):([0-5][0-9])")
_DAY_MINUTES = 24 * 60

NumberT = TypeVar("NumberT", int, float)


@dataclass(frozen=True, slots=True)
class QuietHours:
    """Times of the day in which nothing is sent: (from, until) in minutes since midnight of a time zone.

    A range whose end is not above its beginning goes over midnight.
    """

    ranges: tuple[tuple[int, int], ...]
    time_zone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignRules:
    """The rules of one campaign. 0 and None mean that there is none."""

    quiet: QuietHours | None = None
    #: Recipients that it gets in an hour at most, spread over it; more wait.
    recipients_per_hour: int = 0
    #: How long its deliveries that are not urgent wait for a fuller call.
    linger_seconds: float = 0
    #: Recipients in any hour and in any day beyond which it is held.
    max_per_hour: int = 0
    max_per_day: int = 0
    #: Recipients of a run that go out before it is held.
    canary: int = 0
    #: How long it is held then; 0: until an operator lets it go on.
    canary_wait_seconds: int = 0


#: A campaign without rules.
NO_RULES = CampaignRules()


def read_quiet_hours(text: str, time_zone: str, label: str) -> QuietHours | None:
    """`22:00-08:00, 13:00-14:00`; None for an empty text. Raises SettingsError that begins with `label`."""
    if not text.strip():
        return None
    ranges = []
    for part in text.split(","):
        found = _RANGE.fullmatch(part.strip())
        if found is None:
            raise SettingsError(
                f"{label} is {shown(text)} but must be times such as 22:00-08:00, with commas."
            )
        hours = [int(each) for each in found.groups()]
        begin, end = hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]
        if begin >= _DAY_MINUTES or end > _DAY_MINUTES:
            raise SettingsError(f"{label} is {shown(text)} but a day ends at 24:00.")
        if begin == end % _DAY_MINUTES:
            raise SettingsError(
                f"{label} is {shown(text)} but begins and ends at the same time: "
                "to hold a campaign, pause it."
            )
        ranges.append((begin, end % _DAY_MINUTES))
    return QuietHours(tuple(ranges), time_zone)


def check_time_zone(name: str, label: str) -> str:
    """The name of a time zone. Raises SettingsError that begins with `label` where there is no such one."""
    try:
        ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        known = False
    else:
        known = True
    # Raised here and not in the handler: the error below is not its cause for a reader.
    if not known:
        raise SettingsError(f"{label} is {shown(name)} but must be a time zone such as Asia/Kolkata or UTC.")
    return name


class RuleValues(Protocol):
    """What a table, or the variables, say of the rules; None: nothing."""

    @property
    def quiet_hours(self) -> str | None: ...  # noqa: D102
    @property
    def time_zone(self) -> str | None: ...  # noqa: D102
    @property
    def recipients_per_hour(self) -> int | None: ...  # noqa: D102
    @property
    def linger(self) -> float | None: ...  # noqa: D102
    @property
    def max_per_hour(self) -> int | None: ...  # noqa: D102
    @property
    def max_per_day(self) -> int | None: ...  # noqa: D102
    @property
    def canary(self) -> int | None: ...  # noqa: D102
    @property
    def canary_wait(self) -> int | None: ...  # noqa: D102


def rules_of(
    values: RuleValues, default: CampaignRules, default_zone: str, label: Callable[[str], str]
) -> CampaignRules:
    """The rules that these values make, with the default's where they say nothing.

    `label` makes the setting's name for the reader of a key. Raises SettingsError for a value that makes no
    sense.
    """
    zone = check_time_zone(values.time_zone, label("time_zone")) if values.time_zone else default_zone
    if values.quiet_hours is not None:
        quiet = read_quiet_hours(values.quiet_hours, zone, label("quiet_hours"))
    elif default.quiet is not None and values.time_zone:
        quiet = QuietHours(default.quiet.ranges, zone)
    else:
        quiet = default.quiet
    return CampaignRules(
        quiet=quiet,
        recipients_per_hour=_given(values.recipients_per_hour, default.recipients_per_hour),
        linger_seconds=_given(values.linger, default.linger_seconds),
        max_per_hour=_given(values.max_per_hour, default.max_per_hour),
        max_per_day=_given(values.max_per_day, default.max_per_day),
        canary=_given(values.canary, default.canary),
        canary_wait_seconds=_given(values.canary_wait, default.canary_wait_seconds),
    )


def table_rules(values: RuleValues, default: CampaignRules, default_zone: str, place: str) -> CampaignRules:
    """The rules of a campaign's table at `place`. Raises SettingsError, also for a wait without a canary."""
    rules = rules_of(values, default, default_zone, lambda key: f"{key}{place}")
    if values.canary_wait and not rules.canary:
        raise SettingsError(f"canary_wait{place} is set but canary is not: there is nothing to wait behind.")
    return rules


def _given(value: NumberT | None, default: NumberT) -> NumberT:
    return default if value is None else value
