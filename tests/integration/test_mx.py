"""Delivery by MX (RFC 5321 §5.1): a name server on loopback, mail hosts on 127.0.0.2 and above at port 25."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.dns import Fault, NameServer, NameServerThread
from tests.support.peers import SinkServer
from tests.support.ports import is_free
from tests.support.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Iterator

FIRST, SECOND, THIRD, NOBODY = "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.9"
ZONE = f"""
one       60 IN MX 10 mx1.hosts.test.
order     60 IN MX 20 mx2.hosts.test.
order     60 IN MX 10 mx1.hosts.test.
backup    60 IN MX 10 dead.hosts.test.
backup    60 IN MX 20 mx2.hosts.test.
equal     60 IN MX 10 mx1.hosts.test.
equal     60 IN MX 10 mx2.hosts.test.
bare      60 IN A  {THIRD}
null      60 IN MX 0 .
broken    60 IN MX 10 mx1.hosts.test.
alias     60 IN CNAME one
early     1  IN MX 10 mx1.hosts.test.
kept    600  IN MX 10 mx1.hosts.test.
"""
HOSTS = f"""
mx1   60 IN A {FIRST}
mx2   60 IN A {SECOND}
dead  60 IN A {NOBODY}
"""


def can_bind() -> bool:
    return os.geteuid() == 0 and all(is_free(host, 25) for host in (FIRST, SECOND, THIRD, NOBODY))


pytestmark = pytest.mark.skipif(not can_bind(), reason="mail hosts listen on port 25 of 127.0.0.2 to .4: needs root")


class Road:
    """The relay, its name server, and three mail hosts."""

    def __init__(self, relay: Relay, names: NameServer, hosts: list[SinkServer]) -> None:
        self.relay = relay
        self.names = names
        self.hosts = hosts

    def takers(self, recipient: str) -> list[int]:
        """Which hosts took mail for recipient, from 1."""
        return [number for number, host in enumerate(self.hosts, 1) for _ in host.to(recipient)]


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    with (
        NameServerThread({"dest.test": ZONE, "hosts.test": HOSTS}) as names,
        SinkServer(host=FIRST, port=25) as one,
        SinkServer(host=SECOND, port=25) as two,
        SinkServer(host=THIRD, port=25) as three,
        Relay(
            tmp_path_factory.mktemp("mx"),
            {
                "dns": {"servers": [f"127.0.0.1:{names.port}"]},
                "delivery": {"never_contact": []},
                "route": [{"recipients": ["origin.test"], "next_hop": "discard:"}],
            },
        ) as relay,
    ):
        yield Road(relay, names, [one, two, three])


@pytest.mark.parametrize(
    ("domain", "host"), [("one", 1), ("order", 1), ("backup", 2), ("bare", 3), ("alias", 1), ("ONE", 1)]
)
def test_the_host_that_the_records_name(road: Road, domain: str, host: int) -> None:
    recipient = f"a@{domain}.dest.test"
    queue_id = road.relay.send(recipient)
    event = road.relay.wait_event("delivery", id=queue_id)
    assert road.takers(recipient) == [host]
    assert event["next_hop"] == "mx"


def test_equal_preferences_share(road: Road) -> None:
    """Each message alone, so that the connection is chosen anew: 40 coins never all show the same side."""
    domains = [f"d{number}" for number in range(40)]
    road.names.zone(
        "equal.test", "\n".join(f"{d} 60 IN MX 5 mx1.hosts.test.\n{d} 60 IN MX 5 mx2.hosts.test." for d in domains)
    )
    for domain in domains:
        road.relay.send(f"a@{domain}.equal.test")
    taken = {domain: road.relay.wait_event("delivery", recipient=f"a@{domain}.equal.test") for domain in domains}
    # one pair of hosts is one site, whatever the domain: all share its connections
    assert len({event["site"] for event in taken.values()}) == 1
    assert all(road.takers(f"a@{domain}.equal.test") in ([1], [2]) for domain in domains)


@pytest.mark.parametrize(("domain", "enhanced"), [("null.dest.test", "5.1.10"), ("nowhere.dest.test", "5.1.2")])
def test_a_domain_without_mail(road: Road, domain: str, enhanced: str) -> None:
    queue_id = road.relay.send([f"a@{domain}", "a@one.dest.test"])
    bounce = road.relay.wait_event("bounce", id=queue_id)
    assert bounce["recipient"] == f"a@{domain}"
    assert bounce["reply"]["enhanced"] == enhanced
    road.relay.wait_event("delivery", id=queue_id, recipient="a@one.dest.test")


def test_a_name_server_that_fails_for_a_while(road: Road) -> None:
    road.names.fault(Fault.SERVFAIL, "broken.dest.test")
    queue_id = road.relay.send("a@broken.dest.test")
    deferral = road.relay.wait_event("deferral", id=queue_id)
    assert (deferral["reply"]["code"], deferral["reply"]["enhanced"][:2]) == (451, "4.")
    road.names.fault(None, "broken.dest.test")
    road.relay.wait_event("delivery", id=queue_id, patience_s=40)


def test_an_address_literal(road: Road) -> None:
    queue_id = road.relay.send(f"a@[{SECOND}]")
    road.relay.wait_event("delivery", id=queue_id)
    assert road.takers(f"a@[{SECOND}]") == [2]


def test_answers_are_kept_for_their_time(road: Road) -> None:
    def asked() -> int:
        return sum(query[:2] == ("kept.dest.test", "MX") for query in road.names.queries)

    for _ in range(6):
        road.relay.wait_event("delivery", id=road.relay.send("a@kept.dest.test"))
    assert asked() == 1


def test_explain_says_what_dns_says_and_where_a_connection_would_go(road: Road) -> None:
    answer = road.relay.api("explain?address=a@Order.dest.test")
    assert [(host["preference"], host["name"], host["addresses"]) for host in answer["dns"]["hosts"]] == [
        (10, "mx1.hosts.test", [FIRST]),
        (20, "mx2.hosts.test", [SECOND]),
    ]
    assert answer["site"] == "(mx1>mx2).hosts.test"
    assert [(host["address"], host["port"]) for host in answer["hosts"]] == [(FIRST, 25), (SECOND, 25)]
    assert answer["route"]["position"] is None
    sent = road.relay.wait_event("delivery", id=road.relay.send("a@order.dest.test"))["site"]
    again = road.relay.api("explain?address=a@order.dest.test")
    assert again["site"] == sent
    assert [worker["sent"] + worker["open"] > 0 for worker in again["workers"]] == [True]
    # a literal domain is its own host
    assert road.relay.api(f"explain?address=a@[{SECOND}]")["hosts"][0]["address"] == SECOND
