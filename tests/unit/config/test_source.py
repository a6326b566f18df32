"""[[source]], [[source_pool]] and who names a pool: what is made of them, and what is wrong, said where it stands."""

from __future__ import annotations

import socket

import pytest

from angarium.config.change import settle
from angarium.config.load import examine_text
from angarium.config.model import Config, SourceMember, dump, load_dump

BASE = """
[node]
hostname = "relay.example.org"
spool = "/spool"
[[listener]]
name = "relay"
listen = "127.0.0.1:25"
role = "relay"
relay_networks = ["10.0.0.0/8"]
"""
SOURCES = """
[[source]]
name = "mta1"
ipv4 = "192.0.2.1"
ipv6 = "2001:db8::1"
hostname = "mta1.example.org"
[[source]]
name = "mta2"
ipv4 = "192.0.2.2"
[[source_pool]]
name = "bulk"
members = ["mta1", { source = "mta2", weight = 3 }]
"""


def config_of(text: str) -> Config:
    examined = examine_text(BASE + text)
    assert examined.config is not None, examined.problems
    return examined.config


def errors(text: str) -> list[tuple[str, str, str | None]]:
    return [
        (problem.key, problem.message, problem.suggestion)
        for problem in examine_text(BASE + text).problems
        if problem.severity == "error"
    ]


def test_what_is_written_is_what_there_is() -> None:
    config = config_of(
        SOURCES
        + """
[[tenant]]
name = "shop"
networks = ["10.1.0.0/16"]
source_pool = "bulk"
[[permission]]
log_ins = ["news"]
source_pool = "bulk"
[[route]]
recipients = ["*"]
next_hop = "mx"
source_pool = "bulk"
"""
    )
    first, second = config.source
    assert first.addresses == {socket.AF_INET6: "2001:db8::1", socket.AF_INET: "192.0.2.1"}
    assert (first.hostname, second.hostname) == ("mta1.example.org", None)
    assert config.source_pool[0].members == (SourceMember(source="mta1"), SourceMember(source="mta2", weight=3))
    assert config.tenant[0].source_pool == config.permission[0].source_pool == config.route[0].source_pool == "bulk"
    assert load_dump(dump(config)) == config


@pytest.mark.parametrize(
    ("text", "key", "message", "suggestion"),
    [
        ('[[source]]\nname = "a"', "source[0]", "has no address", None),
        ('[[source]]\nname = "default"\nipv4 = "192.0.2.1"', "source[0].name", "the system chooses", None),
        ('[[source]]\nname = "a b"\nipv4 = "192.0.2.1"', "source[0].name", "is not a name", None),
        ('[[source]]\nname = "a"\nipv4 = "::1"', "source[0].ipv4", "is not an IPv4 address", None),
        ('[[source]]\nname = "a"\nipv4 = "192.0.2.300"', "source[0].ipv4", "is not an IPv4 address", None),
        ('[[source]]\nname = "a"\nipv6 = "192.0.2.1"', "source[0].ipv6", "is not an IPv6 address", None),
        ('[[source]]\nname = "a"\nipv4 = "0.0.0.0"', "source[0].ipv4", "no address that a connection", None),
        ('[[source]]\nname = "a"\nipv6 = "::ffff:192.0.2.1"', "source[0].ipv6", "no address that a conn", None),
        ('[[source]]\nname = "a"\nipv6 = "fe80::1"', "source[0].ipv6", "link-local", None),
        ('[[source]]\nname = "a"\nipv4 = "192.0.2.1"\nhostname = "192.0.2.1"', "source[0].hostname", "a name is", None),
        ('[[source]]\nname = "a"\nipv4 = "192.0.2.1"\nehlo = "x"', "source[0].ehlo", "unknown key", None),
        ('[[source]]\nname = "mta1"\nipv4 = "192.0.2.9"', "source[2].name", 'another source is named "mta1"', None),
        ('[[source_pool]]\nname = "bulk"\nmembers = ["mta1"]', "source_pool[1].name", "another source pool", None),
        ('[[source_pool]]\nname = "p"\nmembers = []', "source_pool[1].members", "is empty", None),
        ('[[source_pool]]\nname = "p"\nmembers = ["mta3"]', "source_pool[1].members[0]", "there is no source", "mta2"),
        ('[[source_pool]]\nname = "p"\nmembers = ["mta1", "mta1"]', "source_pool[1].members[1]", "twice", None),
        (
            '[[source_pool]]\nname = "p"\nmembers = [{ source = "mta1", weight = 0 }]',
            "source_pool[1].members[0].weight",
            "at least 1",
            None,
        ),
        (
            '[[source_pool]]\nname = "p"\nmembers = [{ source = "mta1", wight = 2 }]',
            "source_pool[1].members[0].wight",
            "unknown key",
            "weight",
        ),
        ('[[tenant]]\nname = "t"\nsource_pool = "bluk"', "tenant[0].source_pool", "there is no source pool", "bulk"),
        (
            '[[route]]\nrecipients = ["*"]\nnext_hop = "mx"\nsource_pool = "mta1"',
            "route[0].source_pool",
            'there is no source pool "mta1"',
            None,
        ),
        (
            '[[route]]\nrecipients = ["*"]\nnext_hop = "lmtp+unix:/run/lmtp"\nsource_pool = "bulk"',
            "route[0].source_pool",
            "has no effect",
            None,
        ),
        (
            '[[route]]\nrecipients = ["*"]\nnext_hop = "discard:"\nsource_pool = "bulk"',
            "route[0].source_pool",
            "has no effect",
            None,
        ),
    ],
)
def test_one_mistake_one_message(text: str, key: str, message: str, suggestion: str | None) -> None:
    found = errors(SOURCES + text if "[[source]]" not in text or "mta1" in text else text)
    assert [(where, hint) for where, _, hint in found] == [(key, suggestion)]
    assert message in found[0][1]


def test_a_family_that_is_not_to_be_used_leaves_a_source_without_an_address() -> None:
    text = '[delivery]\naddress_family = "ipv6-only"\n' + SOURCES
    assert [(key, "ipv6-only" in message) for key, message, _ in errors(text)] == [("source[1]", True)]


def test_a_reload_changes_all_of_it_and_names_what_it_was() -> None:
    old = config_of(SOURCES)
    new = config_of(SOURCES.replace("192.0.2.2", "192.0.2.3").replace("weight = 3", "weight = 4"))
    change = settle(old, new)
    assert change.config == new
    assert change.waiting == ()
    assert change.changed == ("source.mta2.ipv4", "source_pool.bulk.members")
