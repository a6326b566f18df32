"""Which addresses lead back to this relay."""

from __future__ import annotations

import pytest

from angarium.config.address import ListenAddress, Network
from angarium.delivery.own_address import LOOK_S, OwnAddresses, interface_addresses

INTERFACES = frozenset({"192.0.2.10", "2001:db8::10", "127.0.0.1"})


def make(*listeners: str, networks: tuple[str, ...] = ()) -> OwnAddresses:
    return OwnAddresses(
        [ListenAddress.parse(listener) for listener in listeners],
        [Network.parse(network) for network in networks],
        lambda: 1.0,
        lambda: INTERFACES,
    )


@pytest.mark.parametrize(
    ("listeners", "own", "others"),
    [
        (("192.0.2.1:25",), ["192.0.2.1"], ["192.0.2.10", "127.0.0.1"]),
        (("192.0.2.1:2525", "0.0.0.0:587"), [], ["192.0.2.1", "192.0.2.10"]),
        (("0.0.0.0:25",), ["192.0.2.10", "127.0.0.1", "127.9.9.9"], ["192.0.2.1"]),
        (("[::]:25",), ["192.0.2.10", "2001:db8::10", "::1"], ["2001:db8::11"]),
    ],
)
def test_what_listens_on_port_25_is_own(listeners: tuple[str, ...], own: list[str], others: list[str]) -> None:
    addresses = make(*listeners)
    assert all(address in addresses for address in own)
    assert not any(address in addresses for address in others)


def test_what_the_configuration_names_is_own() -> None:
    addresses = make("10.0.0.1:2525", networks=("198.51.100.7/32", "2001:db8:7::/48"))
    assert "198.51.100.7" in addresses
    assert "2001:db8:7::25" in addresses
    assert "198.51.100.8" not in addresses


def test_interfaces_are_looked_at_again() -> None:
    now, seen = 0.0, frozenset({"192.0.2.10"})
    addresses = OwnAddresses([ListenAddress.parse("0.0.0.0:25")], [], lambda: now, lambda: seen)
    assert "192.0.2.10" in addresses
    seen = frozenset({"192.0.2.20"})
    assert "192.0.2.20" not in addresses
    now += LOOK_S
    assert "192.0.2.20" in addresses
    assert "192.0.2.10" not in addresses


def test_this_machine_has_a_loopback_address() -> None:
    assert "127.0.0.1" in interface_addresses()
