"""`angarium-sendmail` and a relay: over the socket, and by the drop folder while the relay is down."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.clients import PATIENCE_S
from tests.support.peers import SinkServer
from tests.support.relay import Relay, clean_environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

USER = pwd.getpwuid(os.getuid()).pw_name
MESSAGE = b"Subject: from a program\n\n.hidden\nbody\n"


@pytest.fixture
def sink() -> Iterator[SinkServer]:
    with SinkServer() as running:
        yield running


def with_sendmail(folder: Path, sink: SinkServer, **sections: Any) -> Relay:
    routes = [
        {"recipients": ["*"], "listeners": ["sendmail"], "next_hop": sink.url},
        {"recipients": ["*"], "next_hop": "bounce:550 5.7.1 only what local programs send"},
    ]
    return Relay(folder, {"sendmail": {"socket": "run/s.sock", "drop": "drop"}, "route": routes} | sections)


def sendmail(relay: Relay, *arguments: str, message: bytes = MESSAGE) -> int:
    environment = clean_environment() | {"ANGARIUM_CONFIG": str(relay.config_file)}
    program = [sys.executable, "-m", "angarium.cli.sendmail"]
    done = subprocess.run([*program, *arguments], input=message, env=environment, check=False, timeout=PATIENCE_S)
    return done.returncode


def test_over_the_socket(tmp_path: Path, sink: SinkServer) -> None:
    with with_sendmail(tmp_path, sink) as relay:
        assert sendmail(relay, "-t", message=b"To: a@dest.test\nBcc: b@dest.test\n" + MESSAGE) == 0
        event = relay.wait_event("reception", listener="sendmail")
        assert event["login"] == USER
        assert event["reverse_path"] == f"{USER}@relay.test"
        assert event["recipients"] == ["a@dest.test", "b@dest.test"]
        assert event["protocol"] == "ESMTP"
        assert event["durability"] == "fsync"
        mail = sink.wait_mail("a@dest.test")
        assert (
            f"Received: from relay.test (user {USER}, uid {os.getuid()})\r\n\tby relay.test with ESMTP id".encode()
            in (mail.content)
        )
        assert b"b@dest.test" not in mail.content
        assert mail.content.endswith(b"\r\n\r\n.hidden\r\nbody\r\n")
        assert os.stat(tmp_path / "run" / "s.sock").st_mode & 0o777 == 0o666


def test_while_the_relay_is_down_mail_waits_in_the_folder(tmp_path: Path, sink: SinkServer) -> None:
    relay = with_sendmail(tmp_path, sink)
    relay.write_config()
    with relay:
        relay.stop()
        for number in range(5):
            assert sendmail(relay, "-N", "never", f"a{number}@dest.test") == 0
        assert len(list((tmp_path / "drop").glob("*.mail"))) == 5
        relay.start()
        for number in range(5):
            mail = sink.wait_mail(f"a{number}@dest.test")
            assert f"(user {USER}, uid {os.getuid()}, from the drop folder)".encode() in mail.content
        events = [relay.wait_event("reception", recipients=[f"a{number}@dest.test"]) for number in range(5)]
        assert {event["login"] for event in events} == {USER}
        relay.wait_empty()
        relay.wait(lambda: not list((tmp_path / "drop").glob("*/*")), "the files to be gone")
        assert relay.metrics()['angarium_ingress_drop_files_total{result="taken"}'] == 5
        assert len(sink.mails) == 5


def test_what_is_dropped_while_it_runs_is_taken_too(tmp_path: Path, sink: SinkServer) -> None:
    with with_sendmail(tmp_path, sink) as relay:
        (tmp_path / "run" / "s.sock").unlink()
        assert sendmail(relay, "a@dest.test") == 0
        sink.wait_mail("a@dest.test")


def test_a_bad_file_is_put_aside_and_told_and_the_others_go_on(tmp_path: Path, sink: SinkServer) -> None:
    relay = with_sendmail(tmp_path, sink)
    with relay:
        relay.stop()
        drop = tmp_path / "drop"
        (drop / "0.mail").write_bytes(b"no message")
        (drop / "1.mail").write_bytes(
            b"EHLO x\r\nMAIL FROM:<me@x.test>\r\nRCPT TO:<not an address>\r\nBDAT 2 LAST\r\n\r\n"
        )
        (drop / "2.mail").symlink_to("/etc/passwd")
        assert sendmail(relay, "a@dest.test") == 0
        relay.start()
        sink.wait_mail("a@dest.test")
        for name in ("0.mail", "1.mail", "2.mail"):
            event = relay.wait_event("drop_refused", file=name)
            assert event["why"]
            assert event["login"] == USER
            assert os.path.lexists(event["kept"])
        relay.wait_empty()
        assert relay.metrics()['angarium_ingress_drop_files_total{result="refused"}'] == 3
        relay.restart()
        assert sendmail(relay, "b@dest.test") == 0
        sink.wait_mail("b@dest.test")
        assert len(relay.events("drop_refused")) == 3, "what was put aside is not tried again"


def test_the_queue_and_the_dialogue(tmp_path: Path, sink: SinkServer) -> None:
    with with_sendmail(tmp_path, sink) as relay:
        assert sendmail(relay, "-bp") == 0
        dialogue = (
            b"EHLO x\r\nMAIL FROM:<me@x.test>\r\nRCPT TO:<a@dest.test>\r\nDATA\r\nSubject: s\r\n\r\nb\r\n.\r\nQUIT\r\n"
        )
        assert sendmail(relay, "-bs", message=dialogue) == 0
        sink.wait_mail("a@dest.test")
        assert sendmail(relay, "-q") == 0


def test_a_tenant_and_limits_hold_for_it(tmp_path: Path, sink: SinkServer) -> None:
    sections = {
        "sendmail": {"socket": "run/s.sock", "drop": "drop", "tenant": "programs"},
        "tenant": [{"name": "programs", "durability": "memory"}],
        "limits": {"message_size": "100KB"},
    }
    with with_sendmail(tmp_path, sink, **sections) as relay:
        assert sendmail(relay, "a@dest.test") == 0
        event = relay.wait_event("reception", listener="sendmail")
        assert (event["tenant"], event["durability"]) == ("programs", "memory")
        relay.stop()
        assert sendmail(relay, "b@dest.test") == 0
        relay.start()
        event = relay.wait_event("reception", recipients=["b@dest.test"])
        assert (event["tenant"], event["durability"]) == ("programs", "fsync"), "its file was removed"
        sink.wait_mail("b@dest.test")


def test_a_folder_that_cannot_be_used_stops_nothing_else(tmp_path: Path, sink: SinkServer) -> None:
    (tmp_path / "drop").mkdir()
    (tmp_path / "drop" / "taken").write_text("in the way")
    with with_sendmail(tmp_path, sink) as relay:
        assert sendmail(relay, "a@dest.test") == 0
        sink.wait_mail("a@dest.test")
        relay.wait(lambda: "the drop folder: " in relay.stderr, "a line of the log")
