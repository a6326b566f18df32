"""The back end `kind = "file"`: log-ins of a credentials file (policy.credentials_file), read again when it changes.

Job: verify passwords in the pool, and SCRAM proofs by scramp. Input: the path, the pool of verifiers. Output: findings;
`on_change` is called when the file was read anew, so that what is remembered of the old one can be forgotten.

A look at the file's state costs a system call a second at most. Fails: a file that cannot be read any more, or has a
line that is none, is said once in the log; what was read before stays in use, and without anything read before the
finding is UNAVAILABLE."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from scramp import ScramException, ScramMechanism  # type: ignore[import-untyped]

from angarium.policy.access_protocol import ScramFinal
from angarium.policy.back_end import BackEnd, Finding, Found
from angarium.policy.credentials_file import read_credentials

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium.policy.access_protocol import PasswordAttempt, ScramFirst
    from angarium.policy.back_end import VerifierPool
    from angarium.policy.credentials_file import CredentialsFile

__all__ = ["FileBackEnd", "ScramExchange"]

log = logging.getLogger(__name__)

LOOK_S = 1.0
END_POINT = "tls-server-end-point"


class ScramExchange:
    """What SCRAM came to: the server's message, whose log-in it is, and whether the proof held (the last step)."""

    def __init__(self, log_in: str, message: str, *, proved: bool = False) -> None:
        self.log_in = log_in
        self.message = message
        self.proved = proved


class FileBackEnd(BackEnd):
    """The log-ins of one file."""

    def __init__(
        self, path: str, pool: VerifierPool, monotonic: Callable[[], float], on_change: Callable[[], None]
    ) -> None:
        self._path = path
        self._pool = pool
        self._monotonic = monotonic
        self._on_change = on_change
        self._file: CredentialsFile | None = None
        self._state: tuple[int, int, int] | None = None
        self._looked = -LOOK_S
        self._complaint = ""

    async def password(self, attempt: PasswordAttempt) -> Found:
        """Verified in the pool, which takes as long for a log-in that is not there."""
        file = self.file()
        if file is None:
            return Found(Finding.UNAVAILABLE)
        log_in, password = attempt.log_in, attempt.password
        right = await self._pool.run(lambda: file.verify(log_in, password))
        if right is None:
            return Found(Finding.UNKNOWN)
        return Found(Finding.ACCEPTED if right else Finding.REFUSED, file.own_name(log_in) or log_in)

    def scram(self, question: ScramFirst | ScramFinal) -> ScramExchange | None:
        """One step of SCRAM; None when the client's message is none, or the file cannot be read.

        The first step is taken again with the last one: nothing is kept between the two.
        """
        file = self.file()
        if file is None:
            return None
        asked: list[str] = []

        def keys(log_in: str) -> tuple[bytes, bytes, bytes, int]:
            asked.append(log_in)
            nobodys = file.nobodys_scram(log_in)  # made for every log-in, so that the time does not tell
            found = file.scram(log_in) or nobodys
            return found.salt, found.stored_key, found.server_key, found.iterations

        binding = (END_POINT, question.binding) if question.binding else None
        first = question.first if isinstance(question, ScramFinal) else question.message
        try:
            mechanism = ScramMechanism(question.mechanism)
            server = mechanism.make_server(keys, channel_binding=binding, s_nonce=question.nonce)
            server.set_client_first(first)
            message = server.get_server_first()
        except ScramException:
            return None
        own = file.own_name(asked[0]) or asked[0]
        if not isinstance(question, ScramFinal):
            return ScramExchange(own, message)
        try:
            server.set_client_final(question.final)
        except ScramException:
            return ScramExchange(own, "")
        return ScramExchange(own, server.get_server_final(), proved=file.scram(own) is not None)

    def has(self, log_in: str) -> bool:
        """Whether the log-in is in the file."""
        file = self.file()
        return file is not None and file.own_name(log_in) is not None

    def file(self) -> CredentialsFile | None:
        """What the file says; None when it has never been readable."""
        now = self._monotonic()
        if now - self._looked >= LOOK_S:
            self._looked = now
            self._look()
        return self._file

    def _look(self) -> None:
        try:
            found = os.stat(self._path)
            state = (found.st_mtime_ns, found.st_size, found.st_ino)
            if state == self._state:
                return
            file = read_credentials(self._path)
        except (OSError, ValueError) as failure:
            why = f"{self._path}: {failure.strerror}" if isinstance(failure, OSError) else str(failure)
            if why != self._complaint:
                self._complaint = why
                stays = "" if self._file is None else "; what it said before stays in use"
                log.error("log-ins cannot be read: %s%s", why, stays)
            return
        if self._file is not None:
            log.info("%s has changed: %d log-ins", self._path, len(file.entries))
        self._complaint = ""
        self._state = state
        self._file = file
        self._on_change()
