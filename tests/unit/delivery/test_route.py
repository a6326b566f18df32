"""First match wins, and the last resort is by MX."""

from typing import Any

import pytest

from angarium._core.record import make_accepted
from angarium.config.model import HeaderCondition, Route
from angarium.config.next_hop import NextHop
from angarium.delivery.route import HEADER_OCTETS, LAST_RESORT, MailCircumstances, RouteTable
from angarium.mail.pattern import AddressPattern, SenderPattern, TextPattern


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


def mail(**envelope: Any) -> MailCircumstances:
    """A message from plain values."""
    content = envelope.pop("content", b"Subject: x\r\n\r\n")
    given = {"reverse_path": b"s@example.org", "recipients": [(b"b@example.net", 0, b"")], "received_us": 1}
    return MailCircumstances(make_accepted(given | envelope, content, 1 << 22))


@pytest.mark.parametrize(
    ("asks", "envelope", "holds"),
    [
        ({"log_ins": ("app-*",)}, {"login": b"app-7"}, True),
        ({"log_ins": ("app-*",)}, {"login": b"APP-7"}, True),
        ({"log_ins": ("Jos\u00e9",)}, {"login": "JOSE\u0301".encode()}, True),
        ({"log_ins": ("app-*",)}, {"login": b"app7"}, False),
        ({"log_ins": ("*",)}, {"login": b"anybody"}, True),
        ({"log_ins": ("*",)}, {}, False),
        ({"listeners": ("x", "y")}, {"listener": b"y"}, True),
        ({"listeners": ("x", "y")}, {"listener": b"z"}, False),
        ({"tenants": ("shop",)}, {"tenant": b"shop"}, True),
        ({"tenants": ("shop",)}, {}, False),
        ({"senders": ("<>",)}, {"reverse_path": b""}, True),
        ({"senders": ("<>",)}, {}, False),
        ({"senders": ("*",)}, {"reverse_path": b""}, True),
        ({"senders": ("example.org",)}, {"reverse_path": b""}, False),
        ({"senders": ("example.org",)}, {"reverse_path": b'"a@b"@EXAMPLE.org'}, True),
    ],
)
def test_the_conditions_of_a_route(asks: dict[str, tuple[str, ...]], envelope: dict[str, object], holds: bool) -> None:
    parse = {"log_ins": TextPattern.parse, "senders": SenderPattern.parse}
    conditions: Any = {name: tuple(map(parse.get(name, str), texts)) for name, texts in asks.items()}
    route = Route(recipients=(AddressPattern(kind="any"),), next_hop=NextHop(kind="discard"), **conditions)
    match = RouteTable([route]).lookup(b"b", b"example.net", mail(**envelope))
    assert (match.position == 0) is holds
    assert not match.by_domain


@pytest.mark.parametrize(
    ("content", "holds"),
    [
        (b"X-Stream: Bulk-7\r\n\r\n", True),
        (b"x-stream:   bulk\r\n\r\n", True),
        (b"X-Stream:\r\n\tbulk\r\n\r\n", True),
        (b"X-Stream: other\r\nX-Stream: bulk\r\n\r\n", True),
        (b"X-Stream: not bulk\r\n\r\n", False),
        (b"X-Stream-2: bulk\r\n\r\n", False),
        (b"Subject: x\r\n\r\nX-Stream: bulk\r\n", False),
        (b"", False),
        (b"Subject: x\r\n X-Stream: bulk\r\n\r\n", False),
        (b"A: " + b"x" * (HEADER_OCTETS - 40) + b"\r\nX-Stream: bulk\r\n\r\n", True),
        (b"A: " + b"x" * HEADER_OCTETS + b"\r\nX-Stream: bulk\r\n\r\n", False),
    ],
)
def test_header_fields_are_looked_for_in_the_header_section(content: bytes, holds: bool) -> None:
    condition = HeaderCondition(name="X-Stream", value=TextPattern.parse("Bulk*").folded)
    route = Route(recipients=(AddressPattern(kind="any"),), next_hop=NextHop(kind="discard"), headers=(condition,))
    match = RouteTable([route]).lookup(b"b", b"example.net", mail(content=content))
    assert (match.position == 0) is holds
