"""Where an address goes: the first route of the configuration that matches it, the last resort by MX.

Job: answer "which route" for one recipient without looking at every route. Input: the routes in their order, then a
local part and a domain. Output: a RouteMatch, which also says whether the answer holds for every local part at that
domain, so that the caller may remember it by domain. It never fails: what matches nothing goes by MX.

"First match wins" is kept by comparing positions: each pattern is indexed with the position of its route under what it
asks for (domain, domain above, address, everything), only the first of equal ones is kept, and a look-up takes the
lowest position of those it finds: one dictionary access for each label of the domain, however many routes there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from angarium.config.model import Route
from angarium.config.next_hop import NextHop
from angarium.mail.address import ascii_domain, fold_local_part
from angarium.mail.pattern import AddressPattern

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["LAST_RESORT", "RouteMatch", "RouteTable"]

LAST_RESORT = Route(recipients=(AddressPattern(kind="any"),), next_hop=NextHop(kind="mx"), name="last resort")


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """A route, its place in the configuration (from 0), and whether all of the domain's addresses take it."""

    route: Route
    position: int
    by_domain: bool


class RouteTable:
    """The routes of a configuration, indexed. It does not change; a reload makes a new one."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = (*routes, LAST_RESORT)
        self._any = len(routes)
        self._domains: dict[bytes, int] = {}
        self._above: dict[bytes, int] = {}
        self._addresses: dict[bytes, dict[bytes, int]] = {}
        for position, route in enumerate(routes):
            for pattern in route.recipients:
                if pattern.kind == "any":
                    self._any = min(self._any, position)
                elif pattern.kind == "domain":
                    self._domains.setdefault(pattern.domain, position)
                elif pattern.kind == "subdomain":
                    self._above.setdefault(pattern.domain, position)
                else:
                    self._addresses.setdefault(pattern.domain, {}).setdefault(pattern.local, position)

    def lookup(self, local: bytes, domain: bytes) -> RouteMatch:
        """The route of `local@domain`; an empty domain stands for the domainless <Postmaster>."""
        try:
            key = ascii_domain(domain)
        except ValueError:  # no pattern means it, save the one for everything
            return RouteMatch(self._routes[self._any], self._any, True)
        best = min(self._any, self._domains.get(key, self._any))
        above = self._above
        if above:
            dot = key.find(b".", 1)
            while dot >= 0:
                best = min(best, above.get(key[dot + 1 :], best))
                dot = key.find(b".", dot + 1)
        addresses = self._addresses.get(key)
        if addresses is None:
            return RouteMatch(self._routes[best], best, True)
        # in the order of their positions: when the first is no better than the route of the whole domain, none is
        by_domain = next(iter(addresses.values())) >= best
        own = min(best, addresses.get(fold_local_part(local), best))
        return RouteMatch(self._routes[own], own, by_domain)
