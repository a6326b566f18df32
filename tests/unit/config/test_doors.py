"""Listeners' sockets, proxies, hosts in front and certificates: what may be written, and what is said of the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from angarium.config.address import ListenAddress, Network, Peer
from angarium.config.fingerprint import CertificateName
from angarium.config.load import examine_text
from angarium.config.model import dump, load_dump
from tests.support.certificates import Authority, self_signed

if TYPE_CHECKING:
    from pathlib import Path

NODE = '[node]\nhostname = "relay.example.org"\nspool = "/var/spool/angarium"\n'
DIGEST = "ab" * 32


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    certificate, key = self_signed("relay.example.org").write(folder, "own")
    _, other = self_signed("relay.example.org").write(folder, "other")
    return {
        "ca": Authority("Root CA").write(folder, "root")[0],
        "certificate": certificate,
        "key": key,
        "other": other,
        "nowhere": folder / "nowhere",
    }


def text_of(files: dict[str, Path], listener: str, *, tls: str = "", rest: str = "", with_tls: bool = True) -> str:
    lines = dict(
        line.split(" = ", 1)
        for line in ('name = "relay"', 'listen = "127.0.0.1:25"', 'role = "relay"', 'relay_networks = ["10.0.0.0/8"]')
    )
    lines |= dict(line.split(" = ", 1) for line in listener.splitlines())
    text = NODE
    if with_tls:
        text += f'[tls]\ncertificate = "{files["certificate"]}"\nkey = "{files["key"]}"\n{tls}\n'
    text += "[[listener]]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items()) + rest
    for name, path in files.items():
        text = text.replace(f"@{name}@", str(path))
    return text


def problems_of(text: str, severity: str = "error") -> list[str]:
    found = examine_text(text).problems
    return [f"{problem.key}: {problem.message}" for problem in found if problem.severity == severity]


def test_all_that_may_be_said(files: dict[str, Path]) -> None:
    listener = "\n".join(
        [
            'listen = "unix:/run/angarium/smtp.sock"',
            'socket_mode = "0666"',
            'socket_group = "root"',
            'proxy_networks = ["unix", "10.0.0.1", "2001:db8::/64"]',
            'xclient_networks = ["10.0.0.2"]',
            'client_ca = "@ca@"',
            f'relay_certificates = ["Printer.example.org", "sha256:{DIGEST}", "{":".join(["CD"] * 32)}"]',
            'tls_minimum = "1.3"',
        ]
    )
    rest = '[[certificate]]\ncertificate = "@certificate@"\nkey = "@key@"\nnames = ["*.example.org", "a.example"]\n'
    text = text_of(files, listener, rest=rest)
    config = examine_text(text).config
    assert config is not None, problems_of(text)
    (one,) = config.listener
    assert one.listen == ListenAddress(path="/run/angarium/smtp.sock")
    assert one.proxy_networks[0] == Peer()
    assert one.proxy_networks[2] == Peer(Network.parse("2001:db8::/64"))
    assert one.relay_certificates == (
        CertificateName(name="Printer.example.org"),
        CertificateName(sha256=b"\xab" * 32),
        CertificateName(sha256=b"\xcd" * 32),
    )
    assert (one.tls, one.tls_minimum, config.tls and config.tls.minimum) == ("starttls", "1.3", "1.2")
    assert config.certificate[0].names == ("*.example.org", "a.example")
    assert load_dump(dump(config)) == config
    assert problems_of(text, "warning") == []


def test_a_socket_of_systemd(files: dict[str, Path]) -> None:
    text = text_of(files, 'listen = "systemd:smtp"\nproxy_networks = ["unix", "10.0.0.1"]')
    config = examine_text(text).config
    assert config is not None, problems_of(text)
    assert config.listener[0].listen == ListenAddress(name="smtp")
    assert str(config.listener[0].listen) == "systemd:smtp"
    assert not config.listener[0].listen.is_loopback


@pytest.mark.parametrize(
    ("listener", "problem"),
    [
        ('listen = "systemd:"', "wants the FileDescriptorName of a socket unit"),
        ('listen = "systemd:a:b"', "wants the FileDescriptorName of a socket unit"),
        ('listen = "unix:smtp.sock"', "wants an absolute path"),
        ('socket_mode = "0666"', "socket_mode: has no effect"),
        ('socket_group = "root"', "socket_group: has no effect"),
        ('listen = "unix:/s"\nsocket_mode = "rw-rw----"', '"rw-rw----" is not a mode such as "0660"'),
        ('listen = "unix:/s"\nsocket_mode = "0060"', "shuts the relay itself out"),
        ('listen = "unix:/s"\nsocket_group = "no-such-group"', 'there is no group "no-such-group"'),
        ('proxy_networks = ["unix"]', '"unix" has no effect: 127.0.0.1:25 is no Unix socket'),
        ('xclient_networks = ["0.0.0.0/0"]', "every IPv4 address in the world could say who its client is"),
        ('proxy_networks = ["::/1", "8000::/1"]', "every IPv6 address in the world could say who its client is"),
        ('proxy_networks = ["proxy.example"]', '"proxy.example" is not a network'),
        ('tls = "none"\ntls_minimum = "1.3"', "tls_minimum: has no effect"),
        ('tls_minimum = "1.4"', 'expected one of "1.0", "1.1", "1.2", "1.3"'),
        ('tls = "none"\nclient_ca = "@ca@"', "client_ca: has no effect"),
        ('client_ca = "@nowhere@"', "cannot be read"),
        ('client_ca = "@key@"', "has no certificates in PEM form"),
        ('relay_certificates = ["printer.example.org"]', "relay_certificates: needs client_ca"),
        ('client_ca = "@ca@"\nrelay_certificates = ["*.example.org"]', 'has a "*": certificates are named one by one'),
        ('client_ca = "@ca@"\nrelay_certificates = ["sha256:abcd"]', "is not a SHA-256 fingerprint"),
        ('client_ca = "@ca@"\nrelay_certificates = [""]', "is neither a name"),
    ],
)
def test_what_may_not_be_said(files: dict[str, Path], listener: str, problem: str) -> None:
    found = problems_of(text_of(files, listener))
    assert len(found) == 1, found
    assert problem in found[0]


@pytest.mark.parametrize(
    ("rest", "problem"),
    [
        ('[[certificate]]\ncertificate = "@nowhere@"\nkey = "@key@"', "certificate[0].certificate: "),
        ('[[certificate]]\ncertificate = "@certificate@"\nkey = "@other@"', "is not the key of the certificate"),
        ('[[certificate]]\ncertificate = "@certificate@"\nkey = "@key@"\nnames = ["a b"]', '"a b" is not a name'),
        ('[[certificate]]\ncertificate = "@certificate@"', "certificate[0].key: is required"),
    ],
)
def test_further_certificates_must_be_usable(files: dict[str, Path], rest: str, problem: str) -> None:
    found = problems_of(text_of(files, "", rest=rest))
    assert len(found) == 1, found
    assert problem in found[0]


def test_further_certificates_need_one_for_clients_that_name_no_host(files: dict[str, Path]) -> None:
    rest = '[[certificate]]\ncertificate = "@certificate@"\nkey = "@key@"'
    assert "has no effect without [tls]" in problems_of(text_of(files, "", rest=rest, with_tls=False))[0]


def test_what_is_probably_not_meant_is_a_warning(files: dict[str, Path]) -> None:
    own = '[[certificate]]\ncertificate = "@certificate@"\nkey = "@key@"\nnames = ["a.example"]\n'
    found = problems_of(text_of(files, 'tls_minimum = "1.1"', tls='minimum = "1.0"', rest=own + own), "warning")
    assert [line.partition(":")[0] for line in found] == [
        "tls.minimum",
        "listener[0].tls_minimum",
        "certificate[1].names[0]",
    ]


def test_two_listeners_on_one_socket(files: dict[str, Path]) -> None:
    second = '[[listener]]\nname = "b"\nlisten = "systemd:x"\nrole = "relay"\n'
    found = problems_of(text_of(files, 'listen = "systemd:x"', rest=second))
    assert found == ['listener[1].listen: systemd:x is the address of listener "relay" already']


def test_the_commands_must_know_where_to_ask(files: dict[str, Path]) -> None:
    found = problems_of(text_of(files, "", rest='[admin]\nlisten = "systemd:http"'))
    assert len(found) == 1
    assert "the commands would not know where to ask" in found[0]


@pytest.mark.parametrize(
    ("peer", "address", "inside"),
    [
        ("unix", "", True),
        ("unix", "10.0.0.1", False),
        ("unix", "unknown", False),
        ("10.0.0.0/8", "10.0.0.1", True),
        ("10.0.0.0/8", "::ffff:10.0.0.1", True),
        ("10.0.0.0/8", "192.0.2.1", False),
        ("10.0.0.0/8", "", False),
        ("10.0.0.0/8", "unknown", False),
    ],
)
def test_who_is_a_peer(peer: str, address: str, inside: bool) -> None:
    assert (address in Peer.parse(peer)) == inside
    assert str(Peer.parse(peer)) == peer
