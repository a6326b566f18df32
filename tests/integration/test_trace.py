"""`angarium trace` of a running node: a story from its reception to its result, and sessions as they happen."""

from __future__ import annotations

import base64
import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.peers import CLOSE, SinkServer, Step
from tests.support.relay import Relay, clean_environment, command_line, run_command

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD = "correct horse battery"


def relay_to(folder: Path, *hops: SinkServer, **more: Any) -> Relay:
    routes: list[dict[str, Any]] = [{"recipients": ["origin.test"], "next_hop": "discard:"}]
    routes.append({"recipients": ["*"], "next_hop": [hop.url for hop in hops]})
    return Relay(folder, {"route": routes, **more})


def trace(relay: Relay, queue_id: str) -> dict[str, Any]:
    story: dict[str, Any] = relay.api(f"messages/{queue_id}/trace")
    return story


def said(story: dict[str, Any]) -> list[str]:
    return [
        f"{line['who']}: {line['text']}"
        for step in story["steps"]
        for dialogue in step["dialogues"]
        for line in dialogue["lines"]
    ]


@pytest.mark.parametrize("extensions", [["PIPELINING"], ["SIZE"], ["PIPELINING", "CHUNKING"]], ids=lambda x: x[-1])
def test_the_story_of_a_message_that_was_deferred_and_then_delivered(tmp_path: Path, extensions: list[str]) -> None:
    refusals = iter(["452 4.2.2 mailbox <full>\x07 today"])
    with (
        SinkServer(
            extensions=extensions, answer=lambda step: next(refusals, None) if step.verb == "RCPT" else None
        ) as sink,
        relay_to(tmp_path, sink, trace={"dialogues": "all"}) as relay,
    ):
        queue_id = relay.send("a@dest.test", b"Subject: secret\r\n\r\nnever shown\r\n")
        relay.wait_event("delivery", id=queue_id)
        story = relay.wait(lambda: found if len(said(found := trace(relay, queue_id))) > 8 else None, "both dialogues")
        assert story["state"] == "delivered"
        assert story["recipients"][0]["recipient"] == "a@dest.test"
        assert story["recipients"][0]["result"] == "delivered"
        kinds = [step["kind"] for step in story["steps"] if step["kind"] != "wait"]
        assert kinds == ["reception", "policy", "attempt", "attempt"]
        first, second = [step for step in story["steps"] if step["kind"] == "attempt"]
        assert (first["attempt"], second["attempt"]) == (1, 2)
        assert first["results"][0]["reply"].startswith("452 4.2.2 mailbox <full>")
        assert 0.1 < story["waited_s"]["backoff"] < story["seconds"]
        lines = [line["text"] for line in first["dialogues"][0]["lines"]]
        assert lines[0].startswith("220 ")  # how the connection was opened
        assert "EHLO relay.test" in lines
        size = " SIZE=" if "SIZE" in extensions else ""
        mail = next(i for i, line in enumerate(lines) if line.startswith(f"MAIL FROM:<me@origin.test>{size}"))
        assert lines[mail + 1].startswith("250 ")
        assert lines[mail + 2] == "RCPT TO:<a@dest.test>"
        assert lines[mail + 3] == "452 4.2.2 mailbox <full>\x07 today"
        ends = [line["text"] for line in second["dialogues"][-1]["lines"]]
        assert any("octets of mail data)" in line for line in ends)
        assert ends[-1].startswith("250 ")
        assert not any("never shown" in line or "Subject" in line for line in said(story))

        text = run_command("trace", queue_id, "--admin", f"127.0.0.1:{relay.admin_port}")
        assert text.returncode == 0, text.stderr
        assert "waits: backoff" in text.stdout
        assert "\x07" not in text.stdout
        assert "C: RCPT TO:<a@dest.test>" in text.stdout
        as_json = run_command("trace", queue_id, "--json", "--admin", f"127.0.0.1:{relay.admin_port}")
        assert json.loads(as_json.stdout)["id"] == queue_id
        # it is on disk, so it outlives the workers
        relay.restart()
        assert said(trace(relay, queue_id)) == said(story)
        assert relay.api("messages/0000000000001/trace?or_null=true") is None
        unknown = run_command("trace", "0000000000001", "--admin", f"127.0.0.1:{relay.admin_port}")
        assert unknown.returncode == 1
        assert "nothing is known" in unknown.stderr


def test_what_could_not_be_kept_is_counted(tmp_path: Path) -> None:
    with (
        SinkServer(answer=lambda step: "550 5.1.1 nobody" if step.verb == "RCPT" else None) as sink,
        relay_to(tmp_path, sink) as relay,
    ):
        assert relay.metrics()["angarium_outcome_dropped_dialogues_total"] == 0
        folder = relay.spool / "trace"
        if folder.exists():
            folder.rename(relay.spool / "elsewhere")
        folder.write_text("in the way")
        for number in range(3):
            queue_id = relay.send(f"a{number}@dest.test")
            relay.wait_event("bounce", id=queue_id)
        relay.wait(
            lambda: relay.metrics()["angarium_outcome_dropped_dialogues_total"] == 3, "what is lost to be counted"
        )
        (worker,) = relay.api("status")["workers"]
        assert worker["status"]["dialogues_lost"] == 3


def test_the_story_of_what_waits_and_of_hosts_that_fail(tmp_path: Path) -> None:
    """By default failures alone are kept: all hosts of an attempt, and what the log-in said but not with what."""

    def refuse(step: Step) -> str | None:
        return "535 5.7.8 no: hunter2" if step.verb == "AUTH" else None

    config: dict[str, Any] = {
        "queue": {"retry": {"first": "10m", "longest": "10m"}},
        "route": [
            {
                "recipients": ["*"],
                "next_hop": "",
                "auth": {"user": "relay", "password": "hunter2", "mechanism": "PLAIN", "plaintext": True},
            }
        ],
    }
    with (
        SinkServer(extensions=["AUTH PLAIN"], answer=refuse) as closed,
        SinkServer(answer=lambda step: CLOSE if step.verb == "CONNECT" else None) as dead,
    ):
        config["route"][0]["next_hop"] = [dead.url, closed.url]
        with Relay(tmp_path, config) as relay:
            queue_id = relay.send("a@dest.test")
            relay.wait_event("deferral", id=queue_id)
            story = relay.wait(lambda: found if said(found := trace(relay, queue_id)) else None, "a dialogue")
            lines = said(story)
            assert "C: AUTH PLAIN ***" in lines
            assert "S: 535 5.7.8 ***" in lines
            assert any("no greeting" in line for line in lines)
            secret = base64.b64encode(b"\0relay\0hunter2").decode()
            written = b"".join(path.read_bytes() for path in (relay.spool / "trace").iterdir())
            assert secret not in json.dumps(story)
            assert secret.encode() not in written
            assert b"hunter2" not in written
            assert story["state"] == "scheduled"
            assert story["waits_for"]["what"] in {"schedule", "site"}
            assert {"backoff", "connection"} & story["waited_s"].keys()

            relay.reload({"trace": {"dialogues": "none"}})
            other = relay.send("b@dest.test")
            run_command("queue", "retry", "--yes", "--all", "--admin", f"127.0.0.1:{relay.admin_port}")
            assert said(trace(relay, other)) == []
            assert "trace.dialogues = none" in " ".join(trace(relay, other)["remarks"])


def test_watching_sessions_as_they_happen(tmp_path: Path) -> None:
    with SinkServer(extensions=["PIPELINING"]) as sink, relay_to(tmp_path, sink) as relay:
        with subprocess.Popen(
            command_line(
                *("trace", "--live", "--json", "--from", "@origin.test", "--to-domain", "dest.test"),
                *("--admin", f"127.0.0.1:{relay.admin_port}"),
            ),
            stdout=subprocess.PIPE,
            env=clean_environment(),
        ) as watching:
            assert watching.stdout is not None
            try:
                relay.wait(lambda: watched(relay), "somebody to watch")
                with relay.client() as client:
                    client.ehlo()
                    client.command("PASSWORD hunter2")
                    client.send("other@elsewhere.test", ["x@dest.test"], b"Subject: x\r\n\r\nx\r\n")
                    client.send("me@origin.test", ["a@dest.test"], b"Subject: y\r\n\r\nnever shown\r\n")
                lines: list[dict[str, Any]] = []
                while not {"in", "out"} <= {line["side"] for line in lines if is_end(line)}:
                    lines.append(json.loads(watching.stdout.readline()))
            finally:
                watching.kill()
        texts = [f"{line['side']} {line['who']}: {line['text']}" for line in lines]
        assert "in C: MAIL FROM:<me@origin.test>" in texts
        assert any(text.startswith("out C: MAIL FROM:<me@origin.test>") for text in texts)
        assert not any("hunter2" in text or "never shown" in text for text in texts)
        assert {line["peer"] for line in lines if line["side"] == "in"} == {"127.0.0.1"}
        # nobody watches any more, and the sessions know it
        relay.wait(lambda: not watched(relay), "nobody to watch")
        refused = run_command("trace", "--live", "--client", "nowhere", "--admin", f"127.0.0.1:{relay.admin_port}")
        assert refused.returncode == 1
        assert "nowhere" in refused.stderr


def is_end(line: dict[str, Any]) -> bool:
    """Whether it is the reply to the end of mail data."""
    return line["who"] == "S" and ("queued as" in line["text"] or line["text"].startswith("250 2.0.0"))


def watched(relay: Relay) -> bool:
    """Whether worker 0 shows its sessions to somebody."""
    reports = relay.api("status")["workers"]
    return bool(reports[0]["status"]["watchers"])
