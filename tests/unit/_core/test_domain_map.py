"""The table of domains: what was set is found, whatever else is there."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from angarium._core.domain_map import DomainMap


class Target:
    """Something that can be told from others."""


def test_many_domains_of_few_targets() -> None:
    table = DomainMap()
    targets = [Target() for _ in range(3)]
    for number in range(20_000):
        table.set(b"d%d.example" % number, targets[number % 3])
    assert len(table) == table.count == 20_000
    assert all(table.get(b"d%d.example" % number) is targets[number % 3] for number in range(20_000))
    assert table.get(b"d20000.example") is None
    assert table.get(b"D1.example") is None
    assert table.get(b"") is None


def test_a_domain_may_get_another_target() -> None:
    table = DomainMap()
    first, second = Target(), Target()
    table.set(b"example.org", first)
    table.set(b"example.org", second)
    assert table.get(b"example.org") is second
    assert len(table) == 1


def test_clear_gives_the_targets_back() -> None:
    table = DomainMap()
    target = Target()
    alone = sys.getrefcount(target)
    for number in range(1000):
        table.set(b"%d" % number, target)
    assert sys.getrefcount(target) == alone + 1
    table.clear()
    assert sys.getrefcount(target) == alone
    assert table.get(b"1") is None
    table.set(b"1", target)
    assert table.get(b"1") is target


def test_a_name_that_is_no_domain_is_refused() -> None:
    table = DomainMap()
    table.set(b"x" * 255, 1)
    assert table.get(b"x" * 255) == 1
    with pytest.raises(ValueError, match="at most 255 octets, not 256"):
        table.set(b"x" * 256, 1)
    assert table.get(b"x" * 256) is None


@given(st.lists(st.tuples(st.binary(max_size=6), st.integers(0, 3)), max_size=400))
def test_it_is_a_dict(steps: list[tuple[bytes, int]]) -> None:
    targets = [Target() for _ in range(4)]
    table, plain = DomainMap(), {}
    for domain, which in steps:
        table.set(domain, targets[which])
        plain[domain] = targets[which]
    assert len(table) == len(plain)
    assert all(table.get(domain) is target for domain, target in plain.items())
