"""TLSA records against chains: the decisions of RFC 7672, with certificates that are made here."""

from __future__ import annotations

import hashlib
import subprocess
import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from angarium.delivery.dane import (
    MOST_CERTIFICATES,
    MOST_SIGNATURES,
    name_matches,
    public_key_of,
    usable,
    verify,
)
from angarium.delivery.mail_host import Tlsa
from tests.support.certificates import Authority, Issued, self_signed
from tests.support.peers import require

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from angarium.smtp.tls_result import TlsResult

HOST = "mx.example.test"
NAMES = (HOST, "example.test")
EE, TA = 3, 2


@dataclass(frozen=True)
class Party:
    """A root, an issuer under it, and the host's certificate."""

    root: Authority
    issuer: Authority
    host: Issued

    @property
    def chain(self) -> list[Issued]:
        return [self.host, self.issuer, self.root]


@cache
def party(kind: str = "ec") -> Party:
    root = Authority("Root CA", kind=kind)
    issuer = root.authority("Issuer CA", kind=kind)
    return Party(root, issuer, issuer.issue(HOST, kind=kind))


def tlsa(usage: int, selector: int, matching_type: int, of: Issued) -> Tlsa:
    return Tlsa(usage, selector, matching_type, of.tlsa_data(selector, matching_type))


def check(
    chain: Sequence[Issued], records: Sequence[Tlsa], names: Sequence[str] = NAMES, now: float | None = None
) -> TlsResult | None:
    """What is wrong; None: nothing, and one of the records says so."""
    verdict = verify([issued.der for issued in chain], records, names, time.time() if now is None else now)
    assert (verdict.record is None) == (verdict.result is not None) == bool(verdict.text)
    assert verdict.record is None or verdict.record in records
    return verdict.result


EACH_KIND = [(selector, matching_type) for selector in (0, 1) for matching_type in (0, 1, 2)]


@pytest.mark.parametrize(("selector", "matching_type"), EACH_KIND)
@pytest.mark.parametrize("kind", ["ec", "rsa", "ed25519"])
def test_every_selector_and_matching_type_of_both_usages(selector: int, matching_type: int, kind: str) -> None:
    made = party(kind)
    assert check(made.chain, [tlsa(EE, selector, matching_type, made.host)]) is None
    assert check(made.chain, [tlsa(TA, selector, matching_type, made.issuer)]) is None
    assert check(made.chain, [tlsa(TA, selector, matching_type, made.root)]) is None
    # what is true of one certificate is not true of another
    assert check(made.chain, [tlsa(EE, selector, matching_type, made.issuer)]) == "tlsa-invalid"
    assert check(made.chain, [tlsa(TA, selector, matching_type, party("ec" if kind != "ec" else "rsa").issuer)])


@pytest.mark.parametrize(("selector", "matching_type"), EACH_KIND)
def test_a_changed_octet_matches_nothing(selector: int, matching_type: int) -> None:
    made = party()
    for usage, of in ((EE, made.host), (TA, made.issuer), (TA, made.root)):
        if (usage, selector, matching_type) == (TA, 0, 0):
            continue  # the last octets are an anchor's own signature, which nobody has to believe
        data = bytearray(of.tlsa_data(selector, matching_type))
        data[-1] ^= 1
        assert check(made.chain, [Tlsa(usage, selector, matching_type, bytes(data))]) is not None


def test_dane_ee_looks_at_neither_name_nor_date_nor_issuer() -> None:
    issuer = Authority("Issuer CA", days=(-100, -50))
    old = issuer.issue("elsewhere.test", days=(-90, -60), extended=(ExtendedKeyUsageOID.CLIENT_AUTH,))
    assert check([old], [tlsa(EE, 1, 1, old)]) is None
    nameless = self_signed("other.test")
    assert check([nameless], [tlsa(EE, 0, 1, nameless)], names=()) is None


def test_dane_ee_is_for_the_first_certificate_only() -> None:
    made = party()
    assert check([made.issuer, made.host], [tlsa(EE, 1, 1, made.host)]) == "tlsa-invalid"


def test_dane_ta_looks_at_the_name() -> None:
    made = party()
    records = [tlsa(TA, 1, 1, made.issuer)]
    for names, result in (
        ((HOST,), None),
        (("MX.Example.Test.",), None),
        (("other.test", HOST), None),  # the domain and its host: either will do (RFC 7672 §3.2.2)
        (("other.test",), "certificate-host-mismatch"),
        (("example.test",), "certificate-host-mismatch"),
        ((), "certificate-host-mismatch"),
    ):
        assert check(made.chain, records, names) == result, names


def test_dane_ta_looks_at_the_dates_of_the_whole_path() -> None:
    root = Authority("Root CA")
    issuer = root.authority("Issuer CA")
    gone = root.authority("Gone CA", days=(-100, -1))
    for chain, records, result in (
        ([issuer.issue(HOST, days=(-10, -1)), issuer], [tlsa(TA, 0, 1, issuer)], "certificate-expired"),
        ([issuer.issue(HOST, days=(1, 10)), issuer], [tlsa(TA, 0, 1, issuer)], "certificate-expired"),
        ([gone.issue(HOST), gone, root], [tlsa(TA, 0, 1, root)], "certificate-expired"),
        ([gone.issue(HOST), gone], [tlsa(TA, 0, 1, gone)], "certificate-expired"),
        # an anchor that is only a key has no dates
        ([gone.issue(HOST)], [tlsa(TA, 1, 0, gone)], None),
    ):
        assert check(chain, records) == result
    made = party()
    expires = made.host.certificate.not_valid_after_utc.timestamp()
    assert check(made.chain, [tlsa(TA, 0, 1, made.root)], now=expires) is None
    assert check(made.chain, [tlsa(TA, 0, 1, made.root)], now=expires + 1) == "certificate-expired"


def test_an_anchor_that_the_host_does_not_send() -> None:
    """A digest cannot be followed; a whole certificate or key can (RFC 7671 §5.2.2, §5.2.3)."""
    made = party()
    for sent in ([made.host], [made.host, made.root]):  # the issuer's is missing
        for matching_type in (1, 2):
            for selector in (0, 1):
                assert check(sent, [tlsa(TA, selector, matching_type, made.issuer)]) == "tlsa-invalid"
        assert check(sent, [tlsa(TA, 0, 0, made.issuer)]) is None
        assert check(sent, [tlsa(TA, 1, 0, made.issuer)]) is None
    assert check([made.host], [tlsa(TA, 0, 0, made.root)]) == "certificate-not-trusted"
    assert check([made.host], [tlsa(TA, 0, 0, made.root), tlsa(TA, 0, 0, made.issuer)]) is None
    assert check([made.host, made.issuer], [tlsa(TA, 1, 0, made.root)]) is None
    assert check([made.host, made.root], [tlsa(TA, 0, 1, made.root)]) == "certificate-not-trusted"


def test_the_order_of_the_chain_does_not_matter_and_strangers_do_no_harm() -> None:
    made = party()
    stranger = Authority("Issuer CA")  # of the same name, with another key
    for above in ([made.root, made.issuer], [stranger, made.root, made.issuer], [made.issuer, stranger, made.root]):
        assert check([made.host, *above], [tlsa(TA, 1, 2, made.root)]) is None
    assert check([made.host, stranger], [tlsa(TA, 1, 2, stranger)]) == "certificate-not-trusted"


def test_a_certificate_of_the_host_is_no_anchor_of_itself() -> None:
    """RFC 7671 §5.2: DANE-TA is for what signs the host's certificate."""
    made = party()
    alone = self_signed(HOST)
    assert check([made.host, made.issuer], [tlsa(TA, 0, 1, made.host)]) == "tlsa-invalid"
    assert check([alone], [tlsa(TA, 0, 1, alone)]) == "tlsa-invalid"


@pytest.mark.parametrize(
    "options",
    [
        {"ca": False},
        {"signs": False},
        {"extended": (ExtendedKeyUsageOID.CLIENT_AUTH,)},
        {"constraints": x509.NameConstraints([x509.DNSName("other.test")], None)},
        {"constraints": x509.NameConstraints(None, [x509.DNSName("example.test")])},
    ],
    ids=["no CA", "no signing", "for clients", "other names", "not these names"],
)
def test_what_may_not_issue_is_no_issuer(options: dict[str, object]) -> None:
    root = Authority("Root CA")
    issuer = root.authority("Issuer CA", **options)
    host = issuer.issue(HOST)
    assert check([host, issuer, root], [tlsa(TA, 0, 1, root)]) == "certificate-not-trusted"
    assert check([host, issuer, root], [tlsa(TA, 0, 1, issuer)]) == "certificate-not-trusted"


def test_what_may_issue_within_its_limits() -> None:
    root = Authority("Root CA", path_length=0)
    direct = root.issue(HOST)
    assert check([direct, root], [tlsa(TA, 1, 1, root)]) is None
    between = root.authority("Issuer CA")
    assert check([between.issue(HOST), between, root], [tlsa(TA, 1, 1, root)]) == "certificate-not-trusted"
    for tree in ("example.test", ".example.test", HOST):
        bound = Authority("Root CA", constraints=x509.NameConstraints([x509.DNSName(tree)], None))
        assert check([bound.issue(HOST), bound], [tlsa(TA, 1, 1, bound)]) is None
    for extended in ((), (ExtendedKeyUsageOID.SERVER_AUTH,), (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)):
        host = root.issue(HOST, extended=extended)
        assert check([host, root], [tlsa(TA, 1, 1, root)]) is None
    client = root.issue(HOST, extended=(ExtendedKeyUsageOID.CLIENT_AUTH,))
    assert check([client, root], [tlsa(TA, 1, 1, root)]) == "certificate-not-trusted"


def test_a_broken_digest_below_the_anchor(tmp_path: Path) -> None:
    """A certificate that is signed with SHA-1; only the program still makes those."""
    root = Authority("Root CA", kind="rsa")
    chain, key = root.write(tmp_path, "root")
    _, host_key = root.issue(HOST, kind="rsa").write(tmp_path, "host")
    openssl = require("openssl")
    request = [openssl, "req", "-new", "-key", host_key, "-subj", "/CN=host", "-out", tmp_path / "request"]
    subprocess.run([*request, "-addext", f"subjectAltName=DNS:{HOST}"], check=True, capture_output=True)
    for digest, result in (("sha256", None), ("sha1", "certificate-not-trusted")):
        sign = [openssl, "x509", "-req", "-in", tmp_path / "request", "-CA", chain, "-CAkey", key, "-set_serial", "7"]
        sign += ["-days", "3", f"-{digest}", "-copy_extensions", "copyall", "-outform", "DER"]
        signed = subprocess.run(sign, check=True, capture_output=True).stdout
        records = [tlsa(TA, 0, 1, root)]
        assert verify([signed, root.der], records, NAMES, time.time() + 10).result == result
        own = Tlsa(EE, 0, 1, hashlib.sha256(signed).digest())
        assert verify([signed, root.der], [own], NAMES, time.time()).record == own


def test_several_records() -> None:
    made = party()
    good, bad = tlsa(EE, 1, 1, made.host), tlsa(EE, 1, 1, made.issuer)
    assert check(made.chain, [bad, good]) is None  # a key that is being replaced
    assert check(made.chain, [bad, tlsa(TA, 0, 1, made.root)]) is None
    assert check(made.chain, [tlsa(TA, 0, 1, made.root), good], names=("other.test",)) is None
    # of several digests the strongest counts (RFC 7671 §9), for each usage and selector by itself
    stronger = tlsa(EE, 1, 2, made.issuer)
    assert check(made.chain, [good, stronger]) == "tlsa-invalid"
    assert check(made.chain, [good, tlsa(EE, 0, 2, made.issuer)]) is None
    assert check(made.chain, [tlsa(EE, 1, 0, made.host), stronger]) is None
    assert check(made.chain, [Tlsa(EE, 1, 3, b"unknown"), good]) is None


def test_what_is_unusable() -> None:
    made = party()
    unusable = [
        tlsa(0, 0, 1, made.root),
        tlsa(1, 1, 1, made.host),
        tlsa(4, 1, 1, made.host),
        Tlsa(EE, 2, 1, made.host.tlsa_data(1, 1)),
        Tlsa(EE, 1, 3, made.host.tlsa_data(1, 1)),
        Tlsa(EE, 1, 1, made.host.tlsa_data(1, 1)[:-1]),
        Tlsa(EE, 1, 2, made.host.tlsa_data(1, 1)),
        Tlsa(EE, 1, 1, b""),
        Tlsa(EE, 0, 0, b"no certificate"),
        Tlsa(TA, 0, 0, made.root.der[:-1]),
        Tlsa(TA, 1, 0, b"no key"),
        Tlsa(EE, 1, 0, b""),
    ]
    assert usable(unusable) == ()
    assert check(made.chain, unusable) == "tlsa-invalid"
    good = tlsa(EE, 1, 1, made.host)
    assert usable([*unusable, good]) == (good,)
    assert check(made.chain, [*unusable, good]) is None


def test_what_the_host_sends_may_be_anything() -> None:
    made = party()
    now = time.time()
    records = [
        tlsa(EE, 0, 1, made.host),
        tlsa(EE, 1, 1, made.host),
        tlsa(TA, 0, 1, made.root),
        tlsa(TA, 1, 0, made.root),
    ]
    assert verify([], records, NAMES, now).result == "tlsa-invalid"
    for octets in (
        b"",
        b"\x30",
        b"\x30\x82",
        b"\x30\x84\xff\xff\xff\xff",
        b"\x00" * 50,
        made.host.der[:-1],
        bytes(range(256)),
    ):
        assert verify([octets], records, NAMES, now).record is None
        assert verify([octets, made.host.der], records, NAMES, now).record is None
        assert verify([made.host.der, octets], records, NAMES, now).record is not None
    for cut in range(0, len(made.host.der), 7):
        assert public_key_of(made.host.der[:cut]) in (None, made.host.public_key_der)


def test_the_work_for_one_chain_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that sends many issuers of one name costs so many checks of signatures and no more."""
    checked = 0

    def counted(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
        nonlocal checked
        checked += 1
        return True

    monkeypatch.setattr("angarium.delivery.dane._issued_by", counted)
    crowd = [Authority("Same CA", Authority("Same CA")) for _ in range(2 * MOST_CERTIFICATES)]
    host = crowd[0].issue(HOST)
    stranger = Authority("Root CA")
    assert check([host, *crowd], [tlsa(TA, 0, 1, stranger)]) == "tlsa-invalid"
    assert 0 < checked <= MOST_SIGNATURES


@pytest.mark.parametrize(
    ("presented", "common_name", "name", "matches"),
    [
        (["mx.example.test"], "x", "mx.example.test", True),
        (["MX.example.TEST"], "x", "mx.EXAMPLE.test", True),
        (["a.test", "mx.example.test"], "x", "mx.example.test", True),
        (["*.example.test"], "x", "mx.example.test", True),
        (["*.example.test"], "x", "a.mx.example.test", False),
        (["*.example.test"], "x", "example.test", False),
        (["m*.example.test"], "x", "mx.example.test", False),
        (["*.test"], "x", "example.test", False),
        (["*"], "x", "test", False),
        ([], "mx.example.test", "mx.example.test", True),
        (["other.test"], "mx.example.test", "mx.example.test", False),
        ([], "host", "mx.example.test", False),
    ],
)
def test_names(presented: list[str], common_name: str, name: str, matches: bool) -> None:
    issued = party().issuer.issue(*presented, common_name=common_name)
    assert name_matches(issued.certificate, [name]) is matches


def test_the_public_key_octet_for_octet() -> None:
    for kind in ("ec", "rsa", "ed25519"):
        for issued in (party(kind).host, party(kind).root):
            assert public_key_of(issued.der) == issued.public_key_der
