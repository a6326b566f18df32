"""Next hops of every temper: those that take, refuse, defer, vanish, hang, and those that can do less than others.

One relay serves the module. Its routes lead from hop<N>.test to a port each, on which a test may start a server; the
sender's own domain is discarded, so that notifications of failure do not come back to the tests.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
from typing import TYPE_CHECKING

import pytest
import trustme
from aiosmtpd.controller import Controller

from tests.support import corpus
from tests.support.clients import PATIENCE_S
from tests.support.peers import CLOSE, EXTENSIONS, SinkServer, Step
from tests.support.ports import free_port
from tests.support.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MESSAGES = corpus.load()
HOPS = 60


class Road:
    """The relay, and next hops that nobody has used before."""

    def __init__(self, relay: Relay, ports: list[int]) -> None:
        self.relay = relay
        self._hops = zip(itertools.count(), ports, strict=False)

    def hop(self, **options: object) -> tuple[str, SinkServer]:
        """A domain, and the server (not started) to which its mail goes."""
        number, port = next(self._hops)
        return f"hop{number}.test", SinkServer(port=port, **options)

    def wait_done(self, queue_id: str) -> None:
        """Until a message is queued no longer."""
        self.relay.wait(lambda: all(entry["id"] != queue_id for entry in self.relay.queued()), f"the end of {queue_id}")

    def port(self) -> tuple[str, int]:
        """A domain, and the port to which its mail goes."""
        number, port = next(self._hops)
        return f"hop{number}.test", port


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    folder = tmp_path_factory.mktemp("next-hops")
    ports = [free_port() for _ in range(HOPS)]
    routes = [
        {"recipients": ["origin.test", "postmaster@relay.test"], "next_hop": "discard:"},
        {"recipients": ["box.test"], "next_hop": f"maildir:{folder / 'Maildir'}"},
        *(
            {"recipients": [f"hop{number}.test"], "next_hop": f"smtp://127.0.0.1:{port}"}
            for number, port in enumerate(ports)
        ),
    ]
    with Relay(folder, {"route": routes}) as relay:
        yield Road(relay, ports)


# ------------------------------------------------------------------ who gets it


def test_recipients_at_one_next_hop_share_a_transaction(road: Road) -> None:
    domain, sink = road.hop()
    recipients = [f"r{number}@{domain}" for number in range(20)]
    with sink:
        queue_id = road.relay.send(recipients)
        mail = sink.wait_mail(recipients[-1])
        assert mail.recipients == recipients
        assert sink.count("MAIL") == 1
        road.relay.wait_event("delivery", id=queue_id, count=20)
    assert b"for <" not in corpus.TRACE.match(mail.content)[0], "a trace field names one of several recipients"


def test_recipients_at_several_next_hops(road: Road) -> None:
    (one, first), (two, second) = road.hop(), road.hop()
    with first, second:
        queue_id = road.relay.send([f"a@{one}", f"b@{two}", f"c@{one}", "d@origin.test"])
        assert first.wait_mail(f"a@{one}").recipients == [f"a@{one}", f"c@{one}"]
        assert second.wait_mail(f"b@{two}").recipients == [f"b@{two}"]
        for recipient in (f"a@{one}", f"b@{two}", f"c@{one}", "d@origin.test"):
            road.relay.wait_event("delivery", id=queue_id, recipient=recipient)
        road.wait_done(queue_id)


def test_some_delivered_some_deferred_some_failed(road: Road) -> None:
    domain, sink = road.hop()
    good, later, never = f"good@{domain}", f"later@{domain}", f"never@{domain}"
    patience = 2

    def answer(step: Step) -> str | None:
        if step.verb == "RCPT" and "never@" in step.argument:
            return "550 5.1.1 No such rider"
        if step.verb == "RCPT" and "later@" in step.argument and len(sink.to(good)) == 1:
            return "451 4.2.1 Box is locked" if sink.count(f"RCPT TO:<{later}>") <= patience else None
        return "451 4.2.1 Box is locked" if step.verb == "RCPT" and "later@" in step.argument else None

    sink.answer = answer
    with sink:
        queue_id = road.relay.send([good, later, never], MESSAGES["lone-dots"])
        road.relay.wait_event("deferral", id=queue_id, recipient=later)
        bounce = road.relay.wait_event("bounce", id=queue_id, recipient=never)
        assert bounce["reply"] == {"code": 550, "enhanced": "5.1.1", "text": "No such rider"}
        sink.wait_mail(later)
        road.relay.wait_event("delivery", id=queue_id, recipient=later)
        road.wait_done(queue_id)
        assert [mail.recipients for mail in sink.mails] == [[good], [later]]
        assert sink.mails[0].content == sink.mails[1].content
        assert corpus.without_trace(sink.mails[0].content) == MESSAGES["lone-dots"]
    # each got its answer once, and nobody was asked again
    assert len(road.relay.events("delivery", id=queue_id, recipient=good)) == 1
    assert len(road.relay.events("bounce", id=queue_id)) == 1
    assert sink.count(f"RCPT TO:<{never}>") == sink.count(f"RCPT TO:<{good}>") == 1


def test_more_recipients_than_a_host_takes_at_a_time_follow_at_once(road: Road) -> None:
    """RFC 5321 §4.5.3.1.10: 452 behind recipients that were taken is no deferral."""
    domain, sink = road.hop()
    sink.answer = lambda step: "452 4.5.3 Too many" if step.verb == "RCPT" and len(step.mail.recipients) == 5 else None
    recipients = [f"r{number:02}@{domain}" for number in range(12)]
    with sink:
        queue_id = road.relay.send(recipients)
        road.relay.wait_event("delivery", id=queue_id, count=12)
        road.wait_done(queue_id)
        assert [len(mail.recipients) for mail in sink.mails] == [5, 5, 2]
        assert sorted(recipient for mail in sink.mails for recipient in mail.recipients) == recipients
    assert {event["attempts"] for event in road.relay.events("delivery", id=queue_id)} == {1}


def test_every_recipient_refused(road: Road) -> None:
    domain, sink = road.hop(answer=lambda step: "550 5.7.1 Not you" if step.verb == "RCPT" else None)
    with sink:
        queue_id = road.relay.send([f"a@{domain}", f"b@{domain}"])
        road.relay.wait_event("bounce", id=queue_id, count=2)
        road.wait_done(queue_id)
        assert sink.mails == []


@pytest.mark.parametrize("verb", ["MAIL", "DATA", "."])
def test_a_refusal_for_good(road: Road, verb: str) -> None:
    # DATA has a reply of its own only where there is no BDAT
    domain, sink = road.hop(
        extensions=[word for word in EXTENSIONS if word != "CHUNKING" or verb != "DATA"],
        answer=lambda step: "554 5.7.1 Never" if step.verb == verb and "good" not in str(step.mail) else None,
    )
    with sink:
        queue_id = road.relay.send([f"a@{domain}", f"b@{domain}"])
        road.relay.wait_event("bounce", id=queue_id, count=2)
        assert {tuple(event["reply"].values()) for event in road.relay.events("bounce", id=queue_id)} == {
            (554, "5.7.1", "Never")
        }
        road.wait_done(queue_id)
        assert sink.mails == []


@pytest.mark.parametrize("verb", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "."])
@pytest.mark.parametrize("how", ["451 4.3.2 Later", "421 4.3.2 Going away", CLOSE])
def test_trouble_at_every_step_and_then_none(road: Road, verb: str, how: str) -> None:
    """A next hop that fails once gets the message the next time: once, whole, and with its recipients."""
    troubles = itertools.count()
    most = 2 if (verb, how[:3]) == ("RCPT", "451") else 1  # both recipients
    domain, sink = road.hop(extensions=[word for word in EXTENSIONS if word != "CHUNKING" or verb != "DATA"])
    sink.answer = lambda step: how if step.verb == verb and next(troubles) < most else None
    if verb == "EHLO" and how == CLOSE:
        how = "421 4.3.2 Going away"  # scripted EHLO replies are written, not obeyed
    recipients = [f"a@{domain}", f"b@{domain}"]
    duplicates = road.relay.metrics()["angarium_delivery_possible_duplicates_total"]
    with sink:
        queue_id = road.relay.send(recipients, MESSAGES["dots-at-line-starts"])
        mail = sink.wait_mail(recipients[1])
        assert mail.recipients == recipients
        assert corpus.without_trace(mail.content) == MESSAGES["dots-at-line-starts"]
        road.relay.wait_event("delivery", id=queue_id, count=2)
        road.wait_done(queue_id)
        assert len(sink.mails) == 1
    assert road.relay.events("bounce", id=queue_id) == []
    # a connection that closes without a reply after the last octet has left (which by BDAT is in the same write as the
    # envelope) leaves open what became of the message; everything else is certain
    doubtful = 2 if how == CLOSE and verb in {"MAIL", "RCPT", "."} else 0
    assert len(road.relay.events("in_doubt", id=queue_id)) == doubtful
    assert road.relay.metrics()["angarium_delivery_possible_duplicates_total"] == duplicates + doubtful


def test_a_next_hop_that_is_down_and_comes_up(road: Road) -> None:
    domain, sink = road.hop()
    queue_ids = [road.relay.send(f"r{number}@{domain}") for number in range(10)]
    road.relay.wait_event("unreachable", next_hop=sink.url, failures=2)
    deferrals = road.relay.events("deferral", next_hop=sink.url)
    # one message a probe is deferred, not all that wait; however many probes there were meanwhile
    probes = len(road.relay.events("unreachable", next_hop=sink.url))
    assert 1 <= len(deferrals) <= min(probes + 1, len(queue_ids) - 1)
    for deferral in deferrals:
        assert deferral["reply"]["code"] == 451
        assert deferral["reply"]["enhanced"] == "4.4.1"
        assert deferral["reply"]["text"] == f"127.0.0.1[127.0.0.1]:{sink.port}: Connection refused"
    unreachable = road.relay.events("unreachable", next_hop=sink.url)
    assert [event["retry_s"] for event in unreachable][:2] == [1.0, 2.0]
    assert "refused" in unreachable[0]["reply"]["text"]
    assert {message["id"] for message in road.relay.queued()} >= set(queue_ids)
    with sink:
        for queue_id in queue_ids:
            road.relay.wait_event("delivery", id=queue_id)
        assert len(sink.mails) == 10


def test_a_next_hop_that_goes_down_between_messages(road: Road) -> None:
    domain, sink = road.hop()
    with sink:
        road.relay.send(f"first@{domain}")
        sink.wait_mail(f"first@{domain}")
        sink.close_connections()
        queue_id = road.relay.send(f"second@{domain}")
        sink.wait_mail(f"second@{domain}")
        road.wait_done(queue_id)
        assert len(sink.mails) == 2


def test_a_slow_next_hop_holds_nobody_else_up(road: Road) -> None:
    (slow_domain, slow), (quick_domain, quick) = road.hop(), road.hop()
    with slow, quick:
        slow.hold("MAIL")
        slow_ids = [road.relay.send(f"r{number}@{slow_domain}") for number in range(5)]
        slow.wait_line("MAIL")
        for number in range(20):
            road.relay.send(f"r{number}@{quick_domain}")
            quick.wait_mail(f"r{number}@{quick_domain}")
        assert slow.mails == []
        slow.release()
        for queue_id in slow_ids:
            road.relay.wait_event("delivery", id=queue_id)
        assert len(slow.mails) == 5


# ------------------------------------------------------------------ what it can do


def test_a_connection_is_used_again(road: Road) -> None:
    domain, sink = road.hop()
    with sink:
        for number in range(30):
            road.relay.send(f"r{number}@{domain}")
            road.relay.wait_event("delivery", recipient=f"r{number}@{domain}")
        assert sink.connections == 1
        assert len(sink.mails) == 30
        assert sink.count("EHLO") == 1


@pytest.mark.parametrize("missing", ["PIPELINING", "PIPELINING CHUNKING"])
def test_a_host_without_pipelining_is_asked_one_thing_at_a_time(road: Road, missing: str) -> None:
    domain, sink = road.hop(extensions=[word for word in EXTENSIONS if word not in missing.split()])
    recipients = [f"r{number}@{domain}" for number in range(5)]
    with sink:
        for _ in range(3):
            queue_id = road.relay.send(recipients, MESSAGES["lone-dots"])
        sink.wait_mail(recipients[0], 3)
        road.wait_done(queue_id)
        assert all(corpus.without_trace(mail.content) == MESSAGES["lone-dots"] for mail in sink.mails)
        # chunks stand behind their own command, whoever pipelines
        assert sink.early == (0 if "CHUNKING" in missing else sink.count("BDAT"))


def test_a_host_with_pipelining_gets_the_envelope_at_once(road: Road) -> None:
    domain, sink = road.hop()
    with sink:
        road.relay.send([f"r{number}@{domain}" for number in range(5)])
        sink.wait_mail(f"r4@{domain}")
        assert sink.early >= 6


def test_a_host_that_knows_helo_only(road: Road) -> None:
    domain, sink = road.hop(esmtp=False)
    with sink:
        road.relay.send(f"a@{domain}", MESSAGES["lone-dots"])
        mail = sink.wait_mail(f"a@{domain}")
        assert corpus.without_trace(mail.content) == MESSAGES["lone-dots"]
        assert mail.parameters == ""
        assert sink.count("HELO relay.test") == 1


def test_a_size_limit(road: Road) -> None:
    domain, sink = road.hop(extensions=["SIZE 5000", "PIPELINING"])
    with sink:
        road.relay.send(f"small@{domain}")
        assert sink.wait_mail(f"small@{domain}").parameters.startswith("SIZE=")
        queue_id = road.relay.send(f"large@{domain}", b"Subject: large\r\n\r\n" + b"x" * 70 + b"\r\n" * 5000)
        bounce = road.relay.wait_event("bounce", id=queue_id)
        assert (bounce["reply"]["code"], bounce["reply"]["enhanced"]) == (552, "5.3.4")
        assert len(sink.mails) == 1


def test_declared_8bitmime_for_a_host_without_it_fails(road: Road) -> None:
    domain, sink = road.hop(extensions=["PIPELINING"])
    with sink, road.relay.client() as client:
        client.ehlo()
        queue_id = client.send("me@origin.test", [f"a@{domain}"], MESSAGES["utf8-8bit"], "BODY=8BITMIME")
        bounce = road.relay.wait_event("bounce", id=queue_id)
        assert bounce["reply"]["enhanced"] == "5.6.3"
        # what is 7-bit may be declared, and what was not declared goes as it is
        client.send("me@origin.test", [f"b@{domain}"], MESSAGES["utf8-8bit"])
        assert corpus.without_trace(sink.wait_mail(f"b@{domain}").content) == MESSAGES["utf8-8bit"]
        assert len(sink.mails) == 1


def test_8bitmime_is_declared_onwards(road: Road) -> None:
    domain, sink = road.hop()
    with sink, road.relay.client() as client:
        client.ehlo()
        client.send("me@origin.test", [f"a@{domain}"], MESSAGES["utf8-8bit"], "BODY=8BITMIME")
        assert "BODY=8BITMIME" in sink.wait_mail(f"a@{domain}").parameters.split()


def test_smtputf8_for_a_host_without_it_fails(road: Road) -> None:
    domain, sink = road.hop(extensions=["PIPELINING", "8BITMIME"])
    with sink, road.relay.client() as client:
        client.ehlo()
        queue_id = client.send("me@origin.test", [f"böte@{domain}"], MESSAGES["plain-ascii"], "SMTPUTF8")
        assert road.relay.wait_event("bounce", id=queue_id)["reply"]["enhanced"] == "5.6.7"
        road.wait_done(queue_id)
        assert sink.mails == []


def test_smtputf8_is_declared_onwards(road: Road) -> None:
    domain, sink = road.hop()
    with sink, road.relay.client() as client:
        client.ehlo()
        client.send("jürgen@origin.test", [f"böte@{domain}"], MESSAGES["utf8-raw-header"], "SMTPUTF8 BODY=8BITMIME")
        mail = sink.wait_mail(f"böte@{domain}")
        assert "SMTPUTF8" in mail.parameters.split()
        assert mail.reverse_path == "jürgen@origin.test"


def test_limits_of_the_host_are_kept(road: Road) -> None:
    """RFC 9422: RCPTMAX divides the recipients, MAILMAX ends the connection."""
    domain, sink = road.hop(extensions=[*EXTENSIONS, "LIMITS RCPTMAX=3 MAILMAX=2"])
    recipients = [f"r{number}@{domain}" for number in range(8)]
    with sink:
        queue_id = road.relay.send(recipients)
        road.relay.wait_event("delivery", id=queue_id, count=8)
        assert sorted(len(mail.recipients) for mail in sink.mails) == [2, 3, 3]
        assert sorted(recipient for mail in sink.mails for recipient in mail.recipients) == recipients
        most = max(sum(mail.connection == number for mail in sink.mails) for number in range(1, sink.connections + 1))
        assert most <= 2


# ------------------------------------------------------------------ other servers and other hops


class Scripted:
    """An aiosmtpd handler that defers each recipient once."""

    def __init__(self) -> None:
        self.taken: list[tuple[list[str], bytes]] = []
        self._seen: set[str] = set()

    async def handle_RCPT(self, server, session, envelope, address, options) -> str:
        if address.startswith("never"):
            return "550 5.1.1 never"
        if address not in self._seen and address.startswith("later"):
            self._seen.add(address)
            return "450 4.2.0 greylisted"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server, session, envelope) -> str:
        self.taken.append((list(envelope.rcpt_tos), envelope.original_content))
        return "250 2.0.0 OK"


def test_aiosmtpd(road: Road) -> None:
    domain, port = road.port()
    handler = Scripted()
    controller = Controller(handler, hostname="127.0.0.1", port=port, enable_SMTPUTF8=True, ready_timeout=PATIENCE_S)
    controller.start()
    try:
        good, later, never = f"good@{domain}", f"later@{domain}", f"never@{domain}"
        queue_id = road.relay.send([good, later, never], MESSAGES["nested-multipart"])
        road.relay.wait_event("delivery", id=queue_id, count=2)
        road.relay.wait_event("bounce", id=queue_id, recipient=never)
        assert [recipients for recipients, _ in handler.taken] == [[good], [later]]
        assert {corpus.without_trace(content) for _, content in handler.taken} == {MESSAGES["nested-multipart"]}
    finally:
        controller.stop()


def test_a_maildir(road: Road) -> None:
    message = MESSAGES["lone-dots"]
    queue_id = road.relay.send(["a@box.test", "b@box.test"], message)
    road.relay.wait_event("delivery", id=queue_id, count=2)
    files = list((road.relay.folder / "Maildir" / "new").iterdir())
    assert len(files) == 1
    top, octets = files[0].read_bytes().split(b"Received:", 1)
    assert top == b"Return-Path: <me@origin.test>\nDelivered-To: a@box.test\nDelivered-To: b@box.test\n"
    assert corpus.without_trace(b"Received:" + octets.replace(b"\n", b"\r\n")) == message
    assert list((road.relay.folder / "Maildir" / "tmp").iterdir()) == []


def test_discard(road: Road) -> None:
    queue_id = road.relay.send("gone@origin.test")
    event = road.relay.wait_event("delivery", id=queue_id)
    assert event["next_hop"] == "discard:"
    assert event["reply"]["code"] == 250


# ------------------------------------------------------------------ configurations of their own


def test_the_first_route_that_matches_wins(tmp_path_factory: pytest.TempPathFactory) -> None:
    with SinkServer() as one, SinkServer() as two, SinkServer() as three, SinkServer() as four:
        routes = [
            {"recipients": ["king@dest.test"], "next_hop": one.url},
            {"recipients": ["*.dest.test", "alias.test"], "next_hop": two.url},
            {"recipients": ["dest.test"], "next_hop": three.url},
            {"recipients": ["queen@dest.test"], "next_hop": two.url},  # never: the line above is first
            {"recipients": ["*"], "next_hop": f"smtp://localhost:{four.port}"},
        ]
        expected = {
            "king@dest.test": one,
            "King@dest.test": three,  # a local part has case (RFC 5321 §2.4)
            "king@DEST.Test": one,
            "queen@dest.test": three,
            "rider@stable.dest.test": two,
            "rider@a.b.dest.test": two,
            "rider@alias.test": two,
            "rider@nodest.test": four,
            "postmaster": four,
        }
        with Relay(tmp_path_factory.mktemp("routes"), {"route": routes}) as relay:
            for _ in range(2):  # the second time the domains are known already
                for recipient in expected:
                    relay.send(recipient)
            for recipient, sink in expected.items():
                sink.wait_mail(recipient if "@" in recipient else f"{recipient}@relay.test", 2)
            relay.wait_empty()
        assert sum(len(sink.mails) for sink in (one, two, three, four)) == 2 * len(expected)


TLS_CASES: dict[str, tuple[str, str | None, str]] = {
    # policy of the relay, certificate of the host, what happens
    "opportunistic, any certificate": ("opportunistic", "self-signed", "tls"),
    "opportunistic, none offered": ("opportunistic", None, "plain"),
    "none": ("none", "self-signed", "plain"),
    "require, any certificate": ("require", "self-signed", "tls"),
    "require, none offered": ("require", None, "deferral"),
    "verify, unknown certificate": ("verify", "self-signed", "deferral"),
    "opportunistic, broken": ("opportunistic", "broken", "plain"),
    "require, broken": ("require", "broken", "deferral"),
}


@pytest.mark.parametrize("case", TLS_CASES)
def test_tls_to_the_next_hop(tmp_path_factory: pytest.TempPathFactory, case: str) -> None:
    policy, certificate, outcome = TLS_CASES[case]
    context = None
    if certificate is not None:
        import ssl

        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    if certificate == "self-signed":
        trustme.CA().issue_cert("elsewhere.test").configure_cert(context)
    with SinkServer(tls=context) as sink:
        config = {"delivery": {"tls": policy}, "route": [{"recipients": ["*"], "next_hop": sink.url}]}
        with Relay(tmp_path_factory.mktemp("tls"), config) as relay:
            queue_id = relay.send("a@dest.test", MESSAGES["lone-dots"])
            if outcome == "deferral":
                event = relay.wait_event("deferral", id=queue_id)
                assert event["reply"]["code"] == 451
                assert sink.mails == []
                assert sink.count("MAIL") == 0
                return
            mail = sink.wait_mail("a@dest.test")
            assert mail.tls == (outcome == "tls")
            assert ("delivering in plaintext" in relay.stderr) == (certificate == "broken")
            assert corpus.without_trace(mail.content) == MESSAGES["lone-dots"]


def test_a_next_hop_that_does_not_answer_is_left(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every timeout of RFC 5321 §4.5.3.2, made short: the attempt ends, and the message goes when the host is back."""
    held: dict[str, Callable[[Relay, str], object]] = {
        "CONNECT": lambda relay, queue_id: relay.wait_event("deferral", id=queue_id),
        "MAIL": lambda relay, queue_id: relay.wait_event("deferral", id=queue_id),
        "RCPT": lambda relay, queue_id: relay.wait_event("deferral", id=queue_id),
        "DATA": lambda relay, queue_id: relay.wait_event("deferral", id=queue_id),
        ".": lambda relay, queue_id: relay.wait_event("in_doubt", id=queue_id),
    }
    names = ("connect", "greeting", "ehlo", "mail", "rcpt", "data", "block", "final")
    extensions = [word for word in EXTENSIONS if word not in {"CHUNKING", "PIPELINING"}]
    with SinkServer(extensions=extensions) as sink:
        config = {
            "delivery": {"timeouts": dict.fromkeys(names, "1s")},
            "route": [{"recipients": ["*"], "next_hop": sink.url}],
        }
        with Relay(tmp_path_factory.mktemp("timeouts"), config) as relay:
            for verb, wait in held.items():
                sink.hold(verb)
                queue_id = relay.send(f"held.{len(verb)}{verb[0]}@dest.test")
                wait(relay, queue_id)
                sink.release()
                relay.wait_event("delivery", id=queue_id)
                sink.close_connections()
            relay.wait_empty()


def test_a_host_may_greet_late_and_one_that_does_not_connect_is_given_up_early(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The timeouts of TCP and of the greeting are two (RFC 5321 §4.5.3.2.1): neither stands in for the other."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as full,
        contextlib.ExitStack() as stack,
        SinkServer() as late,
    ):
        # a full backlog drops what comes on top: nobody answers, nobody refuses
        for _ in range(2):
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(full.getsockname())
        config = {
            # long enough for a host that answers, on a machine that is busy
            "delivery": {"timeouts": {"connect": "2s", "greeting": "100s"}},
            "route": [
                {"recipients": ["full.test"], "next_hop": f"smtp://127.0.0.1:{full.getsockname()[1]}"},
                {"recipients": ["*"], "next_hop": late.url},
            ],
        }
        late.hold("CONNECT")
        with Relay(tmp_path_factory.mktemp("late"), config) as relay:
            waiting = relay.send("a@late.test")
            late.wait(lambda: late.connections == 1, "a connection to the host that greets late")
            given_up = relay.wait_event("deferral", id=relay.send("a@full.test"))
            assert given_up["reply"]["text"].endswith(": timed out connecting")
            late.release()
            relay.wait_event("delivery", id=waiting)
            assert relay.events("deferral", id=waiting) == []
            assert late.connections == 1


def test_hosts_that_do_not_greet_hold_nobody_else_up(
    tmp_path_factory: pytest.TempPathFactory, sink: SinkServer
) -> None:
    silent = 300  # more than connections are opened at a time
    with socket.create_server(("0.0.0.0", 0), backlog=silent) as server:  # the kernel connects, and nobody speaks
        port = server.getsockname()[1]
        config = {
            "delivery": {"timeouts": {"greeting": "5m"}},
            "route": [
                *(
                    {"recipients": [f"silent{n}.test"], "next_hop": f"smtp://127.0.{n // 250 + 1}.{n % 250 + 1}:{port}"}
                    for n in range(silent)
                ),
                {"recipients": ["*"], "next_hop": sink.url},
            ],
        }
        with Relay(tmp_path_factory.mktemp("tarpits"), config) as relay:
            for n in range(silent):
                relay.send(f"a@silent{n}.test")
            relay.wait_event("delivery", id=relay.send("a@quick.test"))
            assert relay.summary()["messages"] >= silent
            assert relay.events("deferral") == []


@pytest.mark.parametrize("verb", ["CONNECT", "EHLO"])
def test_a_host_that_connects_and_says_nothing_is_given_up(tmp_path_factory: pytest.TempPathFactory, verb: str) -> None:
    timeouts = {"connect": "100s", "greeting": "100s", "ehlo": "100s"}  # longer than a test waits
    timeouts["greeting" if verb == "CONNECT" else "ehlo"] = "500ms"
    with SinkServer(esmtp=False) as silent:  # it knows EHLO as little as any other word, and can be held at it
        config = {"delivery": {"timeouts": timeouts}, "route": [{"recipients": ["*"], "next_hop": silent.url}]}
        silent.hold(verb)
        with Relay(tmp_path_factory.mktemp("silent"), config) as relay:
            queue_id = relay.send("a@silent.test")
            reply = relay.wait_event("deferral", id=queue_id)["reply"]
            assert (reply["code"], reply["enhanced"]) == (451, "4.4.1" if verb == "CONNECT" else "4.4.2")
            silent.release()
            relay.wait_event("delivery", id=queue_id)
