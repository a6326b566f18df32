"""Which TLS policy holds: the configuration's, the host's, the message's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from angarium._core.record import MessageFlag
from angarium.config.fingerprint import Fingerprint
from angarium.config.model import Delivery, Hop, Route, TlsRule
from angarium.config.next_hop import NextHop
from angarium.delivery.mail_host import Tlsa
from angarium.delivery.mta_sts import Policy
from angarium.delivery.route import RouteMatch
from angarium.delivery.target import Host, TlsLevel, TlsPolicy, for_host
from angarium.delivery.tls_policy import TlsPolicies, as_published, for_domain, for_message
from angarium.mail.pattern import AddressPattern

REQUIRED = MessageFlag.MESSAGE_REQUIRETLS
NOT_REQUIRED = MessageFlag.MESSAGE_TLS_REQUIRED_NO
SENDER = b"s@example.org"


def pattern(text: str) -> AddressPattern:
    return AddressPattern.parse(text)


def match(next_hop: str = "mx", position: int = 0, **settings: object) -> RouteMatch:
    hops = (Hop(to=NextHop.parse(next_hop)),)
    route = Route(recipients=(pattern("*"),), next_hop=hops, **settings)  # type: ignore[arg-type]
    return RouteMatch(route, position, True)


RULES = (
    TlsRule(domains=(pattern("partner.test"), pattern("*.partner.test")), tls="verify", tls_ca="/ca.pem"),
    TlsRule(domains=(pattern("one.test"),), tls="require"),
    TlsRule(domains=(pattern("one.test"), pattern("bücher.test")), tls="none"),
    TlsRule(domains=(pattern("*"),), tls_certificate="/c.pem", tls_key="/k.pem"),
)


@pytest.mark.parametrize(
    ("domain", "level", "source"),
    [
        (b"partner.test", "verify", "tls_policy[0]"),
        (b"mail.eu.partner.test", "verify", "tls_policy[0]"),
        (b"notpartner.test", "opportunistic", "tls_policy[3]"),
        (b"one.test", "require", "tls_policy[1]"),
        (b"two.one.test", "opportunistic", "tls_policy[3]"),
        (b"xn--bcher-kva.test", "none", "tls_policy[2]"),
        (b"", "opportunistic", "tls_policy[3]"),
    ],
)
def test_the_first_policy_with_the_domain_holds(domain: bytes, level: TlsLevel, source: str) -> None:
    policy = TlsPolicies(Delivery(), RULES).of(match(), domain)
    assert (policy.level, policy.source) == (level, source)


def test_what_a_route_says_comes_before_what_a_domain_s_policy_says() -> None:
    policies = TlsPolicies(Delivery(tls="require"), RULES)
    named = policies.of(match(name="smart", tls="none"), b"partner.test")
    assert (named.level, named.source) == ("none", 'route "smart"')
    fixed = policies.of(match("smtp://partner.test", 5), b"partner.test")
    assert (fixed.level, fixed.source) == ("require", "delivery.tls")
    only_name = policies.of(match("smtp://192.0.2.1", 2, tls_name="mail.partner.test"), b"a.test")
    assert only_name == TlsPolicy("require", name="mail.partner.test")
    assert only_name.source == "route[2]"


def test_all_that_a_table_says_is_in_the_policy() -> None:
    digest = bytes(range(32))
    said = match(
        "smtp://192.0.2.1",
        tls="fingerprint",
        tls_name="n.test",
        tls_ca="/ca",
        tls_certificate="/c",
        tls_key="/k",
        tls_fingerprints=(Fingerprint(digest),),
    )
    assert TlsPolicies(Delivery()).of(said, b"a.test") == TlsPolicy(
        "fingerprint",
        "route[0]",
        dane=False,
        name="n.test",
        ca="/ca",
        certificate="/c",
        key="/k",
        fingerprints=(digest,),
    )


UNUSABLE = Tlsa(1, 1, 1, bytes(32))
USABLE = Tlsa(3, 1, 1, bytes(32))


@pytest.mark.parametrize(
    ("level", "records", "becomes"),
    [
        ("opportunistic", None, "opportunistic"),
        ("opportunistic", (USABLE,), "dane"),
        ("opportunistic", (UNUSABLE, USABLE), "dane"),
        ("opportunistic", (UNUSABLE,), "require"),
        ("opportunistic", (), "require"),
        ("require", (USABLE,), "dane"),
        ("require", (UNUSABLE,), "require"),
        ("none", (USABLE,), "none"),
        ("verify", (USABLE,), "verify"),  # the configuration's own
        ("dane", (USABLE,), "dane"),
        ("dane", None, "dane"),
        ("fingerprint", (USABLE,), "fingerprint"),
    ],
)
def test_tlsa_records_of_a_host(level: TlsLevel, records: tuple[Tlsa, ...] | None, becomes: TlsLevel) -> None:
    policy = TlsPolicies(Delivery(tls=level)).of(match(), b"a.test")
    held = for_host(policy, Host("mx.test", "192.0.2.1", 25, records))
    assert held.level == becomes
    assert held.source == (policy.source if becomes == level else "the TLSA records of mx.test")


def test_tlsa_records_win_over_a_policy_of_the_domain() -> None:
    sts = TlsPolicy("verify", "MTA-STS of a.test", mx=("mx.a.test",), domain="a.test")
    host = Host("elsewhere.test", "192.0.2.1", 25, (USABLE,))
    held = for_host(sts, host)
    assert (held.level, held.mx) == ("dane", ())
    assert held.allows("elsewhere.test")
    assert for_host(sts, replace(host, tlsa=(UNUSABLE,))) == sts
    assert not sts.allows("elsewhere.test")


@pytest.mark.parametrize(
    ("patterns", "host", "allowed"),
    [
        ((), "anything.test", True),
        (("mx.a.test",), "mx.a.test", True),
        (("mx.a.test",), "MX.A.Test.", True),
        (("mx.a.test",), "mx2.a.test", False),
        (("*.a.test",), "mx.a.test", True),
        (("*.a.test",), "a.test", False),
        (("*.a.test",), "x.mx.a.test", False),
        (("other.test", "*.a.test"), "mx.a.test", True),
    ],
)
def test_hosts_that_a_policy_allows(patterns: tuple[str, ...], host: str, allowed: bool) -> None:
    assert TlsPolicy("verify", mx=patterns).allows(host) is allowed


@pytest.mark.parametrize("level", ["none", "opportunistic", "require"])
def test_requiretls_asks_for_an_authenticated_host(level: TlsLevel) -> None:
    policy = for_message(TlsPolicies(Delivery(tls=level)).of(match(), b"a.test"), REQUIRED, SENDER)
    assert (policy.level, policy.requiretls, policy.source) == ("verify", True, "REQUIRETLS and delivery.tls")
    assert for_host(policy, Host("mx.test", "192.0.2.1", 25, (USABLE,))).level == "dane"
    assert for_host(policy, Host("mx.test", "192.0.2.1", 25, (UNUSABLE,))).level == "verify"


@pytest.mark.parametrize("level", ["verify", "dane", "fingerprint"])
def test_requiretls_keeps_what_is_strong_enough(level: TlsLevel) -> None:
    policy = TlsPolicy(level, "route[0]")
    assert for_message(policy, REQUIRED, SENDER) == replace(policy, requiretls=True)
    assert for_message(policy, REQUIRED, SENDER).source == "REQUIRETLS and route[0]"
    assert for_message(policy, REQUIRED | NOT_REQUIRED, SENDER).requiretls  # it wins over the header field
    assert for_message(policy, REQUIRED, b"") == policy  # a notification


def test_tls_required_no_sets_aside_what_a_domain_says_of_itself() -> None:
    policies = TlsPolicies(Delivery())
    policy = for_message(policies.of(match(), b"a.test"), NOT_REQUIRED, SENDER)
    assert (policy.level, policy.source) == ("opportunistic", "TLS-Required: No")
    assert for_host(policy, Host("mx.test", "192.0.2.1", 25, (USABLE,))).level == "opportunistic"
    sts = TlsPolicy("verify", "MTA-STS of a.test", mx=("mx.a.test",), domain="a.test")
    assert for_message(sts, NOT_REQUIRED, b"").level == "opportunistic"
    assert for_message(sts, NOT_REQUIRED, SENDER).allows("elsewhere.test")
    assert for_message(sts, 0, SENDER) == sts


@pytest.mark.parametrize("level", ["none", "require", "verify", "dane", "fingerprint"])
def test_tls_required_no_does_not_set_aside_what_the_configuration_says(level: TlsLevel) -> None:
    policy = TlsPolicies(Delivery(tls=level)).of(match(), b"a.test")
    assert for_message(policy, NOT_REQUIRED, SENDER).level == level


ENFORCE = Policy("enforce", 86400, ("mx.a.test", "*.b.test"))
TESTING = Policy("testing", 86400, ("mx.a.test",))


@pytest.mark.parametrize("level", ["opportunistic", "require"])
def test_an_mta_sts_policy_that_is_enforced(level: TlsLevel) -> None:
    policy = for_domain(TlsPolicies(Delivery(tls=level)).of(match(), b"a.test"), "a.test", ENFORCE)
    assert (policy.level, policy.source) == ("verify", "the MTA-STS policy of a.test")
    assert (policy.mx, policy.domain, policy.sts) == (ENFORCE.patterns, "a.test", ENFORCE)
    assert not policy.in_testing
    # RFC 8461 §2: DANE wins, where its records can be used
    host = Host("elsewhere.test", "192.0.2.1", 25, (USABLE,))
    held = for_host(policy, host)
    assert (held.level, held.domain) == ("dane", "a.test")
    assert held.allows("elsewhere.test")
    assert for_host(policy, replace(host, tlsa=(UNUSABLE,))) == policy
    assert for_host(policy, replace(host, tlsa=None)) == policy


@pytest.mark.parametrize("level", ["opportunistic", "require"])
def test_an_mta_sts_policy_in_testing_changes_nothing_but_what_is_reported(level: TlsLevel) -> None:
    policy = for_domain(TlsPolicies(Delivery(tls=level)).of(match(), b"a.test"), "a.test", TESTING)
    assert (policy.level, policy.source, policy.mx) == (level, "delivery.tls", ())
    assert policy.in_testing
    wanted = as_published(policy)
    assert (wanted.level, wanted.mx, wanted.domain) == ("verify", TESTING.patterns, "a.test")
    assert not wanted.in_testing
    assert "in testing" in wanted.source
    assert not for_host(policy, Host("mx.a.test", "192.0.2.1", 25, (USABLE,))).in_testing


@pytest.mark.parametrize("level", ["none", "verify", "dane", "fingerprint"])
@pytest.mark.parametrize("sts", [ENFORCE, TESTING])
def test_what_the_configuration_says_is_final(level: TlsLevel, sts: Policy) -> None:
    policy = TlsPolicies(Delivery(tls=level)).of(match(), b"a.test")
    assert for_domain(policy, "a.test", sts) == policy


def test_no_policy_and_one_of_mode_none_say_nothing() -> None:
    policy = TlsPolicy()
    assert for_domain(policy, "a.test", None) == policy
    assert for_domain(policy, "a.test", Policy("none", 86400, ("mx.a.test",))) == policy


def test_an_mta_sts_policy_and_what_a_message_asks_for() -> None:
    policies = TlsPolicies(Delivery())
    required = for_domain(for_message(policies.of(match(), b"a.test"), REQUIRED, SENDER), "a.test", ENFORCE)
    assert (required.level, required.requiretls, required.mx) == ("verify", True, ENFORCE.patterns)
    assert required.source == "REQUIRETLS and the MTA-STS policy of a.test"
    # one that is only tested vouches for nobody, and what REQUIRETLS asks for stays
    tested = for_domain(for_message(policies.of(match(), b"a.test"), REQUIRED, SENDER), "a.test", TESTING)
    assert (tested.level, tested.mx, tested.in_testing) == ("verify", (), False)
    not_required = for_message(policies.of(match(), b"a.test"), NOT_REQUIRED, SENDER)
    assert for_domain(not_required, "a.test", ENFORCE) == not_required
