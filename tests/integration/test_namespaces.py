"""Mail hosts on a network of their own: silent, broken, and reached by another address or another host."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.support.dns import NameServerThread
from tests.support.namespace import Network, Unavailable
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
