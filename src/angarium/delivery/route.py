"""Where an address goes: the first route of the configuration that matches it, the last resort by MX.

Job: answer "which route" for one recipient without looking at every route. Input: the routes in their order, then a
local part, a domain, and Circumstances: what else routes may ask of a message. Output: a RouteMatch, which also says
whether the answer holds for every message to that domain, so that the caller may remember it by domain. It never fails:
what matches nothing goes by MX.

"First match wins" is kept by comparing positions: each pattern is indexed with the position of its route under what it
asks for (domain, domain above, address, everything), and a look-up takes the lowest position of those it finds: one
dictionary access for each label of the domain, however many routes there are. Of routes that ask for nothing but the
recipient only the first of equal patterns is kept. Routes with other conditions have an index of their own: those that
stand in front of the answer are looked at one after the other, and only they cost anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from angarium._core.header import HeaderSection
from angarium.config.model import Route
from angarium.config.next_hop import NextHop
from angarium.mail.address import ascii_domain, fold_local_part, split_mailbox
from angarium.mail.log_in import fold_log_in, fold_pattern
from angarium.mail.pattern import AddressPattern

if TYPE_CHECKING:
    from collections.abc import Sequence

    from angarium._core.record import MailBuffer

__all__ = ["LAST_RESORT", "Circumstances", "MailCircumstances", "RouteMatch", "RouteTable", "StatedCircumstances"]

LAST_RESORT = Route(recipients=(AddressPattern(kind="any"),), next_hop=NextHop(kind="mx"), name="last resort")
HEADER_OCTETS = 1 << 16  # of the mail data that a header condition is looked for in


class Circumstances(Protocol):
    """What routes may ask of a message beside its recipient."""

    @property
    def reverse_path(self) -> bytes:
        """Empty for the null reverse-path."""

    @property
    def tenant(self) -> bytes:
        """Empty for none, and so are listener and log_in."""

    @property
    def listener(self) -> bytes:
        """The name of the listener that accepted it."""

    @property
    def log_in(self) -> bytes:
        """Who had authenticated."""

    def header(self, name: str) -> list[bytes]:
        """The values of the header fields of that name, unfolded, in lower case."""


class MailCircumstances:
    """Those of a queued message, read from its record when a route asks for them."""

    def __init__(self, buffer: MailBuffer) -> None:
        self._buffer = buffer

    @cached_property
    def reverse_path(self) -> bytes:
        return self._buffer.reverse_path()

    @cached_property
    def _envelope(self) -> dict[str, bytes]:
        return self._buffer.envelope()

    @property
    def tenant(self) -> bytes:
        return self._envelope["tenant"]

    @property
    def listener(self) -> bytes:
        return self._envelope["listener"]

    @property
    def log_in(self) -> bytes:
        return self._envelope["login"]

    @cached_property
    def _header_section(self) -> HeaderSection:
        return HeaderSection(memoryview(self._buffer)[:HEADER_OCTETS])

    def header(self, name: str) -> list[bytes]:
        return [value.replace(b"\r\n", b"").lower() for value in self._header_section.get_all(name.encode("ascii"))]


@dataclass(frozen=True, slots=True)
class StatedCircumstances:
    """Those of a message that there is not: for questions about routes."""

    reverse_path: bytes = b""
    tenant: bytes = b""
    listener: bytes = b""
    log_in: bytes = b""

    def header(self, name: str) -> list[bytes]:
        return []


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """A route, its place in the configuration (from 0), and whether all mail to the domain takes it."""

    route: Route
    position: int
    by_domain: bool


def holds(route: Route, mail: Circumstances) -> bool:
    """Whether everything that the route asks for beside the recipient is so."""
    if route.senders:
        local, domain = split_mailbox(mail.reverse_path)
        if not any(pattern.matches(local, domain) for pattern in route.senders):
            return False
    if route.tenants and mail.tenant.decode("utf-8", "replace") not in route.tenants:
        return False
    if route.listeners and mail.listener.decode("utf-8", "replace") not in route.listeners:
        return False
    if route.log_ins:
        name = fold_log_in(mail.log_in.decode("utf-8", "replace")).encode()
        if not (name and any(fold_pattern(pattern).matches(name) for pattern in route.log_ins)):
            return False
    return all(
        any(condition.value.matches(value) for value in mail.header(condition.name)) for condition in route.headers
    )


@dataclass(slots=True)
class _Conditional:
    """Positions of routes with other conditions by what they ask of the recipient, ascending."""

    everyone: list[int] = field(default_factory=list)
    domains: dict[bytes, list[int]] = field(default_factory=dict)
    above: dict[bytes, list[int]] = field(default_factory=dict)
    addresses: dict[bytes, dict[bytes, list[int]]] = field(default_factory=dict)

    def add(self, position: int, pattern: AddressPattern) -> None:
        if pattern.kind == "any":
            self.everyone.append(position)
        elif pattern.kind == "domain":
            self.domains.setdefault(pattern.domain, []).append(position)
        elif pattern.kind == "subdomain":
            self.above.setdefault(pattern.domain, []).append(position)
        else:
            self.addresses.setdefault(pattern.domain, {}).setdefault(pattern.local, []).append(position)

    def of_domain(self, key: bytes) -> list[int]:
        """Those that any address at the domain may take, in no order; some twice."""
        found = [*self.everyone, *self.domains.get(key, ())]
        if self.above:
            dot = key.find(b".", 1)
            while dot >= 0:
                found += self.above.get(key[dot + 1 :], ())
                dot = key.find(b".", dot + 1)
        return found


class RouteTable:
    """The routes of a configuration, indexed. It does not change; a reload makes a new one."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = (*routes, LAST_RESORT)
        self._any = len(routes)
        self._domains: dict[bytes, int] = {}
        self._above: dict[bytes, int] = {}
        self._addresses: dict[bytes, dict[bytes, int]] = {}
        self._conditional: _Conditional | None = None
        for position, route in enumerate(routes):
            for pattern in route.recipients:
                if route.conditional:
                    if self._conditional is None:
                        self._conditional = _Conditional()
                    self._conditional.add(position, pattern)
                elif pattern.kind == "any":
                    self._any = min(self._any, position)
                elif pattern.kind == "domain":
                    self._domains.setdefault(pattern.domain, position)
                elif pattern.kind == "subdomain":
                    self._above.setdefault(pattern.domain, position)
                else:
                    self._addresses.setdefault(pattern.domain, {}).setdefault(pattern.local, position)

    @property
    def routes(self) -> tuple[Route, ...]:
        """By position; the last resort is the last one."""
        return self._routes

    @property
    def conditional(self) -> bool:
        """Whether there is a route that asks for more than the recipient."""
        return self._conditional is not None

    def lookup(self, local: bytes, domain: bytes, mail: Circumstances | None = None) -> RouteMatch:
        """The route of `local@domain`; an empty domain stands for the domainless <Postmaster>.

        Without mail, as if no condition beside the recipient held.
        """
        own, _, ahead, by_domain = self._find(local, domain)
        if mail is not None:
            for position in ahead:
                if holds(self._routes[position], mail):
                    own = position
                    break
        return RouteMatch(self._routes[own], own, by_domain)

    def ahead(self, local: bytes, domain: bytes) -> list[RouteMatch]:
        """The routes that mail to `local@domain` takes instead when their conditions hold, the first one first."""
        _, _, ahead, _ = self._find(local, domain)
        return [RouteMatch(self._routes[position], position, False) for position in ahead]

    def _find(self, local: bytes, domain: bytes) -> tuple[int, int, list[int], bool]:
        """By the recipient alone: the position of its route, that of its whole domain, and of those with conditions in
        front; whether the second is the answer for all mail to the domain."""
        conditional = self._conditional
        try:
            key = ascii_domain(domain)
        except ValueError:  # no pattern means it, save the one for everything
            best, key = self._any, b""
            may = [] if conditional is None else conditional.everyone
            ahead = sorted({position for position in may if position < best})
            return best, best, ahead, not ahead
        best = min(self._any, self._domains.get(key, self._any))
        above = self._above
        if above:
            dot = key.find(b".", 1)
            while dot >= 0:
                best = min(best, above.get(key[dot + 1 :], best))
                dot = key.find(b".", dot + 1)
        own, by_domain = best, True
        addresses = self._addresses.get(key)
        if addresses is not None:
            # in the order of their positions: when the first is no better than the route of the whole domain, none is
            by_domain = next(iter(addresses.values())) >= best
            own = min(best, addresses.get(fold_local_part(local), best))
        if conditional is None:
            return own, best, [], by_domain
        may = conditional.of_domain(key)
        some = conditional.addresses.get(key)
        if some is not None:
            by_domain = by_domain and next(iter(some.values()))[0] >= best
            may += some.get(fold_local_part(local), ())
        ahead = sorted({position for position in may if position < own})
        return own, best, ahead, by_domain and all(position >= best for position in may)
