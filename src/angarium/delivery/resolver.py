"""Which hosts take mail for a domain: RFC 5321 §5.1 over dnspython, behind one cache per worker.

Job: `mail_hosts` turns a domain into hosts with addresses, in the order in which they are to be tried;
`host_addresses` does the same for one host that a route names, without mail exchangers. Input: a domain as text,
U-labels or A-labels, or an address literal. Output: a MailHosts, whose `site` is the same for all domains that are
served by the same hosts in the same order, and whose `expires` says how long it holds.

Fails with ResolutionFailure, permanent or not, with the reply that the recipient is given:

    no such domain, or one without any address     550 5.1.2, permanent
    not a domain at all                            550 5.1.2, permanent
    null MX (RFC 7505)                             556 5.1.10, permanent
    no mail exchanger has an address               550 5.4.4, permanent
    this relay is the best mail exchanger          554 5.4.6, permanent (a loop)
    no name server had an answer                   451 4.4.3
    a host named by a route has no address         451 4.4.4: the recipient is not to blame for the configuration

The cache holds answers as long as their TTL allows, between a floor and a ceiling; negative ones by the SOA (RFC 2308
§5); failures for a few seconds (RFC 9520 §3.2). While no server answers, an answer that was right once is used for some
time longer (RFC 8767), and asked for again at intervals; a negative one is not, since it would bounce mail.

Bounds, all in Limits: entries of the cache (the least recently used one goes), records kept of one answer, questions
under way (more fail at once as if no server had answered), of which some are on the wire and the others wait for these.
Equal questions share one query. A query is sent to the server that answered last, then to the others, a number of
rounds. /etc/hosts is not read.

dnspython is imported when the first question goes out: a relay with fixed routes does without it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections import OrderedDict
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from hashlib import sha256
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from angarium.mail.address import ascii_domain, literal_address

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from random import Random

    import dns.message

__all__ = ["Limits", "MailHost", "MailHosts", "ResolutionFailure", "Resolver", "families_of_machine", "site_of"]

Family = Literal["A", "AAAA"]
Type = Literal["MX", "A", "AAAA"]

EDNS_PAYLOAD_OCTETS = 1232  # no fragments on any usual path; what is longer comes over TCP
LONGEST_SITE = 200
SPECIAL_LOOPBACK: dict[Family, str] = {"A": "127.0.0.1", "AAAA": "::1"}  # localhost, RFC 6761 §6.3


@dataclass(frozen=True, slots=True)
class MailHost:
    """One mail host: its name (of a literal the address) and its addresses, in the order in which to try them."""

    name: str
    addresses: tuple[str, ...]
    preference: int = 0


@dataclass(frozen=True, slots=True)
class MailHosts:
    """The hosts for a domain, the first to be tried first; `expires` is a time of the monotonic clock."""

    domain: str
    hosts: tuple[MailHost, ...]
    site: str
    expires: float


class ResolutionFailure(Exception):
    """There is no host to deliver to: for now, or for good. The reply is what the recipient is given."""

    def __init__(self, permanent: bool, code: int, enhanced: tuple[int, int, int], text: str) -> None:
        super().__init__(f"{code} {'.'.join(map(str, enhanced))} {text}")
        self.permanent = permanent
        self.code = code
        self.enhanced = enhanced
        self.text = text


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of one Resolver. Times in seconds."""

    timeout_s: float = 3.0  # for one server to answer one query
    rounds: int = 2  # how often all servers are asked
    on_the_wire: int = 128  # questions that are being asked at one time; each holds a socket
    questions: int = 10_000  # under way or waiting
    entries: int = 20_000
    records: int = 64  # kept of one answer
    hosts: int = 20  # of one domain
    least_ttl_s: float = 10.0
    longest_ttl_s: float = 86400.0
    longest_negative_ttl_s: float = 3600.0
    failure_ttl_s: float = 5.0
    stale_s: float = 86400.0  # beyond its TTL
    stale_ttl_s: float = 30.0  # until a server is asked again


class _Status(Enum):
    FOUND = 1
    NO_DATA = 2  # the name exists and has no record of the type
    NO_NAME = 3
    FAILED = 4  # nobody knows


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one question came to: (preference, name) of mail exchangers, (0, address) of hosts."""

    status: _Status
    records: tuple[tuple[int, str], ...]
    expires: float
    stale_until: float = 0.0  # only of what was FOUND: to use an old "no" would bounce mail


class Resolver:
    """The resolver of one worker. `queries`, `cache_hits`, `failures`, `stale_answers` only ever grow."""

    def __init__(
        self,
        *,
        hostnames: Collection[str],
        monotonic: Callable[[], float],
        random: Random,
        servers: Sequence[tuple[str, int]] = (),
        families: tuple[Family, ...] = ("AAAA", "A"),
        limits: Limits | None = None,
        resolv_conf: str = "/etc/resolv.conf",
    ) -> None:
        """`hostnames` are this relay's own; `families` are the kinds of address to use, the preferred one first.

        `servers` are pairs of address and port; when there are none, those of `resolv_conf` are asked.
        """
        self.queries = 0  # sent
        self.cache_hits = 0  # questions answered from the cache
        self.failures = 0  # queries without a usable answer
        self.stale_answers = 0  # questions answered with what was right once
        self._hostnames = frozenset(name.lower().rstrip(".") for name in hostnames)
        self._monotonic = monotonic
        self._random = random
        self._servers = list(servers)
        self._families = families
        self._limits = limits or Limits()
        self._resolv_conf = resolv_conf
        self._cache: OrderedDict[tuple[str, Type], _Answer] = OrderedDict()
        self._under_way: dict[tuple[str, Type], asyncio.Task[_Answer]] = {}
        self._wire = asyncio.Semaphore(self._limits.on_the_wire)

    async def close(self) -> None:
        """Give up what is under way; whoever waits for it is cancelled."""
        tasks = tuple(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def mail_hosts(self, domain: str) -> MailHosts:
        """The hosts that take mail for domain, which is a domain name or an address literal in brackets."""
        if domain.startswith("["):
            return _literal(domain)
        name = _checked(domain)
        answer = await self._lookup(name, "MX")
        if answer.status is _Status.FAILED:
            raise _no_answer(name)
        if answer.status is _Status.NO_NAME:
            raise ResolutionFailure(True, 550, (5, 1, 2), f"{name}: no such domain")
        if answer.status is _Status.NO_DATA:
            exchangers = [(0, name)]  # RFC 5321 §5.1: the domain is its own mail exchanger
        else:
            # RFC 7505 §3: the null MX stands alone; beside others it is a mistake and means nothing
            exchangers = _each_once(record for record in answer.records if record[1] != ".")
            if not exchangers:
                raise ResolutionFailure(True, 556, (5, 1, 10), f"{name} accepts no mail (null MX)")
        exchangers = self._without_own(name, exchangers)
        site = site_of(exchangers)
        hosts, expires, failed = await self._resolve_hosts(self._in_order(exchangers))
        if not hosts and failed:
            raise _no_answer(name)
        if not hosts and answer.status is _Status.NO_DATA:
            raise ResolutionFailure(True, 550, (5, 1, 2), f"{name} has neither a mail exchanger nor an address")
        if not hosts:
            raise ResolutionFailure(True, 550, (5, 4, 4), f"no mail exchanger of {name} has an address")
        return MailHosts(name, hosts, site, min(expires, answer.expires))

    async def host_addresses(self, host: str) -> MailHosts:
        """The one host that a route names, by IP address or by name."""
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
        hosts, expires, failed = await self._resolve_hosts([(0, name)])
        if not hosts and failed:
            raise _no_answer(name)
        if not hosts:
            raise ResolutionFailure(False, 451, (4, 4, 4), f"the next hop {name} has no address")
        return MailHosts(name, hosts, name, expires)

    # ------------------------------------------------------------------ RFC 5321 §5.1

    def _without_own(self, domain: str, exchangers: list[tuple[int, str]]) -> list[tuple[int, str]]:
        """Cut this relay out, and every host that is no better: to send there would be to send in a circle."""
        own = [preference for preference, name in exchangers if name in self._hostnames]
        if not own:
            return exchangers
        better = [record for record in exchangers if record[0] < min(own)]
        if not better:
            raise ResolutionFailure(True, 554, (5, 4, 6), f"mail for {domain} loops back to this host")
        return better

    def _in_order(self, exchangers: list[tuple[int, str]]) -> list[tuple[int, str]]:
        """By preference, equal ones shuffled, as many as are worth trying."""
        shuffled = list(exchangers)
        self._random.shuffle(shuffled)
        shuffled.sort(key=lambda record: record[0])
        return shuffled[: self._limits.hosts]

    async def _resolve_hosts(self, hosts: list[tuple[int, str]]) -> tuple[tuple[MailHost, ...], float, bool]:
        """The hosts that have an address, how long that holds, and whether some server failed to say."""
        answers = await asyncio.gather(*(self._lookup(name, family) for _, name in hosts for family in self._families))
        found: list[MailHost] = []
        width = len(self._families)
        for i, (preference, name) in enumerate(hosts):
            addresses: list[str] = []
            for answer in answers[i * width : (i + 1) * width]:
                of_family = [address for _, address in answer.records]
                self._random.shuffle(of_family)  # the cache would give all of the load to the first one
                addresses += of_family
            if addresses:
                found.append(MailHost(name, tuple(addresses), preference))
        expires = min((answer.expires for answer in answers), default=0.0)
        return tuple(found), expires, any(answer.status is _Status.FAILED for answer in answers)

    # ------------------------------------------------------------------ the cache

    async def _lookup(self, name: str, rdtype: Type) -> _Answer:
        key = (name, rdtype)
        cached = self._cache.get(key)
        if cached is not None and cached.expires > self._monotonic():
            self.cache_hits += 1
            self._cache.move_to_end(key)
            return cached
        task = self._under_way.get(key)
        if task is None:
            if len(self._under_way) >= self._limits.questions:
                return self._fall_back(cached)
            task = asyncio.get_running_loop().create_task(self._ask(name, rdtype))
            self._under_way[key] = task
            task.add_done_callback(partial(self._forget, key))
        # one who is cancelled must not take the answer away from the others
        return await asyncio.shield(task)

    def _forget(self, key: tuple[str, Type], _: asyncio.Task[_Answer]) -> None:
        del self._under_way[key]

    def _fall_back(self, cached: _Answer | None) -> _Answer:
        """What to say when no server has an answer."""
        now = self._monotonic()
        if cached is not None and now < cached.stale_until:
            self.stale_answers += 1
            return replace(cached, expires=now + self._limits.stale_ttl_s)
        return _Answer(_Status.FAILED, (), now + self._limits.failure_ttl_s)

    async def _ask(self, name: str, rdtype: Type) -> _Answer:
        """Ask the servers, and keep the answer."""
        async with self._wire:
            answer = await self._ask_servers(name, rdtype)
        key = (name, rdtype)
        if answer is None:
            answer = self._fall_back(self._cache.get(key))
        self._cache[key] = answer
        self._cache.move_to_end(key)
        while len(self._cache) > self._limits.entries:
            self._cache.popitem(last=False)
        return answer

    # ------------------------------------------------------------------ the wire

    def _system_servers(self) -> list[tuple[str, int]]:
        import dns.resolver  # noqa: PLC0415 - see the module's docstring

        system = dns.resolver.Resolver(configure=False)
        try:
            system.read_resolv_conf(self._resolv_conf)
        except dns.resolver.NoResolverConfiguration:
            return [("127.0.0.1", 53)]  # resolv.conf(5): the default is a server on this machine
        return [(str(address), 53) for address in system.nameservers]

    async def _ask_servers(self, name: str, rdtype: Type) -> _Answer | None:
        """The answer of the first server that has one; None when nobody has."""
        if not self._servers:
            self._servers = self._system_servers()
        for _ in range(self._limits.rounds):
            for server in tuple(self._servers):
                response = await self._query(name, rdtype, server)
                answer = None if response is None else self._read(response, rdtype)
                if answer is None:
                    self.failures += 1
                    continue
                if server != self._servers[0]:
                    # a server that is down costs its timeout once, not at every question
                    self._servers.remove(server)
                    self._servers.insert(0, server)
                return answer
        return None

    async def _query(self, name: str, rdtype: Type, server: tuple[str, int]) -> dns.message.Message | None:
        """One server's response, over TCP when it does not fit UDP; None when there is none in time."""
        import dns.asyncquery  # noqa: PLC0415 - see the module's docstring
        import dns.exception  # noqa: PLC0415
        import dns.message  # noqa: PLC0415
        import dns.rcode  # noqa: PLC0415

        address, port = server
        for edns in (0, -1):
            query = dns.message.make_query(
                name, rdtype, use_edns=edns, payload=EDNS_PAYLOAD_OCTETS if edns == 0 else None
            )
            self.queries += 1
            try:
                # what is not the response to this query (another id, another sender, garbage) is passed over
                response, _ = await dns.asyncquery.udp_with_fallback(
                    query, address, self._limits.timeout_s, port, ignore_unexpected=True, ignore_errors=True
                )
            except (dns.exception.DNSException, OSError, EOFError):
                return None
            if response.rcode() not in {dns.rcode.FORMERR, dns.rcode.NOTIMP}:
                return response  # else it may not know EDNS (RFC 6891 §7)
        return response

    def _read(self, response: dns.message.Message, rdtype: Type) -> _Answer | None:
        """What a response says; None when it is no answer (SERVFAIL, REFUSED, a chain of CNAMEs without end)."""
        import dns.exception  # noqa: PLC0415 - see the module's docstring
        import dns.message  # noqa: PLC0415
        import dns.rcode  # noqa: PLC0415

        rcode = response.rcode()
        if rcode not in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN} or not isinstance(response, dns.message.QueryMessage):
            return None
        try:
            chain = response.resolve_chaining()
        except dns.exception.DNSException:
            return None
        limits = self._limits
        now = self._monotonic()
        if chain.answer is None:
            status = _Status.NO_NAME if rcode == dns.rcode.NXDOMAIN else _Status.NO_DATA
            ttl = max(limits.least_ttl_s, min(chain.minimum_ttl, limits.longest_negative_ttl_s))
            return _Answer(status, (), now + ttl)
        if rdtype == "MX":
            records = sorted(
                (record.preference, record.exchange.to_text(omit_final_dot=True).lower()) for record in chain.answer
            )
        else:
            records = [(0, record.address) for record in chain.answer]
        ttl = max(limits.least_ttl_s, min(chain.minimum_ttl, limits.longest_ttl_s))
        return _Answer(_Status.FOUND, tuple(records[: limits.records]), now + ttl, now + ttl + limits.stale_s)


def site_of(exchangers: Sequence[tuple[int, str]]) -> str:
    """The key of a set of (preference, name), every name once.

    It is equal for two domains exactly when they want the same hosts in the same order.
    `(mx1|mx2>backup).example.org`: mx1 and mx2 have the same preference, backup a worse one, and the domain that all
    have in common stands behind. The preferences themselves do not count, and neither does the order of equal ones.
    """
    groups = [
        sorted(name for _, name in group) for _, group in groupby(sorted(exchangers), key=lambda record: record[0])
    ]
    names = [name.split(".") for group in groups for name in group]
    if len(names) == 1:
        return groups[0][0]
    common = 0
    while all(len(labels) > common + 1 and labels[-1 - common] == names[0][-1 - common] for labels in names):
        common += 1
    if common < 2:  # a top-level domain in common says nothing
        common = 0
    suffix = "." + ".".join(names[0][len(names[0]) - common :]) if common else ""
    text = ">".join("|".join(name.removesuffix(suffix) for name in group) for group in groups)
    site = f"({text}){suffix}"
    if len(site) <= LONGEST_SITE:
        return site
    return f"{site[: LONGEST_SITE - 17]}~{sha256(site.encode()).hexdigest()[:16]}"


def families_of_machine() -> tuple[Family, ...]:
    """The families of address that this machine has a route for, IPv6 first. Nothing is sent to find that out."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect(("2001:db8::1", 53))
    except OSError:
        return ("A",)
    return ("AAAA", "A")


def _each_once(exchangers: Iterable[tuple[int, str]]) -> list[tuple[int, str]]:
    """A host that is named twice counts with its best preference."""
    best: dict[str, int] = {}
    for preference, name in sorted(exchangers):
        best.setdefault(name, preference)
    return [(preference, name) for name, preference in best.items()]


def _no_answer(name: str) -> ResolutionFailure:
    return ResolutionFailure(False, 451, (4, 4, 3), f"no name server had an answer for {name}")


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


def _literal(domain: str) -> MailHosts:
    """An address literal, RFC 5321 §4.1.3: no look-up."""
    address = literal_address(domain)
    if address is None:
        raise ResolutionFailure(True, 550, (5, 1, 2), f"{domain!a} is not an address literal known here")
    return MailHosts(domain, (MailHost(address, (address,)),), address, float("inf"))
