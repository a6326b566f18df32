"""Where a ready queue's connections go, and how far the hosts there are trusted: plain values, no I/O.

A Target is what the Router makes of a route or of a domain's mail hosts, and what the Connector opens connections to.
It belongs to one ready queue: mail that wants other hosts, another TLS policy or another log-in has another queue."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from angarium.config.model import Timeouts

__all__ = ["Host", "HostShare", "Protocol", "SessionTerms", "Target", "TlsLevel", "TlsPolicy"]

Protocol = Literal["smtp", "lmtp"]
TlsLevel = Literal["none", "opportunistic", "require", "verify"]


@dataclass(frozen=True, slots=True)
class Host:
    """One mail host at one address: an IP address, or a name that the system looks up when it is dialled."""

    name: str
    address: str
    port: int = 25


@dataclass(frozen=True, slots=True)
class TlsPolicy:
    """What is asked of the connection before mail goes over it."""

    level: TlsLevel = "opportunistic"


@dataclass(frozen=True, slots=True)
class HostShare:
    """The place of a host among others: lowest priority first, of equal ones at random by weight."""

    priority: int = 0
    weight: int = 1


@dataclass(frozen=True, slots=True)
class SessionTerms:
    """How long a connection waits, and how much it carries; messages_per_connection 0: no limit."""

    timeouts: Timeouts = field(default_factory=Timeouts)
    idle_s: float = 30.0
    messages_per_connection: int = 0


@dataclass
class Target:
    """Hosts, and the policy and terms that hold for all of them.

    They are tried as they stand, unless there are shares, one for each: then in an order of each connection's own.
    """

    hosts: tuple[Host, ...]
    tls: TlsPolicy = field(default_factory=TlsPolicy)
    protocol: Protocol = "smtp"
    shares: tuple[HostShare, ...] = ()
    terms: SessionTerms = field(default_factory=SessionTerms)
