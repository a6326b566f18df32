"""The client's side of SMTP on a connection that is set up; documented in cext/client_session.pyx."""

from asyncio import BaseTransport, BufferedProtocol
from enum import IntEnum
from typing import Any, Final

from typing_extensions import disjoint_base

from angarium._core.counters import Counters
from angarium._core.dialogue import Dialogues
from angarium._core.dispatch import Carrier, ReadyQueue

PHASE_NAMES: Final[tuple[str, ...]]

# A set of bits: any sum of these is what a host offers.
class Capability(IntEnum):
    CAPABILITY_PIPELINING = 1
    CAPABILITY_8BITMIME = 2
    CAPABILITY_SMTPUTF8 = 4
    CAPABILITY_CHUNKING = 8
    CAPABILITY_SIZE = 16
    CAPABILITY_DSN = 32
    CAPABILITY_REQUIRETLS = 64
    CAPABILITY_PRIORITY = 128

class Phase(IntEnum):
    PHASE_CONNECT = 0
    PHASE_GREETING = 1
    PHASE_EHLO = 2
    PHASE_TLS = 3
    PHASE_AUTH = 4
    PHASE_MAIL = 5
    PHASE_RCPT = 6
    PHASE_DATA = 7
    PHASE_CONTENT = 8
    PHASE_FINAL = 9
    PHASE_RSET = 10
    PHASE_IDLE = 11
    PHASE_QUIT = 12

@disjoint_base
class Egress:
    """What the outgoing sessions of one worker share: receive buffer, timeouts, the list of open sessions."""

    mail_timeout_s: float
    rcpt_timeout_s: float
    data_timeout_s: float
    block_timeout_s: float
    final_timeout_s: float
    idle_s: float
    lifetime_s: float
    chunk_octets: int
    idle_limit: int
    def __init__(
        self,
        counters: Counters,
        *,
        mail_timeout_s: float = 300,
        rcpt_timeout_s: float = 300,
        data_timeout_s: float = 120,
        block_timeout_s: float = 180,
        final_timeout_s: float = 600,
        idle_s: float = 30,
        lifetime_s: float = 600,
        chunk_octets: int = ...,
        idle_limit: int = 4000,
        dialogues: Dialogues | None = None,
    ) -> None:
        """The timeouts of RFC 5321 §4.5.3.2. chunk_octets: largest message that goes with BDAT; 0: none does.

        idle_limit: connections that may wait for work at one time; those that carried one message only, an eighth.
        dialogues: where what is said is kept, as far as it is.
        """
    @property
    def counters(self) -> Counters: ...
    @property
    def dialogues(self) -> Dialogues: ...
    @property
    def sessions(self) -> int: ...
    @property
    def idle(self) -> int:
        """Sessions that wait for work."""
    @property
    def idle_once(self) -> int:
        """Those of them that have carried one message only."""
    @property
    def unswept(self) -> bool:
        """Whether the last sweep had no time for all."""
    def sweep(self, most_s: float = ...) -> None:
        """End what has been silent for too long; close what was idle for idle_s. Call it about once a second.

        It takes most_s, and a session; while it is `unswept` then, the next call goes on where this one stopped.
        """
    def quit_idle(self, most_s: float = ...) -> None:
        """Close the connections that carry nothing: all of them, or as many as in most_s; then call it again."""

# an asyncio protocol by its methods, which is what uvloop asks for; the base class here is for the type checker
@disjoint_base
class ClientSession(Carrier, BufferedProtocol):
    """The protocol of one outgoing connection, put in place with transport.set_protocol()."""

    def __init__(
        self,
        egress: Egress,
        queue: ReadyQueue,
        transport: Any,
        host: bytes,
        capabilities: int,
        *,
        size_limit: int = 0,
        transactions_limit: int = 0,
        recipients_limit: int = 0,
        domains_limit: int = 0,
        lmtp: bool = False,
        tls: bytes | None = None,
        opening: bytes = b"",
    ) -> None:
        """capabilities: bits of Capability. Limits: 0 means none. host: name and address, for texts. tls: what the
        connection has, as JSON for the event log; None: plaintext. opening: what was said before, without secrets.

        lmtp: RFC 2033; with a recipients_limit of 1 each recipient has a transaction and a Delivered-To of its own.
        """
    @property
    def egress(self) -> Egress: ...
    @property
    def queue(self) -> ReadyQueue: ...
    @property
    def transport(self) -> Any: ...
    @property
    def host(self) -> bytes: ...
    @property
    def tls(self) -> bytes | None: ...
    @property
    def opening(self) -> bytes: ...
    @property
    def capabilities(self) -> int: ...
    @property
    def size_limit(self) -> int: ...
    @property
    def transactions(self) -> int: ...
    @property
    def transactions_limit(self) -> int: ...
    @property
    def recipients_limit(self) -> int: ...
    @property
    def domains_limit(self) -> int: ...
    @property
    def lmtp(self) -> bool: ...
    @property
    def closed(self) -> bool: ...
    def start(self) -> None:
        """The connection is up and the transport is ours: take work."""
    def connection_made(self, transport: BaseTransport) -> None: ...
    def get_buffer(self, hint: int) -> memoryview: ...
    def buffer_updated(self, n: int) -> None: ...
    def leave(self) -> None:
        """An idle connection is not to be used any more: QUIT."""
    def feed(self, data: bytes) -> None:
        """Octets from the host, for tests that have no transport."""
    def eof_received(self) -> bool: ...
    def connection_lost(self, exception: Exception | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...

__test__: dict[str, str]
