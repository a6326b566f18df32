"""The server's side of one SMTP session (RFC 5321); documented in cext/server_session.pyx."""

from asyncio import BaseTransport, BufferedProtocol
from collections.abc import Callable
from enum import IntEnum
from typing import Any

from typing_extensions import disjoint_base

from angarium._core.counters import Counters
from angarium._core.event_log import EventLog
from angarium._core.intake import Intake
from angarium._core.journal import Receiver
from angarium._core.listener_profile import ListenerProfile
from angarium._core.memory_budget import MemoryBudget

class AuthVerdict(IntEnum):
    """What an AUTH exchange comes to when it is no challenge and no log-in."""

    AUTH_REFUSED = 1
    AUTH_SYNTAX = 2
    AUTH_UNAVAILABLE = 3
    AUTH_BANNED = 4

@disjoint_base
class Reception:
    """What the sessions of one worker share: receive buffer, clock, counters, intake."""

    draining: bool
    watch: Callable[[int, str, bytes, bytes, bytes], None] | None
    def __init__(
        self, counters: Counters, events: EventLog, intake: Intake, memory: MemoryBudget | None = None
    ) -> None:
        """memory: of the node; None: no limit."""
    @property
    def memory(self) -> MemoryBudget: ...
    @property
    def counters(self) -> Counters: ...
    @property
    def events(self) -> EventLog: ...
    @property
    def intake(self) -> Intake: ...
    @property
    def sessions(self) -> int: ...
    def session(self, profile: ListenerProfile, client: str | None = None) -> ServerSession:
        """A protocol for a new connection. client: the address of its client, where a proxy has said it."""
    @property
    def unswept(self) -> bool:
        """Whether the last sweep had no time for all."""
    def sweep(self, most_s: float = ...) -> None:
        """End what has been silent for too long, let throttled sessions go on. Call it about once a second.

        It takes most_s, and a session; while it is `unswept` then, the next call goes on where this one stopped.
        """
    def pace(self, most_s: float = ...) -> None:
        """Let sessions that wait for memory go on, when their time is over or there is some. Call it on every tick.

        It takes most_s, and a session; the next call goes on where this one stopped.
        """
    def follow(self, successors: dict[ListenerProfile, ListenerProfile], most_s: float = ...) -> bool:
        """Other profiles hold in the place of these from now on (old -> new): the configuration has changed.

        A transaction that is under way ends under the terms that it began with. What sessions are granted is asked
        anew, for most_s, and one session. True: call it again with no successors, in another turn of the loop.
        """
    def drain(self, most_s: float = ...) -> bool:
        """No new transactions: sessions between two transactions end now with 421, the others when theirs is over.

        It takes most_s, and a session. True: call it again, in another turn of the loop.
        """

# an asyncio protocol by its methods, which is what uvloop asks for; the base class here is for the type checker
@disjoint_base
class ServerSession(Receiver, BufferedProtocol):
    """The protocol of one connection. Reception.session() makes it."""

    def __init__(self, reception: Reception, profile: ListenerProfile, client: str | None = None) -> None: ...
    @property
    def profile(self) -> ListenerProfile: ...
    @property
    def reception(self) -> Reception: ...
    @property
    def client(self) -> str:
        """The client's address."""
    @property
    def transport(self) -> Any: ...
    @property
    def closed(self) -> bool: ...
    @property
    def tls(self) -> bool: ...
    @property
    def tls_version(self) -> bytes | None: ...
    @property
    def tls_cipher(self) -> bytes | None: ...
    @property
    def certificate(self) -> Any:
        """What the client's certificate is known as, when there is one and TLS has verified it; None: there is none."""
    def introduce(self, login: bytes, origin: bytes) -> None:
        """Who speaks is known before the first word: a user of this machine. Call it before connection_made.

        `origin` is what the trace field says in place of an address. ValueError when it cannot stand in a comment.
        """
    def connection_made(self, transport: BaseTransport) -> None: ...
    def get_buffer(self, hint: int) -> memoryview: ...
    def buffer_updated(self, n: int) -> None: ...
    def feed(self, data: bytes) -> None:
        """Octets from the client, for tests that have no transport."""
    def eof_received(self) -> bool: ...
    def connection_lost(self, exception: Exception | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def begin_tls(self) -> bool:
        """Say 220, and throw away what came behind STARTTLS in plaintext (RFC 3207 §6).

        Call in the same step as the handshake begins; False when the session has ended meanwhile.
        """
    def tls_established(self, transport: Any) -> None:
        """The handshake is over: go on over `transport`, knowing nothing of before (RFC 3207 §4.2)."""
    def tls_failed(self) -> None:
        """The handshake failed; the connection is of no use."""

def repair_newlines(mail_data: bytes) -> bytes:
    """Every bare CR and bare LF becomes CRLF: for named legacy clients only."""

__test__: dict[str, str]
