"""Mail to domains of ours: who is taken from strangers, how recipients are verified, LMTP in."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.support.clients import Dialogue, stuffed
from tests.support.dovecot import Dovecot
from tests.support.peers import SinkServer, Step
from tests.support.ports import free_port
from tests.support.relay import Relay, run_command
from tests.support.relay_tricks import OURS, TRICKS
from tests.support.submission import Submission

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = b"Subject: hello\r\n\r\nHello.\r\n"
PROBES = 'angarium_ingress_recipient_probes_total{result="%s"}'
CHECKED = 'angarium_ingress_recipients_checked_total{result="%s"}'
REJECTED = 'angarium_ingress_rejections_total{reason="%s"}'


class Inbound(Relay):
    """A relay with listeners of the role inbound: by SMTP, and by LMTP on TCP and on a Unix socket."""

    def __init__(self, folder: Path, listener: dict[str, Any], next_hop: str, domain: str = "box.test") -> None:
        self.lmtp_port = free_port()
        super().__init__(folder)
        common = {"role": "inbound", "domains": [domain], **listener}
        self.config["listener"] = [
            {"name": "mx", "listen": f"127.0.0.1:{self.smtp_port}", **common},
            {"name": "lmtp", "listen": f"127.0.0.1:{self.lmtp_port}", "protocol": "lmtp", **common},
            {"name": "local", "listen": f"unix:{folder / 'lmtp'}", "protocol": "lmtp", **common},
        ]
        self.config["route"] = [{"recipients": ["*"], "next_hop": next_hop}]

    def greeted(self, way: str) -> Dialogue:
        """A stranger, by "smtp", by "lmtp", or by "unix", which is LMTP as well."""
        if way == "unix":
            client = Dialogue("", 0, path=str(self.folder / "lmtp"))
        else:
            client = self.client(self.smtp_port if way == "smtp" else self.lmtp_port)
        client.expect(250, "EHLO client.test" if way == "smtp" else "LHLO client.test")
        return client

    @contextmanager
    def transaction(self, *, lmtp: bool = False, way: str = "") -> Iterator[Dialogue]:
        """A stranger behind MAIL."""
        with self.greeted(way or ("lmtp" if lmtp else "smtp")) as client:
            client.expect(250, "MAIL FROM:<me@origin.test>")
            yield client

    def rcpt(self, recipient: str, *, lmtp: bool = False) -> tuple[int, str]:
        """What a stranger is answered to RCPT."""
        with self.transaction(lmtp=lmtp) as client:
            code, lines = client.command(f"RCPT TO:<{recipient}>")
            return code, lines[0]


# ---------------------------------------------------------------- Dovecot


@pytest.fixture(scope="module")
def dovecot() -> Iterator[Dovecot]:
    with Dovecot(["ada@box.test", "bob@box.test", "full@box.test"], full=["full@box.test"]) as peer:
        yield peer


@pytest.fixture(scope="module", params=["tcp", "unix"])
def in_front(
    dovecot: Dovecot, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Inbound]:
    hop = dovecot.url if request.param == "tcp" else dovecot.unix_url
    listener = {"verify_recipients": "call-ahead", "call_ahead": hop}
    with Inbound(tmp_path_factory.mktemp(request.param), listener, hop) as relay:
        yield relay


@pytest.mark.peer
@pytest.mark.parametrize("way", ["smtp", "lmtp", "unix"])
def test_mail_from_a_stranger_arrives_in_a_mailbox(dovecot: Dovecot, in_front: Inbound, way: str) -> None:
    mark = f"X-Mark: {in_front.folder.name}.{way}\r\n".encode()
    with in_front.transaction(way=way) as client:
        client.expect(250, "RCPT TO:<ada@box.test>")
        client.expect(550, "RCPT TO:<nobody@box.test>")
        client.expect(250, "RCPT TO:<bob@box.test>")
        client.expect(354, "DATA")
        client.write(stuffed(mark + CONTENT))
        ids = {client.queued() for _ in range(1 if way == "smtp" else 2)}
    assert len(ids) == 1
    in_front.wait_event("delivery", id=ids.pop(), count=2)
    for user in ("ada@box.test", "bob@box.test"):
        (octets,) = in_front.wait(
            lambda user=user: [octets for octets in dovecot.messages(user) if mark in octets], f"mail for {user}"
        )
        assert octets.endswith(mark + CONTENT)
        assert (b" with ESMTP id " if way == "smtp" else b" with LMTP id ") in octets.partition(b"by relay.test")[2][
            :100
        ]


@pytest.mark.peer
def test_an_unknown_mailbox_is_refused_at_rcpt_and_nobody_is_told_of_it(in_front: Inbound) -> None:
    before = in_front.metrics()
    code, text = in_front.rcpt("stranger@box.test")
    assert code == 550
    assert text.startswith("5.1.1 The mailbox host refuses the recipient: 550 ")
    event = in_front.wait_event("rejection", recipient="stranger@box.test")
    assert event["reply"]["enhanced"] == "5.1.1"
    for lmtp in (False, True):
        assert in_front.rcpt("stranger@box.test", lmtp=lmtp) == (code, text)
    in_front.wait(
        lambda: in_front.metrics()[PROBES % "unknown"] > before[PROBES % "unknown"], "the probe in the metrics"
    )
    after = in_front.metrics()
    assert after[REJECTED % "unknown_recipient"] == before[REJECTED % "unknown_recipient"] + 3
    assert after[CHECKED % "unknown"] == before[CHECKED % "unknown"] + 3
    assert in_front.events("bounce") == in_front.events("notification") == []


@pytest.mark.peer
def test_explain_says_what_a_stranger_is_answered(in_front: Inbound) -> None:
    for address, reply in (
        ("ada@box.test", "250 2.1.5 Recipient OK"),
        ("ada@elsewhere.test", "550 5.7.1 Relaying denied"),
        ("a%elsewhere.test@box.test", "550 5.7.1 Relaying denied: the local part names another destination"),
    ):
        answer = in_front.api(f"explain?address={quote(address)}")["inbound"]
        assert answer == [{"listener": name, "reply": reply} for name in ("mx", "lmtp", "local")]
    text = run_command("explain", "nobody@box.test", "--admin", f"127.0.0.1:{in_front.admin_port}").stdout
    assert "mx answers a stranger 550 5.1.1 The mailbox host refuses" in text


@pytest.mark.peer
def test_a_full_mailbox_is_no_unknown_one(in_front: Inbound) -> None:
    code, text = in_front.rcpt("full@box.test")
    assert (code, text[:5]) in {(250, "2.1.5"), (550, "5.2.2"), (451, "4.4.3")}
    if code != 250:
        assert "5.1.1" not in text


@pytest.mark.peer
def test_everything_else_is_refused(in_front: Inbound) -> None:
    for lmtp in (False, True):
        assert in_front.rcpt("ada@elsewhere.test", lmtp=lmtp) == (550, "5.7.1 Relaying denied")
        code, text = in_front.rcpt("ada%elsewhere.test@box.test", lmtp=lmtp)
        assert (code, text[:5]) == (550, "5.7.1")


# ---------------------------------------------------------------- a mailbox host that a test plays


class Box:
    """A mailbox host that knows ada and what is told to it."""

    def __init__(self) -> None:
        self.says = {"ada@box.test": "250 2.1.5 OK"}
        self.server = SinkServer(answer=self._answer)

    def _answer(self, step: Step) -> str | None:
        if step.verb != "RCPT":
            return None
        return self.says.get(step.argument.partition("<")[2].partition(">")[0], "550 5.1.1 no such user")


@pytest.fixture
def box() -> Iterator[Box]:
    made = Box()
    with made.server:
        yield made


def test_while_one_is_verified_others_go_on(box: Box, tmp_path: Path) -> None:
    listener = {"verify_recipients": "call-ahead", "call_ahead": box.server.url}
    with Inbound(tmp_path, listener, box.server.url) as relay:
        assert relay.rcpt("ada@box.test")[0] == 250
        box.server.hold("RCPT")
        with relay.transaction() as waiting, relay.transaction() as same:
            for client in (waiting, same):
                client.write(b"RCPT TO:<new@box.test>\r\nRCPT TO:<ada@box.test>\r\nNOOP\r\n")
            box.server.wait_line("RCPT TO:<new@box.test>")
            assert relay.rcpt("ada@box.test")[0] == 250  # known
            assert relay.rcpt("x@elsewhere.test")[0] == 550
            box.server.release()
            for client in (waiting, same):
                assert [client.read()[0] for _ in range(3)] == [550, 250, 250]
        assert box.server.count("RCPT TO:<new@box.test>") == 1
        assert box.server.count("MAIL FROM:<>") == box.server.count("MAIL") == 2
        assert box.server.mails == []


def test_a_client_that_goes_while_it_waits_harms_nobody(box: Box, tmp_path: Path) -> None:
    listener = {"verify_recipients": "call-ahead", "call_ahead": box.server.url}
    with Inbound(tmp_path, listener, box.server.url) as relay:
        box.server.hold("RCPT")
        with relay.transaction() as client:
            client.write(b"RCPT TO:<new@box.test>\r\n")
            box.server.wait_line("RCPT TO:<new@box.test>")
        box.server.release()
        relay.wait(lambda: relay.metrics()["angarium_ingress_open_connections"] == 0, "the client to be gone")
        assert relay.rcpt("new@box.test")[0] == 550
        assert relay.worker_pids()
        assert "Traceback" not in relay.stderr


@pytest.mark.parametrize(("unreachable", "code"), [("defer", 451), ("accept", 250)])
def test_a_mailbox_host_that_cannot_be_reached(box: Box, tmp_path: Path, unreachable: str, code: int) -> None:
    verification = {"unreachable": unreachable, "timeout": "5s"}
    listener = {"verify_recipients": "call-ahead", "call_ahead": box.server.url, "verification": verification}
    with Inbound(tmp_path, listener, box.server.url) as relay:
        assert relay.rcpt("ada@box.test")[0] == 250
        assert relay.rcpt("nobody@box.test")[0] == 550
        box.server.stop()
        assert relay.rcpt("new@box.test")[0] == code
        assert relay.rcpt("ada@box.test")[0] == 250  # known before
        assert relay.rcpt("nobody@box.test")[0] == 550
        event = relay.wait_event("mailbox_host")
        assert event["class"] == "unreachable"
        assert event["next_hop"] == box.server.url
        assert event["text"]
        name = CHECKED % ("deferred" if code == 451 else "unchecked")
        assert relay.metrics()[name] == 1
        if code == 451:
            refused = relay.wait_event("rejection", recipient="new@box.test")["reply"]
            assert (refused["code"], refused["enhanced"]) == (451, "4.4.3")
            assert relay.metrics()[REJECTED % "unverified_recipient"] == 1


def test_without_the_process_that_asks_recipients_are_deferred_and_the_known_are_taken(
    box: Box, tmp_path: Path
) -> None:
    listener = {"verify_recipients": "call-ahead", "call_ahead": box.server.url}
    with Inbound(tmp_path, listener, box.server.url) as relay:
        assert relay.rcpt("ada@box.test")[0] == 250
        lookup = relay.api("status")["lookup"]["status"]["pid"]
        relay.kill_process(lookup)
        assert relay.rcpt("ada@box.test")[0] == 250
        # its successor answers; nothing that it knew is lost to the workers
        assert relay.rcpt("nobody@box.test")[0] == 550


# ---------------------------------------------------------------- a list


def test_a_list_that_changes(tmp_path: Path) -> None:
    file = tmp_path / "recipients"
    file.write_text("ada@box.test\npostmaster@box.test\n")
    listener = {"verify_recipients": "list", "recipient_file": str(file), "recipient_delimiter": "+"}
    with Inbound(tmp_path / "relay", listener, "discard:") as relay:
        for recipient in ("ada@box.test", "Ada@BOX.test", "ada+lists@box.test", "Postmaster"):
            assert relay.rcpt(recipient)[0] == 250, recipient
        assert relay.rcpt("bob@box.test") == (550, "5.1.1 There is no such recipient here")
        fresh = tmp_path / "fresh"
        fresh.write_text("bob@box.test\n")
        os.replace(fresh, file)
        relay.wait_event("recipient_list", count=2)
        assert relay.rcpt("bob@box.test")[0] == 250
        assert relay.rcpt("ada@box.test", lmtp=True)[0] == 550
        fresh.write_text("cyd@box.test\nno address\n")
        os.replace(fresh, file)
        failed = relay.wait_event("recipient_list", **{"class": "failed"})
        assert "line 2" in failed["text"]
        assert relay.rcpt("bob@box.test")[0] == 250
        assert relay.rcpt("cyd@box.test")[0] == 550


# ---------------------------------------------------------------- LMTP, and strangers on every role


def test_an_unverified_message_by_lmtp_is_answered_for_each_recipient(tmp_path: Path) -> None:
    with Inbound(tmp_path, {"limits": {"message_size": "100KB"}}, "discard:") as relay:
        with relay.transaction(lmtp=True) as client:
            for name in ("a", "b", "c"):
                client.expect(250, f"RCPT TO:<{name}@box.test>")
            client.write(b"BDAT 6\r\nx: y\r\nBDAT 0 LAST\r\n")
            replies = [client.read() for _ in range(4)]
            assert [code for code, _ in replies] == [250, 250, 250, 250]
            assert len({lines[0] for _, lines in replies[1:]}) == 1
            client.expect(250, "MAIL FROM:<>")
            for name in ("a", "b"):
                client.expect(250, f"RCPT TO:<{name}@box.test>")
            client.expect(354, "DATA")
            client.write(b"x" * 200_000 + b"\r\n.\r\n")
            assert [client.read()[0] for _ in range(2)] == [552, 552]
            client.expect(221, "QUIT")
        relay.wait_empty()


def try_everything(client: Dialogue, *, anonymous: bool = True) -> None:
    """Every trick from one who has greeted. `anonymous`: MAIL needs no log-in."""
    for _, trick in TRICKS:
        code, lines = client.command("MAIL FROM:<a@scanner.test>" + ("" if trick.isascii() else " SMTPUTF8"))
        assert code == (250 if anonymous else 530), lines
        client.write(b"RCPT TO:" + trick.encode() + b"\r\n")
        replies = [client.read()[0] for _ in range(1 + trick.count("\n"))]
        assert all(code // 100 == 5 for code in replies), trick
        client.expect(503, "DATA")
        client.expect(250, "RSET")


def test_strangers_get_nowhere_on_a_running_relay(tmp_path: Path) -> None:
    limits = {"limits": {"errors": 1_000_000}}
    relay = Inbound(tmp_path, limits, "discard:", OURS)
    closed_port = free_port()
    relay.config["listener"].append(
        {
            "name": "relay",
            "listen": f"127.0.0.1:{closed_port}",
            "role": "relay",
            "relay_networks": ["192.0.2.0/24"],
            **limits,
        }
    )
    with relay:
        for way in ("smtp", "lmtp", "unix"):
            with relay.greeted(way) as client:
                try_everything(client)
        with relay.client(closed_port) as client:
            client.ehlo()
            try_everything(client)
        assert relay.summary()["messages"] == 0
        assert relay.events("reception") == []
        assert relay.metrics()[REJECTED % "relay"] > 100


def test_strangers_get_nowhere_on_a_submission_listener(tmp_path: Path) -> None:
    config = {"route": [{"recipients": ["*"], "next_hop": "discard:"}], "limits": {"errors": 1_000_000}}
    with Submission(tmp_path, config) as relay:
        assert isinstance(relay, Submission)
        with relay.client(relay.submission_port) as client:
            client.ehlo()
            try_everything(client, anonymous=False)
            client.start_tls()
            client.ehlo()
            try_everything(client, anonymous=False)
        assert relay.summary()["messages"] == 0
        assert relay.events("reception") == []
