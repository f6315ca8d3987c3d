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
    dead: list[object] = []
    for letter in unreadable:
        dead += (letter.entry, letter.reason, letter.where, letter.trigger)
    groups: dict[tuple[str, str], int] = {}
    contents: list[object] = []
    runs: list[_Run] = []
    digests: set[bytes] = set()
    keys = 0
    for section in sections:
        trigger = section.trigger
        name = (trigger.priority[0], trigger.digest)
        group = groups.get(name)
        if group is None:
            group = groups[name] = len(groups) + 1
            contents += (*name, trigger.content)
        window = windows.of(trigger.dedupe_key, trigger.dedupe_window_seconds)
        wanted = trigger.campaigns
        index = index_hash("t", section.entry)
        if trigger.id is not None:
            index += index_hash("p", trigger.id)
        shape = (
            f"{section.piece} {int(section.final)} {group} {trigger.send_at_ms or 0} "
            f"{trigger.expires_at_ms or 0} {window * 1000} {len(section.recipients)} {len(index)} "
            f"{_csv(wanted)}"
        )
        if not runs or runs[-1].shape != shape:
            runs.append(_Run(shape))
        run = runs[-1]
        run.sections += 1
        run.arguments.append(index + section.entry.encode())
        for recipient in section.recipients:
            own = b""
            if window:
                for campaign in wanted:
                    digest = dedupe_digest(campaign, recipient, trigger.dedupe_key, trigger.digest)
                    digests.add(digest)
                    own += digest
                keys += len(wanted)
            found_by = index_hash(recipient.kind[0], recipient.value)
            run.arguments.append(own + found_by + pack_row(trigger, section.entry, recipient))
    arguments = [CONSUMERS, retention_ms, permits, int(len(digests) == keys), len(unreadable), *dead]
    arguments += (len(groups), *contents, len(runs))
    for run in runs:
        arguments += (run.shape, run.sections, *run.arguments)
    return PackedChunk(arguments)


@dataclass(slots=True)
class _Run:
    """Neighbouring sections of one shape, which accept.lua explains."""

    shape: str
    sections: int = 0
    arguments: list[object] = field(default_factory=list)


def _csv(campaigns: tuple[int, ...]) -> str:
    return str(campaigns[0]) if len(campaigns) == 1 else ",".join(map(str, campaigns))
