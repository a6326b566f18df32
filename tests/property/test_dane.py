"""Whatever a host sends and whatever stands in its records, the decision is made, and never by mistake for it."""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from angarium.delivery.dane import public_key_of, usable, verify
from angarium.delivery.mail_host import Tlsa
from tests.support.certificates import Authority, Issued

if TYPE_CHECKING:
    from collections.abc import Sequence

HOST = "mx.example.test"

# it says so of certificates that it will refuse one day
pytestmark = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")


@cache
def chain() -> tuple[Issued, Issued, Issued]:
    root = Authority("Root CA")
    issuer = root.authority("Issuer CA", path_length=0)
    return issuer.issue(HOST, "*.example.test"), issuer, root


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """One of the chain's certificates with some octets changed, left out or put in."""
    der = bytearray(draw(st.sampled_from(chain())).der)
    for _ in range(draw(st.integers(1, 3))):
        if len(der) < 2:
            break
        at = draw(st.integers(0, max(0, len(der) - 2)))
        match draw(st.sampled_from(["change", "change", "cut", "put", "end"])):
            case "change":
                der[at] = draw(st.integers(0, 255))
            case "cut":
                del der[at : at + draw(st.integers(1, 4))]
            case "put":
                der[at:at] = draw(st.binary(min_size=1, max_size=4))
            case "end":
                del der[at + 1 :]
    return bytes(der)


records = st.builds(
    Tlsa,
    st.integers(0, 4),
    st.integers(0, 2),
    st.integers(0, 3),
    st.one_of(
        st.binary(max_size=70),
        damaged(),
        st.sampled_from([(s, m, i) for s in (0, 1) for m in (0, 1, 2) for i in (0, 1, 2)]).map(
            lambda which: chain()[which[2]].tlsa_data(which[0], which[1])
        ),
    ),
)


@settings(max_examples=1500, deadline=None)
@given(sent=st.lists(st.one_of(damaged(), st.binary(max_size=40)), max_size=4), known=st.lists(records, max_size=4))
def test_it_never_fails(sent: Sequence[bytes], known: Sequence[Tlsa]) -> None:
    whole = [issued.der for issued in chain()]
    for certificates in (sent, [*whole[:1], *sent], [*sent, *whole[1:]]):
        verdict = verify(certificates, known, [HOST], time.time())
        assert (verdict.record is None) != (verdict.result is None)
        assert verdict.record is None or verdict.record in usable(known)
        for certificate in certificates:
            public_key_of(certificate)


@settings(max_examples=500, deadline=None)
@given(host=damaged(), digest=st.sampled_from([1, 2]))
def test_a_damaged_certificate_is_not_the_one_that_was_published(host: bytes, digest: int) -> None:
    good, issuer, root = chain()
    whole = [host, issuer.der, root.der]
    verdict = verify(whole, [Tlsa(3, 0, digest, good.tlsa_data(0, digest))], [HOST], time.time())
    assert (verdict.record is not None) == (host == good.der)
    anchored = verify(whole, [Tlsa(2, 1, digest, root.tlsa_data(1, digest))], [HOST], time.time())
    assert anchored.record is None or host == good.der
