"""Where a ready queue's connections go, and how far the hosts there are trusted: plain values, no I/O.

A Target is what the Router makes of a route or of a domain's mail hosts, and what the Connector opens connections to.
It belongs to one ready queue: mail that wants other hosts, another TLS policy or another log-in has another queue.

    level            asks for                                            and when it is not so
    none             plaintext                                           -
    opportunistic    TLS where it is offered, whoever the host is        plaintext
    require          TLS, whoever the host is                            next host, then the mail waits
    verify           TLS and a certificate of a known CA for the name    next host, then the mail waits
    dane             TLS and a key that DNSSEC vouches for (TLSA)        next host, then the mail waits
    fingerprint      TLS and a certificate or key that is listed         next host, then the mail waits

`for_host` is what becomes of a policy when a host has TLSA records (RFC 7672 §2.2)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from angarium.config.model import Timeouts
from angarium.delivery.dane import usable

if TYPE_CHECKING:
    from angarium.delivery.login import Login
    from angarium.delivery.mail_host import MailHost, Tlsa
    from angarium.delivery.mta_sts import Policy
    from angarium.delivery.source import Source

NOT_REQUIRED = "TLS-Required: No"  # the source of a policy for mail that asks for none (RFC 8689 §5)

__all__ = [
    "NOT_REQUIRED",
    "Host",
    "HostShare",
    "Protocol",
    "SessionTerms",
    "Target",
    "TlsLevel",
    "TlsPolicy",
    "for_host",
]

Protocol = Literal["smtp", "lmtp"]
TlsLevel = Literal["none", "opportunistic", "require", "verify", "dane", "fingerprint"]


@dataclass(frozen=True, slots=True)
class Host:
    """One mail host at one address: an IP address, a name that the system looks up when it is dialled, or the path of
    a Unix socket.

    `tlsa`: its TLSA records, secured by DNSSEC; None when DANE does not apply to it, since it has none, or its zone is
    not signed. `tlsa_base`: the domain that they were found at (RFC 7672 §2.2.2), where that is not its name.
    `implicit_tls`: from the first octet on; else STARTTLS.
    """

    name: str
    address: str
    port: int = 25
    tlsa: tuple[Tlsa, ...] | None = None
    tlsa_base: str = ""
    implicit_tls: bool = False

    @property
    def is_local(self) -> bool:
        """Whether the address is the path of a Unix socket: it has no port, and needs no TLS."""
        return self.address.startswith("/")

    def __str__(self) -> str:
        return f"{self.name}[{self.address}]" if self.is_local else f"{self.name}[{self.address}]:{self.port}"


@dataclass(frozen=True, slots=True)
class TlsPolicy:
    """What is asked of the connection before mail goes over it. Ready queues are kept apart by it.

    `source` says where it comes from. `dane`: a host's TLSA records count before it. `mx`: the patterns of RFC 8461
    §4.1 that hosts must match, none: every host; `domain`: whose policy it is, where it is a domain's. `name`: what the
    certificate must be for, in the place of the host's name. `ca`, `certificate`, `key`: PEM files; the last two are
    what this relay shows. `fingerprints`: SHA-256 of certificates or public keys. `requiretls`: the host must offer
    REQUIRETLS (RFC 8689). `sts`: the domain's MTA-STS policy, where one has a say.
    """

    level: TlsLevel = "opportunistic"
    source: str = field(default="delivery.tls", compare=False)
    dane: bool = True
    mx: tuple[str, ...] = ()
    domain: str = ""
    name: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""
    fingerprints: tuple[bytes, ...] = ()
    requiretls: bool = False
    sts: Policy | None = None
    _hash: int = field(init=False, repr=False, compare=False)  # it is part of a key at each look-up

    def __post_init__(self) -> None:
        compared = (self.level, self.dane, self.mx, self.domain, self.name, self.ca, self.certificate, self.key)
        object.__setattr__(self, "_hash", hash((compared, self.fingerprints, self.requiretls, self.sts)))

    def __hash__(self) -> int:
        return self._hash

    @property
    def in_testing(self) -> bool:
        """Whether its MTA-STS policy is to be tried, and mail goes on without it where it fails (RFC 8461 §5)."""
        return self.sts is not None and self.sts.mode == "testing" and self.level in {"opportunistic", "require"}

    def __str__(self) -> str:
        return f"TLS policy {self.level} of {self.source}"

    def allows(self, host: str) -> bool:
        """Whether a mail host of this name may be used at all (RFC 8461 §4.1)."""
        name = host.lower().rstrip(".")
        return not self.mx or name in self.mx or f"*.{name.partition('.')[2]}" in self.mx


def for_host(policy: TlsPolicy, host: Host) -> TlsPolicy:
    """The policy as it holds for one host: usable TLSA records win, and where all are unusable, TLS is required.

    A Unix socket needs none: who is behind it is on this machine.
    """
    if host.is_local:
        return replace(policy, level="none")
    if not policy.dane or host.tlsa is None or policy.level in {"none", "dane", "fingerprint"}:
        return policy
    if usable(host.tlsa):
        return replace(policy, level="dane", source=f"the TLSA records of {host.tlsa_base or host.name}", mx=())
    if policy.level == "opportunistic":
        return replace(policy, level="require", source=f"the TLSA records of {host.tlsa_base or host.name}")
    return policy


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
    `recipients`: of one transaction at most; 0: no limit but the host's own. `known`: the hosts at each of their
    addresses, as they were last connected to. `found`: by MX, what the hosts were made of. `source`: where connections
    begin; None: at an address of the system's choice. `unfit_until`: monotonic; it has no address for the hosts.
    """

    hosts: tuple[Host, ...]
    tls: TlsPolicy = field(default_factory=TlsPolicy)
    protocol: Protocol = "smtp"
    shares: tuple[HostShare, ...] = ()
    terms: SessionTerms = field(default_factory=SessionTerms)
    by_mx: bool = False  # the hosts are those of the recipients' domains, and not the operator's choice
    login: Login | None = None
    recipients: int = 0
    known: tuple[Host, ...] = ()
    found: tuple[MailHost, ...] = ()
    source: Source | None = None
    unfit_until: float = 0.0
