"""Whose mail a listener takes from strangers: domains, subdomains, and local parts that name another destination."""

from __future__ import annotations

import gc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from angarium._core.recipient_policy import Judgement, RecipientPolicy
from angarium.mail.pattern import folded_domain
from tests.reference.recipient_policy import judged

FOREIGN, HOSTED, ROUTED = (
    Judgement.RECIPIENT_FOREIGN,
    Judgement.RECIPIENT_HOSTED,
    Judgement.RECIPIENT_ROUTED,
)
DOMAINS = (b"ours.example", b"*.below.example", b"xn--bte-sna.example", b"[192.0.2.25]")
POLICY = RecipientPolicy(DOMAINS, fold=folded_domain)


def judge(policy: RecipientPolicy, local: bytes, domain: bytes) -> Judgement:
    return policy.judged(local + b"@" + domain if domain else local, len(domain))


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        (b"ours.example", HOSTED),
        (b"OURS.EXAMPLE", HOSTED),
        (b"sub.ours.example", FOREIGN),
        (b"below.example", FOREIGN),
        (b"a.Below.example", HOSTED),
        (b"a.b.c.below.example", HOSTED),
        (b"notbelow.example", FOREIGN),
        (b"below.example.evil.test", FOREIGN),
        (b".below.example", FOREIGN),
        (b"b\xc3\xb6te.example", HOSTED),
        (b"B\xc3\x96TE.example", HOSTED),
        (b"xn--bte-sna.example", HOSTED),
        (b"\xc3\xb6", FOREIGN),
        (b"\xff\xfe.example", FOREIGN),
        (b"[192.0.2.25]", HOSTED),
        (b"[192.0.2.26]", FOREIGN),
        (b"", FOREIGN),
        (b"o" * 255, FOREIGN),
        (b"o" * 256, FOREIGN),
        (b"\xc3\xb6" * 200, FOREIGN),
    ],
)
def test_domains(domain: bytes, expected: Judgement) -> None:
    assert judge(POLICY, b"x", domain) == expected


@pytest.mark.parametrize(
    ("local", "expected"),
    [
        (b"x", HOSTED),
        (b"a.b+c-d=e_f", HOSTED),
        (b'"a b"', HOSTED),
        (b"bounce=victim=evil.test", HOSTED),
        (b"what?=no", HOSTED),
        ("böte".encode(), HOSTED),
        (b"a%b", ROUTED),
        (b"a!b", ROUTED),
        (b'"a@b"', ROUTED),
        (b'"a::b"', ROUTED),
        (b"=?utf-8?q?a?=", ROUTED),
        ("a＠b".encode(), ROUTED),
        ("a﹪b".encode(), ROUTED),
        ("a！b".encode(), ROUTED),
        (b"a\xef", HOSTED),
        (b"a=", HOSTED),
    ],
)
def test_local_parts(local: bytes, expected: Judgement) -> None:
    assert judge(POLICY, local, b"ours.example") == expected
    assert judge(POLICY, local, b"evil.test") == FOREIGN


names = st.sampled_from(
    [
        *(
            b"ours.example",
            b"Ours.example",
            b"x.ours.example",
            b"below.example",
            b"a.below.example",
            b"a.b.BELOW.example",
        ),
        *(b"evil.test", b"[192.0.2.25]", b"[192.0.2.2]", b"b\xc3\xb6te.example", "x.böte.example".encode(), b"example"),
    ]
)
locals_ = st.one_of(
    st.text(alphabet='ab.%!@:=?"\\ ＠％！﹫﹪﹗︕öﬁ😀', min_size=1, max_size=12).map(str.encode),
    st.binary(min_size=1, max_size=12),
)


@given(local=locals_, domain=st.one_of(names, st.binary(max_size=20).filter(lambda name: b"@" not in name)))
def test_it_judges_as_the_model_does(local: bytes, domain: bytes) -> None:
    assert judge(POLICY, local, domain) == judged(DOMAINS, local, domain)


def test_without_a_fold_a_domain_in_u_labels_is_nobody_s() -> None:
    policy = RecipientPolicy((b"xn--bte-sna.example",))
    assert judge(policy, b"x", b"b\xc3\xb6te.example") == FOREIGN
    assert judge(policy, b"x", b"xn--bte-sna.example") == HOSTED


def test_the_domain_of_postmaster_is_the_first_that_is_listed_by_its_name() -> None:
    assert RecipientPolicy((b"*.below.example", b"b.example", b"a.example")).postmaster_domain == b"b.example"
    assert RecipientPolicy((b"*.below.example",)).postmaster_domain == b""


def test_a_mailbox_and_its_domain_must_fit() -> None:
    for mailbox, length in ((b"a@b", 2), (b"a@b", 3), (b"a@b", 99), (b"b", 1)):
        with pytest.raises(ValueError, match="no domain"):
            POLICY.judged(mailbox, length)
    with pytest.raises(ValueError, match="255"):
        RecipientPolicy((b"o" * 256,))


def test_a_policy_goes_when_nobody_holds_it() -> None:
    class Asked:
        def __call__(self, mailbox: bytes) -> bytes:
            return b""

    asked = Asked()
    policy = RecipientPolicy(DOMAINS, verify=asked)
    gone = weakref.ref(asked)
    del asked, policy
    gc.collect()
    assert gone() is None
