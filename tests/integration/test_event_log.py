"""The event log of a node: kept within bounds while mail goes, sent on over kills and failures, on a full disk."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from angarium.outcome.event_files import list_files
from tests.support.relay import Relay, command_line, run_command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DISCARD = {"route": [{"recipients": ["*"], "next_hop": "discard:"}]}


class Receiver:
    """A webhook in threads of this process, that fails, is slow or dies when it is told to."""

    def __init__(self) -> None:
        self.status = 200
        self.batches: list[list[str]] = []  # ids of the events of each that was taken
        self.events: dict[str, dict[str, Any]] = {}
        self.tries = 0
        self.gate = threading.Event()  # a request waits for it
        self.gate.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                receiver.tries += 1
                receiver.gate.wait(60)
                if receiver.status == 0:
                    self.connection.close()
                    return
                if receiver.status == 200:
                    receiver.batches.append(body["ids"])
                    receiver.events |= dict(zip(body["ids"], body["events"], strict=True))
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._handler = Handler
        self.port = 0
        self.start()

    def start(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def deliveries(self) -> Counter[str]:
        """Recipients of the delivery events that came, each event once."""
        return Counter(event["recipient"] for event in self.events.values() if event["event"] == "delivery")


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()
    try:
        yield receiver
    finally:
        receiver.gate.set()
        receiver.stop()


def crm(receiver: Receiver, **keys: Any) -> dict[str, Any]:
    stream = {
        "name": "crm",
        "url": f"http://127.0.0.1:{receiver.port}/mail",
        "secret": "a secret",
        "start": "oldest",
        "batch_wait": "20ms",
        "batch_events": 5,
        "retry_first": "20ms",
        "retry_longest": "100ms",
    }
    return {"stream": [stream | keys]}


def status_of(relay: Relay) -> dict[str, Any]:
    report = json.loads(relay.get("/api/v1/status")[1])["events"]
    assert report is not None
    return report["status"] or {}


def pid_of_events(relay: Relay) -> int:
    return int(relay.wait(lambda: status_of(relay).get("pid", 0), "the events process"))


def send(relay: Relay, first: int, count: int) -> list[str]:
    names = [f"n{number}@example.test" for number in range(first, first + count)]
    for name in names:
        relay.send(name)
    return names


def test_a_receiver_that_fails_is_slow_and_dies_and_a_process_that_is_killed(tmp_path: Path) -> None:
    """Every event arrives, whatever happens to the receiver, to the process that sends, and to a worker."""
    with receiving() as receiver, Relay(tmp_path, DISCARD | crm(receiver)) as relay:
        names = send(relay, 0, 5)
        relay.wait(lambda: len(receiver.deliveries()) == 5, "the first events")
        receiver.status = 503
        names += send(relay, 5, 5)
        relay.wait(lambda: status_of(relay)["streams"][0]["failures"] > 1, "failures")
        assert status_of(relay)["streams"][0]["error"] == "HTTP status 503"
        receiver.status = 0  # it closes without an answer
        relay.kill_process(pid_of_events(relay))
        tries = receiver.tries
        relay.wait(lambda: receiver.tries > tries, "a successor that tries")
        receiver.stop()
        names += send(relay, 10, 5)
        receiver.status = 200
        receiver.gate.clear()
        tries = receiver.tries
        receiver.start()
        relay.wait(lambda: receiver.tries > tries, "a request that hangs")
        relay.kill_process(pid_of_events(relay))  # with a batch under way, which the receiver takes all the same
        receiver.gate.set()
        (worker,) = (one["status"]["pid"] for one in json.loads(relay.get("/api/v1/status")[1])["workers"])
        relay.wait_event("delivery", recipient=names[-1])  # it is in the log, and a kill cannot take it back
        relay.kill_process(worker)
        relay.wait(lambda: json.loads(relay.get("/api/v1/status")[1])["accepting"], "a worker that takes mail")
        names += send(relay, 15, 5)
        relay.wait(lambda: set(receiver.deliveries()) == set(names), "every event")
        relay.wait(lambda: status_of(relay)["streams"][0]["state"] == "idle", "an idle stream")
        assert receiver.deliveries() == Counter(names)  # an event that came twice had the same id
        metrics = relay.get("/metrics")[1].decode()
        assert 'angarium_stream_lag_events{stream="crm"} 0.0' in metrics
        assert 'angarium_stream_failing{stream="crm"} 0.0' in metrics
        shown = run_command("status", "--config", str(relay.config_file)).stdout
        assert "crm" in shown
        listed = json.loads(run_command("stream", "list", "--json", "--config", str(relay.config_file)).stdout)
        assert listed[0]["sent"] >= 20
        assert relay.events("stream", **{"class": "failing"})
        assert "a secret" not in relay.stderr + shown + json.dumps(listed) + json.dumps(relay.events())


def test_rotation_compression_and_retention_while_mail_goes(tmp_path: Path) -> None:
    """Two workers and three more processes write one file that is rotated again and again; a stream reads all of it."""
    bounds = {"rotate_size": "3KB", "keep_size": "1GB", "compression": "zstd"}
    with receiving() as receiver:
        config = DISCARD | crm(receiver, batch_events=50) | {"node": {"workers": 2}, "events": bounds}
        with Relay(tmp_path, config) as relay:
            names = []
            for round_ in range(4):
                names += send(relay, round_ * 20, 20)
                packed = round_
                relay.wait(
                    lambda packed=packed: sum(file.compressed for file in list_files(relay.events_file)) > packed,
                    "a rotated file, compressed",
                )
            relay.wait(lambda: set(receiver.deliveries()) == set(names), "every event over the rotations")
            assert receiver.deliveries() == Counter(names)
            in_log = Counter(event["recipient"] for event in relay.events("delivery"))
            assert in_log == Counter(names)
            shown = run_command("log", "--config", str(relay.config_file), "--event", "delivery", "--json").stdout
            assert Counter(json.loads(line)["recipient"] for line in shown.splitlines()) == Counter(names)
            relay.reload({"events": {"keep_size": "1"}})
            relay.wait(lambda: len(list_files(relay.events_file)) == 1, "what was rotated to be deleted")
            assert relay.events("log_deleted")
            assert relay.events("log_opened")[-1]["schema"] == 1
            metrics = relay.get("/metrics")[1].decode()
            assert 'angarium_outcome_event_log_compressions_total{result="failed"} 0.0' in metrics


def test_the_log_keeps_what_a_stream_has_not_sent_up_to_its_bound(tmp_path: Path) -> None:
    with receiving() as receiver:
        receiver.status = 503
        bounds = {"rotate_size": "2KB", "keep_size": "1", "keep_unsent": "1GB", "compression": "none"}
        with Relay(tmp_path, DISCARD | crm(receiver) | {"events": bounds}) as relay:
            send(relay, 0, 20)
            relay.wait(lambda: len(list_files(relay.events_file)) > 1, "a rotation")
            relay.wait(lambda: status_of(relay)["streams"][0]["failures"] > 2, "failures")
            relay.reload({"events": {"keep_unsent": "1"}})
            lost = relay.wait_event("stream_lost")
            assert lost["events"] > 0
            receiver.status = 200
            relay.wait(lambda: status_of(relay)["streams"][0]["state"] == "idle", "what is left to be sent")
            lost_in_all = status_of(relay)["streams"][0]["lost"]
            assert lost_in_all == sum(event["events"] for event in relay.events("stream_lost"))


def test_a_reload_adds_changes_and_ends_streams(tmp_path: Path) -> None:
    with receiving() as first, receiving() as second, Relay(tmp_path, DISCARD) as relay:
        assert status_of(relay)["streams"] == []
        relay.reload(crm(first))
        relay.wait(lambda: status_of(relay).get("streams"), "a stream")
        names = send(relay, 0, 3)
        relay.wait(lambda: set(first.deliveries()) == set(names), "its events")
        relay.reload(crm(second))
        more = send(relay, 3, 3)
        relay.wait(lambda: set(second.deliveries()) >= set(more), "events at the other receiver")
        assert set(second.deliveries()) == set(more)  # it went on where it was
        relay.reload({"stream": [], "events": {"file": None}})
        assert json.loads(relay.get("/api/v1/status")[1])["events"] is None
        relay.send("nobody@example.test")


def test_syslog_instead_of_a_file(tmp_path: Path) -> None:
    """To syslog by a Unix socket of the test: what was sent leaves the spool, and what was not stays for it."""
    import socket

    path = tmp_path / "devlog"
    events = {"to": "syslog", "syslog": f"unix:{path}", "file": None, "rotate_size": "1KB", "keep_unsent": "0"}
    with Relay(tmp_path, DISCARD | {"events": events}) as relay:
        relay.events_file = relay.spool / "events" / "events.jsonl"
        send(relay, 0, 5)  # nobody listens yet
        relay.wait(lambda: len(list_files(relay.events_file)) > 1, "a rotation")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.bind(str(path))
            receiver.settimeout(30)
            got: set[str] = set()
            while len(got) < 5:
                event = json.loads(receiver.recv(65536).partition(b" angarium: ")[2])
                if event["event"] == "delivery":
                    got.add(event["recipient"])
            relay.wait(lambda: len(list_files(relay.events_file)) == 1, "what was sent to be deleted")
        assert status_of(relay)["streams"][0]["name"] == "syslog"


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system of a bounded size can be mounted by root only")
def test_mail_goes_on_while_the_log_s_disk_is_full_and_what_is_lost_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        config = DISCARD | {"events": {"file": str(folder / "events.jsonl"), "compression": "zstd"}}
        with Relay(tmp_path / "node", config) as relay:
            relay.events_file = folder / "events.jsonl"
            (folder / "filler").write_bytes(b"x" * 40_000)
            names = send(relay, 0, 80)  # each 250 came, though the log has no room for half of it
            relay.wait_empty()
            for line in relay.events_file.read_bytes().splitlines():
                json.loads(line)  # nothing is torn
            relay.wait(
                lambda: b"event log: worker 0: it cannot be written" in relay.get("/readyz")[1], "that to be said"
            )
            assert relay.get("/readyz")[0] == 200
            (folder / "filler").unlink()
            # what waited in memory is written now: nothing was lost yet
            relay.wait(lambda: Counter(e["recipient"] for e in relay.events("delivery")) == Counter(names), "all of it")
            relay.wait(lambda: b"cannot be written" not in relay.get("/readyz")[1], "all to be well")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def test_follow_over_rotations(tmp_path: Path) -> None:
    with Relay(tmp_path, DISCARD | {"events": {"rotate_size": "1KB"}}) as relay:
        follower = subprocess.Popen(
            command_line(
                "log", "--follow", "--json", "--since", "1h", "--event", "delivery", "--config", str(relay.config_file)
            ),
            stdout=subprocess.PIPE,
        )
        try:
            assert follower.stdout is not None
            number = 0
            for _ in range(3):
                before = len(list_files(relay.events_file))
                while len(list_files(relay.events_file)) == before:
                    (name,) = send(relay, number, 1)
                    number += 1
                    assert json.loads(follower.stdout.readline())["recipient"] == name
        finally:
            follower.kill()
            follower.communicate()


def test_mail_does_not_wait_for_streams_that_cannot_begin(tmp_path: Path) -> None:
    """The streams' folder is a file: that is said, and mail goes."""
    with receiving() as receiver:
        relay = Relay(tmp_path, DISCARD | crm(receiver))
        relay.spool.mkdir(mode=0o700)
        (relay.spool / "streams").write_text("in the way")
        relay.launch()
        try:
            relay.wait(lambda: "angarium is ready" in relay.stderr, "the relay to be ready")
            names = send(relay, 0, 3)
            relay.wait_event("delivery", count=3)
            relay.wait(lambda: status_of(relay)["streams"][0]["state"] == "failing", "a stream that fails")
            assert "it cannot begin: " in status_of(relay)["streams"][0]["error"]
            (relay.spool / "streams").unlink()
            relay.wait(lambda: set(receiver.deliveries()) == set(names), "the events, when it can")
        finally:
            relay.kill()
