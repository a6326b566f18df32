"""What an operator does to one message: the one place that reaches into the dispatcher for it.

Each method answers with what became of the message (Effect) and leaves a line in the event log. A message that an
attempt is under way for, or that is being bounced, is not deleted or bounced: nobody can call back octets that are on
their way. A hold and its release are noted for when it comes back.

Fails: OSError when the journal takes no record; the message is then as it was, or, when it was to end, ends in memory
and is recorded as soon as the journal can.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from angarium._core.record import MessageState, RecordType
from angarium.mail.address import folded_domain, split_mailbox
from angarium.mail.status import EnhancedStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from angarium._core.dispatch import Dispatcher, ReadyQueue
    from angarium._core.event_log import EventLog
    from angarium._core.record import MailBuffer, Message
    from angarium.outcome.recorder import Recorder
    from angarium.queue.suspension import Suspension

__all__ = ["Effect", "Steering"]

BOUNCED = EnhancedStatus(5, 7, 1)  # RFC 3463 §3.8: delivery not authorized


_OF_NEXT_HOPS = ("site", "source")  # what ready queues look at; the others are looked at by scheduled queues


class Effect(Enum):
    """What became of a message under an operator's hand."""

    DONE = "done"
    UNDER_WAY = "under_way"  # a connection has it
    UNCHANGED = "unchanged"  # it is so already, or it is over
    OTHERS = "others"  # recipients are left who were not meant
    FAILED = "failed"


class Steering:
    """Acts on the messages of one worker, on behalf of `by`."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        recorder: Recorder,
        events: EventLog,
        ready_queues: Callable[[], Iterable[ReadyQueue]],
    ) -> None:
        self._dispatcher = dispatcher
        self._recorder = recorder
        self._events = events
        self._ready_queues = ready_queues
        self._suspended: dict[tuple[str, str], Suspension] = {}

    # -------------------------------------------------------------- messages

    def hold(self, message: Message, reason: str, by: str) -> Effect:
        """Keep it from delivery until it is released."""
        if message.state in (MessageState.MESSAGE_HELD, MessageState.MESSAGE_GONE):
            return Effect.UNCHANGED
        self._note(message, RecordType.RECORD_HOLD)
        held = self._dispatcher.hold(message)
        self._events.event("hold", {"id": message.queue_id, "by": by, "why": reason})
        return Effect.DONE if held else Effect.UNDER_WAY

    def release(self, message: Message, by: str) -> Effect:
        """A held message goes on."""
        if message.state not in (MessageState.MESSAGE_HELD, MessageState.MESSAGE_READY):
            return Effect.UNCHANGED
        self._note(message, RecordType.RECORD_RELEASE)
        if message.state == MessageState.MESSAGE_READY:
            self._dispatcher.release(message)  # it was to be held when it comes back, or not
            return Effect.UNDER_WAY
        self._dispatcher.release(message)
        self._events.event("release", {"id": message.queue_id, "by": by})
        return Effect.DONE

    def retry(self, message: Message) -> Effect:
        """Try it as soon as there is room, whatever its schedule says. What is held stays held."""
        if message.state in (MessageState.MESSAGE_HELD, MessageState.MESSAGE_GONE):
            return Effect.UNCHANGED
        return Effect.DONE if self._dispatcher.retry_now(message) else Effect.UNDER_WAY

    def delete(self, message: Message, reason: str, by: str) -> Effect:
        """End it; nobody is told."""
        if message.state == MessageState.MESSAGE_GONE:
            return Effect.UNCHANGED
        if message.state == MessageState.MESSAGE_READY:  # an attempt, or a notification that ends it
            return Effect.UNDER_WAY
        recipients = len(message.unfinished())
        self._dispatcher.drop(message)
        self._events.event("deletion", {"id": message.queue_id, "recipients": recipients, "by": by, "why": reason})
        return Effect.DONE

    def bounce(self, message: Message, buffer: MailBuffer, indices: list[int], reason: str) -> Effect:
        """End it for these recipients, as failed, and tell its sender."""
        if message.state == MessageState.MESSAGE_GONE:
            return Effect.UNCHANGED
        if message.state == MessageState.MESSAGE_READY:  # an attempt, or a notification that ends it
            return Effect.UNDER_WAY
        if message.buffer is None:
            message.buffer = buffer
        self._recorder.give_up(message, indices, BOUNCED, reason.encode())
        if message.state != MessageState.MESSAGE_GONE and message.segment is not None and message.buffer is buffer:
            message.buffer = None  # it goes on waiting as it did
        return Effect.DONE

    def _note(self, message: Message, what: RecordType) -> None:
        """Into the journal first: what is said to be held is held after a crash."""
        if message.segment is not None:
            self._dispatcher.journal(message).append_record(what, message.id, b"")

    def flush(self) -> None:
        """What was done goes to the disk now."""
        for journal in self._dispatcher.journals.values():
            journal.flush()

    # -------------------------------------------------------------- suspensions

    def apply(self, suspensions: Iterable[Suspension]) -> tuple[int, int]:
        """Suspend what is in the list and resume what is not any more. Returns how many of each."""
        wanted = {suspension.key: suspension for suspension in suspensions}
        rests = False
        resumed = [key for key in self._suspended if key not in wanted]
        for kind, name in resumed:
            self._dispatcher.resume(kind, name.encode())
            rests |= kind in _OF_NEXT_HOPS
            self._events.event("resumption", {"kind": kind, "name": name})
            del self._suspended[kind, name]
        started = 0
        for key, suspension in wanted.items():
            if self._suspended.get(key) == suspension:
                continue
            kind, name = key
            self._dispatcher.suspend(kind, name.encode(), suspension.until.timestamp(), suspension.reason)
            self._events.event(
                "suspension",
                {
                    "kind": kind,
                    "name": name,
                    "by": suspension.by,
                    "why": suspension.reason,
                    "until": suspension.until.isoformat(timespec="seconds").replace("+00:00", "Z"),
                },
            )
            self._suspended[key] = suspension
            rests |= kind in _OF_NEXT_HOPS
            started += 1
        if rests:
            for queue in self._ready_queues():
                queue.apply_suspensions()
        return started, len(resumed)

    @property
    def suspended(self) -> dict[tuple[str, str], Suspension]:
        """What is suspended here now."""
        return self._suspended


def recipients_in(buffer: MailBuffer, message: Message, domain: bytes | None) -> tuple[list[int], bool]:
    """The recipients of that domain for whom something is left to do, and whether there are others.

    Without a domain all are meant.
    """
    unfinished = message.unfinished()
    if domain is None:
        return unfinished, False
    meant = [index for index in unfinished if folded_domain(split_mailbox(buffer.recipient(index)[0])[1]) == domain]
    return meant, len(meant) < len(unfinished)
