"""Log-ins at a relay that runs: real clients, SCRAM, bans, a file that changes, an access process that dies."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import smtplib
import ssl
from typing import TYPE_CHECKING

import pytest
from scramp import ScramClient  # type: ignore[import-untyped]

from angarium.clock import SystemClock
from angarium.config.credentials import Access
from angarium.policy.failure_file import FailureFile
from angarium.policy.failure_table import FailureTable
from tests.support import clients
from tests.support.clients import Dialogue
from tests.support.log_ins import coded, text_of
from tests.support.peers import SinkServer, require, require_nodemailer, require_perl_module
from tests.support.relay import run_command
from tests.support.submission import LOG_IN, PASSWORD, Submission, plain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SENDER = LOG_IN
MESSAGE = b"Subject: hello\r\n\r\nhello\r\n"


@pytest.fixture(scope="module")
def hop() -> Iterator[SinkServer]:
    with SinkServer() as server:
        yield server


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory, hop: SinkServer) -> Iterator[Submission]:
    folder = tmp_path_factory.mktemp("submission")
    with Submission(folder, {"route": [{"recipients": ["*"], "next_hop": hop.url}]}) as running:
        assert isinstance(running, Submission)
        yield running


def check(relay: Submission, recipient: str) -> None:
    """The mail of this recipient was taken from who had logged in."""
    event = relay.wait_event("reception", recipients=[recipient])
    assert (event["login"], event["protocol"]) == (LOG_IN, "ESMTPSA")


# ------------------------------------------------------------------ clients


def test_smtplib(relay: Submission) -> None:
    with smtplib.SMTP("localhost", relay.submission_port, local_hostname="smtplib.test") as client:
        client.ehlo()
        assert not client.has_extn("auth"), "a log-in is offered before TLS"
        client.starttls(context=relay.context())
        client.ehlo()
        assert client.esmtp_features["auth"].split() == ["SCRAM-SHA-256", "PLAIN", "LOGIN"]
        client.login(LOG_IN, PASSWORD)
        client.sendmail(SENDER, ["smtplib@dest.test"], MESSAGE)
    check(relay, "smtplib@dest.test")


def test_smtplib_with_a_wrong_password(relay: Submission) -> None:
    with smtplib.SMTP_SSL("localhost", relay.submissions_port, context=relay.context()) as client:
        with pytest.raises(smtplib.SMTPAuthenticationError) as failure:
            client.login(LOG_IN, "wrong")
        assert failure.value.smtp_code == 535
        assert client.mail(SENDER)[0] == 530


@pytest.mark.peer
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_swaks(relay: Submission, tmp_path: Path, mechanism: str) -> None:
    require("swaks")
    require_perl_module("Net::SSLeay")
    file = tmp_path / "message.eml"
    file.write_bytes(MESSAGE.replace(b"\r\n", b"\n"))
    recipient = f"swaks.{mechanism.lower()}@dest.test"
    options = ["--tls", "--auth", mechanism, "--auth-user", LOG_IN, "--auth-password", PASSWORD]
    clients.swaks(relay.submission_port, SENDER, recipient, file, *options)
    check(relay, recipient)


@pytest.mark.peer
@pytest.mark.parametrize("method", ["on", "plain", "login", "scram-sha-256"])
def test_msmtp(relay: Submission, tmp_path: Path, method: str) -> None:
    require("msmtp")
    recipient = f"msmtp.{method}@dest.test"
    trust = tmp_path / "ca.pem"
    relay.authority.cert_pem.write_to_path(str(trust))
    options = [
        "--tls=on",
        "--tls-starttls=on",
        f"--tls-trust-file={trust}",
        "--host=localhost",
        f"--port={relay.submission_port}",
        f"--auth={method}",
        f"--user={LOG_IN}",
        f"--passwordeval=echo {PASSWORD}",
    ]
    if "scram" in method and "SCRAM-SHA-256" not in clients.run_program(["msmtp", "--version"]).upper():
        pytest.skip("this msmtp knows no SCRAM-SHA-256")
    clients.msmtp(tmp_path, relay.submission_port, SENDER, recipient, MESSAGE, *options)
    check(relay, recipient)


@pytest.mark.peer
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "SCRAM-SHA-256"])
def test_curl(relay: Submission, tmp_path: Path, mechanism: str) -> None:
    require("curl")
    if "SCRAM" in mechanism and "gsasl" not in clients.run_program(["curl", "--version"]).lower():
        pytest.skip("this curl knows no SCRAM")
    file = tmp_path / "message.eml"
    file.write_bytes(MESSAGE)
    recipient = f"curl.{mechanism.lower()}@dest.test"
    trust = tmp_path / "ca.pem"
    relay.authority.cert_pem.write_to_path(str(trust))
    options = ["--ssl-reqd", "--cacert", str(trust), "--user", f"{LOG_IN}:{PASSWORD}"]
    options += ["--login-options", f"AUTH={mechanism}"]
    url = f"smtp://localhost:{relay.submission_port}/curl.test"
    clients.curl(url, SENDER, recipient, file, *options)
    check(relay, recipient)


@pytest.mark.peer
def test_nodemailer(relay: Submission) -> None:
    require_nodemailer()
    recipient = "nodemailer@dest.test"
    transport = {
        "host": "localhost",
        "port": relay.submission_port,
        "requireTLS": True,
        "auth": {"user": LOG_IN, "pass": PASSWORD},
        "tls": {"ca": relay.authority.cert_pem.bytes().decode()},
    }
    envelope = {"from": SENDER, "to": [recipient]}
    clients.nodemailer(
        json.dumps({"transport": transport, "envelope": envelope, "messages": [{"raw": MESSAGE.decode()}]})
    )
    check(relay, recipient)


@pytest.mark.peer
def test_mutt(relay: Submission, tmp_path: Path) -> None:
    require("mutt")
    trust = tmp_path / "ca.pem"
    relay.authority.cert_pem.write_to_path(str(trust))
    settings = tmp_path / "muttrc"
    settings.touch(mode=0o600)
    settings.write_text(
        f"set smtp_url = 'smtp://{LOG_IN.replace('@', '%40')}@localhost:{relay.submission_port}'\n"
        f"set smtp_pass = '{PASSWORD}'\nset smtp_authenticators = 'plain'\nset ssl_force_tls = yes\n"
        f"set certificate_file = '{trust}'\nset ssl_ca_certificates_file = '{trust}'\nset from = {SENDER}\n"
        f"set folder = {tmp_path}\nset copy = no\nset hostname = mutt.test\n"
    )
    arguments = ["mutt", "-n", "-F", str(settings), "-s", "hello", "--", "mutt@dest.test"]
    clients.run_program(arguments, b"hello\n", HOME=str(tmp_path), TERM="dumb")
    check(relay, "mutt@dest.test")


# ------------------------------------------------------------------ SCRAM


def scram(client: Dialogue, password: str, mechanism: str = "SCRAM-SHA-256", bound: bytes | None = None) -> int:
    binding = None if bound is None else ("tls-server-end-point", bound)
    scramp = ScramClient([mechanism], LOG_IN, password, channel_binding=binding)
    lines = client.expect(334, f"AUTH {mechanism} {coded(scramp.get_client_first())}")
    scramp.set_server_first(text_of(lines))
    code, lines = client.command(coded(scramp.get_client_final()))
    if code != 334:
        return code
    scramp.set_server_final(text_of(lines))
    return client.command("")[0]


def test_scram_against_scramp(relay: Submission) -> None:
    with relay.dialogue() as client:
        assert scram(client, "wrong") == 535
        assert scram(client, PASSWORD) == 235
        client.send(SENDER, ["scram@dest.test"], MESSAGE)
    check(relay, "scram@dest.test")


def test_scram_with_channel_binding(tmp_path: Path, hop: SinkServer) -> None:
    config = {"route": [{"recipients": ["*"], "next_hop": hop.url}]}
    with Submission(tmp_path, config, mechanisms=["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]) as relay:
        assert isinstance(relay, Submission)
        with relay.dialogue() as client:
            assert client.extensions["AUTH"] == "SCRAM-SHA-256-PLUS SCRAM-SHA-256"
            assert isinstance(client.socket, ssl.SSLSocket)
            shown = client.socket.getpeercert(binary_form=True)
            assert shown is not None
            assert scram(client, PASSWORD, "SCRAM-SHA-256-PLUS", b"another certificate's") == 535
            assert scram(client, PASSWORD, "SCRAM-SHA-256-PLUS", hashlib.sha256(shown).digest()) == 235


# ------------------------------------------------------------------ what must not be


def test_a_log_in_in_plaintext_is_not_looked_at(relay: Submission) -> None:
    with Dialogue("127.0.0.1", relay.submission_port) as client:
        assert "AUTH" not in client.ehlo()
        assert client.command(f"AUTH PLAIN {plain(LOG_IN, PASSWORD)}")[0] == 530
        assert client.command(f"MAIL FROM:<{SENDER}>")[0] == 530


def test_a_session_knows_nothing_of_the_one_before(relay: Submission) -> None:
    with relay.dialogue() as first:
        assert first.command(f"AUTH PLAIN {plain(LOG_IN, PASSWORD)}")[0] == 235
        with relay.dialogue() as second:
            assert second.command(f"MAIL FROM:<{SENDER}>")[0] == 530
        assert first.command(f"MAIL FROM:<{SENDER}>")[0] == 250
    with relay.dialogue() as third:
        assert third.command(f"MAIL FROM:<{SENDER}>")[0] == 530


def test_a_log_in_is_known_as_the_file_writes_it(relay: Submission) -> None:
    with relay.dialogue() as client:
        assert client.command(f"AUTH PLAIN {plain(LOG_IN.upper(), PASSWORD)}")[0] == 235
        client.send(SENDER, ["capitals@dest.test"], MESSAGE)
    check(relay, "capitals@dest.test")


def test_commands_behind_auth_wait_for_its_answer(relay: Submission) -> None:
    with relay.dialogue() as client:
        client.write(f"AUTH PLAIN {plain(LOG_IN, PASSWORD)}\r\nMAIL FROM:<{SENDER}>\r\nRSET\r\n".encode())
        assert [client.read()[0] for _ in range(3)] == [235, 250, 250]


def test_no_secret_is_shown_anywhere(tmp_path: Path) -> None:
    wrong, in_the_wrong_field = "wrong.horse", "hunter2.in.the.wrong.field"
    with Submission(tmp_path) as relay:
        assert isinstance(relay, Submission)
        with relay.dialogue() as client:
            assert client.command(f"AUTH PLAIN {plain(LOG_IN, wrong)}")[0] == 535
            assert client.command(f"AUTH PLAIN {plain(in_the_wrong_field, wrong)}")[0] == 535
            assert client.command(f"AUTH PLAIN {plain(LOG_IN, PASSWORD)}")[0] == 235
        relay.wait_event("log_in_failed", count=2)
        shown = relay.stderr + relay.events_file.read_text() + relay.get("/metrics")[1].decode()
        shown += relay.get("/api/v1/bans")[1].decode()
        for process in (path for path in os.listdir("/proc") if path.isdigit()):
            try:
                with open(f"/proc/{process}/cmdline", "rb") as file:
                    shown += file.read().decode("utf-8", "replace")
            except OSError:
                continue
        hashed = json.dumps(relay.users.read_text().split("$")[-1])
        for secret in (wrong, in_the_wrong_field, PASSWORD, plain(LOG_IN, PASSWORD), plain(LOG_IN, wrong), hashed):
            assert secret not in shown


# ------------------------------------------------------------------ bans


def test_a_client_that_guesses_is_banned_and_let_in_again(tmp_path: Path, hop: SinkServer) -> None:
    config = {
        "access": {"delay": "1ms", "longest_delay": "2ms", "address_failures": 3},
        "route": [{"recipients": ["*"], "next_hop": hop.url}],
    }
    with Submission(tmp_path, config) as relay:
        assert isinstance(relay, Submission)
        with relay.dialogue() as client:
            for number in range(3):
                assert client.command(f"AUTH PLAIN {plain('nobody', f'guess{number}')}")[0] == 535
            code, lines = client.command(f"AUTH PLAIN {plain(LOG_IN, PASSWORD)}")
            assert (code, lines) == (454, ["4.7.0 Too many failed log-ins; try again later"])
        assert relay.wait_event("ban")["subject"] == "127.0.0.1"
        admin = ["--admin", f"127.0.0.1:{relay.admin_port}"]
        (ban,) = json.loads(run_command("user", "bans", "--json", *admin).stdout)
        assert (ban["of"], ban["subject"], ban["failures"]) == ("address", "127.0.0.1", 3)
        assert "127.0.0.1" in run_command("user", "bans", *admin).stdout
        relay.wait(lambda: relay.metrics()['angarium_ingress_banned{of="address"}'] == 1, "the ban in the metrics")
        assert relay.metrics()['angarium_ingress_authentications_total{result="banned"}'] == 1
        unknown = run_command("user", "unban", "192.0.2.1", *admin)
        assert (unknown.returncode, unknown.stderr) == (1, "192.0.2.1 is not banned\n")
        assert run_command("user", "unban", "127.0.0.1", *admin).stdout == "1 ban lifted\n"
        relay.wait_event("unban", subject="127.0.0.1")
        assert run_command("user", "bans", *admin).stdout == "nobody is banned\n"
        with relay.dialogue() as client:
            assert client.command(f"AUTH PLAIN {plain(LOG_IN, PASSWORD)}")[0] == 235


def test_a_ban_outlives_the_process_the_node_and_a_reload(tmp_path: Path) -> None:
    config = {
        "access": {"delay": "1ms", "longest_delay": "2ms", "address_failures": 4},
        "route": [{"recipients": ["*"], "next_hop": "discard:"}],
    }
    with Submission(tmp_path, config) as relay:
        assert isinstance(relay, Submission)
        kept = relay.spool / "access.failures"

        def code(password: str = PASSWORD) -> int:
            with relay.dialogue() as client:
                return client.command(f"AUTH PLAIN {plain(LOG_IN, password)}")[0]

        def saved(failures: int) -> None:
            def written() -> int:
                table = FailureTable(Access(ban_s=900.0), lambda: 0.0)
                assert FailureFile(relay.spool, table, SystemClock()).load() == ""
                return sum(entry.failures for entry in table.kept(0).entries["address"])

            relay.wait(lambda: written() == failures, "the failures to be written")

        def kill_access() -> None:
            before = access_pid(relay)
            relay.kill_process(before, signal.SIGKILL)
            relay.wait(lambda: access_pid(relay) not in {0, before}, "another access process")

        assert [code(f"guess{number}") for number in range(3)] == [535] * 3
        saved(3)
        kill_access()
        assert code("guess3") == 535  # the fourth
        relay.wait_event("ban", failures=4)
        assert code() == 454
        saved(4)
        kill_access()
        assert code() == 454
        relay.kill()
        relay.start()
        assert code() == 454
        relay.wait(lambda: relay.metrics()['angarium_ingress_banned{of="address"}'] == 1, "the ban to be counted")
        assert relay.reload({"access": {"window": "2h"}})["changed"] == ["access.window"]
        assert code() == 454
        # what an operator has lifted stays lifted, whatever comes next
        assert run_command("user", "unban", "127.0.0.1", "--admin", f"127.0.0.1:{relay.admin_port}").returncode == 0
        kill_access()
        assert code() == 235
        # a file that is no such file costs itself
        relay.stop()
        kept.write_bytes(kept.read_bytes()[:-1])
        relay.start()
        assert relay.wait_event("bans_lost")["file"] == str(kept)
        assert f"{kept}: it is damaged" in relay.stderr
        assert code() == 235


def access_pid(relay: Submission) -> int:
    status = relay.api("status")["access"]["status"]
    return 0 if status is None else status["pid"]


# ------------------------------------------------------------------ what changes meanwhile


def test_a_log_in_that_is_added_and_removed_while_the_relay_runs(relay: Submission) -> None:
    def code() -> int:
        with relay.dialogue() as client:
            return client.command(f"AUTH PLAIN {plain('carol', 'a new password')}")[0]

    file = ["--file", str(relay.users)]
    added = run_command("user", "add", "carol", "--password-stdin", *file, input="a new password\n")
    assert (added.returncode, added.stdout) == (0, f"carol added to {relay.users}\n")
    relay.wait(lambda: code() == 235, "the new log-in")
    assert run_command("user", "remove", "carol", *file).returncode == 0
    relay.wait(lambda: code() == 535, "the end of the log-in")


def test_an_access_process_that_dies(relay: Submission) -> None:
    before = access_pid(relay)
    with relay.dialogue() as client:
        relay.kill_process(before, signal.SIGKILL)
        # asked of its successor, or told to come again; never let in, and never hanging
        code = client.command(f"AUTH PLAIN {plain(LOG_IN, 'wrong')}")[0]
        assert code in {454, 535}
    relay.wait(lambda: access_pid(relay) not in {0, before}, "another access process")
    with relay.dialogue() as client:
        assert client.command(f"AUTH PLAIN {plain(LOG_IN, PASSWORD)}")[0] == 235


def test_an_access_process_that_stands_still(tmp_path: Path) -> None:
    with Submission(tmp_path) as relay:
        assert isinstance(relay, Submission)
        pid = relay.api("status")["access"]["status"]["pid"]
        with relay.dialogue() as client:
            relay.kill_process(pid, signal.SIGSTOP)
            client.write(f"AUTH PLAIN {plain(LOG_IN, PASSWORD)}\r\n".encode())
            with relay.dialogue() as other:  # whoever waits holds nobody up
                assert other.command("NOOP")[0] == 250
            relay.kill_process(pid, signal.SIGCONT)
            assert client.read()[0] == 235
