"""Where a ready queue's connections go, and how far the hosts there are trusted: plain values, no I/O.

A Target is what the Router makes of a route or of a domain's mail hosts, and what the Connector opens connections to.
It belongs to one ready queue: mail that wants other hosts, another TLS policy or another log-in has another queue."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Host", "Protocol", "Target", "TlsLevel", "TlsPolicy"]

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


@dataclass
class Target:
    """Hosts in the order in which to try them, and the policy that holds for all of them."""

    hosts: tuple[Host, ...]
    tls: TlsPolicy = field(default_factory=TlsPolicy)
    protocol: Protocol = "smtp"
