"""What it costs to count: one call from Python, less an empty one, is what compiled code pays at most.

The loops are in Python, so every figure holds the call itself; `test_a_call` is hardly more than that. Compiled code
calls the same inline functions without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from angarium._core.counters import Dimension, Slab, Slot
from angarium._core.top_k import TopK

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

    from angarium._core.counters import Counters

ROUNDS = 1000
MESSAGE = 12345 << 22


@pytest.fixture
def counters() -> Counters:
    slab = Slab.create(4)
    slab.assign(Dimension.DIMENSION_TENANT, [f"tenant-{i}" for i in range(200)])
    slab.assign(Dimension.DIMENSION_PROVIDER, [f"provider-{i}" for i in range(50)])
    return slab.region(1)


def timed(benchmark: BenchmarkFixture, call: Callable[[], object]) -> None:
    """Of so many calls; divide by ROUNDS."""

    def many() -> None:
        for _ in range(ROUNDS):
            call()

    benchmark(many)


def test_a_call(benchmark: BenchmarkFixture, counters: Counters) -> None:
    timed(benchmark, lambda: counters.value(Slot.INGRESS_OCTETS))


def test_a_counter(benchmark: BenchmarkFixture, counters: Counters) -> None:
    timed(benchmark, lambda: counters.add(Slot.INGRESS_OCTETS, 1))


def test_a_histogram(benchmark: BenchmarkFixture, counters: Counters) -> None:
    timed(benchmark, lambda: counters.observe(Slot.QUEUE_SYNC_LATENCY, 1500))


def test_a_histogram_with_an_exemplar(benchmark: BenchmarkFixture, counters: Counters) -> None:
    timed(benchmark, lambda: counters.observe_message(Slot.DELIVERY_LATENCY_FSYNC, 1500, MESSAGE))


def test_the_row_of_a_tenant(benchmark: BenchmarkFixture, counters: Counters) -> None:
    timed(benchmark, lambda: counters.row(Dimension.DIMENSION_TENANT, b"tenant-150"))


@pytest.mark.parametrize("names", [100, 100_000])
def test_the_sketch(benchmark: BenchmarkFixture, names: int) -> None:
    sketch = TopK()
    domains = [b"d%d.example" % (i * 7919 % names) for i in range(ROUNDS)]

    def many() -> None:
        for domain in domains:
            sketch.add(domain)

    benchmark(many)
