"""Somebody who knows log-ins, for sessions without an access process: what is asked is answered at once."""

from __future__ import annotations

import base64
import functools
from typing import TYPE_CHECKING, Any

from angarium.ingress.authentication import ListenerAuthentication
from angarium.policy.access_protocol import PasswordAttempt, ScramFinal, ScramFirst, TokenAttempt, Verdict
from angarium.policy.credentials_file import CredentialsFile, Entry, make_entry
from angarium.policy.file_back_end import FileBackEnd

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium._core.server_session import ServerSession
    from angarium.delivery.lookup_protocol import Kind
    from angarium.ingress.channel_binding import EndPoints
    from angarium.ingress.exchange import Exchange

LOG_IN, PASSWORD, TOKEN = "user", "secret", "a.good.token"
REFUSED = Verdict("refused")


@functools.cache
def _entry() -> Entry:
    return make_entry(PASSWORD)


class KnownFile(FileBackEnd):
    """A file of log-ins that is on no disk."""

    def __init__(self, known: CredentialsFile) -> None:
        self._known = known

    def file(self) -> CredentialsFile:
        return self._known


class Knows:
    """Answers like the access process, for one log-in. `verdict` is the answer whatever is asked, when it is set."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.verdict: Verdict | None = None
        self._file: KnownFile | None = None

    def ask(self, kind: Kind[Any, Verdict], question: Any, then: Callable[[Verdict], None]) -> None:
        """As ingress.authentication.Verifier, but at once."""
        self.asked.append(question)
        then(self.verdict if self.verdict is not None else self._answer(question))

    def _answer(self, question: Any) -> Verdict:
        if isinstance(question, PasswordAttempt):
            right = (question.log_in, question.password) == (LOG_IN, PASSWORD)
            return Verdict("accepted", LOG_IN) if right else REFUSED
        if isinstance(question, TokenAttempt):
            if question.token == TOKEN and question.log_in in {"", LOG_IN}:
                return Verdict("accepted", LOG_IN)
            return Verdict("refused", message='{"status":"invalid_token","scope":"mail"}')
        assert isinstance(question, ScramFirst | ScramFinal)
        if self._file is None:
            self._file = KnownFile(CredentialsFile({LOG_IN: _entry()}, b"a secret"))
        exchange = self._file.scram(question)
        if exchange is None:
            return REFUSED
        if isinstance(question, ScramFirst):
            return Verdict("challenge", exchange.log_in, exchange.message)
        return Verdict("accepted", exchange.log_in, exchange.message) if exchange.proved else REFUSED


def authentication_of(
    knows: Knows, end_points: EndPoints | None = None
) -> Callable[[bytes, ServerSession], Exchange | None]:
    """What a ListenerProfile takes."""
    return ListenerAuthentication("relay", knows, end_points)


def coded(text: str) -> str:
    """Text as a client's response."""
    return base64.b64encode(text.encode()).decode()


def text_of(lines: list[str]) -> str:
    """The text of a challenge, as Dialogue reads it."""
    return base64.b64decode(lines[0]).decode()
