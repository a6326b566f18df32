"""AUTH as a client says it: which mechanism, and what goes over the wire (RFC 4954). No I/O.

Input: the mechanisms that a host offers, a user, and a password or an OAuth2 access token; then the host's challenges.
Output: responses, not yet in base64. With a password CRAM-MD5 (RFC 2195) comes before PLAIN (RFC 4616) and LOGIN, with
a token OAUTHBEARER (RFC 7628) before XOAUTH2; the strongest that the host offers is taken.

The text of an exchange is a secret: nothing here is to be logged but `Exchange.refusal`, what a host said of a token.

Fails: AuthError when no mechanism fits, a challenge is none, or user or password cannot be said in the mechanism.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from dataclasses import dataclass, field

__all__ = [
    "MECHANISMS",
    "PASSWORD_MECHANISMS",
    "TOKEN_MECHANISMS",
    "AuthError",
    "Credentials",
    "Exchange",
    "begin",
    "choose",
    "decode_challenge",
]

PASSWORD_MECHANISMS = ("CRAM-MD5", "PLAIN", "LOGIN")  # the strongest first
TOKEN_MECHANISMS = ("OAUTHBEARER", "XOAUTH2")
MECHANISMS = (*PASSWORD_MECHANISMS, *TOKEN_MECHANISMS)
LONGEST_REFUSAL = 200


class AuthError(ValueError):
    """The log-in cannot go on. The text has no secret in it."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who logs in, and with what."""

    user: str
    secret: str = field(repr=False)
    is_token: bool = False  # secret is an OAuth2 access token, not a password


def choose(offered: str, credentials: Credentials, wanted: str | None = None) -> str:
    """The mechanism to use; wanted: no other. offered: the parameters of AUTH in the host's EHLO reply."""
    known = {word.upper() for word in offered.split()}
    usable: tuple[str, ...] = TOKEN_MECHANISMS if credentials.is_token else PASSWORD_MECHANISMS
    if wanted is not None:
        usable = (wanted,)
    for mechanism in usable:
        if mechanism in known:
            return mechanism
    has = " ".join(sorted(known)) or "none"
    raise AuthError(f"the host offers no mechanism for this log-in (it has {has}; usable: {' '.join(usable)})")


class Exchange:
    """One log-in by one mechanism: `first`, if it is not None, may go along with AUTH; the rest are answers."""

    def __init__(self, mechanism: str, credentials: Credentials) -> None:
        self.mechanism = mechanism
        self.first: bytes | None = None
        self.refusal = ""  # what the host said of the token (RFC 7628 §3.2.2)
        self._user = _octets(credentials.user)
        self._secret = _octets(credentials.secret)

    def answer(self, challenge: bytes) -> bytes:
        """The response to a challenge."""
        raise AuthError(f"the host asks for more than {self.mechanism} has")


class _Plain(Exchange):
    def __init__(self, mechanism: str, credentials: Credentials) -> None:
        super().__init__(mechanism, credentials)
        self.first = b"\0" + self._user + b"\0" + self._secret


class _Login(Exchange):
    """Two prompts, whatever they say; there is no standard of it."""

    def __init__(self, mechanism: str, credentials: Credentials) -> None:
        super().__init__(mechanism, credentials)
        self._answers = [self._user, self._secret]

    def answer(self, challenge: bytes) -> bytes:
        return self._answers.pop(0) if self._answers else super().answer(challenge)


class _CramMd5(Exchange):
    def answer(self, challenge: bytes) -> bytes:
        if not challenge:
            raise AuthError("the host sends no challenge for CRAM-MD5")
        return self._user + b" " + hmac.new(self._secret, challenge, "md5").hexdigest().encode("ascii")


class _Bearer(Exchange):
    """Both forms end an error in the same way: it comes as a challenge, which must be answered to see the reply."""

    END = b""

    def answer(self, challenge: bytes) -> bytes:
        if self.refusal:
            return super().answer(challenge)
        self.refusal = _refusal_of(challenge)
        return self.END


class _OAuthBearer(_Bearer):
    END = b"\x01"  # RFC 7628 §3.2.3

    def __init__(self, mechanism: str, credentials: Credentials, host: str, port: int) -> None:
        super().__init__(mechanism, credentials)
        name = self._user.replace(b"=", b"=3D").replace(b",", b"=2C")  # RFC 5801 §4: saslname
        where = b"host=%s\x01port=%d\x01" % (host.encode("idna") if host else b"", port)
        self.first = b"n,a=" + name + b",\x01" + where + b"auth=Bearer " + self._secret + b"\x01\x01"


class _XOAuth2(_Bearer):
    def __init__(self, mechanism: str, credentials: Credentials) -> None:
        super().__init__(mechanism, credentials)
        self.first = b"user=" + self._user + b"\x01auth=Bearer " + self._secret + b"\x01\x01"


def begin(mechanism: str, credentials: Credentials, host: str, port: int) -> Exchange:
    """A log-in to host by one of MECHANISMS."""
    match mechanism:
        case "PLAIN":
            return _Plain(mechanism, credentials)
        case "LOGIN":
            return _Login(mechanism, credentials)
        case "CRAM-MD5":
            return _CramMd5(mechanism, credentials)
        case "OAUTHBEARER":
            return _OAuthBearer(mechanism, credentials, host, port)
        case "XOAUTH2":
            return _XOAuth2(mechanism, credentials)
    raise AuthError(f"{mechanism} is not known")


def decode_challenge(text: str) -> bytes:
    """What stands behind a 334."""
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise AuthError("the host's challenge is not in base64") from None


def _octets(text: str) -> bytes:
    if any(mark in text for mark in "\0\r\n\x01"):
        raise AuthError("a user or a password has a control character in it")
    return text.encode("utf-8")


def _refusal_of(challenge: bytes) -> str:
    """The status in a host's error, as it is shown; never empty."""
    try:
        status = json.loads(challenge).get("status", "")
    except (ValueError, AttributeError):
        status = ""
    shown = "".join(mark for mark in str(status) if mark.isprintable())[:LONGEST_REFUSAL]
    return shown or "invalid_token"
