"""Messages of the relay's own, other than notifications, go through the same durable queue as all mail.

Input: reverse-path, recipient, mail data with `TLS-Required: No` in its header section: what is sent here is about
broken TLS, and must arrive where TLS is broken (RFC 8460 §3). Output: the queue id, when the message is on disk.

Nobody is told what becomes of it (NOTIFY=NEVER). Fails: OSError when no journal takes it."""

from __future__ import annotations

import asyncio
from email.utils import formatdate
from typing import TYPE_CHECKING

from angarium._core.command import BodyType, Notify
from angarium._core.journal import CallbackReceiver
from angarium._core.record import MessageFlag
from angarium.queue.record import format_id, make_accepted, new_message

if TYPE_CHECKING:
    from angarium._core.dispatch import JournalIntake
    from angarium._core.record import Message
    from angarium.clock import Clock

__all__ = ["Submission"]


class Submission:
    """The way into the queue of one worker."""

    def __init__(self, intake: JournalIntake, clock: Clock, *, hostname: str) -> None:
        self._intake = intake
        self._clock = clock
        self.hostname = hostname

    async def submit(self, reverse_path: bytes, recipient: bytes, mail_data: bytes) -> str:
        """Queue a message; its id when it is on disk."""
        number = self._intake.new_id()
        date = formatdate(self._clock.now(), localtime=False).replace("-0000", "+0000")
        trace = f"Received: by {self.hostname} id {format_id(number)}; {date}\r\n"
        buffer = make_accepted(
            {
                "reverse_path": reverse_path,
                "recipients": [(recipient, Notify.NOTIFY_NEVER, b"")],
                "listener": b"report",
                "received_us": int(self._clock.now() * 1e6),
                "body": BodyType.BODY_UNSTATED,
                "flags": MessageFlag.MESSAGE_TLS_REQUIRED_NO,
            },
            trace.encode("ascii") + mail_data,
            number,
        )
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def committed(_: Message, error: int) -> None:
            if written.done():
                return  # whoever asked has gone
            if error:
                written.set_exception(OSError(error, "the record could not be written"))
            else:
                written.set_result(None)

        self._intake.submit(new_message(buffer), CallbackReceiver(committed))
        await written
        return format_id(number)
