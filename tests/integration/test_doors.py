"""Ways in, with real programs at the other end: HAProxy in front, swaks with XCLIENT, systemd's sockets, openssl."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import socket
import ssl
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.certificates import Authority, self_signed
from tests.support.clients import PATIENCE_S, ROOT, Dialogue, run_program
from tests.support.haproxy import Haproxy
from tests.support.peers import SinkServer, require, require_perl_module
from tests.support.ports import free_port
from tests.support.relay import Relay, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENT, STRANGER = "127.0.0.5", "127.0.0.6"
CONTENT = b"Subject: by the door\r\n\r\nhello\r\n"
HEADERS = 'angarium_ingress_proxy_headers_total{{result="{}"}}'


@pytest.fixture(scope="module")
def sink() -> Iterator[SinkServer]:
    with SinkServer() as server:
        yield server


def reached(port: int, **options: str) -> Dialogue:
    """A dialogue with what listens there by and by."""
    found: list[Dialogue] = []

    def connect() -> bool:
        with contextlib.suppress(ConnectionError):
            found.append(Dialogue("127.0.0.1", port, **options))
        return bool(found)

    wait_until(connect, f"an answer on port {port}")
    return found[0]


def refused(client: Dialogue) -> bool:
    """Whether this client may not relay."""
    client.ehlo()
    client.expect(250, "MAIL FROM:<a@client.example>")
    code, lines = client.command("RCPT TO:<x@example.com>")
    assert code == 250 or lines == ["5.7.1 Relaying denied"]
    client.expect(250, "RSET")
    return code == 550


# ------------------------------------------------------------------ HAProxy


def test_haproxy_says_who_its_clients_are(tmp_path: Path, sink: SinkServer) -> None:
    port, tls_port, unix = free_port(), free_port(), tmp_path / "smtp.sock"
    certificate, key = self_signed("relay.test").write(tmp_path, "node")
    common = {"role": "relay", "relay_networks": [f"{CLIENT}/32"]}
    config = {
        "tls": {"certificate": certificate, "key": key},
        "listener": [
            {"name": "plain", "listen": f"127.0.0.1:{port}", "proxy_networks": ["127.0.0.1/32"], **common},
            {
                "name": "tls",
                "listen": f"127.0.0.1:{tls_port}",
                "tls": "implicit",
                "proxy_networks": ["127.0.0.1/32"],
                **common,
            },
            {"name": "unix", "listen": f"unix:{unix}", "proxy_networks": ["unix"], **common},
        ],
        "route": [{"recipients": ["*"], "next_hop": sink.url}],
        "delivery": {"tls": "none"},
    }
    servers = {
        "v1": f"127.0.0.1:{port} send-proxy",
        "v2": f"127.0.0.1:{port} send-proxy-v2 proxy-v2-options crc32c",
        "checked": f"127.0.0.1:{port} send-proxy-v2 check check-send-proxy inter 100ms",
        "tls": f"127.0.0.1:{tls_port} send-proxy-v2",
        "unix": f"unix@{unix} send-proxy-v2",
        "silent": f"127.0.0.1:{port}",
    }
    with Relay(tmp_path / "relay", config) as relay, Haproxy(servers) as proxy:
        for name in ("v1", "v2", "checked", "unix"):
            with reached(proxy.ports[name], source=STRANGER) as stranger:
                assert refused(stranger), name
            with reached(proxy.ports[name], source=CLIENT) as client:
                client.ehlo()
                queue_id = client.send("a@client.example", [f"{name}@example.com"], CONTENT)
            assert relay.wait_event("reception", id=queue_id)["client"] == CLIENT, name
            content = sink.wait_mail(f"{name}@example.com").content
            assert content.startswith(f"Received: from client.test ([{CLIENT}])\r\n\tby relay.test".encode())
        with reached(proxy.ports["tls"], source=CLIENT, greet=False) as client:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            with context.wrap_socket(client.socket) as secured:
                assert secured.recv(1000).startswith(b"220 relay.test")
        # who is no proxy is a client itself
        with Dialogue("127.0.0.1", port, source=CLIENT) as client:
            assert not refused(client)
        # a proxy that says nothing of its client gets no answer
        with reached(proxy.ports["silent"], source=CLIENT, greet=False) as client:
            client.write(b"EHLO client.test\r\n")
            with contextlib.suppress(ConnectionResetError):
                assert client.socket.recv(1000) == b""
        event = relay.wait_event("proxy_refused")
        assert (event["listener"], event["client"], event["why"]) == ("plain", "127.0.0.1", "no header")
        metrics = relay.wait(
            lambda: (found := relay.metrics())[HEADERS.format("own")] > 0 and found, "a health check that says LOCAL"
        )
        assert metrics[HEADERS.format("client")] >= 9
        assert metrics[HEADERS.format("malformed")] == 1


# ------------------------------------------------------------------ XCLIENT


def test_swaks_speaks_for_another_client(tmp_path: Path, sink: SinkServer) -> None:
    require("swaks")
    config = {
        "listener": [
            {
                "name": "relay",
                "listen": f"127.0.0.1:{free_port()}",
                "role": "relay",
                "relay_networks": ["192.0.2.0/24"],
                "xclient_networks": ["127.0.0.0/8"],
            }
        ],
        "route": [{"recipients": ["*"], "next_hop": sink.url}],
    }
    relay = Relay(tmp_path / "relay", config)
    port = int(config["listener"][0]["listen"].rpartition(":")[2])  # type: ignore[index]
    message = tmp_path / "message.eml"
    message.write_bytes(CONTENT)
    common = ["swaks", "--server", "127.0.0.1", "--port", str(port), "--helo", "swaks.test", "--data", f"@{message}"]
    said = {
        "addr": "192.0.2.9",
        "name": "laptop.example",
        "port": "40000",
        "proto": "ESMTP",
        "destaddr": "192.0.2.25",
        "destport": "25",
        "helo": "laptop.example",
    }
    options = [word for key, value in said.items() for word in (f"--xclient-{key}", value)]
    with relay:
        transcript = run_program([*common, "--from", "a@client.example", "--to", "swaks@example.com", *options])
        assert "220 relay.test" in transcript
        content = sink.wait_mail("swaks@example.com").content
        assert content.startswith(b"Received: from swaks.test (laptop.example [192.0.2.9])\r\n")
        assert relay.wait_event("reception", client="192.0.2.9")["greeting"] == "swaks.test"
        options = ["--xclient", "ADDR=203.0.113.9", "--xclient", "LOGIN=anna@example.org"]
        run_program([*common, "--from", "a@client.example", "--to", "anna@example.com", *options])
        assert relay.wait_event("reception", client="203.0.113.9")["login"] == "anna@example.org"
        done = subprocess.run(
            [*common, "--from", "a@client.example", "--to", "no@example.com", "--xclient-addr", "203.0.113.9"],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert "550 5.7.1 Relaying denied" in done.stdout
        assert relay.metrics()['angarium_ingress_xclient_total{result="taken"}'] == 4  # swaks says each by itself


# ------------------------------------------------------------------ sockets


def test_sockets_of_systemd_and_unix_sockets(tmp_path: Path, sink: SinkServer) -> None:
    activate = require("systemd-socket-activate")
    port, given, own = free_port(), tmp_path / "given.sock", tmp_path / "own.sock"
    network = {"role": "relay", "relay_networks": ["127.0.0.0/8"]}
    config = {
        "node": {"workers": 2},
        "queue": {"shards": 2},
        "listener": [
            {"name": "tcp", "listen": "systemd:smtp", **network},
            {"name": "given", "listen": "systemd:local", "role": "relay"},
            {"name": "own", "listen": f"unix:{own}", "role": "relay", "socket_mode": "0600"},
        ],
        "route": [{"recipients": ["*"], "next_hop": sink.url}],
    }
    prefix = [activate, "--listen", f"127.0.0.1:{port}", "--listen", str(given), "--fdname=smtp:local"]
    relay = Relay(tmp_path / "relay", config, prefix=prefix)
    relay.launch()
    try:
        # the first connection starts the relay, and waits for it
        first = reached(port, greet=False)
        relay.wait_ready()
        with first:
            assert first.read()[0] == 220
        assert relay.worker_pids()[1] != relay.worker_pids()[0]
        for number in range(8):  # either worker may take it
            for path in (given, own):
                with Dialogue("", 0, path=str(path)) as client:
                    client.ehlo()
                    client.send("a@client.example", [f"{path.stem}-{number}@example.com"], CONTENT)
            with Dialogue("127.0.0.1", port) as client:
                assert not refused(client)
        content = sink.wait_mail("given-7@example.com").content
        assert content.startswith(b"Received: from client.test (Unix socket)\r\n\tby relay.test with ESMTP id ")
        sink.wait_mail("own-7@example.com")
        assert own.stat().st_mode & 0o777 == 0o600
        # a worker that dies takes no socket with it
        for pid in relay.worker_pids():
            relay.kill_process(pid)
        with Dialogue("127.0.0.1", port) as client:
            assert not refused(client)
        assert relay.stop() == 0
    finally:
        relay.kill()


def test_a_socket_that_systemd_has_not_opened_is_said(tmp_path: Path) -> None:
    listener = {"name": "tcp", "listen": "systemd:smtp", "role": "relay", "relay_networks": ["127.0.0.0/8"]}
    relay = Relay(tmp_path / "relay", {"listener": [listener]})
    relay.launch()
    try:
        assert relay.wait_ended() == 1
    finally:
        relay.kill()
    assert 'listener "tcp": systemd has opened no socket "smtp" (there: none)' in relay.stderr


def interpreter_of(user: pwd.struct_passwd) -> str:
    """A Python that this user can run and that has what this one has; skips the test when there is none."""
    for program in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        with contextlib.suppress(OSError):
            done = subprocess.run(
                [program, "-c", "import angarium.app.process, angarium.cli.main"],
                user=user.pw_uid,
                group=user.pw_gid,
                extra_groups=[],
                capture_output=True,
                check=False,
                cwd="/",
            )
            if done.returncode == 0:
                return program
    pytest.skip(f"{user.pw_name} can run no Python of this version with the packages of {ROOT}")


def test_a_privileged_port_and_then_another_user(sink: SinkServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root binds port 25 and the Unix socket; whoever speaks with clients is somebody else."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    user = pwd.getpwnam("nobody")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{sysconfig.get_path('purelib')}")
    monkeypatch.setattr(sys, "executable", interpreter_of(user))
    folder = Path(tempfile.mkdtemp(prefix="angarium-privileges-"))
    folder.chmod(0o755)
    host, path = "127.0.0.25", folder / "smtp.sock"
    (folder / "log").mkdir()
    shutil.chown(folder / "log", "nobody")
    config = {
        "node": {"user": "nobody"},
        "events": {"file": folder / "log" / "events.jsonl"},
        "listener": [
            {"name": "smtp", "listen": f"{host}:25", "role": "relay", "relay_networks": ["127.0.0.0/8"]},
            {"name": "local", "listen": f"unix:{path}", "role": "relay", "socket_mode": "0666"},
        ],
        "route": [{"recipients": ["*"], "next_hop": sink.url}],
    }
    relay = Relay(folder / "relay", config)
    relay.folder.chmod(0o755)
    try:
        with relay:
            with Dialogue(host, 25) as client:
                client.ehlo()
                client.send("a@client.example", ["low@example.com"], CONTENT)
            with Dialogue("", 0, path=str(path)) as client:
                client.ehlo()
                client.send("a@client.example", ["local@example.com"], CONTENT)
            sink.wait_mail("low@example.com")
            sink.wait_mail("local@example.com")
            for pid in (relay.pid, *relay.worker_pids()):
                status = Path(f"/proc/{pid}/status").read_text()
                for line in ("Uid", "Gid"):
                    (ids,) = re.findall(rf"^{line}:\s*(.*)$", status, re.M)
                    wanted = user.pw_uid if line == "Uid" else user.pw_gid
                    assert set(ids.split()) == {str(wanted)}, f"{pid}: {line} {ids}"
                (capabilities,) = re.findall(r"^CapEff:\s*(.*)$", status, re.M)
                assert int(capabilities, 16) == 0
            assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (user.pw_uid, 0o666)
    finally:
        relay.kill()
        shutil.rmtree(folder)


# ------------------------------------------------------------------ TLS


def shown_by_openssl(port: int, *options: str) -> bytes:
    """The certificate, DER, that a server shows `openssl s_client`."""
    openssl = require("openssl")
    done = subprocess.run(
        [openssl, "s_client", "-connect", f"127.0.0.1:{port}", *options],
        input=b"QUIT\r\n",
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    found = re.search(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", done.stdout, re.S)
    assert found is not None, done.stdout + done.stderr
    return ssl.PEM_cert_to_DER_cert(found[0].decode())


def test_certificates_by_name_and_renewed_ones(tmp_path: Path) -> None:
    node, shop = self_signed("relay.test"), self_signed("shop.example", "*.shop.example")
    certificate, key = node.write(tmp_path, "node")
    shop_certificate, shop_key = shop.write(tmp_path, "shop")
    starttls, implicit = free_port(), free_port()
    common = {"role": "relay", "relay_networks": ["127.0.0.0/8"]}
    config = {
        "tls": {"certificate": certificate, "key": key},
        "certificate": [{"certificate": shop_certificate, "key": shop_key}],
        "listener": [
            {"name": "starttls", "listen": f"127.0.0.1:{starttls}", "tls": "starttls", **common},
            {"name": "implicit", "listen": f"127.0.0.1:{implicit}", "tls": "implicit", **common},
        ],
        "route": [{"recipients": ["*"], "next_hop": "discard:"}],
    }
    ways = ((starttls, "-starttls", "smtp"), (implicit,))
    with Relay(tmp_path / "relay", config) as relay:
        for port, *options in ways:
            assert shown_by_openssl(port, *options, "-servername", "relay.test") == node.der
            assert shown_by_openssl(port, *options, "-servername", "mail.shop.example") == shop.der
            assert shown_by_openssl(port, *options, "-noservername") == node.der
        done = subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{implicit}", "-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0"],
            input=b"",
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode != 0, "TLS 1.1 is not for today"
        with Dialogue("127.0.0.1", starttls) as kept:
            kept.ehlo()
            kept.start_tls()
            kept.ehlo()
            kept.expect(250, "MAIL FROM:<a@client.example>")
            renewed = self_signed("relay.test", kind="rsa")
            renewed.write(tmp_path, "new")
            (tmp_path / "new.pem").rename(certificate)
            (tmp_path / "new.key").rename(key)
            relay.wait_event("certificate_loaded")
            for port, *options in ways:
                assert shown_by_openssl(port, *options) == renewed.der
            certificate.write_text("nonsense")
            relay.wait_event("certificate_refused")
            assert "the certificates stay as they were" in relay.stderr
            for port, *options in ways:
                assert shown_by_openssl(port, *options) == renewed.der
            # the session of before has noticed nothing
            kept.expect(250, "RCPT TO:<b@example.com>")
            kept.expect(354, "DATA")
            kept.write(CONTENT + b".\r\n")
            kept.queued()
        metrics = relay.metrics()
        assert metrics['angarium_ingress_certificate_reads_total{result="ok"}'] == 1
        assert metrics['angarium_ingress_certificate_reads_total{result="failed"}'] == 1
        assert 0 < metrics["angarium_ingress_certificate_expiry_seconds"] < 91 * 86400


def test_who_shows_a_certificate_may_relay(tmp_path: Path, sink: SinkServer) -> None:
    require("swaks")
    require_perl_module("Net::SSLeay")
    certificate, key = self_signed("relay.test").write(tmp_path, "node")
    root = Authority("Printers CA")
    authority, _ = root.write(tmp_path, "clients")
    printer, other = (root.issue(f"{name}.example.org", extended=()) for name in ("printer", "other"))
    starttls, implicit = free_port(), free_port()
    common = {
        "role": "relay",
        "client_ca": authority,
        "relay_certificates": ["printer.example.org", f"sha256:{'ab' * 32}"],
    }
    config = {
        "tls": {"certificate": certificate, "key": key},
        "delivery": {"tls": "none"},
        "listener": [
            {"name": "starttls", "listen": f"127.0.0.1:{starttls}", "tls": "starttls", **common},
            {"name": "implicit", "listen": f"127.0.0.1:{implicit}", "tls": "implicit", **common},
        ],
        "route": [{"recipients": ["*"], "next_hop": sink.url}],
    }
    message = tmp_path / "message.eml"
    message.write_bytes(CONTENT)

    def sent(port: int, recipient: str, *options: str) -> str:
        way = "--tls" if port == starttls else "--tls-on-connect"
        command = ["swaks", "--server", "127.0.0.1", "--port", str(port), way, "--helo", "swaks.test", *options]
        done = subprocess.run(
            [*command, "--from", "a@client.example", "--to", recipient, "--data", f"@{message}"],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return done.stdout + done.stderr

    with Relay(tmp_path / "relay", config) as relay:
        for port in (starttls, implicit):
            shown, private = printer.write(tmp_path, "printer")
            answer = sent(port, f"printer-{port}@example.com", "--tls-cert", str(shown), "--tls-key", str(private))
            assert "250 2.0.0 queued as" in answer
            sink.wait_mail(f"printer-{port}@example.com")
            assert "550 5.7.1 Relaying denied" in sent(port, "nobody@example.com")
            shown, private = other.write(tmp_path, "other")
            answer = sent(port, "other@example.com", "--tls-cert", str(shown), "--tls-key", str(private))
            assert "550 5.7.1 Relaying denied" in answer
        event = relay.wait_event("client_certificate", listener="implicit", grants="relaying")
        assert event["names"] == ["printer.example.org", "host"]
        assert event["fingerprint"] == printer.fingerprint()
        metrics = relay.metrics()
        assert metrics['angarium_ingress_client_certificates_total{named="relays"}'] == 2
        assert metrics['angarium_ingress_client_certificates_total{named="other"}'] == 2


def test_a_port_of_another_program_is_not_taken(tmp_path: Path) -> None:
    """A Unix socket on which somebody listens stays theirs."""
    path = tmp_path / "smtp.sock"
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(path))
        taken.listen()
        relay = Relay(tmp_path / "relay", {"listener": [{"name": "x", "listen": f"unix:{path}", "role": "relay"}]})
        relay.launch()
        try:
            assert relay.wait_ended() == 1
        finally:
            relay.kill()
        assert "smtp.sock: Address already in use" in relay.stderr
