"""What became of an attempt, when it is not simply "delivered to all".

Job: turn each recipient's result into its state, count and log it, write the outcome into the journal, and decide what comes next:
another attempt later, a notification to the sender, or the end of the message.

Input: deliveries whose `results` are set: (recipient index, reply code or 0, enhanced status, text, phase). Code 0 means that no reply was
seen: before the last octet had left, nothing was delivered and the recipient is deferred; after it, the recipient is in doubt, and
is sent to again (counted as a possible duplicate).

Fails: when the journal takes no record, the state stays in memory and the message is tried again; after a crash it would be
tried once more from its last journalled state.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from angarium._core.client_session import Phase
from angarium._core.counters import Counters, Slot
from angarium._core.record import RecipientState, RecordType, shard_of
from angarium._core.recovery import encode_outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium._core.dispatch import Delivery, Dispatcher
    from angarium._core.event_log import EventLog
    from angarium._core.record import Message
    from angarium.clock import Clock

log = logging.getLogger(__name__)

_FINAL = (RecipientState.RECIPIENT_DELIVERED, RecipientState.RECIPIENT_FAILED, RecipientState.RECIPIENT_EXPIRED)


@dataclass(frozen=True)
class FinalFailure:
    """A recipient who will not get the message, and why."""

    index: int
    code: int
    enhanced: tuple[int, int, int] | None
    text: bytes
    host: str


class Recorder:
    """Settles what deliveries came to, for one worker."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        counters: Counters,
        events: EventLog,
        clock: Clock,
        *,
        retry_delay_s: Callable[[int], float],
        expire_s: float,
        bounce: Callable[[Message, list[FinalFailure]], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._counters = counters
        self._events = events
        self._clock = clock
        self._retry_delay_s = retry_delay_s
        self._expire_s = expire_s
        self._bounce = bounce

    def settle(self, delivery: Delivery) -> None:
        """Take a delivery's results in."""
        message = delivery.message
        self._counters.add(Slot.DELIVERY_ATTEMPTS, 1)
        failures: list[FinalFailure] = []
        replies = message.replies or {}
        for index, code, enhanced, text, phase in delivery.results or ():
            state, event, code, enhanced = judge(code, enhanced, phase)  # noqa: PLW2901  # code 0 gets a code of our own
            message.set_recipient_state(index, state)
            self._dispatcher.log_attempt(event, delivery, index, code, enhanced, text)
            if state == RecipientState.RECIPIENT_DELIVERED:
                self._counters.add(Slot.DELIVERY_DELIVERED_RECIPIENTS, 1)
                replies.pop(index, None)
                continue
            replies[index] = (code, with_status(enhanced, text))
            if state == RecipientState.RECIPIENT_FAILED:
                self._counters.add(Slot.DELIVERY_FAILED_RECIPIENTS, 1)
                failures.append(FinalFailure(index, code, enhanced, text, delivery.queue.site.decode("ascii", "replace")))
            elif state == RecipientState.RECIPIENT_IN_DOUBT:
                self._counters.add(Slot.QUEUE_IN_DOUBT_TOTAL, 1)
                self._counters.add(Slot.DELIVERY_DUPLICATES_POSSIBLE, 1)
                message.in_doubt = True
            else:
                self._counters.add(Slot.DELIVERY_DEFERRED_RECIPIENTS, 1)
        message.replies = replies or None
        if failures:
            self._bounce(message, failures)
        self._dispatcher.finish(delivery)

    def reconsider(self, message: Message) -> None:
        """All deliveries of this round are over and some recipients are left: schedule the next attempt, or give up."""
        message.set_attempts(message.attempts + 1)
        now = self._clock.now()
        at = now + self._retry_delay_s(message.attempts)
        expires = message.received_us * 1e-6 + self._expire_s
        if now >= expires:
            self._expire(message)
            return
        # one last attempt at the very end of its time, not one after it
        self._write_outcome(message, min(at, expires))
        self._dispatcher.persist(message)
        self._dispatcher.wait(message, min(at, expires))

    def partial(self, message: Message) -> None:
        """Some recipients are done while other deliveries go on: a crash must not send to the former again."""
        self._write_outcome(message, 0.0)

    def _expire(self, message: Message) -> None:
        failures = []
        replies = message.replies or {}
        for index in message.unfinished():
            code, text = replies.get(index, (451, b"no attempt was answered"))
            message.set_recipient_state(index, RecipientState.RECIPIENT_EXPIRED)
            self._counters.add(Slot.DELIVERY_EXPIRED_RECIPIENTS, 1)
            self._counters.add(Slot.QUEUE_EXPIRED, 1)
            self._events.event(
                "expiry",
                {
                    "id": message.queue_id,
                    "recipient": _recipient(message, index),
                    "age_s": round(self._clock.now() - message.received_us * 1e-6, 3),
                    "reply": {"code": code, "text": text.decode("utf-8", "replace")},
                },
            )
            failures.append(FinalFailure(index, code, (4, 4, 7), b"expired; the last reply was: " + text, ""))
        self._bounce(message, failures)
        self._dispatcher.drop(message)

    def _write_outcome(self, message: Message, next_attempt: float) -> None:
        if message.segment is None:
            return  # class memory: persist writes the whole message
        replies = message.replies or {}
        entries = []
        for index in range(message.recipients):
            state = message.recipient_state(index)
            if state != RecipientState.RECIPIENT_QUEUED:
                code, text = replies.get(index, (0, b""))
                entries.append((index, state, code, text))
        journal = self._dispatcher.journals[shard_of(message.id)]
        try:
            journal.append_record(RecordType.RECORD_OUTCOME, message.id, encode_outcome(message.attempts, next_attempt, entries))
        except OSError as failure:
            log.error("message %s: its outcome could not be written: %s", message.queue_id, failure)
            return
        journal.settle_in_flight(message)


def judge(
    code: int, enhanced: tuple[int, int, int] | None, phase: int
) -> tuple[int, str, int, tuple[int, int, int] | None]:
    """(recipient state, event, reply code, enhanced status) of one result."""
    if code == 0 and phase == Phase.PHASE_FINAL:
        return RecipientState.RECIPIENT_IN_DOUBT, "in_doubt", 451, (4, 4, 2)
    if code == 0:
        return RecipientState.RECIPIENT_DEFERRED, "deferral", 451, (4, 4, 1) if phase == Phase.PHASE_CONNECT else (4, 4, 2)
    if code < 300:
        return RecipientState.RECIPIENT_DELIVERED, "delivery", code, enhanced
    if code >= 500 and phase < Phase.PHASE_MAIL:
        # the host will not talk to us now; another may, later (as Postfix has it)
        return RecipientState.RECIPIENT_DEFERRED, "deferral", 451, enhanced and (4, *enhanced[1:])
    if code == 552 and phase == Phase.PHASE_RCPT:
        # RFC 5321 §4.5.3.1.10: old hosts say 552 for "too many recipients"
        return RecipientState.RECIPIENT_DEFERRED, "deferral", 452, (4, 5, 3)
    if code >= 500:
        return RecipientState.RECIPIENT_FAILED, "bounce", code, enhanced
    return RecipientState.RECIPIENT_DEFERRED, "deferral", code, enhanced


def with_status(enhanced: tuple[int, int, int] | None, text: bytes) -> bytes:
    """A reply's text with its enhanced status in front."""
    return b"%d.%d.%d %s" % (*enhanced, text) if enhanced else text


def _recipient(message: Message, index: int) -> str:
    return message.buffer.recipient(index)[0].decode("utf-8", "replace") if message.buffer is not None else ""
