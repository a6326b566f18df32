"""How mail goes out of one worker, as one configuration says: routes, connections, timeouts.

Input: a configuration, and what of a worker stays whatever the configuration (Ground). Output: Ways, which is nothing
but values and empty tables: to make one opens no connection and changes nothing, so that a change of the configuration
can build the next one first and take it when all else was built as well.

Ways that were replaced carry what is under way to its end (`retire`, then `tend` on every tick until it is `over`).
Bounds: what is under way ends by its own timeouts; a next hop may have twice its connections meanwhile.

Fails: what the configuration says can be built; nothing here opens a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from angarium.delivery.attempt import Router
from angarium.delivery.connection import Connector
from angarium.delivery.dial import families_of
from angarium.delivery.egress import Egresses
from angarium.delivery.provider import Providers
from angarium.delivery.source import Sources
from angarium.delivery.tls_policy import TlsPolicies
from angarium.delivery.token_client import NodeTokens

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from angarium._core.counters import Counters
    from angarium._core.dialogue import Dialogues
    from angarium._core.dispatch import Delivery, Dispatcher
    from angarium.clock import Clock
    from angarium.config.model import Config
    from angarium.delivery.host_order import HostOrder
    from angarium.delivery.lookup_client import LookupClient
    from angarium.delivery.route import RouteTable
    from angarium.delivery.tls_result import TlsOutcome

__all__ = ["Ground", "Ways", "routing_part"]


def routing_part(config: Config) -> object:
    """What of a configuration Ways are made of: they change when this does."""
    delivery = (config.delivery, config.route, config.tls_policy, config.provider)
    return config.node.hostname, delivery, config.source, config.source_pool


@dataclass(frozen=True)
class Ground:
    """What of a worker stays whatever its configuration."""

    dispatcher: Dispatcher
    counters: Counters
    clock: Clock
    chance: Random
    lookup: LookupClient
    settle: Callable[[Delivery], None]
    note_tls: Callable[[TlsOutcome], None]
    workers: int
    dialogues: Dialogues


class Ways:
    """Routes, and the connections that mail takes by them."""

    def __init__(self, config: Config, ground: Ground, routes: RouteTable, *, order: HostOrder | None = None) -> None:
        """`order`: what is known of hosts already."""
        self.part = routing_part(config)
        self._ground = ground
        self.egress = Egresses(ground.counters, config.delivery, ground.dialogues)
        self.sources = Sources(
            ground.dispatcher, ground.counters, config.source, config.source_pool, config.node.hostname
        )
        self.connector = Connector(
            self.egress,
            ground.counters,
            ground.clock,
            hostname=config.node.hostname,
            chance=ground.chance,
            settle=ground.settle,
            loopback_only=config.sandbox,
            families=families_of(config.delivery.address_family),
            on_tls_result=ground.note_tls,
            host_addresses=ground.lookup.host_addresses,
            order=order,
            dialogues=ground.dialogues,
        )
        self.router = Router(
            ground.dispatcher,
            self.connector,
            ground.lookup,
            routes,
            config.delivery,
            ground.clock,
            hostname=config.node.hostname,
            workers=ground.workers,
            tls=TlsPolicies(config.delivery, config.tls_policy),
            tokens=lambda oauth2: NodeTokens(ground.lookup, oauth2, ground.clock),
            providers=Providers(config.provider, ground.counters),
            sources=self.sources,
        )
        self.connector.on_source_failure = self.router.on_source_failure

    def take_over(self, before: Ways | None) -> None:
        """Mail goes this way from now on; what waited for the ways before finds its way again at once."""
        dispatcher = self._ground.dispatcher
        self.sources.take_over()
        if before is not None:
            dispatcher.by_domain.clear()
            before.router.retire()
            dispatcher.schedule.unblock_all()
            before.egress.quit_idle()
        dispatcher.place = self.router.place
        dispatcher.schedule.provider_of = self.router.providers.of_domain
        dispatcher.schedule.renumber_providers()

    @property
    def under_way(self) -> int:
        """What has begun and is not over: sessions, connections being opened, look-ups, hand-offs."""
        return self.egress.sessions + self.connector.under_way + self.router.under_way

    def tend(self) -> None:
        """Close every connection that carries nothing. Call it on every tick once these ways were replaced."""
        self.egress.quit_idle()

    async def close(self) -> None:
        """Give up what is being opened, looked up or handed over; what waits for it stays queued."""
        await self.connector.close()
        await self.router.close()
