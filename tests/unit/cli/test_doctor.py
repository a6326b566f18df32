"""What the doctor says of machine, files and records; the DNS is a table. With real name servers: tests/integration."""

from __future__ import annotations

import base64
import json
import os
import socket
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import trustme
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from angarium.app.certificate import ensure_certificate
from angarium.cli.doctor import domain as records
from angarium.cli.doctor import files, machine
from angarium.cli.doctor import names as name_checks
from angarium.cli.doctor.names import Answer
from angarium.cli.doctor.spf import check_host
from angarium.cli.main import cli
from angarium.config.load import examine_text
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from angarium.cli.doctor.finding import Finding
    from angarium.cli.doctor.names import NameServers
    from angarium.config.model import Config


def config_of(folder: Path, more: str = "", port: int = 2525) -> Config:
    text = (
        f'[node]\nhostname = "mail.example.test"\nspool = "{folder}/spool"\nworkers = 1\n'
        f'[[listener]]\nname = "relay"\nlisten = "127.0.0.1:{port}"\nrole = "relay"\ntls = "none"\n'
        'relay_networks = ["10.0.0.0/8"]\n'
    )
    config = examine_text(text + more, folder=folder).config
    assert config is not None, examine_text(text + more).problems
    return config


class Table:
    """What the DNS says: {"name type": [records]}; a name that is not there does not exist, None is no answer."""

    def __init__(self, entries: dict[str, list[str] | None], *, secure: bool = False) -> None:
        self.entries = entries
        self.secure = secure

    def ask(self, name: str, kind: str) -> Answer:
        key = f"{name.rstrip('.')} {kind}"
        if key in self.entries:
            found = self.entries[key]
            return Answer(failed=True) if found is None else Answer(tuple(found), secure=self.secure)
        return Answer(exists=any(known.split(" ")[0] == name for known in self.entries))


def table(entries: dict[str, list[str] | None], *, secure: bool = False) -> NameServers:
    return cast("NameServers", Table(entries, secure=secure))


def said(findings: Iterable[Finding], subject: str) -> list[tuple[str, str]]:
    found = [one for one in findings if one.subject == subject]
    for one in found:
        assert one.reason
        assert one.severity == "ok" or one.remedy, one
    return [(one.severity, one.reason) for one in found]


# ------------------------------------------------------------------ the machine


@pytest.mark.parametrize(("limit", "severity"), [(100, "error"), (2000, "warning"), (65536, "ok")])
def test_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, severity: str) -> None:
    monkeypatch.setattr(machine.resource, "getrlimit", lambda _: (limit, limit))
    (found,) = said(machine.descriptors(config_of(tmp_path)), "open files")
    assert found[0] == severity


def test_open_files_of_the_relay_that_runs(tmp_path: Path) -> None:
    (found,) = said(machine.descriptors(config_of(tmp_path), os.getpid()), "open files")
    assert "the running relay" in found[1]


def test_the_disk(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    assert said(machine.disk(config), "spool")[0][0] == "error"
    (tmp_path / "spool").mkdir()
    found = list(machine.disk(config))
    assert "ms" in said(found, "disk sync")[0][1]
    assert said(found, "free space")[0][0] in ("ok", "warning", "error")
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_file_system_in_memory(tmp_path: Path) -> None:
    if machine._file_system("/dev/shm") != "tmpfs":
        pytest.skip("/dev/shm is no tmpfs here")
    config = config_of(Path("/dev/shm"))
    assert said(machine.disk(config), "file system") == [
        ("error", "/dev/shm/spool is on tmpfs: a restart of the machine loses all mail")
    ]


@pytest.mark.parametrize(
    ("state", "severity"), [((True, 0.01), "ok"), ((True, 3.0), "warning"), ((False, 16.0), "warning")]
)
def test_the_clock(state: tuple[bool, float], severity: str) -> None:
    assert [one.severity for one in machine.clock(state)] == [severity]


def test_the_kernel_says_something_of_the_clock() -> None:
    _, wrong_s = machine.kernel_clock()
    assert 0 <= wrong_s < 1e5


def test_ports(tmp_path: Path) -> None:
    port = free_port()
    config = config_of(tmp_path, f'[admin]\nlisten = "unix:{tmp_path}/none/admin.sock"\n', port)
    assert said(machine.ports(config, None), "port of relay") == [("ok", f"127.0.0.1:{port} is free")]
    assert said(machine.ports(config, None), "port of admin")[0][0] == "error"
    with socket.create_server(("127.0.0.1", port)):
        severity, reason = said(machine.ports(config, None), "port of relay")[0]
        assert (severity, reason) == ("error", f"127.0.0.1:{port}: Address already in use")
        assert said(machine.ports(config, 77), "port of relay")[0][0] == "ok"
    severity, reason = said(machine.ports(config, 77), "port of relay")[0]
    assert severity == "error"
    assert "runs as process 77" in reason


def test_sources_are_addresses_of_this_machine(tmp_path: Path) -> None:
    more = """
[[source]]
name = "here"
ipv4 = "127.0.0.7"
[[source]]
name = "elsewhere"
ipv4 = "198.51.100.1"
ipv6 = "2001:db8::1"
"""
    found = list(machine.sources(config_of(tmp_path, more)))
    assert said(found, "source here") == [("ok", "127.0.0.7 is an address of this machine")]
    assert [severity for severity, _ in said(found, "source elsewhere")] == ["error", "error"]
    assert "198.51.100.1: Cannot assign requested address" in said(found, "source elsewhere")[1][1]


def test_outbound() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer(greeting: bytes) -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(greeting)
                connection.recv(100)

        for greeting, severity in ((b"220 mx ESMTP\r\n", "ok"), (b"554 no\r\n", "error"), (b"HTTP/1.1\r\n", "error")):
            thread = threading.Thread(target=answer, args=(greeting,))
            thread.start()
            client = machine.outbound(f"127.0.0.1:{port}")
            assert [one.severity for one in client] == [severity]
            thread.join()
    assert [one.severity for one in machine.outbound(f"127.0.0.1:{port}")] == ["error"]
    assert [one.severity for one in machine.outbound("127.0.0.1:x")] == ["error"]


# ------------------------------------------------------------------ files


def certified(folder: Path, names: tuple[str, ...] = ("mail.example.test",)) -> str:
    certificate, key = ensure_certificate(folder / "tls", names)
    return f'[tls]\ncertificate = "{certificate}"\nkey = "{key}"\n'


@pytest.mark.parametrize(
    ("days", "severity"), [(0, "ok"), (800, "ok"), (815, "warning"), (830, "error"), (-10, "error")]
)
def test_the_certificate_s_time(tmp_path: Path, days: int, severity: str) -> None:
    config = config_of(tmp_path, certified(tmp_path))
    now = datetime.now(UTC) + timedelta(days=days)
    assert said(files.certificates(config, now), "certificate")[0][0] == severity


def test_the_certificate_s_names(tmp_path: Path) -> None:
    config = config_of(tmp_path, certified(tmp_path))
    found = list(files.certificates(config))
    assert said(found, "certificate names") == []
    assert said(found, "certificate issuer")[0][0] == "note"
    config = config_of(tmp_path, certified(tmp_path / "other", ("other.test",)))
    assert said(files.certificates(config), "certificate names")[0][0] == "warning"


def test_no_certificate(tmp_path: Path) -> None:
    assert said(files.certificates(config_of(tmp_path)), "certificate")[0][0] == "note"


def test_an_authority_s_certificate(tmp_path: Path) -> None:
    made = trustme.CA().issue_cert("mail.example.test")
    made.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    config = config_of(tmp_path, f'[tls]\ncertificate = "{tmp_path}/both.pem"\nkey = "{tmp_path}/both.pem"\n')
    assert said(files.certificates(config), "certificate issuer") == []
    Path(tmp_path / "both.pem").write_text("")
    assert said(files.certificates(config), "certificate")[0][0] == "error"


def permissions(config: Config, folder: Path) -> list[tuple[str, str]]:
    found = list(files.permissions(config, str(folder / "angarium.toml")))
    return said(found, "permissions") + said(found, "drop folder")


def test_permissions(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret\n")
    secret.chmod(0o600)
    (tmp_path / "spool").mkdir(mode=0o700)
    drop = tmp_path / "drop"
    drop.mkdir()
    drop.chmod(0o3733)
    (tmp_path / "angarium.toml").write_text("")
    route = '[[route]]\nrecipients = ["*"]\nnext_hop = "smtps://smtp.example"\nauth = { user = "u", %s }\n'
    users = tmp_path / "users"
    users.touch(mode=0o600)
    log_ins = (
        f'[[credentials]]\nkind = "file"\nfile = "{users}"\n'
        '[[listener]]\nname = "submission"\nlisten = "127.0.0.1:2587"\nrole = "submission"\n'
    )
    more = log_ins + certified(tmp_path) + f'[sendmail]\ndrop = "{drop}"\nsocket = "{tmp_path}/s.sock"\n'
    config = config_of(tmp_path, more + route % f'password_file = "{secret}"')
    assert permissions(config, tmp_path) == [("ok", "of spool, secrets and configuration are as they should be")]
    for path, mode, severity, word in (
        (tmp_path / "spool", 0o755, "error", "spool"),
        (tmp_path / "spool", 0o770, "error", "spool"),
        (secret, 0o644, "error", "secret"),
        (secret, 0o660, "warning", "secret"),
        (users, 0o644, "error", "users"),
        (tmp_path / "tls" / "key.pem", 0o644, "error", "key.pem"),
        (tmp_path / "angarium.toml", 0o666, "error", "angarium.toml"),
        (drop, 0o2777, "error", "remove the mail"),
        (drop, 0o1733, "error", "group"),
    ):
        before = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode)
        found = permissions(config, tmp_path)
        assert [(one, word in reason) for one, reason in found] == [(severity, True)], (path, oct(mode))
        path.chmod(before)
    (drop / "refused").mkdir()
    (drop / "refused" / "1").write_text("")
    assert permissions(config, tmp_path)[0][0] == "warning"
    inline = config_of(tmp_path, route % 'password = "secret"')
    assert "has a password in it" in permissions(inline, tmp_path)[0][1]


# ------------------------------------------------------------------ names

HOST = "mail.example.test"
BACK = "25.114.0.203.in-addr.arpa PTR"


@pytest.mark.parametrize(
    ("entries", "hostname", "reverse"),
    [
        ({}, "error", []),
        ({f"{HOST} A": None}, "warning", []),
        ({f"{HOST} A": ["203.0.114.25"]}, "ok", ["error"]),
        ({f"{HOST} A": ["203.0.114.25"], BACK: None}, "ok", ["warning"]),
        ({f"{HOST} A": ["203.0.114.25"], BACK: [HOST]}, "ok", ["ok"]),
        ({f"{HOST} A": ["203.0.114.25"], BACK: ["other.test"]}, "ok", ["error"]),
        ({f"{HOST} A": ["203.0.114.25"], BACK: ["other.test"], "other.test A": ["203.0.114.25"]}, "ok", ["warning"]),
    ],
)
def test_the_hostname(tmp_path: Path, entries: dict[str, list[str] | None], hostname: str, reverse: list[str]) -> None:
    found = list(name_checks.own_name(config_of(tmp_path), table(entries)))
    assert [one for one, _ in said(found, "hostname")] == [hostname]
    assert [one for one, _ in said(found, "reverse name")] == reverse


def test_the_names_of_sources(tmp_path: Path) -> None:
    more = """
[[source]]
name = "own"
ipv4 = "203.0.114.25"
hostname = "mta1.example.test"
[[source]]
name = "node"
ipv4 = "203.0.114.26"
[[source]]
name = "private"
ipv4 = "10.0.0.1"
"""
    config = config_of(tmp_path, more)
    entries: dict[str, list[str] | None] = {
        "mta1.example.test A": ["203.0.114.25"],
        BACK: ["mta1.example.test"],
        f"{HOST} A": ["203.0.114.1"],
        "26.114.0.203.in-addr.arpa PTR": ["other.test"],
    }
    found = list(name_checks.source_names(config, table(entries)))
    assert said(found, "reverse name")[0] == ("ok", "203.0.114.25 is mta1.example.test, and EHLO says so")
    assert [severity for severity, _ in said(found, "reverse name")] == ["ok", "error"]
    assert [severity for severity, _ in said(found, "source node")] == ["warning"]
    assert not said(found, "source own")
    assert not said(found, "source private")


def test_name_servers(tmp_path: Path) -> None:
    plain = config_of(tmp_path)
    believing = config_of(tmp_path, '[dns]\ndnssec = "trust-ad"\n')
    root: dict[str, list[str] | None] = {" NS": ["a.root"]}
    for config, names, severity in (
        (plain, table({" NS": None}), "error"),
        (plain, table(root), "ok"),
        (believing, table(root), "error"),
        (believing, table(root, secure=True), "ok"),
    ):
        assert [one for one, _ in said(name_checks.resolvers(config, names), "name servers")] == [severity]


# ------------------------------------------------------------------ SPF

SPF = {
    "plain.test TXT": ["v=spf1 ip4:203.0.114.0/24 -all", "something else"],
    "hosts.test TXT": ["v=spf1 a mx:mx.test/28 ~all"],
    "hosts.test A": ["203.0.114.1"],
    "mx.test MX": ["10 one.test"],
    "one.test A": ["203.0.114.200"],
    "outer.test TXT": ["v=spf1 include:plain.test ?all"],
    "moved.test TXT": ["v=spf1 redirect=plain.test"],
    "lost.test TXT": ["v=spf1 include:nothing.test -all"],
    "odd.test TXT": ["v=spf1 ipv4:1.2.3.4 -all"],
    "net.test TXT": ["v=spf1 ip4:1.2.3.400 -all"],
    "two.test TXT": ["v=spf1 -all", "V=SPF1 +all"],
    "macro.test TXT": ["v=spf1 exists:%{i}.list.test -all"],
    "silent.test TXT": None,
    "loop.test TXT": ["v=spf1 include:loop.test -all"],
    "void.test TXT": ["v=spf1 a:n1.test a:n2.test a:n3.test -all"],
    "none.test TXT": ["v=spf10 +all"],
    "six.test TXT": ["v=spf1 ip6:2001:db8::/32 -all"],
    "exp.test TXT": ["v=spf1 exp=why.test -all"],
    "here.test TXT": ["v=spf1 exists:one.test -all"],
    "ptr.test TXT": ["v=spf1 ptr -all"],
}


@pytest.mark.parametrize(
    ("domain", "address", "result"),
    [
        ("plain.test", "203.0.114.25", "pass"),
        ("plain.test", "203.0.115.25", "fail"),
        ("plain.test", "2001:db8::1", "fail"),
        ("hosts.test", "203.0.114.1", "pass"),
        ("hosts.test", "203.0.114.201", "pass"),
        ("hosts.test", "203.0.114.100", "softfail"),
        ("outer.test", "203.0.114.25", "pass"),
        ("outer.test", "203.0.115.25", "neutral"),
        ("moved.test", "203.0.114.25", "pass"),
        ("lost.test", "203.0.114.25", "permerror"),
        ("odd.test", "203.0.114.25", "permerror"),
        ("net.test", "203.0.114.25", "permerror"),
        ("two.test", "203.0.114.25", "permerror"),
        ("macro.test", "203.0.114.25", "unjudged"),
        ("silent.test", "203.0.114.25", "temperror"),
        ("loop.test", "203.0.114.25", "permerror"),
        ("void.test", "203.0.114.25", "permerror"),
        ("none.test", "203.0.114.25", "none"),
        ("six.test", "2001:db8::25", "pass"),
        ("exp.test", "203.0.114.25", "fail"),
        ("here.test", "203.0.114.25", "pass"),
        ("ptr.test", "203.0.114.25", "fail"),
    ],
)
def test_check_host(domain: str, address: str, result: str) -> None:
    assert check_host(table(SPF), domain, address).result == result


# ------------------------------------------------------------------ a domain's records


def examined(
    folder: Path, entries: dict[str, list[str] | None], *selectors: str, more: str = "", secure: bool = False
) -> list[Finding]:
    config = config_of(folder, "[delivery]\nnever_contact = []\n" + more)
    return list(records.examine_domain(config, table(entries, secure=secure), "example.test", selectors))


@pytest.mark.parametrize(
    ("entries", "severities"),
    [
        ({}, ["error"]),
        ({"example.test MX": None}, ["error"]),
        ({"example.test MX": ["0 ."]}, ["note"]),
        ({"example.test MX": [], "example.test A": ["203.0.114.1"]}, ["warning"]),
        ({"example.test MX": ["10 mx.test"], "mx.test A": ["203.0.114.1"]}, ["ok"]),
        ({"example.test MX": ["10 mx.test"], "mx.test A": None}, ["warning"]),
        ({"example.test MX": ["10 mx.test", "20 none.test"], "mx.test A": ["203.0.114.1"]}, ["ok", "error"]),
        ({"example.test MX": ["10 mx.test"], "mx.test CNAME": ["x.test"]}, ["warning"]),
    ],
)
def test_mail_exchangers(tmp_path: Path, entries: dict[str, list[str] | None], severities: list[str]) -> None:
    assert [one for one, _ in said(examined(tmp_path, entries), "MX")] == severities


def test_a_mail_exchanger_that_nobody_can_reach(tmp_path: Path) -> None:
    entries: dict[str, list[str] | None] = {"example.test MX": ["10 mx.test"], "mx.test A": ["10.0.0.1"]}
    found = list(records.examine_domain(config_of(tmp_path), table(entries), "example.test", []))
    assert said(found, "MX") == [("error", "mx.test is 10.0.0.1, which nobody outside can reach")]


OWN: dict[str, list[str] | None] = {f"{HOST} A": ["203.0.114.25"]}


@pytest.mark.parametrize(
    ("record", "severities"),
    [
        (None, ["warning"]),
        ([], ["error"]),
        (["v=spf1 ip4:203.0.114.25 -all"], ["ok"]),
        (["v=spf1 +all"], ["error", "ok"]),
        (["v=spf1 -all"], ["error"]),
        (["v=spf1 ~all"], ["warning"]),
        (["v=spf1 -all", "v=spf1 ~all"], ["error"]),
        (["v=spf1 include:nowhere.test -all"], ["error"]),
        (["v=spf1 exists:%{s}.test -all"], ["warning"]),
    ],
)
def test_spf(tmp_path: Path, record: list[str] | None, severities: list[str]) -> None:
    found = examined(tmp_path, OWN | {"example.test TXT": record})
    assert [one for one, _ in said(found, "SPF")] == severities


def test_the_remedy_for_a_domain_without_spf_is_its_record(tmp_path: Path) -> None:
    (found,) = [one for one in examined(tmp_path, OWN | {"example.test TXT": []}) if one.subject == "SPF"]
    assert found.remedy == 'example.test. IN TXT "v=spf1 ip4:203.0.114.25 -all"'


def rsa_key(bits: int) -> str:
    return base64.b64encode(
        rsa.generate_private_key(65537, bits).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ).decode()


ELLIPTIC = base64.b64encode(
    ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
).decode()
ED25519 = base64.b64encode(
    ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
).decode()


@pytest.mark.parametrize(
    ("record", "severity"),
    [
        (None, "warning"),
        ([], "error"),
        (["something"], "error"),
        ([f"v=DKIM1; k=rsa; p={rsa_key(2048)}"], "ok"),
        ([f"v=DKIM1; k=rsa; t=y:s; p={rsa_key(2048)}"], "warning"),
        ([f"p={rsa_key(1024)}"], "warning"),
        ([f"v=DKIM1; k=ed25519; p={ED25519}"], "ok"),
        ([f"v=DKIM1; k=ed25519; p={ELLIPTIC}"], "error"),
        ([f"v=DKIM1; p={ELLIPTIC}"], "error"),
        ([f"v=DKIM1; p={rsa_key(2048)[:-30]}"], "error"),
        (["v=DKIM1; p=!!!"], "error"),
        (["v=DKIM1; p="], "error"),
        ([f"v=DKIM2; p={ED25519}"], "error"),
        ([f"p={ED25519}", f"p={ED25519}"], "error"),
    ],
)
def test_dkim(tmp_path: Path, record: list[str] | None, severity: str) -> None:
    found = examined(tmp_path, {"one._domainkey.example.test TXT": record}, "one")
    assert [one for one, _ in said(found, "DKIM")] == [severity]


def test_dkim_without_a_selector(tmp_path: Path) -> None:
    assert [one for one, _ in said(examined(tmp_path, {}), "DKIM")] == ["note"]


@pytest.mark.parametrize(
    ("entries", "severity"),
    [
        ({}, "error"),
        ({"_dmarc.example.test TXT": None}, "warning"),
        ({"_dmarc.example.test TXT": ["v=DMARC1; p=reject; rua=mailto:a@b.test"]}, "ok"),
        ({"_dmarc.example.test TXT": ["v=DMARC1; p=none; rua=mailto:a@b.test"]}, "note"),
        ({"_dmarc.example.test TXT": ["v=DMARC1; p=reject"]}, "warning"),
        ({"_dmarc.example.test TXT": ["v=DMARC1; p=rejekt"]}, "error"),
        ({"_dmarc.example.test TXT": ["v=DMARC1; p=none", "v=DMARC1; p=none"]}, "error"),
        ({"_dmarc.example.test TXT": ["v=DMARC2; p=none"]}, "error"),
    ],
)
def test_dmarc(tmp_path: Path, entries: dict[str, list[str] | None], severity: str) -> None:
    assert [one for one, _ in said(examined(tmp_path, entries), "DMARC")] == [severity]


def test_the_policy_of_the_domain_above(tmp_path: Path) -> None:
    entries: dict[str, list[str] | None] = {
        "_dmarc.example.test TXT": ["v=DMARC1; p=none; sp=reject; rua=mailto:a@b.test"]
    }
    found = list(records.examine_domain(config_of(tmp_path), table(entries), "news.example.test", []))
    assert said(found, "DMARC") == [("ok", "_dmarc.example.test: p=reject for news.example.test")]


@pytest.mark.parametrize(
    ("record", "severity"),
    [
        (None, "warning"),
        ([], "note"),
        (["v=TLSRPTv1; rua=mailto:a@b.test,https://b.test/x"], "ok"),
        (["v=TLSRPTv1; rua=ftp://b.test/x"], "error"),
        (["v=TLSRPTv1; rua=mailto:a@b.test"] * 2, "error"),
    ],
)
def test_tls_reports(tmp_path: Path, record: list[str] | None, severity: str) -> None:
    found = examined(tmp_path, {"_smtp._tls.example.test TXT": record})
    assert [one for one, _ in said(found, "TLS-RPT")] == [severity]


@pytest.mark.parametrize(("record", "severity"), [(None, "warning"), ([], "note"), (["v=STSv1; id=!"], "error")])
def test_mta_sts_records(tmp_path: Path, record: list[str] | None, severity: str) -> None:
    found = examined(tmp_path, {"_mta-sts.example.test TXT": record})
    assert [one for one, _ in said(found, "MTA-STS")] == [severity]


def test_a_domain_that_is_none(tmp_path: Path) -> None:
    found = list(records.examine_domain(config_of(tmp_path), table({}), "exa mple..test", []))
    assert {one.severity for one in found} == {"error"}


# ------------------------------------------------------------------ the command


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[str] | None]]:
    """The command with a table in place of name servers."""
    entries: dict[str, list[str] | None] = {}
    monkeypatch.setattr(name_checks, "NameServers", lambda _: Table(entries))
    return entries


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(cli, ["doctor", *arguments], prog_name="angarium")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_json_and_the_exit_status(tmp_path: Path, quiet: dict[str, list[str] | None]) -> None:
    file = tmp_path / "angarium.toml"
    file.write_text(
        f'[node]\nhostname = "{HOST}"\nspool = "{tmp_path}/spool"\n[admin]\nlisten = "127.0.0.1:{free_port()}"\n'
        f'[[listener]]\nname = "relay"\nlisten = "127.0.0.1:{free_port()}"\nrole = "relay"\n'
        'relay_networks = ["10.0.0.0/8"]\n'
    )
    result = run("--config", str(file), "--json")
    document = json.loads(result.output)
    assert set(document) == {"findings", "errors", "warnings"}
    assert document["errors"] == sum(one["severity"] == "error" for one in document["findings"]) > 0
    assert result.exit_code == 1
    for one in document["findings"]:
        assert set(one) == {"subject", "severity", "reason", "remedy"}
    subjects = {one["subject"] for one in document["findings"]}
    assert {"open files", "disk sync", "clock", "port of relay", "hostname", "name servers"} - {"disk sync"} <= subjects


def test_findings_for_people(tmp_path: Path, quiet: dict[str, list[str] | None]) -> None:
    file = tmp_path / "angarium.toml"
    file.write_text("[node]\nhostnam = 1\n")
    result = run("example.test", "--config", str(file))
    assert result.exit_code == 1
    assert f"error   configuration: {file}:2:1: node.hostnam: unknown key" in result.output
    assert 'write "hostname"' in result.output
    assert "error   MX: there is no domain example.test" in result.output
    assert result.output.splitlines()[-1].endswith("warnings") or result.output.splitlines()[-1].endswith("warning")


def test_wrong_usage() -> None:
    assert run("--selector", "x").exit_code == 2
