"""What mail has waited for, told afterwards: each cause comes about with real next hops, and the story names it.

Mail is made to wait by what it waits for, until its worker itself says that it has waited LONG_S for that; then the way
is opened. So no test measures how long something takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.dns import Fault, NameServerThread
from tests.support.peers import SinkServer
from tests.support.ports import free_port
from tests.support.relay import Relay, run_command

if TYPE_CHECKING:
    from pathlib import Path

LONG_S = 0.3
NOBODY = "127.0.0.9"
SLACK_S = 0.02  # what is too short to be told, and what clocks differ by
ORIGIN: dict[str, Any] = {"recipients": ["origin.test"], "next_hop": "discard:"}
LATER = {"first": "10m", "longest": "10m"}


def relay_to(folder: Path, *routes: dict[str, Any], **more: Any) -> Relay:
    return Relay(folder, {"route": [ORIGIN, *routes], **more})


def wait_until_it_waits(relay: Relay, queue_id: str, cause: str, what: str | None = None) -> dict[str, Any]:
    """Until its worker says that it has waited LONG_S for that; what it says it waits for at that moment."""

    def look() -> dict[str, Any] | None:
        shown = relay.api(f"queue/{queue_id}")
        return shown if shown["waited"].get(cause, 0.0) > LONG_S else None

    shown = relay.wait(look, f"{queue_id} to wait for {cause}")
    assert shown["waits_for"]["what"] == (what or cause)
    waits: dict[str, Any] = shown["waits_for"]
    return waits


def told(relay: Relay, queue_id: str) -> dict[str, float]:
    """What the event of its delivery says of its wait; and the story of it is the same, and whole."""
    event = relay.wait_event("delivery", id=queue_id)
    waited: dict[str, float] = event["waited"]
    story = relay.api(f"messages/{queue_id}/trace")
    last = [step for step in story["steps"] if step["kind"] == "attempt"][-1]
    assert last["waited_s"] == waited
    attempts = sum(step["seconds"] for step in story["steps"] if step["kind"] == "attempt")
    assert sum(story["waited_s"].values()) + attempts == pytest.approx(story["seconds"], abs=SLACK_S)
    for cause, seconds in waited.items():
        if seconds > SLACK_S:
            assert story["waited_s"][cause] == pytest.approx(seconds, abs=SLACK_S)
    text = run_command("trace", queue_id, "--admin", f"127.0.0.1:{relay.admin_port}").stdout
    assert f"waits: {max(waited, key=lambda cause: waited[cause])}" in text
    return waited


def test_a_host_that_takes_one_connection_and_its_time(tmp_path: Path) -> None:
    with SinkServer(extensions=["SIZE"]) as sink:
        sink.hold(".")
        with relay_to(tmp_path, {"recipients": ["*"], "next_hop": sink.url, "connections": 1}) as relay:
            first, second = relay.send("a@dest.test"), relay.send("b@dest.test")
            waits = wait_until_it_waits(relay, second, "concurrency")
            assert "all 1 that there may be are busy" in waits["text"]
            sink.release()
            waited = told(relay, second)
            assert waited["concurrency"] > LONG_S
            assert max(waited, key=lambda cause: waited[cause]) == "concurrency"
            assert "concurrency" not in relay.wait_event("delivery", id=first).get("waited", {})


def test_a_host_that_does_not_answer_the_telephone(tmp_path: Path) -> None:
    with SinkServer() as sink:
        sink.hold("CONNECT")
        with relay_to(tmp_path, {"recipients": ["*"], "next_hop": sink.url}) as relay:
            queue_id = relay.send("a@dest.test")
            wait_until_it_waits(relay, queue_id, "connection")
            sink.release()
            waited = told(relay, queue_id)
            assert waited["connection"] > LONG_S
            assert set(waited) == {"connection"}


def test_a_host_that_cannot_be_reached_for_a_while(tmp_path: Path) -> None:
    port = free_port()
    route = {"recipients": ["*"], "next_hop": f"smtp://127.0.0.1:{port}"}
    with relay_to(tmp_path, route, queue={"retry": LATER}) as relay:
        tried = relay.send("a@dest.test")
        relay.wait_event("deferral", id=tried)
        untouched = relay.send("b@dest.test")
        wait_until_it_waits(relay, untouched, "connection", "site")
        with SinkServer(port=port):
            waited = told(relay, untouched)
            assert waited["connection"] > LONG_S
            assert waited["connection"] / sum(waited.values()) > 0.9
            assert relay.events("deferral", id=untouched) == []


def refusals(relay: Relay, queue_id: str) -> list[dict[str, Any]]:
    return [event for event in relay.events("deferral", id=queue_id) if "refused" in event["reply"]["text"]]


def test_names_that_cannot_be_had_for_a_while(tmp_path: Path) -> None:
    zone = "lost 60 IN MX 10 mx.hosts.test.\n"
    with NameServerThread({"dest.test": zone, "hosts.test": f"mx 60 IN A {NOBODY}\n"}) as names:
        config = {"dns": {"servers": [f"127.0.0.1:{names.port}"]}, "delivery": {"never_contact": []}}
        with relay_to(tmp_path, **config) as relay:
            names.fault(Fault.SERVFAIL, "lost.dest.test")
            queue_id = relay.send("a@lost.dest.test")
            assert "dns" not in relay.wait_event("deferral", id=queue_id).get("waited", {})
            waits = wait_until_it_waits(relay, queue_id, "dns")  # its time has come, and its domain is left alone
            assert "the names of lost.dest.test" in waits["text"]
            names.fault(None, "lost.dest.test")
            refused = relay.wait(lambda: refusals(relay, queue_id), "an attempt with names")
            assert any(event.get("waited", {}).get("dns", 0.0) > LONG_S for event in relay.events("deferral"))
            assert "refused" in refused[0]["reply"]["text"]
            assert relay.api(f"messages/{queue_id}/trace")["waited_s"]["dns"] > LONG_S


def test_names_that_take_their_time(tmp_path: Path) -> None:
    with NameServerThread(
        {"dest.test": "late 60 IN MX 10 mx.hosts.test.\n", "hosts.test": f"mx 60 IN A {NOBODY}\n"}
    ) as names:
        config: dict[str, Any] = {"delivery": {"never_contact": []}, "queue": {"retry": LATER}}
        with relay_to(tmp_path, dns={"servers": [f"127.0.0.1:{names.port}"]}, **config) as relay:
            names.hold("dest.test")
            queue_id = relay.send("a@late.dest.test")
            waited = 'angarium_queue_waited_seconds_total{cause="dns"}'
            relay.wait(lambda: relay.metrics()[waited] > LONG_S, "the metric of the wait for names")
            assert relay.api(f"queue/{queue_id}")["waits_for"]["what"] == "attempt"
            names.release()
            assert relay.wait_event("deferral", id=queue_id)["waited"]["dns"] > LONG_S


def test_room_in_the_memory_of_the_relay(tmp_path: Path) -> None:
    refusals = iter(["452 4.2.2 full"])
    with (
        SinkServer(extensions=["SIZE"]) as slow,
        SinkServer(answer=lambda step: next(refusals, None) if step.verb == "RCPT" else None) as well,
    ):
        routes: list[dict[str, Any]] = [{"recipients": ["slow.test"], "next_hop": slow.url, "connections": 1}]
        routes.append({"recipients": ["*"], "next_hop": well.url})
        with relay_to(tmp_path, *routes, queue={"memory_budget": "10MiB", "memory_soft_mark": 0.1}) as relay:
            slow.hold("DATA")
            big = b"Subject: big\r\n\r\n" + b"x" * 70 * 20_000 + b"\r\n"  # 1.4 MB, and a few
            large = [relay.send(f"a{number}@slow.test", big) for number in range(3)]
            deferred = relay.send("b@well.test")
            relay.wait_event("deferral", id=deferred)
            wait_until_it_waits(relay, deferred, "room")
            slow.release()
            assert told(relay, deferred)["room"] > LONG_S
            story = relay.api(f"messages/{deferred}/trace")
            assert story["waited_s"]["backoff"] == pytest.approx(0.2, abs=0.15)
            for queue_id in large:
                relay.wait_event("delivery", id=queue_id)


@pytest.mark.parametrize("kind", ["domain", "site"])
def test_what_an_operator_had_suspended(tmp_path: Path, kind: str) -> None:
    with SinkServer() as sink, relay_to(tmp_path, {"recipients": ["*"], "next_hop": sink.url}) as relay:
        relay.wait_event("delivery", id=relay.send("first@dest.test"))
        name = "dest.test" if kind == "domain" else "127.0.0.1"
        admin = ("--admin", f"127.0.0.1:{relay.admin_port}")
        assert run_command("suspend", f"--{kind}", name, "--reason", "they asked", *admin).returncode == 0
        queue_id = relay.send("a@dest.test")
        wait_until_it_waits(relay, queue_id, "suspended")
        assert run_command("resume", f"--{kind}", name, *admin).returncode == 0
        waited = told(relay, queue_id)
        assert waited["suspended"] > LONG_S
        assert waited["suspended"] / sum(waited.values()) > 0.8


def test_what_waited_while_the_node_was_down(tmp_path: Path) -> None:
    port = free_port()
    route = {"recipients": ["*"], "next_hop": f"smtp://127.0.0.1:{port}"}
    with relay_to(tmp_path, route, queue={"retry": LATER}) as relay:
        relay.wait_event("deferral", id=relay.send("a@dest.test"))
        untouched = relay.send("b@dest.test")
        relay.stop()
        with SinkServer(port=port):
            relay.start()
            waited = told(relay, untouched)
            assert waited["restart"] > 0


def test_what_expires_says_what_it_waited_for_in_vain(tmp_path: Path) -> None:
    retry = {"first": "1s", "longest": "1s", "expire": "3s", "warn_after": "0s", "jitter": 0.0}
    route = {"recipients": ["*"], "next_hop": f"smtp://127.0.0.1:{free_port()}"}
    with relay_to(tmp_path, route, queue={"retry": retry}) as relay:
        ids = [relay.send(f"r{number}@dead.test") for number in range(10)]
        events = [relay.wait_event("expiry", id=queue_id) for queue_id in ids]
        untried = next(event for event in events if event["attempts"] == 0)
        assert untried["waited"]["connection"] > 2.0
        story = relay.api(f"messages/{untried['id']}/trace")
        assert story["waited_s"]["connection"] == pytest.approx(story["seconds"], abs=0.3)
