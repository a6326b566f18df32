"""From the configuration's tenants to the terms of a client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from angarium._core.record import Durability, MessageFlag
from angarium.config.load import examine_text
from angarium.policy.tenancy import client_terms, tenant_of

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
    found = tenant_of(config, config.listener[listener], address)
    assert (found.name.encode() if found else b"") == tenant


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
