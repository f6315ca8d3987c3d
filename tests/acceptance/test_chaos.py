"""The chaos harness in short (`make chaos` runs it for as long as you like)."""

from __future__ import annotations

import json
import os
import random
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Processes


@pytest.mark.timeout(420)
def test_a_short_chaos_loses_nothing_sends_nothing_twice_and_keeps_to_the_limit(processes: Processes) -> None:
    seed = int(os.environ.get("TEST_SEED", "0")) or random.randrange(1, 10**6)
    sys.stdout.write(f"TEST_SEED={seed} repeats the faults of this run\n")
    chaos = processes.python("-m", "tests.chaos", "--minutes", "0.2", "--seed", str(seed), "--json")
    code = chaos.wait(400)
    result = json.loads(chaos.output.splitlines()[-1])
    assert code == 0
    assert result["holds"] is True
    assert (result["lost"], result["doubled"], result["over_limit"], result["unfinished"]) == (0, 0, 0, 0)
    # The run itself: there was something to lose.
    assert result["deliveries"] > 50
    assert result["kills"] + result["restarts"] > 0
