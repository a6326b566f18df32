"""SCRAM through Dovecot: messages go to its auth socket as they are, and the state of an exchange stays there.

Job: `first` begins an exchange with the client's first message and gives Dovecot's challenge; `final` goes on with it
and says what came of the proof. An exchange is known by the nonce that a session has chosen for it, a random text of
its own, and lives on the connection on which it began.

Dovecot ends an exchange at once when it does not know the log-in, after a pause of its own (auth_failure_delay). So
nobody learns from that who has a mailbox: every challenge is given `pace` after the question, and who is unknown by
then is given one that looks like Dovecot's, the same for a name each time. With his last message Dovecot is asked once
more, so that the refusal takes as long as one for a wrong proof. Where a real challenge came later than that, the
client is told to come again, and the pace doubles.

Input: a connection, questions. Output: challenges, Findings. Fails: the exceptions of the connection; ValueError where
Dovecot does not announce the mechanism or says what is none of SCRAM. Bounds: MOST_EXCHANGES, PER_CLIENT of one client,
EXCHANGE_S of each; the oldest is given up for a new one."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import os
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from angarium.policy.back_end import Finding, Found
from angarium.policy.failure_table import client_of

if TYPE_CHECKING:
    from angarium.policy.access_protocol import ScramFinal, ScramFirst

__all__ = ["PassedOn", "log_in_of"]

MOST_EXCHANGES = 1000
PER_CLIENT = 64
EXCHANGE_S = 60.0
PACE_S = 0.1
LONGEST_PACE_S = 2.0
FINAL_RESPONSE = "final-resp-ok"  # it may come with OK
NONCE_MARKS = [chr(code) for code in range(0x21, 0x7F) if chr(code) != ","]  # RFC 5802 §7: printable, no comma


class Requests(Protocol):
    """A connection to Dovecot (policy.dovecot)."""

    closed: bool
    mechanisms: set[str]

    def begin(self, mechanism: str, service: str, address: str, response: bytes, *options: str) -> str: ...
    def go_on(self, number: str, response: bytes) -> None: ...
    def answer(self, number: str) -> asyncio.Future[list[str]]: ...
    def forget(self, number: str, *, cancel: bool = False) -> None: ...


@dataclass(frozen=True, slots=True)
class _Exchange:
    connection: Requests
    number: str  # "" when Dovecot knows nothing of it
    client: str
    until: float

    def give_up(self) -> None:
        if self.number:
            self.connection.forget(self.number, cancel=True)


@dataclass(slots=True)
class _Look:
    """What challenges of Dovecot look like; before the first, as those of Dovecot's defaults."""

    nonce_length: int = 64
    salt_octets: int = 16
    iterations: int = 4096


class PassedOn:
    """The exchanges with one Dovecot."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._exchanges: OrderedDict[str, _Exchange] = OrderedDict()
        self._secret = os.urandom(32)
        self._look = _Look()
        self._pace_s = PACE_S

    def __contains__(self, nonce: str) -> bool:
        return nonce in self._exchanges

    def __len__(self) -> int:
        return len(self._exchanges)

    async def first(self, connection: Requests, question: ScramFirst, log_in: str) -> str:
        """The challenge."""
        if question.mechanism not in connection.mechanisms:
            raise ValueError(f"it offers no {question.mechanism} (auth_mechanisms)")
        client_nonce = _attribute(question.message, "r")
        client, now = client_of(question.address) or "local", asyncio.get_running_loop().time()
        self._make_room(client, now)
        number = self._begin(connection, question.mechanism, question.address, question.message)
        challenge = None
        try:
            await asyncio.sleep(self._pace_s)
            answer = connection.answer(number)
            if answer.done():
                challenge = self._challenge_of(answer.result(), client_nonce)
        except BaseException:
            connection.forget(number, cancel=True)
            raise
        if challenge is None:
            connection.forget(number, cancel=True)
            challenge = self._made_up(log_in, client_nonce)
            number = ""
        self._exchanges[question.nonce] = _Exchange(connection, number, client, now + EXCHANGE_S)
        return challenge

    async def final(self, connection: Requests, question: ScramFinal, log_in: str) -> Found:
        """What came of it."""
        exchange = self._exchanges.pop(question.nonce, None)
        if exchange is None:
            return Found(Finding.UNAVAILABLE)
        if exchange.until <= asyncio.get_running_loop().time() or exchange.connection.closed:
            exchange.give_up()
            return Found(Finding.UNAVAILABLE)
        if not exchange.number:
            return await self._refusal(connection, question)
        connection, number = exchange.connection, exchange.number
        ended = False
        message = ""
        try:
            connection.go_on(number, question.final.encode())
            word, *rest = await connection.answer(number)
            if word == "CONT":  # the last message by itself, to which the client has nothing to say
                message = _text(rest[0] if rest else "")
                connection.go_on(number, b"")
                word, *rest = await connection.answer(number)
            ended = word != "CONT"
        finally:
            connection.forget(number, cancel=not ended)
        told = dict(part.partition("=")[::2] for part in rest)
        if word == "OK":
            return Found(Finding.ACCEPTED, told.get("user", "") or log_in, _text(told.get("resp", "")) or message)
        return Found(Finding.UNAVAILABLE) if "temp" in told else Found(Finding.REFUSED, log_in)

    async def _refusal(self, connection: Requests, question: ScramFinal) -> Found:
        """For one whom Dovecot did not know."""
        number = self._begin(connection, question.mechanism, question.address, question.first)
        ended = False
        try:
            word, *rest = await connection.answer(number)
            ended = word != "CONT"
        finally:
            connection.forget(number, cancel=not ended)
        if word == "FAIL" and not any(part.partition("=")[0] == "temp" for part in rest):
            return Found(Finding.UNKNOWN)
        if word == "CONT":  # it does know, but was slow to say so
            self._pace_s = min(2 * self._pace_s, LONGEST_PACE_S)
        return Found(Finding.UNAVAILABLE)

    def _begin(self, connection: Requests, mechanism: str, address: str, message: str) -> str:
        return connection.begin(mechanism, self._service, address, message.encode(), FINAL_RESPONSE)

    def _make_room(self, client: str, now: float) -> None:
        for nonce, exchange in list(self._exchanges.items()):
            if exchange.until > now and not exchange.connection.closed:
                break
            del self._exchanges[nonce]
            exchange.give_up()
        own = [nonce for nonce, exchange in self._exchanges.items() if exchange.client == client]
        if len(own) >= PER_CLIENT:
            self._exchanges.pop(own[0]).give_up()
        elif len(self._exchanges) >= MOST_EXCHANGES:
            self._exchanges.popitem(last=False)[1].give_up()

    def _challenge_of(self, answer: list[str], client_nonce: str) -> str | None:
        """The challenge in an answer; None when Dovecot does not know the log-in."""
        word, *rest = answer
        if word != "CONT":
            if "temp" in (part.partition("=")[0] for part in rest):
                raise ValueError("it cannot look log-ins up now")
            return None
        message = _text(rest[0] if rest else "")
        nonce, salt, iterations = (_attribute(message, name) for name in "rsi")
        if not nonce.startswith(client_nonce) or not iterations.isdecimal():
            raise ValueError("its challenge is none of SCRAM")
        self._look = _Look(len(nonce) - len(client_nonce), len(_octets(salt)), int(iterations))
        return message

    def _made_up(self, log_in: str, client_nonce: str) -> str:
        """A challenge that looks like Dovecot's; it is right for no password."""
        look = self._look
        nonce = client_nonce + "".join(secrets.choice(NONCE_MARKS) for _ in range(look.nonce_length))
        salt = hmac.digest(self._secret, log_in.encode(), "sha512")[: look.salt_octets]
        return f"r={nonce},s={base64.b64encode(salt).decode()},i={look.iterations}"


def log_in_of(message: str) -> str:
    """The log-in in a SCRAM client's first message; "" when there is none, or it wants to act for somebody else.

    RFC 5802 §7: gs2-header (a flag, an authorisation identity), then n=, r=, extensions.
    """
    flag, _, rest = message.partition(",")
    identity, _, bare = rest.partition(",")
    names = [part.partition("=") for part in bare.split(",")]
    if len(names) < 2 or names[0][0] != "n" or names[1][0] != "r" or not names[1][2] or flag[:1] not in {"n", "y", "p"}:
        return ""
    log_in = _plain(names[0][2])
    return log_in if log_in and identity in {"", f"a={names[0][2]}"} else ""


def _plain(name: str) -> str:
    """A saslname without its escapes; "" when it is none."""
    parts = name.replace("=2C", ",").split("=3D")
    return "" if any("=" in part for part in parts) else "=".join(parts)


def _attribute(message: str, name: str) -> str:
    return next((part[2:] for part in message.split(",") if part.startswith(f"{name}=")), "")


def _octets(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("it says what is no base64") from None


def _text(coded: str) -> str:
    return _octets(coded).decode("utf-8")
