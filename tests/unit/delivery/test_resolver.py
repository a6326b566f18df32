"""Mail hosts of a domain, RFC 5321 §5.1, and the cache in front of the name servers."""

import asyncio
import errno
import random
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from angarium.delivery.name_servers import NameServers
from angarium.delivery.resolver import (
    Limits,
    MailHost,
    MailHosts,
    ResolutionFailure,
    Resolver,
    families_of_machine,
)
from tests.support.dns import Fault, NameServer

ZONE = """
@        600 IN A     192.0.2.1
one      600 IN MX    10 mx1.hosts.example.
two      300 IN MX    20 backup.hosts.example.
two      300 IN MX    10 mx1.hosts.example.
equal    600 IN MX    10 mx1.hosts.example.
equal    600 IN MX    10 mx2.hosts.example.
equal    600 IN MX    20 backup.hosts.example.
null     600 IN MX    0 .
mixed    600 IN MX    0 .
mixed    600 IN MX    10 mx1.hosts.example.
twice    600 IN MX    10 mx1.hosts.example.
twice    600 IN MX    20 mx1.hosts.example.
again    600 IN MX    10 mx1.hosts.example.
again    600 IN MX    20 backup.hosts.example.
again    600 IN MX    30 mx1.hosts.example.
bare     600 IN AAAA  2001:db8::1
text     600 IN TXT   "no address"
lost     600 IN MX    10 nowhere.hosts.example.
lost     600 IN MX    20 text.example.org.
partly   600 IN MX    10 nowhere.hosts.example.
partly   600 IN MX    20 mx1.hosts.example.
alias    600 IN CNAME two
www      600 IN CNAME bare
circle   600 IN CNAME round
round    600 IN CNAME circle
brief    1   IN MX    10 mx1.hosts.example.
long     604800 IN MX 10 steady.hosts.example.
own      600 IN MX    10 mx1.hosts.example.
own      600 IN MX    20 Relay.Example.NET.
own      600 IN MX    20 mx2.hosts.example.
own      600 IN MX    30 backup.hosts.example.
loop     600 IN MX    10 relay.example.net.
loop     600 IN MX    20 mx1.hosts.example.
below.deep 600 IN A   192.0.2.9
xn--bcher-kva 600 IN MX 10 mx1.hosts.example.
"""
HOSTS = """
mx1      600 IN A     192.0.2.11
mx1      600 IN A     192.0.2.12
mx1      600 IN AAAA  2001:db8::11
mx2      500 IN A     192.0.2.21
mx2      600 IN AAAA  2001:db8::21
backup   600 IN A     192.0.2.31
backup   600 IN AAAA  2001:db8::31
steady   604800 IN A  192.0.2.41
steady   604800 IN AAAA 2001:db8::41
"""
MX1_V6 = "2001:db8::11"


class FakeClock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time

    def turn(self, seconds: float) -> None:
        self.time += seconds


@pytest.fixture
async def server() -> AsyncIterator[NameServer]:
    async with NameServer() as server:
        server.zone("example.org.", ZONE)
        server.zone("hosts.example.", HOSTS)
        yield server


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


Make = Callable[..., Resolver]


@pytest.fixture
async def make(server: NameServer, clock: FakeClock) -> AsyncIterator[Make]:
    made: list[Resolver] = []

    def make_resolver(**options: object) -> Resolver:
        given: dict[str, object] = {"timeout_s": 30.0, "rounds": 1, "stale_after_s": 30.0}
        limits = Limits(**given | options.pop("limits", {}))  # type: ignore[arg-type, operator]
        arguments: dict[str, object] = {
            "hostnames": ["relay.example.net"],
            "monotonic": clock,
            "random": random.Random(1),
            "servers": [server.address],
            "limits": limits,
        }
        made.append(Resolver(**arguments | options))  # type: ignore[arg-type]
        return made[-1]

    yield make_resolver
    for resolver in made:
        await resolver.close()


async def failure_of(resolver: Resolver, domain: str) -> tuple[bool, int, tuple[int, int, int]]:
    with pytest.raises(ResolutionFailure) as caught:
        await resolver.mail_hosts(domain)
    return caught.value.permanent, caught.value.code, caught.value.enhanced


def names(found: MailHosts) -> list[str]:
    return [host.name.partition(".")[0] for host in found.hosts]


async def test_hosts_come_by_preference_with_all_their_addresses(make: Make, clock: FakeClock) -> None:
    found = await make().mail_hosts("two.example.org")
    assert found.domain == "two.example.org"
    assert [(host.name, host.preference) for host in found.hosts] == [
        ("mx1.hosts.example", 10),
        ("backup.hosts.example", 20),
    ]
    first = found.hosts[0].addresses
    assert first[0] == MX1_V6
    assert sorted(first[1:]) == ["192.0.2.11", "192.0.2.12"]
    assert found.expires == clock() + 300, "the lowest TTL of all that was asked for"
    assert found.site == "(mx1>backup).hosts.example"


async def test_equal_preferences_and_addresses_are_shuffled(make: Make) -> None:
    resolver = make()
    orders: Counter[tuple[str, ...]] = Counter()
    addresses: Counter[str] = Counter()
    for _ in range(200):
        found = await resolver.mail_hosts("equal.example.org")
        orders[tuple(names(found))] += 1
        mx1 = next(host for host in found.hosts if host.name.startswith("mx1"))
        addresses[mx1.addresses[1]] += 1
        assert found.site == "(mx1|mx2>backup).hosts.example", "the same for every order"
    assert set(orders) == {("mx1", "mx2", "backup"), ("mx2", "mx1", "backup")}
    assert min(orders.values()) > 60
    assert set(addresses) == {"192.0.2.11", "192.0.2.12"}
    assert min(addresses.values()) > 60


@pytest.mark.parametrize(
    ("families", "addresses"),
    [
        (("A",), ["192.0.2.21"]),
        (("AAAA",), ["2001:db8::21"]),
        (("A", "AAAA"), ["192.0.2.21", "2001:db8::21"]),
        (("AAAA", "A"), ["2001:db8::21", "192.0.2.21"]),
    ],
)
async def test_families_are_used_in_the_order_given(
    make: Make, server: NameServer, families: tuple[str, ...], addresses: list[str]
) -> None:
    found = await make(families=families).host_addresses("mx2.hosts.example")
    assert list(found.hosts[0].addresses) == addresses
    assert sorted(rdtype for _, rdtype, _ in server.queries) == sorted(families)


async def test_a_domain_without_exchangers_is_its_own(make: Make) -> None:
    found = await make().mail_hosts("bare.example.org")
    assert found.hosts == (MailHost("bare.example.org", ("2001:db8::1",), 0),)
    assert found.site == "bare.example.org"


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("null.example.org", (True, 556, (5, 1, 10))),
        ("nobody.example.org", (True, 550, (5, 1, 2))),
        ("text.example.org", (True, 550, (5, 1, 2))),
        ("lost.example.org", (True, 550, (5, 4, 4))),
        ("loop.example.org", (True, 554, (5, 4, 6))),
        ("relay.example.net", (True, 554, (5, 4, 6))),
        ("circle.example.org", (False, 451, (4, 4, 3))),
        ("refused.example", (False, 451, (4, 4, 3))),
        ("deep.example.org", (True, 550, (5, 1, 2))),
    ],
)
async def test_domains_without_a_host(
    make: Make, server: NameServer, domain: str, expected: tuple[bool, int, tuple[int, int, int]]
) -> None:
    server.zone("relay.example.net.", "@ 60 IN A 192.0.2.99")
    assert await failure_of(make(), domain) == expected


@pytest.mark.parametrize(
    "domain",
    [
        "",
        ".",
        "a..b",
        "a" * 64 + ".example",
        "a." * 127 + "toolong",
        "a b",
        "a\\046b",
        "a\x00b",
        "\u2024.example",
        "a\udc80",
    ],
)
async def test_what_is_no_domain_is_refused_without_a_query(make: Make, server: NameServer, domain: str) -> None:
    assert await failure_of(make(), domain) == (True, 550, (5, 1, 2))
    assert server.queries == []


@pytest.mark.parametrize(
    ("literal", "address"),
    [("[192.0.2.7]", "192.0.2.7"), ("[IPv6:2001:DB8::7]", "2001:db8::7"), ("[ipv6:::1]", "::1")],
)
async def test_an_address_literal_is_its_own_host(make: Make, server: NameServer, literal: str, address: str) -> None:
    found = await make().mail_hosts(literal)
    assert found == MailHosts(literal, (MailHost(address, (address,)),), address, float("inf"))
    assert server.queries == []


@pytest.mark.parametrize(
    "literal", ["[", "[]", "[192.0.2]", "[2001:db8::7]", "[IPv6:192.0.2.7]", "[X400:a]", "[192.0.2.7"]
)
async def test_literals_that_mean_nothing_here_fail(make: Make, literal: str) -> None:
    assert await failure_of(make(), literal) == (True, 550, (5, 1, 2))


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("mixed.example.org", ["mx1"]),  # RFC 7505 §3: a null MX beside others means nothing
        ("twice.example.org", ["mx1"]),
        ("again.example.org", ["mx1", "backup"]),
        ("partly.example.org", ["mx1"]),
        ("alias.example.org", ["mx1", "backup"]),
        ("www.example.org", ["www"]),
        ("own.example.org", ["mx1"]),  # what is no better than this relay is cut
        ("TWO.Example.ORG.", ["mx1", "backup"]),
        ("b\u00fccher.example.org", ["mx1"]),
    ],
)
async def test_hosts_of_unusual_domains(make: Make, domain: str, expected: list[str]) -> None:
    assert names(await make().mail_hosts(domain)) == expected


async def test_equal_sets_of_hosts_are_one_site(make: Make) -> None:
    resolver = make()
    sites = {d: (await resolver.mail_hosts(f"{d}.example.org")).site for d in ("two", "alias", "one", "twice", "own")}
    assert sites["two"] == sites["alias"] == "(mx1>backup).hosts.example"
    assert sites["one"] == sites["twice"] == sites["own"] == "mx1.hosts.example"


async def test_at_most_so_many_hosts_of_a_domain_are_used(make: Make, server: NameServer) -> None:
    server.zone("many.example.", "\n".join(f"@ 60 IN MX {n} mx{n}\nmx{n} 60 IN A 192.0.2.{n}" for n in range(40)))
    found = await make(families=("A",), limits={"hosts": 5}).mail_hosts("many.example")
    assert [host.name for host in found.hosts] == [f"mx{n}.many.example" for n in range(5)]
    assert len(server.queries) == 6


# ---------------------------------------------------------------------- the cache


async def test_answers_are_kept_as_long_as_their_ttl(make: Make, server: NameServer, clock: FakeClock) -> None:
    resolver = make()
    await resolver.mail_hosts("two.example.org")
    assert (resolver.queries, resolver.cache_hits) == (5, 0)
    clock.turn(299)
    await resolver.mail_hosts("two.example.org")
    assert (resolver.queries, resolver.cache_hits) == (5, 5)
    clock.turn(2)
    await resolver.mail_hosts("two.example.org")
    assert server.queries[5:] == [("two.example.org", "MX", "udp")], "the addresses live longer"


@pytest.mark.parametrize(("domain", "seconds"), [("brief", 10.0), ("long", 86400.0)])
async def test_ttls_have_a_floor_and_a_ceiling(make: Make, clock: FakeClock, domain: str, seconds: float) -> None:
    found = await make().mail_hosts(f"{domain}.example.org")
    assert found.expires == clock() + seconds


@pytest.mark.parametrize(
    ("zone", "seconds"),
    [
        ("@ 3600 IN SOA ns host 1 2 3 4 120", 120),
        ("@ 60 IN SOA ns host 1 2 3 4 120", 60),
        ("@ 99999 IN SOA a b 1 2 3 4 99999", 3600),
    ],
)
async def test_negative_answers_are_kept_by_the_soa(
    make: Make, server: NameServer, clock: FakeClock, zone: str, seconds: float
) -> None:
    server.zone("negative.example.", zone)
    resolver = make()
    assert (await failure_of(resolver, "no.negative.example"))[1] == 550
    clock.turn(seconds - 1)
    assert (await failure_of(resolver, "no.negative.example"))[1] == 550
    assert (resolver.queries, resolver.cache_hits) == (1, 1)
    clock.turn(2)
    assert (await failure_of(resolver, "no.negative.example"))[1] == 550
    assert resolver.queries == 2


async def test_a_negative_answer_without_an_soa_is_kept_for_a_moment(
    make: Make, server: NameServer, clock: FakeClock
) -> None:
    server.fault(Fault.NO_SOA)
    resolver = make()
    for _ in range(2):
        assert (await failure_of(resolver, "nobody.example.org"))[1] == 550
    assert resolver.queries == 1
    clock.turn(10.1)
    assert (await failure_of(resolver, "nobody.example.org"))[1] == 550
    assert resolver.queries == 2


async def test_failures_are_kept_for_a_moment(make: Make, server: NameServer, clock: FakeClock) -> None:
    server.fault(Fault.SERVFAIL)
    resolver = make()
    for _ in range(3):
        assert await failure_of(resolver, "two.example.org") == (False, 451, (4, 4, 3))
    assert (resolver.queries, resolver.failures, resolver.cache_hits) == (1, 1, 2)
    server.fault(None)
    clock.turn(5.1)
    assert names(await resolver.mail_hosts("two.example.org")) == ["mx1", "backup"]


async def test_equal_questions_share_one_query(make: Make, server: NameServer) -> None:
    resolver = make()
    server.hold()
    waiting = [asyncio.create_task(resolver.mail_hosts("two.example.org")) for _ in range(50)]
    await server.wait_for_queries(1)
    server.release()
    found = await asyncio.gather(*waiting)
    assert {tuple(names(each)) for each in found} == {("mx1", "backup")}
    assert len(server.queries) == 5


async def test_one_who_gives_up_does_not_take_the_answer_from_the_others(make: Make, server: NameServer) -> None:
    resolver = make()
    server.hold()
    first = asyncio.create_task(resolver.mail_hosts("two.example.org"))
    second = asyncio.create_task(resolver.mail_hosts("two.example.org"))
    await server.wait_for_queries(1)
    first.cancel()
    server.release()
    assert names(await second) == ["mx1", "backup"]
    assert first.cancelled()
    assert len(server.queries) == 5


async def test_what_was_right_once_is_used_while_no_server_answers(
    make: Make, server: NameServer, clock: FakeClock
) -> None:
    resolver = make()
    await resolver.mail_hosts("two.example.org")
    server.fault(Fault.SERVFAIL)
    clock.turn(700)
    found = await resolver.mail_hosts("two.example.org")
    assert names(found) == ["mx1", "backup"]
    assert found.expires == clock() + 30
    assert (resolver.failures, resolver.stale_answers) == (5, 5)
    await resolver.mail_hosts("two.example.org")
    assert resolver.queries == 10, "the servers are asked again after 30 seconds, not before"
    clock.turn(31)
    await resolver.mail_hosts("two.example.org")
    assert resolver.queries == 15
    server.fault(None)
    clock.turn(31)
    assert (await resolver.mail_hosts("two.example.org")).expires == clock() + 300


async def test_stale_answers_have_an_end(make: Make, server: NameServer, clock: FakeClock) -> None:
    resolver = make()
    await resolver.mail_hosts("two.example.org")
    server.fault(Fault.SERVFAIL)
    clock.turn(300 + 86400 - 1)
    assert names(await resolver.mail_hosts("two.example.org")) == ["mx1", "backup"]
    clock.turn(31)
    assert await failure_of(resolver, "two.example.org") == (False, 451, (4, 4, 3))


async def test_a_negative_answer_is_not_used_when_stale(make: Make, server: NameServer, clock: FakeClock) -> None:
    resolver = make()
    assert (await failure_of(resolver, "nobody.example.org"))[0]
    server.fault(Fault.SERVFAIL)
    clock.turn(301)
    assert await failure_of(resolver, "nobody.example.org") == (False, 451, (4, 4, 3))


async def test_the_cache_is_bounded_and_drops_what_was_used_longest_ago(make: Make, server: NameServer) -> None:
    resolver = make(families=("A",), limits={"entries": 2})
    for host in ("mx1", "mx2", "mx1", "backup", "mx1"):
        await resolver.host_addresses(f"{host}.hosts.example")
    assert [name.partition(".")[0] for name, _, _ in server.queries] == ["mx1", "mx2", "backup"]
    await resolver.host_addresses("mx2.hosts.example")
    assert len(server.queries) == 4


async def test_of_a_huge_answer_only_a_part_is_kept(make: Make, server: NameServer) -> None:
    server.zone("huge.example.", "\n".join(f"@ 60 IN A 192.0.{n // 250}.{n % 250}" for n in range(500)))
    found = await make(families=("A",), limits={"records": 8}).mail_hosts("huge.example")
    assert len(found.hosts[0].addresses) == 8
    assert ("huge.example", "A", "tcp") in server.queries


async def test_questions_on_the_wire_and_waiting_are_bounded(make: Make, server: NameServer) -> None:
    resolver = make(families=("A",), limits={"on_the_wire": 2, "questions": 3})
    server.hold()
    waiting = [
        asyncio.create_task(resolver.host_addresses(f"{host}.hosts.example")) for host in ("mx1", "mx2", "backup")
    ]
    await server.wait_for_queries(2)
    with pytest.raises(ResolutionFailure) as caught:
        await resolver.host_addresses("steady.hosts.example")
    assert not caught.value.permanent
    assert len(server.queries) == 2, "the third waits for one of the two"
    server.release()
    assert [each.hosts[0].name.partition(".")[0] for each in await asyncio.gather(*waiting)] == ["mx1", "mx2", "backup"]
    await resolver.host_addresses("steady.hosts.example")


# ---------------------------------------------------------------------- servers and the wire


@pytest.mark.parametrize(
    ("fault", "transports"),
    [
        (Fault.TRUNCATION, ["udp", "tcp"]),
        (Fault.NO_EDNS, ["udp", "udp"]),
        (Fault.GARBAGE, ["udp"]),
    ],
)
async def test_servers_that_need_more_than_one_try(
    make: Make, server: NameServer, fault: Fault, transports: list[str]
) -> None:
    server.fault(fault)
    found = await make(families=("A",)).host_addresses("mx2.hosts.example")
    assert found.hosts[0].addresses == ("192.0.2.21",)
    assert [transport for _, _, transport in server.queries] == transports


@pytest.mark.parametrize("fault", [Fault.SERVFAIL, Fault.REFUSED, Fault.SILENCE, Fault.WRONG_ID, Fault.NO_TCP])
async def test_a_server_without_an_answer_is_a_transient_failure(make: Make, server: NameServer, fault: Fault) -> None:
    server.fault(fault)
    resolver = make(limits={"timeout_s": 0.1, "rounds": 2})
    assert await failure_of(resolver, "two.example.org") == (False, 451, (4, 4, 3))
    assert (resolver.queries, resolver.failures) == (2, 2)


async def test_a_server_that_understands_no_query_at_all_has_no_answer(make: Make, server: NameServer) -> None:
    server.fault(Fault.FORMERR)
    resolver = make()
    assert await failure_of(resolver, "two.example.org") == (False, 451, (4, 4, 3))
    assert (resolver.queries, resolver.failures) == (2, 1), "once with EDNS, once without"


async def test_a_long_response_code_is_no_answer(make: Make, server: NameServer) -> None:
    server.fault(Fault.BADVERS)
    assert await failure_of(make(), "two.example.org") == (False, 451, (4, 4, 3))


async def test_a_closed_port_is_a_transient_failure(make: Make) -> None:
    async with NameServer() as gone:
        address = gone.address
    resolver = make(servers=[address], limits={"timeout_s": 0.1})
    assert await failure_of(resolver, "two.example.org") == (False, 451, (4, 4, 3))


async def test_hosts_that_could_not_be_looked_up_do_not_bounce_mail(make: Make, server: NameServer) -> None:
    server.fault(Fault.SERVFAIL, "nowhere.hosts.example")
    assert await failure_of(make(), "lost.example.org") == (False, 451, (4, 4, 3))


async def test_one_host_is_enough_and_is_asked_again_soon(make: Make, server: NameServer, clock: FakeClock) -> None:
    server.fault(Fault.SERVFAIL, "mx1.hosts.example")
    found = await make().mail_hosts("two.example.org")
    assert names(found) == ["backup"]
    assert found.site == "(mx1>backup).hosts.example", "the site does not depend on who can be looked up just now"
    assert found.expires == clock() + 5


async def test_the_server_that_answers_is_asked_first(make: Make, server: NameServer) -> None:
    async with NameServer() as dead:
        dead.fault(Fault.REFUSED)
        resolver = make(servers=[dead.address, server.address], families=("A",))
        await resolver.host_addresses("mx1.hosts.example")
        await resolver.host_addresses("mx2.hosts.example")
        assert (len(dead.queries), len(server.queries)) == (1, 2)


async def test_the_systems_servers_are_read_from_resolv_conf(
    make: Make, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path_factory.mktemp("etc") / "resolv.conf"
    asked: list[tuple[str, int]] = []

    async def note(self: NameServers, name: str, rdtype: str, server: tuple[str, int], timeout_s: float) -> None:
        asked.append(server)

    monkeypatch.setattr(NameServers, "_query", note)
    path.write_text("search example.org\nnameserver 192.0.2.53\nnameserver 2001:db8::53\n")
    assert (await failure_of(make(servers=[], resolv_conf=str(path)), "example.org"))[1] == 451
    assert asked == [("192.0.2.53", 53), ("2001:db8::53", 53)]
    asked.clear()
    assert (await failure_of(make(servers=[], resolv_conf=str(path) + "-none"), "example.org"))[1] == 451
    assert asked == [("127.0.0.1", 53)]


@pytest.mark.parametrize(
    ("host", "addresses"),
    [("192.0.2.5", ("192.0.2.5",)), ("2001:DB8::5", ("2001:db8::5",)), ("localhost", ("::1", "127.0.0.1"))],
)
async def test_fixed_hosts_that_need_no_server(
    make: Make, server: NameServer, host: str, addresses: tuple[str, ...]
) -> None:
    found = await make().host_addresses(host)
    assert found.hosts[0].addresses == addresses
    assert server.queries == []


async def test_a_fixed_host_without_an_address_bounces_nothing(make: Make, server: NameServer) -> None:
    resolver = make()
    for host, enhanced in (("typo.hosts.example", (4, 4, 4)), ("refused.example", (4, 4, 3))):
        with pytest.raises(ResolutionFailure) as caught:
            await resolver.host_addresses(host)
        assert (caught.value.permanent, caught.value.code, caught.value.enhanced) == (False, 451, enhanced)
    assert (await resolver.host_addresses("one.example.org.".replace("one", "bare"))).site == "bare.example.org"


async def test_close_ends_what_is_under_way(make: Make, server: NameServer) -> None:
    resolver = make()
    server.hold()
    waiting = asyncio.create_task(resolver.mail_hosts("two.example.org"))
    await server.wait_for_queries(1)
    await resolver.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_it_works_on_uvloop() -> None:
    async def look_up() -> None:
        async with NameServer() as server:
            server.zone("example.org.", ZONE)
            server.zone("hosts.example.", HOSTS)
            server.fault(Fault.TRUNCATION, "two.example.org")
            resolver = Resolver(
                hostnames=["relay.example.net"],
                monotonic=FakeClock(),
                random=random.Random(1),
                servers=[server.address],
            )
            assert names(await resolver.mail_hosts("two.example.org")) == ["mx1", "backup"]
            assert ("two.example.org", "MX", "tcp") in server.queries
            await resolver.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(look_up())


async def test_dnspython_is_loaded_with_the_first_question_only() -> None:
    program = (
        "import sys, angarium.delivery.resolver as r; assert not [m for m in sys.modules if m.split('.')[0] == 'dns']"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    assert await process.wait() == 0


@pytest.mark.parametrize(
    ("error", "families"), [(None, ("AAAA", "A")), (OSError(errno.ENETUNREACH, "no route"), ("A",))]
)
def test_families_of_machine_follow_its_routes(
    monkeypatch: pytest.MonkeyPatch, error: OSError | None, families: tuple[str, ...]
) -> None:
    class Probe:
        def __init__(self, family: int, kind: int) -> None:
            assert (family, kind) == (socket.AF_INET6, socket.SOCK_DGRAM)

        def __enter__(self) -> "Probe":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def connect(self, address: tuple[str, int]) -> None:
            if error is not None:
                raise error

    monkeypatch.setattr("angarium.delivery.resolver.socket.socket", Probe)
    assert families_of_machine() == families
