"""Mailboxes taken apart, RFC 5321 §4.1.2."""

import pytest

from angarium.mail.address import (
    ascii_domain,
    fold_local_part,
    join_mailbox,
    literal_address,
    split_mailbox,
    unquote_local_part,
    with_ascii_domain,
)


@pytest.mark.parametrize(
    ("mailbox", "local", "domain"),
    [
        (b"user@example.org", b"user", b"example.org"),
        (b"", b"", b""),
        (b"Postmaster", b"Postmaster", b""),
        (b'"a@b"@example.org', b'"a@b"', b"example.org"),
        (b'"a\\"@b"@example.org', b'"a\\"@b"', b"example.org"),
        (b'"a\\\\"@example.org', b'"a\\\\"', b"example.org"),
        (b'"a"@example.org', b'"a"', b"example.org"),
        (b"user@[tag:a@b]", b"user", b"[tag:a@b]"),
        (b'"@"@[tag:"@b]', b'"@"', b'[tag:"@b]'),
        (b"user@[IPv6:2001:db8::1]", b"user", b"[IPv6:2001:db8::1]"),
        ("\u00fcser@b\u00fccher.example".encode(), "\u00fcser".encode(), "b\u00fccher.example".encode()),
        (b'"never closed@example.org', b'"never closed@example.org', b""),
    ],
)
def test_a_mailbox_is_split_at_the_unquoted_at_sign(mailbox: bytes, local: bytes, domain: bytes) -> None:
    assert split_mailbox(mailbox) == (local, domain)
    assert join_mailbox(local, domain) == mailbox


@pytest.mark.parametrize(
    ("local", "bare"),
    [
        (b"user", b"user"),
        (b'"user"', b"user"),
        (b'"a.b"', b"a.b"),
        (b'"a\\.b"', b"a.b"),
        (b'"a b"', b'"a b"'),
        (b'"a\\ b"', b'"a b"'),
        (b'"a..b"', b'"a..b"'),
        (b'".a"', b'".a"'),
        (b'""', b'""'),
        (b'"\\""', b'"\\""'),
        (b'"\\\\"', b'"\\\\"'),
        (b'"@"', b'"@"'),
        ('"\u00fc"'.encode(), "\u00fc".encode()),
    ],
)
def test_quoting_that_means_nothing_is_taken_off(local: bytes, bare: bytes) -> None:
    assert unquote_local_part(local) == bare
    assert unquote_local_part(bare) == bare


def test_only_postmaster_has_no_case() -> None:
    assert fold_local_part(b"PostMaster") == b"postmaster"
    assert fold_local_part(b"User") == b"User"


@pytest.mark.parametrize(
    ("mailbox", "expected"),
    [
        (b"User@Example.ORG", b"User@example.org"),
        ("\u00fcser@B\u00fccher.example".encode(), "\u00fcser@xn--bcher-kva.example".encode()),
        ("user@stra\u00dfe.example".encode(), b"user@xn--strae-oqa.example"),  # IDNA 2008, not strasse
        (b"Postmaster", b"Postmaster"),
        (b"user@[IPv6:2001:DB8::1]", b"user@[ipv6:2001:db8::1]"),
    ],
)
def test_domains_become_a_labels(mailbox: bytes, expected: bytes) -> None:
    assert with_ascii_domain(mailbox) == expected


@pytest.mark.parametrize(
    "domain", [b"\xff.example", "\u2024.example".encode(), ("\u00fc" * 64).encode(), "a\u00fc..b".encode()]
)
def test_a_domain_without_a_labels_is_an_error(domain: bytes) -> None:
    with pytest.raises(ValueError, match="domain"):
        ascii_domain(domain)


@pytest.mark.parametrize(
    ("domain", "address"),
    [
        ("[192.0.2.1]", "192.0.2.1"),
        ("[IPv6:2001:DB8::1]", "2001:db8::1"),
        ("[ipv6:::]", "::"),
        ("[IPv6:192.0.2.1]", None),
        ("[2001:db8::1]", None),
        ("[192.0.2.01]", None),
        ("[192.0.2.1", None),
        ("192.0.2.1", None),
        ("[]", None),
        ("example.org", None),
    ],
)
def test_address_literals(domain: str, address: str | None) -> None:
    assert literal_address(domain) == address
