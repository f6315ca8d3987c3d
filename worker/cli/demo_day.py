"""A realistic day in small, for the demo: what is enqueued, what goes wrong, and how it must end.

    spring sale     bulk: one content for thousands of people, a part of it enqueued twice
    orders          one message of its own for each customer, over two campaigns (push and e-mail)
    sign-in codes   urgent, each with an expiry; the API is unavailable for the first few
    win-back        was stopped at the vendor, and is sent together with the newsletter: partial answers

One recipient is invalid, one order gets no answer (the request hangs), one gets none although it was accepted
(the connection is cut), and one trigger breaks the contract.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

from worker.clevertap.sandbox import CampaignState, Fault, FaultKind
from worker.core.model import Status

SALE, ORDER_PUSH, ORDER_EMAIL = 1709550101, 1709550110, 1709550111
CODE, WIN_BACK, NEWSLETTER = 1709550120, 1709550130, 1709550131

#: For the tables.
NAMES = {
    SALE: "spring sale",
    ORDER_PUSH: "orders, push",
    ORDER_EMAIL: "orders, e-mail",
    CODE: "sign-in codes",
    WIN_BACK: "win-back (stopped)",
    NEWSLETTER: "newsletter",
}
#: People in one trigger of the sale.
_SLICE = 500
_UNAVAILABLE_CALLS = 4
_NOBODY = "customer-0000"
#: Codes that nobody needs any more after so many seconds.
_CODE_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Day:
    """The triggers, the vendor's side, and what must come of them."""

    triggers: tuple[bytes, ...]
    campaigns: dict[str, CampaignState]
    bad_recipients: frozenset[str]
    faults: tuple[Fault, ...]
    #: (campaign, status) -> deliveries at the end.
    expected: Counter[tuple[int, Status]]
    dead_letters: int
    #: Somebody to whom much happens: an e-mail address.
    somebody: str


def make_day(*, people: int, orders: int, codes: int, now_seconds: int) -> Day:
    """A day for so many people; at least 4 orders, and no more orders or codes than people in one slice."""
    sale = [_person(n) for n in range(people)]
    slices = [sale[first : first + _SLICE] for first in range(0, people, _SLICE)]
    sales = [_sale(part, f"sale-{n}") for n, part in enumerate(slices)]
    bought = [_order(n) for n in range(orders)]
    again = max(1, orders // 6)  # a shop that sends some orders twice
    readers = [f"reader-{n}" for n in range(40)]
    triggers = [
        *sales,
        *bought,
        *(_code(n, now_seconds) for n in range(codes)),
        _trigger({"identity": readers}, [WIN_BACK, NEWSLETTER], {"Issue": "12"}, id="newsletter-12"),
        _trigger({"identity": [_NOBODY]}, [ORDER_PUSH], {"Order": "0"}, id="order-of-nobody"),
        sales[0],
        *bought[:again],
        # Values must be strings: this one ends with the dead letters.
        _trigger({"email": [_email(0)]}, [ORDER_PUSH], {"Order": 1}, id="order-with-a-number"),
    ]
    expected = Counter(
        {
            (SALE, Status.ACCEPTED): people,
            (SALE, Status.DUPLICATE): len(slices[0]),
            (ORDER_PUSH, Status.REJECTED): 1,
            (CODE, Status.ACCEPTED): codes,
            (WIN_BACK, Status.REJECTED): len(readers),
            (NEWSLETTER, Status.ACCEPTED): len(readers),
        }
    )
    for campaign in (ORDER_PUSH, ORDER_EMAIL):
        expected[campaign, Status.ACCEPTED] = orders - 2
        expected[campaign, Status.UNKNOWN] = 2
        expected[campaign, Status.DUPLICATE] = again
    return Day(
        triggers=tuple(triggers),
        campaigns={str(WIN_BACK): CampaignState.STOPPED},
        bad_recipients=frozenset({_NOBODY}),
        faults=(
            Fault(kind=FaultKind.HANG, recipient=_email(orders - 1), campaign=str(ORDER_PUSH), times=1),
            Fault(
                kind=FaultKind.CUT,
                recipient=_email(orders - 2),
                campaign=str(ORDER_PUSH),
                times=1,
                after_accepting=True,
            ),
            Fault(
                kind=FaultKind.ANSWER, status=503, campaign=str(CODE), times=min(codes, _UNAVAILABLE_CALLS)
            ),
        ),
        expected=expected,
        dead_letters=1,
        somebody=_email(0),
    )


def _email(n: int) -> str:
    return f"customer-{n + 1:04d}@example.com"


def _person(n: int) -> tuple[str, str]:
    """Kind and value: some are known by their address, the others by the shop's own id."""
    return ("email", _email(n)) if n % 2 == 0 or n < _SLICE else ("identity", f"customer-{n + 1:04d}")


def _sale(part: list[tuple[str, str]], id_: str) -> bytes:
    to: dict[str, list[str]] = {}
    for kind, value in part:
        to.setdefault(kind, []).append(value)
    return _trigger(to, [SALE], {"Discount": "20 %", "Until": "Sunday"}, id=id_, priority="bulk")


def _order(n: int) -> bytes:
    content = {
        "Order": f"{70_001 + n}",
        "Items": [{"Name": "Espresso beans", "Grams": "250"}, {"Name": "Filter papers", "Pieces": "100"}],
    }
    return _trigger({"email": [_email(n)]}, [ORDER_PUSH, ORDER_EMAIL], content, id=f"order-{70_001 + n}")


def _code(n: int, now_seconds: int) -> bytes:
    content = {"Code": f"{(n * 7919 + 100_003) % 1_000_000:06d}"}
    expires_at = now_seconds + _CODE_SECONDS
    return _trigger(
        {"email": [_email(n)]}, [CODE], content, id=f"code-{n + 1}", priority="urgent", expires_at=expires_at
    )


def _trigger(to: dict[str, list[str]], campaigns: list[int], content: object, **keys: object) -> bytes:
    return json.dumps(
        {"to": to, "campaign_id_list": campaigns, "ExternalTrigger": content, "source": "demo", **keys}
    ).encode()
