"""A running node takes other log-ins, permissions and domains; sessions in every state go on."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from scramp import ScramClient  # type: ignore[import-untyped]

from angarium.policy.credentials_file import editing, make_entry
from tests.support.clients import stuffed
from tests.support.log_ins import coded, text_of
from tests.support.peers import SinkServer, Step
from tests.support.ports import free_port
from tests.support.relay import Relay
from tests.support.submission import LOG_IN, PASSWORD, Submission, plain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.clients import Dialogue

CONTENT = b"Subject: x\r\n\r\nHello.\r\n"
DISCARD = {"route": [{"recipients": ["*"], "next_hop": "discard:"}]}
OTHER, OTHERS_PASSWORD = "bob@example.org", "another battery"


def other_file(folder: Path) -> dict[str, str]:
    """[[credentials]] that know bob, and not alice."""
    path = folder / "others"
    with editing(path) as entries:
        entries[OTHER] = make_entry(OTHERS_PASSWORD)
    return {"kind": "file", "file": str(path)}


def code_of(client: Dialogue, log_in: str, password: str) -> int:
    return client.command(f"AUTH PLAIN {plain(log_in, password)}")[0]


def access_pid(relay: Relay) -> int:
    """0: there is none."""
    access = relay.api("status")["access"]
    return 0 if access is None or access["status"] is None else access["status"]["pid"]


# ------------------------------------------------------------------ log-ins


def test_log_ins_come_and_go_and_sessions_go_on(tmp_path: Path) -> None:
    first = {"kind": "file", "file": str(tmp_path / "node" / "users")}
    second = other_file(tmp_path)
    with Submission(tmp_path / "node", DISCARD) as relay, ExitStack() as stack:
        assert isinstance(relay, Submission)
        pids = relay.worker_pids()
        known, busy, fresh, prompted, proving, later = (stack.enter_context(relay.dialogue()) for _ in range(6))
        for client in (known, busy):
            assert code_of(client, LOG_IN, PASSWORD) == 235
        busy.envelope(LOG_IN, ["busy@dest.test"])
        busy.expect(354, "DATA")
        prompted.expect(334, "AUTH LOGIN " + coded(OTHER))
        scram = ScramClient(["SCRAM-SHA-256"], LOG_IN, PASSWORD)
        lines = proving.expect(334, f"AUTH SCRAM-SHA-256 {coded(scram.get_client_first())}")
        scram.set_server_first(text_of(lines))
        # added behind what was there: what had begun before goes on, with the process that follows
        assert relay.reload({"credentials": [first, second]})["changed"] == ["credentials"]
        assert prompted.command(coded(OTHERS_PASSWORD))[0] == 235
        proving.expect(334, coded(scram.get_client_final()))
        assert proving.command("")[0] == 235
        assert code_of(fresh, OTHER, "wrong") == 535
        assert code_of(fresh, OTHER, OTHERS_PASSWORD) == 235
        # removed: nobody logs in with it from now on, and who has stays
        relay.reload({"credentials": [second]})
        assert code_of(later, LOG_IN, PASSWORD) == 535
        assert code_of(later, OTHER, OTHERS_PASSWORD) == 235
        busy.write(stuffed(CONTENT))
        busy.queued()
        for client in (known, busy, prompted, proving, fresh, later):
            client.send(LOG_IN, ["you@dest.test"], CONTENT)
            client.expect(221, "QUIT")
        relay.wait_event("reception", recipients=["you@dest.test"], count=6)
        logins = [event["login"] for event in relay.events("reception", recipients=["you@dest.test"])]
        assert sorted(logins) == sorted([LOG_IN] * 3 + [OTHER] * 3)
        assert relay.worker_pids() == pids
        assert relay.metrics()['angarium_ingress_replies_total{class="4xx"}'] == 0


def test_a_log_in_of_another_kind_offers_other_mechanisms(tmp_path: Path) -> None:
    """With its next EHLO a session is told, and whoever does not ask is held to what is in force now."""
    keys = tmp_path / "keys.json"
    keys.write_text('{"keys": []}')
    tokens = {"kind": "oauth2", "jwks_file": str(keys), "issuer": "https://login.test", "audience": "mail"}
    with Submission(tmp_path / "node", DISCARD) as relay:
        assert isinstance(relay, Submission)
        with relay.dialogue() as asks, relay.dialogue() as insists:
            relay.reload({"credentials": [tokens]})
            assert asks.ehlo()["AUTH"] == "OAUTHBEARER XOAUTH2"
            assert code_of(insists, LOG_IN, PASSWORD) == 504
            assert insists.command(f"MAIL FROM:<{LOG_IN}>")[0] == 530
            relay.reload({"credentials": [{"kind": "file", "file": str(relay.users)}]})
            assert code_of(insists, LOG_IN, PASSWORD) == 235
            assert asks.ehlo()["AUTH"] == "SCRAM-SHA-256 PLAIN LOGIN"


def test_the_access_process_appears_with_the_first_credentials_and_goes_with_the_last(tmp_path: Path) -> None:
    submission = Submission(tmp_path / "node", DISCARD)
    there = submission.config["credentials"]
    port = free_port()
    open_to_all = {
        "name": "open",
        "listen": f"127.0.0.1:{port}",
        "role": "relay",
        "relay_networks": ["127.0.0.0/8"],
        "tls": "starttls",
    }
    guarded = open_to_all | {"mechanisms": ["PLAIN", "LOGIN"]}
    both = [*submission.config["listener"], guarded]
    submission.config["listener"] = [open_to_all]
    submission.config.pop("credentials")
    with submission as relay, ExitStack() as stack:
        assert isinstance(relay, Submission)
        pids = relay.worker_pids()
        assert relay.api("status")["access"] is None

        def secured() -> Dialogue:
            client = stack.enter_context(relay.client(port))
            client.ehlo()
            client.start_tls()
            client.ehlo()
            return client

        kept, busy, halfway = secured(), secured(), secured()
        assert "AUTH" not in kept.extensions
        assert code_of(kept, LOG_IN, PASSWORD) in {502, 503}
        busy.envelope("me@origin.test", ["busy@dest.test"])
        for turn in range(2):  # a second time, for a worker that has seen the process go
            relay.reload({"credentials": there, "listener": both})
            assert access_pid(relay) > 0
            assert kept.ehlo()["AUTH"] == "PLAIN LOGIN"
            halfway.expect(334, "AUTH LOGIN " + coded(LOG_IN))
            with relay.dialogue() as client:
                assert code_of(client, LOG_IN, "wrong") == 535
                assert code_of(client, LOG_IN, PASSWORD) == 235
                client.envelope(LOG_IN, [f"{turn}@dest.test"])
                client.expect(354, "DATA")
                was_there = access_pid(relay)
                relay.reload({"credentials": None, "listener": [open_to_all]})
                relay.wait(lambda pid=was_there: not os.path.exists(f"/proc/{pid}"), "the process to end")
                assert relay.api("status")["access"] is None
                client.write(stuffed(CONTENT))
                client.queued()
                client.send(LOG_IN, ["again@dest.test"], CONTENT)
                client.expect(221, "QUIT")
            assert halfway.command(coded(PASSWORD))[0] == 454  # there is nobody left to ask
            halfway.expect(250, "NOOP")
            assert "AUTH" not in kept.ehlo()
            assert code_of(kept, LOG_IN, PASSWORD) in {502, 503}
        busy.expect(354, "DATA")
        busy.write(stuffed(CONTENT))
        busy.queued()
        for client in (kept, busy, halfway):
            client.send("me@origin.test", ["kept@dest.test"], CONTENT)
        assert relay.worker_pids() == pids


# ------------------------------------------------------------------ permissions


def test_permissions_come_change_and_go_between_two_transactions(tmp_path: Path) -> None:
    own = {"name": "own", "log_ins": ["alice@*"], "reverse_paths": ["{log_in}"], "from_addresses": ["*"]}
    narrow = own | {"recipients": 1, "message_size": "1KB"}
    content = b"From: me@origin.test\r\n" + CONTENT
    with Submission(tmp_path, DISCARD) as relay, ExitStack() as stack:
        assert isinstance(relay, Submission)
        pids = relay.worker_pids()
        idle, mail, data = (stack.enter_context(relay.dialogue()) for _ in range(3))
        everybody = (idle, mail, data)
        for client in everybody:
            assert code_of(client, LOG_IN, PASSWORD) == 235
        for client in (mail, data):
            client.envelope("anybody@origin.test", ["a@dest.test"])
        data.expect(354, "DATA")
        data.write(b"From: me@origin.test\r\n")
        assert relay.reload({"permission": [own]})["changed"] == ["permission"]
        # within a transaction: as it began
        mail.expect(250, "RCPT TO:<b@dest.test>")
        mail.expect(354, "DATA")
        mail.write(stuffed(content))
        mail.queued()
        data.write(stuffed(CONTENT))
        data.queued()
        for client in everybody:
            assert client.command("MAIL FROM:<anybody@origin.test>")[0] == 550
        # changed, while two of them are under way
        mail.envelope(LOG_IN, ["a@dest.test"])
        data.envelope(LOG_IN, ["a@dest.test"])
        data.expect(354, "DATA")
        relay.reload({"permission": [narrow]})
        mail.expect(250, "RCPT TO:<b@dest.test>")
        mail.expect(354, "DATA")
        big = content + b"x" * 5000 + b"\r\n"
        for client in (mail, data):
            client.write(stuffed(big))
            client.queued()
        idle.ehlo()
        assert (idle.extensions["SIZE"], idle.extensions["LIMITS"]) == ("1000", "RCPTMAX=1")
        for client in everybody:
            assert client.command(f"MAIL FROM:<{LOG_IN}> SIZE=5000")[0] == 552
            client.expect(250, f"MAIL FROM:<{LOG_IN}>")
            client.expect(250, "RCPT TO:<a@dest.test>")
            assert client.command("RCPT TO:<b@dest.test>")[0] == 452
        # removed: who was held to it within a transaction still is, till its end
        relay.reload({"permission": None})
        for client in everybody:
            assert client.command("RCPT TO:<b@dest.test>")[0] == 452
            client.expect(354, "DATA")
            client.write(stuffed(content))
            client.queued()
            client.send("anybody@origin.test", ["a@dest.test", "b@dest.test"], content)
            client.expect(221, "QUIT")
        assert relay.worker_pids() == pids


# ------------------------------------------------------------------ domains of ours


class Box:
    """A mailbox host that knows what is told to it."""

    def __init__(self, *known: str) -> None:
        self.known = set(known)
        self.server = SinkServer(answer=self._answer)

    def _answer(self, step: Step) -> str | None:
        if step.verb != "RCPT":
            return None
        known = step.argument.partition("<")[2].partition(">")[0] in self.known
        return None if known else "550 5.1.1 no such user"


def inbound(folder: Path, **settings: Any) -> Relay:
    relay = Relay(folder, DISCARD)
    first = {"name": "mx", "listen": f"127.0.0.1:{relay.smtp_port}", "role": "inbound", "domains": ["one.test"]}
    relay.config["listener"] = [first | settings]
    return relay


def renewed(relay: Relay, **settings: Any) -> None:
    """A reload with other settings of its only listener; None takes one away."""
    changed = relay.config["listener"][0] | settings
    relay.reload({"listener": [{name: value for name, value in changed.items() if value is not None}]})


@pytest.fixture
def strangers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_domains_come_and_go(tmp_path: Path, strangers: ExitStack) -> None:
    with inbound(tmp_path) as relay:
        pids = relay.worker_pids()
        idle, mail, data = (strangers.enter_context(relay.client()) for _ in range(3))
        for client in (idle, mail, data):
            client.ehlo()
        mail.expect(250, "MAIL FROM:<me@origin.test>")
        data.envelope("me@origin.test", ["a@one.test"])
        data.expect(354, "DATA")
        renewed(relay, domains=["two.test"])
        # under way: as it began
        mail.expect(250, "RCPT TO:<a@one.test>")
        assert mail.command("RCPT TO:<a@two.test>")[0] == 550
        mail.expect(354, "DATA")
        for client in (mail, data):
            client.write(stuffed(CONTENT))
            client.queued()
        for client in (idle, mail, data):
            client.expect(250, "MAIL FROM:<me@origin.test>")
            assert client.command("RCPT TO:<a@one.test>")[0] == 550
            client.expect(250, "RCPT TO:<a@two.test>")
            client.expect(221, "QUIT")
        answer = relay.api("explain?address=a@two.test")["inbound"]
        assert answer == [{"listener": "mx", "reply": "250 2.1.5 Recipient OK"}]
        assert relay.worker_pids() == pids


def test_a_list_of_recipients_follows_another_and_then_a_call_ahead(tmp_path: Path, strangers: ExitStack) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("ada@one.test\n")
    two.write_text("bob@one.test\n")
    with (
        Box("cyd@one.test").server as first,
        Box("dan@one.test").server as second,
        inbound(tmp_path / "node", verify_recipients="list", recipient_file=str(one)) as relay,
    ):
        pids = relay.worker_pids()
        idle, mail = (strangers.enter_context(relay.client()) for _ in range(2))
        for client in (idle, mail):
            client.ehlo()

        def begin() -> None:
            mail.expect(250, "RSET")
            mail.expect(250, "MAIL FROM:<me@origin.test>")

        def taken(client: Dialogue) -> set[str]:
            names = ("ada", "bob", "cyd", "dan", "eve")
            return {name for name in names if client.command(f"RCPT TO:<{name}@one.test>")[0] == 250}

        def fresh(client: Dialogue) -> set[str]:
            client.expect(250, "MAIL FROM:<me@origin.test>")
            found = taken(client)
            client.expect(250, "RSET")
            return found

        begin()
        renewed(relay, recipient_file=str(two))
        assert taken(mail) == {"ada"}
        assert fresh(idle) == {"bob"}
        begin()
        renewed(relay, verify_recipients="call-ahead", recipient_file=None, call_ahead=first.url)
        assert taken(mail) == {"bob"}
        assert fresh(idle) == {"cyd"}
        # one who waits for the mailbox host while another is named
        begin()
        first.hold("RCPT")
        mail.write(b"RCPT TO:<dan@one.test>\r\n")
        renewed(relay, call_ahead=second.url)
        first.release()
        code, _ = mail.read()
        assert code in {250, 550}  # whom it is asked of is open; that it is answered is not
        assert fresh(idle) == {"dan"}
        begin()
        renewed(relay, verify_recipients=None, call_ahead=None)
        assert fresh(idle) == {"ada", "bob", "cyd", "dan", "eve"}
        mail.expect(250, "RSET")
        for client in (idle, mail):
            client.send("me@origin.test", ["eve@one.test"], CONTENT)
        assert relay.worker_pids() == pids
