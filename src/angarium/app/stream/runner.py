"""One stream: reads the event log from where it was, and hands it on in batches until the other side has taken them.

    gather ── a batch is full, or `batch_wait` old ──► deliver ── taken ──► the position is written
                                                          │
                              a pause that doubles  ◄─────┤ not taken
                              a dead letter         ◄─────┘ not taken for `give_up`, or can never be

One batch is under way at a time, so events arrive in the log's order, each at least once: what was taken and not
written down before the process died is sent again, under the same keys.

**Dead letters.** A batch that is refused for what is in it is halved after `give_up` until what is refused is found: it
alone is set aside. Everything else that fails (no connection, no answer, 429, 5xx) is set aside as a whole batch, one
for each `give_up` that the other side is away. Beyond `dead_letter_size` they are lost, counted, and said to be.
`resend` sends them once more, under the same keys; what is refused again is a dead letter again, at once, so that it
never keeps the others waiting.

**Falling behind.** The log's own retention spares what is not sent yet, up to `events.keep_unsent`; then `lose` gives
up a file, and counts what was in it.

**What came before.** A sink that remembers (`Remembering`) is shown again what lies before the position, when the
stream begins; nothing of it is sent. Where that cannot be read, it has less to remember, and the stream goes on.

**A state that cannot be read or written** (a disk that fails, a foreign hand) keeps its stream from beginning, and no
other; it is tried again.

It never fails for what the other side does, nor for what the other side's library makes of it: whatever a sink raises
is a batch that was not taken. OSError of the log itself ends it, and the process. Bounds: one batch in memory, and
READ_OCTETS of the log; CLOSE_S for letting a connection go, which then ends by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import datetime
from typing import TYPE_CHECKING, Any

from angarium.app.stream.choice import Choice
from angarium.app.stream.dead_letter import DeadLetters
from angarium.app.stream.durable import make_folder
from angarium.app.stream.log_in import discreet
from angarium.app.stream.sink import Batch, Item, Remembering, SinkFailure
from angarium.app.stream.state import StreamState, load, save
from angarium.delivery.event_protocol import StreamStatus
from angarium.outcome.event_files import time_of
from angarium.outcome.event_reader import LogReader, before, oldest, youngest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from random import Random

    from angarium.app.stream.sink import Sink
    from angarium.clock import Clock
    from angarium.config.model import Stream
    from angarium.outcome.event_files import LogFile
    from angarium.outcome.event_reader import Position

__all__ = ["StreamRunner"]

log = logging.getLogger(__name__)

POLL_S = 0.2  # how often the end of the log is looked at
SAVE_S = 5.0  # how often a position is written that moves without anything being sent
LATE_S = 1.0  # a batch goes, though there is more to be read, of which it may take nothing
READ_LINES = 2000
READ_OCTETS = 1 << 20
COUNT_OCTETS = 64 << 20  # that are counted at once
CLOSE_S = 2.0
BEGIN_LONGEST_S = 30.0
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
        are no dead letters, and a batch is tried for ever."""
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
        self.state = StreamState(oldest())
        self._letters = DeadLetters(folder, stream.dead_letter_size_octets)
        self._reader = LogReader(path, self.state.position)
        self._ahead = LogReader(path, self.state.position)
        self._saved = self.state.position
        self._saved_at = clock.monotonic()
        self._gaps_seen = 0
        self._stop = asyncio.Event()
        self._again = asyncio.Event()  # dead letters are to be sent
        self._free = asyncio.Event()  # no file is being given up
        self._free.set()
        self._leaving: set[asyncio.Future[None]] = set()  # what was given up and has not ended yet
        self._failures = 0  # in a row
        self._error = ""
        self._oldest = b""  # the first line of the batch that is gathered or under way
        self._lines_ahead = 0  # that _ahead has seen
        self._lines_read = 0
        self._lines_settled = 0
        self._first: Position | None = None  # where it begins when it is new
        self._begun = False
        self._hindrance = self._begin()

    # -------------------------------------------------------------- life

    def _begin(self) -> str:
        """Find out where it is; why that cannot be done, else empty."""
        try:
            make_folder(self._folder)
            if self._first is None:
                self._first = youngest(self._path) if self._stream.start == "now" else oldest()
            state = load(self._folder)
            if state is None:
                state = StreamState(self._first)
                save(self._folder, state)  # a restart before the first event begins here, too
            self._letters.look()
        except (OSError, ValueError) as failure:
            return str(failure)
        self.state = state
        self._saved = state.position
        self._reader = LogReader(self._path, state.position)
        self._ahead = LogReader(self._path, state.position)
        self._begun = True
        return ""

    async def _wait_begun(self) -> None:
        """Until it has begun. Its state is a file that cannot be read or written: nobody else's is in danger."""
        pause_s = self._stream.retry_first_s
        while self._hindrance and not self._stop.is_set():
            self._tell_failure(f"it cannot begin: {self._hindrance}")
            await self._pause(pause_s)
            pause_s = min(pause_s * 2, BEGIN_LONGEST_S)
            self._hindrance = self._begin()
            if not self._hindrance:
                self._worked()

    async def run(self) -> None:
        """Until `stop`."""
        await self._wait_begun()
        if self._letters.begun:
            self._again.set()
        try:
            try:
                await self._recall()
            except Exception:  # a damaged file: each decompressor has errors of its own
                log.warning("stream %s: what came before cannot be read again", self.name, exc_info=True)
            while not self._stop.is_set():
                if self._again.is_set():
                    await self._resend()
                    continue
                items = await self._gather()
                if not self._stop.is_set() and (not items or await self._deliver(items)):
                    self._oldest = b""
                    self._settle()
        finally:
            await self._let_go()
            for task in self._leaving:
                task.cancel()
            self._reader.close()
            self._ahead.close()

    def stop(self) -> None:
        """Let what is under way go: it is sent again by the successor."""
        self._stop.set()

    async def _recall(self) -> None:
        """Show a sink that remembers what lies before the position."""
        sink, end = self._sink, self.state.position
        if not isinstance(sink, Remembering) or not sink.look_back_octets:
            return
        reader = LogReader(self._path, before(self._path, end, sink.look_back_octets))
        try:
            while reader.position != end and not self._stop.is_set():
                lines = reader.read(READ_LINES, READ_OCTETS)
                at = reader.position
                if not lines or (at.head != end.head and at.begins > end.begins):
                    break  # the file in which it ends is gone
                offset = at.offset
                while lines and at.head == end.head and offset > end.offset:
                    offset -= len(lines.pop())
                sink.recall(list(self._items(lines, at.head, offset)))
                if at.head == end.head and at.offset >= end.offset:
                    break
                await asyncio.sleep(0)
        finally:
            reader.close()

    def _items(self, lines: list[bytes], head: str, end: int) -> Iterator[Item]:
        """What of these lines, which end at this offset of that file, is sent."""
        end -= sum(map(len, lines))
        for line in lines:
            end += len(line)
            if taken := self._choice.taken_of(line):
                yield Item(taken[:-1], f"{head}-{end}")

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
            position = reader.position
            self._lines_read += len(lines)
            for item in self._items(lines, position.head, position.offset):
                items.append(item)
                size += len(item.line) + 1
            if items and not due:
                due = clock.monotonic() + stream.batch_wait_s
                self._oldest = items[0].line
            if self._stop.is_set():
                break
            now = clock.monotonic()
            if items and now >= due and (not lines or now >= due + LATE_S):
                break
            if not items and position != self._saved and now - self._saved_at > SAVE_S:
                break
            if lines:
                await asyncio.sleep(0)
            elif self._again.is_set():
                break
            else:
                await self._pause(min(due - now, POLL_S) if items else POLL_S)
        return items

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    # -------------------------------------------------------------- delivery

    async def _deliver(self, items: list[Item], *, patient: bool = True) -> bool:
        """Send them, or set them aside. `patient`: what is refused is tried again for `give_up`, else it is final.
        False: told to stop before that was done."""
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
                over = self._clock.now() - state.failing_since >= stream.give_up_s
                if self._gives_up and (over or failure.too_large or (failure.refused and not patient)):
                    state.failing_since = 0.0
                    if failure.refused and len(items) > 1:
                        return await self._halves(items, patient=False)
                    self._set_aside(items, failure.text)
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
        try:
            waited_for = {sending, stopping}
            await asyncio.wait(waited_for, timeout=self._stream.timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            ended = sending.done()
            if not ended:
                await self._leave(sending)
        if not ended:
            await self._let_go()
            raise SinkFailure(f"no answer within {self._stream.timeout_s:g} s")
        try:
            sending.result()
        except SinkFailure:
            raise
        except (Exception, asyncio.CancelledError) as failure:  # a library's own, which the sink does not know
            log.warning("stream %s: not foreseen", self.name, exc_info=failure)
            await self._let_go()
            raise SinkFailure(f"{type(failure).__name__}: {failure}") from failure

    async def _let_go(self) -> None:
        """Of the connection; the next batch opens another."""
        await self._leave(asyncio.ensure_future(self._sink.close()), cancel=False)

    async def _leave(self, task: asyncio.Future[None], *, cancel: bool = True) -> None:
        """Until it has ended, or has had CLOSE_S for that: then it ends when it can."""
        if cancel:
            task.cancel()
        self._leaving.add(task)
        task.add_done_callback(self._left)
        await asyncio.wait({task}, timeout=CLOSE_S)

    def _left(self, task: asyncio.Future[None]) -> None:
        self._leaving.discard(task)
        if not task.cancelled() and task.exception() is not None and not isinstance(task.exception(), SinkFailure):
            log.info("stream %s: closing: %s", self.name, discreet(str(task.exception()), self._stream))

    async def _halves(self, items: list[Item], *, patient: bool) -> bool:
        middle = len(items) // 2
        return await self._deliver(items[:middle], patient=patient) and await self._deliver(
            items[middle:], patient=patient
        )

    def _failed(self, text: str) -> None:
        if not self.state.failing_since:
            self.state.failing_since = self._clock.now()
            self._save()
        self._tell_failure(text)

    def _tell_failure(self, text: str) -> None:
        self.state.failures += 1
        self._failures += 1
        self._error = discreet(text, self._stream)[:TEXT_OCTETS]
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
        text = discreet(why, self._stream)[:TEXT_OCTETS]
        try:
            self._letters.add(items)
        except OSError as failure:
            self._lost(len(items), f"{text}; no room for a dead letter: {failure.strerror or failure}")
            return
        file = str(self._letters.file)
        log.error("stream %s: %d events are set aside in %s: %s", self.name, len(items), file, text)
        self._note("dead_letter", {"stream": self.name, "events": len(items), "file": file, "text": text})

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
        if not self._begun:
            return 0
        return self._reader.place_in(files, self.state.position)

    async def lose(self, file: LogFile) -> None:
        """This file is about to be deleted, sent or not: pass what is left of it, and count that. A batch that is under
        way goes on."""
        if not self._begun:
            self._lost(None, "events.keep_unsent is reached")
            return
        self._free.clear()
        try:
            passed, count = await asyncio.to_thread(self._pass, file)
        finally:
            self._free.set()
        self._lines_read += passed
        if count:
            self._lost(count, "events.keep_unsent is reached")
        if self._oldest:
            self._save()  # that they are lost is known from now on
        else:
            self._settle()

    def _pass(self, file: LogFile) -> tuple[int, int]:
        """How many lines there were, and how many of them the stream would have sent."""
        passed = count = 0
        while lines := self._reader.read_within(file):
            passed += len(lines)
            count += sum(map(self._choice.takes, lines))
        return passed, count

    # -------------------------------------------------------------- dead letters, once more

    def resend(self) -> int:
        """Send the dead letters again; how many there are, about to be sent."""
        if self._letters.count:
            self._again.set()
        return self._letters.count

    async def _resend(self) -> None:
        self._again.clear()
        try:
            for items in self._letters.take(self._stream.batch_events):
                if not await self._deliver(items, patient=False):
                    return
            self._letters.finish()
        except OSError as failure:  # they stay, and can be asked for again
            log.error("stream %s: dead letters cannot be sent again: %s", self.name, failure)
        if self._letters.torn:
            self._lost(self._letters.torn, "a dead letter cannot be read")
            self._letters.torn = 0
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
        if not self._begun:
            return
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
            dead_letters=self._letters.count,
            lost=state.lost,
            error=self._error,
        )


def _seconds_of(line: bytes) -> float:
    """The time of an event, Unix time; 0 for what has none."""
    try:
        return datetime.fromisoformat(time_of(line)).timestamp()
    except ValueError:
        return 0.0
