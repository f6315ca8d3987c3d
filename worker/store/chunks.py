"""Chunks on their way in: what the accept script takes, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from worker.store.batches import Filed, Section, Unreadable, Windows
from worker.store.cells import dedupe_digest, index_hash, pack_row
from worker.store.intake import CONSUMERS
from worker.store.scripts import Running


@dataclass(frozen=True, slots=True)
class PackedChunk:
    """The arguments of accept.lua, which says what they are."""

    arguments: Sequence[object] = field(repr=False)


class Filing:
    """A chunk that the server is accepting. Its outcome is taken once, or it is dropped."""

    def __init__(self, running: Running) -> None:
        self._running = running

    def filed(self) -> Filed:
        """Waits for it. Errors: redis.exceptions.RedisError; it has happened whole or not at all."""
        return Filed(*self._running.result()[:4])

    def drop(self) -> None:
        """Does not wait: it may happen or not, and whoever accepts the same once more finds out."""
        self._running.drop()


def pack_chunk(
    sections: Sequence[Section],
    unreadable: Sequence[Unreadable],
    permits: int,
    windows: Windows,
    retention_ms: int,
) -> PackedChunk:
    """A chunk as the accept script takes it. ``permits``: how many the account has."""
    args: list[object] = [CONSUMERS, retention_ms, permits, len(unreadable)]
    for dead in unreadable:
        args += (dead.entry, dead.reason, dead.where, dead.trigger)
    groups: dict[tuple[str, str], int] = {}
    contents: list[object] = []
    parts: list[object] = []
    for section in sections:
        trigger = section.trigger
        name = (trigger.priority[0], trigger.digest)
        group = groups.get(name)
        if group is None:
            group = groups[name] = len(groups) + 1
            contents += (*name, trigger.content)
        window = windows.of(trigger.dedupe_key, trigger.dedupe_window_seconds)
        wanted = trigger.campaigns
        campaigns = str(wanted[0]) if len(wanted) == 1 else ",".join(map(str, wanted))
        index = index_hash("t", section.entry)
        if trigger.id is not None:
            index += index_hash("p", trigger.id)
        parts += (
            section.entry,
            f"{section.piece} {int(section.final)} {group} {trigger.send_at_ms or 0} "
            f"{trigger.expires_at_ms or 0} {window * 1000} {campaigns}",
            index,
            len(section.recipients),
        )
        for recipient in section.recipients:
            found_by = index_hash(recipient.kind[0], recipient.value)
            parts.append(found_by + pack_row(trigger, section.entry, recipient))
            digests = b""
            if window:
                for campaign in wanted:
                    digests += dedupe_digest(campaign, recipient, trigger.dedupe_key, trigger.digest)
            parts.append(digests)
    return PackedChunk((*args, len(groups), *contents, len(sections), *parts))
