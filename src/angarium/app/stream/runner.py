"""One stream: reads the event log from where it was, and hands it on in batches until the other side has taken them.

    gather ── a batch is full, or `batch_wait` old ──► deliver ── taken ──► the position is written
                                                          │
                              a pause that doubles  ◄─────┤ not taken
                              a dead letter         ◄─────┘ not taken for `give_up`, or can never be

One batch is under way at a time, so events arrive in the log's order, each at least once: what was taken and not
written down before the process died is sent again, under the same keys.

**Dead letters.** A batch that is refused for what is in it is halved after `give_up` until what is refused is found: it
alone is set aside. Everything else that fails (no connection, no answer, 429, 5xx) is set aside as a whole batch, one
for each `give_up` that the other side is away. They are appended to `dead-letters.jsonl` in the stream's folder, up to
`dead_letter_size`, beyond which they are lost, counted, and said to be. `resend` sends them once more.

**Falling behind.** The log's own retention spares what is not sent yet, up to `events.keep_unsent`; then `lose` gives
up a file, and counts what was in it.

It never fails for what the other side does. OSError of the log itself ends it, and the process. Bounds: one batch in
memory, and READ_OCTETS of the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from datetime import datetime
from typing import TYPE_CHECKING, Any

from angarium.app.stream.choice import Choice
from angarium.app.stream.sink import Batch, Item, SinkFailure
from angarium.app.stream.state import StreamState, load, save
from angarium.delivery.event_protocol import StreamStatus
from angarium.outcome.event_files import time_of
from angarium.outcome.event_reader import LogReader, oldest, youngest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from random import Random

    from angarium.app.stream.sink import Sink
    from angarium.clock import Clock
    from angarium.config.model import Stream
    from angarium.outcome.event_files import LogFile

__all__ = ["StreamRunner"]

log = logging.getLogger(__name__)

POLL_S = 0.2  # how often the end of the log is looked at
SAVE_S = 5.0  # how often a position is written that moves without anything being sent
READ_LINES = 2000
READ_OCTETS = 1 << 20
COUNT_OCTETS = 64 << 20  # that are counted at once
DEAD_LETTERS = "dead-letters.jsonl"
RESENDING = "resending.jsonl"
TEXT_OCTETS = 300


class StreamRunner:
    """Runs one stream until it is told to stop."""

    def __init__(
        self,
        stream: Stream,
        shown: str,
        sink: Sink,
        path: Path,
        folder: Path,
        *,
        clock: Clock,
        chance: Random,
        note: Callable[[str, dict[str, Any]], None],
        gives_up: bool = True,
    ) -> None:
        """path: of the event log; folder: the stream's own, made here; note: writes an event. `gives_up`: else there
        are no dead letters, and a batch is tried for ever. OSError, ValueError: its state cannot be read or written."""
        self.name = stream.name
        self._stream = stream
        self._shown = shown
        self._sink = sink
        self._path = path
        self._folder = folder
        self._clock = clock
        self._chance = chance
        self._note = note
        self._gives_up = gives_up
        self._choice = Choice(stream.name, stream.events, stream.tenants)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = load(folder)
        new = state is None
        if state is None:
            state = StreamState(youngest(path) if stream.start == "now" else oldest())
        self.state = state
        self._reader = LogReader(path, state.position)
        self._saved = state.position
        self._saved_at = clock.monotonic()
        self._gaps_seen = 0
        self._stop = asyncio.Event()
        self._again = asyncio.Event()  # dead letters are to be sent
        self._free = asyncio.Event()  # no file is being given up
        self._free.set()
        self._failures = 0  # in a row
        self._error = ""
        self._oldest = b""  # the first line of the batch that is gathered or under way
        self._ahead = LogReader(path, state.position)
        self._lines_ahead = 0  # that _ahead has seen
        self._lines_read = 0
        self._lines_settled = 0
        if new:
            self._save()  # a restart before the first event begins here, too

    # -------------------------------------------------------------- life

    async def run(self) -> None:
        """Until `stop`."""
        if (self._folder / RESENDING).exists():
            self._again.set()
        try:
            while not self._stop.is_set():
                if self._again.is_set():
                    await self._resend()
                    continue
                items = await self._gather()
                if not self._stop.is_set() and (not items or await self._deliver(items)):
                    self._oldest = b""
                    self._settle()
        finally:
            await self._sink.close()
            self._reader.close()
            self._ahead.close()

    def stop(self) -> None:
        """Let what is under way go: it is sent again by the successor."""
        self._stop.set()

    async def _gather(self) -> list[Item]:
        """The next batch; nothing when a position is to be written, or there is something else to do."""
        stream, reader, clock = self._stream, self._reader, self._clock
        items: list[Item] = []
        size = 0
        due = 0.0
        while len(items) < stream.batch_events and size < stream.batch_size_octets:
            await self._free.wait()
            lines = reader.read(
                min(READ_LINES, stream.batch_events - len(items)), min(READ_OCTETS, stream.batch_size_octets - size)
            )
            if reader.gaps > self._gaps_seen:
                self._say_gap()
            if not lines:
                left_s = due - clock.monotonic() if items else POLL_S
                if left_s <= 0 or self._again.is_set():
                    break
                if not items and reader.position != self._saved and clock.monotonic() - self._saved_at > SAVE_S:
                    break
                await self._pause(min(left_s, POLL_S))
            position = reader.position
            end = position.offset - sum(map(len, lines))
            self._lines_read += len(lines)
            for line in lines:
                end += len(line)
                if self._choice.takes(line):
                    items.append(Item(line[:-1], f"{position.head}-{end}"))
                    size += len(line)
            if items and not due:
                due = clock.monotonic() + stream.batch_wait_s
                self._oldest = items[0].line
            if self._stop.is_set():
                break
            await asyncio.sleep(0)
        return items

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    # -------------------------------------------------------------- delivery

    async def _deliver(self, items: list[Item], *, patient: bool = True) -> bool:
        """Send them, or set them aside. False: told to stop before that was done."""
        stream, state = self._stream, self.state
        pause_s = stream.retry_first_s
        while not self._stop.is_set():
            try:
                await self._send(items)
            except SinkFailure as failure:
                if self._stop.is_set():
                    return False
                state.sent += failure.taken
                items = items[failure.taken :]
                if failure.too_large and len(items) > 1:
                    return await self._halves(items, patient=patient)
                self._failed(failure.text)
                patience_over = not patient or self._clock.now() - state.failing_since >= stream.give_up_s
                if self._gives_up and (patience_over or failure.too_large):
                    if failure.refused and len(items) > 1:
                        return await self._halves(items, patient=False)
                    self._set_aside(items, failure.text)
                    state.failing_since = 0.0
                    return True
                retry_after_s = min(failure.retry_after_s, stream.retry_longest_s)
                await self._pause(max(pause_s * self._chance.uniform(0.75, 1.0), retry_after_s))
                pause_s = min(pause_s * 2, stream.retry_longest_s)
            else:
                state.sent += len(items)
                state.batches += 1
                self._worked()
                return True
        return False

    async def _send(self, items: list[Item]) -> None:
        """Once. What takes longer than `timeout` counts as not taken; told to stop, it is given up."""
        sending = asyncio.ensure_future(self._sink.send(Batch(tuple(items))))
        stopping = asyncio.ensure_future(self._stop.wait())
        waited_for = {sending, stopping}
        try:
            await asyncio.wait(waited_for, timeout=self._stream.timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
                return
        finally:
            for task in waited_for:
                task.cancel()
            await asyncio.gather(*waited_for, return_exceptions=True)
        await self._sink.close()
        raise SinkFailure(f"no answer within {self._stream.timeout_s:g} s")

    async def _halves(self, items: list[Item], *, patient: bool) -> bool:
        middle = len(items) // 2
        return await self._deliver(items[:middle], patient=patient) and await self._deliver(
            items[middle:], patient=patient
        )

    def _failed(self, text: str) -> None:
        state = self.state
        state.failures += 1
        self._failures += 1
        self._error = text[:TEXT_OCTETS]
        if not state.failing_since:
            state.failing_since = self._clock.now()
            self._save()
        if self._failures == 1:
            log.warning("stream %s: %s", self.name, self._error)
            self._note("stream", {"stream": self.name, "class": "failing", "failures": 1, "text": self._error})

    def _worked(self) -> None:
        self.state.failing_since = 0.0
        if self._failures:
            log.info("stream %s: goes on after %d failures", self.name, self._failures)
            fields = {"stream": self.name, "class": "working", "failures": self._failures, "text": ""}
            self._note("stream", fields)
        self._failures = 0
        self._error = ""

    # -------------------------------------------------------------- what is not sent

    def _set_aside(self, items: list[Item], why: str) -> None:
        file = self._folder / DEAD_LETTERS
        octets = b"".join(item.line + b"\n" for item in items)
        text = why[:TEXT_OCTETS]
        try:
            fd = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                size = os.fstat(fd).st_size
                if size + len(octets) > self._stream.dead_letter_size_octets:
                    raise OSError("stream.dead_letter_size is reached")
                if os.write(fd, octets) < len(octets):
                    os.ftruncate(fd, size)
                    raise OSError("the disk is full")
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as failure:
            self._lost(len(items), f"{text}; no room for a dead letter: {failure.strerror or failure}")
            return
        self.state.dead += len(items)
        log.error("stream %s: %d events are set aside in %s: %s", self.name, len(items), file, text)
        fields = {"stream": self.name, "events": len(items), "file": str(file), "text": text}
        self._note("dead_letter", fields)

    def _lost(self, count: int | None, why: str) -> None:
        """Events will not be sent; None: nobody knows how many, so one is counted."""
        fields: dict[str, Any] = {"stream": self.name, "why": why}
        self.state.lost += 1 if count is None else count
        if count is not None:
            fields["events"] = count
        log.error("stream %s: %s events are lost: %s", self.name, "some" if count is None else count, why)
        self._note("stream_lost", fields)

    def _say_gap(self) -> None:
        self._gaps_seen = self._reader.gaps
        self._lost(None, "the file that was being read is gone")
        self._ahead.close()
        self._ahead = LogReader(self._path, self._reader.position)
        self._lines_ahead = self._lines_read = self._lines_settled = 0

    def first_needed(self, files: list[LogFile]) -> int:
        """Number of the first of these files (oldest first) that is not settled whole."""
        return self._reader.place_in(files, self.state.position)

    async def lose(self, file: LogFile) -> None:
        """This file is about to be deleted, sent or not: pass what is left of it, and count that. A batch that is under
        way goes on."""
        self._free.clear()
        try:
            passed, count = await asyncio.to_thread(self._pass, file)
        finally:
            self._free.set()
        self._lines_read += passed
        if count:
            self._lost(count, "events.keep_unsent is reached")
        if not self._oldest:
            self._settle()

    def _pass(self, file: LogFile) -> tuple[int, int]:
        """How many lines there were, and how many of them the stream would have sent."""
        passed = count = 0
        while lines := self._reader.read_within(file):
            passed += len(lines)
            count += sum(map(self._choice.takes, lines))
        return passed, count

    # -------------------------------------------------------------- dead letters, once more

    def _dead_letters(self) -> int:
        """How many there are; none when somebody has taken the file away."""
        if self.state.dead and not any((self._folder / name).exists() for name in (DEAD_LETTERS, RESENDING)):
            self.state.dead = 0
        return self.state.dead

    def resend(self) -> int:
        """Send the dead letters again; how many there are, about to be sent."""
        count = 0
        for name in (DEAD_LETTERS, RESENDING):
            with contextlib.suppress(FileNotFoundError):
                count += (self._folder / name).read_bytes().count(b"\n")
        if count:
            self._again.set()
        return count

    async def _resend(self) -> None:
        self._again.clear()
        source = self._folder / RESENDING
        if not source.exists():
            try:
                os.rename(self._folder / DEAD_LETTERS, source)
            except FileNotFoundError:
                return
        lines = source.read_bytes().splitlines()  # bound: stream.dead_letter_size
        self.state.dead -= min(len(lines), self.state.dead)
        for number in range(0, len(lines), self._stream.batch_events):
            part = lines[number : number + self._stream.batch_events]
            items = [Item(line, f"again-{self.state.sent}-{number + i}") for i, line in enumerate(part)]
            self.state.failing_since = 0.0
            if not await self._deliver(items):
                return
        source.unlink(missing_ok=True)
        self._save()

    # -------------------------------------------------------------- where it is

    def _settle(self) -> None:
        """All that was read is done with."""
        self._lines_settled = self._lines_read
        self.state.position = self._reader.position
        self._save()

    def _save(self) -> None:
        try:
            save(self._folder, self.state)
        except OSError as failure:  # the disk is full: what is sent from now on may be sent twice
            log.error("stream %s: its position cannot be written: %s", self.name, failure)
        else:
            self._saved = self.state.position
        self._saved_at = self._clock.monotonic()

    async def look_ahead(self) -> None:
        """Count the lines behind what was read."""
        ahead = self._ahead
        lines, _ = await asyncio.to_thread(ahead.count, COUNT_OCTETS)
        if ahead is self._ahead:
            self._lines_ahead += lines
            if ahead.gaps:  # files went away that it had not counted
                self._ahead = LogReader(self._path, self._reader.position)
                self._lines_ahead = self._lines_read = self._lines_settled = 0
                ahead.close()

    def status(self) -> StreamStatus:
        """How it stands."""
        state = self.state
        behind = max(0, self._lines_ahead - self._lines_settled)
        since = _seconds_of(self._oldest)
        return StreamStatus(
            name=self.name,
            to=self._shown,
            state="failing" if self._failures else "working" if behind or self._oldest else "idle",
            lag_events=behind,
            lag_s=max(0.0, round(self._clock.now() - since, 3)) if since else 0.0,
            sent=state.sent,
            batches=state.batches,
            failures=state.failures,
            dead_letters=self._dead_letters(),
            lost=state.lost,
            error=self._error,
        )


def _seconds_of(line: bytes) -> float:
    """The time of an event, Unix time; 0 for what has none."""
    try:
        return datetime.fromisoformat(time_of(line)).timestamp()
    except ValueError:
        return 0.0
