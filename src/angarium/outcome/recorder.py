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
from typing import TYPE_CHECKING

from angarium._core.client_session import Phase
from angarium._core.counters import Counters, Slot
from angarium._core.record import RecordType, shard_of
from angarium._core.recovery import encode_outcome
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
OWN_REPLY = 451  # what is logged where no host said anything


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

    def settle(self, delivery: Delivery) -> None:
        """Take a delivery's results in."""
        message = delivery.message
        results = delivery.results or []
        self._counters.add(Slot.DELIVERY_ATTEMPTS, 1)
        accepted = sum(1 for _, code, _, _, phase in results if code // 100 == 2 and phase == Phase.PHASE_FINAL)
        failed: list[RecipientReport] = []
        replies = message.replies or {}
        for index, code, enhanced, text, phase in results:
            outcome = classify(code, enhanced, text, phase, accepted_recipients=accepted)
            message.set_recipient_state(index, outcome.state)
            self._counters.add(_SLOTS[outcome.state], 1)
            self._dispatcher.log_attempt(
                _EVENTS[outcome.state], delivery, index, outcome.reply_code or OWN_REPLY, outcome.status, text
            )
            if outcome.state is RecipientState.DELIVERED:
                replies.pop(index, None)
                continue
            replies[index] = (outcome.reply_code or OWN_REPLY, b"%s %s" % (str(outcome.status).encode(), text))
            if outcome.state is RecipientState.FAILED:
                failed.append(report_of(message, index, outcome, enhanced, delivery.host, self._clock.now()))
            elif outcome.state is RecipientState.IN_DOUBT:
                self._counters.add(Slot.DELIVERY_DUPLICATES_POSSIBLE, 1)
                message.in_doubt = True
            if outcome.soon:
                message.soon = True
        message.replies = replies or None
        if message.in_doubt:
            self._events.flush()  # it is in the log before it can be sent again
        if failed:
            self._bounce(message, failed)
        self._dispatcher.finish(delivery)

    def reconsider(self, message: Message) -> None:
        """All deliveries of this round are over and some recipients are left: schedule the next attempt, or give up."""
        now = self._clock.now()
        at: float | None
        if message.soon:
            # the host takes so many recipients at a time: the rest go at once, and that is no new attempt
            message.soon = False
            at = now
        else:
            message.set_attempts(message.attempts + 1)
            at = self._next_attempt(message)
        if at is None:
            self.expire(message)
            return
        self._write_outcome(message, at)
        try:
            self._dispatcher.persist(message)
        except OSError as failure:
            log.error("message %s (class memory) could not be written: %s", message.queue_id, failure)
        self._dispatcher.wait(message, at)

    def partial(self, message: Message) -> None:
        """Some recipients are done while other deliveries go on: a crash must not send to the former again."""
        self._write_outcome(message, 0.0)

    def expire(self, message: Message) -> None:
        """The time of message is over: its sender is told of the recipients that are left."""
        now = self._clock.now()
        self._counters.add(Slot.QUEUE_EXPIRED, 1)
        reports = []
        replies = message.replies or {}
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

    def _write_outcome(self, message: Message, next_attempt: float) -> None:
        if message.segment is None:
            return  # class memory: persist writes the whole message
        replies = message.replies or {}
        entries = []
        for index in range(message.recipients):
            state = message.recipient_state(index)
            if state != RecipientState.QUEUED:
                code, text = replies.get(index, (0, b""))
                entries.append((index, state, code, text))
        journal = self._dispatcher.journals[shard_of(message.id)]
        try:
            journal.append_record(
                RecordType.RECORD_OUTCOME, message.id, encode_outcome(message.attempts, next_attempt, entries)
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
