"""Whose mail it is, and what its clients are granted: from the configuration to the terms that compiled sessions read.

Input: the configuration and one of its listeners. Output: a function from a client's address, and its log-in once it
has proved one, to ClientTerms. A session asks for them once a connection and once more after AUTH, and ListenerProfile
remembers the answers: nothing is looked up per command.

A client is of the first tenant, in the order of the file, that has the address in its networks; else of the listener's
tenant; else of none, which is transactional mail with the listener's own classes.

A client that may not relay and is taken mail from all the same (role `inbound`) has no choice: its mail has priority 0
at most, and the class of the listener.

What a [[permission]] grants goes before that: its tenant, its class, its source pool, and what it asks about single
messages (angarium.policy.permission). It is looked for by the tenant that the client has without it.

An address that is none has no tenant but the listener's, and may not relay. A look-up takes one step for each prefix
length that the configuration has networks of, however many tenants there are, and one for each permission; clients
with the same terms and no permission share them.

Fails: OSError when a permission counts and the table of quotas cannot be opened.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from angarium._core.client_terms import ClientTerms
from angarium.config.model import DURABILITIES, Classes
from angarium.policy.permission import PermissionIndex, core_permission
from angarium.policy.relaying import client_policy

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium._core.permission import Permission as CorePermission
    from angarium.config.model import Config, Durability, Listener, Permission, Tenant
    from angarium.policy.certificate import ClientCertificate
    from angarium.policy.quota import Quotas

__all__ = ["TenantIndex", "client_terms", "identity_terms", "pool_of"]


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


def client_terms(
    config: Config, listener: Listener, quotas: Quotas | None = None, *, relays: bool = False
) -> Callable[..., ClientTerms]:
    """(address, log-in) -> what this client is granted on this listener; without a log-in, by its address alone.

    `relays`: it may relay, whatever its address.
    """
    relaying = client_policy(listener)
    tenants = TenantIndex(config.tenant)
    permissions = PermissionIndex(config.permission)
    usual = config.tenant_named(listener.tenant)
    known: dict[tuple[bool, bool, str | None], ClientTerms] = {}
    if quotas is not None and any(permission.counts for permission in config.permission):
        quotas.table()  # what is wrong with it is found out now, and not by a client

    def terms(address: str, log_in: str = "") -> ClientTerms:
        may_relay, bare_newlines = relaying(address)
        tenant = tenants.find(address) or usual
        may_relay = may_relay or relays
        name = tenant.name if tenant is not None else ""
        found = permissions.find(listener.name, address=address, log_in=log_in, tenant=name)
        asked = core_permission(config, listener, found, quotas, address=address, log_in=log_in, tenant=name)
        if found is not None:
            _, permission = found
            return _terms_of(
                config,
                listener,
                config.tenant_named(permission.tenant) or tenant,
                may_relay=may_relay,
                bare_newlines=bare_newlines or permission.legacy,
                permission=permission,
                asked=asked,
            )
        if asked is not None:
            return _terms_of(config, listener, tenant, may_relay=may_relay, bare_newlines=bare_newlines, asked=asked)
        key = (may_relay, bare_newlines, tenant.name if tenant is not None else None)
        if key not in known:
            known[key] = _terms_of(config, listener, tenant, may_relay=may_relay, bare_newlines=bare_newlines)
        return known[key]

    return terms


def identity_terms(
    config: Config, listener: Listener, quotas: Quotas | None = None
) -> Callable[[str, str, ClientCertificate | None], ClientTerms]:
    """(address, log-in or "", certificate) -> what a client is granted that has proved who it is."""
    usual = client_terms(config, listener, quotas)
    relaying = client_terms(config, listener, quotas, relays=True)

    def terms(address: str, log_in: str, certificate: ClientCertificate | None) -> ClientTerms:
        return (relaying if certificate is not None and certificate.relays else usual)(address, log_in)

    return terms


def _terms_of(
    config: Config,
    listener: Listener,
    tenant: Tenant | None,
    *,
    may_relay: bool,
    bare_newlines: bool,
    permission: Permission | None = None,
    asked: CorePermission | None = None,
) -> ClientTerms:
    classes = config.classes_of(listener, tenant)
    if permission is not None and permission.durability is not None:
        classes = _with_class(classes, permission.durability)
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
        permission=asked,
        source_pool=pool_of(permission, tenant).encode("ascii"),
    )


def pool_of(permission: Permission | None, tenant: Tenant | None) -> str:
    """The source pool that mail has of its own, whatever its route: the permission's, else the tenant's; or none."""
    if permission is not None and permission.source_pool is not None:
        return permission.source_pool
    return (tenant.source_pool if tenant is not None else None) or ""


def _with_class(classes: Classes, own: Durability) -> Classes:
    """The classes of one whose mail has its own, which is also the weakest that its messages may ask for."""
    strength = DURABILITIES.index
    return Classes(own=own, floor=own, ceiling=own if strength(own) < strength(classes.ceiling) else classes.ceiling)
