"""A worker's outcome stage on a real journal, without a loop, a socket or a wait.

The test plays the next hops, owns the clock and says when records reach the disk. A message that is accepted becomes
deliveries in `ways`; `answer` settles one of them. Notifications are messages like all others: `notifications` has
those in the queue, read by the standard library.
"""

from __future__ import annotations

import email
import email.policy
import json
import select
import shutil
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any

from angarium._core.client_session import Phase
from angarium._core.counters import Slab, Slot
from angarium._core.dispatch import Delivery, Dispatcher, JournalIntake, ReadyQueue
from angarium._core.event_log import EventLog
from angarium._core.journal import CallbackReceiver
from angarium._core.record import Message, load_message, make_accepted, new_message
from angarium.app.bouncer import Bouncer
from angarium.config.model import Retry
from angarium.outcome.recorder import Recorder
from angarium.queue.backoff import expires_at
from angarium.queue.recovery import open_shard
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WAIT_S = 30.0
DATA = b"From: ada@example.org\r\nSubject: hello\r\nMessage-ID: <1@example.org>\r\n\r\nbody\r\n"
FINAL = Phase.PHASE_FINAL
RCPT = Phase.PHASE_RCPT
HOST = b"mx1.example.net[192.0.2.25]:25"
NO_SUCH_USER = (550, (5, 1, 1), b"no such user", RCPT)
GREYLISTED = (451, (4, 7, 1), b"greylisted", RCPT)
TAKEN = (250, (2, 0, 0), b"queued as 77", FINAL)
LOST = (0, None, b"connection lost", FINAL)


class Intake:
    """The real intake, until the test says that it takes nothing."""

    def __init__(self, intake: JournalIntake) -> None:
        self._intake = intake
        self.broken = False

    def new_id(self) -> int:
        return self._intake.new_id()

    @property
    def accepting(self) -> bool:
        return not self.broken and self._intake.accepting

    def submit(self, message: Message, receiver: Any = None, notification: bool = False) -> None:
        if self.broken:
            raise OSError(5, "Input/output error")
        self._intake.submit(message, receiver, notification)


class Desk:
    """Dispatcher, recorder and bouncer of one worker with one shard."""

    def __init__(
        self,
        folder: Path,
        *,
        retry: Retry | None = None,
        clock: FakeClock | None = None,
        segment_octets: int = 1 << 20,
        **bouncer: Any,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.clock = clock or FakeClock()
        self.retry = retry or Retry(warn_after_s=4 * 3600.0, expire_s=86400.0, jitter=0.0)
        slab = Slab.create(1)
        self.counters = slab.region(0)
        slab.close()
        self.log = folder.parent / f"{folder.name}.jsonl"
        self.events = EventLog(str(self.log), self.counters)
        self.dispatcher = Dispatcher(self.counters, self.events)
        self.journal, self.report = open_shard(
            folder,
            0,
            self.dispatcher.table,
            segment_octets=segment_octets,
            counters=self.counters,
            taker=self.dispatcher,
            sync_interval_s=3600.0,
        )
        self.kicks: list[Callable[[], None]] = []
        self.dispatcher.journals[0] = self.journal
        self.intake = Intake(JournalIntake(self.dispatcher, [self.journal]))
        self.later: list[Callable[[], None]] = []
        self.bouncer = Bouncer(
            self.intake,  # type: ignore[arg-type]
            self.counters,
            self.events,
            self.clock,
            hostname="relay.example.org",
            call_later=lambda seconds, function: self.later.append(function),
            **bouncer,
        )
        self.recorder = Recorder(
            self.dispatcher,
            self.counters,
            self.events,
            self.clock,
            next_attempt=self._next_attempt,
            expires_at=lambda message: expires_at(self.retry, message.received_us * 1e-6),
            tell=self.bouncer.tell,
        )
        self.ways: dict[str, list[Delivery]] = {}
        self.queue = ReadyQueue(self.dispatcher, b"mx", b"example.net", hand_over=self._hand_over)
        self.dispatcher.place = self._place
        self.dispatcher.settle = self.recorder.settle
        self.dispatcher.reconsider = self.recorder.reconsider
        self.dispatcher.partial = self.recorder.partial
        self.dispatcher.keep_reply = self.recorder.delivered

    def _next_attempt(self, message: Message) -> float | None:
        over = self.clock.now() >= expires_at(self.retry, message.received_us * 1e-6)
        return None if over else self.clock.now() + 60

    def _place(self, message: Message) -> None:
        self.dispatcher.send(message, self.queue, message.unfinished())

    def _hand_over(self, delivery: Delivery) -> None:
        self.ways.setdefault(delivery.message.queue_id, []).append(delivery)

    # ---------------------------------------------------------------- what the test does

    def accept(
        self,
        *recipients: tuple[bytes, int],
        reverse_path: bytes = b"ada@example.org",
        data: bytes = DATA,
        **more: Any,
    ) -> Message:
        """A message that is ours and under way. recipients: (forward path, NOTIFY)."""
        envelope = {
            "reverse_path": reverse_path,
            "recipients": [(path, notify, b"") for path, notify in recipients],
            "received_us": int(self.clock.now() * 1e6),
            **more,
        }
        message = new_message(make_accepted(envelope, data, self.intake.new_id()))
        self.intake.submit(message)
        self.commit()
        return message

    def delivery(self, message: Message) -> Delivery:
        """The delivery of message that is under way."""
        (delivery,) = self.ways.pop(message.queue_id)
        return delivery

    def answer(
        self, message: Message, *results: tuple[int, Any, bytes, int], host: bytes | None = HOST, dsn: bool = False
    ) -> None:
        """The next hop's answers for the recipients of the delivery under way, in their order."""
        delivery = self.delivery(message)
        delivery.host = host
        delivery.dsn_passed_on = dsn
        delivery.results = [(index, *result) for index, result in zip(delivery.indices(), results, strict=True)]
        self.recorder.settle(delivery)

    def again(self, message: Message) -> None:
        """The next attempt of a message that waits."""
        self.take_out(message)
        self.dispatcher.send(message, self.queue, message.unfinished())

    def take_out(self, message: Message) -> None:
        """A message that waits does so no longer, and its mail data is in memory."""
        assert self.dispatcher.withdraw(message)
        self.load(message)

    def load(self, message: Message) -> None:
        """The mail data is in memory."""
        if message.buffer is None:
            message.buffer = load_message(self.journal.read_record(message))

    def warn(self, message: Message, why: bytes = b"") -> None:
        """What the worker does about a message that is late."""
        at = message.next_attempt
        self.take_out(message)
        self.recorder.warn(message, why)
        self.dispatcher.wait(message, at)

    def hold_commits(self) -> None:
        """From now on nothing is written."""
        self.journal.kick_later = self.kicks.append

    def commit(self) -> None:
        """All that was appended is on disk, and whoever waits for it knows."""
        self.journal.kick_later = None
        for kick in self.kicks:
            kick()
        self.kicks.clear()
        while self.journal.waiting:
            self._one_commit()

    def flush(self) -> None:
        """The small records that gathered are written, too: a message that goes along says so."""
        self.journal.flush()
        told: list[int] = []
        message = new_message(make_accepted({"recipients": [(b"x@example.net", 0, b"")]}, b"", self.journal.new_id()))
        self.journal.append(message, CallbackReceiver(lambda _, error: told.append(error)))
        self.commit()
        assert told == [0]
        self.ways.pop(message.queue_id, None)
        self.journal.done(message)
        self.dispatcher.table.discard(message)

    def _one_commit(self) -> None:
        poll = select.poll()
        poll.register(self.journal.event_fd, select.POLLIN)
        if not poll.poll(WAIT_S * 1000):
            raise TimeoutError("the commit thread said nothing")
        self.journal.on_commit()

    def after_crash(self, to: Path) -> Desk:
        """What a process finds that starts after this one died now."""
        shutil.copytree(self.folder, to)
        return Desk(to, clock=self.clock, retry=self.retry)

    def close(self) -> None:
        self.journal.close()
        self.events.close()

    # ---------------------------------------------------------------- what the test looks at

    def notifications(self) -> list[EmailMessage]:
        """Every notification in the queue."""
        found = []
        for message in self.dispatcher.table:
            buffer = message.buffer or load_message(self.journal.read_record(message))
            if buffer.envelope()["listener"] == b"bounce":
                parsed = email.message_from_bytes(buffer.mail_data(), policy=email.policy.SMTPUTF8)
                assert isinstance(parsed, EmailMessage)
                assert not parsed.defects
                found.append(parsed)
        return found

    def told(self) -> list[tuple[str, str]]:
        """(Final-Recipient, Action) of all notifications in the queue."""
        return [
            (group["Final-Recipient"].partition("; ")[2], group["Action"])
            for dsn in self.notifications()
            for group in list(dsn.iter_parts())[1].get_payload()[1:]  # type: ignore[attr-defined, union-attr, index]
        ]

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Events of that name."""
        self.events.flush()
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["event"] == event]

    def count(self, slot: Slot) -> int:
        return self.counters.value(slot)
