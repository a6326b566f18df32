"""Sites: the same key for the same hosts in the same order."""

from __future__ import annotations

import pytest

from angarium.delivery.mail_host import site_of


@pytest.mark.parametrize(
    ("exchangers", "site"),
    [
        ([(5, "a.l.example.com"), (10, "alt1.a.l.example.com")], "(a>alt1.a).l.example.com"),
        ([(7, "b.example.com"), (7, "a.example.com")], "(a|b).example.com"),
        ([(10, "b.example.com"), (7, "a.example.com")], "(a>b).example.com"),
        ([(10, "a.example.com"), (7, "b.example.com")], "(b>a).example.com"),
        ([(1, "a.example.com"), (2, "b.example.net")], "(a.example.com>b.example.net)"),
        ([(1, "a.com"), (2, "b.com")], "(a.com>b.com)"),
        ([(1, "example.com"), (2, "mx.example.com")], "(example.com>mx.example.com)"),
        ([(1, "mx.example.com"), (2, "b.mx.example.com")], "(mx>b.mx).example.com"),
    ],
)
def test_sites_are_short_and_say_the_order(exchangers: list[tuple[int, str]], site: str) -> None:
    assert site_of(exchangers) == site


def test_the_key_of_a_large_site_is_bounded_and_still_its_own() -> None:
    many = [(n, f"host{n}.datacentre.example.com") for n in range(64)]
    other = [*many[:-1], (63, "other.datacentre.example.com")]
    assert len(site_of(many)) == 200
    assert site_of(many) == site_of(many[::-1])
    assert site_of(many) != site_of(other)
