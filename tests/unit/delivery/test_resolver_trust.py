"""How far mail hosts are trusted: networks never to be contacted, this relay's own addresses, and what DNSSEC vouches
for."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest

from angarium.config.address import SPECIAL_PURPOSE, Network
from angarium.delivery.mail_host import MailHosts, ResolutionFailure, Tlsa
from angarium.delivery.resolver import Limits, Resolver
from tests.support.dns import Fault, NameServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    Make = Callable[..., Resolver]

DATA = "ab" * 32
RECORD = Tlsa(3, 1, 1, bytes.fromhex(DATA))

ZONE = f"""
public   60 IN MX 10 mx.hosts.test.
private  60 IN MX 10 inside.hosts.test.
private  60 IN MX 20 local.hosts.test.
mixed    60 IN MX 10 both.hosts.test.
later    60 IN MX 10 inside.hosts.test.
later    60 IN MX 20 mx.hosts.test.
bare     60 IN A 127.0.0.1
lost     60 IN MX 10 inside.hosts.test.
lost     60 IN MX 20 broken.hosts.test.
round    60 IN MX 10 mx.hosts.test.
round    60 IN MX 20 own.hosts.test.
round    60 IN MX 30 both.hosts.test.
loop     60 IN MX 10 own.hosts.test.
loop     60 IN MX 20 mx.hosts.test.
self     60 IN A 198.18.0.25
_25._tcp.bare 60 IN TLSA 3 1 1 {DATA}
"""
HOSTS = f"""
mx       60 IN A 198.18.0.1
inside   60 IN A 10.1.2.3
local    60 IN AAAA ::1
both     60 IN A 192.168.0.1
both     60 IN A 198.18.0.2
own      60 IN A 198.18.0.9
own      60 IN A 198.18.0.25
_25._tcp.mx 60 IN TLSA 3 1 1 {DATA}
_25._tcp.mx 60 IN TLSA 0 0 1 {DATA}
two      60 IN A 198.18.0.3
alias    60 IN CNAME mx
outside  60 IN CNAME mx.plain.test.
_25._tcp.outside 60 IN TLSA 3 1 1 {DATA}
both-names 60 IN CNAME two
_25._tcp.both-names 60 IN TLSA 3 1 1 {DATA}
"""
PLAIN = f"""
mx       60 IN A 198.18.0.4
_25._tcp.mx 60 IN TLSA 3 1 1 {DATA}
"""
# what a test may contact: as by default, but for the network that stands for the public one here
NEVER = tuple(network for network in SPECIAL_PURPOSE if "198.18.0.1" not in network)


@pytest.fixture
async def server() -> AsyncIterator[NameServer]:
    async with NameServer() as server:
        server.zone("dest.test.", ZONE)
        server.zone("hosts.test.", HOSTS)
        server.zone("plain.test.", PLAIN)
        server.secure |= {"dest.test", "hosts.test"}
        yield server


@pytest.fixture
async def make(server: NameServer) -> AsyncIterator[Make]:
    made: list[Resolver] = []

    def make_resolver(**options: object) -> Resolver:
        given: dict[str, object] = {
            "hostnames": ["relay.example.net"],
            "monotonic": time.monotonic,
            "random": random.Random(1),
            "servers": [server.address],
            "never_contact": NEVER,
            "limits": Limits(timeout_s=30.0, rounds=1, stale_after_s=30.0),
        }
        made.append(Resolver(**given | options))  # type: ignore[arg-type]
        return made[-1]

    yield make_resolver
    for resolver in made:
        await resolver.close()


def addresses(found: MailHosts) -> list[tuple[str, ...]]:
    return [host.addresses for host in found.hosts]


async def failure_of(resolver: Resolver, domain: str) -> ResolutionFailure:
    with pytest.raises(ResolutionFailure) as caught:
        await resolver.mail_hosts(domain)
    return caught.value


# ---------------------------------------------------------------------- networks never to be contacted


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("public.dest.test", [("198.18.0.1",)]),
        ("mixed.dest.test", [("198.18.0.2",)]),
        ("later.dest.test", [("198.18.0.1",)]),
        ("[198.18.0.7]", [("198.18.0.7",)]),
    ],
)
async def test_addresses_of_such_networks_are_left_out(
    make: Make, domain: str, expected: list[tuple[str, ...]]
) -> None:
    assert addresses(await make().mail_hosts(domain)) == expected


@pytest.mark.parametrize(
    ("domain", "why"),
    [
        ("private.dest.test", "10.1.2.3 is in 10.0.0.0/8"),
        ("bare.dest.test", "127.0.0.1 is in 127.0.0.0/8"),
        ("[127.0.0.1]", "127.0.0.1 is in 127.0.0.0/8"),
        ("[IPv6:::1]", "::1 is in ::1/128"),
        ("[IPv6:::ffff:10.0.0.1]", "::ffff:a00:1 is in 10.0.0.0/8"),
    ],
)
async def test_a_domain_with_no_other_address_has_failed(make: Make, domain: str, why: str) -> None:
    failure = await failure_of(make(), domain)
    assert (failure.permanent, failure.code, failure.enhanced) == (True, 550, (5, 4, 4))
    assert failure.text == f"no mail host of {domain} may be contacted: {why}"


async def test_a_host_that_could_not_be_looked_up_may_have_another(make: Make, server: NameServer) -> None:
    server.fault(Fault.SERVFAIL, "broken.hosts.test")
    failure = await failure_of(make(), "lost.dest.test")
    assert (failure.permanent, failure.code) == (False, 451)


async def test_a_list_takes_the_place_of_the_default(make: Make) -> None:
    resolver = make(never_contact=(Network.parse("198.18.0.1/32"),))
    assert addresses(await resolver.mail_hosts("private.dest.test")) == [("10.1.2.3",), ("::1",)]
    assert (await failure_of(resolver, "public.dest.test")).permanent
    assert addresses(await make(never_contact=()).mail_hosts("bare.dest.test")) == [("127.0.0.1",)]


async def test_a_host_that_a_route_names_is_not_subject_to_it(make: Make) -> None:
    assert addresses(await make().host_addresses("inside.hosts.test")) == [("10.1.2.3",)]


# ---------------------------------------------------------------------- own addresses


async def test_an_own_address_cuts_as_the_own_name_does(make: Make) -> None:
    resolver = make(is_own=lambda address: address == "198.18.0.25")
    found = await resolver.mail_hosts("round.dest.test")
    assert addresses(found) == [("198.18.0.1",)]
    assert found.site == "mx.hosts.test"
    for domain in ("loop.dest.test", "self.dest.test", "[198.18.0.25]"):
        failure = await failure_of(resolver, domain)
        assert (failure.permanent, failure.code, failure.enhanced) == (True, 554, (5, 4, 6)), domain


# ---------------------------------------------------------------------- DNSSEC


def secured(make: Make, **options: object) -> Resolver:
    return make(dnssec=True, **options)


async def test_secure_hosts_come_with_their_tlsa_records(make: Make) -> None:
    found = await secured(make).mail_hosts("public.dest.test")
    (host,) = found.hosts
    assert (found.secure, host.secure, host.tlsa_base) == (True, True, "mx.hosts.test")
    assert host.tlsa == (Tlsa(0, 0, 1, RECORD.data), RECORD), "the unusable one too: it forbids plaintext"


async def test_without_trust_in_the_bit_nothing_is_secure(make: Make, server: NameServer) -> None:
    (host,) = (await make().mail_hosts("public.dest.test")).hosts
    assert (host.secure, host.tlsa) == (False, None)
    assert not any(rdtype == "TLSA" for _, rdtype, _ in server.queries)


@pytest.mark.parametrize("insecure", ["dest.test", "hosts.test"])
async def test_exchangers_and_addresses_must_be_secure_both(make: Make, server: NameServer, insecure: str) -> None:
    server.secure.discard(insecure)
    found = await secured(make).mail_hosts("public.dest.test")
    assert found.secure == (insecure != "dest.test")
    assert (found.hosts[0].secure, found.hosts[0].tlsa) == (False, None)
    assert not any(rdtype == "TLSA" for _, rdtype, _ in server.queries), "RFC 7672 §2.2: not even asked"


async def test_a_domain_that_is_its_own_exchanger(make: Make) -> None:
    (host,) = (await secured(make, never_contact=()).mail_hosts("bare.dest.test")).hosts
    assert (host.secure, host.tlsa, host.tlsa_base) == (True, (RECORD,), "bare.dest.test")


@pytest.mark.parametrize(
    ("host", "base"),
    [
        ("alias", "mx.hosts.test"),  # the end of the aliases comes first
        ("both-names", "both-names.hosts.test"),  # it has none; the name itself has
        ("outside", "outside.hosts.test"),  # its end is not signed, its beginning is
        ("two", ""),
    ],
)
async def test_the_base_of_the_tlsa_records_of_an_alias(make: Make, server: NameServer, host: str, base: str) -> None:
    server.fault(Fault.BARE_CNAME, "outside.hosts.test")
    found = (await secured(make).host_addresses(f"{host}.hosts.test")).hosts[0]
    assert found.tlsa_base == base
    assert bool(found.tlsa) == bool(base)


async def test_an_insecure_host_of_an_insecure_alias_has_no_dane(make: Make, server: NameServer) -> None:
    server.secure.discard("hosts.test")
    found = (await secured(make).host_addresses("outside.hosts.test")).hosts[0]
    assert (found.secure, found.tlsa) == (False, None)


async def test_tlsa_records_that_are_not_secure_do_not_count(make: Make, server: NameServer) -> None:
    server.zone("_tcp.mx.hosts.test.", f"_25 60 IN TLSA 3 1 1 {DATA}")
    server.secure.discard("hosts.test")
    server.secure |= {"hosts.test"}
    server.insecure.add("_tcp.mx.hosts.test")
    (host,) = (await secured(make).mail_hosts("public.dest.test")).hosts
    assert (host.secure, host.tlsa) == (True, None)


async def test_a_secure_host_whose_tlsa_records_cannot_be_had_is_not_used(make: Make, server: NameServer) -> None:
    server.fault(Fault.SERVFAIL, "_25._tcp.mx.hosts.test")
    failure = await failure_of(secured(make), "public.dest.test")
    assert (failure.permanent, failure.code, failure.enhanced) == (False, 451, (4, 7, 5))
    found = await secured(make, never_contact=()).mail_hosts("later.dest.test")
    assert [host.name for host in found.hosts] == ["inside.hosts.test"], "another host is"
    assert addresses(await make().mail_hosts("public.dest.test")) == [("198.18.0.1",)], "without DANE it is"


async def test_the_port_of_a_route_is_that_of_the_records(make: Make, server: NameServer) -> None:
    await secured(make).host_addresses("two.hosts.test", 2525)
    assert ("_2525._tcp.two.hosts.test", "TLSA", "udp") in server.queries


async def test_records_by_name(make: Make, server: NameServer) -> None:
    server.zone("texts.test.", '_mta-sts 60 IN TXT "v=STSv1; " "id=1;"\n_mta-sts 60 IN TXT "other"')
    server.secure.add("texts.test")
    resolver = secured(make)
    texts = await resolver.txt("_mta-sts.texts.test")
    assert (texts.records, texts.secure) == ((b"other", b"v=STSv1; id=1;"), True)
    assert (await resolver.txt("nothing.texts.test")).records == ()
    assert (await resolver.tlsa("_25._tcp.mx.plain.test")).records == (RECORD,)
    assert not (await resolver.tlsa("_25._tcp.mx.plain.test")).secure
    server.fault(Fault.SERVFAIL)
    with pytest.raises(ResolutionFailure) as caught:
        await resolver.txt("_smtp._tls.texts.test")
    assert not caught.value.permanent


# ---------------------------------------------------------------------- what is no answer


async def test_a_lame_server_says_nothing_of_the_domain(make: Make, server: NameServer) -> None:
    server.fault(Fault.LAME)
    failure = await failure_of(make(), "public.dest.test")
    assert (failure.permanent, failure.code, failure.enhanced) == (False, 451, (4, 4, 3))


async def test_aliases_that_a_server_does_not_follow_are_followed(make: Make, server: NameServer) -> None:
    server.fault(Fault.BARE_CNAME, "alias.hosts.test")
    found = await secured(make).host_addresses("alias.hosts.test")
    assert addresses(found) == [("198.18.0.1",)]
    assert found.hosts[0].secure
    server.fault(Fault.BARE_CNAME)
    server.zone("circle.test.", "a 60 IN CNAME b\nb 60 IN CNAME a")
    with pytest.raises(ResolutionFailure) as caught:
        await make().host_addresses("a.circle.test")
    assert (caught.value.permanent, caught.value.code) == (False, 451)
