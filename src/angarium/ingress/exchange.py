"""AUTH exchanges, mechanism by mechanism: PLAIN (RFC 4616), LOGIN, SCRAM-SHA-256 (RFC 5802, 7677), OAUTHBEARER
(RFC 7628), XOAUTH2, EXTERNAL (RFC 4422 appendix A).

Job: take a client's responses apart, have what they prove verified, and say what comes next. An exchange belongs to one
AUTH command of one session; when that is cancelled, or the session ends, it is let go, and what was asked for it is
ignored. Nothing here logs in for somebody else: an authorisation identity must be the log-in itself.

Input: responses in base64, None where the client gave no initial one. Output: challenges in base64, log-ins,
AuthVerdicts. Fails: a response that is no base64, or not what its mechanism asks for, is AUTH_SYNTAX.

Bounds: LONGEST_LOG_IN, LONGEST_PASSWORD; of everything else the length of a response (RFC 4954 §4)."""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from typing import TYPE_CHECKING, Any, Protocol

from angarium._core.server_session import AuthVerdict
from angarium.ingress.channel_binding import END_POINT
from angarium.policy.access_protocol import (
    PASSWORD,
    SCRAM_FINAL,
    SCRAM_FIRST,
    TOKEN_LOG_IN,
    PasswordAttempt,
    ScramFinal,
    ScramFirst,
    TokenAttempt,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from angarium._core.decision import Decision
    from angarium.delivery.lookup_protocol import Kind
    from angarium.policy.certificate import ClientCertificate

__all__ = ["AnyLogin", "AnyPlain", "Asks", "Exchange", "External", "Login", "OAuthBearer", "Plain", "Scram", "XOAuth2"]

LONGEST_LOG_IN = 255
LONGEST_PASSWORD = 1024
NONCE_OCTETS = 24

_VERDICTS = {
    "refused": AuthVerdict.AUTH_REFUSED,
    "unavailable": AuthVerdict.AUTH_UNAVAILABLE,
    "banned": AuthVerdict.AUTH_BANNED,
}
_XOAUTH2_ERROR = b'{"status":"401","schemes":"bearer"}'
_NO_TOKEN = b'{"status":"invalid_request"}'
_ACTS_AS = re.compile(r"a=([^,]*),\Z")


class Exchange(Protocol):
    """One AUTH exchange under way."""

    def step(self, response: bytes | None, decide: Decision) -> None:
        """Take the client's response (None: there was no initial one)."""


class Asks(Protocol):
    """Who knows whether a log-in is right."""

    def ask(self, kind: Kind[Any, Verdict], question: object, then: Callable[[Verdict], None]) -> None:
        """`then` is called once, later, with the verdict."""


def _decode(response: bytes) -> bytes | None:
    if response == b"=":
        return b""
    try:
        return base64.b64decode(response, validate=True)
    except binascii.Error:
        return None


def _name(octets: bytes) -> str | None:
    try:
        name = octets.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return name if name and name.isprintable() and len(octets) <= LONGEST_LOG_IN else None


def _password(octets: bytes) -> str | None:
    try:
        password = octets.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return password if 0 < len(octets) <= LONGEST_PASSWORD and "\0" not in password else None


def _answer(decide: Decision, verdict: Verdict) -> None:
    decide(verdict.log_in if verdict.outcome == "accepted" else _VERDICTS.get(verdict.outcome))


class _Verified:
    """An exchange that has something verified."""

    def __init__(self, verifier: Asks, listener: str, address: str) -> None:
        self._verifier = verifier
        self._listener = listener
        self._address = address

    def _ask_for_password(self, log_in: str | None, password: str | None, mechanism: str, decide: Decision) -> None:
        if log_in is None or password is None:
            decide(AuthVerdict.AUTH_REFUSED)  # nobody has such a name, or such a password
            return
        attempt = PasswordAttempt(log_in, password, self._address, self._listener, mechanism)
        self._verifier.ask(PASSWORD, attempt, lambda verdict: _answer(decide, verdict))


class Plain(_Verified):
    """RFC 4616: authorisation identity NUL authentication identity NUL password."""

    def step(self, response: bytes | None, decide: Decision) -> None:
        if response is None:
            decide(b"")
            return
        octets = _decode(response)
        if octets is None or octets.count(b"\0") != 2:
            decide(AuthVerdict.AUTH_SYNTAX)
            return
        acts_as, log_in, password = octets.split(b"\0")
        if acts_as not in {b"", log_in}:
            decide(AuthVerdict.AUTH_REFUSED)
            return
        self._ask_for_password(_name(log_in), _password(password), "PLAIN", decide)


class _TwoPrompts:
    """The LOGIN mechanism, which no RFC has: a name, then a password."""

    _log_in: bytes | None = None
    _asked = False

    def step(self, response: bytes | None, decide: Decision) -> None:
        if not self._asked and response is None:
            self._asked = True
            decide(base64.b64encode(b"Username:"))
            return
        self._asked = True
        octets = _decode(response or b"")
        if octets is None:
            decide(AuthVerdict.AUTH_SYNTAX)
        elif self._log_in is None:
            self._log_in = octets
            decide(base64.b64encode(b"Password:"))
        else:
            self._prove(self._log_in, octets, decide)

    def _prove(self, log_in: bytes, password: bytes, decide: Decision) -> None:
        raise NotImplementedError


class Login(_TwoPrompts, _Verified):
    """LOGIN."""

    def _prove(self, log_in: bytes, password: bytes, decide: Decision) -> None:
        self._ask_for_password(_name(log_in), _password(password), "LOGIN", decide)


class Scram(_Verified):
    """SCRAM-SHA-256 and SCRAM-SHA-256-PLUS.

    What the server proves in the end goes as one more challenge, to which the client says nothing: an SMTP reply 235
    has no room for it.
    """

    def __init__(
        self, verifier: Asks, listener: str, address: str, mechanism: str, end_points: Sequence[bytes]
    ) -> None:
        """`end_points`: what the client may have bound its proof to; none where bindings are not offered."""
        super().__init__(verifier, listener, address)
        self._mechanism = mechanism
        self._end_points = end_points
        self._nonce = secrets.token_urlsafe(NONCE_OCTETS)
        self._first: str | None = None
        self._final = False
        self._proved: str | None = None

    def step(self, response: bytes | None, decide: Decision) -> None:
        if response is None:
            decide(b"")
            return
        octets = _decode(response)
        try:
            message = None if octets is None else octets.decode("utf-8")
        except UnicodeDecodeError:
            message = None
        if message is None:
            decide(AuthVerdict.AUTH_SYNTAX)
        elif self._proved is not None:
            decide(self._proved if not message else AuthVerdict.AUTH_SYNTAX)
        elif self._first is None:
            self._first = message
            self._begin(message, decide)
        else:
            self._end(self._first, message, decide)

    def _begin(self, message: str, decide: Decision) -> None:
        binding = self._end_points[-1] if self._end_points else b""
        question = ScramFirst(message, self._nonce, binding, self._address, self._listener, self._mechanism)
        if self._mechanism.endswith("-PLUS") and not binding:
            decide(AuthVerdict.AUTH_UNAVAILABLE)
            return
        self._verifier.ask(SCRAM_FIRST, question, lambda verdict: self._challenge(verdict, decide))

    def _challenge(self, verdict: Verdict, decide: Decision) -> None:
        if verdict.outcome == "challenge":
            decide(base64.b64encode(verdict.message.encode()))
        else:
            decide(_VERDICTS.get(verdict.outcome))

    def _end(self, first: str, final: str, decide: Decision) -> None:
        question = ScramFinal(
            first, final, self._nonce, self._bound_to(first, final), self._address, self._listener, self._mechanism
        )
        self._verifier.ask(SCRAM_FINAL, question, lambda verdict: self._close(verdict, decide))

    def _close(self, verdict: Verdict, decide: Decision) -> None:
        if verdict.outcome == "accepted":
            self._proved = verdict.log_in
            decide(base64.b64encode(verdict.message.encode()))
        else:
            decide(_VERDICTS.get(verdict.outcome))

    def _bound_to(self, first: str, final: str) -> bytes:
        """Which of the node's certificates the client bound its proof to; the newest, where it is none of them."""
        if not self._end_points:
            return b""
        header = f"p={END_POINT},,".encode()
        if first.encode().startswith(header):
            shown = _decode(final.partition(",")[0].removeprefix("c=").encode()) or b""
            said = shown.removeprefix(header)
            if said in self._end_points:
                return said
        return self._end_points[-1]


class _Bearer(_Verified):
    """An access token; a client whose token is refused hears why in a challenge, and its answer ends the exchange."""

    _mechanism = ""
    _failed = False

    def step(self, response: bytes | None, decide: Decision) -> None:
        if self._failed:
            decide(AuthVerdict.AUTH_REFUSED)
            return
        if response is None:
            decide(b"")
            return
        octets = _decode(response)
        if octets is None:
            decide(AuthVerdict.AUTH_SYNTAX)
            return
        found = self._read(octets.decode("utf-8", "replace"))
        if found is None:
            self._fail(_NO_TOKEN, decide)
            return
        log_in, token = found
        attempt = TokenAttempt(log_in, token, self._address, self._listener, self._mechanism)
        self._verifier.ask(TOKEN_LOG_IN, attempt, lambda verdict: self._settle(verdict, decide))

    def _read(self, text: str) -> tuple[str, str] | None:
        raise NotImplementedError

    def _settle(self, verdict: Verdict, decide: Decision) -> None:
        if verdict.outcome == "refused":
            self._fail(self._error(verdict.message), decide)
        else:
            _answer(decide, verdict)

    def _error(self, message: str) -> bytes:
        return message.encode() or b'{"status":"invalid_token"}'

    def _fail(self, error: bytes, decide: Decision) -> None:
        self._failed = True
        decide(base64.b64encode(error))


class OAuthBearer(_Bearer):
    """RFC 7628 §3.1: `n,a=LOG-IN,^Ahost=…^Aauth=Bearer TOKEN^A^A`."""

    _mechanism = "OAUTHBEARER"

    def _read(self, text: str) -> tuple[str, str] | None:
        header, *pairs = text.split("\x01")
        if len(pairs) < 2 or pairs[-2:] != ["", ""] or not header.startswith(("n,", "y,")):
            return None
        log_in = ""
        if header[2:] != ",":
            named = _ACTS_AS.fullmatch(header[2:])
            if named is None:
                return None
            log_in = named[1].replace("=2C", ",").replace("=3D", "=")
        return _of_pairs(log_in, pairs[:-2])


class XOAuth2(_Bearer):
    """Google's and Microsoft's: `user=LOG-IN^Aauth=Bearer TOKEN^A^A`."""

    _mechanism = "XOAUTH2"

    def _read(self, text: str) -> tuple[str, str] | None:
        pairs = text.split("\x01")
        if len(pairs) < 4 or pairs[-2:] != ["", ""] or not pairs[0].startswith("user="):
            return None
        return _of_pairs(pairs[0].removeprefix("user="), pairs[1:-2])

    def _error(self, message: str) -> bytes:
        return _XOAUTH2_ERROR


def _of_pairs(log_in: str, pairs: list[str]) -> tuple[str, str] | None:
    """The log-in and the token behind `auth=Bearer `; None when it is not there once."""
    values = [pair.removeprefix("auth=") for pair in pairs if pair.startswith("auth=")]
    if len(values) != 1 or (log_in and _name(log_in.encode()) is None):
        return None
    scheme, _, token = values[0].partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or not token.isascii() or not token.isprintable():
        return None
    return log_in, token


class External:
    """RFC 4422 appendix A: a name of the certificate that TLS has verified; the first where the client names none."""

    def __init__(self, certificate: ClientCertificate | None) -> None:
        """None: the client has shown none, and nothing is proved."""
        names = () if certificate is None else certificate.names
        self._names = [name for name in names if _name(name.encode()) is not None]

    def step(self, response: bytes | None, decide: Decision) -> None:
        if response is None:
            decide(b"")
            return
        octets = _decode(response)
        if octets is None:
            decide(AuthVerdict.AUTH_SYNTAX)
            return
        wanted = _name(octets) if octets else ""
        named = [name for name in self._names if not wanted or name.casefold() == wanted.casefold()]
        decide(named[0] if named and wanted is not None else AuthVerdict.AUTH_REFUSED)


class AnyPlain:
    """PLAIN for the sandbox: every name, every password."""

    def step(self, response: bytes | None, decide: Decision) -> None:
        if response is None:
            decide(b"")
            return
        octets = _decode(response)
        if octets is None or octets.count(b"\0") != 2:
            decide(AuthVerdict.AUTH_SYNTAX)
            return
        decide(_name(octets.split(b"\0")[1]) or AuthVerdict.AUTH_REFUSED)


class AnyLogin(_TwoPrompts):
    """LOGIN for the sandbox."""

    def _prove(self, log_in: bytes, password: bytes, decide: Decision) -> None:
        del password
        decide(_name(log_in) or AuthVerdict.AUTH_REFUSED)
