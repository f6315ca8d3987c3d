"""Stream entries as a careless or hostile producer appends them, drawn from a random.Random.

About a quarter are right, or one is right by chance: without them nobody would see whether the wrong ones
spoil anything. The JSON is written by hand here, since no encoder writes what must not be written.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: The bound on a trigger's bytes that a fuzzed worker is given, so that passing it is cheap.
MAX_TRIGGER_BYTES = 20_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: its fields in order, names repeated perhaps. ``right``: it must be accepted."""

    fields: tuple[tuple[bytes, bytes], ...]
    right: bool = False

    @property
    def trigger(self) -> bytes | None:
        """The bytes that count: of a repeated field the last."""
        return dict(self.fields).get(b"trigger")


class Token(str):
    """Written as it is: what JSON has no value for."""

    __slots__ = ()


class Pairs(list[tuple[str, Any]]):
    """An object whose keys may repeat."""


def entry(chance: random.Random) -> Entry:
    """The next entry."""
    draw = chance.random()
    if draw < 0.25:
        return Entry(((b"trigger", written(right(chance), chance)),), right=True)
    if draw < 0.60:
        return Entry(((b"trigger", written(mutated(right(chance), chance), chance)),))
    if draw < 0.80:
        return Entry(((b"trigger", damaged(written(right(chance), chance), chance)),))
    if draw < 0.90:
        return Entry(((b"trigger", chance.randbytes(chance.choice((0, 1, 3, 30, 300)))),))
    return Entry(odd_fields(chance))


def odd_fields(chance: random.Random) -> tuple[tuple[bytes, bytes], ...]:
    """Fields that are no contract of ours, and perhaps a trigger among them."""
    name: Callable[[], bytes] = lambda: chance.choice(  # noqa: E731
        (b"trigger", b"Trigger", b"trigger ", b"", b"data", b"\xff\x00", b"entry", b"reason", b"x" * 3000)
    )
    value: Callable[[], bytes] = lambda: chance.choice(  # noqa: E731
        (b"", b"\x00", b"\xff" * 50, b"1", written(right(chance), chance))
    )
    return tuple((name(), value()) for _ in range(chance.randint(1, 4)))


# --- right ones


def right(chance: random.Random) -> Any:
    """A trigger, or several as ``{"d": [...]}``."""
    if chance.random() < 0.1:
        return {"d": [one(chance) for _ in range(chance.randint(1, 4))]}
    return one(chance)


def one(chance: random.Random) -> dict[str, Any]:
    """One trigger with all that is allowed."""
    kinds = chance.sample(("email", "identity", "objectId"), chance.randint(1, 3))
    to = {kind: [person(kind, chance) for _ in range(chance.choice((1, 1, 2, 5)))] for kind in kinds}
    campaigns = [chance.randint(1, 6) for _ in range(chance.randint(1, 4))]
    trigger: dict[str, Any] = {"to": to}
    match chance.randint(0, 3):
        case 0:
            trigger["campaign_id"] = str(campaigns[0])
        case 1:
            trigger["campaign_id"] = campaigns[0]
        case 2:
            trigger["campaign_id"] = [str(campaign) for campaign in campaigns]
        case _:
            trigger["campaign_id_list"] = campaigns
    trigger[chance.choice(("ExternalTrigger", "content"))] = chance.choice(CONTENTS)
    optional: dict[str, Callable[[], Any]] = {
        "id": lambda: word(chance, 256),
        "priority": lambda: chance.choice(("urgent", "normal", "bulk", None)),
        "dedupe_key": lambda: word(chance, 256),
        "dedupe_window": lambda: chance.choice((0, 0, 60, 2_592_000, None)),
        "send_at": lambda: chance.choice((946_684_800, 1_600_000_000.5, "2001-02-03T04:05:06+07:00", None)),
        "expires_at": lambda: chance.choice((2_650_838_399, "2052-01-01T00:00:00Z", 1_700_000_000, None)),
        "source": lambda: word(chance, 64),
    }
    for key in chance.sample(sorted(optional), chance.choice((0, 0, 1, 2, 7))):
        trigger[key] = optional[key]()
    return trigger


def person(kind: str, chance: random.Random) -> str:
    """A recipient. Few names, so that duplicates happen."""
    if kind == "email":
        return f"{chance.choice(('a', 'é', 'x.y+z', '😀'))}{chance.randint(0, 300)}@example.com"
    return f"{word(chance, 30)}{chance.randint(0, 300)}"


def word(chance: random.Random, most: int) -> str:
    """Text of any script, with all that a terminal or a log would misunderstand."""
    return "".join(chance.choice(CHARACTERS) for _ in range(chance.randint(1, min(most, 6))))


CHARACTERS = "aZ0_:{}*\\\"' \t\n\r\0\x07\x1b\x7f\x85[]éñ漢字👩‍💻\u202e\u2028\u200b\ufeff\uffff\U0010ffff"
CONTENTS: tuple[dict[str, Any], ...] = (
    {},
    {"Name": "A"},
    {"Name": "B", "items": [{"title": "Watch", "price": "$10"}, "x", []]},
    {"\x1b[31m": "\x1b]0;title\x07", "\u202e": "\0\n\r"},
    {"{default}": "volley:{other}:intake", "*": "redis.call('FLUSHALL')"},
    {"deep": {"2": {"3": {"4": {"5": {"6": {"7": {"8": "leaf"}}}}}}}},
    {"漢字": "😀" * 50, "k" * 500: "v" * 5000},
)


# --- wrong ones


def mutated(document: Any, chance: random.Random) -> Any:
    """The same with one to three of its parts replaced, renamed, doubled or gone."""
    for _ in range(chance.randint(1, 3)):
        holders = [node for node in nodes(document) if node]
        if not holders:
            return document
        holder = chance.choice(holders)
        if isinstance(holder, list):
            at: Any = chance.randrange(len(holder))
        elif isinstance(holder, dict):
            at = chance.choice(sorted(holder))
        else:
            continue
        match chance.randint(0, 5):
            case 0:
                del holder[at]
            case 1 if isinstance(holder, dict):
                holder[odd_key(chance)] = holder.pop(at)
            case 2 if isinstance(holder, dict):
                holder[odd_key(chance)] = odd_value(chance)
            case 3 if holder is document:
                repeated = Pairs(holder.items()) if isinstance(holder, dict) else Pairs()
                repeated.insert(chance.randint(0, len(repeated)), (str(at), odd_value(chance)))
                return repeated
            case _:
                holder[at] = odd_value(chance)
    return document


def nodes(document: Any) -> list[Any]:
    """Every object and list in a document. Contents are shared, so they are copied before they change."""
    found = [document]
    for node in found:
        if isinstance(node, dict):
            for key, value in node.items():
                if isinstance(value, dict | list):
                    node[key] = value.copy()
                    found.append(node[key])
        elif isinstance(node, list):
            for at, value in enumerate(node):
                if isinstance(value, dict | list):
                    node[at] = value.copy()
                    found.append(node[at])
    return found


def odd_key(chance: random.Random) -> str:
    """A key of the contract, one that is nearly one, or any text."""
    return chance.choice(
        (
            *("to", "d", "email", "identity", "objectId", "content", "ExternalTrigger", "campaign_id"),
            *("campaign_id_list", "send_at", "expires_at", "dedupe_window", "id", "source", "priority"),
            *("", "Email", "__class__", "k" * 300, "\x1b[2J", word(chance, 9)),
        )
    )


def odd_value(chance: random.Random) -> Any:
    """A value that belongs nowhere, or only elsewhere."""
    return chance.choice(
        (
            *(None, True, False, 0, -1, 1, 1.5, -0.0, 2**47, 2**47 + 1, 2**53 + 1, 2**63, 2**64, 10**400),
            *(Token("NaN"), Token("-Infinity"), Token("1e999"), Token("01"), Token("1."), Token("nul")),
            *(Token('"\\ud800"'), Token('"\\udc00\\ud800"'), Token('"\\u0000"'), Token("'x'"), Token("")),
            *("", " ", "0", "007", "1e3", "65", "²", "٣", "a@b", "@", "a@b@c", "a b@c", "\0@\0", "x" * 2000),
            *([], {}, [[]], [{}], [None], [1, "2"], ["a", "a"], {"": ""}, {"a": None}, {"x": {"y": 1}}),
            *(["x" * 1100], ["é" * 600], ["x"] * 30, list(range(1, 130)), {"k": "v" * 70_000}),
            Token("[" * 2000 + "]" * 2000),
            Token('{"a":' * 40 + '"x"' + "}" * 40),
            Pairs([("a", "1"), ("a", "2")]),
            *("2026-13-01T00:00:00Z", "2026-02-03T04:05:06", "99999-01-01T00:00:00Z", 1e300, 1e10, -1e10),
            word(chance, 9),
        )
    )


def damaged(raw: bytes, chance: random.Random) -> bytes:
    """The same with bytes flipped, removed, added, or cut off."""
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(raw))
        match chance.randint(0, 4):
            case 0:
                raw = raw[:at]
            case 1:
                raw = raw[:at] + raw[at + chance.randint(1, 3) :]
            case 2:
                raw = raw[:at] + chance.randbytes(chance.randint(1, 3)) + raw[at:]
            case 3:
                raw = raw[:at] + chance.choice(b'{}[]",:\\0"e-.').to_bytes() + raw[at + 1 :]
            case _:
                raw = raw[:at] + raw[chance.randint(0, len(raw)) :]
    return raw if chance.random() > 0.01 else raw + b" " * MAX_TRIGGER_BYTES


# --- writing


def written(document: Any, chance: random.Random) -> bytes:
    """The document as JSON, with blanks and escapes as the fancy takes it."""
    gap = chance.choice(("", "", " ", "\n\t"))
    ascii_only = chance.random() < 0.3
    return encoded(document, gap, ascii_only=ascii_only).encode(errors="surrogatepass")


def encoded(value: Any, gap: str, *, ascii_only: bool) -> str:
    """JSON text of whatever is asked for."""
    match value:
        case Token():
            return str(value)
        case str():
            return string(value, ascii_only=ascii_only)
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case Pairs():
            pairs: Any = value
        case dict():
            pairs = value.items()
        case list():
            return f"[{gap}" + f",{gap}".join(encoded(v, gap, ascii_only=ascii_only) for v in value) + "]"
        case _:
            return repr(value)
    inner = (
        f"{string(k, ascii_only=ascii_only)}:{gap}{encoded(v, gap, ascii_only=ascii_only)}" for k, v in pairs
    )
    return f"{{{gap}" + f",{gap}".join(inner) + f"{gap}}}"


def string(text: str, *, ascii_only: bool) -> str:
    """A JSON string: what must be escaped is, the rest where it is asked for."""
    parts = []
    for char in text:
        if char in '"\\':
            parts.append(f"\\{char}")
        elif char < " " or (ascii_only and char > "~"):
            units = char.encode("utf-16-be", errors="surrogatepass")
            parts += [f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2)]
        else:
            parts.append(char)
    return f'"{"".join(parts)}"'
