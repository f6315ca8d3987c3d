"""What is known about an account's door: parked things, permits in use, recipients that were refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from worker.core.door import (
    PARKED_PAUSES_MS,
    TROUBLE_AFTER,
    TROUBLE_PAUSES_MS,
    Fine,
    Lesson,
    Nothing,
    Parked,
    Throttled,
    Trouble,
)
from worker.core.model import REASONS, Kind, Reason, Recipient
from worker.store import keys
from worker.store.connection import RedisClient
from worker.store.scripts import Scripts

_KINDS = {kind.value[0]: kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class ParkedThing:
    """An account (``*``) or a campaign that is not called until a probe or an operator frees it.

    Times are epoch ms.
    """

    name: str
    reason: Reason
    http: int
    text: str
    since_ms: int
    next_probe_ms: int
    tries: int


class Door:
    """The door of one account. Errors: redis.exceptions.RedisError."""

    def __init__(self, client: RedisClient, scripts: Scripts, account: str) -> None:
        self._client = client
        self._scripts = scripts
        self._root = keys.root(account)

    def report(
        self,
        lesson: Lesson,
        *,
        permits: int,
        began_ms: int,
        probe: str = "",
        http: int = 0,
        text: str = "",
        drop: bool = False,
    ) -> list[str]:
        """Records what a call that began then has taught; the names (``*`` or campaigns) that it parks.

        A name that was parked already is given again when somebody else has to mend it now.
        ``drop``: deliveries of the campaigns that are parked here end rejected without a call.
        """
        kind, names, reason, hold = "fine", "", Reason.NONE, 0
        pauses: tuple[int, ...] = PARKED_PAUSES_MS
        match lesson:
            case Nothing():
                kind = "nothing"
            case Fine(campaigns=campaigns):
                names = ",".join(map(str, sorted(campaigns)))
            case Throttled(hold_ms=hold_ms):
                kind, hold, reason = "throttled", hold_ms, Reason.THROTTLED
            case Trouble(reason=why):
                kind, names, reason, pauses = "trouble", "*", why, TROUBLE_PAUSES_MS
            case Parked(reason=why, campaigns=parked):
                kind, reason = "parked", why
                names = "*" if parked is None else ",".join(map(str, sorted(parked)))
        answer = self._scripts.run(
            "report",
            [self._root],
            permits,
            began_ms,
            probe,
            kind,
            names,
            int(reason),
            http,
            text,
            ",".join(map(str, pauses)),
            TROUBLE_AFTER,
            hold,
            "1" if drop else "",
        )
        return [name for name in answer.decode().split(",") if name]

    def parked(self) -> list[ParkedThing]:
        """What is parked now."""
        return read_parked(self._client.hgetall(f"{self._root}parked"))

    def unpark(self, name: str) -> bool:
        """Frees a campaign (its number) or the account (``*``, throttled or not); whether it was parked."""
        if name == "*":
            self._client.hdel(f"{self._root}door", "hold", "streak", "failures")
        self._client.hdel(f"{self._root}probes", name)
        return bool(self._client.hdel(f"{self._root}parked", name))

    def remember_bad(self, recipients: Iterable[Recipient], window_ms: int) -> None:
        """Remembers recipients that CleverTap called invalid, for that long."""
        members = [_member(r) for r in recipients]
        if members:
            self._scripts.run("bad", [self._root], window_ms, *members)

    def bad_recipients(self) -> dict[Recipient, int]:
        """The recipients known as bad, and until when (epoch ms)."""
        seconds, micros = self._client.time()
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        found = self._client.zrangebyscore(f"{self._root}bad", f"({now_ms}", "+inf", withscores=True)
        return {_recipient(member): int(until) for member, until in found}

    def forget_bad(self, recipient: Recipient) -> bool:
        """Removes one from the recipients known as bad; whether it was among them."""
        return bool(self._scripts.run("bad", [self._root], 0, _member(recipient)))


def read_parked(fields: dict[bytes, bytes]) -> list[ParkedThing]:
    """The hash ``parked`` as values, the account first."""
    found = []
    for name, value in sorted(fields.items()):
        data = orjson.loads(value)
        found.append(
            ParkedThing(
                name=name.decode(),
                reason=REASONS.get(data["reason"], Reason.NONE),
                http=data["http"],
                text=data["text"],
                since_ms=data["since"],
                next_probe_ms=data["until"],
                tries=data["tries"],
            )
        )
    return found


def _member(recipient: Recipient) -> str:
    return recipient.kind.value[0] + recipient.value


def _recipient(member: bytes) -> Recipient:
    text = member.decode()
    return Recipient(_KINDS[text[0]], text[1:])
