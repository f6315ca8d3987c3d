"""The same machine, with what operators order on top: cancels, holds and their ends, at any moment.

A command is a process of its own: what it does page by page goes on between the steps of all others, and it
may die between any two of its scripts. Then the sweep goes on with what it left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test

from tests.properties.test_state_machine import (
    CAMPAIGNS,
    FATES,
    INDEX,
    INDEXES,
    PEOPLE,
    PERMITS,
    TOKENS,
    WAITING,
    Delivery,
    InFlight,
    Life,
    store_tests,
)
from worker.core.model import LIVE, Reason, Status
from worker.core.planning import Limits
from worker.engine import cancelling
from worker.store import control
from worker.store.batches import Section, SplitBy
from worker.store.control import Cancel, Named
from worker.store.outcomes import Outcomes

#: What a cancel or a hold may name; of the first two, by the number of a trigger that there is.
TRIGGERS = ["trigger", "trigger", "id"]
SCOPES = st.sampled_from([*TRIGGERS, *TRIGGERS, "campaign", "campaign", "all"])
IDS = (None, "x", "y")


class DiedError(Exception):
    """A process died here."""


class Gone:
    """In the place of what a process would have needed next."""

    def __getattr__(self, _: str) -> NoReturn:
        raise DiedError


@dataclass(eq=False)
class Order:
    """A cancel as the model knows it: what was enqueued up to an entry, and is named."""

    what: Named
    until: tuple[int, int]
    flying: frozenset[int]  #: batches that were claimed when it was given
    #: Deliveries that an operator has sent again since: they may be taken back once more, or be sent.
    again: set[int] = field(default_factory=set)

    def covers(self, one: Delivery) -> bool:
        return number_of(one.entry) <= self.until and one.is_of(self.what)


@dataclass(eq=False)
class Command:
    """One that ends what its order covers, page by page."""

    order: Order
    pages: Iterator[int]


def number_of(entry: str) -> tuple[int, int]:
    ms, _, seq = entry.partition("-")
    return int(ms), int(seq)


class Ordered(Life):
    """Life, and an operator who changes his mind."""

    def __init__(self) -> None:
        super().__init__()
        self.control = self.ground.store.control
        self.bodies = 0
        self.unfinished: list[list[Section]] = []  #: entries that were read, and accepted in part
        self.freeing: set[Named] = set()  #: whose deliveries are to be let go
        self.standing: dict[Named, Order] = {}
        self.orders: list[Order] = []  #: all that there were
        self.commands: list[Command] = []

    # -- on the way in

    def _enqueue(self, bodies: list[dict[str, Any]]) -> None:
        for body in bodies:
            if (producer_id := IDS[self.bodies % len(IDS)]) is not None:
                body["id"] = producer_id
            self.bodies += 1
        super()._enqueue(bodies)

    @rule(people=PEOPLE, campaigns=CAMPAIGNS, name=st.sampled_from("AB"), later=st.booleans())
    def enqueue(self, people: tuple[str, ...], campaigns: tuple[int, ...], name: str, later: bool) -> None:
        """It stays in the intake until somebody accepts something."""
        keys: dict[str, Any] = {"send_at": self.deliveries.now_ms() // 1000 + 3600} if later else {}
        self._enqueue([self.ground.body(*people, campaigns=campaigns, name=name, **keys)])

    @rule(people=PEOPLE, campaigns=CAMPAIGNS, size=st.integers(1, 2), done=st.integers(1, 3))
    def accept_in_part(
        self, people: tuple[str, ...], campaigns: tuple[int, ...], size: int, done: int
    ) -> None:
        """Whoever accepts it dies between two pieces."""
        self._accept([])
        self._enqueue([self.ground.body(*people, campaigns=campaigns)])
        (entry,) = self.ground.read()
        pieces = self.ground.sections(entry, size)
        self._accept_sections(pieces[:done])
        if done < len(pieces):
            self.unfinished.append(pieces)

    @precondition(lambda self: self.unfinished)
    @rule(which=INDEX)
    def accept_the_rest(self, which: int) -> None:
        """By somebody else, who begins anew."""
        pieces = self.unfinished.pop(which % len(self.unfinished))
        done = int(self.client.hget(f"{self.ground.root}accepting", pieces[0].entry) or 0)
        assert 0 < done < len(pieces)
        assert self.deliveries.accept(pieces[:done], [], PERMITS).passed_over == done
        self._accept_sections(pieces[done:])

    # -- cancel

    @rule(
        scope=SCOPES,
        which=INDEX,
        also=st.booleans(),
        pages=st.sampled_from([0, 0, 1, 99]),
        busy=st.booleans(),
    )
    def cancel_what_is_named(self, scope: str, which: int, also: bool, pages: int, busy: bool) -> None:
        what = [self._name(scope, which)]
        if also and scope == "campaign":
            what.append(self._name(scope, which + 1))
        self._order(what, pages, busy=busy)

    @rule(
        token=TOKENS,
        which=INDEX,
        scope=SCOPES,
        how=st.sampled_from(["claimed", "marked", "refused"]),
        fates=FATES,
        pattern=INDEXES,
    )
    def cancel_in_mid_call(  # noqa: PLR0917 - hypothesis draws by name
        self,
        token: str,
        which: int,
        scope: str,
        how: str,
        fates: list[tuple[Status, Reason, int]],
        pattern: list[int],
    ) -> None:
        """What is on the wire ends as it ends, and is not tried again."""
        if not (self._acquire(token) and self._claim(token, Limits(4, 5))):
            return
        flight = self.batches[max(self.batches)]
        n = flight.numbers[which % len(flight.numbers)]
        at = sorted(self.batches).index(flight.batch.number)
        if how != "claimed":
            self._mark(at)
        in_flight = flight.batch.number in self.batches
        if in_flight and how == "refused":
            self._split(at, SplitBy.RECIPIENTS, 3)
        self._order([self._name_of(scope, n)], 99)
        match how:
            case "claimed":
                self._mark(at)
            case "refused":
                self._meet()
            case _:
                if in_flight:
                    self._settle(at, fates, pattern)

    @precondition(lambda self: self.commands)
    @rule(which=INDEX, pages=st.integers(0, 2))
    def cancel_the_same_once_more(self, which: int, pages: int) -> None:
        """While the first command is still at it."""
        self._order([self.commands[which % len(self.commands)].order.what], pages, busy=True)

    def _order(self, what: list[Named], pages: int, *, busy: bool = False) -> None:
        """It is given; the command gets so far with it before others go on."""
        flying = frozenset(self.batches)
        entries = {*self.intake, *(one.entry for one in self.model.values())}
        if busy:  # within a millisecond, as far as can be
            self._enqueue([self.ground.body("a", campaigns=range(1, 8), name="C")])
            entries |= self.intake.keys()
        given = self.control.begin_cancel(what)
        if busy:
            self._enqueue([self.ground.body("a", campaigns=range(1, 8), name="D")])
        assert [cancel.what for cancel in given] == what
        for cancel in given:
            assert all(number_of(entry) <= cancel.until for entry in entries)
            order = Order(cancel.what, cancel.until, flying)
            self.standing[cancel.what] = order
            self.orders.append(order)
            self._begin(order, cancel)
            for _ in range(pages):
                if not self._go_on(self.commands[-1]):
                    break

    def _begin(self, order: Order, cancel: Cancel) -> None:
        self.commands.append(Command(order, cancelling.end_waiting(self.ground.store, cancel)))

    @precondition(lambda self: self.standing)
    @rule(which=INDEX, most=st.integers(1, 4), met=st.booleans())
    def send_again_in_mid_cancel(self, which: int, most: int, met: bool) -> None:
        order = sorted(self.standing.values(), key=lambda each: each.what.name)[which % len(self.standing)]
        ended = [n for n in self._covered(order) if self.model[n].status is Status.CANCELLED]
        self._requeue(ended[-most:])
        if met:
            self._meet()

    @precondition(lambda self: self.commands)
    @rule(which=INDEX)
    def send_again_what_was_just_cancelled(self, which: int) -> None:
        """After each page: what comes after the last one is found by nobody."""
        command = self.commands[which % len(self.commands)]
        for _ in range(20):
            if not self._go_on(command):
                break
            ended = [n for n in self._covered(command.order) if self.model[n].status is Status.CANCELLED]
            self._requeue(ended[:1])
            self._meet()

    @precondition(lambda self: self.commands)
    @rule(which=INDEX)
    def a_command_goes_on(self, which: int) -> None:
        self._go_on(self.commands[which % len(self.commands)])

    @precondition(lambda self: self.commands)
    @rule(which=INDEX)
    def a_command_dies(self, which: int) -> None:
        del self.commands[which % len(self.commands)]

    @rule(pages=st.sampled_from([1, 99, 99]))
    def the_sweep_goes_on_with_cancels(self, pages: int) -> None:
        self._sweep(pages)

    def _sweep(self, pages: int = 99) -> None:
        listed = self.control.cancels()
        assert {cancel.what: cancel.until for cancel in listed} == {
            what: order.until for what, order in self.standing.items()
        }
        for cancel in listed:
            order = self.standing[cancel.what]
            comes = self._comes(order)
            self._begin(order, cancel)
            command = self.commands[-1]
            if all(self._go_on(command) for _ in range(pages)):
                self.commands.remove(command)
                continue
            # Nobody came between: it knew all.
            assert (self.standing.get(cancel.what) is order) == comes
            assert not any(self.model[n].status in WAITING for n in self._covered(order))

    def _go_on(self, command: Command) -> bool:
        """To its next page; False: it is at its end."""
        order = command.order
        stood = self.standing.get(order.what) is order
        count = next(command.pages, None)
        self._see_cancelled(order, count or 0)
        if count is not None:
            return True
        self.commands.remove(command)
        listed = {cancel.what: cancel.until for cancel in self.control.cancels()}
        if stood and order.what not in listed:
            assert not self._comes(order), "taken off the list, and something of it may still come"
            left = {n for n in self._covered(order) if self.model[n].status in LIVE}
            assert left <= order.again, "taken off the list, and something of it is left"
            del self.standing[order.what]
            self.freeing.add(order.what)
            if order.what.kind == "trigger":
                self.held_names.discard(order.what)
        return False

    def _see_cancelled(self, order: Order, count: int) -> None:
        """What a page has ended."""
        ended = 0
        for n, cell in self.shared.cells_of(self.client, self.ground.root):
            one = self.model[n]
            if one.status in WAITING and cell.status in {Status.CANCELLED, Status.UNKNOWN}:
                assert order.covers(one), "nobody took it back"
                one.ends_unsent(Status.CANCELLED, Reason.CANCELLED)
                ended += 1
        assert ended == count

    def _comes(self, order: Order) -> bool:
        """Whether something of it may come from the intake or the wire."""
        return bool(order.flying & self.batches.keys()) or any(
            number_of(entry) <= order.until for entry in self.intake
        )

    def _covered(self, order: Order) -> list[int]:
        return [n for n, one in self.model.items() if order.covers(one)]

    # -- hold

    @rule(scope=st.sampled_from(TRIGGERS), which=INDEX, met=st.booleans())
    def hold_what_is_named(self, scope: str, which: int, met: bool) -> None:
        self._hold(self._name(scope, which))
        if met:
            self._meet()

    def _meet(self) -> None:
        """Somebody claims, and meets what is held; what he has claimed goes back."""
        if not self._acquire("m"):
            self._lapse_permit(min(self.held))
            if not self._acquire("m"):
                return
        before = set(self.batches)
        for _ in range(6):
            self._claim("m", Limits(4, 5))
        for number in self.batches.keys() - before:
            self._settle(sorted(self.batches).index(number), [], [1])
        self.release("m", if_idle=False)

    def _let_go(self, what: Named) -> None:
        super()._let_go(what)
        self.freeing.discard(what)

    @precondition(lambda self: self.held_names)
    @rule(which=INDEX)
    def who_lets_go_dies(self, which: int) -> None:
        what = self._held_name(which)
        with pytest.raises(DiedError):
            self.control.let_go(what, cast("Outcomes", Gone()))
        self.held_names.discard(what)
        self.freeing.add(what)

    @rule()
    def strays_are_let_go(self) -> None:
        idle = not self.held_names and not self.standing
        ours = self._to_be_let_go({Named.all()} if idle else self.freeing)
        assert self.control.let_strays_go(self.ground.outcomes) == len(ours)
        for n in ours:
            self.model[n].status = Status.PENDING
        self.freeing.clear()

    def _is_held(self, n: int) -> bool:
        return super()._is_held(n) or any(order.covers(self.model[n]) for order in self.standing.values())

    def _name_of(self, scope: str, n: int) -> Named:
        one = self.model[n]
        match scope:
            case "trigger":
                return Named.trigger(one.entry)
            case "id" if one.producer_id is not None:
                return Named.producer_id(one.producer_id)
            case "campaign":
                return Named.campaign(one.campaign)
            case _:
                return Named.all()

    def _name(self, scope: str, which: int) -> Named:
        entries = [(one.entry, one.producer_id) for one in self.model.values()][-40:]
        entries += [(entry, body.get("id")) for entry, body in self.intake.items()]
        entry, _ = entries[which % len(entries)] if entries else ("1-1", None)
        match scope:
            case "trigger":
                return Named.trigger(entry)
            case "id":
                return Named.producer_id(str(IDS[1 + which % 2]))
            case "campaign":
                return Named.campaign(1 + which % 7)
            case _:
                return Named.all()

    # -- what always holds

    def _goes_out(self, flight: InFlight, but: Any) -> None:
        """Nothing that was cancelled is ever sent, unless an operator sends it again."""
        for n in set(flight.numbers) - set(but):
            one = self.model[n]
            for order in self.orders:
                assert not order.covers(one) or n in order.again, f"delivery {n} is sent, and was cancelled"

    def _sent_again(self, n: int) -> None:
        for order in self.orders:
            order.again.add(n)

    @invariant()
    def the_lists_of_orders_are_right(self) -> None:
        status = self.ground.store.status()
        assert status.held.keys() == self.held_names
        assert {cancel.what for cancel in status.cancels} == self.standing.keys()
        assert status.intake == len(self.intake)

    def _complete(self) -> None:
        """Whatever was left half done, a few sweeps end it."""
        self.commands.clear()
        self._accept([])
        while self.unfinished:
            self.accept_the_rest(0)
        self._wake(1000)
        self._sweep()
        assert not self.standing
        self.strays_are_let_go()
        assert Status.HELD not in {one.status for one in self.model.values()}


def test_what_is_cancelled_is_never_sent_and_what_is_held_goes_on_whoever_dies(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancelling, "PAGE", 2)
    monkeypatch.setattr(control, "_PAGE", 3)

    class OnThisServer(Ordered):
        url = redis_url
        shared = store_tests()

    run_state_machine_as_test(
        OnThisServer,
        settings=settings(
            deadline=None,
            max_examples=30,
            stateful_step_count=40,
            suppress_health_check=list(HealthCheck),
        ),
    )
