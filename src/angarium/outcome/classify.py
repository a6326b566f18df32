"""What a failure means: for whom it holds, and whether to try again.

Job: `classify` turns the reply that decided for a recipient, or the want of one, into an Outcome. Input: reply code
(0: no reply was seen), enhanced status (without a reply: this relay's own, or none), text and the phase of the
dialogue, as the compiled session reports them. Output: the state that the recipient takes, the status to report, and a
Scope: how far it reaches. It never fails.

    phase                   no reply             4yz                    5yz
    connection              deferred, site
    greeting                deferred, site       deferred, site         deferred, site; 521: failed, site
    EHLO, HELO              deferred, site       deferred, site         failed, site
    STARTTLS                deferred, site       deferred, site         deferred, site
    AUTH                    deferred, site       deferred, site         deferred, site
    MAIL                    deferred, session    deferred, message      failed, message
    RCPT                    deferred, session    deferred, recipient    failed, recipient; 552: as 452
    DATA                    deferred, session    deferred, message      failed, message
    mail data under way     deferred, session    deferred, message      failed, message
    after its last octet    in doubt, session    deferred, message      failed, message

Beyond the table:

- 421 ends the session wherever it comes (RFC 5321 §3.8): from MAIL on it says nothing about message or recipient.
- A greeting of 5yz tells what the host thinks of this relay or of its own state now, not of the mail: the next host is
  tried, then it waits. 521 alone says that the host never takes mail (RFC 7504 §3).
- A log-in that is refused is a matter of this relay's own credentials, and no reason to return mail to its sender: it
  waits until they are set right, or its time is over.
- 552 for a recipient means "too many" in the words of RFC 821, and may pass in any case (RFC 5321 §4.5.3.1.10).
- "Too many recipients" behind recipients that were accepted is not a refusal: the rest go at once (`soon`).
- A reply that the phase does not allow (3yz to RCPT, 2yz to DATA) is a fault of the session, which ends with it: the
  session reports it without a code, as what it was that ended it. Such a code is tried again.
- Content for which the host lacks an extension (8BITMIME, SMTPUTF8, SIZE, REQUIRETLS) is refused by our own session in
  the host's place, with 5yz replies at MAIL or RCPT: RFC 6152 §3, RFC 6531 §3.2, RFC 1870 §6.1, RFC 8689 §4.2.1.

`try_next_host`: whether another host of the same domain may do better (RFC 5321 §5.1): `delivery.connection` goes on to
it in the same attempt, and only when no host is left does the Outcome hold. Behind the last octet of the mail data that
is not asked: the host has answered for the message, or may have it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from angarium._core.client_session import Phase
from angarium.mail.status import EnhancedStatus, RecipientState

__all__ = ["Outcome", "Scope", "classify", "expired", "unroutable"]


class Scope(Enum):
    """How far a failure reaches, the widest first."""

    SITE = "site"  # nothing can be delivered to this host at present
    SESSION = "session"  # this connection is of no further use
    MESSAGE = "message"  # all recipients of the transaction
    RECIPIENT = "recipient"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a recipient.

    `from_host` says whether code and text are a reply of the next hop. If not, the code is the one that this relay
    gives itself, or 0, and the text says what happened.
    """

    state: RecipientState
    scope: Scope
    status: EnhancedStatus
    reply_code: int
    text: bytes
    from_host: bool = True
    try_next_host: bool = False
    soon: bool = False  # try again at once; does not count as an attempt


# Where no reply was seen: state, scope, status.
_SILENCE: dict[int, tuple[RecipientState, Scope, EnhancedStatus]] = {
    Phase.PHASE_CONNECT: (RecipientState.DEFERRED, Scope.SITE, EnhancedStatus(4, 4, 1)),
    Phase.PHASE_GREETING: (RecipientState.DEFERRED, Scope.SITE, EnhancedStatus(4, 4, 1)),
    Phase.PHASE_EHLO: (RecipientState.DEFERRED, Scope.SITE, EnhancedStatus(4, 4, 2)),
    Phase.PHASE_TLS: (RecipientState.DEFERRED, Scope.SITE, EnhancedStatus(4, 7, 5)),
    Phase.PHASE_AUTH: (RecipientState.DEFERRED, Scope.SITE, EnhancedStatus(4, 7, 0)),
    Phase.PHASE_FINAL: (RecipientState.IN_DOUBT, Scope.SESSION, EnhancedStatus(4, 4, 2)),
}
_LOST = (RecipientState.DEFERRED, Scope.SESSION, EnhancedStatus(4, 4, 2))

# Where a reply of 4yz or 5yz was seen.
_REPLY_SCOPE: dict[int, Scope] = {
    Phase.PHASE_CONNECT: Scope.SITE,  # the greeting, for whom opens a connection in one step
    Phase.PHASE_GREETING: Scope.SITE,
    Phase.PHASE_EHLO: Scope.SITE,
    Phase.PHASE_TLS: Scope.SITE,
    Phase.PHASE_AUTH: Scope.SITE,
    Phase.PHASE_MAIL: Scope.MESSAGE,
    Phase.PHASE_RCPT: Scope.RECIPIENT,
    Phase.PHASE_DATA: Scope.MESSAGE,
    Phase.PHASE_CONTENT: Scope.MESSAGE,
    Phase.PHASE_FINAL: Scope.MESSAGE,
}
_BEFORE_MAIL = frozenset({Phase.PHASE_CONNECT, Phase.PHASE_GREETING, Phase.PHASE_TLS, Phase.PHASE_AUTH})
_TOO_MANY_RECIPIENTS = (5, 3)


def classify(
    code: int, enhanced: tuple[int, int, int] | None, text: bytes, phase: int, *, accepted_recipients: int = 0
) -> Outcome:
    """The outcome for one recipient. `accepted_recipients`: how many of the same transaction the host did take."""
    if code == 0:
        state, scope, status = _SILENCE.get(phase, _LOST)
        if enhanced is not None:
            status = EnhancedStatus(*enhanced)
        return Outcome(state, scope, status, 0, text, from_host=False, try_next_host=state is RecipientState.DEFERRED)
    status = EnhancedStatus.of_reply(code, enhanced)
    if 200 <= code < 300 and phase == Phase.PHASE_FINAL:
        return Outcome(RecipientState.DELIVERED, Scope.RECIPIENT, status, code, text)
    scope = _REPLY_SCOPE.get(phase, Scope.SESSION)
    if not 400 <= code < 600:
        return Outcome(RecipientState.DEFERRED, Scope.SESSION, EnhancedStatus(4, 5, 0), code, text, try_next_host=True)
    if code == 421 and scope is not Scope.SITE:
        return Outcome(RecipientState.DEFERRED, Scope.SESSION, status, code, text, try_next_host=True)
    permanent = code >= 500 and scope is not Scope.SESSION
    if phase in _BEFORE_MAIL:
        permanent = code == 521 and phase != Phase.PHASE_AUTH
    elif phase == Phase.PHASE_RCPT and code == 552:
        permanent = False
    too_many = phase == Phase.PHASE_RCPT and (
        status[1:] == _TOO_MANY_RECIPIENTS or (code in {452, 552} and enhanced is None)
    )
    return Outcome(
        RecipientState.FAILED if permanent else RecipientState.DEFERRED,
        scope,
        status.with_class(5 if permanent else 4),
        code,
        text,
        try_next_host=scope in {Scope.SITE, Scope.SESSION},
        soon=too_many and not permanent and accepted_recipients > 0,
    )


def unroutable(permanent: bool, code: int, enhanced: tuple[int, int, int], text: bytes) -> Outcome:
    """No host was found to deliver to: a failure of name resolution, with the reply that this relay gives itself."""
    state = RecipientState.FAILED if permanent else RecipientState.DEFERRED
    return Outcome(state, Scope.SITE, EnhancedStatus.of_reply(code, enhanced), code, text, from_host=False)


def expired(last: Outcome) -> Outcome:
    """What a deferred recipient comes to when its message's time is over: X.4.7 (RFC 3463 §3.5), and the last reply."""
    return replace(last, state=RecipientState.EXPIRED, status=EnhancedStatus(4, 4, 7), try_next_host=False, soon=False)
