"""The client sessions of one worker, a group for each set of timeouts that routes ask for.

Timeouts and the time that an idle connection is kept belong to a compiled Egress, which its sessions share; routes that
ask for the same share one. Bounds: one for each distinct set, so no more than there are routes, and one; connections
that wait for mail, in each."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

from angarium._core.client_session import Egress
from angarium.delivery.call_line import SLICE_S

if TYPE_CHECKING:
    from angarium._core.counters import Counters
    from angarium._core.dialogue import Dialogues
    from angarium.config.model import Delivery as DeliveryConfig
    from angarium.config.model import Timeouts
    from angarium.delivery.target import SessionTerms

__all__ = ["Egresses"]

CHUNK_OCTETS = 1 << 16  # messages up to this size go by BDAT where it is offered
MOST_IDLE = 4000
IDLE_SHARE = 4  # and no more than one in so many of the descriptors that the process may have


class Egresses:
    """One Egress for each set of timeouts."""

    def __init__(self, counters: Counters, delivery: DeliveryConfig, dialogues: Dialogues | None = None) -> None:
        """dialogues: where what is said is kept; None: nowhere."""
        self._counters = counters
        self._dialogues = dialogues
        self._delivery = delivery
        self._egresses: dict[tuple[Timeouts, float], Egress] = {}

    def of(self, terms: SessionTerms) -> Egress:
        """The one whose sessions wait as long as the terms say."""
        key = (terms.timeouts, terms.idle_s)
        egress = self._egresses.get(key)
        if egress is None:
            egress = self._egresses[key] = Egress(
                self._counters,
                mail_timeout_s=terms.timeouts.mail_s,
                rcpt_timeout_s=terms.timeouts.rcpt_s,
                data_timeout_s=terms.timeouts.data_s,
                block_timeout_s=terms.timeouts.block_s,
                final_timeout_s=terms.timeouts.final_s,
                idle_s=terms.idle_s,
                lifetime_s=self._delivery.lifetime_s,
                chunk_octets=CHUNK_OCTETS if self._delivery.bdat == "auto" else 0,
                idle_limit=_most_idle(),
                dialogues=self._dialogues,
            )
        return egress

    @property
    def sessions(self) -> int:
        """Open connections."""
        return sum(egress.sessions for egress in self._egresses.values())

    def sweep(self) -> None:
        """End what has been silent for too long, close what was idle for too long. Call it about once a second.

        For each set of timeouts it takes SLICE_S; when one was `unswept` then, `go_on` is to be called in a later turn.
        """
        for egress in self._egresses.values():
            egress.sweep(SLICE_S)

    @property
    def unswept(self) -> bool:
        """Whether the last sweep had no time for all."""
        return any(egress.unswept for egress in self._egresses.values())

    def go_on(self) -> None:
        """Sweep what the last sweep had no time for."""
        for egress in self._egresses.values():
            if egress.unswept:
                egress.sweep(SLICE_S)

    def quit_idle(self) -> None:
        """Close the connections that carry nothing, as many as in SLICE_S; call it again for the others."""
        for egress in self._egresses.values():
            egress.quit_idle(SLICE_S)


def _most_idle() -> int:
    """Connections that may wait for mail."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_IDLE if descriptors == resource.RLIM_INFINITY else min(MOST_IDLE, descriptors // IDLE_SHARE)
