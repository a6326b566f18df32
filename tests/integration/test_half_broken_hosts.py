"""Several hosts for one next hop, of which some are dead, slow, refusing or half broken: mail gets there at once."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import corpus
from tests.support.peers import CLOSE, EXTENSIONS, SinkServer, Step
from tests.support.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MESSAGE = corpus.load()["lone-dots"]
BY_LINE = [word for word in EXTENSIONS if word not in {"CHUNKING", "PIPELINING"}]
TIMEOUTS = {"CONNECT": "greeting", "EHLO": "ehlo", "MAIL": "mail", "RCPT": "rcpt", "DATA": "data"}
# what the first host does, by the step at which it does it
BROKEN = {
    "no greeting": ("CONNECT", CLOSE),
    "421 greeting": ("CONNECT", "421 4.3.2 full"),
    "554 greeting": ("CONNECT", "554 5.7.1 not you"),
    "451 to EHLO": ("EHLO", "451 4.3.2 not now"),
    "421 to MAIL": ("MAIL", "421 4.3.2 going down"),
    "gone at MAIL": ("MAIL", CLOSE),
    "nonsense to MAIL": ("MAIL", "what?"),
    "354 to MAIL": ("MAIL", "354 go on"),
    "421 to RCPT": ("RCPT", "421 4.7.0 enough"),
    "gone at RCPT": ("RCPT", CLOSE),
    "421 to DATA": ("DATA", "421 4.3.2 going down"),
    "gone at DATA": ("DATA", CLOSE),
    "250 to DATA": ("DATA", "250 yes?"),
}


def hops(*sinks: SinkServer) -> list[str]:
    return [sink.url for sink in sinks]


def does(verb: str, reply: str) -> Callable[[Step], str | None]:
    return lambda step: reply if step.verb == verb else None


def relay_to(folder: Path, next_hop: object, **delivery: Any) -> Relay:
    routes = [{"recipients": ["origin.test"], "next_hop": "discard:"}, {"recipients": ["*"], "next_hop": next_hop}]
    return Relay(
        folder, {"delivery": delivery, "queue": {"retry": {"first": "10m", "longest": "10m"}}, "route": routes}
    )


@pytest.mark.parametrize("pipelined", [True, False], ids=["pipelined", "by line"])
def test_every_way_in_which_the_first_may_fail(tmp_path: Path, pipelined: bool) -> None:
    """Each is an attempt of its own next hop; a retry would come after ten minutes, and there is none."""
    extensions = ["PIPELINING"] if pipelined else BY_LINE
    sinks = [SinkServer(extensions=extensions, answer=does(*what), host="127.0.0.2") for what in BROKEN.values()]
    with SinkServer() as good:
        routes: list[dict[str, Any]] = [{"recipients": ["origin.test"], "next_hop": "discard:"}]
        try:
            for number, sink in enumerate(sinks):
                sink.start()
                routes.append({"recipients": [f"d{number}.test"], "next_hop": hops(sink, good)})
            config = {"queue": {"retry": {"first": "10m", "longest": "10m"}}, "route": routes}
            with Relay(tmp_path, config) as relay:
                ids = [relay.send(f"a@d{number}.test", MESSAGE) for number in range(len(sinks))]
                for queue_id in ids:
                    relay.wait_event("delivery", id=queue_id)
                assert relay.events("deferral") == relay.events("bounce") == relay.events("in_doubt") == []
                moved = [event["reply"]["code"] for event in relay.events("next_host")]
                assert len(moved) == sum(verb in {"MAIL", "RCPT", "DATA"} for verb, _ in BROKEN.values())
                assert moved.count(421) == 3
                assert relay.metrics()["angarium_delivery_next_host_total"] == len(moved)
        finally:
            for sink in sinks:
                sink.stop()
        assert len(good.mails) == len(sinks)
        assert sum(len(sink.mails) for sink in sinks) == 0


@pytest.mark.parametrize("verb", TIMEOUTS)
def test_a_host_that_falls_silent_is_left_in_its_time(tmp_path: Path, verb: str) -> None:
    with SinkServer(extensions=BY_LINE, host="127.0.0.2", esmtp=verb != "EHLO") as silent, SinkServer() as good:
        silent.hold(verb)
        # long enough for the good one, which has no more time for this step
        with relay_to(tmp_path, hops(silent, good), timeouts={TIMEOUTS[verb]: "2s"}) as relay:
            relay.wait_event("delivery", id=relay.send("a@dest.test", MESSAGE))
            assert relay.events("deferral") == []
            # while it rests nobody waits for it
            relay.wait_event("delivery", id=relay.send("b@dest.test", MESSAGE))
        silent.release()
        assert silent.connections == 1
        assert len(good.mails) == 2


def test_recipients_that_had_a_reply_of_their_own_keep_it(tmp_path: Path) -> None:
    def first(step: Step) -> str | None:
        if step.verb == "RCPT" and "never" in step.argument:
            return "550 5.1.1 no such user"
        return CLOSE if step.verb == "DATA" else None

    with SinkServer(extensions=BY_LINE, answer=first, host="127.0.0.2") as half, SinkServer() as good:
        with relay_to(tmp_path, hops(half, good)) as relay:
            recipients = ["a@dest.test", "never@dest.test", "b@dest.test"]
            queue_id = relay.send(recipients, MESSAGE)
            relay.wait_event("delivery", id=queue_id, count=2)
            assert relay.wait_event("bounce", id=queue_id)["recipient"] == "never@dest.test"
        (mail,) = good.mails
        assert mail.recipients == ["a@dest.test", "b@dest.test"]


def test_when_all_fail_the_last_reply_is_the_answer(tmp_path: Path) -> None:
    with (
        SinkServer(answer=does("MAIL", "421 4.3.2 one"), host="127.0.0.2") as one,
        SinkServer(answer=does("RCPT", "421 4.3.2 two"), host="127.0.0.3", extensions=BY_LINE) as two,
        relay_to(tmp_path, hops(one, two)) as relay,
    ):
        event = relay.wait_event("deferral", id=relay.send("a@dest.test", MESSAGE))
        assert event["reply"] == {"code": 421, "enhanced": "4.3.2", "text": "two"}
        assert event["attempts"] == 1
        assert len(relay.events("next_host")) == 1


def test_a_host_that_nobody_listens_on(tmp_path: Path) -> None:
    with socket.socket() as dead, SinkServer() as good:
        dead.bind(("127.0.0.1", 0))
        with relay_to(tmp_path, [f"smtp://127.0.0.1:{dead.getsockname()[1]}", good.url]) as relay:
            relay.wait_event("delivery", id=relay.send("a@dest.test", MESSAGE))
            assert relay.events("deferral") == []


def test_a_unix_socket_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "lmtp"
    with relay_to(tmp_path / "relay", f"lmtp+unix:{path}") as relay:
        event = relay.wait_event("deferral", id=relay.send("a@dest.test", MESSAGE))
        assert event["next_hop"] == event["site"] == f"lmtp+unix:{path}"
        assert event["reply"]["text"] == f"relay.test[{path}]: No such file or directory"


def test_a_limit_of_mails_a_connection_costs_no_attempt(tmp_path: Path) -> None:
    """A host that ends each connection with 421 after two messages gets all of them, over several."""

    def two_only(step: Step) -> str | None:
        if step.verb != "MAIL":
            return None
        done = sum(mail.connection == step.connection for mail in sink.mails)
        return "421 4.7.0 two messages are enough" if done >= 2 else None

    with SinkServer(answer=two_only) as sink, relay_to(tmp_path, sink.url, connections_per_host=1) as relay:
        with relay.client() as client:
            client.ehlo()
            ids = [client.send("me@origin.test", [f"r{n}@dest.test"], MESSAGE) for n in range(9)]
        for queue_id in ids:
            relay.wait_event("delivery", id=queue_id)
        assert relay.events("deferral") == []
        assert sink.connections >= 5


def test_a_host_that_says_421_to_what_it_has_already_and_goes_on(tmp_path: Path) -> None:
    """The content left with the envelope: whom it takes is delivered, who may be taken is in doubt, nobody gets two."""
    takes = SinkServer(answer=does("MAIL", "421 4.3.2 going down"), host="127.0.0.2", defiant=True)

    def one_of_three(step: Step) -> str | None:
        return "421 4.7.0 enough" if step.verb == "RCPT" and "b@" in step.argument else None

    def dies(step: Step) -> str | None:
        return CLOSE if step.verb == "." else one_of_three(step)

    some = SinkServer(answer=one_of_three, host="127.0.0.3", defiant=True)
    dead = SinkServer(answer=dies, host="127.0.0.4", defiant=True)
    with takes, some, dead, SinkServer() as good:
        routes: list[dict[str, Any]] = [
            {"recipients": ["origin.test"], "next_hop": "discard:"},
            {"recipients": ["takes.test"], "next_hop": hops(takes, good)},
            {"recipients": ["some.test"], "next_hop": hops(some, good)},
            {"recipients": ["dead.test"], "next_hop": hops(dead, good)},
        ]
        config = {"queue": {"retry": {"first": "10m", "longest": "10m"}}, "route": routes}
        with Relay(tmp_path, config) as relay:
            for domain in ("takes", "some"):
                recipients = [f"{name}@{domain}.test" for name in "abc"]
                relay.wait_event("delivery", id=relay.send(recipients, MESSAGE), count=3)
                for recipient in recipients:
                    host = good if recipient == "b@some.test" else takes if domain == "takes" else some
                    assert [len(sink.to(recipient)) for sink in (takes, some, good) if sink is not host] == [0, 0]
                    assert len(host.to(recipient)) == 1
            assert relay.events("in_doubt") == []
            recipients = [f"{name}@dead.test" for name in "abc"]
            events = relay.wait_event("in_doubt", id=(queue_id := relay.send(recipients, MESSAGE)), count=3)
            assert "behind 421 to RCPT" in events["reply"]["text"]
            assert relay.metrics()["angarium_delivery_possible_duplicates_total"] == 3
            assert [event for event in relay.events("delivery") if event["id"] == queue_id] == []
            assert [good.to(recipient) for recipient in recipients] == [[], [], []]
