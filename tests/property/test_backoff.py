"""Bounds of the retry times, for every configuration that the loader lets pass."""

import random

from hypothesis import given
from hypothesis import strategies as st

from angarium.config.model import Retry
from angarium.queue.backoff import expires_at, next_attempt_at, retry_delay

durations = st.floats(1e-3, 1e8)
retries = st.builds(
    Retry,
    first_s=durations,
    factor=st.floats(1, 100),
    longest_s=durations,
    expire_s=durations,
    jitter=st.floats(0, 0.5),
)
attempts = st.integers(0, 10**6)
seeds = st.integers(0, 2**32)


class Middle(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


@given(retries, attempts, seeds)
def test_delays_stay_within_their_bounds(retry: Retry, attempt: int, seed: int) -> None:
    delay = retry_delay(retry, attempt, random.Random(seed))
    least, most = min(retry.first_s, retry.longest_s), retry.longest_s
    assert least * (1 - retry.jitter) * 0.999999 <= delay <= most * (1 + retry.jitter) * 1.000001


@given(retries, attempts, attempts)
def test_the_middle_never_shrinks_from_one_attempt_to_a_later(retry: Retry, one: int, other: int) -> None:
    early, late = sorted((one, other))
    middle = Middle(0)
    assert retry_delay(retry, early, middle) <= retry_delay(retry, late, middle) * 1.000001


@given(retries, attempts, seeds, st.floats(0, 1e8))
def test_the_next_attempt_lies_ahead_and_not_behind_the_end(retry: Retry, attempt: int, seed: int, age: float) -> None:
    received = 1.7e9
    now = received + age
    at = next_attempt_at(retry, received, now, attempt, random.Random(seed))
    if at is None:
        assert now >= expires_at(retry, received)
    else:
        assert now <= at <= expires_at(retry, received)
