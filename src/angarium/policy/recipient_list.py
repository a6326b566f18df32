"""Recipients verified by a file (config/recipient_file.py says how it is written), which is read again when it changes.

Input: the path; `refresh` about once a second. Output: `verify`, which a RecipientPolicy asks for each RCPT.

The file is read in a thread, and the new list takes the place of the old one at once. It is looked at by its size,
inode and time of change: write another file and rename it, and no half of it is ever read.

Fails: a file that is gone, cannot be read or has a line that is no recipient leaves the list as it was; it is logged,
told by the event `recipient_list` and counted, once for each state of the file. Without any list yet recipients are
deferred (451 4.4.3). Bound: those of the file.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

from angarium._core.counters import Slot
from angarium.config.recipient_file import BadRecipientFile, RecipientList, read_recipients

if TYPE_CHECKING:
    from angarium._core.counters import Counters
    from angarium._core.event_log import EventLog

__all__ = ["UNKNOWN", "UNLISTED", "WatchedList"]

log = logging.getLogger(__name__)

UNKNOWN = b"550 5.1.1 There is no such recipient here\r\n"
UNLISTED = b"451 4.4.3 Recipients cannot be verified now; try again later\r\n"

State = tuple[int, int, int] | None  # of the file: inode, octets, nanoseconds; None: there is none


class WatchedList:
    """One file, as one worker knows it."""

    def __init__(self, path: str, delimiter: str | None, counters: Counters, events: EventLog) -> None:
        self.path = path
        self._delimiter = (delimiter or "").encode()
        self._counters = counters
        self._events = events
        self._list: RecipientList | None = None
        self._state: State = None
        self._reading: asyncio.Future[None] | None = None
        self._take(self._look(), *_read(path))

    def __len__(self) -> int:
        return 0 if self._list is None else len(self._list)

    def verify(self, mailbox: bytes) -> bytes:
        """Empty, or the reply that refuses a mailbox of ours."""
        if self._list is None:
            self._counters.add(Slot.INGRESS_CHECKED_DEFERRED, 1)
            return UNLISTED
        if self._list.has(mailbox, self._delimiter):
            self._counters.add(Slot.INGRESS_CHECKED_KNOWN, 1)
            return b""
        self._counters.add(Slot.INGRESS_CHECKED_UNKNOWN, 1)
        return UNKNOWN

    def refresh(self) -> asyncio.Future[None] | None:
        """Read the file again if it is another than the one that was read; the future is done when it has been."""
        if self._reading is not None and not self._reading.done():
            return self._reading
        state = self._look()
        if state == self._state:
            return None
        self._reading = asyncio.ensure_future(self._reread(state))
        return self._reading

    async def _reread(self, state: State) -> None:
        self._take(state, *await asyncio.get_running_loop().run_in_executor(None, _read, self.path))

    def _look(self) -> State:
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _take(self, state: State, read: RecipientList | None, why: str) -> None:
        # the state from before the reading: what changed meanwhile is read again
        self._state = state
        if read is None:
            log.error("%s: %s; the recipients stay as they are", self.path, why)
            self._counters.add(Slot.INGRESS_LISTS_FAILED, 1)
        else:
            self._list = read
            self._counters.add(Slot.INGRESS_LISTS_READ, 1)
            why = f"{len(read)} recipients"
        event = {"file": self.path, "class": "failed" if read is None else "read", "text": why}
        self._events.event("recipient_list", event)


def _read(path: str) -> tuple[RecipientList | None, str]:
    try:
        return read_recipients(path), ""
    except OSError as failure:
        return None, f"cannot be read: {failure.strerror}"
    except BadRecipientFile as failure:
        return None, str(failure)
