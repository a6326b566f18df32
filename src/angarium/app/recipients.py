"""What the mailbox hosts of the node say of recipients, in its lookup process: one memory and few sessions a host.

Input: the configuration; then what workers ask for, by the name of a listener with `verify_recipients = "call-ahead"`.
Output: RecipientAnswers, counted; the event `mailbox_host` when a host can no longer be asked, and when it can again.
Listeners that ask the same host in the same way share what is known.

Fails with ResolutionFailure, 451 4.4.3, for a listener that this process does not know, which a worker may name while a
reload replaces one process after the other. Bounds: those of recipient_book.py and call_ahead.py, for each host.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from angarium._core.counters import Slot
from angarium._core.event_log import EventLog
from angarium.delivery.lookup_protocol import RecipientAnswer
from angarium.delivery.mail_host import ResolutionFailure
from angarium.delivery.recipient_book import RecipientBook

if TYPE_CHECKING:
    from random import Random

    from angarium._core.counters import Counters
    from angarium.clock import Clock
    from angarium.config.model import Config, Verification
    from angarium.config.next_hop import NextHop
    from angarium.delivery.call_ahead import CallAhead

__all__ = ["RecipientDesk"]

log = logging.getLogger(__name__)


@dataclass
class _MailboxHost:
    book: RecipientBook
    sessions: CallAhead
    published: tuple[int, ...] = (0, 0, 0, 0, 0)


class RecipientDesk:
    """Every mailbox host that the node asks."""

    def __init__(self, config: Config, counters: Counters, clock: Clock, chance: Random) -> None:
        self._counters = counters
        self._clock = clock
        self._hosts: dict[tuple[NextHop, Verification], _MailboxHost] = {}
        self._of_listener: dict[str, _MailboxHost] = {}
        asking = [listener for listener in config.listener if listener.verify_recipients == "call-ahead"]
        self._events = EventLog(config.event_file if asking else None, counters)
        if not asking:
            return
        # they load aiosmtplib: who verifies nobody does not pay for it
        from angarium.delivery.call_ahead import CallAhead, connector_for  # noqa: PLC0415

        connector = connector_for(config, counters, clock, chance)
        for listener in asking:
            hop, how = listener.call_ahead, listener.verification
            if hop is None:
                continue  # the check of the configuration has refused it
            if (hop, how) not in self._hosts:
                sessions = CallAhead.of_next_hop(config, connector, hop, how)
                self._hosts[hop, how] = _MailboxHost(self._book_of(sessions, hop, how), sessions)
            self._of_listener[listener.name] = self._hosts[hop, how]

    def _book_of(self, sessions: CallAhead, hop: NextHop, how: Verification) -> RecipientBook:
        return RecipientBook(
            sessions.ask,
            self._clock.monotonic,
            entries=how.entries,
            keep_known_s=how.keep_known_s,
            keep_unknown_s=how.keep_unknown_s,
            on_change=partial(self._note, str(hop)),
        )

    async def recipient(self, asked: tuple[str, str]) -> RecipientAnswer:
        """What the mailbox host behind a listener says of a mailbox."""
        name, mailbox = asked
        host = self._of_listener.get(name)
        if host is None:
            text = f"recipients of listener {name} are verified otherwise: the configuration is being changed"
            raise ResolutionFailure(False, 451, (4, 4, 3), text)
        answer = await host.book.ask(mailbox)
        return RecipientAnswer(answer.result, answer.reply, answer.keep_s)

    def publish(self) -> None:
        """Write the metrics and the events."""
        for host in self._hosts.values():
            book = host.book
            counted = (*book.probes.values(), book.hits, book.stale)
            slots = (
                Slot.INGRESS_PROBES_KNOWN,
                Slot.INGRESS_PROBES_UNKNOWN,
                Slot.INGRESS_PROBES_FAILED,
                Slot.INGRESS_PROBES_SPARED,
                Slot.INGRESS_PROBES_STALE,
            )
            for slot, now, before in zip(slots, counted, host.published, strict=True):
                self._counters.add(slot, now - before)
            host.published = counted
        if self._hosts:
            self._events.flush()

    def reopen_events(self) -> None:
        """The event log was rotated."""
        try:
            self._events.reopen()
        except OSError as failure:
            log.error("the event log cannot be reopened: %s", failure)

    async def close(self) -> None:
        """Give up what is under way."""
        for host in self._hosts.values():
            await host.book.close()
            host.sessions.close()
        self._events.close()

    def _note(self, next_hop: str, why: str | None) -> None:
        if why is not None:
            log.warning("%s cannot be asked about recipients: %s", next_hop, why)
        else:
            log.info("%s answers again about recipients", next_hop)
        event = {"next_hop": next_hop, "class": "reachable" if why is None else "unreachable", "text": why or ""}
        self._events.event("mailbox_host", event)
