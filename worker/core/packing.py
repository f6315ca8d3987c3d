"""How the rows of one content are packed into as few calls as can be: a pure function.

A row that wants some campaigns is served by calls that part them: {1, 2, 3} by one call for {1, 2, 3},
or by one for {1, 3} and one for {2}. When it is known how many rows get each part, the number of
calls is known too (the rows of a part over the recipients of a call, rounded up), and their order
does not matter. So any of the calls may be the next one, and what waits behind it is packed again as
well as before.

Rows in whole calls cost what they must, however they are packed. What is worth thinking about is the
call that is not full: its rows may fit, in parts, into the room that other calls have left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations, permutations

#: Campaigns, sorted.
Campaigns = tuple[int, ...]
#: Rows by lane, for each part: a call for the part takes them.
Packing = dict[Campaigns, dict[Campaigns, int]]

#: Campaigns of a lane up to which every way to part them is tried; of wider ones, some.
EVERY_WAY = 5
#: Ways to part one lane's campaigns that are tried, at most.
WAYS = 64
#: Lanes up to which every order of them is tried.
MANY_LANES = 4
#: Moves of rows that are tried in search of a better packing, at most: about 20 ms.
PATIENCE = 4_000


@lru_cache(maxsize=512)
def pack(lanes: tuple[tuple[Campaigns, int], ...], recipients: int, campaigns: int) -> Packing:
    """Which parts the rows of these lanes are served by; a call carries so many recipients and campaigns.

    Each lane is given once, sorted campaigns and at least one row.
    """
    ways = _ways([lane for lane, _ in lanes], campaigns)
    least = -(-sum(rows * -(-len(lane) // campaigns) for lane, rows in lanes) // recipients)
    best = _first(lanes, ways, recipients)
    for order in _orders(lanes):
        if best.calls() == least:
            break
        best = min(best, _first(order, ways, recipients), key=_Attempt.calls)
    best.search(least)
    return best.packing()


@dataclass
class _Attempt:
    """A packing in the making. ``served``: rows by lane and way to part it; ``given``: rows by part."""

    recipients: int
    ways: dict[Campaigns, list[tuple[Campaigns, ...]]]
    served: dict[tuple[Campaigns, tuple[Campaigns, ...]], int] = field(default_factory=dict)
    given: dict[Campaigns, int] = field(default_factory=dict)
    moves: int = 0

    def copy(self) -> _Attempt:
        return _Attempt(self.recipients, self.ways, dict(self.served), dict(self.given), self.moves)

    def put(self, lane: Campaigns, way: tuple[Campaigns, ...], rows: int) -> None:
        """Serves so many rows more (or fewer) of a lane in this way."""
        self.served[lane, way] = self.served.get((lane, way), 0) + rows
        if not self.served[lane, way]:
            del self.served[lane, way]
        for part in way:
            self.given[part] = self.given.get(part, 0) + rows
            if not self.given[part]:
                del self.given[part]

    def calls_with(self, way: tuple[Campaigns, ...], rows: int) -> int:
        """How many calls more it takes to serve so many rows in this way."""
        return sum(
            -(-(self.given.get(part, 0) + rows) // self.recipients)
            - -(-self.given.get(part, 0) // self.recipients)
            for part in way
        )

    def calls(self) -> int:
        return sum(-(-rows // self.recipients) for rows in self.given.values())

    def search(self, least: int) -> None:
        """Does without one call after the other, as long as a way is found."""
        while self.calls() > least and (self._one_fewer() or self._two_for_one()):
            continue

    def packing(self) -> Packing:
        found: Packing = {}
        for (lane, way), rows in self.served.items():
            for part in way:
                found.setdefault(part, {})[lane] = found.get(part, {}).get(lane, 0) + rows
        return found

    def _one_fewer(self) -> bool:
        return any(self.without(part, self.room()) for part in self.least_full())

    def _two_for_one(self) -> bool:
        """Whether one call that is not there yet makes two others needless."""
        for part in sorted({part for ways in self.ways.values() for way in ways for part in way}):
            if self.moves > PATIENCE:
                return False
            trial = self.copy()
            opened = part, (-(-self.given.get(part, 0) // self.recipients) + 1) * self.recipients
            saved = 0
            for other in trial.least_full():
                if other != part and other in trial.given and trial.without(other, trial.room(*opened)):
                    saved += 1
                if saved == 2:
                    self.served, self.given, self.moves = trial.served, trial.given, trial.moves
                    return True
            self.moves = trial.moves
        return False

    def least_full(self) -> list[Campaigns]:
        return sorted(self.given, key=lambda part: ((self.given[part] - 1) % self.recipients, part))

    def room(self, opened: Campaigns = (), most: int = 0) -> dict[Campaigns, int]:
        """Rows that still fit into each part's calls; those of the part ``opened`` take so many at most."""
        room = {part: -rows % self.recipients for part, rows in self.given.items()}
        if opened:
            room[opened] = most - self.given.get(opened, 0)
        return room

    def without(self, part: Campaigns, room: dict[Campaigns, int]) -> bool:
        """Does without the last call of a part, if its rows fit into the room that the others have."""
        trial = self.copy()
        left = (self.given[part] - 1) % self.recipients + 1
        room[part] = 0
        while left:
            move = trial.widest_move(part, left, room)
            self.moves = trial.moves
            if move is None:
                return False
            lane, old, new, rows = move
            trial.put(lane, old, -rows)
            trial.put(lane, new, rows)
            for each in old:
                if each != part:
                    room[each] = room.get(each, 0) + rows
            for each in new:
                room[each] -= rows
            left -= rows
        self.served, self.given = trial.served, trial.given
        return True

    def widest_move(
        self, part: Campaigns, most: int, room: dict[Campaigns, int]
    ) -> tuple[Campaigns, tuple[Campaigns, ...], tuple[Campaigns, ...], int] | None:
        """Most rows that can be served without this part: lane, old way, new way, how many."""
        best = None
        for (lane, old), rows in self.served.items():
            if part not in old:
                continue
            for new in self.ways[lane]:
                self.moves += 1
                if part in new or self.moves > PATIENCE:
                    continue
                fit = min(most, rows, *(room.get(each, 0) for each in new if each not in old), most)
                if fit and (best is None or fit > best[3]):
                    best = lane, old, new, fit
        return best


def _orders(lanes: tuple[tuple[Campaigns, int], ...]) -> Iterable[Iterable[tuple[Campaigns, int]]]:
    """Orders in which lanes are given their first ways: the widest first, the narrowest first, and others."""
    by_width = sorted(lanes, key=lambda lane: (-len(lane[0]), lane))
    return permutations(by_width) if len(lanes) <= MANY_LANES else (by_width, by_width[::-1])


def _first(
    lanes: Iterable[tuple[Campaigns, int]],
    ways: dict[Campaigns, list[tuple[Campaigns, ...]]],
    recipients: int,
) -> _Attempt:
    """Each lane in the way that takes the fewest calls beside those before it."""
    attempt = _Attempt(recipients, ways)
    for lane, rows in lanes:
        cheapest = min(ways[lane], key=lambda way: (attempt.calls_with(way, rows), len(way)))
        attempt.put(lane, cheapest, rows)
    return attempt


def _ways(lanes: list[Campaigns], most: int) -> dict[Campaigns, list[tuple[Campaigns, ...]]]:
    """Ways to part each lane's campaigns: all of them, or those that other lanes suggest."""
    useful = {lane for lane in lanes if len(lane) <= most}
    for one, other in combinations(lanes, 2):
        for some in (set(one) & set(other), set(one) - set(other), set(other) - set(one)):
            if 0 < len(some) <= most:
                useful.add(tuple(sorted(some)))
    ordered = sorted(useful, key=lambda part: (-len(part), part))
    return {lane: _ways_of(lane, most, ordered) for lane in lanes}


def _ways_of(lane: Campaigns, most: int, useful: list[Campaigns]) -> list[tuple[Campaigns, ...]]:
    own = cut(lane, most)
    if len(lane) <= EVERY_WAY:
        every = {tuple(sorted(way)) for way in _partings(lane) if all(len(part) <= most for part in way)}
        return [own, *sorted(every - {own}, key=lambda way: (len(way), way))]
    found = {own: None}
    for count in (1, 2, 3):
        for parts in combinations([part for part in useful if set(part) <= set(lane)], count):
            if len(found) >= WAYS:
                break
            named = {c for part in parts for c in part}
            if len(named) == sum(map(len, parts)):
                rest = tuple(c for c in lane if c not in named)
                found[tuple(sorted((*parts, *cut(rest, most))))] = None
    return list(found)


def cut(lane: Campaigns, most: int) -> tuple[Campaigns, ...]:
    """A lane's campaigns in as few parts as can be."""
    return tuple(lane[first : first + most] for first in range(0, len(lane), most))


def _partings(lane: Campaigns) -> Iterator[list[Campaigns]]:
    if not lane:
        yield []
        return
    first, rest = lane[0], lane[1:]
    for count in range(len(rest) + 1):
        for others in combinations(rest, count):
            for way in _partings(tuple(c for c in rest if c not in others)):
                yield [(first, *others), *way]
