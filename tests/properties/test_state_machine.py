"""The store against a small model of it: any steps in any order, on the real server.

Time does not pass by itself here: a step ends a lease, or lets the time of what sleeps come, by moving its
score into the past. So a run says exactly what happened, and nothing waits.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import orjson
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from worker.core.door import Fine, Lesson, Parked, Throttled, Trouble
from worker.core.model import FREES_KEY, LIVE, RETRYABLE, Reason, Status
from worker.core.planning import Limits, plan
from worker.core.retry import MAY_HAVE_BEEN_SENT
from worker.store.batches import Batch, Ending, FateRow, HeldBackError, KeptOut, Section, SplitBy
from worker.store.cells import SEGMENT
from worker.store.connection import connect
from worker.store.control import Named

if TYPE_CHECKING:
    from tests.integration.store.conftest import Ground

PERMITS = 3
LONG_MS = 3_600_000
WAITING = frozenset({Status.SCHEDULED, Status.PENDING, Status.RETRYING, Status.HELD})
HOLDS_KEY = LIVE | {Status.ACCEPTED, Status.UNKNOWN}

TOKENS = st.sampled_from(["p", "q", "r", "s"])
PEOPLE = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=5).map(tuple)
CAMPAIGNS = (
    st.sets(st.integers(1, 7), min_size=1, max_size=7).map(lambda ids: tuple(sorted(ids)))
    # Few and apart, so that deliveries to one person are joined.
    | st.sampled_from([(1,), (2,), (3, 4), (5,), (6, 7)])
)
PRIORITIES = st.sampled_from(["urgent", "normal", "normal", "bulk"])
INDEX = st.integers(0, 10**6)
INDEXES = st.lists(INDEX, min_size=1, max_size=6)
NAMES = st.sampled_from([*map(str, range(1, 8)), "*"])
#: What a delivery may come to after a call: status, reason, whether the attempt counts.
FATES = st.lists(
    st.sampled_from(
        [
            (Status.ACCEPTED, Reason.NONE, 1),
            (Status.REJECTED, Reason.REFUSED, 1),
            (Status.FAILED, Reason.SERVER_ERROR, 1),
            (Status.UNKNOWN, Reason.NO_ANSWER, 1),
            (Status.RETRYING, Reason.SERVER_ERROR, 1),
            (Status.RETRYING, Reason.NO_ANSWER, 1),
            (Status.PENDING, Reason.THROTTLED, 0),
        ]
    ),
    min_size=1,
    max_size=3,
)
LESSONS: st.SearchStrategy[Lesson] = st.one_of(
    st.just(Fine()),
    st.builds(Fine, st.frozensets(st.integers(1, 7), max_size=2)),
    st.just(Throttled(0)),
    st.just(Trouble(Reason.SERVER_ERROR)),
    st.builds(
        Parked, st.just(Reason.CAMPAIGN_NOT_READY), st.frozensets(st.integers(1, 7), min_size=1, max_size=2)
    ),
    st.just(Parked(Reason.CREDENTIALS, None)),
)


@dataclass
class Delivery:
    """One delivery as the model knows it."""

    campaign: int
    recipient: str
    content: str
    priority: str
    key: tuple[object, ...] | None
    status: Status
    entry: str  #: its trigger's
    producer_id: str | None = None
    reason: Reason = Reason.NONE
    attempts: int = 0
    first: int | None = None  #: of a duplicate, the first delivery
    expires: bool = False
    ahead: bool = False  #: its send_at is still to come, and no batch has had it
    dedupe: tuple[str | None, int | None] = (None, None)  #: as the producer said

    def is_of(self, what: Named) -> bool:
        match what.kind:
            case "trigger":
                return what.value == self.entry
            case "id":
                return what.value == self.producer_id
            case "campaign":
                return what.value == str(self.campaign)
            case _:
                return True

    @property
    def maybe_sent(self) -> bool:
        return self.reason in MAY_HAVE_BEEN_SENT

    def ends_unsent(self, status: Status, reason: Reason) -> None:
        """As that; or as unknown when an earlier attempt may have been sent."""
        if self.maybe_sent:
            self.status = Status.UNKNOWN
        else:
            self.status, self.reason = status, reason

    def goes_back(self, status: Status, reason: Reason) -> None:
        """To wait, with the memory of what may have been sent."""
        self.status, self.reason = status, self.reason if self.maybe_sent else reason


@dataclass
class InFlight:
    """A batch as the model knows it; `batch` is what its holder was told."""

    batch: Batch
    token: str
    state: str = "claimed"
    numbers: list[int] = field(default_factory=list)


def store_tests() -> Any:
    """The store tests' conftest: test folders are no packages, so it is loaded by its path."""
    path = Path(__file__).resolve().parents[1] / "integration" / "store" / "conftest.py"
    spec = importlib.util.spec_from_file_location("store_ground", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Life(RuleBasedStateMachine):
    """Every script of the store, as the processes of a cluster may call them in any order."""

    url: ClassVar[str]
    shared: ClassVar[Any]  #: the store tests' conftest

    def __init__(self) -> None:
        super().__init__()
        self.client = connect(self.url)
        self.client.flushdb()
        self.ground: Ground = self.shared.Ground(self.client, permits=PERMITS)
        self.deliveries = self.ground.deliveries
        self.model: dict[int, Delivery] = {}
        self.batches: dict[int, InFlight] = {}
        self.held: set[str] = set()
        self.paused: set[str] = set()
        self.held_names: set[Named] = set()
        self.intake: dict[str, dict[str, Any]] = {}  #: what was enqueued and is not accepted
        self.next_number = 0
        self.heirs = 0

    def teardown(self) -> None:
        try:
            self.everything_that_waits_can_be_reached()
        finally:
            self.ground.store.close()

    # -- on the way in

    @initialize(
        old=st.sampled_from([0, 0, 0, SEGMENT - 2]),
        work=st.lists(st.tuples(PEOPLE, CAMPAIGNS, PRIORITIES), min_size=1, max_size=4),
    )
    def start(self, old: int, work: list[tuple[tuple[str, ...], tuple[int, ...], str]]) -> None:
        """Now and then so many deliveries have ended that the next ones lie over a segment's border."""
        if old:
            people = [f"old{i}" for i in range(old)]
            self._accept([self.ground.body(*people, campaigns=[99], dedupe_window=0)])
            for first in range(0, old, 500):
                self._cancel(range(first, min(first + 500, old)))
        for people_, campaigns, priority in work:
            self._accept([self.ground.body(*people_, campaigns=campaigns, priority=priority)])

    @rule(
        people=PEOPLE,
        campaigns=CAMPAIGNS,
        name=st.sampled_from("AB"),
        priority=PRIORITIES,
        key=st.sampled_from([None, None, "k"]),
        window=st.sampled_from([None, None, 0]),
        later=st.booleans(),
        expires=st.booleans(),
        twice=st.booleans(),
        also=st.none() | st.tuples(PEOPLE, CAMPAIGNS),
    )
    def accept(  # noqa: PLR0917 - hypothesis draws by name
        self,
        people: tuple[str, ...],
        campaigns: tuple[int, ...],
        name: str,
        priority: str,
        key: str | None,
        window: int | None,
        later: bool,
        expires: bool,
        twice: bool,
        also: tuple[tuple[str, ...], tuple[int, ...]] | None,
    ) -> None:
        now = self.deliveries.now_ms() / 1000
        keys: dict[str, Any] = {"name": name, "priority": priority}
        keys |= {"dedupe_key": key} if key is not None else {}
        keys |= {"dedupe_window": window} if window is not None else {}
        keys |= {"send_at": now + 3600} if later else {}
        keys |= {"expires_at": now + 7200} if expires else {}
        bodies = [self.ground.body(*people, campaigns=campaigns, **keys)]
        if also is not None:
            bodies.append(self.ground.body(*also[0], campaigns=also[1], **keys))
        self._accept(bodies, twice=twice)

    @rule(
        people=st.lists(st.sampled_from("abc"), min_size=1, max_size=2).map(tuple),
        sets=st.lists(st.sampled_from([(1,), (2,), (3, 4), (5,), (6, 7), (2, 3)]), min_size=2, max_size=3),
        together=st.booleans(),
        later=st.booleans(),
        key=st.sampled_from([None, "j"]),
    )
    def accept_for_the_same_people(
        self,
        people: tuple[str, ...],
        sets: list[tuple[int, ...]],
        together: bool,
        later: bool,
        key: str | None,
    ) -> None:
        """Several campaigns of one content, one after the other: what waits is joined."""
        keys: dict[str, Any] = {"send_at": self.deliveries.now_ms() // 1000 + 3600} if later else {}
        keys |= {"dedupe_key": key} if key is not None else {}
        bodies = [self.ground.body(*people, campaigns=campaigns, **keys) for campaigns in sets]
        for chunk in [bodies] if together else [[body] for body in bodies]:
            self._accept(chunk)

    def _accept(self, bodies: list[dict[str, Any]], *, twice: bool = False) -> None:
        self._enqueue(bodies)
        self._accept_sections([s for e in self.ground.read() for s in self.ground.sections(e)], twice=twice)

    def _enqueue(self, bodies: list[dict[str, Any]]) -> None:
        self.intake |= zip(self.ground.append(*bodies), bodies, strict=True)

    def _accept_sections(self, sections: list[Section], *, twice: bool = False) -> None:
        """Files them in the model too: each is the next one of its entry."""
        filed = self.deliveries.accept(sections, [], PERMITS)
        before = self.next_number
        holders = self._holders()
        for section in sections:
            body = self.intake[section.entry]
            for person in section.recipients:
                for campaign in sorted(body["campaign_id_list"]):
                    self._file(section.entry, body, person.value, campaign, holders)
            if section.final:
                del self.intake[section.entry]
        new = [self.model[n].status for n in range(before, self.next_number)]
        duplicates = new.count(Status.DUPLICATE)
        assert (filed.pending, filed.duplicates, filed.passed_over) == (len(new) - duplicates, duplicates, 0)
        if twice:
            again = self.deliveries.accept(sections, [], PERMITS)
            assert (again.pending, again.duplicates, again.passed_over) == (0, 0, len(sections))

    def _file(
        self,
        entry: str,
        body: dict[str, Any],
        person: str,
        campaign: int,
        holders: dict[tuple[object, ...], int],
    ) -> None:
        content = body["ExternalTrigger"]["Name"]
        own = ("key", body["dedupe_key"]) if "dedupe_key" in body else ("content", content)
        key = None if body.get("dedupe_window") == 0 else (campaign, person, *own)
        first = holders.get(key) if key is not None else None
        status = Status.SCHEDULED if "send_at" in body else Status.PENDING
        self.model[self.next_number] = Delivery(
            campaign,
            person,
            content,
            body.get("priority", "normal"),
            key,
            status if first is None else Status.DUPLICATE,
            entry,
            body.get("id"),
            Reason.NONE if first is None else Reason.DUPLICATE,
            first=first,
            expires="expires_at" in body,
            ahead="send_at" in body,
            dedupe=(body.get("dedupe_key"), body.get("dedupe_window")),
        )
        if key is not None and first is None:
            holders[key] = self.next_number
        self.next_number += 1

    # -- on the way out

    @rule(token=TOKENS)
    def acquire(self, token: str) -> None:
        self._acquire(token)

    def _acquire(self, token: str) -> bool:
        usable = self.ground.store.status().permits_usable or PERMITS
        expected = token in self.held or len(self.held) < usable
        assert self.ground.hold(token, LONG_MS, most=PERMITS) is expected
        if expected:
            self.held.add(token)
        return expected

    @rule(token=TOKENS, if_idle=st.booleans())
    def release(self, token: str, if_idle: bool) -> None:
        permits = self.ground.store.permits
        if not if_idle or not permits.rest(token).kept:
            permits.release(token)
            self.held.discard(token)

    @rule(token=TOKENS, recipients=st.integers(1, 4), campaigns=st.integers(1, 5), reply_lost=st.booleans())
    def claim(self, token: str, recipients: int, campaigns: int, reply_lost: bool) -> None:
        if not self._acquire(token):
            return
        for _ in range(100):
            view = self.deliveries.view()
            if view is None:
                self._nothing_may_be_sent()
                return
            if self._claim(token, Limits(recipients, campaigns)):
                break
        else:
            raise AssertionError("the view goes on showing work that cannot be claimed")
        if reply_lost:
            self._claim(token, Limits(recipients, campaigns))

    def _claim(self, token: str, limits: Limits) -> bool:
        view = self.deliveries.view()
        if view is None:
            return False
        if not view.flow:
            batch = self.deliveries.claim_part(view.priority, token)
        else:
            planned = plan(view, Limits(1, 1) if view.probe else limits)
            assert planned is not None, "the view shows work that cannot be planned"
            batch = self.deliveries.claim(planned, token, view.probe)
        self._see_held()
        if batch is None:
            return False
        if view.flow:
            assert len(batch.campaigns) <= limits.campaigns
            assert len(batch.members) <= limits.recipients
        if view.probe:
            assert len(batch) == 1
        self._claimed(batch, token, tried=bool(view.probe) or view.drop)
        return True

    def _claimed(self, batch: Batch, token: str, *, tried: bool) -> None:
        numbers = [n for member in batch.members for n in member.deliveries]
        assert len(set(numbers)) == len(numbers)
        named = [member.row.recipient for member in batch.members]
        assert len(set(named)) == len(named), "somebody is named twice in one call"
        parked = {thing.name for thing in self.ground.store.door.parked()}
        for member in batch.members:
            for n, told, campaign, row in zip(
                member.deliveries, member.told, batch.campaigns, member.rows, strict=True
            ):
                one = self.model[n]
                assert (row.dedupe_key, row.dedupe_window_seconds) == one.dedupe, (
                    "the row of another delivery"
                )
                assert (row.trigger, row.producer_id) == (one.entry, one.producer_id)
                assert one.status is Status.PENDING, "claimed although it does not wait"
                assert one.expires == (member.row.expires_at_ms is not None), (
                    "joined although it expires otherwise"
                )
                assert (one.campaign, one.recipient) == (campaign, member.row.recipient.value)
                assert one.priority == batch.priority.value
                assert batch.content == orjson.dumps({"Name": one.content})
                assert (told.reason, told.attempts, told.campaign) == (one.reason, one.attempts, campaign)
                assert not {"*", str(campaign)} & self.paused, "claimed although it is paused"
                assert not self._is_held(n), "claimed although its trigger is held"
                assert tried or not {"*", str(campaign)} & parked, "claimed although it is parked"
                one.status = Status.IN_FLIGHT
                one.ahead = False
        self.batches[batch.number] = InFlight(batch, token, numbers=numbers)

    def _nothing_may_be_sent(self) -> None:
        """Whatever is pending is held back: a switch, a park, throttling, the limit of splitting or bulk."""
        status = self.ground.store.status()
        parked = {thing.name for thing in status.parked}
        if status.held_until_ms or "*" in parked or "*" in self.paused:
            return
        in_parts = self._in_parts()
        # Taken before a cut: whoever gives one of them back sees the bulk again.
        over = status.permits_held > (status.permits_usable or PERMITS)
        for n, one in self.model.items():
            if one.status is Status.PENDING:
                shut = str(one.campaign) in self.paused | parked or (over and one.priority == "bulk")
                assert shut or n in in_parts, f"delivery {n} is due, and nothing shows it"

    def _in_parts(self) -> set[int]:
        found = set()
        for priority in "unb":
            for item in self.client.lrange(f"{self.ground.root}split:{priority}", 0, -1):
                _, _, campaigns, *rows = item.decode().split(" ")
                for row in rows:
                    numbers = [int(n) for n in row.split(",")]
                    width = len(campaigns.split(","))
                    found |= set(numbers if "," in row else range(numbers[0], numbers[0] + width))
        return found

    @rule(token=TOKENS, fates=FATES, pattern=INDEXES)
    def attempt(self, token: str, fates: list[tuple[Status, Reason, int]], pattern: list[int]) -> None:
        """A whole attempt, so that the states behind one are reached often."""
        if self._acquire(token) and self._claim(token, Limits(3, 5)):
            which = sorted(self.batches).index(max(self.batches))
            self._mark(which)
            self._settle(which, fates, pattern)

    @rule(token=TOKENS, by=st.sampled_from(SplitBy), budget=st.integers(0, 3))
    def attempt_that_is_refused(self, token: str, by: SplitBy, budget: int) -> None:
        if self._acquire(token) and self._claim(token, Limits(4, 5)):
            which = sorted(self.batches).index(max(self.batches))
            self._mark(which)
            self._split(which, by, budget)

    @rule(token=TOKENS, sent=st.booleans(), resend=st.booleans())
    def attempt_that_ends_its_worker(self, token: str, sent: bool, resend: bool) -> None:
        if self._acquire(token) and self._claim(token, Limits(3, 5)):
            which = sorted(self.batches).index(max(self.batches))
            if sent:
                self._mark(which)
            self.a_holder_dies(which)
            self._recover(resend=resend)

    @precondition(lambda self: self.batches)
    @rule(which=INDEX, out=st.none() | INDEX, twice=st.booleans())
    def mark(self, which: int, out: int | None, twice: bool) -> None:
        self._mark(which, out=out, twice=twice)

    def _mark(self, which: int, *, out: int | None = None, twice: bool = False) -> None:
        flight = self._pick(which)
        kept_out: list[KeptOut] = []
        member = None
        if out is not None and flight.state == "claimed":
            member = flight.batch.members[out % len(flight.batch.members)]
            kept_out = [
                KeptOut(e, Status.EXPIRED, Reason.EXPIRED)
                for e in self._endings(flight.batch, member.deliveries)
            ]
        may = self._is_holders(flight) and (flight.state == "wire" or flight.token in self.held)
        try:
            marked = self.deliveries.mark(flight.batch, LONG_MS, kept_out)
        except HeldBackError:
            assert may
            assert flight.state == "claimed"
            assert self._held_back(flight)
            for n in flight.numbers:
                self.model[n].status = Status.PENDING
            del self.batches[flight.batch.number]
            return
        assert marked is may
        assert not marked or flight.state == "wire" or not self._held_back(flight), "sent although held back"
        if not marked:
            return
        if flight.state == "claimed":
            self._goes_out(flight, [] if member is None else member.deliveries)
        flight.state = "wire"
        if member is not None:
            for n in member.deliveries:
                self.model[n].ends_unsent(Status.EXPIRED, Reason.EXPIRED)
                flight.numbers.remove(n)
            flight.batch = flight.batch.of([m for m in flight.batch.members if m is not member])
            if not flight.numbers:
                del self.batches[flight.batch.number]
        if twice:
            assert self.deliveries.mark(flight.batch, LONG_MS, kept_out) is bool(flight.numbers)

    @precondition(lambda self: self.batches)
    @rule(which=INDEX, fates=FATES, pattern=INDEXES, twice=st.booleans(), foreign=st.booleans())
    def settle(
        self,
        which: int,
        fates: list[tuple[Status, Reason, int]],
        pattern: list[int],
        twice: bool,
        foreign: bool,
    ) -> None:
        self._settle(which, fates, pattern, twice=twice, foreign=foreign)

    def _settle(
        self,
        which: int,
        fates: list[tuple[Status, Reason, int]],
        pattern: list[int],
        *,
        twice: bool = False,
        foreign: bool = False,
    ) -> None:
        flight = self._pick(which)
        if flight.state == "claimed":
            # Not sent: it can have come to nothing that a call comes to.
            fates = [(Status.REJECTED, Reason.POISON, 0), (Status.PENDING, Reason.SPLITTING, 0)]
        rows: list[FateRow] = []
        assignment = bytearray()
        after: dict[int, Delivery] = {}
        freed: list[int] = []
        for i, n in enumerate(flight.numbers):
            status, reason, counted = fates[pattern[i % len(pattern)] % len(fates)]
            one = self.model[n]
            new = replace(one)
            if status in FREES_KEY:
                new.ends_unsent(status, reason)
            elif status in LIVE:
                new.goes_back(status, reason)
            else:
                new.status, new.reason = status, reason
            new.attempts += counted
            after[n] = new
            due = LONG_MS if new.status is Status.RETRYING else None
            row = FateRow(new.status, new.reason, counted, due)
            if row not in rows:
                rows.append(row)
            assignment.append(rows.index(row) + 1)
            if new.status in FREES_KEY:
                freed.append(n)

        def settled(batch: Batch) -> bool:
            return self.ground.store.deliveries.settle(
                batch,
                http=200,
                text="said",
                fates=rows,
                assignment=bytes(assignment),
                freed=self._endings(flight.batch, freed),
            )

        if foreign:
            assert not settled(replace(flight.batch, token="another"))
        assert settled(flight.batch) is self._is_holders(flight)
        if self._is_holders(flight):
            self._end(flight, after)
        if twice:
            assert not settled(flight.batch)

    @precondition(lambda self: self.batches)
    @rule(which=INDEX, by=st.sampled_from(SplitBy), budget=st.integers(0, 3))
    def split(self, which: int, by: SplitBy, budget: int) -> None:
        self._split(which, by, budget)

    def _split(self, which: int, by: SplitBy, budget: int) -> None:
        flight = self._pick(which)
        width, height = len(flight.batch.campaigns), len(flight.batch.members)
        if width * height == 1:
            return
        by = SplitBy.CAMPAIGNS if height == 1 else SplitBy.RECIPIENTS if width == 1 else by
        rows: list[FateRow] = []
        assignment = bytearray()
        after: dict[int, Delivery] = {}
        for n in flight.numbers:
            after[n] = replace(self.model[n])
            after[n].goes_back(Status.PENDING, Reason.SPLITTING)
            row = FateRow(Status.PENDING, after[n].reason, 0, None)
            if row not in rows:
                rows.append(row)
            assignment.append(rows.index(row) + 1)
        assert self.deliveries.settle(
            flight.batch,
            http=400,
            text="refused",
            fates=rows,
            assignment=bytes(assignment),
            freed=[],
            split=by,
            budget=budget,
        )
        self._end(flight, after)

    # -- deaths

    @precondition(lambda self: self.batches)
    @rule(which=INDEX)
    def a_holder_dies(self, which: int) -> None:
        """Its last script may have been any: all that it held ends with its leases."""
        token = self._pick(which).token
        self._lapse_permit(token)
        for flight in self.batches.values():
            if flight.token == token:
                self._lapse(flight)

    @precondition(lambda self: self.held)
    @rule(which=INDEX)
    def a_permit_ends(self, which: int) -> None:
        self._lapse_permit(sorted(self.held)[which % len(self.held)])

    def _lapse_permit(self, token: str) -> None:
        if token in self.held:
            self.client.zadd(f"{self.ground.root}permits", {token: 1}, xx=True)
            self.held.discard(token)

    def _lapse(self, flight: InFlight) -> None:
        self.client.zadd(f"{self.ground.root}flight", {str(flight.batch.number): 1}, xx=True)
        self.client.zadd(f"{self.ground.root}splitting", {str(flight.batch.number): 1}, xx=True)

    @rule(resend=st.booleans(), heir_dies=st.booleans())
    def recover(self, resend: bool, heir_dies: bool) -> None:
        self._recover(resend=resend, heir_dies=heir_dies)

    def _recover(self, *, resend: bool, heir_dies: bool = False) -> None:
        while True:
            self.heirs += 1
            token = f"heir {self.heirs}"
            lapsed = {int(number) for number in self.client.zrangebyscore(f"{self.ground.root}flight", 1, 1)}
            found = self.deliveries.recover(token, LONG_MS)
            if found is False:
                assert not lapsed
                return
            if found is True:
                (back,) = lapsed - {int(n) for n in self.client.zrange(f"{self.ground.root}flight", 0, -1)}
                flight = self.batches.pop(back)
                assert flight.state == "claimed", "it may have been sent, and is sent again"
                for n in flight.numbers:
                    self.model[n].status = Status.PENDING
                continue
            assert isinstance(found, Batch)
            flight = self.batches[found.number]
            assert found.sent is (flight.state == "wire")
            assert [n for m in found.members for n in m.deliveries] == flight.numbers
            assert not self.deliveries.mark(flight.batch, LONG_MS), "the old holder has lost it"
            flight.batch, flight.token = found, token
            if heir_dies:
                heir_dies = False
                self._lapse(flight)
                continue
            self._end_left(flight, resend=resend)

    def _end_left(self, flight: InFlight, *, resend: bool) -> None:
        """What the sweep does with a batch that it took over."""
        after = {n: replace(self.model[n]) for n in flight.numbers}
        rows: list[FateRow] = []
        assignment = bytearray()
        freed: list[int] = []
        for n, one in after.items():
            if flight.state == "claimed":
                one.ends_unsent(Status.REJECTED, Reason.POISON)
                row = FateRow(one.status, one.reason, 0, None)
            elif resend:
                one.goes_back(Status.RETRYING, Reason.WORKER_DIED)
                one.attempts += 1
                row = FateRow(one.status, one.reason, 1, LONG_MS)
            else:
                one.status, one.reason = Status.UNKNOWN, Reason.WORKER_DIED
                one.attempts += 1
                row = FateRow(one.status, one.reason, 1, None)
            if row not in rows:
                rows.append(row)
            assignment.append(rows.index(row) + 1)
            if one.status in FREES_KEY:
                freed.append(n)
        assert self.deliveries.settle(
            flight.batch,
            http=0,
            text="",
            fates=rows,
            assignment=bytes(assignment),
            freed=self._endings(flight.batch, freed),
        )
        self._end(flight, after)

    # -- time

    @rule(most=st.sampled_from([1, 1000]))
    def what_sleeps_wakes(self, most: int) -> None:
        self._wake(most)

    def _wake(self, most: int) -> None:
        """The time of all that sleeps has come."""
        due = f"{self.ground.root}due"
        for slot in self.client.zrange(due, 0, -1):
            self.client.zadd(due, {slot: 0})
        more = True
        while more:
            _, more = self.deliveries.promote(most)
        assert self.deliveries.promote(most) == (0, False)
        for one in self.model.values():
            if one.status in {Status.SCHEDULED, Status.RETRYING}:
                one.status = Status.PENDING

    @rule()
    def what_expires_ends(self) -> None:
        """The time of every expires_at has come, and a sweep sees it."""
        expiry = f"{self.ground.root}expiry"
        for slot in self.client.zrange(expiry, 0, -1):
            self.client.zadd(expiry, {slot: 0})
        while (due := self.deliveries.due_ending()) is not None:
            waiting = [n for n in due.deliveries if self.model[n].status in WAITING]
            ended = self.deliveries.finish(
                Status.EXPIRED, Reason.EXPIRED, WAITING, self.ground.endings(list(due.deliveries))
            )
            assert ended == len(waiting)
            self.deliveries.ending_done(due)
            for n in waiting:
                self.model[n].ends_unsent(Status.EXPIRED, Reason.EXPIRED)

    @rule()
    def old_segments_are_forgotten(self) -> None:
        segments = f"{self.ground.root}segments"
        for segment in self.client.zrange(segments, 0, -1):
            self.client.zadd(segments, {segment: 0})
        newest = self.next_number // SEGMENT
        gone = {
            n // SEGMENT
            for n in self.model
            if n // SEGMENT < newest
            and not any(one.status in LIVE for m, one in self.model.items() if m // SEGMENT == n // SEGMENT)
        } & {int(s) for s in self.client.zrange(segments, 0, -1)}
        assert self.deliveries.retire() == (len(gone), False)
        self.model = {n: one for n, one in self.model.items() if n // SEGMENT not in gone}
        # As long as a retention: the windows of their keys have ended too.
        for key, n in self.ground.dedupe_keys().items():
            if n // SEGMENT in gone:
                self.ground.free_dedupe_key(key)

    # -- operators

    @precondition(lambda self: self.model)
    @rule(which=INDEXES, twice=st.booleans())
    def cancel(self, which: list[int], twice: bool) -> None:
        numbers = self._numbers(which)
        self._cancel(numbers)
        if twice:
            assert self.ground.cancel(*numbers) == 0

    def _cancel(self, numbers: Iterable[int]) -> None:
        waiting = [n for n in set(numbers) if self.model[n].status in WAITING]
        assert self.ground.cancel(*numbers) == len(waiting)
        for n in waiting:
            self.model[n].ends_unsent(Status.CANCELLED, Reason.CANCELLED)

    @precondition(lambda self: self.model)
    @rule(which=INDEXES, twice=st.booleans())
    def requeue(self, which: list[int], twice: bool) -> None:
        self._requeue(self._numbers(which), twice=twice)

    def _requeue(self, numbers: list[int], *, twice: bool = False) -> None:
        holders = self._holders()
        taken = held = moved_on = 0
        for n in numbers:
            one = self.model[n]
            if one.status not in RETRYABLE:
                moved_on += 1
            elif one.key is not None and holders.get(one.key, n) != n:
                held += 1
            else:
                taken += 1
                one.goes_back(Status.SCHEDULED if one.ahead else Status.PENDING, Reason.REQUEUED)
                one.attempts = 0
                self._sent_again(n)
                if one.key is not None:
                    holders[one.key] = n
        done = self.ground.requeue(*numbers)
        assert (done.taken, done.key_held, done.moved_on) == (taken, held, moved_on)
        assert done.content_gone == 0
        if twice:
            assert self.ground.requeue(*numbers).taken == 0

    @rule(name=NAMES, what=st.sampled_from(["pause", "resume", "resume", "unpark"]))
    def switch(self, name: str, what: str) -> None:
        control, door = self.ground.store.control, self.ground.store.door
        match what:
            case "pause":
                assert control.pause(name) is (name not in self.paused)
                self.paused.add(name)
            case "resume":
                assert control.resume(name) is (name in self.paused)
                self.paused.discard(name)
            case _:
                door.unpark(name)
                assert name not in {thing.name for thing in door.parked()}

    @precondition(lambda self: self.model)
    @rule(which=INDEX)
    def hold_a_trigger(self, which: int) -> None:
        """And everything else that was accepted with it."""
        self._hold(Named.trigger(self.model[self._numbers([which])[0]].entry))

    def _hold(self, what: Named) -> None:
        assert self.ground.store.control.hold(what) is (what not in self.held_names)
        self.held_names.add(what)

    @precondition(lambda self: self.held_names)
    @rule(which=INDEX)
    def let_a_trigger_go(self, which: int) -> None:
        self._let_go(self._held_name(which))

    def _held_name(self, which: int) -> Named:
        return sorted(self.held_names, key=lambda each: each.name)[which % len(self.held_names)]

    def _let_go(self, what: Named) -> None:
        self.held_names.discard(what)
        ours = self._to_be_let_go({what})
        assert self.ground.store.control.let_go(what, self.ground.outcomes) == (True, len(ours))
        for n in ours:
            self.model[n].status = Status.PENDING

    def _to_be_let_go(self, freed: set[Named]) -> list[int]:
        held = [n for n, one in self.model.items() if one.status is Status.HELD and not self._is_held(n)]
        return [n for n in held if any(self.model[n].is_of(what) for what in freed)]

    def _is_held(self, n: int) -> bool:
        return any(map(self.model[n].is_of, self.held_names))

    def _held_back(self, flight: InFlight) -> bool:
        names = {"*", *(str(self.model[n].campaign) for n in flight.numbers)}
        return bool(names & self.paused) or any(map(self._is_held, flight.numbers))

    def _see_held(self) -> None:
        """A claim holds back what it meets of a held trigger, and nothing else."""
        if not any(map(self._is_held, self.model)):
            return
        for n, cell in self.shared.cells_of(self.client, self.ground.root):
            if cell.status is Status.HELD and self.model[n].status is not Status.HELD:
                assert self.model[n].status is Status.PENDING
                assert self._is_held(n)
                self.model[n].status = Status.HELD

    # -- the door

    @rule(lesson=LESSONS, drop=st.booleans())
    def report(self, lesson: Lesson, drop: bool) -> None:
        began = self.deliveries.now_ms()
        before = {thing.name for thing in self.ground.store.door.parked()}
        fresh = self.ground.store.door.report(lesson, permits=PERMITS, began_ms=began, drop=drop)
        after = {thing.name for thing in self.ground.store.door.parked()}
        assert after - before <= set(fresh) <= after
        match lesson:
            case Parked(campaigns=None):
                assert "*" in after
            case Parked(campaigns=frozenset() as parked):
                assert {str(c) for c in parked} <= after
            case Fine(campaigns=campaigns):
                assert not {"*", *map(str, campaigns)} & after
            case _:
                pass

    @rule(hold=st.booleans())
    def probes_are_due(self, hold: bool) -> None:
        """Pauses of what is parked have passed, and perhaps that of throttling."""
        parked = f"{self.ground.root}parked"
        for name, value in self.client.hgetall(parked).items():
            self.client.hset(parked, name, orjson.dumps(orjson.loads(value) | {"until": 0}))
        if hold:
            self.client.hdel(f"{self.ground.root}door", "hold")

    # -- what always holds

    @invariant()
    def every_delivery_is_in_one_place_and_the_counters_are_right(self) -> None:
        self.ground.audit()

    @invariant()
    def the_store_agrees_with_the_model(self) -> None:
        cells = dict(self.shared.cells_of(self.client, self.ground.root))
        assert cells.keys() == self.model.keys()
        for n, one in self.model.items():
            cell = cells[n]
            # Whether it waits together with others is not the model's business: the audit sees to that.
            reason = Reason.NONE if cell.reason is Reason.JOINED else cell.reason
            found = (cell.status, reason, cell.campaign, cell.attempts)
            assert found == (one.status, one.reason, one.campaign, one.attempts), f"delivery {n}"
            assert cell.reason is not Reason.JOINED or one.status in LIVE
            if one.status is Status.DUPLICATE:
                assert cell.batch == one.first

    @invariant()
    def a_key_is_held_exactly_while_its_delivery_may_have_been_or_may_be_sent(self) -> None:
        holders = self.ground.key_holders()
        holding = {n for n, one in self.model.items() if one.key is not None and one.status in HOLDS_KEY}
        assert {n for n in holders if n in self.model} == holding
        assert len(self.ground.dedupe_keys()) == len(holders), "no delivery holds two keys"

    @invariant()
    def no_more_permits_are_held_than_there_are(self) -> None:
        status = self.ground.store.status()
        assert status.permits_held == len(self.held) <= PERMITS

    @invariant()
    def no_delivery_is_in_flight_twice(self) -> None:
        numbers = [n for flight in self.batches.values() for n in flight.numbers]
        assert len(numbers) == len(set(numbers))
        in_flight = {n for n, one in self.model.items() if one.status is Status.IN_FLIGHT}
        assert in_flight == set(numbers)

    def everything_that_waits_can_be_reached(self) -> None:
        """With nothing held back and the dead taken over, claiming sends all that waits."""
        for name in sorted(self.paused):
            self.switch(name, "resume")
        for what in list(self.held_names):
            self._let_go(what)
        self.client.delete(*(f"{self.ground.root}{key}" for key in ("parked", "probes", "door")))
        for token in sorted(self.held):
            self._lapse_permit(token)
        for flight in self.batches.values():
            self._lapse(flight)
        self._recover(resend=True)
        self._wake(1000)
        self._complete()
        waiting = {n for n, one in self.model.items() if one.status is Status.PENDING}
        sent = self.ground.drain()
        assert len(sent) == len(set(sent)), "sent twice"
        assert set(sent) == waiting
        assert not self.ground.status().live
        assert not self.ground.keys("lane:*") | self.ground.keys("flow:*") | self.ground.keys("ready:*")
        assert not self.ground.keys("batch:*") | self.ground.keys("split*") | self.ground.keys("due*")
        self.ground.audit()

    # -- what a machine with more rules adds to this one

    def _goes_out(self, flight: InFlight, but: Sequence[int]) -> None:
        """A batch is marked: it is on the wire, but for deliveries that were kept out."""

    def _sent_again(self, n: int) -> None:
        """An operator has sent it again."""

    def _complete(self) -> None:
        """At the end, when nothing is in flight or asleep: what is half done is done."""

    # -- helpers

    def _pick(self, which: int) -> InFlight:
        return self.batches[sorted(self.batches)[which % len(self.batches)]]

    def _numbers(self, which: list[int]) -> list[int]:
        known = sorted(self.model)
        newest = known[-40:]
        return sorted({newest[i % len(newest)] for i in which})

    def _is_holders(self, flight: InFlight) -> bool:
        return flight.batch.number in self.batches

    def _end(self, flight: InFlight, after: dict[int, Delivery]) -> None:
        self.model |= after
        del self.batches[flight.batch.number]

    def _holders(self) -> dict[tuple[object, ...], int]:
        return {
            one.key: n for n, one in self.model.items() if one.key is not None and one.status in HOLDS_KEY
        }

    def _endings(self, batch: Batch, numbers: Iterable[int]) -> list[Ending]:
        wanted = set(numbers)
        return [e for e in self.ground.endings_of(batch) if e.delivery in wanted]


def test_any_steps_in_any_order_leave_every_delivery_in_one_place(redis_url: str) -> None:
    class OnThisServer(Life):
        url = redis_url
        shared = store_tests()

    run_state_machine_as_test(
        OnThisServer,
        settings=settings(
            deadline=None,
            max_examples=60,
            stateful_step_count=40,
            suppress_health_check=list(HealthCheck),
        ),
    )
