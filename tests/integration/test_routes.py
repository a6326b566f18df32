"""Routes as operators see them: who takes which, several hosts of one, settings of their own, hand-offs, a reload."""

from __future__ import annotations

import itertools
import os
import socket
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.peers import SinkServer
from tests.support.ports import free_port
from tests.support.relay import Relay, run_command

if TYPE_CHECKING:
    from collections.abc import Iterator

USER = {"user": "nobody"} if os.geteuid() == 0 else {}  # no program is run as root
HEADED = b"Subject: x\r\nX-Stream:\r\n Bulk-7\r\nX-Stream: other\r\n\r\nX-Body: yes\r\n"


# ------------------------------------------------------------------ who takes which


@pytest.fixture(scope="module")
def chooser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """Each route discards, but for its name: a Maildir of that name would be, and the event names the next hop."""
    folder = tmp_path_factory.mktemp("conditions")
    second = free_port()

    def to(name: str, **conditions: object) -> dict[str, object]:
        return {"recipients": ["cond.test"], "next_hop": f"maildir:{folder}/{name}", "name": name, **conditions}

    config = {
        "tenant": [{"name": "shop", "weight": 1}],
        "listener": [
            {
                "name": "relay",
                "listen": f"127.0.0.1:{free_port()}",
                "role": "relay",
                "relay_networks": ["127.0.0.0/8"],
            },
            {
                "name": "second",
                "listen": f"127.0.0.1:{second}",
                "role": "relay",
                "relay_networks": ["127.0.0.0/8"],
                "tenant": "shop",
            },
        ],
        "route": [
            to("null", senders=["<>"]),
            to("sender", senders=["*.news.test", "boss@origin.test"]),
            to("header", headers={"x-stream": "bulk*"}),
            to("both", tenants=["shop"], senders=["origin.test"]),
            to("listener", listeners=["second"]),
            to("log-in", log_ins=["*"]),
            to("rest"),
        ],
    }
    relay = Relay(folder / "relay", config)
    config["listener"][0]["listen"] = f"127.0.0.1:{relay.smtp_port}"
    relay.config["listener"] = config["listener"]
    relay.second = second  # type: ignore[attr-defined]
    with relay:
        yield relay


@pytest.mark.parametrize(
    ("reverse_path", "content", "second", "name"),
    [
        ("", b"Subject: x\r\n\r\n", False, "null"),
        ("a@list.news.test", b"Subject: x\r\n\r\n", False, "sender"),
        ("boss@origin.test", HEADED, True, "sender"),
        ("me@origin.test", HEADED, False, "header"),
        ("me@origin.test", b"Subject: x\r\n\r\nX-Stream: bulk\r\n", False, "rest"),
        ("me@origin.test", b"Subject: x\r\n\r\n", True, "both"),
        ("me@elsewhere.test", b"Subject: x\r\n\r\n", True, "listener"),
        ("me@elsewhere.test", b"Subject: x\r\n\r\n", False, "rest"),
    ],
)
def test_the_first_route_whose_conditions_hold(
    chooser: Relay, reverse_path: str, content: bytes, second: bool, name: str
) -> None:
    with chooser.client(chooser.second if second else None) as client:  # type: ignore[attr-defined]
        client.ehlo()
        ids = [client.send(reverse_path, ["a@cond.test"], content) for _ in range(2)]
    for queue_id in ids:
        assert chooser.wait_event("delivery", id=queue_id)["next_hop"].endswith(f"/{name}")


# ------------------------------------------------------------------ several hosts


class Silent:
    """A host that takes connections and says nothing."""

    def __enter__(self) -> Silent:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._socket.getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    @property
    def connections(self) -> int:
        """How many have come so far that were not counted before."""
        self._socket.setblocking(False)
        count = 0
        while True:
            try:
                self._socket.accept()[0].close()
            except BlockingIOError:
                return count
            count += 1


def test_dead_slow_and_refusing_hosts_cost_their_time_once(tmp_path: Path) -> None:
    dead = free_port()
    with (
        Silent() as slow,
        SinkServer(answer=lambda step: "554 5.3.2 No" if step.verb == "CONNECT" else None) as refusing,
        SinkServer() as good,
    ):
        hops = [f"smtp://127.0.0.1:{port}" for port in (dead, slow.port, refusing.port, good.port)]
        route = {
            "recipients": ["*"],
            "next_hop": hops,
            "messages_per_connection": 1,
            "timeouts": {"greeting": "3s"},  # long enough for the good one, on a machine that is busy
        }
        with Relay(tmp_path, {"route": [route]}) as relay:
            for number in range(6):
                recipient = f"r{number}@there.test"
                relay.send(recipient)
                event = relay.wait_event("delivery", recipient=recipient)
                assert event["attempts"] == 1, "another host of the same route is no new attempt"
            assert event["next_hop"] == " ".join(hops)
            assert good.connections == 6
            assert (slow.connections, refusing.connections) == (1, 1)
            assert not relay.events("unreachable")


def test_all_hosts_are_down_and_one_comes_back(tmp_path: Path) -> None:
    sink = SinkServer()
    hops = [f"smtp://127.0.0.1:{free_port()}", sink.url]
    with Relay(tmp_path, {"route": [{"recipients": ["*"], "next_hop": hops}]}) as relay:
        queue_id = relay.send("a@there.test")
        relay.wait_event("deferral", id=queue_id)
        with sink:
            relay.wait_event("delivery", id=queue_id)


def test_hosts_that_share(tmp_path: Path) -> None:
    """60 connections by lot, 3 to 1: that one side gets none happens once in 30 million runs."""
    with SinkServer() as large, SinkServer() as small:
        shares = [{"to": large.url, "weight": 3}, {"to": small.url, "weight": 1}]
        route = {"recipients": ["*"], "next_hop": shares, "messages_per_connection": 1}
        with Relay(tmp_path, {"route": [route]}) as relay:
            for number in range(60):
                relay.send(f"r{number}@there.test")
            relay.wait(lambda: len(large.mails) + len(small.mails) == 60, "60 messages at one of the two")
            assert large.mails
            assert small.mails
            assert large.connections + small.connections == 60
            small.stop()
            for number in range(5):
                relay.send(f"s{number}@there.test")
            large.wait_mail("s4@there.test")


# ------------------------------------------------------------------ settings of a route


def test_two_routes_to_one_host_keep_their_own_settings(tmp_path: Path) -> None:
    with SinkServer() as sink:
        routes: list[dict[str, Any]] = [
            {"recipients": ["narrow.test"], "next_hop": sink.url, "connections": 1, "messages_per_connection": 2},
            {"recipients": ["small.test"], "next_hop": sink.url, "message_size": 2000},
            {"recipients": ["*"], "next_hop": sink.url, "connections": 5},
        ]
        with Relay(tmp_path, {"route": routes}) as relay:
            for _ in range(2):  # the second is known by its domain alone
                queue_id = relay.send("a@small.test", b"Subject: x\r\n\r\n" + b"x" * 70 * 30 + b"\r\n")
                bounce = relay.wait_event("bounce", id=queue_id)
                assert (bounce["reply"]["code"], bounce["reply"]["enhanced"]) == (552, "5.3.4")
                assert "exceeds the route's limit of 2000" in bounce["reply"]["text"]
                assert bounce["next_hop"] == sink.url
            relay.wait_empty()  # with the notifications to the senders, who go by the last route
            assert sink.count("MAIL FROM:<me@") == 0
            relay.wait_event("delivery", id=relay.send("a@small.test"))

            connections = sink.connections
            sink.hold(".")
            for number in range(4):
                relay.send(f"n{number}@narrow.test")
                relay.send(f"w{number}@wide.test")
            sink.wait(lambda: sink.open >= 5, "one narrow and four wide connections")
            sink.release()
            for number in range(4):
                relay.wait_event("delivery", recipient=f"n{number}@narrow.test")
            narrow = [mail.connection for mail in sink.mails if mail.recipients[0].endswith("@narrow.test")]
            wide = {mail.connection for mail in sink.mails if mail.recipients[0].endswith("@wide.test")}
            assert sorted(map(narrow.count, set(narrow))) == [2, 2]
            assert not wide & set(narrow)
            assert sink.connections > connections


def test_each_route_has_its_own_schedule_also_within_a_domain(tmp_path: Path) -> None:
    with SinkServer(answer=lambda step: "451 4.2.1 Later" if step.verb == "RCPT" else None) as sink:
        slow = {"first": "2h", "longest": "2h", "expire": "1d"}
        routes = [
            {"recipients": ["there.test"], "senders": ["news.test"], "next_hop": sink.url, "retry": slow},
            {"recipients": ["*"], "next_hop": sink.url},
        ]
        with Relay(tmp_path, {"route": routes}) as relay:
            patient = relay.send("a@there.test", reverse_path="x@news.test")
            hasty = relay.send("a@there.test")
            relay.wait_event("deferral", id=hasty, count=3)
            relay.wait_event("deferral", id=patient)
            (recipient,) = next(message for message in relay.queued() if message["id"] == patient)["recipients"]
            left = datetime.fromisoformat(recipient["next_attempt"]) - datetime.now(UTC)
            assert timedelta(hours=1) < left < timedelta(hours=3)
            assert len(relay.events("deferral", id=patient)) == 1


# ------------------------------------------------------------------ hand-offs


@pytest.fixture(scope="module")
def hand_offs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    folder = tmp_path_factory.mktemp("hand-offs")
    status = "cat >/dev/null; exit $0"
    lines = 'read a; read b; echo "$a / $b / $0 / $1"'
    routes = [
        {"recipients": ["box.test", "*.box.test"], "next_hop": f"maildir:{folder}/mail/{{domain}}/{{local}}"},
        {"recipients": ["status.test"], "next_hop": f"pipe:/bin/sh -c '{status}' {{detail}}", "pipe": USER},
        {"recipients": ["words.test"], "next_hop": f"pipe:/bin/sh -c '{lines}' {{recipient}} {{sender}}", "pipe": USER},
        {"recipients": ["all.test"], "next_hop": "pipe:/bin/grep -c ^Delivered-To:", "pipe": USER},
        {"recipients": ["slow.test"], "next_hop": "pipe:/bin/sleep 60", "pipe": {**USER, "timeout": "200ms"}},
        {"recipients": ["missing.test"], "next_hop": "pipe:/no/such/program", "pipe": USER},
        {"recipients": ["gone.test"], "next_hop": "bounce:550 5.1.6 Moved away"},
        {"recipients": ["later.test"], "next_hop": "bounce:450 4.2.1 Not today"},
        {"recipients": ["origin.test"], "next_hop": "discard:"},
    ]
    relay = Relay(
        folder / "relay", {"route": routes, "queue": {"retry": {"first": "1h", "longest": "1h", "expire": "1d"}}}
    )
    with relay:
        yield relay


def reply_of(relay: Relay, event: str, recipient: str) -> tuple[int, str, str]:
    reply = relay.wait_event(event, id=relay.send(recipient), recipient=recipient)["reply"]
    return reply["code"], reply["enhanced"], reply["text"]


def test_each_recipient_has_a_folder_and_a_file(hand_offs: Relay) -> None:
    recipients = ["ann@box.test", "Ben@box.test", "ann@sub.box.test", "/etc@box.test"]
    queue_id = hand_offs.send(recipients, b"Subject: x\r\n\r\nhello\r\n")
    bounce = hand_offs.wait_event("bounce", id=queue_id)
    assert (bounce["recipient"], bounce["reply"]["enhanced"]) == ("/etc@box.test", "5.1.3")
    assert bounce["reply"]["text"].startswith("the address cannot be the name of a folder")
    hand_offs.wait_event("delivery", id=queue_id, count=3)
    mail = hand_offs.folder.parent / "mail"
    for recipient, path in zip(recipients, ("box.test/ann", "box.test/Ben", "sub.box.test/ann"), strict=False):
        (file,) = (mail / path / "new").iterdir()
        head, _, _ = file.read_bytes().partition(b"\n\n")
        assert head.count(b"Delivered-To: ") == 1
        assert b"Return-Path: <me@origin.test>\nDelivered-To: " + recipient.encode() + b"\n" in head
        assert not list((mail / path / "tmp").iterdir())
    assert sorted(path.name for path in mail.iterdir()) == ["box.test", "sub.box.test"]


@pytest.mark.parametrize(
    ("status", "event", "reply"),
    [
        ("0", "delivery", (250, "2.0.0", "delivered")),
        ("67", "bounce", (550, "5.1.1", "the program ended with EX_NOUSER")),
        ("69", "bounce", (554, "5.5.0", "the program ended with EX_UNAVAILABLE")),
        ("75", "deferral", (451, "4.3.0", "the program ended with EX_TEMPFAIL")),
        ("1", "deferral", (451, "4.3.0", "the program ended with 1")),
    ],
)
def test_the_status_of_a_program_decides(
    hand_offs: Relay, status: str, event: str, reply: tuple[int, str, str]
) -> None:
    assert reply_of(hand_offs, event, f"u+{status}@status.test") == reply


def test_a_program_has_its_words_and_the_message(hand_offs: Relay) -> None:
    code, _, text = reply_of(hand_offs, "delivery", '"$(id) x"@words.test')
    assert code == 250
    assert text == (
        'Return-Path: <me@origin.test> / Delivered-To: "$(id) x"@words.test / "$(id) x"@words.test / me@origin.test'
    )


def test_a_program_that_names_no_recipient_runs_once_for_all(hand_offs: Relay) -> None:
    queue_id = hand_offs.send(["a@all.test", "b@all.test"])
    for recipient in ("a@all.test", "b@all.test"):
        assert hand_offs.wait_event("delivery", id=queue_id, recipient=recipient)["reply"]["text"] == "2"


def test_programs_that_cannot_be_run_or_take_too_long_defer(hand_offs: Relay) -> None:
    assert reply_of(hand_offs, "deferral", "a@slow.test") == (451, "4.3.0", "the program took too long and was killed")
    code, enhanced, text = reply_of(hand_offs, "deferral", "a@missing.test")
    assert (code, enhanced) == (451, "4.3.5")
    assert "/no/such/program" in text


def test_replies_of_the_configuration(hand_offs: Relay) -> None:
    assert reply_of(hand_offs, "bounce", "a@gone.test") == (550, "5.1.6", "Moved away")
    assert reply_of(hand_offs, "deferral", "a@later.test") == (450, "4.2.1", "Not today")


# ------------------------------------------------------------------ a reload


@pytest.fixture
def room() -> Iterator[Path]:
    """A folder for programs, whoever they run as; pytest's own are closed to others. They end with it."""
    with tempfile.TemporaryDirectory(prefix="angarium-programs-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


def test_a_reload_changes_the_way_of_mail_that_is_queued(tmp_path: Path) -> None:
    """What waits for a dead host untouched goes at once; what was tried, at its next attempt: when it is asked for."""
    with SinkServer() as sink:
        dead = [{"recipients": ["*"], "next_hop": f"smtp://127.0.0.1:{free_port()}"}]
        retry = {"first": "1h", "longest": "1h", "expire": "1d"}
        with Relay(tmp_path, {"route": dead, "queue": {"retry": retry}}) as relay:
            relay.wait_event("deferral", id=relay.send("r0@there.test"))
            ids = {f"r{number}@there.test": relay.send(f"r{number}@there.test") for number in range(1, 10)}
            relay.wait(lambda: relay.summary()["messages"] == 10, "ten messages to wait")
            relay.reload({"route": [{"recipients": ["*"], "next_hop": sink.url}]})
            # each probe of the dead host was an attempt of one of them
            tried = {event["recipient"] for event in relay.events("deferral")}
            assert "r0@there.test" in tried
            untouched = ids.keys() - tried
            assert untouched
            for recipient in untouched:
                sink.wait_mail(recipient)
            assert not [mail for mail in sink.mails if mail.recipients[0] in tried], "their schedule is their own"
            admin = f"127.0.0.1:{relay.admin_port}"
            command = ("queue", "retry", "--all", "--yes", "--admin", admin)
            assert run_command(*command).returncode == 0
            for recipient in tried:
                sink.wait_mail(recipient)
            relay.wait_empty()


def test_mail_that_is_on_its_way_is_neither_lost_nor_doubled_by_a_reload(tmp_path: Path, room: Path) -> None:
    (room / "wait").mkdir()
    script = f"while test -d {room}/wait; do sleep 0.1; done; echo old"
    with SinkServer() as old, SinkServer() as new:
        routes = [
            {"recipients": ["prog.test"], "next_hop": f"pipe:/bin/sh -c '{script}'", "pipe": USER},
            {"recipients": ["*"], "next_hop": old.url},
        ]
        with Relay(tmp_path, {"route": routes}) as relay:
            old.hold(".")
            relay.send("a@there.test")
            old.wait_line("BDAT")
            program = relay.send("a@prog.test")
            relay.wait(lambda: relay.summary()["by_state"]["ready"] == 2, "both to be under way")
            relay.reload({"route": [{"recipients": ["*"], "next_hop": new.url}]})
            (room / "wait").rmdir()
            relay.send("b@there.test")
            new.wait_mail("b@there.test")
            relay.wait_event("delivery", id=program)
            old.release()
            relay.wait_empty()
            assert [mail.recipients for mail in old.mails] == [["a@there.test"]]
            assert [mail.recipients for mail in new.mails] == [["b@there.test"]]
            assert relay.wait_event("delivery", id=program)["reply"]["text"] == "old"
            assert not relay.events("in_doubt")


def test_mail_for_a_dead_host_does_not_hold_up_mail_of_the_same_domain_that_goes_elsewhere(tmp_path: Path) -> None:
    with SinkServer() as sink:
        dead = f"smtp://127.0.0.1:{free_port()}"
        routes = [
            {"recipients": ["there.test"], "senders": ["unlucky.test"], "next_hop": dead},
            {"recipients": ["*"], "next_hop": sink.url},
        ]
        sink.answer = lambda step: "451 4.2.1 Later" if step.verb == "RCPT" and step.number <= 3 else None
        with Relay(tmp_path, {"route": routes}) as relay:
            for number in range(5):
                relay.send(f"u{number}@there.test", reverse_path="me@unlucky.test")
            relay.wait_event("unreachable", count=2)
            for number in range(3):
                relay.send(f"r{number}@there.test")
                relay.wait_event("deferral", recipient=f"r{number}@there.test")
            for number in range(3):
                sink.wait_mail(f"r{number}@there.test")
            assert {event["next_hop"] for event in relay.events("unreachable")} == {dead}


def test_a_program_that_was_under_way_when_the_worker_died_is_in_doubt_and_runs_again(
    tmp_path: Path, room: Path
) -> None:
    # the first one runs as long as the test
    script = f"mkdir {room}/first 2>/dev/null && while test -d {room}/first; do sleep 0.1; done; echo done"
    routes = [{"recipients": ["*"], "next_hop": f"pipe:/bin/sh -c '{script}'", "pipe": USER}]
    with Relay(tmp_path, {"route": routes}) as relay:
        queue_id = relay.send("a@prog.test")
        relay.wait((room / "first").exists, "the program to run")
        (pid,) = relay.worker_pids()
        relay.kill_process(pid)
        relay.wait_event("in_doubt", id=queue_id)
        relay.wait_event("delivery", id=queue_id)
        relay.wait_empty()


def test_no_more_programs_run_at_a_time_than_the_route_says(tmp_path: Path) -> None:
    def times(seconds: float) -> str:
        return f"pipe:/bin/sh -c 'a=$(date +%s%N); sleep {seconds}; echo $a $(date +%s%N)'"

    routes = [
        {"recipients": ["one.test"], "next_hop": times(0.2), "connections": 1, "pipe": USER},
        {"recipients": ["four.test"], "next_hop": times(1), "connections": 4, "pipe": USER},
    ]
    with Relay(tmp_path, {"route": routes}) as relay:
        for number in range(4):
            relay.send(f"r{number}@four.test")
            relay.send(f"r{number}@one.test")

        def runs(domain: str) -> list[tuple[int, int]]:
            texts = [
                relay.wait_event("delivery", recipient=f"r{number}@{domain}")["reply"]["text"] for number in range(4)
            ]
            return sorted((int(begin), int(end)) for begin, end in map(str.split, texts))

        one, four = runs("one.test"), runs("four.test")
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(one))
        assert any(end > begin for (_, end), (begin, _) in itertools.pairwise(four))
