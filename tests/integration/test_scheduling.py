"""How mail waits, on a whole relay: schedules by route, one probe for a dead host, slow hosts, what a sweep ends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.support.peers import SinkServer, Step
from tests.support.ports import free_port
from tests.support.relay import Relay, run_command

if TYPE_CHECKING:
    from pathlib import Path

ORIGIN = {"recipients": ["origin.test"], "next_hop": "discard:"}
LONG = {"first": "1h", "longest": "4h", "expire": "5d"}
QUICK = {"first": "100ms", "factor": 1.0, "longest": "100ms", "jitter": 0.0}


def later(step: Step) -> str | None:
    return "451 4.3.0 Later" if step.verb == "RCPT" else None


def test_a_route_has_a_retry_schedule_of_its_own(tmp_path: Path) -> None:
    with SinkServer(answer=later) as sink:
        routes = [
            ORIGIN,
            {"recipients": ["quick.test"], "next_hop": sink.url, "retry": QUICK},
            {"recipients": ["brief.test"], "next_hop": sink.url, "retry": QUICK | {"expire": "1s", "warn_after": "0s"}},
            {"recipients": ["*"], "next_hop": sink.url},
        ]
        with Relay(tmp_path, {"route": routes, "queue": {"retry": LONG}}) as relay:
            ids = {name: relay.send(f"r@{name}.test") for name in ("quick", "brief", "other")}
            relay.wait_event("expiry", id=ids["brief"])
            relay.wait_event("deferral", id=ids["other"])
            relay.wait_event("deferral", id=ids["quick"], count=4)
            assert len(relay.events("deferral", id=ids["other"])) == 1


def test_a_schedule_holds_after_a_restart(tmp_path: Path) -> None:
    with SinkServer(answer=later) as sink:
        routes = [ORIGIN, {"recipients": ["quick.test"], "next_hop": sink.url, "retry": QUICK}]
        routes.append({"recipients": ["*"], "next_hop": sink.url})
        with Relay(tmp_path, {"route": routes, "queue": {"retry": LONG}}) as relay:
            quick, other = relay.send("r@quick.test"), relay.send("r@other.test")
            for queue_id in (quick, other):
                relay.wait_event("deferral", id=queue_id)
            assert relay.stop() == 0
            before = len(relay.events("deferral", id=quick))
            relay.start()
            relay.wait_event("deferral", id=quick, count=before + 2)
            assert len(relay.events("deferral", id=other)) == 1


def test_mail_to_a_dead_host_costs_one_attempt_an_interval_however_much_there_is(tmp_path: Path) -> None:
    dead, other = free_port(), SinkServer()
    routes = [ORIGIN, {"recipients": ["dead.test"], "next_hop": f"smtp://127.0.0.1:{dead}"}]
    routes.append({"recipients": ["*"], "next_hop": other.url})
    config: dict[str, Any] = {"route": routes, "queue": {"retry": LONG}, "node": {"workers": 1}}
    with other, Relay(tmp_path, config) as relay:
        ids = [relay.send(f"r{number}@dead.test") for number in range(60)]
        relay.wait_event("unreachable", failures=3)
        deferred = {event["id"] for event in relay.events("deferral")}
        assert len(deferred) <= len(relay.events("unreachable")) + 1
        shown = run_command("queue", "show", ids[-1], "--json", "--config", str(relay.config_file))
        assert "refused" in json.loads(shown.stdout)["waits_for"]["text"]
        # and nobody else waits with it
        relay.wait_event("delivery", id=relay.send("x@well.test"))
        with SinkServer(port=dead) as revived:
            run_command("queue", "retry", "--all", "--yes", "--config", str(relay.config_file))
            for queue_id in ids:
                relay.wait_event("delivery", id=queue_id)
            assert len(revived.mails) == 60


def test_mail_for_a_host_that_is_dead_to_the_end_expires_without_an_attempt(tmp_path: Path) -> None:
    routes = [ORIGIN, {"recipients": ["*"], "next_hop": f"smtp://127.0.0.1:{free_port()}"}]
    retry = {"first": "1s", "longest": "1s", "expire": "3s", "warn_after": "0s", "jitter": 0.0}
    with Relay(tmp_path, {"route": routes, "queue": {"retry": retry}, "node": {"workers": 1}}) as relay:
        ids = [relay.send(f"r{number}@dead.test") for number in range(20)]
        for queue_id in ids:
            relay.wait_event("expiry", id=queue_id)
        attempts = [event["attempts"] for event in relay.events("expiry")]
        assert 0 in attempts
        relay.wait_empty()


def test_mail_to_several_domains_of_which_one_is_dead_expires_in_time_too(tmp_path: Path) -> None:
    with SinkServer() as sink:
        dead = {"recipients": ["dead.test"], "next_hop": f"smtp://127.0.0.1:{free_port()}"}
        retry = {"first": "1s", "longest": "1s", "expire": "3s", "warn_after": "0s", "jitter": 0.0}
        routes = [ORIGIN, dead, {"recipients": ["*"], "next_hop": sink.url}]
        with Relay(tmp_path, {"route": routes, "queue": {"retry": retry}, "node": {"workers": 1}}) as relay:
            ids = [relay.send([f"r{number}@dead.test", f"r{number}@dest.test"]) for number in range(30)]
            for queue_id in ids:
                relay.wait_event("delivery", id=queue_id, recipient=f"r{ids.index(queue_id)}@dest.test")
            ends = [relay.wait_event("expiry", id=queue_id) for queue_id in ids]
            assert {end["recipient"] for end in ends} == {f"r{number}@dead.test" for number in range(30)}
            relay.wait_empty()
