"""What a reply, or the want of one, means for a recipient: by code and phase."""

import pytest

from angarium._core.client_session import Phase
from angarium.mail.status import EnhancedStatus, RecipientState
from angarium.outcome.classify import Outcome, Scope, classify, expired, unroutable

CONNECT, GREETING, EHLO, TLS = Phase.PHASE_CONNECT, Phase.PHASE_GREETING, Phase.PHASE_EHLO, Phase.PHASE_TLS
MAIL, RCPT, DATA, CONTENT, FINAL = (
    Phase.PHASE_MAIL,
    Phase.PHASE_RCPT,
    Phase.PHASE_DATA,
    Phase.PHASE_CONTENT,
    Phase.PHASE_FINAL,
)
RSET, IDLE = Phase.PHASE_RSET, Phase.PHASE_IDLE


def brief(outcome: Outcome) -> tuple[str, str, str]:
    return outcome.state.word, outcome.scope.value, str(outcome.status)


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        (CONNECT, ("deferred", "site", "4.4.1")),
        (GREETING, ("deferred", "site", "4.4.1")),
        (EHLO, ("deferred", "site", "4.4.2")),
        (TLS, ("deferred", "site", "4.7.5")),
        (MAIL, ("deferred", "session", "4.4.2")),
        (RCPT, ("deferred", "session", "4.4.2")),
        (DATA, ("deferred", "session", "4.4.2")),
        (CONTENT, ("deferred", "session", "4.4.2")),
        (FINAL, ("in_doubt", "session", "4.4.2")),
        (RSET, ("deferred", "session", "4.4.2")),
        (IDLE, ("deferred", "session", "4.4.2")),
    ],
)
def test_a_connection_that_ends_delivers_nothing_but_after_the_last_octet_nobody_knows(
    phase: Phase, expected: tuple[str, str, str]
) -> None:
    outcome = classify(0, None, b"connection lost", phase)
    assert brief(outcome) == expected
    assert not outcome.from_host
    assert outcome.text == b"connection lost"
    # another host must not be given what the first one may have taken
    assert outcome.try_next_host is (phase != FINAL)


@pytest.mark.parametrize(
    ("code", "enhanced", "phase", "expected"),
    [
        # greeting and EHLO speak for the host
        (421, (4, 3, 2), GREETING, ("deferred", "site", "4.3.2")),
        (450, None, GREETING, ("deferred", "site", "4.0.0")),
        (554, (5, 7, 1), GREETING, ("deferred", "site", "4.7.1")),
        (554, None, CONNECT, ("deferred", "site", "4.0.0")),
        (521, (5, 3, 2), GREETING, ("failed", "site", "5.3.2")),
        (521, None, CONNECT, ("failed", "site", "5.0.0")),
        (421, None, EHLO, ("deferred", "site", "4.0.0")),
        (451, None, EHLO, ("deferred", "site", "4.0.0")),
        (550, (5, 7, 1), EHLO, ("failed", "site", "5.7.1")),
        (454, (4, 7, 0), TLS, ("deferred", "site", "4.7.0")),
        (530, (5, 7, 0), TLS, ("deferred", "site", "4.7.0")),
        # MAIL, DATA and the end of the data speak for the message
        (451, (4, 7, 1), MAIL, ("deferred", "message", "4.7.1")),
        (550, (5, 7, 1), MAIL, ("failed", "message", "5.7.1")),
        (552, (5, 3, 4), MAIL, ("failed", "message", "5.3.4")),
        (554, None, DATA, ("failed", "message", "5.0.0")),
        (452, (4, 3, 1), DATA, ("deferred", "message", "4.3.1")),
        (552, None, CONTENT, ("failed", "message", "5.0.0")),
        (451, None, FINAL, ("deferred", "message", "4.0.0")),
        (550, (5, 7, 1), FINAL, ("failed", "message", "5.7.1")),
        (552, None, FINAL, ("failed", "message", "5.0.0")),
        # RCPT speaks for the recipient
        (450, (4, 2, 1), RCPT, ("deferred", "recipient", "4.2.1")),
        (550, (5, 1, 1), RCPT, ("failed", "recipient", "5.1.1")),
        (551, None, RCPT, ("failed", "recipient", "5.0.0")),
        (552, None, RCPT, ("deferred", "recipient", "4.0.0")),
        (552, (5, 2, 2), RCPT, ("deferred", "recipient", "4.2.2")),
        (452, (4, 5, 3), RCPT, ("deferred", "recipient", "4.5.3")),
        # 421 ends the session, whatever it was the reply to
        (421, (4, 7, 0), MAIL, ("deferred", "session", "4.7.0")),
        (421, None, RCPT, ("deferred", "session", "4.0.0")),
        (421, None, DATA, ("deferred", "session", "4.0.0")),
        (421, None, FINAL, ("deferred", "session", "4.0.0")),
        # what no host may say here
        (250, None, DATA, ("deferred", "session", "4.5.0")),
        (354, None, RCPT, ("deferred", "session", "4.5.0")),
        (354, None, FINAL, ("deferred", "session", "4.5.0")),
        (550, None, RSET, ("deferred", "session", "4.0.0")),
    ],
)
def test_replies(
    code: int, enhanced: tuple[int, int, int] | None, phase: Phase, expected: tuple[str, str, str]
) -> None:
    outcome = classify(code, enhanced, b"text", phase)
    assert brief(outcome) == expected
    assert (outcome.reply_code, outcome.text, outcome.from_host) == (code, b"text", True)
    assert outcome.try_next_host is (outcome.scope in {Scope.SITE, Scope.SESSION})
    assert not outcome.soon


def test_an_accepted_message_is_delivered() -> None:
    outcome = classify(250, (2, 6, 0), b"queued as 1", FINAL)
    assert brief(outcome) == ("delivered", "recipient", "2.6.0")
    assert not outcome.try_next_host


@pytest.mark.parametrize(
    ("code", "enhanced", "accepted", "soon"),
    [
        (452, None, 100, True),
        (452, (4, 5, 3), 1, True),
        (552, None, 100, True),
        (552, (5, 5, 3), 100, True),
        (451, (4, 5, 3), 100, True),
        (452, (4, 5, 3), 0, False),  # the very first one: to try again at once would be a circle
        (452, (4, 2, 2), 100, False),  # a full mailbox
        (452, (4, 3, 1), 100, False),  # a full disk
        (451, None, 100, False),
        (550, (5, 5, 3), 100, False),
    ],
)
def test_too_many_recipients_for_one_transaction_go_in_the_next(
    code: int, enhanced: tuple[int, int, int] | None, accepted: int, soon: bool
) -> None:
    assert classify(code, enhanced, b"", RCPT, accepted_recipients=accepted).soon is soon


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        ((553, (5, 6, 7), b"The message needs SMTPUTF8", MAIL), "5.6.7"),
        ((554, (5, 6, 3), b"The message is 8BITMIME", MAIL), "5.6.3"),
        ((552, (5, 3, 4), b"The message exceeds the host's limit", MAIL), "5.3.4"),
        ((550, (5, 7, 30), b"REQUIRETLS was asked for", MAIL), "5.7.30"),
    ],
)
def test_content_that_the_host_cannot_take_fails(
    reply: tuple[int, tuple[int, int, int], bytes, Phase], status: str
) -> None:
    assert brief(classify(*reply)) == ("failed", "message", status)


def test_a_domain_without_hosts() -> None:
    gone = unroutable(True, 556, (5, 1, 10), b"null MX")
    assert brief(gone) == ("failed", "site", "5.1.10")
    assert (gone.reply_code, gone.from_host) == (556, False)
    assert brief(unroutable(False, 451, (4, 4, 3), b"no answer")) == ("deferred", "site", "4.4.3")


def test_what_expires_keeps_the_last_reply() -> None:
    last = classify(452, (4, 5, 3), b"too many", RCPT, accepted_recipients=3)
    outcome = expired(last)
    assert outcome.state is RecipientState.EXPIRED
    assert outcome.status == EnhancedStatus(4, 4, 7)
    assert (outcome.reply_code, outcome.text, outcome.from_host) == (452, b"too many", True)
    assert not outcome.soon


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("code", [0, 211, 250, 354, 421, 450, 452, 500, 521, 550, 552, 554, 599])
def test_the_status_always_agrees_with_the_state(code: int, phase: Phase) -> None:
    outcome = classify(code, None, b"", phase)
    classes = {RecipientState.DELIVERED: 2, RecipientState.FAILED: 5}
    assert outcome.status.class_ == classes.get(outcome.state, 4)
    assert (outcome.state is RecipientState.DELIVERED) == (code in {211, 250} and phase == FINAL)
    assert (outcome.state is RecipientState.IN_DOUBT) == (code == 0 and phase == FINAL)
