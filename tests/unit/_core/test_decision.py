"""A session that waits for a decision of somebody outside: input is kept, an answer counts once, a late one never."""

from __future__ import annotations

import base64
import gc
from typing import TYPE_CHECKING, Any

import pytest

from angarium._core.client_terms import ClientTerms
from angarium._core.counters import Slot
from angarium._core.decision import Decision
from angarium._core.server_session import AuthVerdict
from tests.support.session import Server, ServerDialogue

if TYPE_CHECKING:
    from angarium._core.server_session import ServerSession

PLAIN = base64.b64encode(b"\0user\0secret")
OK = b"235 2.7.0 Authentication successful\r\n"
SENDER_OK = b"250 2.1.0 Sender OK\r\n"


class Asked:
    """Whom sessions ask: remembers every question and answers none by itself."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self.responses: list[bytes | None] = []

    def __call__(self, mechanism: bytes, session: ServerSession) -> Asked:
        return self

    def step(self, response: bytes | None, decide: Decision) -> None:
        self.responses.append(response)
        self.decisions.append(decide)


def server_of(asked: Asked, **profile: Any) -> Server:
    return Server(authentication=asked, mechanisms=(b"PLAIN",), authentication_required=True, **profile)


def greeted(server: Server) -> ServerDialogue:
    client = server.connect(tls=True)
    client.say(b"EHLO client.example\r\n")
    return client


def test_input_is_kept_until_the_answer_is_there() -> None:
    asked = Asked()
    client = greeted(server_of(asked))
    assert client.say(b"AUTH PLAIN " + PLAIN + b"\r\nMAIL FROM:<a@client.example>\r\n") == b""
    assert client.say(b"RSET\r\n") == b""
    asked.decisions[0]("user")
    assert client.transport.take() == OK + SENDER_OK + b"250 2.0.0 OK\r\n"


def test_an_answer_counts_once() -> None:
    asked = Asked()
    client = greeted(server_of(asked))
    client.say(b"AUTH PLAIN " + PLAIN + b"\r\n")
    asked.decisions[0](AuthVerdict.AUTH_REFUSED)
    asked.decisions[0]("user")
    assert client.transport.take() == b"535 5.7.8 Authentication credentials invalid\r\n"
    assert client.say(b"MAIL FROM:<a@client.example>\r\n") == b"530 5.7.0 Authentication required\r\n"


def test_an_answer_to_the_question_before_counts_for_nothing() -> None:
    asked = Asked()
    client = greeted(server_of(asked))
    client.say(b"AUTH PLAIN " + PLAIN + b"\r\n")
    first = asked.decisions.pop()
    client.session.tls_established(client.transport)  # whatever made it forget its first question
    client.say(b"EHLO client.example\r\nAUTH PLAIN " + PLAIN + b"\r\n")
    first("user")
    assert client.transport.take() == b""
    asked.decisions[0](AuthVerdict.AUTH_REFUSED)
    assert client.transport.take().startswith(b"535 ")


def test_a_session_that_ended_ignores_its_answer() -> None:
    asked = Asked()
    client = greeted(server_of(asked))
    client.say(b"AUTH PLAIN " + PLAIN + b"\r\n")
    client.transport.lose()
    asked.decisions[0]("user")
    assert client.transport.take() == b""
    assert client.server.value(Slot.INGRESS_AUTH_OK) == 0


def test_a_decision_that_nobody_takes_is_none() -> None:
    asked = Asked()
    client = greeted(server_of(asked))
    client.say(b"AUTH PLAIN " + PLAIN + b"\r\n")
    asked.decisions.clear()
    gc.collect()
    assert client.transport.take() == b"454 4.7.0 Authentication is not possible now; try again later\r\n"
    assert client.server.value(Slot.INGRESS_AUTH_UNAVAILABLE) == 1


def test_only_a_session_makes_a_decision() -> None:
    with pytest.raises(TypeError, match="a session makes it"):
        Decision()


def test_whoever_waits_is_not_idle() -> None:
    asked = Asked()
    client = greeted(server_of(asked, idle_timeout_s=0))
    client.say(b"AUTH PLAIN " + PLAIN + b"\r\n")
    client.server.reception.sweep()
    assert not client.closed
    asked.decisions[0]("user")
    assert client.transport.take() == OK


def test_banned_answers_are_errors_of_the_session() -> None:
    asked = Asked()
    client = greeted(server_of(asked, errors=2))
    for _ in range(2):
        client.say(b"AUTH PLAIN " + PLAIN + b"\r\n")
        asked.decisions.pop()(AuthVerdict.AUTH_BANNED)
    banned = b"454 4.7.0 Too many failed log-ins; try again later\r\n"
    assert client.transport.take() == banned + b"421 4.7.0 Too many errors\r\n"
    assert client.closed
    assert client.server.value(Slot.INGRESS_AUTH_BANNED) == 2


def test_a_proved_identity_has_its_own_terms() -> None:
    asked, seen = Asked(), []

    def identity_policy(address: str, log_in: str, certificate: object) -> ClientTerms:
        seen.append((address, log_in, certificate))
        return ClientTerms(may_relay=True, tenant=b"shop")

    client = greeted(server_of(asked, may_relay=False, identity_policy=identity_policy))
    client.say(b"AUTH PLAIN " + PLAIN + b"\r\n")
    asked.decisions[0]("user")
    client.run()
    client.transport.take()
    client.say(b"MAIL FROM:<a@client.example>\r\nRCPT TO:<b@far.example>\r\nDATA\r\nSubject: hi\r\n\r\nhi\r\n.\r\n")
    assert client.server.taken[0].envelope["tenant"] == b"shop"
    assert seen == [("192.0.2.1", "user", None)]


@pytest.mark.parametrize(("octets", "taken"), [(12000, True), (12400, False)])
def test_a_long_initial_response(octets: int, taken: bool) -> None:
    """RFC 4954 §4: an AUTH command may have 12,288 octets, whatever other commands may have."""
    asked = Asked()
    client = greeted(server_of(asked))
    said = client.say(b"AUTH PLAIN " + b"A" * octets + b"\r\n", step=1000)
    assert len(asked.responses) == taken
    assert said == (b"" if taken else b"500 5.5.2 Command line too long\r\n")


def test_only_auth_under_tls_may_be_long() -> None:
    client = greeted(server_of(Asked()))
    assert client.say(b"NOOP " + b"A" * 12000 + b"\r\n").startswith(b"500 ")
    plaintext = server_of(Asked()).connect()
    plaintext.say(b"EHLO client.example\r\n")
    assert plaintext.say(b"AUTH PLAIN " + b"A" * 12000 + b"\r\n").startswith(b"500 ")
