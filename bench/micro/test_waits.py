"""What it costs a message that it can say what it has waited for: when it goes at once, and when it waits its turn."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from angarium._core.counters import Slab
from angarium._core.dispatch import Dispatcher, JournalIntake, ReadyQueue
from angarium._core.event_log import EventLog
from angarium._core.journal import Journal
from angarium._core.record import make_accepted, new_message

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

    from angarium._core.dispatch import Delivery

BATCH = 1000


@pytest.mark.parametrize("waits", [False, True], ids=["at_once", "in_turn"])
def test_dispatch(benchmark: BenchmarkFixture, tmp_path: Path, waits: bool) -> None:
    """1,000 messages a round from their acceptance until they are taken; divide by 1,000."""
    counters = Slab.create(1).region(0)
    dispatcher = Dispatcher(counters, EventLog(None, counters))
    journal = Journal(str(tmp_path), 0, 1 << 24, counters, dispatcher)
    dispatcher.journals[0] = journal
    intake = JournalIntake(dispatcher, [journal])
    taken: list[Delivery] = []
    queue = ReadyQueue(
        dispatcher, b"smtp://host:25", b"host", limit=1, connect=len, hand_over=None if waits else taken.append
    )
    if waits:
        queue.open = 1
    dispatcher.remember(b"example.net", queue)

    def prepare() -> tuple[tuple[()], dict[str, object]]:
        taken.clear()
        envelope = {"reverse_path": b"s@example.org", "recipients": [(b"a@example.net", 0, b"")], "durability": 2}
        envelope["received_us"] = time.time_ns() // 1000
        made = [new_message(make_accepted(envelope, b"Subject: x\r\n\r\n", intake.new_id())) for _ in range(BATCH)]
        return (), {"made": made}

    def dispatch(made: list[object]) -> None:
        for message in made:
            dispatcher.adopt(message)  # type: ignore[arg-type]
        while queue.take() is not None:
            pass

    benchmark.pedantic(dispatch, setup=prepare, rounds=100, warmup_rounds=5)
    journal.close()
