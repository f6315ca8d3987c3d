"""The concurrency ceiling, counted per account."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from worker.clevertap.sandbox.gate import Gate


def test_requests_up_to_the_ceiling_are_admitted_and_no_more() -> None:
    gate = Gate()
    with ExitStack() as held:
        entries = [held.enter_context(gate.enter("acc-1", ceiling=3)) for _ in range(5)]
        assert [entry.admitted for entry in entries] == [True, True, True, False, False]
        assert [entry.open for entry in entries] == [1, 2, 3, 4, 5]
        assert gate.in_flight() == {"acc-1": 5}
    assert gate.in_flight() == {}


def test_a_request_over_the_ceiling_takes_no_place() -> None:
    gate = Gate()
    with gate.enter("acc-1", ceiling=1):
        with gate.enter("acc-1", ceiling=1) as over:
            assert not over.admitted
        with gate.enter("acc-1", ceiling=2) as second:
            assert second.admitted


def test_each_account_has_its_own_places() -> None:
    gate = Gate()
    with gate.enter("acc-1", ceiling=1), gate.enter("acc-2", ceiling=1) as other:
        assert other.admitted


def test_a_place_is_freed_when_its_request_fails() -> None:
    gate = Gate()
    with pytest.raises(ConnectionError), gate.enter("acc-1", ceiling=1):
        raise ConnectionError
    with gate.enter("acc-1", ceiling=1) as entry:
        assert entry.admitted
