"""What stood in the way of mail: shares by cause are exact for what is recent, and always make up the whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from angarium._core.timeline import CAUSE_NAMES, Timeline
from tests.reference.timeline import Timeline as Model

EXACT = 32  # turns that are kept as they were
CLOSE = 0.01  # single precision, of what may be days
steps = st.lists(st.tuples(st.floats(0, 100), st.integers(-1, len(CAUSE_NAMES) - 1)), max_size=EXACT)
many = st.lists(st.tuples(st.floats(0.001, 100), st.integers(0, len(CAUSE_NAMES) - 1)), min_size=1, max_size=300)
parts = st.tuples(st.floats(0, 1), st.floats(0, 1))


def run(steps: list[tuple[float, int]]) -> tuple[Timeline, Model, float]:
    timeline, model, now = Timeline(), Model(), 1000.0
    for seconds, cause in steps:
        now += seconds
        timeline.note(cause, now)
        model.note(cause, now)
    return timeline, model, now


def moments(begin: float, end: float, parts: tuple[float, float]) -> tuple[float, float]:
    first, second = (begin + part * (end - begin) for part in parts)
    return min(first, second), max(first, second)


def named(shares: dict[int, float]) -> dict[str, float]:
    return {CAUSE_NAMES[cause]: seconds for cause, seconds in shares.items()}


def same(left: dict[str, float], right: dict[str, float]) -> bool:
    return all(abs(left.get(cause, 0.0) - right.get(cause, 0.0)) < CLOSE for cause in {*left, *right})


@given(steps, parts, st.floats(0, 50))
def test_what_is_recent_is_told_exactly(steps: list[tuple[float, int]], parts: tuple[float, float], on: float) -> None:
    timeline, model, now = run(steps)
    begin, end = moments(1000.0, now + on, parts)
    assert same(timeline.between(begin, end), named(model.between(begin, end)))
    assert len(timeline) <= EXACT + 1


@given(many, parts, st.floats(0, 50))
def test_the_shares_make_up_the_whole_however_many_turns(
    steps: list[tuple[float, int]], parts: tuple[float, float], on: float
) -> None:
    timeline, model, now = run(steps)
    assert len(timeline) <= EXACT + 1
    first = model.turns[0][0]
    begin, end = moments(first, now + on, parts)
    assert abs(sum(timeline.between(begin, end).values()) - (end - begin)) < CLOSE
    # and what is told of all there was is exact: no cause gets what was another's
    assert same(timeline.between(first, now + on), named(model.between(first, now + on)))
    if len(model.turns) > EXACT // 2:
        recent = model.turns[-EXACT // 2][0]
        assert same(timeline.between(recent, now + on), named(model.between(recent, now + on)))


def test_the_order_of_causes_is_that_of_the_metric() -> None:
    from angarium._core.counters import Slot
    from angarium.mail.event_schema import CAUSES
    from angarium.outcome.metrics import METRICS

    (metric,) = [metric for metric in METRICS if metric.name.endswith("queue_waited_seconds_total")]
    (label,) = metric.labels
    slots = {name: slot - Slot.QUEUE_WAITED_HELD for name, slot in zip(label.values, metric.slots, strict=True)}
    assert slots == {name: number for number, name in enumerate(CAUSE_NAMES) if name != "restart"}
    assert set(CAUSES) < set(CAUSE_NAMES)
