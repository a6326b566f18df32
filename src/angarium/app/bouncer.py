"""Notifications to senders go through the same durable queue as all mail.

Input: a message and reports about its recipients. Output: delivery status notifications (RFC 3464) accepted by the
intake like messages from outside, but under no limit of outside mail: neither its size nor the memory budget nor
anything else that reception looks at. `told(True)` is called when all of them are on disk, or when nobody wants any;
until then whoever called keeps the message as it is, so that a crash loses no notification.

Never a notification about a notification: mail with the null reverse-path that fails is a double bounce, logged and
counted, and ends here (RFC 5321 §4.5.5, RFC 3464 §2). What is sent carries NOTIFY=NEVER besides, and a trace field, so
that a loop is counted out wherever it closes.

Fails: on a full disk a notification returns the header alone, and takes a part of the room that is kept for the ends of
messages: else a queue in which all mail has failed could never become smaller. When the journal takes nothing (failed,
or that room is used up), the notification waits in memory and is submitted again every RETRY_S; its message stays in
the journal as it is, so nothing depends on that memory.

Bounds: MOST_WAITING notifications, MOST_WAITING_OCTETS of them and of the mail they are about. What comes beyond is not
taken: `told(False)` puts it off until its message comes by again; the notification of a success, whose message must not
come by again, is dropped, logged by id and counted. One notification tells of MOST_RECIPIENTS; more recipients make
more of them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from email.utils import formatdate
from functools import partial
from typing import TYPE_CHECKING

from angarium._core.command import BodyType, Notify, ReturnContent
from angarium._core.counters import Slot
from angarium._core.journal import CallbackReceiver, JournalFull
from angarium._core.record import MessageFlag
from angarium.outcome.bounce import LONGEST_ORIGINAL, build_dsn
from angarium.outcome.report import OriginalMessage, is_success, is_wanted
from angarium.queue.record import format_id, make_accepted, new_message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from angarium._core.counters import Counters
    from angarium._core.dispatch import JournalIntake
    from angarium._core.event_log import EventLog
    from angarium._core.record import Message
    from angarium.clock import Clock
    from angarium.config.wording import Wording
    from angarium.outcome.bounce import DeliveryStatusNotification
    from angarium.outcome.report import RecipientReport

log = logging.getLogger(__name__)

RETRY_S = 5.0
MOST_WAITING = 10_000
MOST_WAITING_OCTETS = 64 << 20
MOST_RECIPIENTS = 200

_SLOTS = {
    "failed": Slot.OUTCOME_NOTIFICATIONS_FAILED,
    "expired": Slot.OUTCOME_NOTIFICATIONS_FAILED,
    "delayed": Slot.OUTCOME_NOTIFICATIONS_DELAYED,
}


class _Telling:
    """The notifications of one call of `tell`, and who waits for them."""

    def __init__(self, parts: int, told: Callable[[bool], None]) -> None:
        self._left = parts
        self._room = True
        self._told = told

    def end(self, room: bool) -> None:
        """One of them is on disk, or was not taken."""
        self._left -= 1
        self._room = self._room and room
        if self._left == 0:
            self._told(self._room)


class _Notice:
    """One notification on its way to the journal."""

    __slots__ = ("about", "build", "dsn", "octets", "put_off", "requiretls", "small", "telling")

    def __init__(
        self,
        build: Callable[[int], DeliveryStatusNotification],
        longest_original_octets: int,
        about: str,
        original_octets: int,
        put_off: bool,
        telling: _Telling,
    ) -> None:
        self.build = build
        self.dsn = build(longest_original_octets)
        self.about = about
        self.octets = len(self.dsn.mail_data) + original_octets
        self.put_off = put_off  # else it is dropped where there is no room
        self.small = False
        self.requiretls = False
        self.telling = telling

    def shrink(self) -> None:
        """Return the header alone, and take what is left of a full disk."""
        self.dsn = self.build(0)
        self.small = True


class Bouncer:
    """Writes and submits the notifications of one worker."""

    def __init__(
        self,
        intake: JournalIntake,
        counters: Counters,
        events: EventLog,
        clock: Clock,
        *,
        hostname: str,
        wordings: Sequence[Wording] = (),
        longest_original_octets: int = LONGEST_ORIGINAL,
        call_later: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        self._intake = intake
        self._counters = counters
        self._events = events
        self._clock = clock
        self._hostname = hostname
        self._wordings = wordings
        self._longest_original_octets = longest_original_octets
        self._call_later = call_later
        self._waiting: deque[_Notice] = deque()
        self._waiting_octets = 0
        self._asked = False
        self.committing = 0  # notifications on their way to the disk

    def change(self, *, hostname: str, wordings: Sequence[Wording], longest_original_octets: int) -> None:
        """Another name, other words, another length, from the next notification on."""
        self._hostname = hostname
        self._wordings = wordings
        self._longest_original_octets = longest_original_octets

    @property
    def waiting(self) -> int:
        """Notifications that no journal has taken yet."""
        return len(self._waiting)

    def tell(self, message: Message, reports: list[RecipientReport], told: Callable[[bool], None]) -> None:
        """Tell the sender of message about reports; `told` is called once, now or later (see above)."""
        envelope = message.loaded.envelope()
        if not envelope["reverse_path"]:
            lost = [report for report in reports if report.action == "failed"]
            if lost:
                self._counters.add(Slot.OUTCOME_DOUBLE_BOUNCES, 1)
                self._events.event("double_bounce", {"id": message.queue_id, "recipients": len(lost)})
                log.warning("message %s: a notification could not be delivered (double bounce)", message.queue_id)
            told(True)
            return
        wanted = [report for report in reports if is_wanted(report.kind, report.notify)]
        if not wanted:
            told(True)
            return
        # RFC 8689 §5: what must not be read on its way is not returned, and the notification asks for TLS too
        required = bool(envelope["flags"] & MessageFlag.MESSAGE_REQUIRETLS)
        original = OriginalMessage(
            queue_id=message.queue_id,
            reverse_path=envelope["reverse_path"],
            mail_data=message.loaded.mail_data(),
            received=envelope["received_us"] * 1e-6,
            envid=envelope["envid"],
            ret=ReturnContent.RET_HDRS if required else envelope["ret"],
            smtputf8=bool(envelope["flags"] & MessageFlag.MESSAGE_SMTPUTF8),
        )
        groups = [wanted[i : i + MOST_RECIPIENTS] for i in range(0, len(wanted), MOST_RECIPIENTS)]
        telling = _Telling(len(groups), told)
        for group in groups:
            build = partial(
                self._build, original, group, f"{format_id(self._intake.new_id()).lower()}@{self._hostname}"
            )
            put_off = not all(is_success(report.kind) for report in group)
            octets = len(original.mail_data)
            notice = _Notice(build, self._longest_original_octets, message.queue_id, octets, put_off, telling)
            notice.requiretls = required
            self._submit(notice)

    def _build(
        self, original: OriginalMessage, reports: list[RecipientReport], message_id: str, longest_original_octets: int
    ) -> DeliveryStatusNotification:
        dsn = build_dsn(
            original,
            reports,
            hostname=self._hostname,
            now=self._clock.now(),
            message_id=message_id,
            wordings=self._wordings,
            longest_original_octets=longest_original_octets,
        )
        assert dsn is not None  # every report is wanted
        return dsn

    def _submit(self, notice: _Notice) -> bool:
        """Hand it to the intake; False when it waits, or is over."""
        try:
            if not notice.small:
                try:
                    self._append(notice)
                except JournalFull:
                    notice.shrink()
                else:
                    return True
            self._append(notice)
        except OSError as failure:
            self._wait(notice, str(failure))
            return False
        return True

    def _append(self, notice: _Notice) -> None:
        dsn = notice.dsn
        number = self._intake.new_id()
        flags = MessageFlag.MESSAGE_EIGHT_BIT if dsn.eight_bit else 0
        if dsn.smtputf8:
            flags |= MessageFlag.MESSAGE_SMTPUTF8
        if notice.requiretls:
            flags |= MessageFlag.MESSAGE_REQUIRETLS
        date = formatdate(self._clock.now(), localtime=False).replace("-0000", "+0000")
        trace = f"Received: by {self._hostname} id {format_id(number)}\r\n\tabout {notice.about}; {date}\r\n"
        buffer = make_accepted(
            {
                "reverse_path": dsn.reverse_path,
                "recipients": [(dsn.recipient, Notify.NOTIFY_NEVER, b"")],
                "listener": b"bounce",
                "received_us": int(self._clock.now() * 1e6),
                "body": BodyType.BODY_8BITMIME if dsn.eight_bit else BodyType.BODY_UNSTATED,
                "flags": flags,
            },
            trace.encode("ascii") + dsn.mail_data,
            number,
        )
        message = new_message(buffer)
        self._intake.submit(message, CallbackReceiver(partial(self._committed, notice)), notice.small)
        self.committing += 1

    def _committed(self, notice: _Notice, message: Message, error: int) -> None:
        """The notification is on disk, or could not be written."""
        self.committing -= 1
        if error:
            self._wait(notice, f"errno {error}")
            return
        self._counters.add(_SLOTS.get(notice.dsn.kind, Slot.OUTCOME_NOTIFICATIONS_SUCCESS), 1)
        self._events.event("notification", {"id": message.queue_id, "about": notice.about, "class": notice.dsn.kind})
        notice.telling.end(True)

    def _wait(self, notice: _Notice, why: str) -> None:
        if len(self._waiting) >= MOST_WAITING or self._waiting_octets + notice.octets > MOST_WAITING_OCTETS:
            if notice.put_off:
                self._counters.add(Slot.OUTCOME_NOTIFICATIONS_PUT_OFF, 1)
                log.warning("the notification about message %s is put off: too many wait (%s)", notice.about, why)
            else:
                self._counters.add(Slot.OUTCOME_NOTIFICATIONS_DROPPED, 1)
                log.error("the notification about message %s is dropped: too many wait (%s)", notice.about, why)
            notice.telling.end(False)
            return
        if not self._waiting:
            log.warning("the notification about message %s waits: %s", notice.about, why)
        self._waiting.append(notice)
        self._waiting_octets += notice.octets
        self._counters.set(Slot.OUTCOME_NOTIFICATIONS_WAITING, len(self._waiting))
        if not self._asked:
            self._asked = True
            later = self._call_later or asyncio.get_running_loop().call_later
            later(RETRY_S, self._submit_waiting)

    def _submit_waiting(self) -> None:
        self._asked = False
        waiting, self._waiting = self._waiting, deque()
        self._waiting_octets = 0
        while waiting and self._submit(waiting.popleft()):
            pass
        for notice in waiting:  # where one finds no room, the others find none
            self._wait(notice, "no journal takes records")
        self._counters.set(Slot.OUTCOME_NOTIFICATIONS_WAITING, len(self._waiting))
