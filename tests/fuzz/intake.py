"""Hostile entries through the real intake, the real server and real calls; then the books are compared.

`make fuzz` (`python -m tests.fuzz.intake --count 100000 --seed 1`) is the long form; `make test` runs a short
one. It fails when an entry is neither a dead letter nor deliveries, or is both; when the worker itself failed
on one; when anything was sent that no accepted entry asks for, or was recorded otherwise than it was sent.
"""

from __future__ import annotations

import argparse
import logging
import random
import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config.settings import load
from tests.fuzz import hostile, oracle
from worker.clevertap.client import Client
from worker.clevertap.sandbox import Sandbox
from worker.cli.progress import bar
from worker.core.model import Status
from worker.engine import Engine
from worker.store import Store, open_store
from worker.store.connection import connect
from worker.store.embedded import EmbeddedServer
from worker.store.outcomes import Filter

#: Entries that are appended before a worker gets to them.
ROUND = 1000
#: How a delivery of a fuzzed trigger may stand at the end: nothing here is slow, and no one is refused.
ENDS = frozenset({Status.ACCEPTED, Status.DUPLICATE, Status.EXPIRED, Status.SCHEDULED})


@dataclass
class Report:
    """What became of the entries."""

    entries: int = 0
    dead_letters: int = 0
    accepted: int = 0
    statuses: Counter[Status] = field(default_factory=Counter)
    calls: int = 0
    faults: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people."""
        states = ", ".join(f"{count:,} {status.value}" for status, count in self.statuses.most_common())
        return [
            f"{self.entries:,} entries = {self.dead_letters:,} dead letters "
            f"+ {self.accepted:,} triggers accepted",
            f"{self.statuses.total():,} deliveries ({states}) in {self.calls:,} calls",
            *self.faults[:20],
            f"{len(self.faults)} faults",
        ]


class Fuzz:
    """One account on a server that holds nothing else."""

    def __init__(self, redis_url: str, sandbox: Sandbox, seed: int) -> None:
        settings = load(
            {
                "VOLLEY_REDIS_URL": redis_url,
                "VOLLEY_BASE_URL": sandbox.url,
                "VOLLEY_ACCOUNT_ID": "account",
                "VOLLEY_PASSCODE": "passcode-1",
                "VOLLEY_TOKEN": "token-1",
                "VOLLEY_MAX_TRIGGER_BYTES": str(hostile.MAX_TRIGGER_BYTES),
            }
        )
        self._raw: Any = connect(redis_url)
        self._store: Store = open_store(settings, "default")
        self._client = Client(connections=1)
        self._engine = Engine(settings, settings.account(), self._store, self._client)
        self._sandbox = sandbox
        self._chance = random.Random(seed)
        self._entries: dict[str, hostile.Entry] = {}

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()
        self._store.close()
        self._raw.close()

    def round(self, count: int) -> None:
        """Appends so many entries, and does what a worker does until the intake is empty."""
        entries = [hostile.entry(self._chance) for _ in range(count)]
        pipe = self._raw.pipeline(transaction=False)
        for entry in entries:
            pipe.execute_command(
                "XADD", self._store.intake.stream, "*", *(part for pair in entry.fields for part in pair)
            )
        self._entries |= zip([id_.decode() for id_ in pipe.execute()], entries, strict=True)
        for _ in range(count):
            self._engine.wait_and_accept(0.001, lambda: False)
            if not self._store.status().intake:
                break
        self._engine.sweep()
        self._engine.deliver(3600, lambda: False)

    def report(self) -> Report:
        """Compares what was appended with the dead letters, the outcomes and the ledger."""
        report = Report(entries=len(self._entries), calls=self._sandbox.ledger.totals().requests)
        dead = self._dead(report)
        sent: Counter[oracle.Pair] = Counter()
        became: dict[str, Counter[oracle.Pair]] = {}
        for outcome in self._store.outcomes.select(Filter()):
            report.statuses[outcome.status] += 1
            pair = (str(outcome.campaign), outcome.recipient.kind.value, outcome.recipient.value)
            became.setdefault(outcome.trigger, Counter())[pair] += 1
            if outcome.status is Status.ACCEPTED:
                sent[pair] += 1
            elif outcome.status not in ENDS:
                report.faults.append(f"delivery {outcome.delivery} is {outcome.status}: {outcome.text}")
        report.dead_letters, report.accepted = len(dead), len(became)
        self._compare_entries(report, dead, became)
        self._compare_ledger(report, sent, became)
        foreign = [key for key in self._raw.scan_iter("*") if not key.startswith(b"volley:{default}:")]
        report.faults += [f"the key {key!r} is not the account's" for key in foreign]
        left = self._store.status()
        if left.intake or left.permits_held:
            report.faults.append(f"{left.intake} entries and {left.permits_held} permits are left over")
        return report

    def _dead(self, report: Report) -> set[str]:
        dead: set[str] = set()
        start = "-"
        while page := list(self._store.intake.dead_letters(start, 1000)):
            for letter in page:
                if letter.entry in dead:
                    report.faults.append(f"{letter.entry} is a dead letter twice")
                dead.add(letter.entry)
                if "worker" in letter.reason:
                    report.faults.append(f"{letter.entry}: {letter.reason}")
                if letter.trigger != (self._entries[letter.entry].trigger or b""):
                    report.faults.append(f"{letter.entry} is not kept as it was")
            start = f"({page[-1].id}"
        return dead

    def _compare_entries(
        self, report: Report, dead: set[str], became: dict[str, Counter[oracle.Pair]]
    ) -> None:
        for id_, entry in self._entries.items():
            if (id_ in dead) == (id_ in became):
                report.faults.append(f"{id_} is {'both' if id_ in dead else 'lost'}: {entry.fields!r:.200}")
            elif id_ in dead and entry.right:
                report.faults.append(f"{id_} is right and a dead letter: {entry.fields!r:.200}")
            elif id_ in became and became[id_] != oracle.deliveries(entry.trigger or b""):
                report.faults.append(f"{id_} became other deliveries than it names: {entry.fields!r:.200}")

    def _compare_ledger(
        self, report: Report, sent: Counter[oracle.Pair], became: dict[str, Counter[oracle.Pair]]
    ) -> None:
        ledger = Counter(
            {(pair.campaign, pair.kind, pair.recipient): pair.count for pair in self._sandbox.ledger.pairs()}
        )
        if ledger != sent:
            report.faults.append(
                f"sent and recorded differ in {len((ledger - sent) + (sent - ledger))} pairs"
            )
        asked = {each for id_ in became for each in oracle.contents(self._entries[id_].trigger or b"")}
        for request in self._sandbox.ledger.requests():
            content = oracle.canonical(request.json["ExternalTrigger"])  # type: ignore[index]
            for kind, values in request.recipients.items():
                for pair in ((campaign, kind, value) for campaign in request.campaigns for value in values):
                    if (pair, content) not in asked:
                        report.faults.append(f"nobody asked for {pair} with {content:.80}")


def fuzz(redis_url: str, sandbox: Sandbox, *, count: int, seed: int) -> Report:
    """So many entries on an empty server."""
    run = Fuzz(redis_url, sandbox, seed)
    try:
        with bar("fuzzing", count) as advance:
            for first in range(0, count, ROUND):
                size = min(ROUND, count - first)
                run.round(size)
                advance(size)
        return run.report()
    finally:
        run.close()


def _count(text: str) -> int:
    count = int(text) if re.fullmatch(r"[0-9]{1,12}", text, re.ASCII) else 0
    if not count:
        raise argparse.ArgumentTypeError(f"{text!a} is no number of entries: 1 or more.")
    return count


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--count", type=_count, default=100_000, help="entries (default 100000)")
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers (default 1)")
    given = parser.parse_args()
    logging.getLogger("volley").setLevel(logging.ERROR)  # each dead letter is a warning
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedServer(Path(folder), append_only=False, ends_with_parent=True) as server,
        Sandbox() as sandbox,
    ):
        report = fuzz(server.url, sandbox, count=given.count, seed=given.seed)
    sys.stdout.write("\n".join([*report.lines(), f"{time.monotonic() - began:.0f} s, seed {given.seed}\n"]))
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
