"""Mail hosts on a network of their own: silent, broken, and reached by another address or another host."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.support.dns import NameServerThread
from tests.support.namespace import RELAY4, RELAY6, Network, Unavailable
from tests.support.peers import SinkServer
from tests.support.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIRST, SECOND, SIXTH, SILENT4, SILENT6 = "10.231.7.2", "10.231.7.3", "fd00:231:7::3", "10.231.7.9", "fd00:231:7::9"
ZONE = f"""
plain    60 IN MX 10 first
backup   60 IN MX 10 silent
backup   60 IN MX 20 second
dual     60 IN MX 10 dual.hosts
six      60 IN MX 10 six.hosts
first    60 IN A     {FIRST}
second   60 IN A     {SECOND}
silent   60 IN A     {SILENT4}
dual.hosts 60 IN AAAA {SILENT6}
dual.hosts 60 IN A    {SECOND}
six.hosts  60 IN AAAA {SIXTH}
six.hosts  60 IN A    {SILENT4}
only6    60 IN MX 10 only6.hosts
only6.hosts 60 IN AAAA {SIXTH}
"""
LONG_S = 100  # longer than a test waits: what depends on it does not arrive


@pytest.fixture
def network() -> Iterator[Network]:
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(Network(FIRST, SECOND, SIXTH))
        except Unavailable as why:
            pytest.skip(f"no network namespaces here: {why}")
        made.silence(SILENT4)
        made.silence(SILENT6)
        yield made


@pytest.fixture
def hosts(network: Network) -> Iterator[dict[str, SinkServer]]:
    with network.among_hosts():
        sinks = {address: SinkServer(host=address, port=25) for address in (FIRST, SECOND, SIXTH)}
        for sink in sinks.values():
            sink.start()
    yield sinks
    for sink in sinks.values():
        sink.stop()


def relay_to(tmp_path: Path, names: NameServerThread, connect: str) -> Relay:
    return Relay(
        tmp_path,
        {
            "dns": {"servers": [f"127.0.0.1:{names.port}"]},
            "delivery": {"never_contact": [], "timeouts": {"connect": connect}},
            "route": [{"recipients": ["origin.test"], "next_hop": "discard:"}],
        },
    )


def test_hosts_at_their_own_addresses_and_a_broken_ipv6_path_delays_nothing(
    tmp_path: Path, hosts: dict[str, SinkServer]
) -> None:
    """The silent address would take longer than the test waits; by the other one the mail is there."""
    with NameServerThread({"dest.test": ZONE}) as names, relay_to(tmp_path, names, f"{LONG_S}s") as relay:
        for domain, address in (("plain", FIRST), ("dual", SECOND), ("six", SIXTH)):
            queue_id = relay.send(f"a@{domain}.dest.test")
            assert relay.wait_event("delivery", id=queue_id)["attempts"] == 1
            assert [sink.host for sink in hosts.values() if sink.to(f"a@{domain}.dest.test")] == [address]
        assert relay.events("deferral") == []


def test_a_silent_host_is_given_up_for_the_next(tmp_path: Path, hosts: dict[str, SinkServer]) -> None:
    with NameServerThread({"dest.test": ZONE}) as names, relay_to(tmp_path, names, "3s") as relay:
        queue_id = relay.send("a@backup.dest.test")
        assert relay.wait_event("delivery", id=queue_id)["attempts"] == 1
        assert len(hosts[SECOND].to("a@backup.dest.test")) == 1


def test_never_contact_keeps_mail_by_mx_off_this_network(tmp_path: Path, hosts: dict[str, SinkServer]) -> None:
    """As it is by default: these are private addresses."""
    config = {"route": [{"recipients": ["origin.test"], "next_hop": "discard:"}]}
    with NameServerThread({"dest.test": ZONE}) as names:
        config |= {"dns": {"servers": [f"127.0.0.1:{names.port}"]}}  # type: ignore[dict-item]
        with Relay(tmp_path, config) as relay:
            bounce = relay.wait_event("bounce", id=relay.send("a@plain.dest.test"))
            assert bounce["reply"]["enhanced"] == "5.4.4"
            assert FIRST in bounce["reply"]["text"]
        assert all(sink.mails == [] for sink in hosts.values())


def test_the_sources_of_a_pool_stand_in_for_one_another_until_the_first_is_back(
    tmp_path: Path, network: Network, hosts: dict[str, SinkServer]
) -> None:
    """By MX: an address that comes later, one of IPv4 alone, one of IPv6 alone."""
    late = "10.231.7.20"
    with NameServerThread({"dest.test": ZONE}) as names:
        relay = relay_to(tmp_path, names, f"{LONG_S}s")
        relay.config |= {
            "source": [
                {"name": "late", "ipv4": late, "hostname": "late.relay.test"},
                {"name": "four", "ipv4": RELAY4},
                {"name": "six", "ipv6": RELAY6, "hostname": "six.relay.test"},
            ],
            "source_pool": [
                {"name": "late", "members": ["late"]},
                {"name": "all", "members": ["late", "four", "six"]},
            ],
            "route": [
                {"recipients": ["origin.test"], "next_hop": "discard:"},
                {"recipients": ["second.dest.test"], "next_hop": "mx", "source_pool": "late"},
                {"recipients": ["*"], "next_hop": "mx", "source_pool": "all"},
            ],
        }
        with relay:
            waiting = relay.send("a@second.dest.test")
            relay.wait_event("source_pool_unusable", pool="late")
            relay.wait_event("source_down", source="late")
            for number in range(6):  # two of these were assigned to each source, and every way is found
                relay.send(f"a{number}@plain.dest.test")
                relay.send(f"a{number}@only6.dest.test")
            for number in range(6):
                assert hosts[FIRST].wait_mail(f"a{number}@plain.dest.test").client == RELAY4
                mail = hosts[SIXTH].wait_mail(f"a{number}@only6.dest.test")
                assert (mail.client, mail.greeting) == (RELAY6, "six.relay.test")
            assert relay.events("deferral") == []
            assert relay.summary()["messages"] == 1
            network.add(late)
            assert relay.wait_event("source_up")["address"] == late
            assert hosts[SECOND].wait_mail("a@second.dest.test").client == late
            assert relay.wait_event("delivery", id=waiting)["attempts"] == 1
            for number in range(4):
                relay.send(f"b{number}@plain.dest.test")
            clients = {hosts[FIRST].wait_mail(f"b{number}@plain.dest.test").client for number in range(4)}
            assert clients == {late, RELAY4}
