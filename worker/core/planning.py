"""Which deliveries share the next call: a pure function from what is due to a plan.

A call carries one content, so it serves one group (account, priority, content). The rows of a
group wait in lanes, by the set of campaigns that their recipient still wants: a call for the
campaigns C can take a row of every lane that wants all of C. Lanes hold counts here, not people,
so planning costs the same for ten rows and for ten million. packing.py says which calls are the fewest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from worker.core.packing import Campaigns, cut, pack

#: A group that has waited longer than this goes before fuller ones, milliseconds.
PATIENCE_MS = 2_000
#: Lanes of a group that are packed together, at most.
NEIGHBOURS = 12


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
    others: bool = False  #: other flows, or groups that are not shown, wait behind this one
    normal: bool = True  #: the door is as usual: a call that goes well teaches nothing
    #: what the next call tries out: a parked campaign, or * for the account; it is to be small
    probe: str = ""
    drop: bool = False  #: the campaigns are parked and their deliveries are to end without a call
    bad: int = 0  #: changes whenever the recipients known as bad do
    room: int | None = None  #: recipients that the rules let into the next call; None: any number


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
    best. Within it: one of the calls that all its rows are packed into.
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


def _width(campaigns: Campaigns) -> tuple[int, Campaigns]:
    return len(campaigns), campaigns


def _nearest(own: Campaigns, lanes: Iterable[Campaigns]) -> list[Campaigns]:
    """A lane, and those that have the most campaigns in common with it."""
    return sorted(lanes, key=lambda lane: (lane != own, -len(set(lane) & set(own)), lane))[:NEIGHBOURS]


def _best_call(group: Group, view: View, limits: Limits) -> tuple[int, Plan] | None:
    """The call of one group for the flow whose turn it is that covers
    the most deliveries, and how many those are.

    It is one of those that all rows of the group are packed into, so none is cut in two for the sake of a
    fuller call, unless that saves a call.
    """
    waiting: dict[Campaigns, list[Lane]] = {}  # lanes by what may be sent of them
    for lane in group.lanes:
        if lane.rows > 0 and (sendable := tuple(c for c in lane.campaigns if c not in view.blocked)):
            waiting.setdefault(sendable, []).append(lane)
    own = tuple(c for c in view.flow if c not in view.blocked)
    if own not in waiting:
        return None
    rows = {lane: sum(each.rows for each in lanes) for lane, lanes in waiting.items()}
    most = limits.recipients
    if len(waiting) == 1 or rows[own] >= 2 * most:
        # On its own, or so much of it that whole calls are left when this one has gone.
        campaigns = cut(own, limits.campaigns)[0]
        served = {own: rows[own]}
    else:
        # Whole calls cost what they cost: what is packed is small, and the same again after each of them.
        few = [(lane, min(rows[lane], most + rows[lane] % most)) for lane in _nearest(own, rows)]
        packed = pack(tuple(sorted(few)), most, limits.campaigns)
        campaigns, served = max(
            (item for item in packed.items() if own in item[1]),
            key=lambda item: (min(most, sum(item[1].values())) * len(item[0]), len(item[0]), item[0]),
        )
    takes, room = [], most
    # The flow's own rows first; then the narrowest, of which as little is left as can be.
    for sendable in sorted(served, key=lambda lane: (lane != own, _width(lane))):
        left = served[sendable]
        for each in sorted(waiting[sendable], key=lambda lane: _width(lane.campaigns)):
            taken = min(room, left, each.rows)
            if taken:
                takes.append(Take(each.campaigns, taken))
                room -= taken
                left -= taken
    covered = (most - room) * len(campaigns)
    return covered, Plan(view.priority, view.flow, group.gid, campaigns, tuple(takes))
