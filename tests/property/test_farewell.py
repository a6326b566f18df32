"""A host that says 421 and goes on all the same: what it has taken is delivered or in doubt, and nothing else is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from angarium._core.client_session import Capability
from angarium._core.counters import Slab
from angarium._core.journal import CallbackTaker, Journal
from angarium._core.record import RecipientState
from tests.support.session import DATA, Queue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PIPELINING = Capability.CAPABILITY_PIPELINING
NEVER = 1000
MOST_CONNECTIONS = 12


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journal]:
    folder: Path = tmp_path_factory.mktemp("shard")
    journal = Journal(str(folder), 0, 1 << 20, Slab.create(1).region(0), CallbackTaker(lambda message: None))
    yield journal
    journal.close()


class DefiantHost:
    """A model of a host that says 421 once, where RFC 5321 has it close the connection, and what it takes.

    `at`: the reply that is a 421, counted from 0. `extra`: it is one reply more, in front of that one; else it stands
    in its place, and what it answers is refused; but MAIL, if it `lies`. `more`: the replies that it says behind the
    421 before it dies, None: it lives. One that says nothing more has stopped there; one that says more does everything
    that it has been told to, heard or not.
    """

    def __init__(
        self,
        kept: list[bytes],
        verdicts: Iterator[bool],
        *,
        at: int = NEVER,
        extra: bool = False,
        lies: bool = False,
        more: int | None = None,
        lmtp: bool = False,
    ) -> None:
        self.kept = kept
        self.dead = False
        self._verdicts = verdicts
        self._at = at
        self._extra = extra
        self._lies = lies
        self._more = more
        self._lmtp = lmtp
        self._count = 0  # replies, the extra one left out
        self._behind: int | None = None  # words behind the 421; None: it has not been said
        self._said = b""
        self._octets = b""
        self._mail = False
        self._recipients: list[bytes] = []
        self._in_data = False

    def hear(self, octets: bytes) -> bytes:
        """What it says to octets."""
        self._octets += octets
        while not (self.dead and self._more == 0) and (self._take_data() if self._in_data else self._take_command()):
            pass
        said, self._said = self._said, b""
        return said

    def _say(self, line: bytes) -> None:
        if not self.dead:
            self._said += line
            if self._behind is not None:
                self._behind += 1
        if self._behind is not None and self._more is not None and self._behind >= self._more:
            self.dead = True

    def _farewell(self) -> None:
        self._said += b"421 4.3.2 going down\r\n"
        self._behind = 0
        self.dead = self._more == 0

    def _reply(self, good: bool, done: Callable[[], None], yes: bytes, no: bytes, *, lies: bool = False) -> None:
        number, self._count = self._count, self._count + 1
        if number == self._at:
            self._farewell()
            if not self._extra:
                if lies:
                    done()
                return
            if self.dead:
                return
        if good:
            done()
        self._say(yes if good else no)

    def _verdict(self) -> bool:
        return next(self._verdicts, True)

    def _end(self, data: bytes) -> None:
        recipients, self._recipients, self._mail, self._in_data = self._recipients, [], False, False

        def keep(*who: bytes) -> None:
            self.kept.extend(who)

        if self._lmtp:
            for one in recipients:
                self._reply(self._verdict(), lambda one=one: keep(one), b"250 2.0.0 kept\r\n", b"452 4.2.2 full\r\n")
        elif recipients:
            self._reply(self._verdict(), lambda: keep(*recipients), b"250 2.0.0 kept\r\n", b"554 5.7.1 spam\r\n")
        if not recipients:
            self._reply(False, lambda: None, b"", b"503 5.5.1 nobody\r\n")

    def _take_data(self) -> bool:
        text = b"\r\n" + self._octets
        end = text.find(b"\r\n.\r\n")
        if end < 0:
            return False
        self._octets = text[end + 5 :]
        self._end(text[2 : end + 2])
        return True

    def _take_command(self) -> bool:
        line, newline, rest = self._octets.partition(b"\r\n")
        if not newline:
            return False
        verb = line[:4]
        if verb == b"BDAT":
            size = int(line.split()[1])
            if len(rest) < size:
                return False
            data, self._octets = rest[:size], rest[size:]
            self._end(data)
            return True
        self._octets = rest
        if verb == b"MAIL":
            self._reply(self._verdict(), self._begin, b"250 ok\r\n", b"451 4.7.1 greylisted\r\n", lies=self._lies)
        elif verb == b"RCPT":
            good = self._verdict() and self._mail
            self._reply(good, lambda: self._recipients.append(line[9:-1]), b"250 ok\r\n", b"550 5.1.1 no\r\n")
        elif verb == b"DATA":
            self._reply(bool(self._recipients), self._begin_data, b"354 go\r\n", b"503 5.5.1 nobody\r\n")
        elif verb == b"RSET":
            self._reply(True, self._forget, b"250 ok\r\n", b"")
        else:
            assert verb == b"QUIT", line
            self._reply(True, lambda: None, b"221 bye\r\n", b"")
        return True

    def _begin(self) -> None:
        self._mail = True

    def _begin_data(self) -> None:
        self._in_data = True

    def _forget(self) -> None:
        self._mail, self._recipients = False, []


@settings(max_examples=3000, deadline=None)
@given(
    recipients=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    bits=st.sampled_from([PIPELINING, PIPELINING | Capability.CAPABILITY_CHUNKING, 0]),
    lmtp=st.booleans(),
    others=st.booleans(),
    verdicts=st.lists(st.sampled_from([True, True, True, False]), max_size=20),
    at=st.integers(0, 9),
    extra=st.booleans(),
    lies=st.booleans(),
    more=st.one_of(st.none(), st.integers(0, 6)),
    read=st.integers(1, 100),
)
def test_what_a_defiant_host_has_taken_is_delivered_or_in_doubt(
    recipients: list[int],
    bits: int,
    lmtp: bool,
    others: bool,
    verdicts: list[bool],
    at: int,
    extra: bool,
    lies: bool,
    more: int | None,
    read: int,
    journal: Journal,
) -> None:
    queue = Queue(journal)
    if others:
        queue.ready.trouble = lambda *_: True
    for number, count in enumerate(recipients):
        queue.mail(str(number), [b"r%d.%d@example.net" % (number, i) for i in range(count)], data=DATA)
    kept: list[bytes] = []
    decided = iter(verdicts)
    host = DefiantHost(kept, decided, at=at, extra=extra, lies=lies, more=more, lmtp=lmtp)
    for _ in range(MOST_CONNECTIONS):
        if not queue.ready.backlog:
            break
        client = queue.connect(bits, lmtp=lmtp)
        octets = client.heard()
        while octets and not host.dead:
            octets = client.say(host.hear(octets), read)
        client.transport.lose()
        host = DefiantHost(kept, decided, lmtp=lmtp)
    assert queue.ready.open == queue.egress.sessions == queue.ready.backlog == 0
    for number, count in enumerate(recipients):
        message = queue.messages[str(number)]
        for index in range(count):
            copies = kept.count(b"r%d.%d@example.net" % (number, index))
            state = message.recipient_state(index)
            assert copies <= 1, "two hosts have it, and nobody says so"
            if state == RecipientState.RECIPIENT_DELIVERED:
                assert copies, "it is lost"
            elif state != RecipientState.RECIPIENT_IN_DOUBT:
                assert not copies, "a host has it, and it will be sent again, and nobody says so"


@pytest.mark.parametrize("more", [0, None])
def test_a_host_that_does_what_421_says_leaves_no_doubt(journal: Journal, more: int | None) -> None:
    for bits in (PIPELINING, PIPELINING | Capability.CAPABILITY_CHUNKING):
        for at in range(6):  # MAIL, three recipients, DATA or the content, the content or QUIT
            queue = Queue(journal)
            queue.ready.trouble = lambda *_: True
            queue.mail("a", [b"r%d@example.net" % i for i in range(3)])
            kept: list[bytes] = []
            host = DefiantHost(kept, iter([]), at=at, more=more)
            client = queue.connect(bits)
            octets = client.heard()
            while octets and not host.dead:
                octets = client.say(host.hear(octets))
            client.transport.lose()
            outcome = queue.outcome("a")
            assert not [came for came in outcome.values() if came.startswith("in_doubt")], (at, outcome)
