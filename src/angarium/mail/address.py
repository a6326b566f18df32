"""Mailboxes taken apart, RFC 5321 §4.1.2 and RFC 6531 §3.3.

A mailbox is octets as it stood between < and >: `local-part@domain`, without a source route. Nothing here checks the
grammar (the command parser has done that), and nothing fails but `with_ascii_domain`, where a domain has no A-labels.
"""

from __future__ import annotations

import ipaddress
import re

from angarium.mail.pattern import ascii_domain, folded_domain, unicode_domain

__all__ = [
    "ascii_domain",
    "fold_local_part",
    "folded_domain",
    "join_mailbox",
    "literal_address",
    "split_mailbox",
    "unicode_domain",
    "unquote_local_part",
    "with_ascii_domain",
]

# A quoted string may hold an @ (and so may the literal behind it): the first @ outside of quotes is the one.
_LOCAL_PART = re.compile(rb'(?:[^"@]|"(?:[^"\\]|\\.)*"?)*', re.DOTALL)
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ATOM = re.compile(rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\xff-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\xff-]+)*")


def split_mailbox(mailbox: bytes) -> tuple[bytes, bytes]:
    """Local part and domain; the domain is empty for the domainless Postmaster and for the null reverse-path."""
    if mailbox.count(b"@") == 1 and b'"' not in mailbox:
        local, _, domain = mailbox.partition(b"@")
        return local, domain
    match = _LOCAL_PART.match(mailbox)
    end = match.end() if match is not None else 0
    return mailbox[:end], mailbox[end + 1 :]


def join_mailbox(local: bytes, domain: bytes) -> bytes:
    """The other way round."""
    return local + b"@" + domain if domain else local


def unquote_local_part(local: bytes) -> bytes:
    """The local part without the quoting that means nothing: `"a.b"` and `a\\.b` in quotes are a.b (RFC 5321 §4.1.2).

    What needs its quotes (`"a b"`) keeps them, with no more backslashes than it needs.
    """
    match = _QUOTED.fullmatch(local)
    if match is None:
        return local
    content = re.sub(rb"\\(.)", rb"\1", match[1], flags=re.DOTALL)
    if _ATOM.fullmatch(content):
        return content
    return b'"' + re.sub(rb'(["\\])', rb"\\\1", content) + b'"'


def fold_local_part(local: bytes) -> bytes:
    """The local part as it compares: as it is (RFC 5321 §2.4), but for postmaster, which has no case (§4.5.1)."""
    return b"postmaster" if local.lower() == b"postmaster" else local


def with_ascii_domain(mailbox: bytes) -> bytes:
    """The mailbox with its domain in A-labels and lower case, the local part untouched. ValueError: there are none."""
    local, domain = split_mailbox(mailbox)
    return join_mailbox(local, ascii_domain(domain))


def literal_address(domain: str) -> str | None:
    """The IP address of a literal, `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 §4.1.3); None for anything else."""
    if not (domain.startswith("[") and domain.endswith("]")):
        return None
    text = domain[1:-1]
    try:
        if text[:5].lower() == "ipv6:":
            return str(ipaddress.IPv6Address(text[5:]))
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        return None
