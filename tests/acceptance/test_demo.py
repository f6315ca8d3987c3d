"""`volley demo`: it succeeds, leaves nothing behind, and would notice if the books did not agree."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from worker.clevertap.sandbox import AcceptedPair, Totals, Verdict
from worker.cli.demo_books import Finding, compare
from worker.core.model import Kind, Reason, Recipient, Status
from worker.store.cells import Row
from worker.store.outcomes import Outcome

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


def descendants(pid: int) -> set[int]:
    """The processes that this one started, and theirs."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has just ended
                continue
    found, fresh = set[int](), {pid}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh}
        found |= fresh
    return found


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}


def start(processes: Any, folder: Path, *options: str) -> Any:
    environ = {
        "TMPDIR": str(folder),
        "VOLLEY_NO_SUCH_SETTING": "1",
        "VOLLEY_REDIS_URL": "redis://127.0.0.1:1",
    }
    return processes.python("-m", "worker", "demo", *options, environ=environ)


def test_outcomes_and_ledger_agree_and_nothing_is_left_behind(processes: Any, tmp_path: Path) -> None:
    demo = start(processes, tmp_path, "--quick")
    assert demo.wait(110) == 0
    assert "Outcomes and ledger agree exactly." in demo.output
    assert "WRONG" not in demo.output
    assert list(tmp_path.iterdir()) == []


@linux_only
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_end_it_ends_everything_that_it_started(
    processes: Any, eventually: Any, tmp_path: Path, number: signal.Signals
) -> None:
    demo = start(processes, tmp_path)
    eventually(lambda: "accepted" in demo.output, 60)
    started = descendants(demo.pid)
    assert len(started) >= 3  # a server, a worker, beat
    demo.send(number)
    assert demo.wait() != 0
    assert alive(started) == set()
    assert list(tmp_path.iterdir()) == []
    assert "Traceback" not in demo.output


@linux_only
def test_killed_it_takes_everything_with_it(processes: Any, eventually: Any, tmp_path: Path) -> None:
    demo = start(processes, tmp_path)
    eventually(lambda: "accepted" in demo.output, 60)
    started = descendants(demo.pid)
    assert len(started) >= 3
    os.kill(demo.pid, signal.SIGKILL)
    demo.wait()
    eventually(lambda: not alive(started))


# --- the comparison itself: each disagreement is found


def outcome(number: int, who: str, status: Status, *, duplicate_of: int | None = None) -> Outcome:
    recipient = Recipient(Kind.EMAIL, who)
    return Outcome(
        delivery=number,
        status=status,
        reason=Reason.NONE,
        campaign=65,
        recipient=recipient,
        trigger="1-0",
        producer_id=None,
        priority=None,
        attempts=1,
        http=200,
        batch=None,
        duplicate_of=duplicate_of,
        first_ms=0,
        updated_ms=0,
        expires_at_ms=None,
        source=None,
        text="",
        row=Row(1, recipient, "1-0"),
        digest="ours",
    )


OUTCOMES = [
    outcome(0, "a", Status.ACCEPTED),
    outcome(1, "b", Status.UNKNOWN),
    outcome(2, "c", Status.UNKNOWN),
    outcome(3, "a", Status.DUPLICATE, duplicate_of=0),
]
PAIRS = [AcceptedPair("x", "65", "email", who, ("theirs",)) for who in "ab"]
TOTALS = Totals(
    requests=3, verdicts={Verdict.ACCEPTED: 2}, accepted=2, pairs=2, duplicates=0, max_in_flight={"x": 3}
)
EXPECTED = Counter({(65, Status.ACCEPTED): 1, (65, Status.UNKNOWN): 2, (65, Status.DUPLICATE): 1})


def compared(
    outcomes: list[Outcome] = OUTCOMES,
    pairs: list[AcceptedPair] = PAIRS,
    totals: Totals = TOTALS,
    dead_letters: tuple[int, int] = (0, 0),
) -> list[Finding]:
    return compare(
        outcomes,
        pairs,
        totals,
        digests={"ours": "theirs"},
        expected=EXPECTED,
        permits=3,
        dead_letters=dead_letters,
    )


def test_books_that_agree_are_found_to_agree() -> None:
    assert all(finding.holds for finding in compared())


@pytest.mark.parametrize(
    "wrong",
    [
        {"pairs": PAIRS[1:]},  # accepted, but not in the ledger
        {"pairs": [dataclasses.replace(PAIRS[0], contents=("theirs", "theirs")), PAIRS[1]]},  # sent twice
        {"pairs": [dataclasses.replace(PAIRS[0], contents=("other",)), PAIRS[1]]},  # another content
        {"pairs": [dataclasses.replace(PAIRS[0], campaign="66"), PAIRS[1]]},  # another campaign
        {"pairs": [*PAIRS, dataclasses.replace(PAIRS[0], recipient="z")]},  # nobody enqueued it
        {"pairs": [PAIRS[0], dataclasses.replace(PAIRS[1], contents=("theirs", "theirs"))]},  # unknown, twice
        {"outcomes": OUTCOMES[1:]},  # lost
        {"outcomes": [*OUTCOMES, outcome(4, "d", Status.REJECTED)]},
        {"outcomes": [OUTCOMES[0], outcome(1, "b", Status.REJECTED), *OUTCOMES[2:]]},  # rejected, but sent
        {"outcomes": [*OUTCOMES[:3], outcome(3, "b", Status.DUPLICATE, duplicate_of=0)]},  # of another person
        {"outcomes": [*OUTCOMES[:3], outcome(3, "a", Status.DUPLICATE, duplicate_of=9)]},  # of nothing
        {"totals": dataclasses.replace(TOTALS, duplicates=1)},
        {"totals": dataclasses.replace(TOTALS, max_in_flight={"x": 4})},
        {"totals": dataclasses.replace(TOTALS, verdicts={Verdict.ACCEPTED: 2, Verdict.OVER_LIMIT: 1})},
        {"dead_letters": (0, 1)},
    ],
)
def test_any_disagreement_is_found(wrong: dict[str, Any]) -> None:
    assert not all(finding.holds for finding in compared(**wrong))
