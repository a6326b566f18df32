"""Which hosts take mail for a domain: RFC 5321 §5.1 over DNS, behind a cache.

Job: `mail_hosts` turns a domain into hosts with addresses, in the order in which they are to be tried;
`host_addresses` does the same for one host that a route names, without mail exchangers; `tlsa` and `txt` give the
records of a name. Input: a domain as text, U-labels or A-labels, or an address literal. Output: values of
angarium.delivery.mail_host, with the time until which they hold.

Fails with ResolutionFailure, permanent or not, with the reply that the recipient is given:

    no such domain, or one without any address     550 5.1.2, permanent
    not a domain at all                            550 5.1.2, permanent
    null MX (RFC 7505)                             556 5.1.10, permanent
    no mail exchanger has an address               550 5.4.4, permanent
    their addresses are never to be contacted      550 5.4.4, permanent
    this relay is the best mail exchanger          554 5.4.6, permanent (a loop)
    no name server had an answer                   451 4.4.3
    a host named by a route has no address         451 4.4.4: the recipient is not to blame for the configuration
    the TLSA records of the hosts cannot be had    451 4.7.5: to go on would be to fall back on no DANE

With `dnssec` the AD bit of the servers is believed: then an answer knows whether it is secure, and of a host whose
exchanger records and addresses are, the TLSA records are looked up too (RFC 7672 §2.2). A secure host for which that
fails is not used.

The cache holds answers as long as their TTL allows, between a floor and a ceiling; negative ones by the SOA (RFC 2308
§5); failures for a few seconds (RFC 9520 §3.2). While no server answers, an answer that was right once is used for some
time longer (RFC 8767), and asked for again at intervals; when one is there, nobody waits for another for longer than a
moment. A negative one is not used so, since it would bounce mail.

Bounds, all in Limits: entries of the cache, records kept of one answer, questions under way (more fail at once as if no
server had answered), of which some are on the wire and the others wait for these in the order in which they came. A
name that is known has a share of the wire of its own, so that it never waits behind a tail of new ones. Equal questions
share one query. /etc/hosts is not read.

dnspython is imported when the system's name servers are to be read, not before.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from angarium.delivery.cache import Cache
from angarium.delivery.dns_response import NOERROR, NXDOMAIN, read_response
from angarium.delivery.mail_host import (
    MailHost,
    MailHosts,
    ResolutionFailure,
    TextRecords,
    TlsaRecords,
    no_answer,
    site_of,
)
from angarium.delivery.name_servers import NameServers
from angarium.mail.address import ascii_domain, literal_address

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from random import Random

    from angarium.config.address import Network
    from angarium.config.model import AddressFamily
    from angarium.delivery.name_servers import Type

__all__ = ["Limits", "MailHost", "MailHosts", "ResolutionFailure", "Resolver", "families_of_machine", "site_of"]

Family = Literal["A", "AAAA"]

LONGEST_CHAIN = 8  # of CNAMEs that a server does not follow by itself
SMTP_PORT = 25
SPECIAL_LOOPBACK: dict[Family, str] = {"A": "127.0.0.1", "AAAA": "::1"}  # localhost, RFC 6761 §6.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of one Resolver. Times in seconds."""

    timeout_s: float = 3.0  # for one server to answer one query
    rounds: int = 3  # how often all servers are asked; in the first one half as long
    on_the_wire: int = 500  # questions for new names that are being asked at one time
    known_on_the_wire: int = 250  # beside them, for names that are known
    questions: int = 10_000  # under way or waiting
    known_questions: int = 5000  # beside them
    entries: int = 100_000
    records: int = 64  # kept of one answer
    hosts: int = 20  # of one domain
    least_ttl_s: float = 10.0
    longest_ttl_s: float = 86400.0
    longest_negative_ttl_s: float = 3600.0
    failure_ttl_s: float = 5.0
    stale_s: float = 86400.0  # beyond its TTL
    stale_ttl_s: float = 30.0  # until a server is asked again
    stale_after_s: float = 1.0  # then a stale answer does, while the question goes on (RFC 8767 §5)


class _Status(Enum):
    FOUND = 1
    NO_DATA = 2  # the name exists and has no record of the type
    NO_NAME = 3
    FAILED = 4  # nobody knows


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one question came to.

    The records are (preference, name) of mail exchangers, (0, address) of hosts, Tlsa, or the octets of a text;
    `canonical` is the name at the end of the CNAMEs, `secure` says whether DNSSEC vouches for all of it.
    """

    status: _Status
    records: tuple[Any, ...]
    expires: float
    stale_until: float = 0.0  # only of what was FOUND: to use an old "no" would bounce mail
    secure: bool = False
    canonical: str = ""
    open_end: bool = False  # the aliases lead to a name of which the server said nothing


@dataclass(slots=True)
class _Found:
    """One host with what was found of it."""

    host: MailHost
    expires: float
    failed: bool = False  # some server did not say everything
    canonical: str = ""


class Resolver:
    """The resolver of one process. `cache_hits` and `stale_answers` only ever grow."""

    def __init__(
        self,
        *,
        hostnames: Collection[str],
        monotonic: Callable[[], float],
        random: Random,
        servers: Sequence[tuple[str, int]] = (),
        families: tuple[Family, ...] = ("AAAA", "A"),
        dnssec: bool = False,
        never_contact: Sequence[Network] = (),
        is_own: Callable[[str], bool] = lambda _: False,
        limits: Limits | None = None,
        resolv_conf: str = "/etc/resolv.conf",
    ) -> None:
        """`hostnames` are this relay's own; `families` are the kinds of address to use, the preferred one first.

        `servers` are pairs of address and port; when there are none, those of `resolv_conf` are asked. `dnssec`: their
        AD bit is believed. Mail by MX never goes to an address in `never_contact`; `is_own` knows the addresses at
        which this relay itself takes mail.
        """
        self.cache_hits = 0  # questions answered from the cache
        self.stale_answers = 0  # questions answered with what was right once
        self._hostnames = frozenset(name.lower().rstrip(".") for name in hostnames)
        self._monotonic = monotonic
        self._random = random
        self._families = families
        self._dnssec = dnssec
        self._never_contact = tuple(never_contact)
        self._is_own = is_own
        self._limits = limits = limits or Limits()
        self._servers = NameServers(
            servers, timeout_s=limits.timeout_s, rounds=limits.rounds, dnssec=dnssec, resolv_conf=resolv_conf
        )
        self._cache: Cache[tuple[str, Type], _Answer] = Cache(limits.entries)
        self._under_way: dict[tuple[str, Type], asyncio.Task[_Answer]] = {}
        self._wire = asyncio.Semaphore(limits.on_the_wire)
        self._known_wire = asyncio.Semaphore(limits.known_on_the_wire)

    @property
    def queries(self) -> int:
        """How many were sent."""
        return self._servers.queries

    @property
    def failures(self) -> int:
        """Queries without a usable answer."""
        return self._servers.failures

    @property
    def entries(self) -> int:
        """Answers in the cache."""
        return len(self._cache)

    @property
    def under_way(self) -> int:
        """Questions that are being asked, or wait for their turn."""
        return len(self._under_way)

    async def close(self) -> None:
        """Give up what is under way; whoever waits for it is cancelled."""
        tasks = tuple(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._servers.close()

    async def mail_hosts(self, domain: str) -> MailHosts:
        """The hosts that take mail for domain, which is a domain name or an address literal in brackets."""
        if domain.startswith("["):
            return self._literal(domain)
        name = _checked(domain)
        answer = await self._lookup(name, "MX")
        if answer.status is _Status.FAILED:
            raise no_answer(name)
        if answer.status is _Status.NO_NAME:
            raise ResolutionFailure(True, 550, (5, 1, 2), f"{name}: no such domain")
        if answer.status is _Status.NO_DATA:
            exchangers = [(0, name)]  # RFC 5321 §5.1: the domain is its own mail exchanger
        else:
            # RFC 7505 §3: the null MX stands alone; beside others it is a mistake and means nothing
            exchangers = _each_once(record for record in answer.records if record[1] != ".")
            if not exchangers:
                raise ResolutionFailure(True, 556, (5, 1, 10), f"{name} accepts no mail (null MX)")
        exchangers = _better_than(name, exchangers, [rank for rank, host in exchangers if host in self._hostnames])
        found = await self._resolve_hosts(self._in_order(exchangers), answer.secure)
        failed = any(each.failed for each in found)
        usable = [each.host for each in found if each.host.addresses]
        own = [host.preference for host in usable if any(map(self._is_own, host.addresses))]
        if own:
            exchangers = _better_than(name, exchangers, own)
            usable = [host for host in usable if host.preference < min(own)]
        allowed = [host for host in map(self._without_forbidden, usable) if host.addresses]
        if not allowed and failed:
            raise no_answer(name)
        if usable and not allowed:
            raise self._forbidden(name, usable[0].addresses[0])
        if not allowed and answer.status is _Status.NO_DATA:
            raise ResolutionFailure(True, 550, (5, 1, 2), f"{name} has neither a mail exchanger nor an address")
        if not allowed:
            raise ResolutionFailure(True, 550, (5, 4, 4), f"no mail exchanger of {name} has an address")
        expires = min(answer.expires, *(each.expires for each in found))
        hosts, expires = await self._with_tlsa(name, allowed, found, expires, named_securely=answer.secure)
        return MailHosts(name, hosts, site_of(exchangers), expires, answer.secure)

    async def host_addresses(self, host: str, port: int = SMTP_PORT) -> MailHosts:
        """The one host that a route names, by IP address or by name; `port` is for its TLSA records."""
        try:
            address = str(ipaddress.ip_address(host))
        except ValueError:
            pass
        else:
            return MailHosts(host, (MailHost(address, (address,)),), address, float("inf"))
        name = _checked(host)
        if name == "localhost":
            addresses = tuple(SPECIAL_LOOPBACK[family] for family in self._families)
            return MailHosts(name, (MailHost(name, addresses),), name, float("inf"))
        # the name is the operator's own, so that DNSSEC has only to vouch for its addresses (RFC 7672 §2.2.2)
        found = await self._resolve_hosts([(0, name)], True)
        if not found[0].host.addresses:
            if found[0].failed:
                raise no_answer(name)
            raise ResolutionFailure(False, 451, (4, 4, 4), f"the next hop {name} has no address")
        hosts, expires = await self._with_tlsa(
            name, [found[0].host], found, found[0].expires, named_securely=True, port=port
        )
        return MailHosts(name, hosts, name, expires, True)

    async def addresses(self, host: str) -> tuple[str, ...]:
        """The addresses of a host, whatever it is; none is an answer too."""
        name = _checked(host)
        (found,) = await self._resolve_hosts([(0, name)], False)
        if found.failed and not found.host.addresses:
            raise no_answer(name)
        return found.host.addresses

    def may_contact(self, address: str) -> bool:
        """Whether this relay speaks to the address on a stranger's word."""
        return self._network_of(address) is None

    async def tlsa(self, name: str) -> TlsaRecords:
        """The TLSA records of a name such as `_25._tcp.mx.example.org`."""
        name = _checked(name)
        answer = await self._lookup(name, "TLSA")
        if answer.status is _Status.FAILED:
            raise no_answer(name)
        return TlsaRecords(name, answer.records, answer.secure, answer.expires)

    async def txt(self, name: str) -> TextRecords:
        """The TXT records of a name such as `_mta-sts.example.org`."""
        name = _checked(name)
        answer = await self._lookup(name, "TXT")
        if answer.status is _Status.FAILED:
            raise no_answer(name)
        return TextRecords(name, answer.records, answer.secure, answer.expires)

    # ------------------------------------------------------------------ RFC 5321 §5.1

    def _literal(self, domain: str) -> MailHosts:
        """An address literal, RFC 5321 §4.1.3: no look-up."""
        address = literal_address(domain)
        if address is None:
            raise ResolutionFailure(True, 550, (5, 1, 2), f"{domain!a} is not an address literal known here")
        if self._is_own(address):
            raise _loop(domain)
        host = MailHost(address, (address,))
        if not self._without_forbidden(host).addresses:
            raise self._forbidden(domain, address)
        return MailHosts(domain, (host,), address, float("inf"))

    def _without_forbidden(self, host: MailHost) -> MailHost:
        if not self._never_contact:
            return host
        allowed = tuple(address for address in host.addresses if self._network_of(address) is None)
        return host if len(allowed) == len(host.addresses) else replace(host, addresses=allowed)

    def _network_of(self, address: str) -> Network | None:
        parsed = ipaddress.ip_address(address)
        return next((network for network in self._never_contact if parsed in network), None)

    def _forbidden(self, domain: str, address: str) -> ResolutionFailure:
        return ResolutionFailure(
            True,
            550,
            (5, 4, 4),
            f"no mail host of {domain} may be contacted: {address} is in {self._network_of(address)}",
        )

    def _in_order(self, exchangers: list[tuple[int, str]]) -> list[tuple[int, str]]:
        """By preference, equal ones shuffled, as many as are worth trying."""
        shuffled = list(exchangers)
        self._random.shuffle(shuffled)
        shuffled.sort(key=lambda record: record[0])
        return shuffled[: self._limits.hosts]

    async def _resolve_hosts(self, hosts: list[tuple[int, str]], named_securely: bool) -> list[_Found]:
        """Each host with its addresses, as far as it has some."""
        begun = [self._begin(name, family) for _, name in hosts for family in self._families]
        answers = [each if isinstance(each, _Answer) else await self._end(*each) for each in begun]
        found: list[_Found] = []
        width = len(self._families)
        for i, (preference, name) in enumerate(hosts):
            of_host = answers[i * width : (i + 1) * width]
            addresses: list[str] = []
            for answer in of_host:
                of_family = [address for _, address in answer.records]
                self._random.shuffle(of_family)  # the cache would give all of the load to the first one
                addresses += of_family
            known = [answer for answer in of_host if answer.status is not _Status.FAILED]
            found.append(
                _Found(
                    MailHost(
                        name,
                        tuple(addresses),
                        preference,
                        secure=named_securely and bool(known) and all(answer.secure for answer in known),
                    ),
                    min(answer.expires for answer in of_host),
                    failed=len(known) < width,
                    canonical=next((answer.canonical for answer in of_host if answer.canonical), name),
                )
            )
        return found

    # ------------------------------------------------------------------ DANE, RFC 7672 §2.2

    async def _with_tlsa(
        self,
        name: str,
        hosts: list[MailHost],
        found: list[_Found],
        expires: float,
        *,
        named_securely: bool,
        port: int = SMTP_PORT,
    ) -> tuple[tuple[MailHost, ...], float]:
        """The hosts with their TLSA records, and how long all of it holds."""
        if not self._dnssec or not named_securely:
            return tuple(hosts), expires
        canonical = {each.host.name: each.canonical for each in found}
        told = await asyncio.gather(*(self._tlsa_of(host, canonical[host.name], port) for host in hosts))
        usable = tuple(host for host, _ in told if host is not None)
        if not usable:
            raise ResolutionFailure(
                False, 451, (4, 7, 5), f"the TLSA records of the mail hosts of {name} cannot be had"
            )
        return usable, min(expires, *(until for _, until in told))

    async def _tlsa_of(self, host: MailHost, canonical: str, port: int) -> tuple[MailHost | None, float]:
        """The host with what DANE needs; None when that cannot be had: without it the host may not be used."""
        expires = float("inf")
        # the end of the aliases first, then the name that the exchanger's record has (RFC 7672 §2.2.3)
        bases = [canonical, host.name] if canonical != host.name else [host.name]
        if not host.secure:
            if canonical == host.name:
                return host, expires
            # aliases that lead out of what is signed: the first of them may be signed all the same
            alias = await self._lookup(host.name, "CNAME")
            expires = alias.expires
            if alias.status is _Status.FAILED:
                return None, expires
            if not alias.secure:
                return host, expires
            bases = [host.name]
        for base in bases:
            answer = await self._lookup(f"_{port}._tcp.{base}", "TLSA")
            expires = min(expires, answer.expires)
            if answer.status is _Status.FAILED:
                return None, expires
            if answer.records and answer.secure:
                return replace(host, tlsa=answer.records, tlsa_base=base), expires
        return host, expires

    # ------------------------------------------------------------------ the cache

    async def _lookup(self, name: str, rdtype: Type) -> _Answer:
        begun = self._begin(name, rdtype)
        return begun if isinstance(begun, _Answer) else await self._end(*begun)

    def _begin(self, name: str, rdtype: Type) -> _Answer | tuple[asyncio.Task[_Answer], _Answer | None]:
        """The answer that is there, or a task that gets it and the old answer that will do when that takes long."""
        key = (name, rdtype)
        now = self._monotonic()
        cached = self._cache.peek(key)
        if cached is not None and cached.expires > now:
            self.cache_hits += 1
            self._cache.use(key)
            return cached
        known = cached is not None and now < cached.stale_until
        task = self._under_way.get(key)
        if task is None:
            most = self._limits.questions + (self._limits.known_questions if known else 0)
            if len(self._under_way) >= most:
                return self._fall_back(cached)
            task = asyncio.get_running_loop().create_task(self._ask(name, rdtype, known))
            self._under_way[key] = task
            task.add_done_callback(partial(self._forget, key))
        return task, cached if known else None

    async def _end(self, task: asyncio.Task[_Answer], stale: _Answer | None) -> _Answer:
        if stale is not None:
            done, _ = await asyncio.wait((task,), timeout=self._limits.stale_after_s)
            if not done:
                return self._fall_back(stale)
        if task.done():
            return task.result()
        # one who is cancelled must not take the answer away from the others; asyncio.shield costs three times as much
        waiter: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        task.add_done_callback(partial(_pass_on, waiter))
        return await waiter

    def _forget(self, key: tuple[str, Type], _: asyncio.Task[_Answer]) -> None:
        del self._under_way[key]

    def _fall_back(self, cached: _Answer | None) -> _Answer:
        """What to say when no server has an answer."""
        now = self._monotonic()
        if cached is not None and now < cached.stale_until:
            self.stale_answers += 1
            return replace(cached, expires=now + self._limits.stale_ttl_s)
        return _Answer(_Status.FAILED, (), now + self._limits.failure_ttl_s)

    async def _ask(self, name: str, rdtype: Type, known: bool) -> _Answer:
        """Ask the servers, and keep the answer."""
        async with self._known_wire if known else self._wire:
            answer = await self._follow(name, rdtype)
        key = (name, rdtype)
        if answer is None:
            answer = self._fall_back(self._cache.peek(key))
        self._cache.put(key, answer)
        return answer

    async def _follow(self, name: str, rdtype: Type) -> _Answer | None:
        """The servers' answer; a chain of aliases that they leave open is followed. None when nobody has one."""
        asked = name
        secure = True
        expires = float("inf")
        for _ in range(LONGEST_CHAIN):
            answer = await self._servers.ask(asked, rdtype, partial(self._read, name=asked, rdtype=rdtype))
            if answer is None:
                return None
            if asked == name and not answer.open_end:
                return answer
            secure = secure and answer.secure
            expires = min(expires, answer.expires)
            if not answer.open_end:
                return replace(answer, secure=secure, expires=expires)
            asked = answer.canonical
        return None

    # ------------------------------------------------------------------ what a response says

    def _read(self, octets: bytes, *, name: str, rdtype: Type) -> _Answer | None:
        """What a response says; None when it is no answer.

        That is SERVFAIL, REFUSED, octets that are no message, a chain of CNAMEs in a circle, and a lame server's
        pointer to others (RFC 1912 §2.8): none of it says that a name or record does not exist.
        """
        try:
            response = read_response(octets, rdtype)
        except ValueError:
            return None
        if response.rcode not in (NOERROR, NXDOMAIN):
            return None
        limits = self._limits
        now = self._monotonic()
        secure = self._dnssec and response.secure
        canonical = response.canonical
        if response.records is None or response.ttl_s is None:
            status = _Status.NO_NAME if response.rcode == NXDOMAIN else _Status.NO_DATA
            ends = response.has_soa or status is _Status.NO_NAME
            lame = not ends and response.has_ns and not response.authoritative
            if lame and canonical == name:
                return None
            ttl = max(limits.least_ttl_s, min(response.ttl_s or 0.0, limits.longest_negative_ttl_s))
            open_end = not ends and canonical != name
            return _Answer(status, (), now + ttl, secure=secure, canonical=canonical, open_end=open_end)
        records = response.records if rdtype in ("A", "AAAA") else sorted(response.records)
        ttl = max(limits.least_ttl_s, min(response.ttl_s, limits.longest_ttl_s))
        return _Answer(
            _Status.FOUND,
            tuple(records[: limits.records]),
            now + ttl,
            now + ttl + limits.stale_s,
            secure,
            canonical,
        )


def _pass_on(waiter: asyncio.Future[_Answer], task: asyncio.Task[_Answer]) -> None:
    if waiter.done():
        return
    if task.cancelled():
        waiter.cancel()
    elif (failure := task.exception()) is not None:
        waiter.set_exception(failure)
    else:
        waiter.set_result(task.result())


def families_of_machine(preference: AddressFamily = "ipv6-first") -> tuple[Family, ...]:
    """The families of address to use, the one to try first in front.

    IPv6 is used beside IPv4 when this machine has a route for it; nothing is sent to find that out.
    """
    if preference == "ipv4-only":
        return ("A",)
    if preference == "ipv6-only":
        return ("AAAA",)
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect(("2001:db8::1", 53))
    except OSError:
        return ("A",)
    return ("AAAA", "A") if preference == "ipv6-first" else ("A", "AAAA")


def _better_than(domain: str, exchangers: list[tuple[int, str]], own: list[int]) -> list[tuple[int, str]]:
    """Cut this relay out, and every host that is no better: to send there would be to send in a circle."""
    if not own:
        return exchangers
    better = [record for record in exchangers if record[0] < min(own)]
    if not better:
        raise _loop(domain)
    return better


def _each_once(exchangers: Iterable[tuple[int, str]]) -> list[tuple[int, str]]:
    """A host that is named twice counts with its best preference."""
    best: dict[str, int] = {}
    for preference, name in sorted(exchangers):
        best.setdefault(name, preference)
    return [(preference, name) for name, preference in best.items()]


def _loop(domain: str) -> ResolutionFailure:
    return ResolutionFailure(True, 554, (5, 4, 6), f"mail for {domain} loops back to this host")


def _checked(domain: str) -> str:
    """The domain in lower case and ASCII, without the dot at its end. Permanent failure when it cannot be one."""
    try:
        name = ascii_domain(domain.encode().removesuffix(b".")).decode("ascii")
    except ValueError as error:
        raise ResolutionFailure(True, 550, (5, 1, 2), f"{domain!a}: {error}") from None
    labels = name.split(".")
    if len(name) > 253 or not all(0 < len(label) <= 63 for label in labels) or not name.isprintable():
        raise ResolutionFailure(True, 550, (5, 1, 2), f"{domain!a} is not a domain name")
    if "\\" in name or " " in name:
        raise ResolutionFailure(True, 550, (5, 1, 2), f"{domain!a} is not a domain name")
    return name
