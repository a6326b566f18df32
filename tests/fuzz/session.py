"""A fuzz target for the server's session: any octets, in any pieces.

The invariant:

1. Nothing is raised, whatever comes in.
2. What goes out is replies: whole lines, three digits of which the first is 2 to 5, a space or a hyphen,
   printable text.
3. How the octets were cut into pieces changes nothing: not what is said, and not what is accepted.
4. As many messages are handed over as are answered `250 ... queued as`, each with 1 to RECIPIENTS recipients
   and within SIZE_LIMIT.
5. When the client is gone, no connection is counted any more.

`python -m tests.fuzz.session SECONDS` runs it under atheris where that is installed; tests/fuzz/test_session.py
drives it by hypothesis.
"""

from __future__ import annotations

import itertools
import re
import sys
from typing import TYPE_CHECKING, Any

from angarium._core.client_terms import ClientTerms
from angarium._core.counters import Slab, Slot
from angarium._core.event_log import EventLog
from angarium._core.intake import CallbackIntake
from angarium._core.listener_profile import ListenerProfile
from angarium._core.server_session import Reception

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SIZE_LIMIT = 2000
RECIPIENTS = 3
_REPLY = re.compile(rb"[2-5]\d\d[ -][\x20-\x7e]*")
_QUEUED = re.compile(rb"(250 2\.0\.0 queued as )\S{13}")
_MOMENT = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_TRACE = re.compile(rb"\AReceived: [^\r\n]*(?:\r\n[ \t][^\r\n]*)*\r\n(?:\r\n)?")


class Transport:
    """Keeps what is written; never pauses."""

    def __init__(self) -> None:
        self.written = b""
        self.closing = False

    def write(self, octets: bytes) -> None:
        assert not self.closing, "it speaks after it has closed"
        self.written += octets

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 40000) if name == "peername" else None

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Server:
    """One reception whose intake keeps everything at once."""

    def __init__(self) -> None:
        self.counters = Slab.create(1).region(0)
        self.kept: list[tuple[bytes, tuple[bytes, ...], bytes]] = []
        self.reception = Reception(self.counters, EventLog(None, self.counters), CallbackIntake(self._keep))
        self.profile = ListenerProfile(
            hostname=b"relay.test",
            name=b"fuzz",
            client_policy=lambda address: ClientTerms(
                may_relay=True, tenant=b"fuzz", bulk=True, durability_floor=2, highest_priority=4
            ),
            message_octets=SIZE_LIMIT,
            recipients=RECIPIENTS,
            errors=20,
            commands_per_second=1 << 30,
            future_release_s=3600,
            priorities=b"",
        )

    def _keep(self, message: Any, done: Callable[[int], None]) -> None:
        buffer = message.buffer
        recipients = tuple(buffer.recipient(index)[0] for index in range(message.recipients))
        content = _TRACE.sub(b"", buffer.mail_data(), count=1)
        self.kept.append((buffer.reverse_path(), recipients, content))
        done(0)

    def converse(self, pieces: Iterable[bytes]) -> tuple[bytes, list[tuple[bytes, tuple[bytes, ...], bytes]]]:
        """One session over these pieces: (what it said, what it handed over)."""
        self.kept = []
        transport = Transport()
        session = self.reception.session(self.profile)
        session.connection_made(transport)
        for piece in pieces:
            if transport.closing:
                break
            if piece:
                session.feed(piece)
        session.connection_lost(None)
        assert self.counters.value(Slot.INGRESS_CONNECTIONS) == 0
        # the latest release that EHLO allows is another one a second later
        return _MOMENT.sub(b"TIME", transport.written), self.kept


def pieces_of(octets: bytes, cuts: Iterable[int]) -> list[bytes]:
    """octets, cut at these places."""
    places = [0, *sorted(cut % (len(octets) + 1) for cut in cuts), len(octets)]
    return [octets[begin:end] for begin, end in itertools.pairwise(places)]


def check(server: Server, octets: bytes, cuts: Iterable[int]) -> None:
    """The invariant, for one input."""
    said, kept = server.converse([octets])
    lines = said.split(b"\r\n")
    assert lines.pop() == b"", "a reply without its end"
    for line in lines:
        assert _REPLY.fullmatch(line), line
    assert lines[0] == b"220 relay.test ESMTP Angarium"
    assert len(_QUEUED.findall(said)) == len(kept)
    for _, recipients, content in kept:
        assert 1 <= len(recipients) <= RECIPIENTS
        assert len(content) <= SIZE_LIMIT
    again, kept_again = server.converse(pieces_of(octets, cuts))
    assert _QUEUED.sub(rb"\1", again) == _QUEUED.sub(rb"\1", said)
    assert kept_again == kept


def main() -> None:
    """Run under atheris for so many seconds."""
    import atheris

    server = Server()

    def test_one_input(data: bytes) -> None:
        # the first octets say where to cut
        check(server, data[4:], [int.from_bytes(data[i : i + 2], "little") for i in (0, 2)])

    seconds = sys.argv.pop(1) if len(sys.argv) > 1 else "60"
    atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", "-max_len=8192"], test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
