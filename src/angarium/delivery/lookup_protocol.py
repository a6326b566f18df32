"""What the workers and the lookup process say to each other over a Unix socket.

A frame is its length in four octets, most significant first, and so many octets of msgpack. The process greets with a
Reply of number 0; then the worker sends Requests, as many as it likes, and gets one Reply each, in any order. What can
be asked is a Kind: the type of its argument and that of its result, of which `expires` (a time of the monotonic clock)
says how long it may be kept. A new kind is one line here, one `answer` in the process, one `ask` in the worker.

Fails: ValueError for a frame that is too long, msgspec.MsgspecError for one that says nothing; the connection is of no
use then. Bounds: LONGEST_FRAME_OCTETS."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from datetime import date  # noqa: TC003  # msgspec reads the types
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

import msgspec

from angarium.delivery.mail_host import MailHosts, ResolutionFailure, TextRecords, TlsaRecords
from angarium.delivery.oauth2 import AccessToken
from angarium.outcome.tls_archive import ReportState  # noqa: TC001
from angarium.outcome.tls_report import DayReport, SessionResult  # noqa: TC001

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "GREETING",
    "HOST_ADDRESSES",
    "MAIL_HOSTS",
    "MOST_RESULTS",
    "RECIPIENT",
    "STATUS",
    "TLSA",
    "TLS_REPORTS",
    "TLS_RESULTS",
    "TOKEN",
    "TXT",
    "Failure",
    "FrameWriter",
    "Frames",
    "Gathered",
    "GatheredReports",
    "Kind",
    "LookupStatus",
    "Perishable",
    "RecipientAnswer",
    "Reply",
    "ReportQuestion",
    "Request",
    "TlsBatch",
    "frame",
    "socket_path",
]

LENGTH_OCTETS = 4
LONGEST_FRAME_OCTETS = 1 << 20
GREETING = 0  # the number of the first reply on a connection
MOST_RESULTS = 500  # of TLS, in one request
NOTHING = msgspec.Raw(msgspec.msgpack.encode(None))


class Perishable(Protocol):
    """A result that holds for a time."""

    @property
    def expires(self) -> float:
        """A time of the monotonic clock."""


A = TypeVar("A")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Kind(Generic[A, R]):
    """Something that can be asked."""

    name: str
    argument: type[A]
    result: type[R]


class Request(msgspec.Struct, array_like=True, frozen=True):
    """One question; the number is the worker's own."""

    number: int
    kind: str
    argument: msgspec.Raw


class Failure(msgspec.Struct, array_like=True, frozen=True):
    """A ResolutionFailure on its way."""

    permanent: bool
    code: int
    enhanced: tuple[int, int, int]
    text: str

    @classmethod
    def of(cls, failure: ResolutionFailure) -> Failure:
        """As it is sent."""
        return cls(failure.permanent, failure.code, failure.enhanced, failure.text)

    def raised(self) -> ResolutionFailure:
        """As it is raised."""
        return ResolutionFailure(self.permanent, self.code, self.enhanced, self.text)


class Reply(msgspec.Struct, array_like=True, frozen=True):
    """The answer to the request of that number: a result, or why there is none."""

    number: int
    result: msgspec.Raw = NOTHING
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class LookupStatus:
    """What the process says of itself. `entries` of its cache, questions and requests `under_way`."""

    pid: int
    uptime_s: float
    entries: int
    under_way: int
    expires: float = 0.0  # it is never kept


class TlsBatch(msgspec.Struct, array_like=True, frozen=True):
    """Results of TLS sessions of one day of UTC, each with how often there was such a one; at most MOST_RESULTS."""

    day: date
    results: tuple[tuple[SessionResult, int], ...]


class ReportQuestion(msgspec.Struct, array_like=True, frozen=True):
    """What was gathered on a day, by one domain or all; at most so many."""

    day: date
    domain: str | None
    limit: int


@dataclass(frozen=True, slots=True)
class Gathered:
    """The results of a TlsBatch outlive the process."""

    expires: float = 0.0


@dataclass(frozen=True, slots=True)
class GatheredReports:
    """The answer to a ReportQuestion: what was gathered of each domain, and how far its reports are."""

    reports: tuple[tuple[DayReport, tuple[ReportState, ...]], ...]
    expires: float = 0.0


@dataclass(frozen=True, slots=True)
class RecipientAnswer:
    """What the mailbox host behind a listener says of a recipient, in whose words, and for how many seconds it holds.

    Who asks keeps it: it is about one listener.
    """

    result: Literal["known", "unknown", "failed"]
    reply: str
    keep_s: float
    expires: float = 0.0


MAIL_HOSTS = Kind("mail_hosts", str, MailHosts)
HOST_ADDRESSES: Kind[tuple[str, int], MailHosts] = Kind("host_addresses", tuple[str, int], MailHosts)
TLSA = Kind("tlsa", str, TlsaRecords)
TXT = Kind("txt", str, TextRecords)
TLS_RESULTS = Kind("tls_results", TlsBatch, Gathered)
TLS_REPORTS = Kind("tls_reports", ReportQuestion, GatheredReports)
TOKEN: Kind[tuple[str, str], AccessToken] = Kind("token", tuple[str, str], AccessToken)  # key_of; a refused token or ""
RECIPIENT: Kind[tuple[str, str], RecipientAnswer] = Kind(
    "recipient", tuple[str, str], RecipientAnswer
)  # listener, mailbox
STATUS: Kind[None, LookupStatus] = Kind("status", type(None), LookupStatus)


def socket_path(spool: Path) -> str:
    """Where the process of the node with this spool listens."""
    return os.path.join(spool, "run", "lookup.sock")


def frame(message: Request | Reply) -> bytes:
    """The octets of a message."""
    octets = msgspec.msgpack.encode(message)
    if len(octets) > LONGEST_FRAME_OCTETS:
        raise ValueError(f"a frame of {len(octets)} octets")
    return len(octets).to_bytes(LENGTH_OCTETS, "big") + octets


class FrameWriter:
    """Writes messages: what is said in one turn of the loop leaves in one piece."""

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        self._frames: list[bytes] = []

    def send(self, octets: bytes) -> None:
        """One message, as `frame` made it; a transport that is closed takes no more, without a word."""
        if not self._frames:
            asyncio.get_running_loop().call_soon(self.flush)
        self._frames.append(octets)

    def flush(self) -> None:
        """Write what has been said."""
        octets = b"".join(self._frames)
        self._frames.clear()
        if octets and not self._transport.is_closing():
            self._transport.write(octets)


class Frames:
    """Cuts what comes in into messages."""

    def __init__(self, kind: type[Any]) -> None:
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._rest = b""

    def feed(self, octets: bytes) -> Iterator[Any]:
        """Every message that is whole by now."""
        gathered = self._rest + octets if self._rest else octets
        begin = 0
        while len(gathered) - begin >= LENGTH_OCTETS:
            length = int.from_bytes(gathered[begin : begin + LENGTH_OCTETS], "big")
            if length > LONGEST_FRAME_OCTETS:
                raise ValueError(f"a frame of {length} octets")
            end = begin + LENGTH_OCTETS + length
            if len(gathered) < end:
                break
            yield self._decoder.decode(gathered[begin + LENGTH_OCTETS : end])
            begin = end
        self._rest = gathered[begin:]
