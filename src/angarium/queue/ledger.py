"""Check the ledger against the queue, and publish it.

Job: once a second compare, for one worker, what its journals' ledgers say is queued with what the table holds. The two
numbers come about in different ways, so a difference is a fault of the relay: an error in the log (when it appears and
whenever it changes), and a gauge with an alert on it. Then put the totals into the shared counters.

What is published had been written before: after a killed process the totals that recovery finds are never below it, and
so no counter goes back. Totals and queued recipients are of the same moment.

Fails: never; a journal that takes no records leaves what is published as it was.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from angarium._core.counters import Counters, Slot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from angarium._core.dispatch import Dispatcher
    from angarium._core.journal import Journal

__all__ = ["LEDGER_SLOTS", "LedgerWatch"]

log = logging.getLogger(__name__)

LEDGER_SLOTS = {
    "accepted": Slot.QUEUE_LEDGER_ACCEPTED,
    "delivered": Slot.QUEUE_LEDGER_DELIVERED,
    "bounced": Slot.QUEUE_LEDGER_BOUNCED,
    "expired": Slot.QUEUE_LEDGER_EXPIRED,
    "operator_deleted": Slot.QUEUE_LEDGER_DELETED,
    "damaged": Slot.QUEUE_LEDGER_DAMAGED,
    "lost_memory": Slot.QUEUE_LEDGER_LOST_MEMORY,
}


class LedgerWatch:
    """The ledger of one worker's shards."""

    def __init__(self, dispatcher: Dispatcher, journals: Sequence[Journal], counters: Counters) -> None:
        self._dispatcher = dispatcher
        self._journals = journals
        self._counters = counters
        self._waiting: tuple[list[int], dict[str, int], int] | None = None
        self.drift = 0

    def totals(self) -> dict[str, int]:
        """The totals at this moment, over all shards."""
        totals = dict.fromkeys(LEDGER_SLOTS, 0)
        for journal in self._journals:
            for name, recipients in journal.ledger.totals().items():
                totals[name] += recipients
        return totals

    def check(self) -> int:
        """Compare and publish; returns the drift: recipients that should be queued and are not (or, below 0, are)."""
        totals = self.totals()
        queued = self._dispatcher.queued_recipients()
        drift = 2 * totals["accepted"] - sum(totals.values()) - queued
        if drift != self.drift:
            if drift:
                log.error("ledger: %d recipients should be queued, %d are; totals: %s", queued + drift, queued, totals)
            else:
                log.warning("ledger: totals and queue agree again")
            self.drift = drift
        self._counters.set(Slot.QUEUE_LEDGER_DRIFT, abs(drift))
        if self._waiting is None:
            self._waiting = [journal.appended for journal in self._journals], totals, queued
        marks, totals, queued = self._waiting
        if all(journal.is_written(mark) for journal, mark in zip(self._journals, marks, strict=True)):
            self._publish(totals, queued)
            self._waiting = None
        return drift

    def publish_now(self) -> None:
        """Publish what is true at this moment: everything has been written (at start and at the end)."""
        self._waiting = None
        self._publish(self.totals(), self._dispatcher.queued_recipients())

    def _publish(self, totals: dict[str, int], queued: int) -> None:
        for name, slot in LEDGER_SLOTS.items():
            self._counters.set(slot, totals[name])
        self._counters.set(Slot.QUEUE_LEDGER_QUEUED, queued)
