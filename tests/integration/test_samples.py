"""The two complete configurations of docs/ are run, and do what they say."""

from __future__ import annotations

import base64
import smtplib
import ssl
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.support.clients import PATIENCE_S, Dialogue
from tests.support.dns import NameServerThread
from tests.support.dovecot import Dovecot
from tests.support.peers import SinkServer, Step
from tests.support.ports import free_port
from tests.support.relay import Relay, clean_environment, run_command
from tests.support.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).parents[2] / "docs"
MESSAGE = b"Subject: s\r\n\r\nbody\r\n"
PASSWORD = "what the provider knows"


def sendmail(relay: Relay, recipient: str) -> None:
    environment = clean_environment() | {"ANGARIUM_CONFIG": str(relay.config_file)}
    program = [sys.executable, "-m", "angarium.cli.sendmail", recipient]
    subprocess.run(program, input=b"Subject: s\n\nbody\n", env=environment, check=True, timeout=PATIENCE_S)


def send(relay: Relay, port: int, recipient: str) -> str:
    with relay.client(port) as client:
        client.ehlo()
        return client.send("me@company.example", [recipient], MESSAGE)


# ------------------------------------------------------------------ a bulk sender


class Bulk:
    """The bulk sender's relay, its two hosts for newsletters, and its name server."""

    def __init__(self, folder: Path) -> None:
        self.hosts = [SinkServer(), SinkServer()]
        self._names = NameServerThread({"slow.example": "@ 60 IN MX 10 mx\nmx 60 IN A 127.0.0.1"})
        self.folder = folder

    def __enter__(self) -> Bulk:
        names = self._names.__enter__()
        for host in self.hosts:
            host.start()
        ports = {"127.0.0.1:53": names.port}
        ports |= {f"news{number}.bulk.example:25": host.port for number, host in enumerate(self.hosts, 1)}
        self.sample = Sample(self.folder, (DOCS / "bulk.toml").read_text(), hostname="out1.bulk.example", ports=ports)
        self.relay = self.sample.relay()
        self.relay.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.relay.__exit__()
        for host in self.hosts:
            host.stop()
        self._names.__exit__(None, None, None)


@pytest.fixture
def bulk(tmp_path: Path) -> Iterator[Bulk]:
    with Bulk(tmp_path) as running:
        yield running


def test_the_bulk_sender(bulk: Bulk) -> None:
    relay, sample = bulk.relay, bulk.sample
    # newsletters: bulk mail of their tenant, to the hosts of their route
    for number in range(40):
        send(relay, sample.port("127.0.0.1:2526"), f"a{number}@reader.example")
    relay.wait(lambda: sum(len(host.mails) for host in bulk.hosts) == 40, "the newsletters")
    assert {(mail.client, mail.greeting) for host in bulk.hosts for mail in host.mails} == {
        ("127.0.0.13", "news.bulk.example")
    }
    event = relay.wait_event("reception", tenant="newsletter")
    assert (event["durability"], event["traffic"], event["listener"]) == ("async", "bulk", "newsletter")
    # the shop's mail, from its listener and from this machine's programs
    queue_id = send(relay, sample.port("127.0.0.1:2525"), "a@example.com")
    delivery = relay.wait_event("delivery", id=queue_id)
    assert (delivery["tenant"], delivery["next_hop"], delivery["durability"]) == ("shop", "discard:", "fsync")
    sendmail(relay, "b@example.com")
    assert relay.wait_event("reception", listener="sendmail")["tenant"] == "shop"
    relay.wait_empty()


def test_applications_are_known_by_address(bulk: Bulk) -> None:
    with bulk.relay.client(bulk.sample.port("10.0.0.10:25")) as client:
        assert "STARTTLS" in client.ehlo()
        client.expect(250, "MAIL FROM:<me@company.example>")
        client.expect(550, "RCPT TO:<a@reader.example>")


def test_the_slow_provider_has_a_route_by_mx(bulk: Bulk) -> None:
    done = run_command("explain", "a@mx.slow.example", "--admin", f"127.0.0.1:{bulk.relay.admin_port}")
    assert '"slow-provider", route[2]' in done.stdout
    assert "4 connections" in done.stdout


# ------------------------------------------------------------------ a small company


class Company:
    """The small company's relay, its mailboxes, and its provider."""

    def __init__(self, folder: Path) -> None:
        ca = trustme.CA()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        ca.issue_cert("smtp.provider.example").configure_cert(context)
        self._ca = ca
        self.logged_in: list[str] = []
        self.provider = SinkServer(extensions=["PIPELINING", "AUTH PLAIN"], answer=self._answer, tls=context)
        self.dovecot = Dovecot(["alice@company.example"])
        self.folder = folder

    def _answer(self, step: Step) -> str | None:
        if step.verb == "AUTH":
            _, user, password = base64.b64decode(step.argument.partition(" ")[2]).decode().split("\0")
            assert password == PASSWORD
            self.logged_in.append(user)
            return "235 2.7.0 welcome"
        return None

    def __enter__(self) -> Company:
        self.dovecot.__enter__()
        self.provider.start()
        ports = {
            "smtp.provider.example:587": self.provider.port,
            "mailboxes.company.example:24": self.dovecot.lmtp_port,
        }
        text = (DOCS / "smart-host.toml").read_text()
        self.sample = Sample(self.folder, text, hostname="mail.company.example", ports=ports)
        self._ca.cert_pem.write_to_path(str(self.sample.path("/etc/angarium/tls/provider-ca.pem")))
        secret = self.sample.path("/etc/angarium/provider.password")
        secret.write_text(f"{PASSWORD}\n")
        secret.chmod(0o600)
        self.relay = self.sample.relay()
        self.relay.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.relay.__exit__()
        self.provider.stop()
        self.dovecot.__exit__()

    def connect(self, address: str) -> Dialogue:
        return self.relay.client(self.sample.port(address))


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    with Company(tmp_path_factory.mktemp("company")) as running:
        yield running


@pytest.mark.peer
def test_the_company_s_machines(company: Company) -> None:
    port = company.sample.port("192.168.1.10:25")
    queue_id = send(company.relay, port, "alice@company.example")
    delivery = company.relay.wait_event("delivery", id=queue_id)
    assert delivery["next_hop"].startswith("lmtp://")
    queue_id = send(company.relay, port, "somebody@elsewhere.example")
    delivery = company.relay.wait_event("delivery", id=queue_id)
    assert delivery["tls"]["authentication"] == "webpki"
    assert company.logged_in
    assert set(company.logged_in) == {"company@provider.example"}


@pytest.mark.peer
def test_mail_to_the_company(company: Company) -> None:
    with company.connect("203.0.113.25:25") as client:
        client.ehlo()
        client.expect(250, "MAIL FROM:<stranger@elsewhere.example>")
        assert "5.7.1" in client.expect(550, "RCPT TO:<somebody@third.example>")[0]
        assert "5.1.1" in client.expect(550, "RCPT TO:<nobody@company.example>")[0]
        client.expect(250, "RCPT TO:<alice@company.example>")
        client.expect(250, "RSET")
        queue_id = client.send("stranger@elsewhere.example", ["alice@company.example"], MESSAGE)
    company.relay.wait_event("delivery", id=queue_id)


@pytest.mark.peer
def test_the_company_s_programs(company: Company) -> None:
    sendmail(company.relay, "alice@company.example")
    event = company.relay.wait_event("reception", listener="sendmail")
    company.relay.wait_event("delivery", id=event["id"])


# ------------------------------------------------------------------ both


@pytest.mark.parametrize("name", ["bulk.toml", "smart-host.toml"])
def test_only_paths_ports_and_users_are_changed(tmp_path: Path, name: str) -> None:
    text = (DOCS / name).read_text()
    changed = Sample(tmp_path, text, hostname="x.example").text
    lines = [line for line in text.splitlines() if not line.startswith("user = ")]
    for old, new in zip(lines, changed.splitlines(), strict=True):
        if old == new:
            continue
        key = old.partition("=")[0].strip(" {")
        assert key in {
            "spool", "listen", "servers", "certificate", "key", "file", "socket", "drop", "next_hop", "to", "tls_ca",
            "auth", "call_ahead", "ipv4",
        }, old  # fmt: skip
        assert new.startswith(old.partition('"')[0])


# ------------------------------------------------------------------ from nothing


def test_a_smart_host_from_nothing_in_four_commands(tmp_path: Path) -> None:
    """init, user add, check, serve: then somebody who logs in over TLS hands in mail, on both ports."""
    folder = tmp_path / "mail"
    ports = {name: free_port() for name in ("smtp", "submission", "submissions", "http")}
    options = [word for name, port in ports.items() for word in (f"--{name}-port", str(port))]
    relay = Relay(tmp_path)
    relay.config_file = folder / "angarium.toml"
    relay.events_file = folder / "log" / "events.jsonl"
    relay.admin_port = ports["http"]
    relay._own_config = False
    relay._arguments = ["--config", str(relay.config_file)]
    config = ("--config", str(relay.config_file))

    made = run_command(
        "init", "--role", "smarthost", "--folder", str(folder), "--certificate", "--hostname", "mail.test", *options
    )
    assert made.returncode == 0, made.stderr
    added = run_command("user", "add", "alice@company.test", "--password-stdin", *config, input="a good password\n")
    assert added.returncode == 0, added.stderr
    checked = run_command("check", *config)
    assert (checked.returncode, checked.stdout.count("\n")) == (0, 1), checked.stdout
    with relay:
        trust = ssl.create_default_context(cafile=str(folder / "tls" / "certificate.pem"))
        message = "From: alice@company.test\r\nSubject: hello\r\n\r\nIt works.\r\n"
        with smtplib.SMTP("localhost", ports["submission"], timeout=PATIENCE_S) as client:
            client.starttls(context=trust)
            client.login("alice@company.test", "a good password")
            client.sendmail("alice@company.test", ["one@dest.invalid"], message)
        with smtplib.SMTP_SSL("localhost", ports["submissions"], timeout=PATIENCE_S, context=trust) as client:
            with pytest.raises(smtplib.SMTPAuthenticationError):
                client.login("alice@company.test", "a bad password")
            client.login("alice@company.test", "a good password")
            client.sendmail("alice@company.test", ["two@dest.invalid"], message)
        for recipient in ("one@dest.invalid", "two@dest.invalid"):
            event = relay.wait_event("reception", recipients=[recipient])
            assert event["login"] == "alice@company.test"
            assert event["protocol"] == "ESMTPSA"
        assert "good password" not in relay.stderr + relay.events_file.read_text()


@pytest.mark.peer
def test_the_company_s_people(company: Company) -> None:
    added = run_command(
        "user", "add", "alice@company.example", "--password-stdin", "--config", str(company.relay.config_file),
        input="her password\n",
    )  # fmt: skip
    assert added.returncode == 0, added.stderr
    trust = ssl.create_default_context(cafile=str(company.sample.path("/etc/angarium/tls/certificate.pem")))
    for address in ("0.0.0.0:587", "0.0.0.0:465"):
        port, recipient = company.sample.port(address), f"to{address[-3:]}@elsewhere.example"
        client: smtplib.SMTP
        if address.endswith("587"):
            client = smtplib.SMTP("localhost", port, timeout=PATIENCE_S)
            client.starttls(context=trust)
        else:
            client = smtplib.SMTP_SSL("localhost", port, timeout=PATIENCE_S, context=trust)
        with client:
            with pytest.raises(smtplib.SMTPSenderRefused):
                client.sendmail("alice@company.example", [recipient], MESSAGE)
            client.login("alice@company.example", "her password")
            with pytest.raises(smtplib.SMTPSenderRefused):
                client.sendmail("bob@company.example", [recipient], MESSAGE)
            client.sendmail("alice@company.example", [recipient], MESSAGE)
        mail = company.provider.wait_mail(recipient)
        assert b"\r\nFrom: alice@company.example\r\n" in mail.content
        assert b"127.0.0.1" not in mail.content
