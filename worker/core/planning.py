"""Which deliveries share the next call: a pure function from what is due to a plan.

A call carries one content, so it serves one group (account, priority, content). The rows of a
group wait in lanes, by the set of campaigns that their recipient still wants: a call for the
campaigns C can take a row of every lane that wants all of C. Lanes hold counts here, not people,
so planning costs the same for ten rows and for ten million.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

#: A group that has waited longer than this goes before fuller ones, milliseconds.
PATIENCE_MS = 2_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may carry. ``/2``: 1000 recipients, 5 campaigns.
    ``/1``: 1 and 1 unless settings allow more.
    """

    recipients: int
    campaigns: int


@dataclass(frozen=True, slots=True)
class Lane:
    """Rows of a group that wait for the same campaigns, and since when the oldest may have waited."""

    campaigns: tuple[int, ...]
    rows: int
    since_ms: int


@dataclass(frozen=True, slots=True)
class Group:
    """A group at the front of a flow."""

    gid: int
    lanes: tuple[Lane, ...]


@dataclass(frozen=True, slots=True)
class View:
    """What is due: the flow whose turn it is (its campaigns) and the groups at its front, oldest first.

    No flow: the next call is a part of a refused batch that is being split.
    """

    priority: str
    flow: tuple[int, ...]
    groups: tuple[Group, ...]
    blocked: frozenset[int]
    now_ms: int
    over: bool = False  #: more permits are held than may be used now: give one back
    others: bool = False  #: other flows wait behind this one
    normal: bool = True  #: the door is as usual: a call that goes well teaches nothing
    #: what the next call tries out: a parked campaign, or * for the account; it is to be small
    probe: str = ""
    drop: bool = False  #: the campaigns are parked and their deliveries are to end without a call
    bad: int = 0  #: changes whenever the recipients known as bad do


@dataclass(frozen=True, slots=True)
class Take:
    """Rows to take from one lane."""

    lane: tuple[int, ...]
    rows: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One call: these campaigns of this group for the rows of these lanes."""

    priority: str
    flow: tuple[int, ...]
    gid: int
    campaigns: tuple[int, ...]
    takes: tuple[Take, ...]

    def leaves_work(self, view: View) -> bool:
        """Whether something may still wait when this plan is carried out: a hint too many does no harm."""
        if view.others:
            return True
        rows = sum(lane.rows for group in view.groups for lane in group.lanes)
        return rows > sum(take.rows for take in self.takes)


def plan(view: View, limits: Limits) -> Plan | None:
    """The next call, or None when the view holds nothing that may be sent.

    The oldest group goes first when it has waited longer than ``PATIENCE_MS``, else the one that fills a call
    best. Within it: the campaigns and lanes that cover the most deliveries with one call.
    """
    best: tuple[int, Plan] | None = None
    for group in view.groups:
        found = _best_call(group, view, limits)
        if found is None:
            continue
        if best is None and _waited(group, view) > PATIENCE_MS:
            return found[1]
        if best is None or found[0] > best[0]:
            best = found
    return best[1] if best else None


def _waited(group: Group, view: View) -> int:
    return max((view.now_ms - lane.since_ms for lane in group.lanes if lane.rows), default=0)


def _best_call(group: Group, view: View, limits: Limits) -> tuple[int, Plan] | None:
    """The call of one group that covers the most deliveries, and how many those are."""
    lanes = [lane for lane in group.lanes if lane.rows > 0]
    best: tuple[tuple[int, int], tuple[int, ...], list[Lane]] | None = None
    for campaigns in _candidates(lanes, view.blocked, limits.campaigns):
        wanted = frozenset(campaigns)
        if not wanted <= frozenset(view.flow):
            continue  # the turn is this flow's: a call that leaves its rows out would be charged to it
        # The narrowest lanes first: what is left of a row then is as little as can be.
        usable = sorted((lane for lane in lanes if wanted <= frozenset(lane.campaigns)), key=_width)
        covered = min(sum(lane.rows for lane in usable), limits.recipients) * len(campaigns)
        worth = _calls_saved(usable, len(campaigns), limits), covered
        if best is None or worth > best[0]:
            best = worth, campaigns, usable
    if best is None:
        return None
    (_, covered), campaigns, usable = best
    takes, room = [], limits.recipients
    for lane in usable:
        rows = min(room, lane.rows)
        if rows:
            takes.append(Take(lane.campaigns, rows))
            room -= rows
    return covered, Plan(view.priority, view.flow, group.gid, campaigns, tuple(takes))


def _calls_saved(usable: Sequence[Lane], width: int, limits: Limits) -> int:
    """How many calls fewer the lanes need behind a call for ``width`` campaigns, if each lane has its own.

    So a call that cuts the campaigns of many rows in two is worth less than one that finishes some.
    """
    saved, room = 0, limits.recipients
    for lane in usable:
        rows = min(room, lane.rows)
        room -= rows
        wide, rest = len(lane.campaigns), len(lane.campaigns) - width
        saved += _calls(lane.rows, wide, limits)
        saved -= _calls(lane.rows - rows, wide, limits) + _calls(rows, rest, limits)
    return saved


def _calls(rows: int, campaigns: int, limits: Limits) -> int:
    return -(-rows // limits.recipients) * -(-campaigns // limits.campaigns)


def _width(lane: Lane) -> int:
    return len(lane.campaigns)


def _candidates(lanes: Sequence[Lane], blocked: frozenset[int], most: int) -> list[tuple[int, ...]]:
    """Campaign sets worth a try: each lane's own (cut to the limit),
    what lanes share, and each campaign alone.
    """
    sets = {tuple(c for c in lane.campaigns if c not in blocked) for lane in lanes}
    shared = {tuple(sorted(set(a) & set(b))) for a, b in combinations(sorted(sets), 2)}
    single = {(c,) for s in sets for c in s}
    return sorted({s[:most] for s in sets | shared | single if s}, key=lambda s: (-len(s), s))
