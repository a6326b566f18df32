"""Sessions with the same timeouts share an Egress, others do not."""

from __future__ import annotations

from angarium._core.counters import Slab
from angarium.config.model import Delivery, Timeouts
from angarium.delivery.egress import Egresses
from angarium.delivery.target import SessionTerms


def test_one_for_each_set_of_timeouts() -> None:
    egresses = Egresses(Slab.create(1).region(0), Delivery())
    usual = egresses.of(SessionTerms())
    assert egresses.of(SessionTerms(messages_per_connection=7)) is usual
    assert egresses.of(SessionTerms(timeouts=Timeouts(rcpt_s=1.0))) is not usual
    assert egresses.of(SessionTerms(idle_s=1.0)) is not usual
    assert egresses.sessions == 0
    egresses.sweep()
    egresses.quit_idle()
