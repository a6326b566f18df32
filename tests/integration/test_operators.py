"""Operators steer a running relay: messages and suspensions, over two workers, by command and by HTTP."""

from __future__ import annotations

import email
import email.policy
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.peers import SinkServer
from tests.support.relay import Relay, run_command

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.peers import Step

CONTENT = b"Subject: steered\r\n\r\nHello.\r\n"
ORIGIN = {"recipients": ["origin.test"], "next_hop": "discard:"}


def later(step: Step) -> str | None:
    return "451 4.2.0 Later" if step.verb == "RCPT" and "slow" in step.argument else None


@pytest.fixture
def relay(tmp_path: Path, sink: SinkServer) -> Iterator[Relay]:
    """Two workers; mail to slow… is deferred for half an hour."""
    sink.answer = later
    config: dict[str, Any] = {
        "node": {"workers": 2},
        "route": [ORIGIN, {"recipients": ["*"], "next_hop": sink.url}],
        "queue": {"retry": {"first": "30m", "longest": "30m"}},
    }
    with Relay(tmp_path, config) as relay:
        yield relay


def command(relay: Relay, *words: str) -> subprocess.CompletedProcess[str]:
    return run_command(*words, "--config", str(relay.config_file))


def ask(relay: Relay, *words: str) -> Any:
    done = command(relay, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def deferred(relay: Relay, count: int, domain: str = "slow.test", reverse_path: str = "me@origin.test") -> list[str]:
    """So many messages that wait for their next attempt, with both workers."""
    ids = [relay.send(f"r{number}@{domain}", CONTENT, reverse_path) for number in range(count)]
    for queue_id in ids:
        relay.wait_event("deferral", id=queue_id)
    relay.wait(
        lambda: {entry["id"] for entry in ask(relay, "queue", "list", "--state", "scheduled")} >= set(ids),
        "the schedule",
    )
    return ids


def test_hold_survives_a_restart_and_release_delivers(relay: Relay, sink: SinkServer) -> None:
    ids = deferred(relay, 12)
    held = ask(relay, "queue", "hold", "--to-domain", "slow.test", "--reason", "wait", "--yes")
    assert (held["state"], held["selected"], held["done"]) == ("done", 12, 12)
    assert relay.summary()["by_state"]["held"] == 12
    assert relay.wait_event("hold", id=ids[0])["why"] == "wait"
    relay.restart()
    assert relay.summary()["by_state"]["held"] == 12
    assert ask(relay, "queue", "show", ids[3])["waits_for"]["what"] == "held"
    sink.answer = None
    assert ask(relay, "queue", "retry", "--all", "--yes")["unchanged"] == 12
    assert ask(relay, "queue", "release", ids[0], ids[1])["done"] == 2
    for queue_id in ids[:2]:
        relay.wait_event("delivery", id=queue_id)
    assert ask(relay, "queue", "release", "--state", "held", "--yes")["done"] == 10
    relay.wait_empty()
    assert len(sink.mails) == 12


def test_retry_does_not_wait_for_the_schedule(relay: Relay, sink: SinkServer) -> None:
    ids = deferred(relay, 6)
    sink.answer = None
    assert ask(relay, "queue", "retry", ids[0])["done"] == 1
    relay.wait_event("delivery", id=ids[0])
    assert ask(relay, "queue", "retry", "--from", "ME@origin.test", "--limit", "2", "--yes")["done"] == 2
    for queue_id in ids[1:3]:  # the oldest of the node, whichever worker has them
        relay.wait_event("delivery", id=queue_id)
    relay.wait(lambda: relay.summary()["messages"] == 3, "the three others to be left")


def test_deleted_messages_do_not_come_back(relay: Relay, sink: SinkServer, tmp_path: Path) -> None:
    doomed = deferred(relay, 5, reverse_path="spam@origin.test")
    kept = deferred(relay, 3)
    preview = ask(relay, "queue", "delete", "--from", "spam@origin.test", "--dry-run")
    assert (preview["messages"], preview["recipients"]) == (5, 5)
    assert {sample["id"] for sample in preview["samples"]} == set(doomed)
    refused = command(relay, "queue", "delete", "--from", "spam@origin.test")
    assert (refused.returncode, "--yes" in refused.stderr) == (2, True)
    assert relay.summary()["messages"] == 8

    exported = ask(relay, "queue", "export", "--from", "spam@origin.test", "--to", str(tmp_path / "kept"))
    assert (exported["messages"], exported["failures"]) == (5, [])
    assert {path.stem for path in (tmp_path / "kept").glob("*.eml")} == set(doomed)
    content = (tmp_path / "kept" / f"{doomed[0]}.eml").read_bytes()
    assert content.endswith(CONTENT)
    assert content.startswith(b"Received: ")
    envelope = json.loads((tmp_path / "kept" / f"{doomed[0]}.json").read_text())["envelope"]
    assert (envelope["reverse_path"], envelope["recipients"][0]["address"]) == ("spam@origin.test", "r0@slow.test")

    deleted = ask(relay, "queue", "delete", "--from", "spam@origin.test", "--reason", "spam", "--yes")
    assert deleted["done"] == 5
    assert relay.wait_event("deletion", id=doomed[0])["why"] == "spam"
    relay.restart()
    assert {entry["id"] for entry in relay.queued()} == set(kept)
    assert command(relay, "queue", "show", doomed[0]).returncode == 1
    assert sink.mails == []


def test_bounce_tells_the_sender_why(tmp_path: Path, sink: SinkServer) -> None:
    sink.answer = later
    routes = [{"recipients": ["*"], "next_hop": sink.url}]
    retry = {"first": "30m", "longest": "30m"}
    with Relay(tmp_path, {"route": routes, "queue": {"retry": retry}}) as relay:
        queue_id = relay.send(["a@slow.test", "b@slow-too.test"], CONTENT)
        relay.wait_event("deferral", id=queue_id, recipient="b@slow-too.test")
        relay.wait(lambda: relay.summary()["by_state"]["scheduled"] == 1, "the schedule")
        reason = "There is no such domain"
        bounced = ask(relay, "queue", "bounce", "--to-domain", "slow.test", "--reason", reason, "--yes")
        assert bounced["done"] == 1
        notification = email.message_from_bytes(sink.wait_mail("me@origin.test").content, policy=email.policy.default)
        assert notification.get_content_type() == "multipart/report"
        text, report, _ = notification.iter_parts()
        assert reason in text.get_content()
        assert "a@slow.test" in text.get_content()
        assert "b@slow-too.test" not in text.get_content()
        (fields,) = [part for part in report.get_payload() if part["Final-Recipient"]]
        assert (fields["Action"], fields["Status"]) == ("failed", "5.7.1")
        relay.wait(lambda: relay.summary()["messages"] == 1, "the notification to be gone")
        relay.restart()
        states = {each["address"]: each["state"] for each in ask(relay, "queue", "show", queue_id)["recipients"]}
        assert states == {"a@slow.test": "failed", "b@slow-too.test": "deferred"}
        assert ask(relay, "queue", "bounce", queue_id, "--yes")["done"] == 1
        sink.wait_mail("me@origin.test", 2)
        relay.wait_empty()


def test_show_has_the_attempts_and_what_is_waited_for(relay: Relay) -> None:
    (queue_id,) = deferred(relay, 1)
    shown = ask(relay, "queue", "show", queue_id)
    assert shown["envelope"]["listener"] == "relay"
    assert shown["envelope"]["client"] == "127.0.0.1"
    assert "Subject: steered" in shown["header"]
    assert ask(relay, "queue", "retry", queue_id)["done"] == 1
    relay.wait_event("deferral", id=queue_id, count=2)
    relay.wait(lambda: len(ask(relay, "queue", "show", queue_id)["attempts"]) == 2, "the second attempt")
    shown = ask(relay, "queue", "show", queue_id)
    assert [attempt["number"] for attempt in shown["attempts"]] == [1, 2]
    for attempt in shown["attempts"]:
        (recipient,) = attempt["recipients"]
        assert (recipient["address"], recipient["state"]) == ("r0@slow.test", "deferred")
        assert recipient["reply"] == "451 4.2.0 Later"
        assert attempt["host"].startswith("127.0.0.1")
        assert attempt["time"] >= shown["received"]
    assert shown["recipients"][0]["reply"] == "451 4.2.0 Later"
    assert shown["waits_for"]["what"] == "schedule"
    assert shown["waits_for"]["until"] == shown["recipients"][0]["next_attempt"]
    for_people = command(relay, "queue", "show", queue_id)
    assert for_people.returncode == 0
    assert "waits for" in for_people.stdout


def test_a_suspended_domain_waits_and_others_do_not(relay: Relay, sink: SinkServer) -> None:
    made = ask(relay, "suspend", "--domain", "Dest.test", "--reason", "they block us", "--for", "2h")
    assert (made[0]["name"], made[0]["reason"]) == ("dest.test", "they block us")
    ids = [relay.send(f"r{number}@dest.test", CONTENT) for number in range(6)]
    other = relay.send("r@other.test", CONTENT)
    relay.wait_event("delivery", id=other)
    waits = ask(relay, "queue", "show", ids[0])["waits_for"]
    assert waits["what"] == "suspended"
    assert "they block us" in waits["text"]
    assert waits["until"][:19] == made[0]["until"][:19]
    relay.wait(lambda: relay.summary()["by_state"]["suspended"] == 6, "all six to wait")
    assert len(ask(relay, "queue", "list", "--state", "suspended")) == 6

    relay.restart()
    assert ask(relay, "suspend", "list") == made
    relay.wait(lambda: relay.summary()["by_state"]["suspended"] == 6, "the suspension to be in force again")
    assert [mail.recipients for mail in sink.mails] == [["r@other.test"]]

    assert ask(relay, "resume", "--domain", "dest.test") == made
    for queue_id in ids:
        relay.wait_event("delivery", id=queue_id)
    relay.wait_empty()
    assert ask(relay, "suspend", "list") == []


def test_an_internationalised_domain_is_meant_in_both_of_its_forms(relay: Relay) -> None:
    """Mail written with U-labels and mail written with A-labels wait in one place, and are steered by either."""
    ask(relay, "suspend", "--domain", "bücher.test", "--reason", "moving")
    ids = [relay.send("r1@xn--bcher-kva.test", CONTENT)]
    with relay.client() as client:
        client.ehlo()
        ids.append(client.send("me@origin.test", ["r2@bücher.test"], CONTENT, "SMTPUTF8"))
    relay.wait(lambda: relay.summary()["by_state"]["suspended"] == 2, "both to be suspended")
    for form in ("bücher.test", "xn--bcher-kva.test"):
        assert {entry["id"] for entry in ask(relay, "queue", "list", "--to-domain", form)} == set(ids)
    assert ask(relay, "queue", "delete", "--to-domain", "bücher.test", "--yes")["done"] == 2
    relay.wait_empty()


@pytest.mark.parametrize("known", [True, False], ids=["known before", "first mail"])
def test_a_suspended_site_waits_and_others_do_not(tmp_path: Path, known: bool) -> None:
    with SinkServer() as one:
        routes = [{"recipients": ["one.test"], "next_hop": one.url}, {"recipients": ["*"], "next_hop": "discard:"}]
        with Relay(tmp_path, {"route": [ORIGIN, *routes], "node": {"workers": 2}}) as relay:
            site = "127.0.0.1"
            if known:
                assert relay.wait_event("delivery", id=relay.send("a@one.test", CONTENT))["site"] == site
            ask(relay, "suspend", "--site", site, "--reason", "they asked us to")
            ids = [relay.send(f"r{number}@one.test", CONTENT) for number in range(6)]
            other = relay.send("b@two.test", CONTENT)
            relay.wait_event("delivery", id=other)
            relay.wait(lambda: relay.summary()["by_state"]["suspended"] == 6, "all six to wait")
            assert {entry["state"] for entry in ask(relay, "queue", "list")} == {"suspended"}
            waits = ask(relay, "queue", "show", ids[0])["waits_for"]
            assert (waits["what"], "they asked us to" in waits["text"]) == ("suspended", True)
            assert len(one.mails) == known
            ask(relay, "resume", "--site", site)
            for queue_id in ids:
                relay.wait_event("delivery", id=queue_id)


def test_a_suspension_ends_by_itself(relay: Relay, sink: SinkServer) -> None:
    (made,) = ask(relay, "suspend", "--domain", "dest.test", "--reason", "for a moment", "--for", "4s")
    queue_id = relay.send("r@dest.test", CONTENT)
    waits = relay.api(f"queue/{queue_id}")["waits_for"]
    assert (waits["what"], waits["until"][:19]) == ("suspended", made["until"][:19])
    delivery = relay.wait_event("delivery", id=queue_id)
    assert delivery["time"][:19] >= made["until"][:19]
    assert ask(relay, "suspend", "list") == []


def test_what_is_deferred_already_waits_while_suspended(relay: Relay, sink: SinkServer) -> None:
    ids = deferred(relay, 4)
    ask(relay, "suspend", "--domain", "slow.test", "--reason", "x")
    sink.answer = None
    assert ask(relay, "queue", "retry", "--all", "--yes")["done"] == 4
    other = relay.send("r@other.test", CONTENT)
    relay.wait_event("delivery", id=other)
    assert len(sink.mails) == 1
    ask(relay, "resume", "--all")
    for queue_id in ids:
        relay.wait_event("delivery", id=queue_id)


def test_the_api_refuses_to_mean_everything_by_leaving_something_out(relay: Relay) -> None:
    deferred(relay, 1)
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", relay.admin_port, timeout=30)
    for body in (b"{}", b'{"limit": 10}', b'{"reason": "x"}'):
        connection.request("POST", "/api/v1/queue/delete", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert (answer.status, b"no message is named" in answer.read()) == (400, True)
    connection.close()
    assert relay.summary()["messages"] == 1
