"""Whose mail it is, and what its clients are granted: from the configuration to the terms that compiled sessions read.

Input: the configuration and one of its listeners. Output: a function from a client's address to ClientTerms. A session
asks for them once a connection, and ListenerProfile remembers the answer by address: nothing is looked up per command.

A client is of the first tenant, in the order of the file, that has the address in its networks; else of the listener's
tenant; else of none, which is transactional mail with the listener's own classes.

A client that may not relay and is taken mail from all the same (role `inbound`) has no choice: its mail has priority 0
at most, and the class of the listener.

An address that is none has no tenant but the listener's, and may not relay. A look-up takes one step for each prefix
length that the configuration has networks of, however many tenants there are; clients with the same terms share them.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from angarium._core.client_terms import ClientTerms
from angarium.config.model import DURABILITIES
from angarium.policy.relaying import client_policy

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium.config.model import Config, Listener, Tenant
    from angarium.policy.certificate import ClientCertificate

__all__ = ["TenantIndex", "client_terms", "identity_terms"]


class TenantIndex:
    """The tenants of a configuration by the networks of their clients."""

    def __init__(self, tenants: tuple[Tenant, ...]) -> None:
        self._tenants = tenants
        # (IP version, bits behind the prefix) -> the network's bits -> the first tenant that has it
        self._networks: dict[tuple[int, int], dict[int, int]] = {}
        for number, tenant in enumerate(tenants):
            for network in tenant.networks:
                behind = 8 * len(network.base) - network.prefix_length
                bits = int.from_bytes(network.base, "big") >> behind
                self._networks.setdefault((network.version, behind), {}).setdefault(bits, number)

    def find(self, address: str) -> Tenant | None:
        """The first tenant that has the address; None when none has, or it is no address.

        An IPv4 client of an IPv6 socket (`::ffff:192.0.2.1`) counts as the IPv4 address that it is.
        """
        try:
            client = ipaddress.ip_address(address)
        except ValueError:
            return None
        if isinstance(client, ipaddress.IPv6Address) and client.ipv4_mapped is not None:
            client = client.ipv4_mapped
        bits = int(client)
        found = min(
            (
                networks[bits >> behind]
                for (version, behind), networks in self._networks.items()
                if version == client.version and bits >> behind in networks
            ),
            default=None,
        )
        return None if found is None else self._tenants[found]


def client_terms(config: Config, listener: Listener, *, relays: bool = False) -> Callable[[str], ClientTerms]:
    """address -> what its client is granted on this listener. `relays`: it may relay, whatever its address."""
    relaying = client_policy(listener)
    tenants = TenantIndex(config.tenant)
    usual = config.tenant_named(listener.tenant)
    known: dict[tuple[bool, bool, str | None], ClientTerms] = {}

    def terms(address: str) -> ClientTerms:
        may_relay, bare_newlines = relaying(address)
        tenant = tenants.find(address) or usual
        may_relay = may_relay or relays
        key = (may_relay, bare_newlines, tenant.name if tenant is not None else None)
        if key not in known:
            known[key] = _terms_of(config, listener, tenant, may_relay=may_relay, bare_newlines=bare_newlines)
        return known[key]

    return terms


def identity_terms(config: Config, listener: Listener) -> Callable[[str, str, ClientCertificate | None], ClientTerms]:
    """(address, log-in or "", certificate) -> what a client is granted that has proved who it is."""
    usual = client_terms(config, listener)
    relaying = client_terms(config, listener, relays=True)

    def terms(address: str, log_in: str, certificate: ClientCertificate | None) -> ClientTerms:
        return (relaying if certificate is not None and certificate.relays else usual)(address)

    return terms


def _terms_of(
    config: Config, listener: Listener, tenant: Tenant | None, *, may_relay: bool, bare_newlines: bool
) -> ClientTerms:
    classes = config.classes_of(listener, tenant)
    highest = listener.highest_priority
    if tenant is not None and tenant.highest_priority is not None:
        highest = min(highest, tenant.highest_priority)
    floor, ceiling = classes.floor, classes.ceiling
    if listener.role == "inbound" and not may_relay:
        # a stranger's mail goes as all such mail goes, whatever it asks for
        highest = min(highest, 0)
        floor = ceiling = classes.own
    return ClientTerms(
        may_relay=may_relay,
        bare_newlines=bare_newlines,
        tenant=tenant.name.encode("ascii") if tenant is not None else b"",
        bulk=tenant is not None and tenant.class_ == "bulk",
        durability=DURABILITIES.index(classes.own),
        durability_floor=DURABILITIES.index(floor),
        durability_ceiling=DURABILITIES.index(ceiling),
        highest_priority=highest,
    )
