"""Whose mail it is, and what its clients are granted: from the configuration to the terms that compiled sessions read.

Input: the configuration and one of its listeners. Output: a function from a client's address to ClientTerms. A session
asks for them once a connection, and ListenerProfile remembers the answer by address: nothing is looked up per command.

A client is of the first tenant, in the order of the file, that has the address in its networks; else of the listener's
tenant; else of none, which is transactional mail with the listener's own classes.

An address that is none has no tenant but the listener's, and may not relay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from angarium._core.client_terms import ClientTerms
from angarium.config.model import DURABILITIES
from angarium.policy.relaying import client_policy

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium.config.model import Config, Listener, Tenant

__all__ = ["client_terms", "tenant_of"]


def tenant_of(config: Config, listener: Listener, address: str) -> Tenant | None:
    """The tenant of a client of this listener."""
    try:
        for tenant in config.tenant:
            if any(address in network for network in tenant.networks):
                return tenant
    except ValueError:  # no address
        pass
    return config.tenant_named(listener.tenant)


def client_terms(config: Config, listener: Listener) -> Callable[[str], ClientTerms]:
    """address -> what its client is granted on this listener."""
    relaying = client_policy(listener)

    def terms(address: str) -> ClientTerms:
        may_relay, bare_newlines = relaying(address)
        tenant = tenant_of(config, listener, address)
        classes = config.classes_of(listener, tenant)
        highest = listener.highest_priority
        if tenant is not None and tenant.highest_priority is not None:
            highest = min(highest, tenant.highest_priority)
        return ClientTerms(
            may_relay=may_relay,
            bare_newlines=bare_newlines,
            tenant=tenant.name.encode("ascii") if tenant is not None else b"",
            bulk=tenant is not None and tenant.class_ == "bulk",
            durability=DURABILITIES.index(classes.own),
            durability_floor=DURABILITIES.index(classes.floor),
            durability_ceiling=DURABILITIES.index(classes.ceiling),
            highest_priority=highest,
        )

    return terms
