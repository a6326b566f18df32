"""The node's memory budget: one for all processes, entered at once, left with some room, and seen in the metrics."""

from __future__ import annotations

import gc

import pytest

from angarium._core.counters import Counters, Slab, Slot
from angarium._core.memory_budget import MemoryBudget, MemoryState
from angarium._core.record import MailBuffer, memory_octets

MIB = 1 << 20
STATES = (
    Slot.QUEUE_MEMORY_STATE_BELOW,
    Slot.QUEUE_MEMORY_STATE_SOFT,
    Slot.QUEUE_MEMORY_STATE_HARD,
    Slot.QUEUE_MEMORY_STATE_REFUSING,
)
ENTERED = (Slot.QUEUE_MEMORY_ENTERED_SOFT, Slot.QUEUE_MEMORY_ENTERED_HARD, Slot.QUEUE_MEMORY_ENTERED_REFUSING)


def regions(count: int) -> list[Counters]:
    slab = Slab.create(count)
    found = [slab.region(i) for i in range(count)]
    slab.close()
    return found


def hold(octets: int) -> MailBuffer:
    """So much memory behind mail data, and nearly nothing more."""
    return MailBuffer(octets)


@pytest.fixture(autouse=True)
def nothing_held() -> None:
    gc.collect()
    assert memory_octets() < MIB // 4, "an earlier test left mail data"


def test_the_state_follows_the_marks_up_and_down_with_some_room() -> None:
    (counters,) = regions(1)
    budget = MemoryBudget(counters, 100 * MIB, soft=0.5, hard=0.8)
    seen = []
    held: MailBuffer | None = None
    for octets in (40, 51, 46, 44, 81, 75, 71, 101, 91, 89, 30):
        held = None
        held = hold(octets * MIB)
        seen.append((octets, budget.refresh()))
    del held
    below, soft, hard, refusing = (MemoryState(i) for i in range(4))
    assert seen == [
        (40, below),
        (51, soft),
        (46, soft),  # not less than nine tenths of the mark
        (44, below),
        (81, hard),
        (75, hard),
        (71, soft),
        (101, refusing),
        (91, refusing),
        (89, hard),
        (30, below),
    ]
    # each way up counts every mark it passes: 51; 81 (both); 101 (hard, budget)
    assert [counters.value(slot) for slot in ENTERED] == [2, 2, 1]
    assert [counters.value(slot) for slot in STATES] == [1, 0, 0, 0]


def test_all_processes_share_the_budget() -> None:
    first, second = regions(2)
    budgets = [MemoryBudget(counters, 100 * MIB) for counters in (first, second)]
    # what the other process holds stands in its region of the slab
    second.set(Slot.QUEUE_MEMORY_OCTETS, 60 * MIB)
    assert budgets[0].refresh() == MemoryState.MEMORY_SOFT
    assert budgets[0].elsewhere_octets == 60 * MIB
    assert budgets[0].soft_left_octets == 0
    assert budgets[0].load_left_octets == (67 * MIB + MIB // 2) - 60 * MIB
    held = hold(50 * MIB)
    assert budgets[0].refresh() == MemoryState.MEMORY_REFUSING
    assert first.value(Slot.QUEUE_MEMORY_OCTETS) == memory_octets()
    del held
    second.set(Slot.QUEUE_MEMORY_OCTETS, 10 * MIB)
    assert budgets[0].refresh() == MemoryState.MEMORY_BELOW
    assert budgets[0].soft_left_octets == 40 * MIB


def test_what_one_process_saw_is_the_state_of_all_until_all_have_left_it() -> None:
    budgets = [MemoryBudget(counters, 100 * MIB) for counters in regions(2)]
    refusing, hard = MemoryState.MEMORY_REFUSING, MemoryState.MEMORY_HARD
    held = hold(101 * MIB)
    assert budgets[0].refresh() == refusing
    del held
    # the other one looks when there is room again, but not yet nine tenths of the budget
    held = hold(95 * MIB)
    budgets[1].counters.set(Slot.QUEUE_MEMORY_OCTETS, 0)
    budgets[0].counters.set(Slot.QUEUE_MEMORY_OCTETS, 0)
    assert budgets[1].refresh() == refusing
    del held
    held = hold(89 * MIB)
    budgets[1].counters.set(Slot.QUEUE_MEMORY_OCTETS, 0)
    assert budgets[0].refresh() == hard
    budgets[0].counters.set(Slot.QUEUE_MEMORY_OCTETS, 0)
    assert budgets[1].refresh() == hard
    del held


def test_a_process_that_died_holds_nothing() -> None:
    first, second = regions(2)
    second.set(Slot.QUEUE_MEMORY_OCTETS, 200 * MIB)
    budget = MemoryBudget(first, 100 * MIB)
    assert budget.state == MemoryState.MEMORY_REFUSING
    second.reset_gauges()
    assert budget.refresh() == MemoryState.MEMORY_BELOW


def test_the_marks_are_exported_once() -> None:
    counters = regions(3)
    for one in counters:
        MemoryBudget(one, 100 * MIB, soft=0.25, hard=0.75)
    marks = (Slot.QUEUE_MEMORY_MARK_SOFT, Slot.QUEUE_MEMORY_MARK_HARD, Slot.QUEUE_MEMORY_MARK_BUDGET)
    assert [counters[0].node_total(slot) for slot in marks] == [25 * MIB, 75 * MIB, 100 * MIB]
    assert counters[0].node_total(Slot.QUEUE_MEMORY_STATE_BELOW) == 3


def test_a_budget_of_another_size() -> None:
    (counters,) = regions(1)
    budget = MemoryBudget(counters)
    assert (budget.octets, budget.refresh()) == (1 << 62, MemoryState.MEMORY_BELOW)
    budget.resize(100 * MIB)
    assert (budget.octets, budget.soft_octets, budget.hard_octets) == (100 * MIB, 50 * MIB, 85 * MIB)
    budget.resize(200 * MIB, soft=0.25, hard=0.75)
    assert (budget.octets, budget.soft_octets, budget.hard_octets) == (200 * MIB, 50 * MIB, 150 * MIB)
    with pytest.raises(ValueError, match="in this order"):
        budget.resize(100 * MIB, soft=0.8)
    assert (budget.soft, budget.hard, budget.octets) == (0.25, 0.75, 200 * MIB)


@pytest.mark.parametrize(("soft", "hard"), [(0.0, 0.5), (0.5, 0.5), (0.9, 0.5), (0.5, 1.1), (float("nan"), 0.5)])
def test_marks_stand_in_order(soft: float, hard: float) -> None:
    with pytest.raises(ValueError, match="in this order"):
        MemoryBudget(regions(1)[0], 100 * MIB, soft=soft, hard=hard)
