"""Clocks: the machine's, and the one that tests turn."""

from __future__ import annotations

import time

import pytest

from angarium.clock import Clock, SystemClock
from tests.support.clock import FakeClock


def test_the_machine_s_clock_tells_both_times() -> None:
    clock: Clock = SystemClock()
    before = time.time(), time.monotonic()
    now, monotonic = clock.now(), clock.monotonic()
    assert before[0] <= now <= time.time()
    assert before[1] <= monotonic <= time.monotonic()


def test_a_fake_clock_moves_only_when_it_is_turned() -> None:
    clock: FakeClock = FakeClock(now=100.0, monotonic=5.0)
    assert (clock.now(), clock.monotonic()) == (clock.now(), clock.monotonic()) == (100.0, 5.0)
    clock.advance(2.5)
    assert (clock.now(), clock.monotonic()) == (102.5, 7.5)
    clock.jump(50.0)
    assert (clock.now(), clock.monotonic()) == (50.0, 7.5)
    with pytest.raises(ValueError, match="never goes back"):
        clock.advance(-1.0)
