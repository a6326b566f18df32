"""Notifications through the whole relay: from a client's NOTIFY to what arrives at the sender's own host."""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.peers import EXTENSIONS, Postfix, SinkServer, Step
from tests.support.ports import free_port
from tests.support.relay import Relay, run_command

if TYPE_CHECKING:
    from collections.abc import Iterator

MAIL = b"From: me@origin.test\r\nSubject: invoice 7\r\nMessage-ID: <7@origin.test>\r\n\r\nHello.\r\n"
WITHOUT_DSN = tuple(keyword for keyword in EXTENSIONS if keyword != "DSN")


def refuse_nobody(step: Step) -> str | None:
    return "550 5.1.1 No such user" if step.verb == "RCPT" and "nobody" in step.argument else None


class Town:
    """A relay, the sender's host `origin`, and hosts with and without DSN."""

    def __init__(self, folder: Any, **config: Any) -> None:
        self.origin = SinkServer(extensions=WITHOUT_DSN)
        self.modern = SinkServer(answer=refuse_nobody)
        self.plain = SinkServer(extensions=WITHOUT_DSN, answer=refuse_nobody)
        self.maildir = folder / "Maildir"
        retry = {"first": "200ms", "factor": 1.0, "longest": "200ms", "expire": "1h", "warn_after": "1s", "jitter": 0.0}
        routes = [
            {"recipients": ["origin.test"], "next_hop": self.origin.url},
            {"recipients": ["modern.test"], "next_hop": self.modern.url},
            {"recipients": ["plain.test"], "next_hop": self.plain.url},
            {"recipients": ["down.test"], "next_hop": f"smtp://127.0.0.1:{free_port()}"},
            {"recipients": ["box.test"], "next_hop": f"maildir:{self.maildir}"},
            {"recipients": ["*"], "next_hop": "discard:"},
        ]
        self.relay = Relay(folder, {"route": routes, "queue": {"retry": retry | config.pop("retry", {})}} | config)

    def __enter__(self) -> Town:
        for server in (self.origin, self.modern, self.plain):
            server.start()
        self.relay.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.relay.__exit__(None, None, None)
        for server in (self.origin, self.modern, self.plain):
            server.stop()

    def send(self, sender: str, *recipients: str, parameters: str = "", content: bytes = MAIL) -> str:
        """recipients: `ADDRESS` or `ADDRESS NOTIFY=...`."""
        with self.relay.client() as client:
            client.ehlo()
            client.expect(250, f"MAIL FROM:<{sender}> {parameters}".rstrip())
            for recipient in recipients:
                address, _, rest = recipient.partition(" ")
                client.expect(250, f"RCPT TO:<{address}> {rest}".rstrip())
            client.expect(354, "DATA")
            client.write(content + b".\r\n")
            return client.queued()

    def notification(self, sender: str) -> tuple[EmailMessage, list[Any]]:
        """The only notification that came to sender, and the groups of its delivery status."""
        mail = self.origin.wait_mail(sender)
        assert mail.reverse_path == ""
        assert len(self.origin.to(sender)) == 1
        message = email.message_from_bytes(mail.content, policy=email.policy.SMTPUTF8)
        assert isinstance(message, EmailMessage)
        return message, list(message.iter_parts())[1].get_payload()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with Town(tmp_path_factory.mktemp("notifications")) as running:
        yield running


def actions(groups: list[Any]) -> dict[str, str]:
    return {group["Final-Recipient"].partition("; ")[2]: group["Action"] for group in groups[1:]}


def test_a_failure_is_told_with_all_that_was_asked_for(town: Town) -> None:
    queue_id = town.send(
        "a@origin.test",
        "nobody@plain.test NOTIFY=FAILURE ORCPT=rfc822;Mr+2BNobody@example.com",
        parameters="RET=HDRS ENVID=QQ+2B314",
    )
    message, groups = town.notification("a@origin.test")
    assert message["Subject"] == "Your mail could not be delivered"
    assert message["Received"].startswith("by relay.test id ")
    assert groups[0]["Original-Envelope-Id"] == "QQ+314"
    assert groups[1]["Original-Recipient"] == "rfc822; Mr+Nobody@example.com"
    assert groups[1]["Final-Recipient"] == "rfc822; nobody@plain.test"
    assert groups[1]["Diagnostic-Code"] == "smtp; 550 5.1.1 No such user"
    text, _, original = message.iter_parts()
    assert original.get_content_type() == "text/rfc822-headers"
    assert queue_id in text.get_content()
    assert "invoice 7" in text.get_content()
    town.relay.wait_event("notification", about=queue_id, **{"class": "failed"})


def test_a_host_with_dsn_gets_the_parameters_and_tells_itself(town: Town) -> None:
    queue_id = town.send(
        "b@origin.test",
        "bob@modern.test NOTIFY=SUCCESS,DELAY ORCPT=rfc822;Bob@example.com",
        parameters="RET=FULL ENVID=QQ315",
    )
    mail = town.modern.wait_mail("bob@modern.test")
    assert "RET=FULL ENVID=QQ315" in mail.parameters
    town.modern.wait_line("RCPT TO:<bob@modern.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;Bob@example.com")
    town.relay.wait_event("delivery", id=queue_id)
    town.relay.wait(lambda: all(entry["id"] != queue_id for entry in town.relay.queued()), "the end of the message")
    assert town.origin.to("b@origin.test") == []
    assert town.relay.events("notification", about=queue_id) == []


def test_a_host_without_dsn_gets_none_and_the_sender_is_told_that_it_was_relayed(town: Town) -> None:
    town.send(
        "c@origin.test",
        "bob@plain.test NOTIFY=SUCCESS ORCPT=rfc822;Bob@example.com",
        "eve@plain.test NOTIFY=FAILURE",
        "ann@plain.test",
        "tim@plain.test NOTIFY=NEVER",
        "nobody@plain.test NOTIFY=NEVER",
        parameters="RET=FULL ENVID=QQ316",
    )
    mail = town.plain.wait_mail("bob@plain.test")
    assert "ENVID" not in mail.parameters
    assert "RET" not in mail.parameters
    town.plain.wait_line("RCPT TO:<bob@plain.test>")
    message, groups = town.notification("c@origin.test")
    assert actions(groups) == {"bob@plain.test": "relayed"}
    assert groups[1]["Original-Recipient"] == "rfc822; Bob@example.com"
    assert groups[1]["Status"] == "2.0.0"
    assert list(message.iter_parts())[2].get_content_type() == "text/rfc822-headers", "RET is about failures"


def test_hand_off_on_this_machine_is_a_delivery(town: Town) -> None:
    town.send("d@origin.test", "box@box.test NOTIFY=SUCCESS", "gone@elsewhere.test")
    _, groups = town.notification("d@origin.test")
    assert actions(groups) == {"box@box.test": "delivered"}
    assert len(list((town.maildir / "new").iterdir())) == 1
    town.send("e@origin.test", "gone@elsewhere.test NOTIFY=SUCCESS")
    assert actions(town.notification("e@origin.test")[1]) == {"gone@elsewhere.test": "delivered"}


def test_a_delay_is_told_once(town: Town) -> None:
    queue_id = town.send("f@origin.test", "bob@down.test NOTIFY=DELAY")
    message, groups = town.notification("f@origin.test")
    assert message["Subject"] == "Your mail is delayed"
    assert actions(groups) == {"bob@down.test": "delayed"}
    assert groups[1]["Status"][0] == "4"
    received = email.utils.parsedate_to_datetime(groups[0]["Arrival-Date"])
    until = email.utils.parsedate_to_datetime(groups[1]["Will-Retry-Until"])
    assert (until - received).total_seconds() == 3600
    before = len(town.relay.events("deferral", id=queue_id))
    # a host that is down is left alone for twice as long each time
    town.relay.wait_event("deferral", id=queue_id, count=before + 2, patience_s=60)
    assert len(town.relay.events("notification", about=queue_id)) == 1


def test_a_warning_is_not_repeated_after_a_crash(tmp_path_factory: pytest.TempPathFactory) -> None:
    with Town(tmp_path_factory.mktemp("crash")) as town:
        queue_id = town.send("g@origin.test", "bob@down.test")
        town.notification("g@origin.test")
        deferrals = len(town.relay.events("deferral", id=queue_id))
        # the journal was flushed meanwhile
        town.relay.wait_event("deferral", id=queue_id, count=deferrals + 1, patience_s=60)
        town.relay.kill()
        town.relay.start()
        deferrals = len(town.relay.events("deferral", id=queue_id))
        town.relay.wait_event("deferral", id=queue_id, count=deferrals + 3)
        assert len(town.relay.events("notification", about=queue_id)) == 1


def test_the_null_reverse_path_is_told_nothing(town: Town) -> None:
    queue_id = town.send("", "nobody@plain.test NOTIFY=SUCCESS,FAILURE,DELAY")
    town.relay.wait_event("double_bounce", id=queue_id)
    town.relay.wait(lambda: all(entry["id"] != queue_id for entry in town.relay.queued()), "the end of the message")
    assert town.relay.events("notification", about=queue_id) == []
    assert town.relay.metrics()["angarium_outcome_double_bounces_total"] == 1


def test_internationalised_mail(town: Town) -> None:
    content = "From: me@origin.test\r\nSubject: Grüße\r\n\r\nHallo.\r\n".encode()
    town.send(
        "h@origin.test",
        "nobodÿ.nobody@plain.test NOTIFY=FAILURE ORCPT=utf-8;nobodÿ@example.com",
        parameters="SMTPUTF8 BODY=8BITMIME",
        content=content,
    )
    message, groups = town.notification("h@origin.test")
    assert groups[1]["Final-Recipient"] == r"utf-8; nobod\x{FF}.nobody@plain.test"
    assert groups[1]["Original-Recipient"] == r"utf-8; nobod\x{FF}@example.com"
    assert town.origin.to("h@origin.test")[0].parameters.split()[1:] == [], "neither SMTPUTF8 nor 8BITMIME"
    text, _, original = message.iter_parts()
    assert "<nobodÿ.nobody@plain.test>" in text.get_content()
    assert "Grüße" in text.get_content()
    assert original.get_content_type() == "message/global"


def test_the_operator_s_words(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("words")
    texts = folder / "texts"
    texts.mkdir()
    (texts / "de.toml").write_text('[expired]\nsubject = "Zu spät: {subject}"\n')
    notification = {"templates": str(texts), "languages": ["de", "en"], "original_size": 10}
    with Town(folder, notification=notification, retry={"expire": "1s", "warn_after": "0s"}) as town:
        town.send("i@origin.test", "bob@down.test")
        message, groups = town.notification("i@origin.test")
        assert message["Subject"] == "Zu spät: invoice 7"
        text, _, original = message.iter_parts()
        assert text["Content-Language"] == "de, en"
        assert text.get_content().index("trotz wiederholter Versuche") < text.get_content().index("in all the time")
        assert groups[1]["Action"] == "failed"
        assert groups[1]["Status"] == "4.4.7"
        assert original.get_content_type() == "text/rfc822-headers", "the message is larger than original_size"
    (texts / "de.toml").write_text('[expired]\nsubject = "Zu spät: {betreff}"\n')
    done = run_command("check", "--config", str(town.relay.config_file))
    assert done.returncode == 1
    assert (
        f"notification.templates: {texts}/de.toml:2:1: expired.subject: {{betreff}} means nothing here" in done.stdout
    )


# ---------------------------------------------------------------- Postfix


@pytest.fixture(scope="module", params=["", "dsn"], ids=["with DSN", "without DSN"])
def street(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Postfix, Relay]]:
    with (
        Postfix(hidden=request.param) as postfix,
        Relay(
            tmp_path_factory.mktemp("street"), {"route": [{"recipients": ["*.postfix.test"], "next_hop": postfix.url}]}
        ) as relay,
    ):
        yield postfix, relay


@pytest.mark.peer
def test_postfix(street: tuple[Postfix, Relay]) -> None:
    """Sender and recipient are both at Postfix: where it offers DSN, it tells of success, else this relay does."""
    postfix, relay = street
    with_dsn = postfix._hidden == ""
    with relay.client() as client:
        client.ehlo()
        client.expect(250, "MAIL FROM:<me@one.postfix.test> RET=HDRS ENVID=QQ317")
        client.expect(250, "RCPT TO:<bob@two.postfix.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Bob+2BB@example.com")
        client.expect(250, "RCPT TO:<nobody@two.postfix.test> NOTIFY=FAILURE ORCPT=rfc822;No@example.com")
        client.expect(354, "DATA")
        client.write(MAIL + b".\r\n")
        queue_id = client.queued()

    def told() -> dict[str, tuple[str, Any]]:
        found = {}
        for octets in postfix.arrived():
            message = email.message_from_bytes(octets, policy=email.policy.default)
            if message.get_content_type() == "multipart/report":
                groups = list(message.iter_parts())[1].get_payload()  # type: ignore[attr-defined]
                assert groups[0]["Original-Envelope-Id"] == "QQ317"
                for group in groups[1:]:
                    found[group["Original-Recipient"].replace(" ", "")] = (groups[0]["Reporting-MTA"], group["Action"])
        return found

    relay.wait(lambda: len(told()) == 2, "two notifications in Postfix's Maildir")
    ours, theirs = "dns; relay.test", "dns; mail.postfix.test"
    assert told() == {
        "rfc822;No@example.com": (ours, "failed"),
        "rfc822;Bob+B@example.com": (theirs, "delivered") if with_dsn else (ours, "relayed"),
    }
    event = relay.wait_event("notification", about=queue_id)
    assert event["class"] == "failed", "success and failure of one transaction are told in one notification"
