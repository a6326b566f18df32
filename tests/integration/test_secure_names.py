"""What DNSSEC vouches for, from a signed zone through a validating resolver to the mail hosts that a worker gets."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest

from angarium.delivery.mail_host import ResolutionFailure, Tlsa
from angarium.delivery.resolver import Limits, Resolver
from tests.support.relay import Relay
from tests.support.zone import SignedDns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

DATA = bytes(range(32))
SECURE = f"""
@        60 IN MX 10 mx
mx       60 IN A 127.0.0.2
_25._tcp.mx 60 IN TLSA 3 1 1 {DATA.hex()}
plainly  60 IN MX 10 mx.plain.test.
alias    60 IN CNAME mx
aliased  60 IN MX 10 alias
_mta-sts 60 IN TXT "v=STSv1; id=1;"
broken   60 IN MX 10 mx.bogus.test.
"""
HOST = "@ 60 IN MX 10 mx\nmx 60 IN A 127.0.0.3\n_25._tcp.mx 60 IN TLSA 3 1 1 " + DATA.hex()


@pytest.fixture(scope="module")
def signed() -> Iterator[SignedDns]:
    with SignedDns() as signed:
        signed.zone("secure.test", SECURE)
        signed.zone("plain.test", HOST + "\nsecurely 60 IN MX 10 mx.secure.test.\n", trust="insecure")
        signed.zone("bogus.test", HOST, trust="bogus")
        signed.zone("expired.test", HOST, trust="expired")
        signed.publish()
        yield signed


@pytest.fixture
async def resolver(signed: SignedDns) -> AsyncIterator[Resolver]:
    resolver = Resolver(
        hostnames=["relay.example.net"],
        monotonic=time.monotonic,
        random=random.Random(1),
        servers=[signed.address],
        families=("A",),
        dnssec=True,
        limits=Limits(timeout_s=10.0, rounds=1),
    )
    yield resolver
    await resolver.close()


@pytest.mark.parametrize(
    ("domain", "secure", "host_secure", "base"),
    [
        ("secure.test", True, True, "mx.secure.test"),
        ("aliased.secure.test", True, True, "mx.secure.test"),
        ("plainly.secure.test", True, False, ""),
        ("plain.test", False, False, ""),
        ("securely.plain.test", False, False, ""),
    ],
)
async def test_hosts_of_secure_and_insecure_zones(
    resolver: Resolver, domain: str, secure: bool, host_secure: bool, base: str
) -> None:
    found = await resolver.mail_hosts(domain)
    (host,) = found.hosts
    assert (found.secure, host.secure, host.tlsa_base) == (secure, host_secure, base)
    assert host.tlsa == ((Tlsa(3, 1, 1, DATA),) if base else None)


@pytest.mark.parametrize("domain", ["bogus.test", "expired.test", "broken.secure.test"])
async def test_what_cannot_be_validated_waits(resolver: Resolver, domain: str) -> None:
    with pytest.raises(ResolutionFailure) as caught:
        await resolver.mail_hosts(domain)
    assert (caught.value.permanent, caught.value.code, caught.value.enhanced) == (False, 451, (4, 4, 3))


async def test_texts_and_what_is_not_there(resolver: Resolver) -> None:
    texts = await resolver.txt("_mta-sts.secure.test")
    assert (texts.records, texts.secure) == ((b"v=STSv1; id=1;",), True)
    nothing = await resolver.tlsa("_26._tcp.mx.secure.test")
    assert (nothing.records, nothing.secure) == ((), True)
    with pytest.raises(ResolutionFailure) as caught:
        await resolver.mail_hosts("nobody.secure.test")
    assert caught.value.enhanced == (5, 1, 2)


def test_mail_to_a_bogus_domain_is_deferred(signed: SignedDns, tmp_path: Path) -> None:
    with Relay(tmp_path, {"dns": {"servers": [signed.server], "dnssec": "trust-ad"}}) as relay:
        deferral = relay.wait_event("deferral", id=relay.send("a@bogus.test"))
        assert deferral["reply"]["enhanced"] == "4.4.3"
        bounce = relay.wait_event("bounce", id=relay.send("a@secure.test"))
        assert bounce["reply"]["enhanced"] == "5.4.4", "its only host is at a loopback address"
