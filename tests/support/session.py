"""Compiled sessions without a loop, a socket or a wait: the test owns the transport, the commits and the sweeps."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from angarium._core.client_session import Capability, ClientSession, Egress, Phase
from angarium._core.client_terms import ClientTerms
from angarium._core.counters import Counters, Slab, Slot, client_key
from angarium._core.dialogue import Dialogues, Keep
from angarium._core.dispatch import Delivery, Dispatcher, ReadyQueue
from angarium._core.event_log import EventLog
from angarium._core.intake import CallbackIntake, Committed
from angarium._core.listener_profile import ListenerProfile
from angarium._core.memory_budget import MemoryBudget
from angarium._core.recipient_policy import RecipientPolicy
from angarium._core.record import Message, RecipientState, make_accepted, new_message
from angarium._core.server_session import Reception, ServerSession
from angarium.mail.pattern import folded_domain
from angarium.policy.certificate import ClientCertificate
from tests.support.log_ins import Knows, authentication_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium._core.decision import Decision
    from angarium._core.journal import Journal

HOSTNAME = b"relay.example.org"


class FakeSsl:
    """What a TLS transport says of its connection."""

    def version(self) -> str:
        return "TLSv1.3"

    def cipher(self) -> tuple[str, str, int]:
        return "TLS_AES_256_GCM_SHA384", "TLSv1.3", 256

    certificate: ClientCertificate | None = None  # that the client has shown


class CertifiedSsl(FakeSsl):
    """Of a client that has shown a certificate."""

    certificate = ClientCertificate(("printer@example.org", "printer.example.org", "Printer 7"), "0" * 64)


def certificate_of(_: str, ssl_object: FakeSsl) -> ClientCertificate | None:
    """As ListenerProfile.client_certificate."""
    return getattr(ssl_object, "certificate", None)


class FakeTransport:
    """An asyncio transport without a socket: reads only while it may, and does not forgive a write after its end."""

    def __init__(self, protocol: Any, peer: object = ("192.0.2.1", 40000), ssl_object: FakeSsl | None = None) -> None:
        self.protocol = protocol
        self.incoming = bytearray()
        self.written = bytearray()
        self.writes: list[bytes] = []
        self.reading = True
        self.closing = False
        self.aborted = False
        self.lost = False
        self.unsent = 0
        self.on_write: Callable[[], None] | None = None
        self._extra = {"peername": peer, "ssl_object": ssl_object}

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self._extra.get(name, default)

    def write(self, data: bytes) -> None:
        assert not self.closing, f"written after the end: {data!r}"
        self.writes.append(bytes(data))
        self.written += data
        if self.on_write is not None:
            self.on_write()

    def writelines(self, pieces: tuple[bytes, ...]) -> None:
        self.write(b"".join(pieces))

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def deliver(self, data: bytes, step: int = 0) -> None:
        """Octets of the peer; at most `step` (0: as many as there is room for) a read."""
        self.incoming += data
        self.pump(step)

    def pump(self, step: int = 0) -> None:
        """Read what the peer sent, as long as the protocol wants to."""
        while self.incoming and self.reading and not self.closing:
            view = self.protocol.get_buffer(-1)
            n = min(len(view), len(self.incoming), step or len(view))
            view[:n] = self.incoming[:n]
            del self.incoming[:n]
            self.protocol.buffer_updated(n)

    def lose(self, exception: Exception | None = None) -> None:
        """The connection ends."""
        if not self.lost:
            self.closing = self.lost = True
            self.protocol.connection_lost(exception)

    def take(self) -> bytes:
        """What was written since the last call."""
        taken = bytes(self.written)
        self.written.clear()
        return taken


# ---------------------------------------------------------------- the server's side


@dataclass
class Taken:
    """A message that the intake was given."""

    message: Message
    envelope: dict[str, Any]
    mail_data: bytes
    error: int


class Server:
    """A Reception whose commits the test owns. `commit`: "later" (`run` does it), "sync" (within accept), "held".

    `terms`: of ClientTerms, what they are beside may_relay, bare_newlines and durability. `domains`: whose mail is
    taken from everybody; of these `known` are the recipients that there are (None: all), and of who@ nobody can say.
    They are asked about as commits come back: within the question ("sync"), or by `run`.
    """

    def __init__(
        self,
        *,
        commit: str = "later",
        may_relay: bool = True,
        bare_newlines: bool = False,
        tls: bool = False,
        auth: tuple[bytes, ...] = (),
        memory_octets: int = 1 << 62,
        counters: Counters | None = None,
        events: EventLog | None = None,
        terms: dict[str, Any] | None = None,
        xclient: bool = False,
        policy: Callable[[str], ClientTerms] | None = None,
        domains: tuple[bytes, ...] = (),
        known: tuple[bytes, ...] | None = None,
        **profile: Any,
    ) -> None:
        self.commit = commit
        self.known = known
        self.verified: list[bytes] = []
        self.counters = counters if counters is not None else Slab.create(1).region(0)
        self.events = events if events is not None else EventLog(None, self.counters)
        self.taken: list[Taken] = []
        self.errors: deque[int] = deque()  # of the next commits; below 0: accept raises
        self.pending: deque[tuple[Committed, int] | tuple[Decision, object]] = deque()
        self.upgrades: list[ServerSession] = []  # STARTTLS has been said, and not answered yet
        self.handshakes: list[ServerSession] = []
        self.asked: list[str] = []
        self.knows = Knows()

        granted = {"may_relay": may_relay, "bare_newlines": bare_newlines, "durability": profile.get("durability", 0)}
        granted |= terms or {}

        def usual(address: str) -> ClientTerms:
            self.asked.append(address)
            return ClientTerms(**granted) if policy is None else policy(address)

        self.memory = MemoryBudget(self.counters, memory_octets)
        self.reception = Reception(self.counters, self.events, CallbackIntake(self._deliver), self.memory)
        self.profile = ListenerProfile(
            hostname=HOSTNAME,
            name=b"relay",
            client_policy=usual,
            start_tls=self.upgrades.append if tls else None,
            xclient=(lambda _: True) if xclient else None,
            recipient_policy=RecipientPolicy(
                domains, verify=None if known is None else self._verify, fold=folded_domain
            )
            if domains
            else None,
            **{
                "client_certificate": certificate_of,
                "authentication": authentication_of(self.knows) if auth else None,
                "mechanisms": auth,
                **profile,
            },
        )

    def _verify(self, mailbox: bytes) -> bytes | Callable[[Decision], None]:
        self.verified.append(mailbox)
        if mailbox.startswith(b"who@"):
            answer = None
        else:
            answer = b"" if self.known and mailbox in self.known else b"550 5.1.1 There is no such recipient here\r\n"
        if self.commit == "sync" and answer is not None:
            return answer

        def ask(decision: Decision) -> None:
            if self.commit == "sync":
                decision(answer)
            else:
                self.pending.append((decision, answer))

        return ask

    def _deliver(self, message: Message, done: Committed) -> None:
        error = self.errors.popleft() if self.errors else 0
        if error < 0:
            raise OSError(-error, "refused by the test")
        assert message.buffer is not None
        self.taken.append(Taken(message, message.buffer.envelope(), message.buffer.mail_data(), error))
        if self.commit == "sync":
            done(error)
        else:
            self.pending.append((done, error))

    @property
    def accepted(self) -> list[Taken]:
        """The messages that are safe."""
        return [taken for taken in self.taken if taken.error == 0]

    def connect(
        self,
        peer: object = ("192.0.2.1", 40000),
        *,
        tls: bool = False,
        client: str | None = None,
        certificate: bool = False,
    ) -> ServerDialogue:
        """A client; `client`: the address that a proxy has named; with `certificate` it has shown one."""
        ssl_object = CertifiedSsl() if certificate else FakeSsl()
        return ServerDialogue(self, peer, ssl_object if tls else None, client)

    def value(self, slot: Slot) -> int:
        """One counter."""
        return self.counters.value(slot)


class ServerDialogue:
    """One client of a Server."""

    def __init__(self, server: Server, peer: object, ssl_object: FakeSsl | None, client: str | None = None) -> None:
        self.server = server
        self.session = server.reception.session(server.profile, client)
        self.peer = peer
        self.transport = FakeTransport(self.session, peer, ssl_object)
        self.session.connection_made(self.transport)  # type: ignore[arg-type]

    def say(self, data: bytes, step: int = 0) -> bytes:
        """What the client says, and what it is answered in the end."""
        self.transport.deliver(data, step)
        self.run(step)
        return self.transport.take()

    def run(self, step: int = 0) -> None:
        """Until nothing more happens: commits come back, what waited is read, a closed connection is gone."""
        while self.server.pending and self.server.commit != "held":
            done, answer = self.server.pending.popleft()
            done(answer)  # type: ignore[arg-type]  # whom it is for is who asked
        while self.server.upgrades:
            upgraded = self.server.upgrades.pop()
            if upgraded.begin_tls():
                self.server.handshakes.append(upgraded)
                upgraded.transport.reading = False  # what comes now is the TLS layer's
        self.transport.pump(step)
        if self.server.pending and self.server.commit != "held":
            self.run(step)
        if self.transport.closing:
            self.transport.lose()

    def handshake(self) -> None:
        """The client's part of STARTTLS succeeds."""
        session = self.server.handshakes.pop()
        assert session is self.session
        self.transport = FakeTransport(session, self.peer, FakeSsl())
        session.tls_established(self.transport)

    @property
    def closed(self) -> bool:
        """Whether the server ended the connection."""
        return self.transport.closing


def connections_of(server: Server, packed: bytes) -> int:
    """Connections of one address, as the node counts them."""
    return server.counters.client_connections(client_key(packed))


# ---------------------------------------------------------------- the client's side

DATA = b"Subject: test\r\n\r\nhello\r\n"


class Queue:
    """A dispatcher with one ready queue, and hosts that the test plays."""

    def __init__(self, journal: Journal, *, events: EventLog | None = None, limit: int = 20, **egress: Any) -> None:
        self.counters = Slab.create(1).region(0)
        self.dispatcher = Dispatcher(self.counters, events if events is not None else EventLog(None, self.counters))
        self.dispatcher.journals[journal.shard] = journal
        self.journal = journal
        self.dispatcher.settle = self._settle
        self.dispatcher.reconsider = self._reconsider
        self.dispatcher.partial = self._partial
        self.dispatcher.place = self._place
        # whatever is played is kept too, so that keeping it is tried with all of it
        self.egress = Egress(self.counters, **({"dialogues": Dialogues(Keep.KEEP_ALL)} | egress))
        self.wanted = 0  # connections asked for and not yet opened
        self.ready = ReadyQueue(
            self.dispatcher, b"smtp://host.example:25", b"host.example", limit=limit, connect=self._connect
        )
        self.messages: dict[str, Message] = {}
        self.outcomes: dict[int, dict[int, str]] = {}
        self.rounds: list[int] = []  # ids of messages whose round left something
        self.partly: list[int] = []
        self._next_id = 1

    def _connect(self, queue: ReadyQueue) -> None:
        self.wanted += 1

    def _place(self, message: Message) -> None:
        self.dispatcher.send(message, self.ready, message.unfinished())

    def _settle(self, delivery: Delivery) -> None:
        outcome = self.outcomes[delivery.message.id]
        assert delivery.results is not None
        assert sorted(result[0] for result in delivery.results) == delivery.indices()
        for index, code, enhanced, text, phase in delivery.results:
            state = RecipientState.RECIPIENT_DEFERRED
            word = "deferred"
            if code == 0 and phase == Phase.PHASE_FINAL:
                state, word = RecipientState.RECIPIENT_IN_DOUBT, "in_doubt"
            elif 200 <= code < 300:
                state, word = RecipientState.RECIPIENT_DELIVERED, "delivered"
            elif code >= 500:
                state, word = RecipientState.RECIPIENT_FAILED, "failed"
            status = ".".join(map(str, enhanced)) if enhanced else "-"
            name = Phase(phase).name.removeprefix("PHASE_")
            assert index not in outcome, f"recipient {index} settled twice: {outcome[index]}, {word} {code}"
            outcome[index] = f"{word} {code} {status} {name} {text.decode('utf-8', 'replace')}".rstrip().replace(
                "\n", " / "
            )
            delivery.message.set_recipient_state(index, state)
        self.dispatcher.finish(delivery)

    def _reconsider(self, message: Message) -> None:
        self.rounds.append(message.id)

    def _partial(self, message: Message) -> None:
        self.partly.append(message.id)

    def make(
        self, name: str, to: list[bytes], *, data: bytes = DATA, reverse_path: bytes = b"s@example.org", **more: Any
    ) -> Message:
        """A message that nobody was told of. `to`: forward paths; more: keys of make_accepted, `recipients` in full."""
        recipients = more.pop("recipients", None) or [(path, 0, b"") for path in to]
        envelope = {"reverse_path": reverse_path, "recipients": recipients, **more}
        message = new_message(make_accepted(envelope, data, (self._next_id << 22) | (self.journal.shard << 14)))
        self._next_id += 1
        self.messages[name] = message
        self.outcomes[message.id] = {}
        return message

    def mail(self, name: str, to: list[bytes], **more: Any) -> Message:
        """A message that is ours, and goes into the ready queue."""
        message = self.make(name, to, **more)
        self.dispatcher.adopt(message)
        return message

    def connect(self, capabilities: int = Capability.CAPABILITY_PIPELINING, **limits: int) -> Host:
        """A connection is up."""
        if self.wanted:
            self.wanted -= 1
            self.ready.connecting -= 1
        return Host(self, capabilities, **limits)

    def outcome(self, name: str) -> dict[int, str]:
        """What was settled of a message, by recipient; a delivery to all is seen by the recipients' states."""
        message = self.messages[name]
        outcome = dict(self.outcomes[message.id])
        for index in range(message.recipients):
            if index not in outcome and message.recipient_state(index) == RecipientState.RECIPIENT_DELIVERED:
                outcome[index] = "delivered"
        return outcome


class Host:
    """The host at the other end of a ClientSession, played by the test."""

    def __init__(self, queue: Queue, capabilities: int, **limits: int) -> None:
        self.queue = queue
        self.transport = FakeTransport(None)
        self.session = ClientSession(
            queue.egress, queue.ready, self.transport, b"host.example[192.0.2.25]:25", capabilities, **limits
        )
        self.transport.set_protocol(self.session)
        self.session.start()

    def heard(self) -> bytes:
        """What the client has written since the last call."""
        return self.transport.take()

    def say(self, data: bytes, step: int = 0) -> bytes:
        """What the host says, and what the client writes then."""
        self.transport.deliver(data, step)
        self.run()
        return self.transport.take()

    def run(self) -> None:
        """A connection that was closed is gone."""
        if self.transport.closing:
            self.transport.lose()
