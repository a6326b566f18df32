"""From the configuration's tenants to the terms of a client."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from angarium._core.record import Durability, MessageFlag
from angarium.config.address import Network
from angarium.config.load import examine_text
from angarium.config.model import Tenant
from angarium.policy.tenancy import TenantIndex, client_terms

if TYPE_CHECKING:
    from angarium._core.client_terms import ClientTerms
    from angarium.config.model import Config

TEXT = """
[node]
hostname = "relay.example.org"
spool = "/var/spool/angarium"
[queue]
durability = "async"
[[listener]]
name = "relay"
listen = "127.0.0.1:25"
role = "relay"
relay_networks = ["10.0.0.0/8", "2001:db8::/32"]
highest_priority = 6
[[listener]]
name = "shop"
listen = "127.0.0.1:26"
role = "relay"
relay_networks = ["10.0.0.0/8"]
tenant = "shop"
durability = "fsync"
durability_floor = "async"
[[tenant]]
name = "first"
networks = ["10.1.0.0/16"]
class = "bulk"
weight = 5
durability = "memory"
durability_ceiling = "async"
highest_priority = -1
[[tenant]]
name = "second"
networks = ["10.1.2.0/24", "10.2.0.0/16", "2001:db8::/48"]
highest_priority = 9
[[tenant]]
name = "shop"
durability_floor = "memory"
"""


@pytest.fixture(scope="module")
def config() -> Config:
    examination = examine_text(TEXT)
    assert examination.problems == ()
    assert examination.config is not None
    return examination.config


def terms_of(config: Config, listener: int, address: str) -> ClientTerms:
    return client_terms(config, config.listener[listener])(address)


@pytest.mark.parametrize(
    ("listener", "address", "tenant"),
    [
        (0, "10.1.2.3", b"first"),  # in the order of the file, not the narrowest network
        (0, "::ffff:10.1.2.3", b"first"),
        (0, "10.2.0.1", b"second"),
        (0, "2001:db8::1", b"second"),
        (0, "2001:db8:1::1", b""),
        (0, "10.3.0.1", b""),
        (0, "192.0.2.1", b""),
        (0, "no address", b""),
        (1, "10.1.2.3", b"first"),  # its networks go before the listener's tenant
        (1, "10.3.0.1", b"shop"),
        (1, "no address", b"shop"),
    ],
)
def test_whose_client_it_is(config: Config, listener: int, address: str, tenant: bytes) -> None:
    assert terms_of(config, listener, address).tenant == tenant


def test_who_may_relay_is_as_before(config: Config) -> None:
    assert terms_of(config, 0, "10.9.0.1").may_relay
    assert not terms_of(config, 0, "192.0.2.1").may_relay
    assert not terms_of(config, 0, "").may_relay


def test_a_tenant_goes_before_the_listener(config: Config) -> None:
    first = terms_of(config, 0, "10.1.0.1")
    assert first.flags == MessageFlag.MESSAGE_BULK
    assert (first.durability, first.durability_floor, first.durability_ceiling) == (
        Durability.DURABILITY_MEMORY,
        Durability.DURABILITY_MEMORY,
        Durability.DURABILITY_ASYNC,
    )
    assert first.highest_priority == -1


def test_what_a_tenant_does_not_say_the_listener_does(config: Config) -> None:
    second = terms_of(config, 0, "10.2.0.1")
    assert second.flags == 0
    assert (second.durability, second.durability_floor, second.durability_ceiling) == (1, 1, 0)
    assert second.highest_priority == 6  # a tenant is never granted more than its listener
    shop = terms_of(config, 1, "10.3.0.1")
    assert (shop.durability, shop.durability_floor, shop.durability_ceiling) == (0, 2, 0)
    nobody = terms_of(config, 0, "10.3.0.1")
    assert (nobody.durability, nobody.durability_floor, nobody.flags, nobody.highest_priority) == (1, 1, 0, 6)


def test_the_weight_is_there_for_the_scheduler(config: Config) -> None:
    assert [(tenant.name, tenant.weight, tenant.class_) for tenant in config.tenant] == [
        ("first", 5, "bulk"),
        ("second", 1, "transactional"),
        ("shop", 1, "transactional"),
    ]
    assert config.tenant_named("second") is config.tenant[1]
    assert config.tenant_named("nobody") is None
    assert config.tenant_named(None) is None


def test_clients_with_the_same_terms_share_them(config: Config) -> None:
    terms = client_terms(config, config.listener[0])
    assert terms("10.2.0.1") is terms("10.2.0.2")
    assert terms("10.2.0.1") is not terms("2001:db8:1::1")


networks = st.one_of(
    st.tuples(st.integers(0, 15), st.integers(28, 32)).map(
        lambda made: str(ipaddress.ip_network((0x0A000000 | made[0], made[1]), strict=False))
    ),
    st.tuples(st.integers(0, 15), st.integers(124, 128)).map(
        lambda made: str(ipaddress.ip_network(((0x20010DB8 << 96) | made[0], made[1]), strict=False))
    ),
)
addresses = st.one_of(
    st.integers(0, 15).map(lambda number: f"10.0.0.{number}"),
    st.integers(0, 15).map(lambda number: f"::ffff:10.0.0.{number}"),
    st.integers(0, 15).map(lambda number: f"2001:db8::{number:x}"),
    st.sampled_from(["", "x", "10.0.0", "fe80::1%eth0"]),
)


@given(st.lists(st.lists(networks, max_size=4), max_size=5), addresses)
def test_the_index_finds_what_a_walk_would(tenants: list[list[str]], address: str) -> None:
    made = tuple(
        Tenant(name=f"t{number}", networks=tuple(map(Network.parse, of_one))) for number, of_one in enumerate(tenants)
    )

    def has(tenant: Tenant) -> bool:
        try:
            return any(address in network for network in tenant.networks)
        except ValueError:
            return False

    assert TenantIndex(made).find(address) == next(filter(has, made), None)


def test_a_stranger_on_an_inbound_listener_has_no_choice() -> None:
    relay = 'role = "relay"\nrelay_networks = ["10.0.0.0/8"]\ntenant'
    assert relay in TEXT
    config = examine_text(
        TEXT.replace(relay, 'domains = ["a.example"]\n' + relay.replace("relay", "inbound", 1))
    ).config
    assert config is not None
    terms = client_terms(config, config.listener[1])
    stranger, client = terms("192.0.2.1"), terms("10.9.9.9")
    assert (stranger.may_relay, client.may_relay) == (False, True)
    assert (stranger.highest_priority, client.highest_priority) == (0, 9)
    assert stranger.tenant == client.tenant == b"shop"
    assert (
        stranger.durability == stranger.durability_floor == stranger.durability_ceiling == Durability.DURABILITY_FSYNC
    )
    assert client.durability_floor == Durability.DURABILITY_MEMORY


def test_a_permissions_source_pool_goes_before_the_tenants() -> None:
    more = """
[[permission]]
networks = ["10.1.9.0/24"]
source_pool = "own"
[[permission]]
networks = ["10.1.8.0/24"]
tenant = "second"
[[source]]
name = "s"
ipv4 = "192.0.2.1"
[[source_pool]]
name = "own"
members = ["s"]
[[source_pool]]
name = "first"
members = ["s"]
"""
    text = TEXT.replace("weight = 5\n", 'weight = 5\nsource_pool = "first"\n') + more
    config = examine_text(text).config
    assert config is not None
    pools = {address: terms_of(config, 0, address).source_pool for address in ("10.1.0.1", "10.1.9.1", "10.1.8.1")}
    assert pools == {"10.1.0.1": b"first", "10.1.9.1": b"own", "10.1.8.1": b""}
    assert terms_of(config, 0, "10.3.0.1").source_pool == b""
