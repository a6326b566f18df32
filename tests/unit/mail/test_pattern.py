"""Patterns for addresses."""

from __future__ import annotations

import pytest

from angarium.mail.pattern import AddressPattern


@pytest.mark.parametrize(
    ("pattern", "address", "expected"),
    [
        ("*", "a@b.example", True),
        ("*", "postmaster@", True),
        ("example.org", "a@example.org", True),
        ("example.org", "a@EXAMPLE.Org", True),
        ("Example.ORG", "a@example.org", True),
        ("example.org", "a@sub.example.org", False),
        ("example.org", "a@notexample.org", False),
        ("example.org", "postmaster@", False),
        ("*.example.org", "a@sub.example.org", True),
        ("*.example.org", "a@deep.sub.Example.org", True),
        ("*.example.org", "a@example.org", False),
        ("*.example.org", "a@.example.org", False),
        ("*.example.org", "a@badexample.org", False),
        ("user@example.org", "user@EXAMPLE.ORG", True),
        ("user@example.org", "User@example.org", False),  # RFC 5321 §2.4: the local part has case
        ("user@example.org", "other@example.org", False),
        ("user@example.org", "user@sub.example.org", False),
        ("Postmaster@example.org", "POSTMASTER@example.org", True),  # §4.5.1
        ("bücher.example", "a@BÜCHER.example", True),
        ("bücher.example", "a@xn--bcher-kva.example", True),
        ("xn--bcher-kva.example", "a@bücher.example", True),
        ("*.bücher.example", "a@x.Bücher.example", True),
        ("[192.0.2.1]", "a@[192.0.2.1]", True),
        ("[IPv6:2001:DB8::1]", "a@[ipv6:2001:db8::1]", True),
    ],
)
def test_matches(pattern: str, address: str, expected: bool) -> None:
    local, _, domain = address.encode().rpartition(b"@")
    assert AddressPattern.parse(pattern).matches(local, domain) is expected


def test_a_domain_that_is_none_matches_only_the_star() -> None:
    for domain in (b"\xff\xfe", "\u2028.example".encode(), ("ü" * 200).encode()):
        assert not AddressPattern.parse("*.example").matches(b"a", domain)
        assert AddressPattern.parse("*").matches(b"a", domain)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" example.org", "blanks"),
        ("*@example.org", 'write "example.org"'),
        ("@example.org", 'write "example.org"'),
        ("user@*.example.org", "many domains"),
        ("user@", "not a domain"),
        ("a@b@example.org", '"a@b" is not a local part'),
        ("a b@example.org", '"a b" is not a local part'),
        ('"a"b"@example.org', "is not a local part"),
        ("<a@example.org", '"<a" is not a local part'),
        ("ex*mple.org", "a star stands alone or in front"),
        ("*.", "not a domain"),
        ("example..org", "not a domain"),
        ("exam ple.org", "not a domain"),
        ("-a.example", "not a domain"),
        (f"{'a' * 64}.example", "not a domain"),
        (f"{'a.' * 127}example", "not a domain"),
        ("ü" * 100, "not an internationalised domain"),
    ],
)
def test_what_is_no_pattern(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        AddressPattern.parse(text)


@pytest.mark.parametrize(
    "text", ["*", "example.org", "*.example.org", "user@example.org", '"a b"@example.org', '"a@b"@x.org']
)
def test_a_pattern_is_shown_as_it_is_written(text: str) -> None:
    assert str(AddressPattern.parse(text)) == text
