"""The sketch of the largest against a plain count of everything: what it promises holds whatever comes."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from angarium._core.counters import Slab, Top
from angarium._core.top_k import TopK, merged

# few names, so that they come again, and long ones, so that they are cut
NAMES = st.one_of(
    st.integers(0, 40).map(lambda i: b"d%d.example" % i),
    st.binary(max_size=3),
    st.integers(0, 9).map(lambda i: b"x" * 250 + b"%d" % i),
)
STREAMS = st.lists(st.tuples(NAMES, st.integers(0, 100)), max_size=200)
CAPACITIES = st.sampled_from([1, 2, 3, 7, 16, 64])


def counted(stream: list[tuple[bytes, int]]) -> Counter[bytes]:
    """The reference: a counter for each name that there is."""
    counts: Counter[bytes] = Counter()
    for name, weight in stream:
        counts[name] += weight
    return +counts


def sketch_of(stream: list[tuple[bytes, int]], capacity: int) -> TopK:
    sketch = TopK(capacity)
    for name, weight in stream:
        sketch.add(name, weight)
    return sketch


@given(STREAMS, CAPACITIES)
def test_what_the_sketch_promises(stream: list[tuple[bytes, int]], capacity: int) -> None:
    counts = counted(stream)
    total = sum(counts.values())
    found = sketch_of(stream, capacity).items()
    assert [count for _, count, _ in found] == sorted((count for _, count, _ in found), reverse=True)
    assert len({name for name, _, _ in found}) == len(found) == min(capacity, len(counts))
    assert sum(count for _, count, _ in found) == total
    for name, count, error in found:
        assert count - error <= counts[name] <= count
        assert error <= total / capacity
    there = {name for name, _, _ in found}
    assert all(name in there for name, count in counts.items() if count > total / capacity)


@given(STREAMS)
def test_it_is_exact_while_there_is_room(stream: list[tuple[bytes, int]]) -> None:
    found = sketch_of(stream, 256).items()
    assert {name: count for name, count, _ in found} == counted(stream)
    assert not any(error for _, _, error in found)


@given(STREAMS, STREAMS, CAPACITIES)
def test_halves_keep_their_order_and_go_on(
    before: list[tuple[bytes, int]], after: list[tuple[bytes, int]], capacity: int
) -> None:
    sketch = sketch_of(before, capacity)
    halves = {name: (count // 2, error // 2) for name, count, error in sketch.items()}
    sketch.halve()
    assert {name: (count, error) for name, count, error in sketch.items()} == {
        name: kept for name, kept in halves.items() if kept[0]
    }
    for name, weight in after:
        sketch.add(name, weight)
    assert sum(count for _, count, _ in sketch.items()) == sum(count for count, _ in halves.values()) + sum(
        weight for _, weight in after
    )


@given(STREAMS, STREAMS)
def test_workers_taken_together_count_as_one(one: list[tuple[bytes, int]], other: list[tuple[bytes, int]]) -> None:
    both = merged([sketch_of(one, 256).items(), sketch_of(other, 256).items()], 50)
    counts = counted(one + other)
    assert [count for _, count, _ in both] == sorted(counts.values(), reverse=True)[:50]
    assert all(counts[name] == count for name, count, _ in both)


@given(STREAMS)
def test_what_is_published_is_read_by_others(stream: list[tuple[bytes, int]]) -> None:
    slab = Slab.create(2)
    sketch = sketch_of(stream, 128)
    sketch.publish(slab.region(1), Top.TOP_DEFERRED)
    assert slab.top(1, Top.TOP_DEFERRED) == sketch.items()[:64]
    assert slab.top(1, Top.TOP_WAITING) == slab.top(0, Top.TOP_DEFERRED) == []
    sketch.clear()
    sketch.publish(slab.region(1), Top.TOP_DEFERRED)
    assert slab.top(1, Top.TOP_DEFERRED) == []


def test_names_longer_than_a_domain_are_cut() -> None:
    sketch = TopK(4)
    sketch.add(b"y" * 300)
    sketch.add(b"y" * 255)
    assert sketch.items() == [(b"y" * 255, 2, 0)]


@pytest.mark.parametrize("capacity", [0, 4097])
def test_a_sketch_has_a_sensible_size(capacity: int) -> None:
    with pytest.raises(ValueError, match="counters"):
        TopK(capacity)
