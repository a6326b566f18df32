"""The index of routes against the plain model: go through the list, take the first that matches."""

from hypothesis import given
from hypothesis import strategies as st

from angarium.config.model import Route
from angarium.config.next_hop import NextHop
from angarium.delivery.route import LAST_RESORT, RouteTable
from angarium.mail.pattern import AddressPattern

labels = st.sampled_from(["a", "A", "b\u00fc", "xn--b-eha"])
domains = st.lists(labels, min_size=1, max_size=3).map(".".join)
locals_ = st.sampled_from(["u", "U", "v", "postmaster", "Postmaster", '"u"'])
patterns = st.one_of(
    domains,
    domains.map(lambda domain: f"*.{domain}"),
    st.tuples(locals_, domains).map("@".join),
    st.just("*"),
)
routes = st.lists(st.lists(patterns, min_size=1, max_size=3), max_size=12)
asked = st.one_of(
    domains, domains.map(lambda domain: f".{domain}"), st.sampled_from(["", ".", "\u2024", "[192.0.2.1]"])
)


def make(texts: list[list[str]]) -> list[Route]:
    return [
        Route(recipients=tuple(map(AddressPattern.parse, each)), next_hop=NextHop(kind="discard"), name=str(i))
        for i, each in enumerate(texts)
    ]


def plain_lookup(table: list[Route], local: bytes, domain: bytes) -> Route:
    return next((r for r in table if any(p.matches(local, domain) for p in r.recipients)), LAST_RESORT)


@given(routes, locals_, asked)
def test_the_index_finds_what_the_list_finds(texts: list[list[str]], local: str, domain: str) -> None:
    table = make(texts)
    match = RouteTable(table).lookup(local.encode(), domain.encode())
    assert match.route is plain_lookup(table, local.encode(), domain.encode())
    assert (*table, LAST_RESORT)[match.position] is match.route


@given(routes, st.sampled_from(["u", "somebody else"]), asked)
def test_by_domain_is_true_only_where_the_local_part_does_not_matter(
    texts: list[list[str]], local: str, domain: str
) -> None:
    table = make(texts)
    match = RouteTable(table).lookup(local.encode(), domain.encode())
    found = {
        id(plain_lookup(table, other, domain.encode()))
        for other in (b"u", b"U", b"v", b"postmaster", b'"u"', b"nobody")
    }
    if match.by_domain:
        assert len(found) == 1
    assert RouteTable(table).lookup(b"nobody", domain.encode()).by_domain is match.by_domain
