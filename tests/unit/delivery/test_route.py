"""First match wins, and the last resort is by MX."""

import pytest

from angarium.config.model import Route
from angarium.config.next_hop import NextHop
from angarium.delivery.route import LAST_RESORT, RouteTable
from angarium.mail.pattern import AddressPattern


def table(*routes: str) -> RouteTable:
    """Each route is its patterns with blanks between them; its name is its position."""
    return RouteTable(
        [
            Route(
                recipients=tuple(AddressPattern.parse(text) for text in route.split()),
                next_hop=NextHop.parse("smtp://127.0.0.1:2525"),
                name=str(position),
            )
            for position, route in enumerate(routes)
        ]
    )


def where(routes: RouteTable, address: str) -> tuple[str | None, bool]:
    local, _, domain = address.rpartition("@")
    match = routes.lookup(local.encode(), domain.encode())
    return match.route.name, match.by_domain


def test_without_a_route_mail_goes_by_mx() -> None:
    match = RouteTable([]).lookup(b"user", b"example.org")
    assert (match.route, match.position, match.by_domain) == (LAST_RESORT, 0, True)
    assert match.route.next_hop == NextHop(kind="mx")


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("user@example.org", "0"),
        ("USER@example.org", "2"),  # the local part has case
        ("other@EXAMPLE.org", "2"),
        ("user@a.example.org", "1"),
        ("user@b.a.example.org", "1"),
        ("user@deep.example.net", "3"),
        ("user@deep.example.com", "8"),
        ("user@example.net", "last resort"),  # *.example.net is not example.net
        ("user@xexample.org", "last resort"),
        ("user@.example.org", "last resort"),
        ("PostMaster@example.com", "4"),
        ("user@xn--bcher-kva.example", "5"),
        ("user@b\u00fccher.example", "5"),
        ("user@[192.0.2.1]", "6"),
        ("postmaster", "last resort"),
    ],
)
def test_the_first_route_that_matches_wins(address: str, name: str) -> None:
    routes = table(
        "user@example.org",
        "*.example.org nowhere.invalid",
        "example.org a.example.org user@example.org",
        "*.example.net",
        "postmaster@example.com",
        "b\u00fccher.example",
        "[192.0.2.1]",
        "deep.example.net",
        "deep.example.com",
        "deep.example.com b\u00fccher.example *.example.org",
    )
    assert where(routes, address)[0] == name


def test_a_star_takes_everything_behind_it() -> None:
    routes = table("example.org", "*", "example.net", "*")
    assert [where(routes, a)[0] for a in ("u@example.org", "u@example.net", "Postmaster", "u@-")] == [
        "0",
        "1",
        "1",
        "1",
    ]
    assert routes.lookup(b"u", b"\xff").position == 1, "an undecodable domain is matched by the star alone"


def test_an_answer_says_whether_it_holds_for_the_whole_domain() -> None:
    routes = table(
        "one@example.org", "*.example.net one@a.example.net", "one@behind.example example.org", "behind.example"
    )
    assert where(routes, "one@example.org") == ("0", False)
    assert where(routes, "two@example.org") == ("2", False)
    assert where(routes, "one@a.example.net") == ("1", True), "both of its patterns lead to one route"
    assert where(routes, "one@behind.example") == ("2", False)
    assert where(routes, "two@elsewhere.example") == ("last resort", True)
    shadowed = table("example.org", "one@example.org")
    assert where(shadowed, "one@example.org") == ("0", True), "what is never reached does not count"


def test_a_look_up_does_not_look_at_every_route() -> None:
    class Counting(bytes):
        hashed = 0

        def __hash__(self) -> int:
            Counting.hashed += 1
            return super().__hash__()

        def lower(self) -> "Counting":
            return self

    many = table(*(f"d{n}.example *.w{n}.example user{n}@shared.example" for n in range(5000)))
    assert where(many, "user4999@shared.example") == ("4999", False)
    assert where(many, "nobody@shared.example") == ("last resort", False)
    assert where(many, "user@x.w77.example") == ("77", True)
    assert many.lookup(b"u", Counting(b"d4321.example")).position == 4321
    assert Counting.hashed == 2, "one look in the domains, one in the addresses"
