"""`angarium explain` of a running relay: routes, hosts, obstacles, and a session up to RCPT."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.peers import SinkServer
from tests.support.ports import free_port
from tests.support.relay import Relay, run_command

if TYPE_CHECKING:
    from collections.abc import Iterator


class Explained:
    """A relay with two workers, a host that answers and one that does not."""

    def __init__(self, relay: Relay, sink: SinkServer, dead: int) -> None:
        self.relay = relay
        self.sink = sink
        self.dead = dead

    def run(self, *arguments: str, status: int = 0) -> str:
        done = run_command("explain", *arguments, "--admin", f"127.0.0.1:{self.relay.admin_port}")
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout if status == 0 or done.stdout else done.stderr

    def json(self, *arguments: str, status: int = 0) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.run(*arguments, "--json", status=status))
        return answer


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Explained]:
    dead = free_port()
    with SinkServer() as sink:
        routes = [
            {"name": "news", "recipients": ["there.test"], "senders": ["news.test"], "next_hop": "discard:"},
            {
                "name": "there",
                "recipients": ["there.test"],
                "next_hop": [f"smtp://127.0.0.1:{dead}", sink.url],
                "connections": 6,
                "message_size": "3MB",
                "timeouts": {"connect": "2s"},
            },
            {"recipients": ["dead.test"], "next_hop": f"smtp://127.0.0.1:{dead}"},
            {"name": "moved", "recipients": ["gone.test"], "next_hop": "bounce:550 5.1.6 Moved away"},
        ]
        config = {"route": routes, "node": {"workers": 2}, "dns": {"servers": ["127.0.0.1:9"]}}
        with Relay(tmp_path_factory.mktemp("explain"), config) as relay:
            yield Explained(relay, sink, dead)


def test_the_route_and_its_place(explained: Explained) -> None:
    answer = explained.json("a@there.test", "--from", "me@origin.test")
    assert answer["route"] == {
        "name": "there",
        "file": str(explained.relay.config_file),
        "position": 1,
        "next_hop": [f"smtp://127.0.0.1:{explained.dead}", f"smtp://127.0.0.1:{explained.sink.port}"],
        "conditions": {"recipients": ["there.test"]},
    }
    assert [(route["name"], route["conditions"]["senders"]) for route in answer["ahead"]] == [("news", ["news.test"])]
    assert answer["tls"] == {"level": "opportunistic", "source": "delivery.tls"}
    assert answer["limits"]["connections"] == 6
    assert answer["limits"]["connections_of_a_worker"] == 3
    assert answer["limits"]["message_size"] == 3_000_000
    assert answer["limits"]["timeouts_s"]["connect"] == 2.0
    assert [worker["worker"] for worker in answer["workers"]] == [0, 1]
    assert (answer["dns"], answer["trial"], answer["blocks"]) == (None, None, [])
    assert sorted(host["port"] for host in answer["hosts"]) == sorted([explained.dead, explained.sink.port])
    assert explained.json("a@there.test", "--from", "<x@news.test>")["route"]["name"] == "news"


def test_a_session_up_to_rcpt_and_no_mail(explained: Explained) -> None:
    before = len(explained.sink.mails)
    explained.sink.answer = lambda step: (
        "550 5.1.1 Nobody" if step.verb == "RCPT" and "nobody" in step.argument else None
    )
    answer = explained.json("a@there.test", "--from", "me@origin.test", "--try")
    trial = answer["trial"]
    assert trial["accepted"]
    assert [host["failure"] is None for host in trial["hosts"]] == [False, True]
    assert trial["hosts"][0]["failure"].endswith("Connection refused")
    assert [step["command"].partition(":")[0] for step in trial["dialogue"]] == [
        "EHLO",
        "MAIL FROM",
        "RCPT TO",
        "RSET",
        "QUIT",
    ]
    assert trial["dialogue"][2]["reply"] == "250 2.1.5 OK"
    text = explained.run("nobody@there.test", "--try", status=1)
    assert "> RCPT TO:<nobody@there.test>\n< 550 5.1.1 Nobody\n" in text
    assert "the recipient was not accepted" in text
    assert len(explained.sink.mails) == before
    assert explained.sink.count("DATA") == explained.sink.count("BDAT") == 0


def test_what_would_block_a_message(explained: Explained) -> None:
    relay = explained.relay
    relay.send("a@dead.test")
    relay.wait_event("unreachable")
    relay.wait(lambda: any("left alone" in block for block in explained.json("a@dead.test")["blocks"]), "the obstacle")
    answer = explained.json("b@dead.test")
    (worker,) = [worker for worker in answer["workers"] if worker["failures"]]
    assert worker["reason"].endswith("Connection refused") or worker["blocked_until"] is None
    assert "the route's answer is 550 5.1.6 Moved away" in explained.run("a@gone.test")
    suspended = run_command(
        "suspend", "--domain", "there.test", "--reason", "works", "--admin", f"127.0.0.1:{relay.admin_port}"
    )
    assert suspended.returncode == 0, suspended.stderr
    (block,) = explained.json("a@there.test")["blocks"]
    assert block.startswith("domain there.test is suspended")
    assert block.endswith("works")


def test_a_domain_by_mx_whose_names_cannot_be_had(explained: Explained) -> None:
    answer = explained.json("a@nowhere.test")
    assert answer["route"]["position"] is None
    assert answer["next_hop"] == "mx"
    assert answer["dns"]["failure"].startswith("451 4.4.3")
    assert answer["blocks"] == [f"its mail hosts: {answer['dns']['failure']}"]
    assert "none in the configuration: the last resort, by MX" in explained.run("a@nowhere.test")


@pytest.mark.parametrize("address", ["a>b@there.test", "a\r\nb@there.test", "a@\u2024.test"])
def test_what_is_no_address(explained: Explained, address: str) -> None:
    assert "is not an address" in explained.run(address, status=1)
