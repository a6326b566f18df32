"""Names: a client for the configured name servers, and what the DNS says of the relay's own name.

`NameServers.ask` gives the records of one name and type with whether DNSSEC vouches for them. dnspython does the work:
the relay's own resolver asks for what delivery needs, and a PTR record is nothing that delivery needs.

Fails: not at all: no answer is an answer too (`failed`).
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dns.exception
import dns.flags
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver
import dns.reversename

from angarium.cli.doctor.finding import Finding, error, note, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from angarium.config.model import Config

__all__ = ["Answer", "NameServers", "addresses_of", "own_name", "public_addresses", "resolvers", "source_names"]

TIMEOUT_S = 3.0
PATIENCE_S = 6.0  # for all servers together
SILENT_PATIENCE_S = 0.5  # once they have not answered: the rest of the questions must not take as long each
PAYLOAD_OCTETS = 1232


@dataclass(frozen=True)
class Answer:
    """What the servers say of a name and type. Texts are joined; names have no dot at their end.

    failed: nobody knows. exists: the name is there, whether or not it has such a record. secure: DNSSEC vouches for it.
    canonical: the name at the end of the aliases.
    """

    records: tuple[str, ...] = ()
    failed: bool = False
    exists: bool = True
    secure: bool = False
    canonical: str = ""


class NameServers:
    """Those of the configuration, or the system's. Answers are remembered as long as the doctor looks."""

    def __init__(self, config: Config) -> None:
        self._resolver = resolver = dns.resolver.Resolver(configure=not config.dns.servers)
        if config.dns.servers:
            resolver.nameservers = [dns.nameserver.Do53Nameserver(one.host, one.port) for one in config.dns.servers]
        resolver.timeout = TIMEOUT_S
        resolver.flags = dns.flags.RD | dns.flags.AD
        resolver.use_edns(0, 0, PAYLOAD_OCTETS)
        self._believes = config.dns.dnssec == "trust-ad"
        self._silent = False  # at the last question
        self._known: dict[tuple[str, str], Answer] = {}

    def ask(self, name: str, kind: str) -> Answer:
        """The records of a name: MX as "10 mx.example.org", TXT joined, addresses, names."""
        if (name, kind) not in self._known:
            self._known[name, kind] = self._ask(name, kind)
        return self._known[name, kind]

    def _ask(self, name: str, kind: str) -> Answer:
        self._resolver.lifetime = SILENT_PATIENCE_S if self._silent else PATIENCE_S
        self._silent = False
        try:
            found = self._resolver.resolve(dns.name.from_text(name), kind, raise_on_no_answer=False)
        except dns.resolver.NXDOMAIN:
            return Answer(exists=False)
        except dns.exception.Timeout:
            self._silent = True
            return Answer(failed=True)
        except (dns.exception.DNSException, OSError, UnicodeError):
            return Answer(failed=True)
        records: tuple[str, ...] = ()
        if found.rrset is not None:
            records = tuple(_text_of(record) for record in found.rrset)
        secure = self._believes and bool(found.response.flags & dns.flags.AD)
        return Answer(records, secure=secure, canonical=_plain(found.canonical_name.to_text()))


def _text_of(record: object) -> str:
    strings = getattr(record, "strings", None)
    if strings is not None:
        return b"".join(strings).decode("utf-8", "replace")
    text = str(record)
    head, space, last = text.rpartition(" ")
    return head + space + _plain(last)


def _plain(name: str) -> str:
    return name.rstrip(".").lower() if name != "." else name


def addresses_of(names: NameServers, host: str) -> tuple[tuple[str, ...], bool]:
    """The IPv4 and IPv6 addresses of a host, and whether some question was not answered."""
    answers = [names.ask(host, kind) for kind in ("A", "AAAA")]
    return tuple(address for answer in answers for address in answer.records), any(one.failed for one in answers)


def resolvers(config: Config, names: NameServers) -> Iterator[Finding]:
    """Whether name servers answer, and validate where that is believed."""
    subject = "name servers"
    listed = ", ".join(map(str, config.dns.servers)) or "those of /etc/resolv.conf"
    root = names.ask(".", "NS")
    if root.failed:
        yield error(subject, f"{listed}: no answer", "set dns.servers; run a resolver such as unbound on this machine")
    elif config.dns.dnssec == "trust-ad" and not root.secure:
        remedy = 'use a resolver that validates, or write dns.dnssec = "off"'
        yield error(subject, f'{listed}: answers are not validated, and dns.dnssec is "trust-ad"', remedy)
    else:
        yield ok(subject, f"{listed}: answering{', and validating' if root.secure else ''}")


def own_name(config: Config, names: NameServers) -> Iterator[Finding]:
    """node.hostname leads to this machine, and its address back: what mail hosts look at first."""
    subject, host = "hostname", config.node.hostname
    addresses, failed = addresses_of(names, host)
    if failed and not addresses:
        yield warning(subject, f"nobody knows the addresses of {host} at present", "see the name servers")
        return
    if not addresses:
        remedy = f"make an address record for {host}, or set node.hostname to a name that has one"
        yield error(subject, f"{host} has no address; many hosts refuse mail from one that says EHLO {host}", remedy)
        return
    yield ok(subject, f"{host} is {', '.join(addresses)}")
    for address in addresses:
        yield _reverse(names, host, address)
    yield from _leaves_from(addresses)


def public_addresses(config: Config) -> list[str]:
    """Those of the sources that others see as they are."""
    found = (address for source in config.source for address in source.addresses.values())
    return [address for address in found if ipaddress.ip_address(address).is_global]


def source_names(config: Config, names: NameServers) -> Iterator[Finding]:
    """Each source's EHLO name leads to its address, and that back."""
    for source in config.source:
        host = source.hostname or config.node.hostname
        key = "node.hostname" if source.hostname is None else f"the hostname of source {source.name}"
        addresses, failed = addresses_of(names, host)
        for address in source.addresses.values():
            if not ipaddress.ip_address(address).is_global:
                continue
            subject = f"source {source.name}"
            if failed and not addresses:
                yield warning(subject, f"nobody knows the addresses of {host} at present", "see the name servers")
            elif address not in addresses:
                remedy = f"add {address} to the addresses of {host}, or give the source a hostname of its own"
                yield warning(subject, f"mail leaves from {address} and says EHLO {host}, which is elsewhere", remedy)
            yield _reverse(names, host, address, key)


def _reverse(names: NameServers, host: str, address: str, key: str = "node.hostname") -> Finding:
    subject = "reverse name"
    remedy = f"ask whoever gave you {address} to set its PTR record to {host}"
    answer = names.ask(dns.reversename.from_address(address).to_text(), "PTR")
    if answer.failed:
        return warning(subject, f"nobody knows the name of {address} at present", "see the name servers")
    if not answer.records:
        return error(subject, f"{address} has no PTR record; large providers refuse mail from such an address", remedy)
    if host.lower() in answer.records:
        return ok(subject, f"{address} is {host}, and EHLO says so")
    for name in answer.records:
        if address in addresses_of(names, name)[0]:
            reason = f"{address} is {name} (confirmed), and EHLO says {host}"
            return warning(subject, reason, f"set {key} to {name}, or: {remedy}")
    return error(
        subject, f"{address} is said to be {', '.join(answer.records)}, which does not lead back to it", remedy
    )


def _leaves_from(addresses: Sequence[str]) -> Iterator[Finding]:
    """The address that the kernel would take for a connection outside; nothing is sent to find that out."""
    for family, outside in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((outside, 25))
            own = str(probe.getsockname()[0])
            if own in addresses:
                yield ok("source address", f"mail leaves from {own}, which node.hostname names")
            elif not ipaddress.ip_address(own).is_global:
                remedy = "nothing, if the address that it is translated to is one of node.hostname's"
                yield note("source address", f"mail leaves from {own}, which others see translated", remedy)
            else:
                remedy = f"add {own} to the addresses of node.hostname, with its PTR record"
                yield warning("source address", f"mail leaves from {own}, which node.hostname does not name", remedy)


def is_unreachable(config: Config, address: str) -> bool:
    """Whether this relay would not contact the address on a stranger's word, nor would others."""
    return any(address in network for network in config.delivery.never_contact)
