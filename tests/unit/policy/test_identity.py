"""Who may relay that is in no network: clients of a Unix socket, and clients with a certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from angarium.config.address import ListenAddress, Network
from angarium.config.fingerprint import CertificateName
from angarium.config.model import Config, Listener, Node, Tenant
from angarium.policy.certificate import ClientCertificate, read_certificate
from angarium.policy.tenancy import client_terms, identity_terms

if TYPE_CHECKING:
    from typing import Any

    from angarium._core.client_terms import ClientTerms

PRINTER = "ab" * 32


def config_of(**keys: Any) -> Config:
    listener = Listener(name="x", listen=ListenAddress(path="/x"), role=keys.pop("role", "relay"), **keys)
    return Config(
        node=Node(hostname="relay.example.org", spool="/spool"),
        listener=(listener,),
        tenant=(Tenant(name="shop", networks=(Network.parse("192.0.2.0/24"),), class_="bulk"),),
    )


@pytest.mark.parametrize(("role", "may"), [("relay", True), ("submission", False), ("inbound", False)])
def test_who_may_open_the_socket_of_a_relay_may_relay(role: str, may: bool) -> None:
    config = config_of(role=role)
    terms = client_terms(config, config.listener[0])
    assert terms("").may_relay == may
    assert not terms("unknown").may_relay
    assert not terms("192.0.2.1").may_relay


def shown(*names: tuple[str, str], common: str = "host") -> dict[str, Any]:
    return {"subject": ((("organizationName", "Example"),), (("commonName", common),)), "subjectAltName": names}


@pytest.mark.parametrize(
    ("named", "relays"),
    [
        (CertificateName(name="PRINTER.example.org"), True),
        (CertificateName(name="anna@example.org"), True),
        (CertificateName(name="Printer 7"), True),
        (
            CertificateName(sha256=bytes.fromhex("b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9")),
            True,
        ),
        (CertificateName(name="example.org"), False),
        (CertificateName(name="Example"), False),
        (CertificateName(sha256=bytes.fromhex(PRINTER)), False),
    ],
)
def test_a_certificate_is_known_by_a_name_or_its_fingerprint(named: CertificateName, relays: bool) -> None:
    listener = config_of(relay_certificates=(named,)).listener[0]
    fields = shown(("DNS", "printer.example.org"), ("email", "anna@example.org"), common="Printer 7")
    certificate = read_certificate(listener, fields, b"hello world")
    assert certificate.names == ("anna@example.org", "printer.example.org", "Printer 7")
    assert certificate.relays == relays


def granted(certificate: ClientCertificate | None, address: str = "198.51.100.1", log_in: str = "") -> ClientTerms:
    config = config_of()
    return identity_terms(config, config.listener[0])(address, log_in, certificate)


def test_a_named_certificate_gives_the_right_to_relay_and_nothing_else() -> None:
    known = ClientCertificate(("printer.example.org",), PRINTER, relays=True)
    other = ClientCertificate(("other.example.org",), PRINTER)
    assert granted(known).may_relay
    assert granted(known, "unknown").may_relay
    assert not granted(other).may_relay
    assert not granted(None, log_in="anna").may_relay
    of_shop = granted(known, "192.0.2.9")
    assert (of_shop.may_relay, of_shop.tenant) == (True, b"shop")
    assert granted(known).tenant == b""
