"""The back end `kind = "dovecot"`: Dovecot's auth-client socket, protocol version 1 (as Postfix speaks it).

Job: ask whether a password is right, over one connection that is opened with the first question and kept. A password
goes as the response of PLAIN, whatever mechanism the client used here. Many questions are under way at one time, told
apart by their numbers. SCRAM goes through as it is (policy.dovecot_scram), where Dovecot announces it.

Dovecot does not say whether it knows a log-in: FAIL is UNKNOWN, so that a back end behind this one may know it.

Its own delays for a client that fails (`no-penalty`) are left out: there is a table of failures here already, and an
answer that comes late would be taken for none.

Fails: no connection, no handshake, no answer in time, FAIL with `temp`: UNAVAILABLE, with the reason in the log. When
the connection ends, what is under way is UNAVAILABLE, and the next question opens another.

Bounds: MOST_AT_ONCE questions, LINE_OCTETS of a line, `timeout_s` for each question with all that it needs."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
from typing import TYPE_CHECKING, TypeVar

from angarium.policy.back_end import MOST_AT_ONCE, BackEnd, Finding, Found
from angarium.policy.dovecot_scram import PassedOn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from angarium.policy.access_protocol import PasswordAttempt, ScramFinal, ScramFirst

__all__ = ["DovecotBackEnd"]

log = logging.getLogger(__name__)

LINE_OCTETS = 8192  # AUTH_REQUEST_MAX of Dovecot
MAJOR = "1"

T = TypeVar("T")


class DovecotBackEnd(BackEnd):
    """One Dovecot."""

    passes_scram_on = True

    def __init__(self, socket: str, service: str, timeout_s: float) -> None:
        self._path = socket
        self._service = service
        self._timeout_s = timeout_s
        self._gate = asyncio.Semaphore(MOST_AT_ONCE)
        self._opening = asyncio.Lock()
        self._connection: Connection | None = None
        self._passed_on = PassedOn(service)

    async def password(self, attempt: PasswordAttempt) -> Found:
        """Ask Dovecot."""
        found = await self._asked(lambda connection: connection.ask(attempt, self._service))
        return Found(Finding.UNAVAILABLE) if found is None else found

    async def scram_first(self, question: ScramFirst, log_in: str) -> str | None:
        """The challenge for a SCRAM client; None when Dovecot cannot say."""
        return await self._asked(lambda connection: self._passed_on.first(connection, question, log_in))

    async def scram_final(self, question: ScramFinal, log_in: str) -> Found:
        """Whether the client's proof holds."""
        found = await self._asked(lambda connection: self._passed_on.final(connection, question, log_in))
        return Found(Finding.UNAVAILABLE) if found is None else found

    async def _asked(self, ask: Callable[[Connection], Awaitable[T]]) -> T | None:
        """None when there is no answer; the log says why."""
        try:
            async with asyncio.timeout(self._timeout_s), self._gate:
                return await ask(await self._connected())
        except TimeoutError:
            log.error("%s has no answer within %g s", self._path, self._timeout_s)
        except (OSError, ValueError, EOFError) as failure:
            log.error("%s cannot be asked: %s", self._path, failure)
        return None

    async def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close()

    async def _connected(self) -> Connection:
        async with self._opening:
            if self._connection is None or self._connection.closed:
                connection = Connection(*await asyncio.open_unix_connection(self._path, limit=LINE_OCTETS))
                try:
                    await connection.greet()
                except BaseException:
                    connection.close()
                    raise
                self._connection = connection
            return self._connection


class Connection:
    """One connection to Dovecot's auth socket; requests on it are told apart by their numbers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.closed = False
        self.mechanisms: set[str] = set()
        self._reader = reader
        self._writer = writer
        self._number = 0
        self._waiting: dict[str, asyncio.Future[list[str]]] = {}
        self._listening: asyncio.Task[None] | None = None

    async def greet(self) -> None:
        """The handshake of both sides."""
        self._writer.write(f"VERSION\t{MAJOR}\t1\nCPID\t{os.getpid()}\n".encode())
        while True:
            word, *rest = await self._line()
            if word == "VERSION" and rest[:1] != [MAJOR]:
                raise ValueError(f"it speaks version {'.'.join(rest)} of the protocol, not {MAJOR}")
            if word == "MECH" and rest:
                self.mechanisms.add(rest[0].upper())
            if word == "DONE":
                break
        if "PLAIN" not in self.mechanisms:
            raise ValueError("it offers no PLAIN (auth_mechanisms)")
        self._listening = asyncio.get_running_loop().create_task(self._listen())

    async def ask(self, attempt: PasswordAttempt, service: str) -> Found:
        """One question."""
        if "\0" in attempt.log_in or "\0" in attempt.password:
            return Found(Finding.UNKNOWN)
        response = f"\0{attempt.log_in}\0{attempt.password}".encode()
        number = self.begin("PLAIN", service, attempt.address, response)
        try:
            word, *rest = await self.answer(number)
        finally:
            del self._waiting[number]
        told = dict(part.partition("=")[::2] for part in rest)
        if word == "OK":
            return Found(Finding.ACCEPTED, told.get("user", "") or attempt.log_in)
        return Found(Finding.UNAVAILABLE if "temp" in told else Finding.UNKNOWN)

    def begin(self, mechanism: str, service: str, address: str, response: bytes, *options: str) -> str:
        """A request; its number. Whoever begins one takes its `answer`s, and ends it with `forget`."""
        self._number = self._number % 0x7FFFFFFF + 1
        number = str(self._number)
        self._expect(number)
        parts = [
            "AUTH",
            number,
            mechanism,
            f"service={_escaped(service)}",
            "secured",
            "nologin",
            "no-penalty",
            *options,
        ]
        if address:
            parts.append(f"rip={_escaped(address)}")
        self._say(*parts, f"resp={base64.b64encode(response).decode()}")
        return number

    def go_on(self, number: str, response: bytes) -> None:
        """The client's next response; another `answer` follows."""
        self._expect(number)
        self._say("CONT", number, base64.b64encode(response).decode())

    def answer(self, number: str) -> asyncio.Future[list[str]]:
        """OK, FAIL or CONT, and what stands behind the number; EOFError when the connection ends before."""
        return self._waiting[number]

    def forget(self, number: str, *, cancel: bool = False) -> None:
        """The request is over; `cancel`: Dovecot has not ended it."""
        self._waiting.pop(number, None)
        if cancel and not self.closed:
            self._say("CANCEL", number)

    def _expect(self, number: str) -> None:
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        waiting.add_done_callback(_look_at)

    def _say(self, *parts: str) -> None:
        self._writer.write(("\t".join(parts) + "\n").encode())

    def close(self) -> None:
        """End it; who waits is told so."""
        self.closed = True
        if self._listening is not None:
            self._listening.cancel()
        self._writer.close()
        self._give_up(EOFError("the connection ended"))

    async def _listen(self) -> None:
        try:
            while True:
                word, *rest = await self._line()
                if word in {"OK", "FAIL", "CONT"} and rest:
                    waiting = self._waiting.get(rest[0])
                    if waiting is not None and not waiting.done():
                        waiting.set_result([word, *rest[1:]])
        except (OSError, ValueError, EOFError) as failure:
            self.closed = True
            self._writer.close()
            self._give_up(failure)

    def _give_up(self, failure: Exception) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(failure)

    async def _line(self) -> list[str]:
        octets = await self._reader.readline()  # ValueError for one that is too long
        if not octets.endswith(b"\n"):
            raise EOFError("the connection ended")
        return [_unescaped(part) for part in octets[:-1].decode("utf-8", "replace").split("\t")]


def _look_at(waiting: asyncio.Future[list[str]]) -> None:
    """A failure that nobody waits for any more is none."""
    if not waiting.cancelled():
        waiting.exception()


_ESCAPES = {"\x01": "\x011", "\t": "\x01t", "\r": "\x01r", "\n": "\x01n", "\0": "\x010"}


def _escaped(text: str) -> str:
    return "".join(_ESCAPES.get(mark, mark) for mark in text)


def _unescaped(text: str) -> str:
    for mark, escape in reversed(_ESCAPES.items()):
        text = text.replace(escape, mark)
    return text
