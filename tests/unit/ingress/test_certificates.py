"""The relay's own certificates: which one a client gets, and what becomes of them when the files change."""

from __future__ import annotations

import json
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from angarium._core.counters import Slab, Slot
from angarium._core.event_log import EventLog
from angarium.config.load import examine_text
from angarium.ingress.certificates import Certificates
from angarium.policy.certificate import read_certificate
from tests.support.certificates import Authority, self_signed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.certificates import Issued

BASE = """\
[node]
hostname = "relay.example.org"
spool = "/var/spool/angarium"
[tls]
certificate = "{0}/node.pem"
key = "{0}/node.key"
{tls}
[[listener]]
name = "relay"
listen = "127.0.0.1:25"
role = "relay"
relay_networks = ["10.0.0.0/8"]
{listener}
{rest}
"""


class Party:
    """A relay's certificates in a folder, and its counters."""

    def __init__(self, folder: Path, *, tls: str = "", listener: str = "", rest: str = "", now: float = 0.0) -> None:
        self.folder = folder
        text = BASE.format(folder, tls=tls, listener=listener, rest=rest.replace("FOLDER", str(folder)))
        text = text.replace("FOLDER", str(folder))
        examination = examine_text(text)
        assert examination.config is not None, examination.problems
        self.config = examination.config
        self.counters = Slab.create(1).region(0)
        self.events_file = folder / "events.jsonl"
        self.events = EventLog(str(self.events_file), self.counters)
        clock = {} if now == 0.0 else {"now": lambda: now}
        self.certificates = Certificates(self.config, self.counters, self.events, **clock)

    @property
    def context(self) -> ssl.SSLContext:
        return self.certificates.of(self.config.listener[0]).context

    def told(self) -> list[dict[str, Any]]:
        self.events.flush()
        return [json.loads(line) for line in self.events_file.read_text().splitlines()]


def replace(folder: Path, name: str, issued: Issued) -> None:
    """As a client of an ACME server does it: a new file in the place of the old."""
    issued.write(folder, "new")
    (folder / "new.pem").rename(folder / f"{name}.pem")
    (folder / "new.key").rename(folder / f"{name}.key")


def shake_hands(
    server: ssl.SSLContext, client: ssl.SSLContext | None = None, name: str | None = None
) -> tuple[bytes, ssl.SSLObject]:
    """The certificate that the client was shown, and the server's side. ssl.SSLError when it fails."""
    if client is None:
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.verify_mode = ssl.CERT_NONE
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(back, there, server_hostname=name)
    other = server.wrap_bio(there, back, server_side=True)
    left = [one, other]
    while left:
        for side in list(left):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            left.remove(side)
    shown = one.getpeercert(binary_form=True)
    assert shown is not None
    return shown, other


@pytest.fixture
def node(tmp_path: Path) -> Issued:
    issued = self_signed("relay.example.org")
    issued.write(tmp_path, "node")
    return issued


def test_the_nodes_certificate(tmp_path: Path, node: Issued) -> None:
    party = Party(tmp_path)
    assert shake_hands(party.context)[0] == node.der
    assert shake_hands(party.context, name="anything.example")[0] == node.der


def test_a_client_gets_the_certificate_of_the_name_it_asks_for(tmp_path: Path, node: Issued) -> None:
    shop, wild, named = self_signed("shop.example", "www.shop.example"), self_signed("*.wild.example"), self_signed("x")
    for name, issued in (("shop", shop), ("wild", wild), ("named", named)):
        issued.write(tmp_path, name)
    one = '[[certificate]]\ncertificate = "FOLDER/{0}.pem"\nkey = "FOLDER/{0}.key"\n'
    rest = (
        one.format("shop") + one.format("wild") + one.format("named") + 'names = ["Mail.Example.NET", "shop.example"]'
    )
    party = Party(tmp_path, rest=rest)
    for name, issued in {
        "shop.example": shop,
        "WWW.shop.example": shop,
        "other.shop.example": node,
        "mail.wild.example": wild,
        "a.b.wild.example": node,
        "wild.example": node,
        "mail.example.net": named,
        "x": node,
        "relay.example.org": node,
    }.items():
        assert shake_hands(party.context, name=name)[0] == issued.der, name
    assert shake_hands(party.context)[0] == node.der


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_a_renewed_certificate_is_used_when_its_files_have_settled(tmp_path: Path, node: Issued, kind: str) -> None:
    party = Party(tmp_path)
    live = party.certificates.of(party.config.listener[0])
    before = live.context
    party.certificates.look()
    assert live.context is before
    renewed = self_signed("relay.example.org", kind=kind)
    renewed.write(tmp_path, "new")
    (tmp_path / "new.pem").rename(tmp_path / "node.pem")
    party.certificates.look()  # the key is still to come
    (tmp_path / "new.key").rename(tmp_path / "node.key")
    party.certificates.look()
    assert live.context is before
    party.certificates.look()
    assert shake_hands(live.context)[0] == renewed.der
    assert shake_hands(before)[0] == node.der
    assert party.counters.value(Slot.INGRESS_CERTIFICATES_LOADED) == 1
    assert party.counters.value(Slot.INGRESS_CERTIFICATES_REFUSED) == 0
    (event,) = party.told()
    assert event["event"] == "certificate_loaded"
    assert 89 * 86400 < event["expires_s"] < 91 * 86400


@pytest.mark.parametrize("harm", ["another key", "nonsense", "no file", "empty"])
def test_a_broken_file_keeps_the_old_certificate_and_is_said(
    tmp_path: Path, node: Issued, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    party = Party(tmp_path)
    key, good = tmp_path / "node.key", (tmp_path / "node.key").read_bytes()
    if harm == "another key":
        key.write_bytes(self_signed("relay.example.org").key_pem)
    elif harm == "no file":
        key.unlink()
    else:
        key.write_bytes(b"nonsense" if harm == "nonsense" else b"")
    for _ in range(5):
        party.certificates.look()
    assert shake_hands(party.context)[0] == node.der
    assert party.counters.value(Slot.INGRESS_CERTIFICATES_REFUSED) == 1
    (event,) = party.told()
    assert event["event"] == "certificate_refused"
    assert event["why"]
    assert "the certificates stay as they were" in caplog.text
    assert "BEGIN" not in json.dumps(event)
    renewed = self_signed("relay.example.org")
    replace(tmp_path, "node", renewed)
    party.certificates.look()
    party.certificates.look()
    assert shake_hands(party.context)[0] == renewed.der
    key.write_bytes(good)
    assert party.counters.value(Slot.INGRESS_CERTIFICATES_LOADED) == 1


def test_one_bad_file_of_many_changes_none(tmp_path: Path, node: Issued) -> None:
    shop = self_signed("shop.example")
    shop.write(tmp_path, "shop")
    party = Party(tmp_path, rest='[[certificate]]\ncertificate = "FOLDER/shop.pem"\nkey = "FOLDER/shop.key"\n')
    replace(tmp_path, "node", self_signed("relay.example.org"))
    (tmp_path / "shop.pem").write_text("nonsense")
    party.certificates.look()
    party.certificates.look()
    assert shake_hands(party.context)[0] == node.der
    assert shake_hands(party.context, name="shop.example")[0] == shop.der


def test_a_certificate_that_cannot_be_used_at_the_start_is_an_error(tmp_path: Path, node: Issued) -> None:
    party = Party(tmp_path)
    (tmp_path / "node.key").write_text("nonsense")
    with pytest.raises(ssl.SSLError):
        Certificates(party.config, party.counters, party.events)


def test_what_is_left_of_the_first_to_end_is_a_metric(tmp_path: Path, node: Issued) -> None:
    self_signed("shop.example", days=(-1, 3)).write(tmp_path, "shop")
    rest = '[[certificate]]\ncertificate = "FOLDER/shop.pem"\nkey = "FOLDER/shop.key"\n'
    party = Party(tmp_path, rest=rest)
    party.certificates._publish()
    assert 2 * 86400 < party.counters.value(Slot.INGRESS_CERTIFICATE_LEFT) <= 3 * 86400
    late = Party(tmp_path, rest=rest, now=1e11)
    late.certificates._publish()
    assert late.counters.value(Slot.INGRESS_CERTIFICATE_LEFT) == 0


def client_of(version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    return context


V1_0, V1_1, V1_2, V1_3 = (
    ssl.TLSVersion.TLSv1,
    ssl.TLSVersion.TLSv1_1,
    ssl.TLSVersion.TLSv1_2,
    ssl.TLSVersion.TLSv1_3,
)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.parametrize(
    ("tls", "listener", "lowest"),
    [
        ("", "", V1_2),
        ('minimum = "1.3"', "", V1_3),
        ('minimum = "1.3"', 'tls_minimum = "1.2"', V1_2),
        ("", 'tls_minimum = "1.0"', V1_0),
        ('minimum = "1.1"', "", V1_1),
    ],
)
def test_the_lowest_version(tmp_path: Path, node: Issued, tls: str, listener: str, lowest: ssl.TLSVersion) -> None:
    party = Party(tmp_path, tls=tls, listener=listener)
    for version in (V1_0, V1_1, V1_2, V1_3):
        if version >= lowest:
            assert shake_hands(party.context, client_of(version))[0] == node.der
        else:
            with pytest.raises(ssl.SSLError):
                shake_hands(party.context, client_of(version))


def client_with(folder: Path, issued: Issued | None) -> ssl.SSLContext:
    context = client_of(V1_3)
    if issued is not None:
        context.load_cert_chain(*issued.write(folder, "client"))
    return context


def test_clients_are_asked_for_a_certificate_that_leads_to_the_authority(tmp_path: Path, node: Issued) -> None:
    root = Authority("Printers CA")
    root.write(tmp_path, "clients")
    party = Party(tmp_path, listener='client_ca = "FOLDER/clients.pem"\nrelay_certificates = ["Printer.Example.org"]')
    printer = root.issue("printer.example.org", common_name="Printer 7", extended=())
    _, side = shake_hands(party.context, client_with(tmp_path, printer))
    shown, der = side.getpeercert(), side.getpeercert(binary_form=True)
    assert shown is not None
    assert der == printer.der
    certificate = read_certificate(party.config.listener[0], shown, der)
    assert certificate.names == ("printer.example.org", "Printer 7")
    assert certificate.fingerprint == printer.fingerprint()
    assert certificate.relays
    _, side = shake_hands(party.context, client_with(tmp_path, None))
    assert side.getpeercert() is None
    with pytest.raises(ssl.SSLError):
        shake_hands(party.context, client_with(tmp_path, self_signed("printer.example.org")))


def test_the_authorities_may_be_the_clients_certificates_themselves(tmp_path: Path, node: Issued) -> None:
    root = Authority("Somebody's CA")
    own, issued = self_signed("printer.example.org"), root.issue("scanner.example.org", extended=())
    (tmp_path / "clients.pem").write_bytes(own.pem + issued.pem)
    listener = f'client_ca = "FOLDER/clients.pem"\nrelay_certificates = ["sha256:{own.fingerprint()}"]'
    party = Party(tmp_path, listener=listener)
    relays = []
    for client in (own, issued):
        _, side = shake_hands(party.context, client_with(tmp_path, client))
        der = side.getpeercert(binary_form=True)
        assert der == client.der
        relays.append(read_certificate(party.config.listener[0], side.getpeercert() or {}, der).relays)
    assert relays == [True, False]
    with pytest.raises(ssl.SSLError):
        shake_hands(party.context, client_with(tmp_path, root.issue("other.example.org", extended=())))


def test_a_changed_authority_counts_from_the_next_handshake_on(tmp_path: Path, node: Issued) -> None:
    first, second = Authority("First CA"), Authority("Second CA")
    first.write(tmp_path, "clients")
    party = Party(tmp_path, listener='client_ca = "FOLDER/clients.pem"')
    client = second.issue("printer.example.org", extended=())
    with pytest.raises(ssl.SSLError):
        shake_hands(party.context, client_with(tmp_path, client))
    (tmp_path / "clients.pem").write_bytes(first.pem + second.pem)
    party.certificates.look()
    party.certificates.look()
    shake_hands(party.context, client_with(tmp_path, client))
