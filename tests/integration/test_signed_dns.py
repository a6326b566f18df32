"""The DNS that tests of DANE and MTA-STS stand on (tests/support/zone.py) is what it says: signed and validated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

from tests.support.clients import PATIENCE_S
from tests.support.zone import SignedDns

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "@ 60 IN MX 10 mx\nmx 60 IN A 127.0.0.2\nalias 60 IN CNAME mx\n"


@pytest.fixture(scope="module")
def signed() -> Iterator[SignedDns]:
    with SignedDns() as signed:
        signed.zone("secure.test", HOST)
        signed.zone("plain.test", HOST, trust="insecure")
        signed.zone("bogus.test", HOST, trust="bogus")
        signed.zone("expired.test", HOST, trust="expired")
        signed.publish()
        yield signed


def ask(signed: SignedDns, name: str, rdtype: str) -> dns.message.Message:
    query = dns.message.make_query(name, rdtype)
    query.flags |= dns.flags.AD  # RFC 6840 §5.7
    return dns.query.udp(query, signed.address[0], port=signed.address[1], timeout=PATIENCE_S)


@pytest.mark.parametrize(
    ("name", "rdtype", "rcode", "secure"),
    [
        ("secure.test", "MX", dns.rcode.NOERROR, True),
        ("mx.secure.test", "A", dns.rcode.NOERROR, True),
        ("mx.secure.test", "AAAA", dns.rcode.NOERROR, True),
        ("alias.secure.test", "A", dns.rcode.NOERROR, True),
        ("nobody.secure.test", "A", dns.rcode.NXDOMAIN, True),
        ("plain.test", "MX", dns.rcode.NOERROR, False),
        ("nobody.plain.test", "A", dns.rcode.NXDOMAIN, False),
        ("bogus.test", "MX", dns.rcode.SERVFAIL, False),
        ("expired.test", "MX", dns.rcode.SERVFAIL, False),
        ("nobody.example", "MX", dns.rcode.NXDOMAIN, True),
    ],
)
def test_what_the_resolver_says_of_a_zone(
    signed: SignedDns, name: str, rdtype: str, rcode: dns.rcode.Rcode, secure: bool
) -> None:
    answer = ask(signed, name, rdtype)
    assert answer.rcode() == rcode
    assert bool(answer.flags & dns.flags.AD) == secure


def test_a_zone_may_change(signed: SignedDns) -> None:
    signed.zone("later.test", "@ 60 IN A 127.0.0.3")
    signed.publish()
    assert "127.0.0.3" in str(ask(signed, "later.test", "A").answer[0])
    signed.zone("later.test", "@ 60 IN A 127.0.0.4", trust="insecure")
    signed.publish()
    answer = ask(signed, "later.test", "A")
    assert "127.0.0.4" in str(answer.answer[0])
    assert not answer.flags & dns.flags.AD
