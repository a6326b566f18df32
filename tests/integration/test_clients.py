"""Real mail clients submit to a sandbox by every way that it offers, and its Maildir has the message octet for octet.

A Maildir's lines end with LF; on top of the message are Return-Path, Delivered-To, and the Received fields of the sink
and of the relay, the latter with the keyword of the protocol that the client spoke (RFC 3848).
"""

from __future__ import annotations

import asyncio
import json
import re
import smtplib
import ssl
from typing import TYPE_CHECKING

import aiosmtplib
import pytest

from tests.support import clients, corpus
from tests.support.peers import require, require_nodemailer, require_perl_module
from tests.support.relay import run_command

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.relay import SandboxRelay

MESSAGES = corpus.load()
SENDER = "me@origin.test"
# what each client is given: dots, 8-bit octets, long lines, nested parts, trailing blanks
NAMES = ("smtp-lookalike", "utf8-8bit", "html-one-line", "nested-multipart", "format-flowed", "lone-dots")
MESSAGE = MESSAGES["dkim-simple"]


def check(sandbox: SandboxRelay, recipient: str, message: bytes, protocol: str, count: int = 1) -> None:
    """One of the `count` messages for recipient is this one, and came by this protocol.

    Several that wait may go side by side, and arrive in any order.
    """
    found = sandbox.wait_arrived(recipient, count)
    (arrived,) = [octets for octets in found if octets.replace(b"\n", b"\r\n").endswith(message)]
    top = f"Return-Path: <{SENDER}>\nDelivered-To: {recipient}\n".encode()
    assert arrived.startswith(top)
    assert b"\r" not in arrived
    octets = arrived.removeprefix(top).replace(b"\n", b"\r\n")
    sink, relay = corpus.TRACE.findall(octets)[:2]
    assert b"by sink.sandbox.invalid with ESMTP id " in sink
    assert re.search(rb"by sandbox\.test with ([A-Z0-9]+) id ", relay)[1].decode() == protocol
    assert corpus.without_trace(octets, 2) == message


def unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def file_of(folder: Path, message: bytes) -> Path:
    path = folder / "message.eml"
    path.write_bytes(message)
    return path


def file_for_swaks(folder: Path, message: bytes) -> Path:
    """swaks takes LF for line ends, and puts one more behind a file."""
    return file_of(folder, message.replace(b"\r\n", b"\n").removesuffix(b"\n"))


# ------------------------------------------------------------------ swaks


@pytest.mark.peer
@pytest.mark.parametrize("name", NAMES[:-1])  # it takes a dot on the last line of a file for the end of mail data
def test_swaks_sends_a_file(sandbox: SandboxRelay, tmp_path: Path, name: str) -> None:
    require("swaks")
    recipient = f"swaks.{name}@dest.test"
    file = file_for_swaks(tmp_path, MESSAGES[name])
    transcript = clients.swaks(sandbox.smtp_port, SENDER, recipient, file)
    assert re.search(r"<-  250 2\.0\.0 queued as \S+ durability=fsync", transcript)
    check(sandbox, recipient, MESSAGES[name], "ESMTP")


SWAKS_WAYS = {
    "helo": ("smtp_port", "SMTP", ["--protocol", "SMTP"]),
    "pipelining": ("smtp_port", "ESMTP", ["--pipeline"]),
    "starttls": ("smtp_port", "ESMTPS", ["--tls"]),
    "auth-plain": ("submission_port", "ESMTPSA", ["--tls", "--auth", "PLAIN"]),
    "auth-login": ("submission_port", "ESMTPSA", ["--tls", "--auth", "LOGIN"]),
    "tls-auth-plain": ("submissions_port", "ESMTPSA", ["--tlsc", "--auth", "PLAIN"]),
    "tls-auth-login-pipelining": ("submissions_port", "ESMTPSA", ["--tlsc", "--auth", "LOGIN", "--pipeline"]),
}


@pytest.mark.peer
@pytest.mark.parametrize("way", SWAKS_WAYS)
def test_swaks_by(sandbox: SandboxRelay, tmp_path: Path, way: str) -> None:
    require("swaks")
    port, protocol, options = SWAKS_WAYS[way]
    if protocol.endswith(("S", "SA")):
        require_perl_module("Net::SSLeay")
    if "--auth" in options:
        options = [*options, "--auth-user", "rider", "--auth-password", "horse"]
    recipient = f"swaks.{way}@dest.test"
    file = file_for_swaks(tmp_path, MESSAGE)
    clients.swaks(getattr(sandbox, port), SENDER, recipient, file, *options)
    check(sandbox, recipient, MESSAGE, protocol)


@pytest.mark.peer
def test_swaks_is_told_that_submission_needs_a_log_in(sandbox: SandboxRelay, tmp_path: Path) -> None:
    require("swaks")
    require_perl_module("Net::SSLeay")
    file = file_of(tmp_path, b"Subject: no\n\nno\n")
    with pytest.raises(AssertionError, match=r"530 5\.7\.0"):
        clients.swaks(sandbox.submission_port, SENDER, "nobody@dest.test", file, "--tls")
    assert sandbox.arrived("nobody@dest.test") == []


# ------------------------------------------------------------------ Python


@pytest.mark.parametrize("name", NAMES)
def test_smtplib(sandbox: SandboxRelay, name: str) -> None:
    recipient = f"smtplib.{name}@dest.test"
    with smtplib.SMTP("127.0.0.1", sandbox.smtp_port, local_hostname="smtplib.test") as client:
        options = [] if MESSAGES[name].isascii() else ["body=8bitmime"]
        assert client.sendmail(SENDER, [recipient], MESSAGES[name], options) == {}
    check(sandbox, recipient, MESSAGES[name], "ESMTP")


def test_smtplib_with_starttls_and_a_log_in(sandbox: SandboxRelay) -> None:
    # the sandbox's certificate vouches for itself: whoever is given it needs no exception
    context = ssl.create_default_context(cafile=str(sandbox.spool / "tls" / "certificate.pem"))
    with smtplib.SMTP("localhost", sandbox.submission_port, local_hostname="smtplib.test") as client:
        client.ehlo()
        assert not client.has_extn("auth"), "a log-in is offered before TLS"
        client.starttls(context=context)
        client.login("rider", "horse")
        client.sendmail(SENDER, ["smtplib.auth@dest.test"], MESSAGE)
    check(sandbox, "smtplib.auth@dest.test", MESSAGE, "ESMTPSA")


def test_smtplib_over_tls(sandbox: SandboxRelay) -> None:
    with smtplib.SMTP_SSL("127.0.0.1", sandbox.submissions_port, context=unverified()) as client:
        client.login("rider", "horse")
        client.sendmail(SENDER, ["smtplib.tls@dest.test"], MESSAGE)
    check(sandbox, "smtplib.tls@dest.test", MESSAGE, "ESMTPSA")


def test_smtplib_sends_an_internationalised_address(sandbox: SandboxRelay) -> None:
    recipient = "böte@пример.test"
    with smtplib.SMTP("127.0.0.1", sandbox.smtp_port) as client:
        client.sendmail(SENDER, [recipient], MESSAGES["utf8-raw-header"], ["SMTPUTF8", "BODY=8BITMIME"])
    sandbox.wait_event("delivery", recipient=recipient)
    arrived = sandbox.wait_arrived(recipient)[0]
    assert b"by sandbox.test with UTF8SMTP id" in arrived


def test_smtplib_keeps_a_connection_for_many_messages(sandbox: SandboxRelay) -> None:
    with smtplib.SMTP("127.0.0.1", sandbox.smtp_port) as client:
        for number in range(50):
            client.sendmail(SENDER, ["many@dest.test"], b"Subject: %d\r\n\r\n.\r\n" % number)
    found = sandbox.wait_arrived("many@dest.test", 50)
    assert sorted(int(re.search(rb"\nSubject: (\d+)\n", octets)[1]) for octets in found) == list(range(50))


async def test_aiosmtplib_with_many_connections_at_once(sandbox: SandboxRelay) -> None:
    async def send(number: int) -> str:
        async with aiosmtplib.SMTP(hostname="127.0.0.1", port=sandbox.smtp_port, start_tls=False) as client:
            message = b"Subject: %d\r\n\r\nparallel\r\n" % number
            _, text = await client.sendmail(SENDER, ["parallel@dest.test"], message)
            return text

    texts = await asyncio.gather(*(send(number) for number in range(30)))
    assert len(set(texts)) == 30
    assert all(re.fullmatch(r"2\.0\.0 queued as [0-9A-Z]+ durability=fsync", text) for text in texts)
    found = sandbox.wait_arrived("parallel@dest.test", 30)
    assert sorted(int(re.search(rb"\nSubject: (\d+)\n", octets)[1]) for octets in found) == list(range(30))


@pytest.mark.parametrize("way", ["starttls", "tls"])
async def test_aiosmtplib_with_tls(sandbox: SandboxRelay, way: str) -> None:
    recipient = f"aiosmtplib.{way}@dest.test"
    port = sandbox.submission_port if way == "starttls" else sandbox.submissions_port
    client = aiosmtplib.SMTP(
        hostname="127.0.0.1",
        port=port,
        use_tls=way == "tls",
        start_tls=way == "starttls",
        validate_certs=False,
        username="rider",
        password="horse",
    )
    async with client:
        await client.sendmail(SENDER, [recipient], MESSAGE)
    check(sandbox, recipient, MESSAGE, "ESMTPSA")


# ------------------------------------------------------------------ msmtp, curl, nodemailer, angarium send


@pytest.mark.peer
@pytest.mark.parametrize("name", NAMES)
def test_msmtp(sandbox: SandboxRelay, tmp_path: Path, name: str) -> None:
    require("msmtp")
    recipient = f"msmtp.{name}@dest.test"
    message = MESSAGES[name].replace(b"\r\n", b"\n")
    unchanged = ("--set-from-header=off", "--set-date-header=off", "--remove-bcc-headers=off")
    clients.msmtp(tmp_path, sandbox.smtp_port, SENDER, recipient, message, *unchanged)
    check(sandbox, recipient, MESSAGES[name], "ESMTP")


@pytest.mark.peer
@pytest.mark.parametrize("way", ["starttls", "tls"])
def test_msmtp_with_tls_and_a_log_in(sandbox: SandboxRelay, tmp_path: Path, way: str) -> None:
    require("msmtp")
    recipient = f"msmtp.{way}@dest.test"
    port = sandbox.submission_port if way == "starttls" else sandbox.submissions_port
    clients.msmtp(
        tmp_path,
        port,
        SENDER,
        recipient,
        MESSAGE.replace(b"\r\n", b"\n"),
        "--set-from-header=off",
        "--set-date-header=off",
        "--tls=on",
        f"--tls-starttls={'on' if way == 'starttls' else 'off'}",
        f"--tls-trust-file={sandbox.spool / 'tls' / 'certificate.pem'}",
        "--host=localhost",
        f"--port={port}",
        "--auth=plain",
        "--user=rider",
        "--passwordeval=echo horse",
    )
    check(sandbox, recipient, MESSAGE, "ESMTPSA")


CURL_WAYS = {
    "plain": ("smtp", "smtp_port", "ESMTP", []),
    "starttls": ("smtp", "submission_port", "ESMTPSA", ["--ssl-reqd", "--insecure", "--user", "rider:horse"]),
    "tls": ("smtps", "submissions_port", "ESMTPSA", ["--insecure", "--user", "rider:horse"]),
}


@pytest.mark.peer
@pytest.mark.parametrize("way", CURL_WAYS)
def test_curl(sandbox: SandboxRelay, tmp_path: Path, way: str) -> None:
    require("curl")
    scheme, port, protocol, options = CURL_WAYS[way]
    recipient = f"curl.{way}@dest.test"
    url = f"{scheme}://127.0.0.1:{getattr(sandbox, port)}/curl.test"
    clients.curl(url, SENDER, recipient, file_of(tmp_path, MESSAGE), *options)
    check(sandbox, recipient, MESSAGE, protocol)


NODEMAILER_WAYS = {
    "plain": ("smtp_port", "ESMTP", {"ignoreTLS": True}),
    "starttls": ("submission_port", "ESMTPSA", {"requireTLS": True, "auth": {"user": "rider", "pass": "horse"}}),
    "tls": ("submissions_port", "ESMTPSA", {"secure": True, "auth": {"user": "rider", "pass": "horse"}}),
}


@pytest.mark.peer
@pytest.mark.parametrize("way", NODEMAILER_WAYS)
def test_nodemailer(sandbox: SandboxRelay, way: str) -> None:
    require_nodemailer()
    port, protocol, options = NODEMAILER_WAYS[way]
    recipient = f"nodemailer.{way}@dest.test"
    names = ("smtp-lookalike", "html-one-line", "dkim-simple")
    request = {
        "transport": {
            "host": "127.0.0.1",
            "port": getattr(sandbox, port),
            "pool": True,
            "maxConnections": 1,
            "tls": {"rejectUnauthorized": False},
            **options,
        },
        "envelope": {"from": SENDER, "to": [recipient]},
        "messages": [{"raw": MESSAGES[name].decode("ascii")} for name in names],
    }
    replies = clients.nodemailer(json.dumps(request)).split("\n")
    assert all(re.fullmatch(r"250 2\.0\.0 queued as \S+ durability=fsync", reply) for reply in replies[:3]), replies
    for name in names:
        check(sandbox, recipient, MESSAGES[name], protocol, 3)


def test_angarium_send(sandbox: SandboxRelay, tmp_path: Path) -> None:
    file = file_of(tmp_path, MESSAGES["utf8-8bit"])
    where = ["--server", f"127.0.0.1:{sandbox.smtp_port}", "--from", SENDER]
    done = run_command("send", *where, "--to", "one@send.test", "--to", "two@send.test", "--json", str(file))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["reply"]["code"] == 250
    assert answer["refused"] == {}
    for recipient in ("one@send.test", "two@send.test"):
        arrived = sandbox.wait_arrived(recipient)[0]
        assert arrived.replace(b"\n", b"\r\n").endswith(MESSAGES["utf8-8bit"])


def test_angarium_send_with_tls_and_a_log_in_completes_a_bare_message(sandbox: SandboxRelay) -> None:
    done = run_command(
        "send",
        "--server", f"127.0.0.1:{sandbox.submission_port}",
        "--from", SENDER,
        "--to", "bare@send.test",
        "--tls", "starttls",
        "--insecure",
        "--user", "rider",
        input="Subject: bare\n\nfrom standard input\n",
        env={"ANGARIUM_PASSWORD": "horse", "PATH": "/usr/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    arrived = sandbox.wait_arrived("bare@send.test")[0]
    assert re.search(rb"\nDate: .*\nMessage-ID: <.*>\nSubject: bare\n\nfrom standard input\n\Z", arrived)


def test_angarium_send_says_in_one_line_what_went_wrong(sandbox: SandboxRelay, tmp_path: Path) -> None:
    file = file_of(tmp_path, MESSAGE)
    envelope = ["--from", SENDER, "--to", "x@send.test", str(file)]
    refused = run_command("send", "--server", f"127.0.0.1:{sandbox.submission_port}", *envelope)
    assert refused.returncode == 1
    assert re.fullmatch(r"angarium: 127\.0\.0\.1:\d+: 530 5\.7\.0 .*\n", refused.stderr)
    sandbox_port_taken_by_nobody = run_command("send", "--server", "127.0.0.1:1", *envelope)
    assert sandbox_port_taken_by_nobody.returncode == 1
    assert sandbox_port_taken_by_nobody.stderr.count("\n") == 1
