"""The addresses that mail leaves by: the [[source]] and [[source_pool]] tables. docs/routing.md explains their use."""

import socket
from typing import Annotated

from msgspec import Meta, Struct

from angarium.config.section import Section

__all__ = ["DEFAULT_SOURCE", "Source", "SourceMember", "SourcePool"]

DEFAULT_SOURCE = "default"  # the name, in events and suspensions, of an address that the system chooses


class Source(Section, frozen=True):
    """An address of this machine that connections to next hops are made from, one of each family at most."""

    name: str
    ipv4: str | None = None
    ipv6: str | None = None
    hostname: str | None = None  # what it says in EHLO; None: node.hostname

    @property
    def addresses(self) -> dict[socket.AddressFamily, str]:
        """By family."""
        found = {socket.AF_INET6: self.ipv6, socket.AF_INET: self.ipv4}
        return {family: address for family, address in found.items() if address is not None}


class SourceMember(Struct, frozen=True):
    """A source in a pool, and its share of the pool's mail. A name alone has weight 1."""

    source: str
    weight: Annotated[int, Meta(ge=1, le=1000)] = 1


class SourcePool(Section, frozen=True):
    """Sources among which mail is shared out."""

    name: str
    members: tuple[SourceMember, ...]
