"""Who may send what, on a real node: limits over two workers and over kills, what is held, legacy devices."""

from __future__ import annotations

import base64
import json
import smtplib
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import clients
from tests.support.certificates import self_signed
from tests.support.clients import Dialogue
from tests.support.peers import require
from tests.support.ports import free_port
from tests.support.relay import Relay, run_command

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.peers import SinkServer

CONTENT = b"From: me@origin.test\r\nSubject: x\r\n\r\nHello.\r\n"
DISCARD = [{"recipients": ["*"], "next_hop": "discard:"}]


def relay_with(folder: Path, *permissions: dict[str, Any], **more: Any) -> Relay:
    return Relay(folder, {"node": {"workers": 2}, "route": DISCARD, "permission": list(permissions), **more})


def accepted(relay: Relay, tries: int) -> int:
    """How many of so many messages, each over a connection of its own, are accepted; the others meet the limit."""
    taken = 0
    for _ in range(tries):
        with relay.client() as client:
            client.ehlo()
            code, lines = client.command("MAIL FROM:<me@origin.test>")
            if code == 250:
                code, lines = client.command("RCPT TO:<you@dest.test>")
            if code == 250:
                client.expect(354, "DATA")
                client.write(clients.stuffed(CONTENT))
                code, lines = client.read()
            if code == 250:
                taken += 1
            else:
                assert code in (450, 452), lines
                assert lines[0].startswith("4.7.1 The limit of 40 recipients an hour is reached"), lines
    return taken


def test_two_workers_keep_one_limit_over_kills_and_a_reload(tmp_path: Path) -> None:
    with relay_with(tmp_path, {"recipients_per_hour": 40}) as relay:
        assert accepted(relay, 20) == 20
        # both workers are killed, and their successors know what they have counted
        for pid in relay.worker_pids():
            relay.kill_process(pid)
        relay.wait(lambda: len(relay.worker_pids()) == 2, "both workers again")
        assert accepted(relay, 15) == 15
        relay.reload()
        assert accepted(relay, 10) == 5


def test_a_limit_outlives_the_node_and_is_exact_for_many_at_once(tmp_path: Path) -> None:
    with relay_with(tmp_path, {"recipients_per_hour": 40}) as relay:
        assert accepted(relay, 25) == 25
        # the machine stops
        relay.kill()
        relay.start()
        # and many at once, to both workers
        with ThreadPoolExecutor(6) as pool:
            taken = sum(pool.map(lambda _: accepted(relay, 10), range(6)))
        assert taken == 40 - 25
        relay.wait_event("rejection")
        metrics = relay.metrics()
        assert metrics['angarium_ingress_rejections_total{reason="quota"}'] == 60 - taken
        assert {event["reply"]["enhanced"] for event in relay.events("rejection")} == {"4.7.1"}


def test_what_is_over_the_limit_waits_and_says_why(tmp_path: Path) -> None:
    rule = {"name": "slow", "recipients_per_hour": 2, "at_limit": "queue"}
    with relay_with(tmp_path, rule) as relay:
        ids = [relay.send(["a@dest.test", "b@dest.test"], CONTENT) for _ in range(3)]
        relay.wait_event("delivery", id=ids[0])
        relay.wait_event("reception", count=3)
        held = {event["id"]: event.get("held") for event in relay.events("reception")}
        assert [held[queue_id] for queue_id in ids] == [None, "quota", "quota"]
        shown = ask(relay, "queue", "show", ids[1])
        wait = shown["waits_for"]
        assert (wait["what"], wait["text"]) == ("quota", "its sender's limit, 2 recipients an hour (permission slow)")
        assert wait["until"] == shown["envelope"]["hold_until"]
        later = ask(relay, "queue", "show", ids[2])["waits_for"]["until"]
        assert later > wait["until"]
        relay.restart()
        assert ask(relay, "queue", "show", ids[1])["waits_for"] == wait
        # an operator may send it at once all the same
        assert ask(relay, "queue", "retry", ids[1])["done"] == 1
        relay.wait_event("delivery", id=ids[1])
        assert relay.summary()["messages"] == 1


# ---------------------------------------------------------------- log-ins


def ask(relay: Relay, *words: str) -> Any:
    done = run_command(*words, "--config", str(relay.config_file), "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def logged(relay: Relay, *conditions: str) -> list[dict[str, Any]]:
    done = run_command("log", *conditions, "--config", str(relay.config_file), "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


class Office:
    """A sandbox with a submission listener on which every log-in is right, two workers, and rules."""

    def __init__(self, folder: Path, sink: SinkServer, *permissions: dict[str, Any]) -> None:
        certificate, key = self_signed("relay.test").write(folder, "server")
        self.port = free_port()
        self.relay = Relay(
            folder,
            {
                "sandbox": True,
                "node": {"workers": 2},
                "tls": {"certificate": str(certificate), "key": str(key)},
                "route": [{"recipients": ["*"], "next_hop": sink.url}],
                "permission": list(permissions),
                "listener": [
                    {
                        "name": "submission",
                        "listen": f"127.0.0.1:{self.port}",
                        "role": "submission",
                        "tls": "starttls",
                        "auth": "any",
                    }
                ],
            },
        )

    def client(self, log_in: str) -> Dialogue:
        client = Dialogue("127.0.0.1", self.port)
        client.ehlo()
        client.start_tls()
        client.ehlo()
        client.expect(235, "AUTH PLAIN " + base64.b64encode(f"\0{log_in}\0secret".encode()).decode())
        return client

    def send(self, log_in: str, content: bytes = CONTENT, reverse_path: str = "me@origin.test") -> str:
        with self.client(log_in) as client:
            return client.send(reverse_path, ["you@dest.test"], content)


def test_unusual_volume_is_held_and_released_by_one_command(tmp_path: Path, sink: SinkServer) -> None:
    office = Office(tmp_path, sink, {"name": "people", "log_ins": ["*"], "hold_above": 3})
    with office.relay as relay:
        ids = [office.send("ada") for _ in range(8)]
        other = office.send("grace")
        for queue_id in (*ids[:3], other):
            relay.wait_event("delivery", id=queue_id)
        found = relay.wait_event("unusual")
        assert (found["login"], found["permission"], found["recipients"]) == ("ada", "people", 4)
        assert found["why"] == "4 recipients within an hour, more than 3"
        assert {message["id"] for message in ask(relay, "queue", "list", "--log-in", "ada")} == set(ids[3:])
        wait = ask(relay, "queue", "show", ids[5])["waits_for"]
        assert (wait["what"], wait["text"]) == (
            "unusual",
            "an operator: log-in ada sent unusually much, and what it sends is held",
        )
        # neither a restart nor a kill forgets it
        relay.restart()
        relay.kill()
        relay.start()
        ids.append(office.send("ada"))
        assert relay.summary()["by_state"]["held"] == 6
        assert ask(relay, "queue", "release", "--log-in", "ada", "--yes")["done"] == 6
        for queue_id in ids[3:]:
            relay.wait_event("delivery", id=queue_id)
        assert relay.wait_event("trusted")["login"] == "ada"
        last = office.send("ada")
        relay.wait_event("delivery", id=last)
        relay.wait_empty()
        assert len(relay.events("unusual")) == len(relay.events("trusted")) == 1
        assert len(sink.mails) == 11


def test_a_log_in_writes_from_its_own_addresses_alone(tmp_path: Path, sink: SinkServer) -> None:
    office = Office(
        tmp_path,
        sink,
        {"log_ins": ["admin"], "reverse_paths": ["origin.test"]},
        {"log_ins": ["*"], "reverse_paths": ["{log_in}@origin.test"], "hide_client": True},
    )
    with office.relay as relay:
        office.send("admin", CONTENT)
        office.send("me", CONTENT)
        with office.client("ada") as client:
            assert client.command("MAIL FROM:<me@origin.test>")[0] == 550
            client.envelope("ada@origin.test", ["you@dest.test"])
            client.expect(354, "DATA")
            client.write(clients.stuffed(CONTENT))
            assert client.read() == (550, ["5.7.1 You may not send with this From: an address in it is none of yours"])
            client.send("ada@origin.test", ["you@dest.test"], b"Bcc: secret@dest.test\r\n\r\nHello.\r\n")
        # what one proved on a connection is nothing on the next
        with Dialogue("127.0.0.1", office.port) as client:
            client.ehlo()
            client.start_tls()
            client.ehlo()
            assert client.command("MAIL FROM:<ada@origin.test>")[0] == 530
        relay.wait_empty()
        relay.wait_event("rejection", count=2)
        # an operator who is called finds both refusals, by whatever he is told
        for conditions in (("--log-in", "ada"), ("--permission", "#2"), ("--client", "127.0.0.1")):
            path, message = logged(relay, "--event", "rejection", *conditions)
            assert (path["reverse_path"], path["recipient"], path.get("recipients")) == ("me@origin.test", "", None)
            assert (message["reverse_path"], message["recipients"]) == ("ada@origin.test", ["you@dest.test"])
            assert {(event["login"], event["permission"], event["listener"]) for event in (path, message)} == {
                ("ada", "#2", "submission")
            }
        (message,) = logged(relay, "--event", "rejection", "--address", "you@dest.test")
        assert message["reply"]["text"].startswith("You may not send with this From")
        assert logged(relay, "--event", "rejection", "--log-in", "grace") == []
    content = sink.mails[-1].content
    assert b"From: ada@origin.test\r\n" in content
    assert b"\r\nDate: " in content
    assert b"Message-ID: <" in content
    assert b"secret@dest.test" not in content
    assert b"127.0.0.1" not in content
    assert b"client.test" not in content
    assert b"127.0.0.1" in sink.mails[0].content


def test_the_standard_library_and_a_legacy_device(tmp_path: Path, sink: SinkServer) -> None:
    """A device that ends its lines with LF, has no header fields worth the name, and a limit of its own."""
    device = {
        "name": "devices",
        "networks": ["127.0.0.0/8"],
        "legacy": True,
        "rewrite_from": "Scanner <scan@origin.test>",
        "recipients_per_hour": 3,
    }
    routes = [{"recipients": ["*"], "next_hop": sink.url}]
    with relay_with(tmp_path, device, route=routes) as relay:
        with socket.create_connection(("127.0.0.1", relay.smtp_port), timeout=clients.PATIENCE_S) as raw:
            raw.sendall(
                b"HELO scanner\nMAIL FROM:<root@localhost.localdomain>\nRCPT TO:<you@dest.test>\nDATA\n"
                b"Subject: Scan\nfrom: Scanner on floor 3\npage one\npage two\r\n.\r\nQUIT\n"
            )
            replies = b""
            while octets := raw.recv(65536):
                replies += octets
        assert [line[:3] for line in replies.splitlines()] == [b"220", b"250", b"250", b"250", b"354", b"250", b"221"]
        with smtplib.SMTP("127.0.0.1", relay.smtp_port) as client:
            client.sendmail("scan@origin.test", ["a@dest.test"], b"From: scan@origin.test\r\n\r\nx\r\n")
            client.sendmail("root@device", ["a@dest.test"], b"no header\r\n")
            with pytest.raises(smtplib.SMTPSenderRefused) as refused:
                client.sendmail("scan@origin.test", ["b@dest.test"], b"x\r\n")
        assert refused.value.smtp_code == 450
        relay.wait_empty()
        # which permission let it in, and what that made of it
        relay.wait_event("reception", count=3)
        scanned, kept, last = sorted(relay.events("reception"), key=lambda event: int(event["used"]["hour"]))
        assert {event["permission"] for event in (scanned, kept, last)} == {"devices"}
        assert [event["used"] for event in (scanned, kept, last)] == [{"hour": count} for count in (1, 2, 3)]
        assert scanned["limits"] == {"per_hour": 3}
        assert scanned["original_reverse_path"] == "root@localhost.localdomain"
        assert "original_reverse_path" not in kept
        story = relay.api(f"messages/{scanned['id']}/trace")
        decided = next(step["text"] for step in story["steps"] if step["kind"] == "policy")
        assert "permission devices (1 of 3 recipients an hour)" in decided
        assert "its reverse path in place of <root@localhost.localdomain>" in decided
        (refusal,) = logged(relay, "--event", "rejection", "--permission", "devices")
        assert refusal["reply"]["text"].startswith("The limit of 3 recipients an hour is reached")
    assert len(sink.mails) == 3
    assert {mail.reverse_path for mail in sink.mails} == {"scan@origin.test"}
    scan = next(mail.content for mail in sink.mails if b"Subject: Scan" in mail.content)
    head, _, body = scan.partition(b"\r\n\r\n")
    assert b"\r\nFrom: Scanner <scan@origin.test>\r\nX-Original-From: Scanner on floor 3\r\n" in head + b"\r\n"
    assert b"\r\nMessage-ID: <" in head
    assert b"\r\nDate: " in head
    assert body == b"page one\r\npage two\r\n"
    assert scan.replace(b"\r\n", b"").count(b"\n") == 0


@pytest.mark.peer
def test_swaks_as_a_legacy_device(tmp_path: Path, sink: SinkServer) -> None:
    require("swaks")
    device = {"networks": ["127.0.0.0/8"], "legacy": True, "rewrite_from": "scan@origin.test"}
    with relay_with(tmp_path, device, route=[{"recipients": ["*"], "next_hop": sink.url}]) as relay:
        file = tmp_path / "scan.eml"
        file.write_bytes(b"From: printer\nSubject: Scan\n\npage\n")
        clients.swaks(relay.smtp_port, "printer@localhost", "you@dest.test", file)
        relay.wait_empty()
    (mail,) = sink.mails
    assert mail.reverse_path == "scan@origin.test"
    assert b"\r\nFrom: scan@origin.test\r\nX-Original-From: printer\r\n" in mail.content
