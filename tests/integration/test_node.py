"""The relay as its operator sees it: the commands, the API, the metrics, the signals, and how it starts and stops."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.peers import SinkServer, Step, require
from tests.support.relay import Relay, SandboxRelay, run_command, to_toml

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = b"Subject: node\r\n\r\nHello.\r\n"
ORIGIN = {"recipients": ["origin.test"], "next_hop": "discard:"}


def to_sink(sink: SinkServer, **config: object) -> dict[str, object]:
    return {"route": [ORIGIN, {"recipients": ["*"], "next_hop": sink.url}], **config}


def defer(step: Step) -> str | None:
    return "451 4.2.0 Later" if step.verb == "RCPT" else None


# ------------------------------------------------------------------ what it says


@pytest.mark.parametrize("durability", ["fsync", "async", "memory"])
def test_the_reply_names_id_and_durability_as_the_event_log_does(
    tmp_path: Path, sink: SinkServer, durability: str
) -> None:
    with Relay(tmp_path, to_sink(sink, queue={"durability": durability})) as relay:
        with relay.client() as client:
            client.ehlo()
            client.envelope("me@origin.test", ["a@dest.test"])
            client.expect(354, "DATA")
            client.write(CONTENT + b".\r\n")
            code, lines = client.read()
        match = re.fullmatch(r"2\.0\.0 queued as ([0-9A-Z]+) durability=(\w+)", lines[0])
        assert code == 250
        assert match is not None
        assert match[2] == durability
        reception = relay.wait_event("reception", id=match[1])
        assert reception["durability"] == durability
        assert reception["recipients"] == ["a@dest.test"]
        delivery = relay.wait_event("delivery", id=match[1], recipient="a@dest.test")
        assert delivery["class"] == "delivered"
        assert f"id {match[1]}".encode() in sink.wait_mail("a@dest.test").content
        counted = relay.metrics()
        assert counted[f'angarium_ingress_messages_total{{durability="{durability}"}}'] == 1


def test_metrics_agree_with_what_was_sent(tmp_path: Path, sink: SinkServer) -> None:
    sink.answer = lambda step: (
        "550 5.1.1 No"
        if "no@" in step.argument and step.verb == "RCPT"
        else defer(step)
        if "later@" in step.argument
        else None
    )
    with Relay(tmp_path, to_sink(sink, queue={"retry": {"first": "30m", "longest": "30m"}})) as relay:
        for _ in range(5):
            relay.send(["a@dest.test", "b@dest.test"], CONTENT)
        relay.send(["no@dest.test", "later@dest.test"], CONTENT)
        with relay.client() as client:
            client.ehlo()
            client.envelope("me@origin.test", ["a@dest.test"])
            client.expect(354, "DATA")
            client.write(b"bare\nnewline\r\n.\r\n")
            assert client.read()[0] == 554
        relay.wait_event("delivery", count=10, next_hop=sink.url)
        relay.wait_event("deferral")
        relay.wait_event("bounce")
        relay.wait_event("delivery", next_hop="discard:")  # the notification
        relay.wait(lambda: relay.metrics()["angarium_queue_messages"] == 1, "one message to be left")
        relay.wait(lambda: relay.metrics()["angarium_ingress_open_connections"] == 0, "every client to be gone")
        counted = relay.metrics()
        assert counted['angarium_ingress_messages_total{durability="fsync"}'] == 6
        assert counted["angarium_ingress_connections_total"] == 7
        assert counted['angarium_ingress_rejections_total{reason="bare_newline"}'] == 1
        assert counted['angarium_delivery_recipients_total{result="deferred"}'] == 1
        assert counted['angarium_delivery_recipients_total{result="failed"}'] == 1
        assert counted['angarium_delivery_recipients_total{result="delivered"}'] == 11
        totals = relay.api("status")["totals"]
        assert totals["accepted_messages"] == 6
        assert totals["deferred_recipients"] == totals["failed_recipients"] == 1


def test_commands_show_the_queue(tmp_path: Path, sink: SinkServer) -> None:
    sink.answer = lambda step: "451 4.2.0 Later" if step.verb == "RCPT" and "slow@" in step.argument else None
    with Relay(tmp_path, to_sink(sink, queue={"retry": {"first": "30m", "longest": "30m"}})) as relay:

        def ask(*words: str) -> object:
            done = run_command(*words, "--json", "--config", str(relay.config_file))
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)

        queue_id = relay.send(["slow@dest.test", "quick@dest.test"], CONTENT)
        relay.wait_event("deferral", id=queue_id)
        relay.wait_event("delivery", id=queue_id)
        relay.wait(lambda: relay.summary()["by_state"]["scheduled"] == 1, "the message to be scheduled")

        summary = ask("queue", "summary")
        assert set(summary) == {"messages", "recipients", "octets", "oldest_s", "by_state"}
        assert set(summary["by_state"]) == {"ready", "scheduled", "held", "suspended", "in_doubt"}
        assert summary["messages"] == 1
        assert summary["oldest_s"] >= 0

        (entry,) = ask("queue", "list")
        assert set(entry) == {"id", "state", "reverse_path", "octets", "received", "tenant", "recipients"}
        assert (entry["id"], entry["state"], entry["reverse_path"]) == (queue_id, "scheduled", "me@origin.test")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", entry["received"])
        slow = next(found for found in entry["recipients"] if found["address"] == "slow@dest.test")
        assert set(slow) == {"address", "state", "attempts", "reply", "next_attempt"}
        assert (slow["state"], slow["attempts"]) == ("deferred", 1)
        assert "4.2.0 Later" in slow["reply"]
        assert slow["next_attempt"] > entry["received"]
        assert [found["state"] for found in entry["recipients"] if found["address"] == "quick@dest.test"] == [
            "delivered"
        ]
        assert ask("queue", "list", "--to-domain", "other.test") == []
        assert len(ask("queue", "list", "--to-domain", "dest.test", "--state", "scheduled")) == 1

        shown = ask("queue", "show", queue_id)
        assert "Subject: node" in shown["header"]
        assert shown["record"]["shard"] >= 0
        unknown = run_command("queue", "show", "0SAAAAAAAAAAA", "--config", str(relay.config_file))
        assert (unknown.returncode, unknown.stderr.count("\n")) == (1, 1)

        status = ask("status")
        assert (status["hostname"], status["accepting"], status["sandbox"]) == ("relay.test", True, False)
        assert [worker["status"]["pid"] for worker in status["workers"]] == relay.worker_pids()
        for words in (("queue", "summary"), ("queue", "list"), ("queue", "show", queue_id), ("status",)):
            done = run_command(*words, "--config", str(relay.config_file))
            assert done.returncode == 0, done.stderr
            assert done.stdout
        assert run_command("check", "--config", str(relay.config_file)).returncode == 0


def test_check_and_serve_name_every_mistake(tmp_path: Path) -> None:
    relay = Relay(tmp_path, {"route": [{"recipients": ["*"], "next_hop": "smpt://127.0.0.1:25"}], "quue": {}})
    relay.write_config()
    for command in ("check", "serve"):
        done = run_command(command, "--config", str(relay.config_file))
        said = done.stdout + done.stderr
        assert done.returncode == 1
        assert re.search(rf"{re.escape(str(relay.config_file))}:\d+:\d+: .*quue.*queue", said)
        assert "smtp://host:port" in said
        assert "Traceback" not in said


def test_the_sandbox_shows_what_arrived(tmp_path: Path) -> None:
    with Relay.sandbox(tmp_path) as relay:
        assert isinstance(relay, SandboxRelay)
        relay.send("you@dest.test", "Subject: Grüße\r\nFrom: ada@origin.test\r\n\r\nfür dich\r\n".encode())
        relay.wait_arrived("you@dest.test")
        listing = relay.api("sandbox/messages")
        assert listing["total"] == 1
        (message,) = listing["messages"]
        assert (message["subject"], message["from"]) == ("Grüße", "ada@origin.test")
        detail = relay.api(f"sandbox/messages/{message['id']}")
        assert detail["text"] == "für dich\n"
        status, page = relay.get("/")
        assert status == 200
        for name in set(re.findall(rb'(?:href|src)="(/static/[^"]+)"', page)):
            assert relay.get(name.decode())[0] == 200
        assert relay.get("/readyz")[0] == relay.get("/healthz")[0] == 200
        assert json.loads(relay.get("/api/openapi.json")[1])["paths"]


def test_what_the_sandbox_says_to_try_works_as_it_stands(tmp_path: Path) -> None:
    require("swaks")
    with Relay.sandbox(tmp_path) as relay:
        assert isinstance(relay, SandboxRelay)
        lines = relay.wait(
            lambda: re.search(r"\. Try:\n\n(.*)\n\nand look at http", relay.stderr, re.S), "what to try next"
        )
        path = os.pathsep.join((f"{sys.base_prefix}/bin", os.defpath))  # not where this checkout's angarium is
        done = subprocess.run(
            ["bash", "-e", "-c", lines[1].replace("\n  ", "\n")[2:]],
            env={"PATH": path, "HOME": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        relay.wait(lambda: relay.api("sandbox/messages")["total"] == 3, "three messages")
        subjects = {message["subject"] for message in relay.api("sandbox/messages")["messages"]}
        assert "hello" in subjects


# ------------------------------------------------------------------ how it starts and stops


def test_a_sandbox_refuses_routes_that_leave_the_machine(tmp_path: Path) -> None:
    for next_hop in ("smtp://192.0.2.1:25", "smtp://mail.example.org:25", "mx"):
        relay = Relay(tmp_path, {"route": [{"recipients": ["*"], "next_hop": next_hop}]})
        relay.write_config()
        done = run_command("serve", "--sandbox", "--config", str(relay.config_file))
        assert done.returncode == 1
        assert "nothing was started" in done.stderr
        assert next_hop in done.stderr
        assert "Traceback" not in done.stderr


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    for which in ("smtp_port", "admin_port"):
        relay = Relay(tmp_path / which)
        relay.write_config()
        with socket.create_server(("127.0.0.1", getattr(relay, which))):
            done = run_command("serve", "--config", str(relay.config_file))
        assert done.returncode == 1
        assert done.stderr == f"angarium: cannot listen on 127.0.0.1:{getattr(relay, which)}: Address already in use\n"


def test_a_sandbox_that_has_no_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run_command("serve", "--sandbox", "--spool", str(tmp_path / "file" / "spool"))
    assert done.returncode == 1
    assert done.stderr == f"angarium: the spool {tmp_path}/file/spool cannot be used: Not a directory\n"


def test_a_spool_that_is_in_use(tmp_path: Path) -> None:
    with Relay(tmp_path / "one") as first:
        second = Relay(tmp_path / "two", {"node": {"spool": str(first.spool)}})
        second.write_config()
        done = run_command("serve", "--config", str(second.config_file))
        assert done.returncode == 1
        assert done.stderr == f"angarium: the spool {first.spool} is in use by another relay\n"
        first.send("a@[127.0.0.1]")  # the first one is not disturbed


def test_what_was_queued_is_delivered_after_a_restart(tmp_path: Path, sink: SinkServer) -> None:
    sink.stop()
    with Relay(tmp_path, to_sink(sink)) as relay:
        ids = [relay.send(f"r{number}@dest.test", b"Subject: %d\r\n\r\n" % number) for number in range(20)]
        relay.wait_event("unreachable", failures=2)
        assert {message["id"] for message in relay.queued()} == set(ids)
        assert relay.stop() == 0
        sink.start()
        relay.start()
        for number, queue_id in enumerate(ids):
            relay.wait_event("delivery", id=queue_id)
            content = sink.wait_mail(f"r{number}@dest.test").content
            assert f"id {queue_id}".encode() in content
            assert content.endswith(b"Subject: %d\r\n\r\n" % number)
        relay.wait_empty()
        assert len(sink.mails) == 20


def test_sigterm_lets_a_transaction_end(tmp_path: Path, sink: SinkServer) -> None:
    with Relay(tmp_path, to_sink(sink)) as relay, relay.client() as idle, relay.client() as busy:
        idle.ehlo()
        busy.ehlo()
        busy.envelope("me@origin.test", ["drained@dest.test"])
        busy.expect(354, "DATA")
        busy.write(b"Subject: half")
        relay.terminate()
        assert idle.read()[0] == 421
        busy.write(b" and half\r\n\r\n.\r\n")
        queue_id = busy.queued()
        assert relay.wait_ended() == 0
        relay.start()
        relay.wait_event("delivery", id=queue_id)
        assert sink.wait_mail("drained@dest.test").content.endswith(b"Subject: half and half\r\n\r\n")


def test_sighup_gives_queued_mail_a_new_route(tmp_path: Path) -> None:
    with SinkServer(answer=defer) as old, SinkServer() as new, Relay(tmp_path, to_sink(old)) as relay:
        queue_id = relay.send("a@dest.test", CONTENT)
        relay.wait_event("deferral", id=queue_id)
        relay.reload(to_sink(new))
        relay.wait_event("delivery", id=queue_id, next_hop=new.url)
        assert new.wait_mail("a@dest.test").content.endswith(CONTENT)
        assert old.mails == []


def test_sighup_with_a_mistake_changes_nothing(tmp_path: Path, sink: SinkServer) -> None:
    import os
    import signal

    with Relay(tmp_path, to_sink(sink)) as relay:
        pids = relay.worker_pids()
        relay.config_file.write_text(to_toml(relay.config) + "\n[quue]\n")
        os.kill(relay.pid, signal.SIGHUP)
        relay.wait(lambda: "the old configuration stays" in relay.stderr, "the refusal of the reload")
        assert relay.worker_pids() == pids
        relay.write_config()
        os.kill(relay.pid, signal.SIGHUP)
        relay.wait(lambda: "reload: done; nothing changed" in relay.stderr, "the reload")
        assert relay.worker_pids() == pids
        relay.send("a@dest.test", CONTENT)
        sink.wait_mail("a@dest.test")


def test_two_workers_both_serve(tmp_path: Path, sink: SinkServer) -> None:
    sink.answer = defer
    with Relay(tmp_path, to_sink(sink, node={"workers": 2})) as relay:
        assert len(relay.worker_pids()) == 2
        # the kernel spreads connections over both by their source port; each worker writes to a shard of its own
        ids = [relay.send(f"r{number}@dest.test", CONTENT) for number in range(40)]
        assert {relay.api(f"queue/{queue_id}")["record"]["shard"] for queue_id in ids} == {0, 1}
        assert {entry["id"] for entry in relay.queued()} == set(ids)
        sink.answer = None
        for number in range(40):
            sink.wait_mail(f"r{number}@dest.test")
        relay.wait_empty()
        assert len(sink.mails) == 40
        assert relay.metrics()['angarium_ingress_messages_total{durability="fsync"}'] == 40


def test_a_deep_spool_is_no_obstacle(tmp_path: Path) -> None:
    """The path of a Unix socket has at most 107 octets; that of a spool may have more."""
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    with Relay(deep, {"route": [{"recipients": ["*"], "next_hop": "discard:"}]}) as relay:
        relay.send("a@dest.test")
        relay.wait_empty()
        assert relay.api("status")["accepting"]
