"""Retry times, RFC 5321 §4.5.4.1."""

import random
from typing import cast

import pytest

from angarium.config.model import Retry
from angarium.queue.backoff import expires_at, next_attempt_at, retry_delay, warns_at

STEADY = Retry(first_s=60, factor=2, longest_s=1000, expire_s=5000, warn_after_s=2000, jitter=0)


@pytest.mark.parametrize(
    ("attempts", "seconds"), [(0, 60), (1, 60), (2, 120), (3, 240), (4, 480), (5, 960), (6, 1000), (10**9, 1000)]
)
def test_intervals_grow_up_to_the_longest(attempts: int, seconds: float) -> None:
    assert retry_delay(STEADY, attempts, random.Random(1)) == seconds


def test_a_first_interval_over_the_longest_is_cut() -> None:
    assert retry_delay(Retry(first_s=900, longest_s=600, jitter=0), 1, random.Random(1)) == 600


def test_a_factor_of_one_keeps_the_interval() -> None:
    assert retry_delay(Retry(first_s=90, factor=1, jitter=0), 50, random.Random(1)) == 90


class Extreme(random.Random):
    """Randomness that is always at one end."""

    def __init__(self, end: int) -> None:
        super().__init__(0)
        self.end = end

    def uniform(self, a: float, b: float) -> float:
        return (a, b)[self.end]


@pytest.mark.parametrize(("end", "seconds"), [(0, 108), (1, 132)])
def test_jitter_makes_an_interval_shorter_or_longer(end: int, seconds: float) -> None:
    retry = Retry(first_s=60, factor=2, jitter=0.1)
    assert retry_delay(retry, 2, Extreme(end)) == pytest.approx(seconds)


def test_mail_deferred_together_does_not_come_back_together() -> None:
    source = random.Random(7)
    delays = {retry_delay(Retry(first_s=60, jitter=0.1), 1, source) for _ in range(100)}
    assert len(delays) > 90
    assert max(delays) - min(delays) > 8


def test_a_message_has_its_last_attempt_when_it_expires() -> None:
    received = 1e9
    now, attempts, times = received, 0, cast("list[float]", [])
    while True:
        attempts += 1
        at = next_attempt_at(STEADY, received, now, attempts, random.Random(1))
        if at is None:
            break
        now = at
        times.append(at - received)
    assert times == [60, 180, 420, 900, 1860, 2860, 3860, 4860, 5000]


def test_times_of_expiry_and_warning() -> None:
    assert expires_at(STEADY, 100) == 5100
    assert warns_at(STEADY, 100) == 2100
    assert warns_at(Retry(warn_after_s=0), 100) is None
