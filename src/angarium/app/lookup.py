"""The lookup process: what the workers of a node ask about the world outside, with one cache for all of them.

Nothing slow or foreign is on a worker's loop: DNS is here, what concerns TLS policies and reports
(angarium.app.tls_desk), the access tokens of log-ins (angarium.app.tokens), and what mailbox hosts say of recipients
(angarium.app.recipients). Input: the configuration. app.answering says how it lives.

Fails: an exception here ends the process; the supervisor starts another, which knows nothing yet, and the workers use
what they remember meanwhile."""

from __future__ import annotations

import logging
import os
import random
from typing import TYPE_CHECKING

from angarium._core.counters import Slot
from angarium.app.answering import AnsweringProcess
from angarium.app.recipients import RecipientDesk
from angarium.app.tls_desk import TlsDesk
from angarium.app.tokens import TokenDesk
from angarium.clock import SystemClock
from angarium.delivery.lookup_protocol import (
    HOST_ADDRESSES,
    MAIL_HOSTS,
    RECIPIENT,
    STATUS,
    TLS_REPORTS,
    TLS_RESULTS,
    TLSA,
    TOKEN,
    TXT,
    LookupStatus,
)
from angarium.delivery.own_address import OwnAddresses
from angarium.delivery.resolver import Resolver, families_of_machine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from angarium._core.counters import Counters
    from angarium.config.model import Config

__all__ = ["Lookup"]

log = logging.getLogger(__name__)


class Lookup(AnsweringProcess):
    """One lookup process."""

    publish_s = 1.0
    grace_s = 2.0

    def __init__(self, config: Config, counters: Counters, worker_sockets: Sequence[str]) -> None:
        super().__init__()
        clock = SystemClock()
        counters.reset_gauges()
        own = OwnAddresses(
            [listener.listen for listener in config.listener], config.delivery.own_addresses, clock.monotonic
        )
        self._clock = clock
        self._started = clock.monotonic()
        self._counters = counters
        self._counted = (0, 0, 0, 0)
        self._resolver = Resolver(
            hostnames=(config.node.hostname,),
            monotonic=clock.monotonic,
            random=random.Random(),
            servers=[(server.host, server.port) for server in config.dns.servers],
            families=families_of_machine(config.delivery.address_family),
            dnssec=config.dns.dnssec == "trust-ad",
            never_contact=config.delivery.never_contact,
            is_own=own.__contains__,
        )
        server = self.server
        self._tls = TlsDesk(config, counters, self._resolver, clock, worker_sockets)
        server.answer(MAIL_HOSTS, self._tls.mail_hosts)
        server.answer(HOST_ADDRESSES, lambda asked: self._resolver.host_addresses(*asked))
        server.answer(TLSA, self._resolver.tlsa)
        server.answer(TXT, self._resolver.txt)
        self._tokens = TokenDesk(config, counters, clock)
        server.answer(TOKEN, self._tokens.token)
        self._recipients = RecipientDesk(config, counters, clock, random.Random())
        server.answer(RECIPIENT, self._recipients.recipient)
        server.answer(STATUS, self._status)
        server.answer(TLS_RESULTS, self._tls.gather)
        server.answer(TLS_REPORTS, self._tls.reports)

    async def begin(self) -> None:
        await self._tls.start()

    async def publish(self) -> None:
        self._publish()

    async def end(self) -> None:
        await self._tls.close()
        await self._resolver.close()
        self._publish()
        await self._tokens.close()
        await self._recipients.close()

    def reopen_events(self) -> None:
        self._tokens.reopen_events()
        self._recipients.reopen_events()

    async def _status(self, _: None) -> LookupStatus:
        resolver = self._resolver
        uptime_s = round(self._clock.monotonic() - self._started, 3)
        return LookupStatus(os.getpid(), uptime_s, resolver.entries, resolver.under_way)

    def _publish(self) -> None:
        self._tls.publish()
        self._tokens.publish()
        self._recipients.publish()
        resolver = self._resolver
        counted = (resolver.queries, resolver.cache_hits, resolver.failures, resolver.stale_answers)
        slots = (
            Slot.DELIVERY_DNS_QUERIES,
            Slot.DELIVERY_DNS_CACHE_HITS,
            Slot.DELIVERY_DNS_FAILURES,
            Slot.DELIVERY_DNS_STALE,
        )
        for slot, now, before in zip(slots, counted, self._counted, strict=True):
            self._counters.add(slot, now - before)
        self._counted = counted
