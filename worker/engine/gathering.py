"""What a send's source names, as the ``to`` of triggers: checked, a thousand at most in each.

A recipient counts as good exactly where a trigger that names it would be accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field

import orjson

from worker.clevertap import wire
from worker.core.errors import InvalidTrigger
from worker.core.model import Kind, Recipient
from worker.sources import Named

#: Recipients of one trigger.
RECIPIENTS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Gathered:
    """Some of what a source names."""

    to: tuple[tuple[int, bytes], ...] = field(repr=False)  #: for each trigger how many, and its ``to`` (JSON)
    faulty: tuple[tuple[str, str, bytes], ...] = field(repr=False)  #: where, why, and the line


def named_members(members: Iterable[bytes], kind: Kind) -> Generator[Named, None, None]:
    """The members of a set as recipients of one kind."""
    for number, member in enumerate(members, start=1):
        try:
            yield Named(f"member {number}", member, Recipient(kind, member.decode()))
        except UnicodeDecodeError:
            yield Named(f"member {number}", member, None, "is not UTF-8")


def told_of_each(named: Iterable[Named], alive: Callable[[], None]) -> Iterator[Named]:
    """The same, with ``alive`` called before each."""
    for each in named:
        alive()
        yield each


def gathered(named: Iterable[Named], most_bytes: int) -> Generator[Gathered, None, None]:
    """All of it, in portions of at most RECIPIENTS_AT_ONCE; a ``to`` is no longer than ``most_bytes``, unless
    a single recipient is.
    """
    good: list[Named] = []
    faulty: list[tuple[str, str, bytes]] = []
    for each in named:
        if each.recipient is None:
            faulty.append((each.place, each.fault, each.raw))
        else:
            good.append(each)
        if len(good) == RECIPIENTS_AT_ONCE or len(faulty) == RECIPIENTS_AT_ONCE:
            yield _portion(good, faulty, most_bytes)
            good, faulty = [], []
    if good or faulty:
        yield _portion(good, faulty, most_bytes)


def _portion(good: list[Named], faulty: list[tuple[str, str, bytes]], most_bytes: int) -> Gathered:
    if good and _fault(good) is not None:
        faults = [(each, _fault([each])) for each in good]
        faulty = faulty + [(each.place, fault, each.raw) for each, fault in faults if fault is not None]
        good = [each for each, fault in faults if fault is None]
    return Gathered(tuple(_to(good, most_bytes)), tuple(faulty))


def _fault(named: list[Named]) -> str | None:
    """Why a trigger to these would not be accepted; None where it would be."""
    try:
        wire.parse(b'{"to":%b,"campaign_id":1,"ExternalTrigger":{}}' % _dumped(named), max_bytes=2**62)
    except InvalidTrigger as invalid:
        return invalid.why
    except orjson.JSONEncodeError:  # half of a surrogate pair
        return "is not text"
    return None


def _to(named: list[Named], most_bytes: int) -> Iterator[tuple[int, bytes]]:
    if not named:
        return
    dumped = _dumped(named)
    if len(dumped) <= most_bytes or len(named) == 1:
        yield len(named), dumped
        return
    half = len(named) // 2
    yield from _to(named[:half], most_bytes)
    yield from _to(named[half:], most_bytes)


def _dumped(named: list[Named]) -> bytes:
    by_kind: dict[str, list[str]] = {}
    for each in named:
        if each.recipient is not None:
            by_kind.setdefault(each.recipient.kind.value, []).append(each.recipient.value)
    return orjson.dumps(by_kind)
