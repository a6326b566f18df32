"""A stream of the tests: the runner over a log of its own, and another side that does what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from typing import TYPE_CHECKING, Any

from angarium.app.stream.runner import StreamRunner
from angarium.app.stream.sink import Batch, Sink, SinkFailure
from angarium.config.model import Stream
from tests.support.clients import PATIENCE_S
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

__all__ = ["FakeSink", "Rig", "event_line"]


def event_line(number: int, event: str = "delivery", **fields: Any) -> bytes:
    """A line of the log."""
    stamp = f"2026-11-26T00:{number // 60 % 60:02}:{number % 60:02}.{number:06}Z"
    return (
        json.dumps({"time": stamp, "event": event, "number": number, **fields}, separators=(",", ":")).encode() + b"\n"
    )


class FakeSink:
    """Takes batches, but for what `answer` raises; `calls` has every try, `taken` the events that were."""

    def __init__(self) -> None:
        self.answer: Callable[[list[int]], None] = lambda numbers: None
        self.calls: list[list[int]] = []
        self.taken: list[int] = []
        self.keys: list[str] = []
        self.hanging = asyncio.Event()
        self.hang = False
        self.called = asyncio.Event()

    async def send(self, batch: Batch) -> None:
        numbers = [json.loads(item.line)["number"] for item in batch.items]
        self.calls.append(numbers)
        self.called.set()
        if self.hang:
            self.hanging.set()
            await asyncio.Event().wait()
        try:
            self.answer(numbers)
        except SinkFailure as failure:
            self.taken += numbers[: failure.taken]
            raise
        self.taken += numbers
        self.keys += [item.key for item in batch.items]

    async def close(self) -> None:
        pass


class Rig:
    """One log and one stream."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "events.jsonl"
        self.folder = folder / "streams" / "crm"
        self.clock = FakeClock()
        self.sink = FakeSink()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.runner: StreamRunner

    def write(self, *lines: bytes) -> None:
        """Append to the log."""
        with self.path.open("ab") as file:
            file.writelines(lines)

    @contextlib.asynccontextmanager
    async def running(
        self, sink: Sink | None = None, *, gives_up: bool = True, **keys: Any
    ) -> AsyncIterator[StreamRunner]:
        """The stream runs; at the end it is told to stop."""
        settings: dict[str, Any] = {
            "name": "crm",
            "url": "https://crm.test/",
            "start": "oldest",
            "batch_wait_s": 0.0,
            "retry_first_s": 0.001,
            "retry_longest_s": 0.002,
            "timeout_s": PATIENCE_S,
        }
        self.runner = runner = StreamRunner(
            Stream(**settings | keys),
            "https://crm.test/",
            self.sink if sink is None else sink,
            self.path,
            self.folder,
            clock=self.clock,
            chance=random.Random(1),
            note=lambda event, fields: self.events.append((event, fields)),
            gives_up=gives_up,
        )
        task = asyncio.ensure_future(runner.run())
        try:
            yield runner
        finally:
            runner.stop()
            await task

    async def until(self, condition: Callable[[], object]) -> None:
        """Until it is so."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # what is looked at has no event of its own
                assert self.runner is not None
                await asyncio.sleep(0.002)
