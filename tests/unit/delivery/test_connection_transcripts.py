"""How a connection begins: the dialogues of tests/transcripts/connection, with hosts on loopback that the test plays.

S lines are what a host says, C lines what it must have heard. Directives:

    @policy WORD ... the TLS policy, before anything else; "opportunistic" unless it is there. Behind it: ca (the one
                     that has signed the certificates), fingerprint=CERTIFICATE or key=CERTIFICATE, name=NAME,
                     mx=PATTERN, requiretls
    @protocol WORD   of the target; "smtp" unless it is there
    @login KEY=VALUE ...  of the route's auth: user, password, mechanism, plaintext=true; tokens=T1,T2 in the place of a
                     password: the token, and the one that comes when it is refused
    @impatient       no reply to MAIL is waited for: @sweep ends the session
    @implicit        TLS from the first octet on; @secure comes before the greeting
    @unix            the host listens on a Unix socket, not on TCP
    @hosts N         the next hop has N hosts, to be tried in this order
    @tlsa U S M CERTIFICATE  a TLSA record of the first host, for a certificate of test_connection_transcripts.PARTIES
    @certificate WORD what hosts have: one of PARTIES, stranger unless it is there
    @again           another message comes
    @accept [N]      a connection comes to host N (1 unless it is there)
    @secure          the host's side of the TLS handshake
    @dropped_handshake  the same, and the client goes right behind it
    @refused_handshake  the same, and the client does not like it
    @garble          it answers the handshake with something else, and closes
    @lost            the host closes the connection
    @gone            the client has closed it
    @tls ...         what was told of TLS so far, for each connection: good, or the result of RFC 8460 §4.3
    @outcome ...     what is settled of the message: state, status, text
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from angarium._core.counters import Slab, Slot
from angarium._core.dispatch import Delivery, Dispatcher, ReadyQueue
from angarium._core.event_log import EventLog
from angarium._core.journal import CallbackTaker, Journal
from angarium._core.record import make_accepted, new_message
from angarium.config.model import Auth, Timeouts
from angarium.config.model import Delivery as DeliveryConfig
from angarium.config.secret import Secret
from angarium.delivery.connection import Connector
from angarium.delivery.egress import Egresses
from angarium.delivery.login import Login
from angarium.delivery.mail_host import Tlsa
from angarium.delivery.oauth2 import TokenError
from angarium.delivery.target import Host, SessionTerms, Target, TlsPolicy
from angarium.outcome.classify import classify
from tests.support.certificates import Authority, Issued, self_signed
from tests.support.clock import FakeClock
from tests.support.transcript import Dialogue, Step, dialogues_of, matches, unescape

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from angarium.delivery.tls_result import TlsOutcome

DIALOGUES = dialogues_of("connection")
PATIENCE_S = 60
SETTINGS = {
    "policy",
    "protocol",
    "login",
    "implicit",
    "impatient",
    "unix",
    "hosts",
    "tlsa",
    "certificate",
}


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journal]:
    folder: Path = tmp_path_factory.mktemp("shard")
    journal = Journal(str(folder), 0, 1 << 20, Slab.create(1).region(0), CallbackTaker(lambda message: None))
    yield journal
    journal.close()


@dataclass(frozen=True)
class Party:
    """A certificate that a host may have, and what it speaks TLS with."""

    issued: Issued
    context: ssl.SSLContext


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Party]:
    """PARTIES: good, expired, other (of another name), all signed by `root`, which "ca" trusts; and a stranger."""
    folder = tmp_path_factory.mktemp("certificates")
    root = Authority("Root CA")
    made = {
        "root": root,
        "good": root.issue("mx1.test"),
        "expired": root.issue("mx1.test", days=(-20, -10)),
        "other": root.issue("other.test"),
        "stranger": self_signed("mx1.test"),
    }
    return {name: Party(one, one.server_context(folder, [root], name)) for name, one in made.items()}


class Handful:
    """Access tokens, one after the other, each until it is refused."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens

    async def token(self, refused: str | None = None) -> str:
        if refused is not None:
            assert self.tokens.pop(0) == refused
        if not self.tokens:
            raise TokenError("the token host refused (400): invalid_grant", refused=True)
        return self.tokens[0]


def login_of(options: dict[str, str]) -> Login:
    """The log-in that a @login describes."""
    password = Secret(options["password"]) if "password" in options else None
    auth = Auth(
        user=options["user"],
        password=password,
        mechanism=options.get("mechanism"),
        plaintext=options.get("plaintext") == "true",
    )
    return Login(
        auth, Handful(unescape(options["tokens"].encode()).decode().split(",")) if "tokens" in options else None
    )


class Player:
    """Plays one dialogue."""

    def __init__(self, dialogue: Dialogue, journal: Journal, parties: dict[str, Party], folder: Path) -> None:
        self.dialogue = dialogue
        self.parties = parties
        self.folder = folder
        self.certificate = parties["stranger"].context
        self.outcomes: list[TlsOutcome] = []
        self.sent = 0
        self.counters = Slab.create(1).region(0)
        self.dispatcher = Dispatcher(self.counters, EventLog(None, self.counters))
        self.dispatcher.journals[journal.shard] = journal
        self.dispatcher.settle = self._settle
        self.dispatcher.reconsider = lambda message: None
        self.egress = Egresses(self.counters, DeliveryConfig())
        self.connector = Connector(
            self.egress,
            self.counters,
            FakeClock(),
            hostname="relay.test",
            chance=Random(1),
            settle=self._settle,
            loopback_only=True,
            on_tls_result=self.outcomes.append,
        )
        self.settled: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self.streams: list[asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = []
        self.servers: list[asyncio.Server] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.policy = TlsPolicy()
        self.tlsa: list[Tlsa] = []
        self.protocol = "smtp"
        self.login: Login | None = None
        self.terms = SessionTerms()
        self.implicit = False
        self.unix: Path | None = None
        self.hosts = 1

    async def play(self) -> None:
        steps = list(self.dialogue.steps)
        while steps and steps[0].kind == "@" and steps[0].words[0] in SETTINGS:
            self._prepare(*steps.pop(0).words)
        try:
            await self._listen()
            self._send()
            for step in steps:
                try:
                    async with asyncio.timeout(PATIENCE_S):
                        await self._step(step)
                except TimeoutError:
                    pytest.fail(f"{self.dialogue.file}.txt:{step.line}: nothing came of it")
        finally:
            await self.connector.close()
            for writer in self.writers:
                writer.transport.abort()
            for server in self.servers:
                server.close()
                await server.wait_closed()
        assert self.settled.empty()
        assert self.counters.value(Slot.DELIVERY_CONNECTIONS) == self.egress.sessions

    def _prepare(self, word: str, *rest: str) -> None:
        match word, *rest:
            case "policy", level, *settings:
                self.policy = TlsPolicy(level)  # type: ignore[arg-type]
                for setting in settings:
                    name, _, value = setting.partition("=")
                    self.policy = replace(self.policy, **self._setting(name, value))
            case "hosts", number:
                self.hosts = int(number)
            case "protocol", protocol:
                self.protocol = protocol
            case "login", *_:
                self.login = login_of(Step("@", words=[word, *rest]).options())
            case "impatient", *_:
                self.terms = SessionTerms(timeouts=Timeouts(mail_s=-1))
            case "implicit", *_:
                self.implicit = True
            case "unix", *_:
                self.unix = self.folder / f"{id(self)}.socket"
            case "tlsa", usage, selector, matching_type, name:
                data = self.parties[name].issued.tlsa_data(int(selector), int(matching_type))
                self.tlsa.append(Tlsa(int(usage), int(selector), int(matching_type), data))
            case "certificate", name:
                self.certificate = self.parties[name].context

    def _setting(self, name: str, value: str) -> dict[str, Any]:
        match name:
            case "ca":
                return {"ca": str(self.parties["root"].issued.write(self.folder, "ca")[0])}
            case "fingerprint" | "key":
                return {"fingerprints": (bytes.fromhex(self.parties[value].issued.fingerprint(of_key=name == "key")),)}
            case "requiretls":
                return {"requiretls": True}
            case "mx":
                return {"mx": (value,)}
            case "nodane":
                return {"dane": False}
        return {name: value}

    async def _listen(self) -> None:
        port = 0
        for number in range(self.hosts):
            streams: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

            def accept(
                reader: asyncio.StreamReader,
                writer: asyncio.StreamWriter,
                streams: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = streams,
            ) -> None:
                self.writers.append(writer)
                streams.put_nowait((reader, writer))

            if self.unix is not None:
                server = await asyncio.start_unix_server(accept, self.unix)
            else:
                server = await asyncio.start_server(accept, f"127.0.0.{number + 1}", port)
                port = server.sockets[0].getsockname()[1]
            self.servers.append(server)
            self.streams.append(streams)
        hosts = tuple(
            Host(
                f"mx{number}.test",
                f"127.0.0.{number}",
                port,
                tuple(self.tlsa) or None if number == 1 else None,
                implicit_tls=self.implicit,
            )
            for number in range(1, self.hosts + 1)
        )
        if self.unix is not None:
            hosts = (Host("relay.test", str(self.unix), 0),)
        lmtp = self.protocol == "lmtp"
        target = Target(
            hosts,
            tls=self.policy,
            protocol=self.protocol,
            login=self.login,
            terms=self.terms,
            recipients=1 if lmtp else 0,
        )
        self.port = port
        self.queue = ReadyQueue(
            self.dispatcher, b"smtp://mx.test", b"mx.test", target, limit=1, connect=self.connector.connect
        )

    def _send(self) -> None:
        envelope = {"reverse_path": b"s@example.org", "recipients": [(b"b@example.net", 0, b"")], "received_us": 1}
        self.dispatcher.place = lambda message: self.dispatcher.send(message, self.queue, [0])
        self.sent += 1
        self.dispatcher.adopt(new_message(make_accepted(envelope, b"Subject: test\r\n\r\nhello\r\n", self.sent << 22)))

    def _settle(self, delivery: Delivery) -> None:
        assert delivery.results is not None
        (result,) = delivery.results
        self.settled.put_nowait(result)

    async def _step(self, step: Step) -> None:
        if step.kind == "S":
            self.writer.write(step.octets)
            await self.writer.drain()
            return
        if step.kind == "C":
            heard = await self.reader.readexactly(len(step.octets))
            assert heard == step.octets, f"{self.dialogue.file}.txt:{step.line}: {heard!r}"
            return
        match step.words[0]:
            case "accept":
                number = int(step.words[1]) if step.words[1:] else 1
                self.reader, self.writer = await self.streams[number - 1].get()
            case "secure":
                await self.writer.start_tls(self.certificate)
            case "refused_handshake":
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    await self.writer.start_tls(self.certificate)
            case "garble":
                assert (await self.reader.readexactly(1)) == b"\x16"
                self.writer.write(b"500 what is that?\r\n")
                self.writer.close()
            case "dropped_handshake":
                with contextlib.suppress(ssl.SSLError, ConnectionError):
                    await self.writer.start_tls(self.certificate)
                with contextlib.suppress(ssl.SSLError, ConnectionError):
                    assert await self.reader.read() == b"", "the client says something"
            case "again":
                self._send()
            case "tls":
                results = " ".join(outcome.result or "good" for outcome in self.outcomes)
                assert results == " ".join(step.words[1:]), f"{self.dialogue.file}.txt:{step.line}: {results}"
            case "lost":
                self.writer.close()
            case "gone":
                assert await self.reader.read() == b"", "the client says more"
            case "sweep":
                self.egress.sweep()
            case "outcome":
                _, code, enhanced, text, phase = await self.settled.get()
                outcome = classify(code, enhanced, text, phase)
                came = f"{outcome.state.name.lower()} {outcome.status} {text.decode()}"
                wanted = " ".join(step.words[1:]).replace("PORT", str(self.port))
                where = f"{self.dialogue.file}.txt:{step.line}: {came}"
                assert matches(unescape(wanted.encode()), came.encode()), where
            case word:
                raise ValueError(f"line {step.line}: @{word}")


@pytest.mark.parametrize("dialogue", DIALOGUES, ids=str)
def test_as_it_is_written(dialogue: Dialogue, journal: Journal, parties: dict[str, Party], tmp_path: Path) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # the loop whose transports change protocols
        runner.run(Player(dialogue, journal, parties, tmp_path).play())
