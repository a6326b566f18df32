"""The events process: keeps the event log's files within bounds, and sends events on.

Rotation, compression and retention (angarium.outcome.event_keeping), the streams (angarium.app.stream), and the way to
syslog or the journal, which is a stream as well: the workers write a file, whatever `events.to` says, and wait for
nobody. Input: the configuration, the listening Unix socket that the supervisor keeps, for the admin process' questions.
It runs until SIGTERM; SIGUSR1 reopens its own end of the log. What it compresses it does in a thread, at a lower
priority (NICE) than those who carry mail.

Fails: a stream whose other side fails tries again; all else ends the process, and the supervisor starts another, which
finds in the spool how far each stream was, and in the folder of the log what is left to be compressed. Meanwhile the
log grows, and mail goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from angarium import __version__
from angarium._core.counters import Slot
from angarium._core.event_log import EventLog
from angarium.app.collection import settle_garbage_collection
from angarium.app.stream.make import make_forwarder, make_sink
from angarium.app.stream.runner import StreamRunner
from angarium.clock import SystemClock
from angarium.config.check_stream import parse_target
from angarium.config.model import Stream
from angarium.delivery.event_protocol import EVENTS_STATUS, RESEND, EventsStatus, Resent
from angarium.delivery.lookup_server import LookupServer
from angarium.mail.event_schema import SCHEMA_VERSION
from angarium.outcome.event_files import list_files
from angarium.outcome.event_keeping import Retention, compress, rotate, rotation_due, to_compress, to_delete

if TYPE_CHECKING:
    import socket

    from angarium._core.counters import Counters
    from angarium.admin.heartbeat import Heart
    from angarium.config.model import Config
    from angarium.outcome.event_files import LogFile

__all__ = ["Events"]

log = logging.getLogger(__name__)

NICE = 5
TICK_S = 1.0
GRACE_S = 1.0
COMPRESS_RETRY_S = 60.0  # after a compression that failed
UNSPEAKABLE = "@"  # before the name of a folder that is no stream's of the configuration


class Events:
    """One events process."""

    def __init__(self, config: Config, counters: Counters) -> None:
        assert config.event_file is not None
        counters.reset_gauges()
        self._config = config
        self._counters = counters
        self._clock = SystemClock()
        self._started = self._clock.monotonic()
        self._path = Path(config.event_file)
        self._stop = asyncio.Event()
        self._previous = ""
        self._compressing: asyncio.Task[None] | None = None
        self._compress_at = 0.0
        events = config.events
        self._retention = Retention(events.keep_size_octets, events.keep_s, events.keep_unsent_octets)
        if events.to != "file" and events.file is None:
            # the file is on its way only: what is sent need not stay
            self._retention = Retention(1, 0.0, events.keep_unsent_octets)
        self.events = EventLog(config.event_file, counters)
        self._runners = self._make_runners()
        self._files: list[LogFile] = []
        self.server = LookupServer()
        self.server.answer(EVENTS_STATUS, self._status)
        self.server.answer(RESEND, self._resend)

    def _make_runners(self) -> list[StreamRunner]:
        config, spool = self._config, Path(self._config.node.spool)
        made = [
            StreamRunner(
                stream,
                parse_target(stream.url).shown,
                make_sink(stream, config.node.hostname, self._clock.now),
                self._path,
                spool / "streams" / stream.name,
                clock=self._clock,
                chance=random.Random(),
                note=self._note,
            )
            for stream in config.stream
        ]
        if config.events.to != "file":
            made.append(
                StreamRunner(
                    Stream(name=config.events.to, url="", start="oldest", batch_wait_s=config.events.flush_interval_s),
                    config.events.syslog if config.events.to == "syslog" else "the systemd journal",
                    make_forwarder(config),
                    self._path,
                    spool / "streams" / f"{UNSPEAKABLE}{config.events.to}",
                    clock=self._clock,
                    chance=random.Random(),
                    note=self._note,
                    gives_up=False,
                )
            )
        return made

    # -------------------------------------------------------------- life

    async def run(self, sock: socket.socket, ready_fd: int, heart: Heart) -> None:
        """Keep and send until SIGTERM. One octet on ready_fd says that questions are answered; heart: beats while the
        loop turns."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGUSR1, self._reopen_events)
        os.nice(NICE)
        await self.server.start(sock)
        self._say_opened()
        running = [asyncio.ensure_future(runner.run()) for runner in self._runners]
        settle_garbage_collection()
        heart.beat_by(loop)
        os.write(ready_fd, b"1")
        os.close(ready_fd)
        keeping = asyncio.ensure_future(self._keep())
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            # one that ends by itself has failed: then so has the process
            await asyncio.wait([keeping, stopping, *running], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._stop.set()
            for runner in self._runners:
                runner.stop()
            await self.server.close(GRACE_S)
        await asyncio.gather(keeping, *running)
        self._counters.reset_gauges()
        self.events.close()

    async def _keep(self) -> None:
        while not self._stop.is_set():
            await self._tick()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), TICK_S)
        if self._compressing is not None:
            await self._compressing  # a thread that cannot be stopped: at most a file

    async def _tick(self) -> None:
        events = self._config.events
        now = self._clock.now()
        try:
            if rotation_due(self._path, now, events.rotate_size_octets, events.rotate_every_s):
                self._rotate(now)
            self._files = list_files(self._path)
            if (
                events.compression != "none"
                and self._compressing is None
                and self._clock.monotonic() >= self._compress_at
            ):
                self._compressing = asyncio.ensure_future(self._compress())
            await self._delete(now)
        except OSError as failure:
            self._complain(failure)
        for runner in self._runners:
            await runner.look_ahead()
        self._counters.set(Slot.OUTCOME_LOG_OCTETS, sum(file.size for file in self._files))
        self.events.flush()

    def _rotate(self, now: float) -> None:
        self._previous = str(rotate(self._path, now))
        self._counters.add(Slot.OUTCOME_LOG_ROTATIONS, 1)
        self.events.flush()  # sees that the name leads nowhere, and makes the new file
        self._say_opened()

    async def _compress(self) -> None:
        """What can be compressed, one file after the other."""
        try:
            for file in await asyncio.to_thread(to_compress, self._path):
                if self._stop.is_set():
                    break
                await asyncio.to_thread(compress, file.path, self._config.events.compression)
                self._counters.add(Slot.OUTCOME_LOG_COMPRESSED, 1)
        except OSError as failure:
            self._counters.add(Slot.OUTCOME_LOG_COMPRESS_FAILED, 1)
            self._compress_at = self._clock.monotonic() + COMPRESS_RETRY_S
            self._complain(failure)
        finally:
            self._compressing = None

    async def _delete(self, now: float) -> None:
        files = self._files
        unsent = min((runner.first_needed(files) for runner in self._runners), default=None)
        going = to_delete(files, now, self._retention, unsent)
        for file in going:
            forced = unsent is not None and files.index(file) >= unsent
            for runner in self._runners if forced else ():
                await runner.lose(file)
            file.path.unlink(missing_ok=True)
            self._counters.add(Slot.OUTCOME_LOG_DELETED, 1)
            why = "unsent" if forced else "age" if now - file.ended > self._retention.age_s > 0 else "size"
            self._note("log_deleted", {"file": str(file.path), "why": why})
        if going:
            self._files = list_files(self._path)

    # -------------------------------------------------------------- what it says

    def _note(self, event: str, fields: dict[str, Any]) -> None:
        self.events.event(event, fields)
        self.events.flush()  # there are few of them, and a kill must not take back what was said

    def _say_opened(self) -> None:
        fields = {
            "schema": SCHEMA_VERSION,
            "release": __version__,
            "node": self._config.node.hostname,
            "previous": self._previous,
        }
        self.events.event("log_opened", fields)
        self.events.flush()

    def _complain(self, failure: OSError) -> None:
        log.error("the event log cannot be kept in order: %s", failure)

    def _reopen_events(self) -> None:
        try:
            self.events.reopen()
        except OSError as failure:
            log.error("the event log cannot be reopened: %s", failure)

    async def _status(self, _: None) -> EventsStatus:
        return EventsStatus(
            pid=os.getpid(),
            uptime_s=round(self._clock.monotonic() - self._started, 3),
            files=len(self._files),
            octets=sum(file.size for file in self._files),
            streams=tuple(runner.status() for runner in self._runners),
        )

    async def _resend(self, name: str) -> Resent:
        runner = next((runner for runner in self._runners if runner.name == name), None)
        return Resent(-1 if runner is None else runner.resend())
