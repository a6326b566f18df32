"""What became of an attempt, when it is not simply "delivered to all".

Job: turn each recipient's result into its state (by `classify`), count and log it, write the outcome into the journal,
and decide what comes next: another attempt later, a notification to the sender, or the end of the message.

Input: deliveries whose `results` are set: (recipient index, reply code or 0, enhanced status, text, phase). Code 0
means that no reply was seen: before the last octet had left, nothing was delivered and the recipient is deferred; after
it, the recipient is in doubt, and is sent to again (counted as a possible duplicate).

Fails: when the journal takes no record, the state stays in memory and the message is tried again; after a crash it
would be tried once more from its last journalled state."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from angarium._core.client_session import Phase
from angarium._core.counters import Counters, Slot
from angarium.mail.status import EnhancedStatus, RecipientState
from angarium.outcome.bounce import RecipientReport
from angarium.outcome.classify import Outcome, classify

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium._core.dispatch import Delivery, Dispatcher
    from angarium._core.event_log import EventLog
    from angarium._core.record import Message
    from angarium.clock import Clock

__all__ = ["Recorder", "report_of"]

log = logging.getLogger(__name__)

_EVENTS = {
    RecipientState.DELIVERED: "delivery",
    RecipientState.DEFERRED: "deferral",
    RecipientState.FAILED: "bounce",
    RecipientState.IN_DOUBT: "in_doubt",
}
_SLOTS = {
    RecipientState.DELIVERED: Slot.DELIVERY_DELIVERED_RECIPIENTS,
    RecipientState.DEFERRED: Slot.DELIVERY_DEFERRED_RECIPIENTS,
    RecipientState.FAILED: Slot.DELIVERY_FAILED_RECIPIENTS,
    RecipientState.IN_DOUBT: Slot.QUEUE_IN_DOUBT_TOTAL,
}
GIVEN_UP = 554  # what is logged where an operator has ended it
_DURABILITY = ("fsync", "async", "memory")
OWN_REPLY = 451  # what is logged where no host said anything


@dataclass(slots=True)
class _Part:
    """What one delivery came to, until it is in the journal."""

    message: Message
    next_hop: bytes
    host: bytes
    entries: list[tuple[int, int, int, bytes]] = field(default_factory=list)


class Recorder:
    """Settles what deliveries came to, for one worker.

    `next_attempt(message)` is the unix time of the attempt after those that were made, None when the message's time is
    over. `bounce(message, reports)` tells the sender of recipients who will not get the message."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        counters: Counters,
        events: EventLog,
        clock: Clock,
        *,
        next_attempt: Callable[[Message], float | None],
        bounce: Callable[[Message, list[RecipientReport]], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._counters = counters
        self._events = events
        self._clock = clock
        self._next_attempt = next_attempt
        self._bounce = bounce
        self._part: _Part | None = None  # of the delivery that is being settled

    def settle(self, delivery: Delivery) -> None:
        """Take a delivery's results in."""
        message = delivery.message
        results = delivery.results or []
        self._counters.add(Slot.DELIVERY_ATTEMPTS, 1)
        accepted = sum(1 for _, code, _, _, phase in results if code // 100 == 2 and phase == Phase.PHASE_FINAL)
        failed: list[RecipientReport] = []
        part = self._part = _Part(message, delivery.queue.next_hop, delivery.host or b"")
        for index, code, enhanced, text, phase in results:
            outcome = classify(code, enhanced, text, phase, accepted_recipients=accepted)
            message.set_recipient_state(index, outcome.state)
            self._counters.add(_SLOTS[outcome.state], 1)
            self._dispatcher.log_attempt(
                _EVENTS[outcome.state], delivery, index, outcome.reply_code or OWN_REPLY, outcome.status, text
            )
            reply = b"%s %s" % (str(outcome.status).encode(), text)
            part.entries.append((index, outcome.state, outcome.reply_code or OWN_REPLY, reply))
            if outcome.state is RecipientState.FAILED:
                failed.append(report_of(message, index, outcome, enhanced, delivery.host, self._clock.now()))
            elif outcome.state is RecipientState.IN_DOUBT:
                self._counters.add(Slot.DELIVERY_DUPLICATES_POSSIBLE, 1)
                message.in_doubt = True
            if outcome.soon:
                message.soon = True
        if message.in_doubt:
            self._events.flush()  # it is in the log before it can be sent again
        if failed:
            self._bounce(message, failed)
        self._dispatcher.finish(delivery)
        self._part = None

    def delivered(self, delivery: Delivery, code: int, text: bytes) -> None:
        """Keep the reply of a delivery that went well until the journal is told that some of the message is left."""
        self._part = _Part(delivery.message, delivery.queue.next_hop, delivery.host or b"")
        self._part.entries += [(index, RecipientState.DELIVERED, code, text) for index in delivery.indices()]

    def reconsider(self, message: Message) -> None:
        """All deliveries of this round are over and some recipients are left: schedule the next attempt, or give up."""
        now = self._clock.now()
        attempt = message.attempts + 1
        at: float | None
        if message.soon:
            # the host takes so many recipients at a time: the rest go at once, and that is no new attempt
            message.soon = False
            at = now
        else:
            message.set_attempts(attempt)
            at = self._next_attempt(message)
        if at is None:
            self.expire(message)
            return
        try:
            self._dispatcher.persist(message)
        except OSError as failure:
            log.error("message %s (class memory) could not be written: %s", message.queue_id, failure)
        self._write_outcome(message, attempt, at)
        self._dispatcher.wait(message, at)

    def partial(self, message: Message) -> None:
        """Some recipients are done while other deliveries go on: a crash must not send to the former again."""
        self._write_outcome(message, message.attempts + 1, 0.0)

    def give_up(self, message: Message, indices: list[int], status: EnhancedStatus, text: bytes) -> None:
        """An operator has decided that these recipients will not get message: they fail, and its sender is told.

        Its mail data is in memory, and no delivery is under way. When nobody else is left, that is its end.
        """
        now = self._clock.now()
        envelope = message.loaded.envelope()
        reports = []
        part = self._part = _Part(message, b"", b"")
        for index in indices:
            path, notify, orcpt = envelope["recipients"][index]
            part.entries.append((index, RecipientState.FAILED, GIVEN_UP, b"%s %s" % (str(status).encode(), text)))
            message.set_recipient_state(index, RecipientState.FAILED)
            self._counters.add(Slot.DELIVERY_FAILED_RECIPIENTS, 1)
            self._events.event(
                "bounce",
                {
                    "id": message.queue_id,
                    "reverse_path": envelope["reverse_path"].decode("utf-8", "replace"),
                    "recipient": path.decode("utf-8", "replace"),
                    "next_hop": "",
                    "site": "",
                    "tenant": envelope["tenant"].decode("utf-8", "replace"),
                    "reply": {"code": GIVEN_UP, "enhanced": str(status), "text": text.decode("utf-8", "replace")},
                    "class": "failed",
                    "durability": _DURABILITY[message.durability],
                    "attempts": message.attempts,
                    "age_s": round(now - message.received_us * 1e-6, 3),
                    "attempt_s": 0.0,
                },
            )
            reports.append(
                RecipientReport(
                    forward_path=path,
                    action="failed",
                    status=status,
                    text=text,
                    orcpt=orcpt,
                    notify=notify,
                    last_attempt=now if message.attempts else None,
                )
            )
        self._bounce(message, reports)
        if message.unfinished():
            self._write_outcome(message, message.attempts, message.next_attempt)
        else:
            self._dispatcher.drop(message)
        self._part = None

    def expire(self, message: Message) -> None:
        """The time of message is over: its sender is told of the recipients that are left."""
        now = self._clock.now()
        self._counters.add(Slot.QUEUE_EXPIRED, 1)
        reports = []
        replies = self._last_replies(message)
        for index in message.unfinished():
            code, text = replies.get(index, (OWN_REPLY, b"no attempt was answered"))
            message.set_recipient_state(index, RecipientState.EXPIRED)
            self._counters.add(Slot.DELIVERY_EXPIRED_RECIPIENTS, 1)
            path, notify, orcpt = message.loaded.recipient(index)
            self._events.event(
                "expiry",
                {
                    "id": message.queue_id,
                    "reverse_path": message.loaded.reverse_path().decode("utf-8", "replace"),
                    "recipient": path.decode("utf-8", "replace"),
                    "class": "expired",
                    "attempts": message.attempts,
                    "age_s": round(now - message.received_us * 1e-6, 3),
                    "reply": {"code": code, "enhanced": None, "text": text.decode("utf-8", "replace")},
                },
            )
            reports.append(
                RecipientReport(
                    forward_path=path,
                    action="failed",
                    status=EnhancedStatus(4, 4, 7),
                    text=b"expired; the last answer was: " + text,
                    orcpt=orcpt,
                    notify=notify,
                    last_attempt=now,
                )
            )
        self._bounce(message, reports)
        self._dispatcher.drop(message)

    def _last_replies(self, message: Message) -> dict[int, tuple[int, bytes]]:
        """Of the recipients who are left: from the attempt that just ended, else from the journal (a short read)."""
        replies: dict[int, tuple[int, bytes]] = {}
        if message.segment is not None:
            try:
                replies = self._dispatcher.journal(message).last_replies(message)
            except OSError as failure:
                log.error("message %s: its last replies cannot be read: %s", message.queue_id, failure)
        if self._part is not None and self._part.message is message:
            replies |= {index: (code, text) for index, _, code, text in self._part.entries}
        return replies

    def _write_outcome(self, message: Message, attempt: int, next_attempt: float) -> None:
        part, self._part = self._part, None
        if message.segment is None:
            return  # class memory, and the journal took nothing: the next outcome says what has ended
        if part is None or part.message is not message:
            part = _Part(message, b"", b"")
        journal = self._dispatcher.journal(message)
        try:
            journal.append_outcome(
                message,
                part.entries,
                attempted=self._clock.now(),
                attempt=attempt,
                next_attempt=next_attempt,
                next_hop=part.next_hop,
                host=part.host,
            )
        except OSError as failure:
            log.error("message %s: its outcome could not be written: %s", message.queue_id, failure)
            return
        journal.settle_in_flight(message)


def report_of(
    message: Message,
    index: int,
    outcome: Outcome,
    enhanced: tuple[int, int, int] | None,
    host: bytes | None,
    now: float,
) -> RecipientReport:
    """What the sender is told of one recipient who failed."""
    path, notify, orcpt = message.loaded.recipient(index)
    from_host = outcome.from_host and host is not None
    return RecipientReport(
        forward_path=path,
        action="failed",
        status=outcome.status,
        text=outcome.text,
        reply_code=outcome.reply_code if from_host else 0,
        reply_enhanced=enhanced if from_host else None,
        remote_mta=host.partition(b"[")[0] if from_host and host is not None else b"",
        orcpt=orcpt,
        notify=notify,
        last_attempt=now,
    )
