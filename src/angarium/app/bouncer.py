"""Failure notifications go through the same durable queue as all mail.

Input: a message and its recipients who will not get it. Output: a DSN (RFC 3464) accepted by the intake like a message
from outside, but under no limit of outside mail. None for a message with the null reverse-path: then it is a double
bounce, logged and counted, and ends here.

Fails: when the intake takes nothing, the notification waits in memory and is submitted again (RETRY_S); the message's
own end is not held up. Bound: MOST_WAITING notifications wait; beyond it they are dropped, logged by id."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

from angarium._core.command import BodyType
from angarium._core.record import MessageFlag
from angarium.outcome.bounce import OriginalMessage, build_dsn
from angarium.queue.record import format_id, make_accepted, new_message

if TYPE_CHECKING:
    from angarium._core.dispatch import JournalIntake
    from angarium._core.event_log import EventLog
    from angarium._core.record import Message
    from angarium.clock import Clock
    from angarium.outcome.bounce import DeliveryStatusNotification, RecipientReport

log = logging.getLogger(__name__)

RETRY_S = 5.0
MOST_WAITING = 10_000


class Bouncer:
    """Writes and submits the notifications of one worker."""

    def __init__(self, intake: JournalIntake, events: EventLog, clock: Clock, *, hostname: str) -> None:
        self._intake = intake
        self._events = events
        self._clock = clock
        self._hostname = hostname
        self._waiting: deque[DeliveryStatusNotification] = deque()

    def bounce(self, message: Message, reports: list[RecipientReport]) -> None:
        """Tell the sender of message about reports."""
        envelope = message.loaded.envelope()
        if not envelope["reverse_path"]:
            self._events.event("double_bounce", {"id": message.queue_id, "recipients": len(reports)})
            log.warning("message %s: a notification could not be delivered (double bounce)", message.queue_id)
            return
        original = OriginalMessage(
            queue_id=message.queue_id,
            reverse_path=envelope["reverse_path"],
            mail_data=message.loaded.mail_data(),
            received=message.received_us * 1e-6,
            envid=envelope["envid"],
            ret=envelope["ret"],
            smtputf8=bool(envelope["flags"] & MessageFlag.MESSAGE_SMTPUTF8),
        )
        notification = build_dsn(
            original,
            reports,
            hostname=self._hostname,
            now=self._clock.now(),
            message_id=f"{format_id(self._intake.new_id()).lower()}@{self._hostname}",
        )
        if notification is not None:
            self._submit(notification, message.queue_id)

    def _submit(self, notification: DeliveryStatusNotification, about: str) -> None:
        number = self._intake.new_id()
        flags = MessageFlag.MESSAGE_EIGHT_BIT if notification.eight_bit else 0
        if notification.smtputf8:
            flags |= MessageFlag.MESSAGE_SMTPUTF8
        trace = f"Received: by {self._hostname} id {format_id(number)}\r\n\tabout {about}; {self._date()}\r\n"
        buffer = make_accepted(
            {
                "reverse_path": notification.reverse_path,
                "recipients": [(notification.recipient, 0, b"")],
                "listener": b"bounce",
                "received_us": int(self._clock.now() * 1e6),
                "body": BodyType.BODY_8BITMIME if notification.eight_bit else BodyType.BODY_UNSTATED,
                "flags": flags,
            },
            trace.encode("ascii") + notification.mail_data,
            number,
        )
        try:
            self._intake.submit(new_message(buffer))
        except OSError as failure:
            if len(self._waiting) >= MOST_WAITING:
                log.error("the notification about message %s is dropped: too many wait", about)
                return
            log.warning("the notification about message %s waits: %s", about, failure)
            self._waiting.append(notification)
            if len(self._waiting) == 1:
                asyncio.get_running_loop().call_later(RETRY_S, self._submit_waiting)
            return
        self._events.event("notification", {"id": format_id(number), "about": about})

    def _submit_waiting(self) -> None:
        for _ in range(len(self._waiting)):
            self._submit(self._waiting.popleft(), "earlier")

    def _date(self) -> str:
        from email.utils import formatdate  # noqa: PLC0415  # only who bounces mail needs it

        return formatdate(self._clock.now(), localtime=False).replace("-0000", "+0000")
