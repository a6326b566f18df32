"""Whose mail hosts: by domain, by name of the host, the first table that matches."""

from __future__ import annotations

import pytest

from angarium._core.counters import Dimension, Slab
from angarium.config.model import Provider
from angarium.delivery.provider import Providers
from angarium.mail.pattern import AddressPattern

NAMES = ("one", "two", "three")


def patterns(*texts: str) -> tuple[AddressPattern, ...]:
    return tuple(AddressPattern.parse(text) for text in texts)


def providers(slab: Slab) -> Providers:
    return Providers(
        (
            Provider(
                name="one", domains=patterns("one.example", "*.deep.example"), mail_hosts=patterns("*.mx.example")
            ),
            Provider(name="two", domains=patterns("*.example", "bücher.example"), mail_hosts=patterns("a.mx.example")),
            Provider(name="three", mail_hosts=patterns("mx.example")),
        ),
        slab.region(0),
    )


@pytest.fixture
def slab() -> Slab:
    slab = Slab.create(1)
    slab.assign(Dimension.DIMENSION_PROVIDER, NAMES)
    return slab


@pytest.mark.parametrize(
    ("domain", "row"),
    [
        (b"one.example", 1),
        (b"ONE.Example", 1),
        (b"other.example", 2),
        (b"a.b.deep.example", 1),
        (b"deep.example", 2),
        (b"example", 0),
        (b"xn--bcher-kva.example", 2),
        ("bücher.example".encode(), 2),
        (b"one.example.net", 0),
        (b"", 0),
    ],
)
def test_by_domain(slab: Slab, domain: bytes, row: int) -> None:
    assert providers(slab).of_domain(domain) == row


@pytest.mark.parametrize(
    ("hosts", "row"),
    [
        (["a.mx.example"], 1),
        (["MX.example."], 3),
        (["elsewhere.net", "mx.example", "b.mx.example"], 3),
        (["elsewhere.net"], 0),
        ([], 0),
    ],
)
def test_by_mail_host(slab: Slab, hosts: list[str], row: int) -> None:
    assert providers(slab).of_hosts(hosts) == row


def test_a_name_has_its_row_once_it_has_been_given_one() -> None:
    slab = Slab.create(1)
    counters = slab.region(0)
    own = Providers((Provider(name="late", domains=patterns("a.example")),), counters)
    assert own.of_domain(b"a.example") == 0
    slab.assign(Dimension.DIMENSION_PROVIDER, ["early", "late"])
    counters.read_labels()
    assert own.of_domain(b"a.example") == 2
