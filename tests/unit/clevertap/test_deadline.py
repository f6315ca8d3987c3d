"""What is left of a deadline, with a clock that the test turns."""

from __future__ import annotations

import httpcore
import pytest

from worker.clevertap.deadline import Deadline


class Clock:
    """Monotonic seconds that stand still until they are set."""

    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_an_operation_gets_what_is_left_and_at_most_its_own_timeout() -> None:
    clock = Clock()
    deadline = Deadline(clock)
    with deadline.within(30.0):
        assert deadline.left(None, httpcore.ReadTimeout) == 30.0
        assert deadline.left(5.0, httpcore.ConnectTimeout) == 5.0
        clock.seconds += 28.0
        assert deadline.left(5.0, httpcore.ReadTimeout) == 2.0


@pytest.mark.parametrize("late", [0.0, 1.0])
def test_no_operation_starts_when_nothing_is_left(late: float) -> None:
    clock = Clock()
    deadline = Deadline(clock)
    with deadline.within(30.0):
        clock.seconds += 30.0 + late
        with pytest.raises(httpcore.WriteTimeout):
            deadline.left(None, httpcore.WriteTimeout)


def test_a_new_request_has_a_new_deadline() -> None:
    clock = Clock()
    deadline = Deadline(clock)
    for _ in range(2):
        with deadline.within(30.0):
            assert deadline.left(None, httpcore.ReadTimeout) == 30.0
        clock.seconds += 60.0
