"""A worker with one slot: who waits for a pace does not keep the others from it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.acceptance.conftest import Stack

PACED, OTHER = "65", "66"
#: Calls a second of the paced campaign, which makes it a clock: the more of them, the longer others waited.
PACE = 10


def test_urgent_work_of_another_campaign_is_sent_between_two_waits_for_a_pace(
    stack: Stack, tmp_path: Path
) -> None:
    toml = tmp_path / "volley.toml"
    toml.write_text(f"[campaigns.{PACED}]\nrecipients_per_hour = {PACE * 3600}\n")
    stack.environ |= {"VOLLEY_CONFIG": str(toml), "VOLLEY_CONCURRENCY": "1"}
    # Of a content of their own each, so that they wait for no company.
    contents = ({"Name": f"{n}"} for n in range(1100))
    stack.append(stack.trigger("p@example.com", campaign=PACED, ExternalTrigger=each) for each in contents)
    stack.worker()
    stack.beat()
    # What a minute may bring goes at once.
    stack.await_requests(60 * PACE + 5)
    requests = stack.sandbox.ledger.totals().requests
    for n in range(4):
        urgent = f"urgent-{n}@example.com"
        stack.append([stack.trigger(urgent, priority="urgent", campaign=OTHER)])
        stack.eventually(partial(stack.sandbox.ledger.times_accepted, OTHER, urgent), 60)
    # If the slot was kept for ten seconds, each would have waited for about a hundred.
    assert stack.sandbox.ledger.totals().requests - requests < 4 * 3 * PACE
