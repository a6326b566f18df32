"""AUTH exchanges (RFC 4954): what the client proves, step by step.

A session asks for an exchange by mechanism name and gives it each response with a Decision, which is answered with the
next challenge (base64 octets), with the log-in's name (proved), or with an AuthVerdict. The sandbox accepts every
log-in; credentials come from back ends elsewhere."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Protocol

from angarium._core.server_session import AuthVerdict

if TYPE_CHECKING:
    from angarium._core.decision import Decision
    from angarium._core.server_session import ServerSession


class Exchange(Protocol):
    """One AUTH exchange under way."""

    def step(self, response: bytes | None, decide: Decision) -> None:
        """Take the client's response (None: there was no initial one)."""


def any_login(mechanism: bytes, _: ServerSession) -> Exchange | None:
    """Exchanges that accept every name and password: for the sandbox, from which nothing leaves."""
    if mechanism == b"PLAIN":
        return _AnyPlain()
    if mechanism == b"LOGIN":
        return _AnyLogin()
    return None


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
    return name if name and name.isprintable() and len(octets) <= 255 else None


class _AnyPlain:
    """RFC 4616: authorisation identity NUL authentication identity NUL password."""

    def step(self, response: bytes | None, decide: Decision) -> None:
        if response is None:
            decide(b"")
            return
        octets = _decode(response)
        if octets is None or octets.count(b"\0") != 2:
            decide(AuthVerdict.AUTH_SYNTAX)
            return
        decide(_name(octets.split(b"\0")[1]) or AuthVerdict.AUTH_REFUSED)


class _AnyLogin:
    """The LOGIN mechanism: a name, then a password."""

    def __init__(self) -> None:
        self._login: str | None = None
        self._asked = False

    def step(self, response: bytes | None, decide: Decision) -> None:
        if not self._asked:
            self._asked = True
            if response is None:
                decide(base64.b64encode(b"Username:"))
                return
        octets = _decode(response or b"")
        if octets is None:
            decide(AuthVerdict.AUTH_SYNTAX)
        elif self._login is not None:
            decide(self._login)
        else:
            self._login = _name(octets)
            decide(base64.b64encode(b"Password:") if self._login else AuthVerdict.AUTH_REFUSED)
