"""What it costs a delivery that its dialogue may be kept: a pipelined transaction on a kept connection, by mode."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from angarium._core.client_session import Capability
from angarium._core.counters import Slab
from angarium._core.dialogue import Dialogues, Keep
from angarium._core.journal import CallbackTaker, Journal
from tests.support.session import Queue

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

BATCH = 200


@pytest.mark.parametrize("keep", list(Keep), ids=lambda keep: keep.name.removeprefix("KEEP_").lower())
def test_deliveries(benchmark: BenchmarkFixture, tmp_path: Path, keep: Keep) -> None:
    """200 deliveries a round, each said to be delivered by four replies; divide by 200."""
    journal = Journal(str(tmp_path), 0, 1 << 24, Slab.create(1).region(0), CallbackTaker(lambda message: None))
    dialogues = Dialogues(keep)
    queue = Queue(journal, dialogues=dialogues)
    host = queue.connect(Capability.CAPABILITY_PIPELINING)

    def prepare() -> tuple[tuple[()], dict[str, object]]:
        queue.messages.clear()
        queue.outcomes.clear()
        dialogues.take()
        made = [queue.make(str(number), [b"recipient@example.net"]) for number in range(BATCH)]
        return (), {"made": made}

    def deliver(made: list[object]) -> None:
        for message in made:
            queue.dispatcher.adopt(message)  # type: ignore[arg-type]
            host.session.feed(b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 End data with <CR><LF>.<CR><LF>\r\n")
            host.session.feed(b"250 2.0.0 Ok: queued as 4XyZ0123456789\r\n")
            host.transport.take()

    benchmark.pedantic(deliver, setup=prepare, rounds=100, warmup_rounds=5)
    journal.close()
