"""The index of routes against the plain model: go through the list, take the first whose conditions all hold."""

import fnmatch
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from angarium.config.model import HeaderCondition, Route
from angarium.config.next_hop import NextHop
from angarium.delivery.route import LAST_RESORT, RouteTable
from angarium.mail.address import split_mailbox
from angarium.mail.pattern import AddressPattern, SenderPattern, TextPattern

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
words = st.sampled_from(["", "x", "y"])
globs = st.sampled_from(["x", "*", "x*", "*y", "x*y", "y"])
conditions: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "senders": st.lists(st.one_of(patterns, st.just("<>")), min_size=1, max_size=2),
        "tenants": st.lists(words.filter(bool), min_size=1, max_size=2),
        "listeners": st.lists(words.filter(bool), min_size=1, max_size=2),
        "log_ins": st.lists(globs, min_size=1, max_size=2),
        "headers": st.dictionaries(st.sampled_from(["H", "I"]), globs, min_size=1),
    },
)
ruled = st.lists(st.tuples(st.lists(patterns, min_size=1, max_size=2), conditions), max_size=8)


@dataclass(frozen=True)
class Mail:
    reverse_path: bytes
    tenant: bytes
    listener: bytes
    log_in: bytes
    fields: dict[str, list[bytes]] = field(default_factory=dict)

    def header(self, name: str) -> list[bytes]:
        return self.fields.get(name, [])


mails = st.builds(
    Mail,
    st.one_of(st.just(b""), st.tuples(locals_, domains).map(lambda pair: "@".join(pair).encode())),
    words.map(str.encode),
    words.map(str.encode),
    st.sampled_from([b"", b"x", b"xx", b"xy", b"xxy"]),
    st.dictionaries(st.sampled_from(["H", "I"]), st.lists(st.sampled_from([b"x", b"xzy", b"y", b""]), max_size=2)),
)


def make(texts: list[list[str]]) -> list[Route]:
    return [
        Route(recipients=tuple(map(AddressPattern.parse, each)), next_hop=NextHop(kind="discard"), name=str(i))
        for i, each in enumerate(texts)
    ]


def make_ruled(table: list[tuple[list[str], dict[str, Any]]]) -> list[Route]:
    return [
        Route(
            recipients=tuple(map(AddressPattern.parse, recipients)),
            next_hop=NextHop(kind="discard"),
            name=str(i),
            senders=tuple(map(SenderPattern.parse, asks.get("senders", ()))),
            tenants=tuple(asks.get("tenants", ())),
            listeners=tuple(asks.get("listeners", ())),
            log_ins=tuple(map(TextPattern.parse, asks.get("log_ins", ()))),
            headers=tuple(
                HeaderCondition(name=name, value=TextPattern.parse(glob))
                for name, glob in asks.get("headers", {}).items()
            ),
        )
        for i, (recipients, asks) in enumerate(table)
    ]


def plain_lookup(table: list[Route], local: bytes, domain: bytes) -> Route:
    return next((r for r in table if any(p.matches(local, domain) for p in r.recipients)), LAST_RESORT)


def plain_holds(asks: dict[str, Any], mail: Mail) -> bool:
    """The conditions of one route as they are written, by other means than the model's."""

    def sender_is_meant(text: str) -> bool:
        if text == "*" or not mail.reverse_path:
            return text in {"*", "<>"}
        return text != "<>" and AddressPattern.parse(text).matches(*split_mailbox(mail.reverse_path))

    def fits(value: bytes, glob: str) -> bool:
        return fnmatch.fnmatchcase(value.decode(), glob)

    return all(
        (
            any(map(sender_is_meant, asks.get("senders", ["*"]))),
            mail.tenant.decode() in asks.get("tenants", [mail.tenant.decode()]),
            mail.listener.decode() in asks.get("listeners", [mail.listener.decode()]),
            "log_ins" not in asks or (mail.log_in and any(fits(mail.log_in, glob) for glob in asks["log_ins"])),
            all(any(fits(v, glob) for v in mail.header(name)) for name, glob in asks.get("headers", {}).items()),
        )
    )


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


@given(ruled, locals_, asked, mails)
def test_conditions_beside_the_recipient(
    written: list[tuple[list[str], dict[str, Any]]], local: str, domain: str, mail: Mail
) -> None:
    table = make_ruled(written)
    match = RouteTable(table).lookup(local.encode(), domain.encode(), mail)
    applying = [route for route, (_, asks) in zip(table, written, strict=True) if plain_holds(asks, mail)]
    assert match.route is plain_lookup(applying, local.encode(), domain.encode())


@given(ruled, locals_, asked)
def test_an_answer_is_remembered_by_domain_exactly_where_nothing_else_could_come_first(
    written: list[tuple[list[str], dict[str, Any]]], local: str, domain: str
) -> None:
    """Every route that some address of the domain could take, whatever the mail, is behind the answer or is it."""
    table = make_ruled(written)
    match = RouteTable(table).lookup(local.encode(), domain.encode())
    of_domain = plain_lookup([route for route in table if not route.conditional], b"nobody", domain.encode())
    behind = (*table, LAST_RESORT).index(of_domain)
    everyone = (b"u", b"U", b"v", b"postmaster", b'"u"', b"nobody")
    could = [
        position
        for position, route in enumerate(table[:behind])
        if any(p.matches(each, domain.encode()) for p in route.recipients for each in everyone)
    ]
    assert match.by_domain is (not could)
    ahead = [match.position for match in RouteTable(table).ahead(local.encode(), domain.encode())]
    assert set(ahead) <= set(could)


@given(globs, st.lists(st.sampled_from([b"x", b"y", b"z"]), max_size=6).map(b"".join))
def test_stars_are_as_those_of_the_shell(glob: str, text: bytes) -> None:
    assert TextPattern.parse(glob).matches(text) is fnmatch.fnmatchcase(text.decode(), glob)
