"""Shares of a pool's sources: whatever the weights, none is ever a message ahead, and a full turn is exact."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from angarium._core.source_pool import SourcePools

WEIGHTS = st.lists(st.integers(1, 20), min_size=1, max_size=12)


@given(weights=WEIGHTS, turns=st.integers(1, 3))
def test_shares_are_kept(weights: list[int], turns: int) -> None:
    pools = SourcePools()
    pools.change([(b"p", [(b"%d" % number, weight) for number, weight in enumerate(weights)])])
    pool = pools.own[b"p"]
    by_number = {outlet.number: weight for outlet, weight in zip(pool.outlets, weights, strict=True)}
    total = sum(weights)
    counts: Counter[int] = Counter()
    for taken in range(1, turns * total + 1):
        counts[pool.take()] += 1
        assert all(counts[number] - taken * weight / total < 1 for number, weight in by_number.items())
        if taken % total == 0:
            assert counts == {number: weight * taken // total for number, weight in by_number.items()}


@given(weights=WEIGHTS, down=st.sets(st.integers(0, 11)), steps=st.integers(1, 100))
def test_who_is_down_gets_nothing_and_the_others_keep_their_shares(
    weights: list[int], down: set[int], steps: int
) -> None:
    pools = SourcePools()
    pools.change([(b"p", [(b"%d" % number, weight) for number, weight in enumerate(weights)])])
    pool = pools.own[b"p"]
    for number, outlet in enumerate(pool.outlets):
        outlet.down = number in down
    usable = {outlet.number: outlet.weight for outlet in pool.outlets if not outlet.down}
    expected = usable or {outlet.number: outlet.weight for outlet in pool.outlets}
    counts = Counter(pool.take() for _ in range(steps * sum(expected.values())))
    assert counts == {number: weight * steps for number, weight in expected.items()}
