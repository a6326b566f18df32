"""Whatever a host says, in whatever pieces, wherever the connection ends: each recipient is accounted for, once."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from angarium._core.client_session import Capability
from angarium._core.counters import Slab, Slot
from angarium._core.journal import CallbackTaker, Journal
from angarium._core.record import RecipientState
from tests.support.session import Queue

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

replies = st.sampled_from(
    [b"250 ok\r\n"] * 12
    + [b"354 go\r\n"] * 3
    + [
        b"250-a\r\n250 2.0.0 b\r\n",
        b"250\n",
        b"450 4.2.1 busy\r\n",
        b"550-5.1.1 no\r\n550 5.1.1 user\r\n",
        b"503 no\r\n",
        b"421 4.3.2 bye\r\n",
        b"551 x\r\n",
    ]
)
nonsense = st.sampled_from([b"\r\n", b"999 x\r\n", b"250-x\r\n550 y\r\n", b"hello\r\n", b"\0\0\0\n", b"x" * 3000])
capabilities = st.sampled_from(
    [
        0,
        Capability.CAPABILITY_PIPELINING,
        Capability.CAPABILITY_PIPELINING | Capability.CAPABILITY_CHUNKING,
        Capability.CAPABILITY_CHUNKING,
    ]
)
mails = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from([b"", b".", b"x: y\r\n\r\n.\r\nend", b"\r\n.\r\n"])),
    min_size=1,
    max_size=4,
)
cuts = st.lists(st.integers(0, 1000), max_size=6)


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journal]:
    folder: Path = tmp_path_factory.mktemp("shard")
    journal = Journal(str(folder), 0, 1 << 20, Slab.create(1).region(0), CallbackTaker(lambda message: None))
    yield journal
    journal.close()


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


def play(
    journal: Journal,
    mails: list[tuple[int, bytes]],
    bits: int,
    recipients_limit: int,
    hosts: list[bytes],
    cuts: list[int],
) -> tuple[Queue, list[bytes]]:
    """Each host says its octets, and is gone then."""
    queue = Queue(journal)
    for number, (recipients, data) in enumerate(mails):
        queue.mail(str(number), [b"r%d@example.net" % i for i in range(recipients)], data=data)
    heard = []
    for octets in hosts:
        host = queue.connect(bits, recipients_limit=recipients_limit)
        for part in pieces(octets, cuts):
            host.transport.deliver(part)
        heard.append(host.heard())
        host.transport.lose()
    return queue, heard


def check(queue: Queue) -> None:
    assert queue.ready.open == queue.egress.sessions == queue.counters.value(Slot.DELIVERY_CONNECTIONS) == 0
    assert queue.ready.idle == []
    waiting = 0
    for name, message in queue.messages.items():
        outcome = queue.outcome(name)  # the harness refuses a second settlement
        left = [index for index in range(message.recipients) if index not in outcome]
        # who is not settled is on its way, and with no connection open that way leads through the ready queue
        assert bool(left) == (message.outstanding > 0), name
        waiting += message.outstanding
    assert queue.ready.backlog == queue.dispatcher.ready == waiting


@settings(max_examples=500, deadline=None)
@given(
    mails=mails,
    bits=capabilities,
    recipients_limit=st.sampled_from([0, 0, 1, 2]),
    said=st.lists(
        st.lists(st.one_of(replies, replies, replies, nonsense), max_size=25).map(b"".join), min_size=1, max_size=3
    ),
    cuts=cuts,
)
def test_the_split_of_the_replies_does_not_matter(
    mails: list[tuple[int, bytes]],
    bits: int,
    recipients_limit: int,
    said: list[bytes],
    cuts: list[int],
    journal: Journal,
) -> None:
    one, heard = play(journal, mails, bits, recipients_limit, said, [])
    check(one)
    other, heard_in_pieces = play(journal, mails, bits, recipients_limit, said, cuts)
    check(other)
    assert heard == heard_in_pieces
    for name in one.messages:
        assert one.outcome(name) == other.outcome(name)


class HonestHost:
    """A model of a host that follows RFC 5321, RFC 2920 and RFC 3030, and keeps what it accepted."""

    def __init__(self, verdicts: Iterator[bool]) -> None:
        self.kept: list[tuple[tuple[bytes, ...], bytes]] = []
        self._verdicts = verdicts
        self._octets = b""
        self._mail = False
        self._recipients: list[bytes] = []
        self._in_data = False

    def hear(self, octets: bytes) -> bytes:
        self._octets += octets
        answer = b""
        while True:
            reply = self._data() if self._in_data else self._command()
            if reply is None:
                return answer
            answer += reply

    def _good(self) -> bool:
        return next(self._verdicts, True)

    def _over(self) -> None:
        self._mail, self._recipients, self._in_data = False, [], False

    def _end(self, data: bytes) -> bytes:
        good = self._good()
        if good:
            self.kept.append((tuple(self._recipients), data))
        self._over()
        return b"250 2.0.0 kept\r\n" if good else b"451 4.3.0 not kept\r\n"

    def _data(self) -> bytes | None:
        text = b"\r\n" + self._octets
        end = text.find(b"\r\n.\r\n")
        if end < 0:
            return None
        self._octets = text[end + 5 :]
        data = (text[:end] + b"\r\n").replace(b"\r\n..", b"\r\n.")[2:]
        return self._end(data)

    def _command(self) -> bytes | None:
        line, newline, rest = self._octets.partition(b"\r\n")
        if not newline:
            return None
        verb = line[:4]
        if verb == b"BDAT":
            size = int(line.split()[1])
            if len(rest) < size:
                return None
            data, self._octets = rest[:size], rest[size:]
            return self._end(data) if self._recipients else b"503 no\r\n"
        self._octets = rest
        if verb == b"MAIL":
            if self._mail:
                return b"503 nested\r\n"
            self._mail = self._good()
            return b"250 ok\r\n" if self._mail else b"451 4.7.1 greylisted\r\n"
        if verb == b"RCPT":
            if not self._mail:
                return b"503 no\r\n"
            if not self._good():
                return b"550 5.1.1 no\r\n"
            self._recipients.append(line[9:-1])
            return b"250 ok\r\n"
        if verb == b"DATA":
            if not self._recipients:
                return b"503 no\r\n"
            self._in_data = True
            return b"354 go\r\n"
        if verb == b"RSET":
            self._over()
            return b"250 ok\r\n"
        assert verb == b"QUIT", line
        return b"221 bye\r\n"


@settings(max_examples=500, deadline=None)
@given(
    mails=mails,
    bits=capabilities,
    recipients_limit=st.sampled_from([0, 0, 1, 3]),
    transactions_limit=st.sampled_from([0, 0, 2]),
    verdicts=st.lists(st.sampled_from([True, True, True, False]), max_size=40),
    read=st.integers(1, 200),
    lost_after=st.one_of(st.none(), st.integers(0, 400)),
)
def test_what_a_host_keeps_is_what_is_believed(
    mails: list[tuple[int, bytes]],
    bits: int,
    recipients_limit: int,
    transactions_limit: int,
    verdicts: list[bool],
    read: int,
    lost_after: int | None,
    journal: Journal,
) -> None:
    queue = Queue(journal)
    for number, (recipients, data) in enumerate(mails):
        queue.mail(str(number), [b"r%d.%d@example.net" % (number, i) for i in range(recipients)], data=data)
    host = HonestHost(iter(verdicts))
    read_octets = 0
    for _ in range(10):
        if not queue.ready.backlog:
            break
        client = queue.connect(bits, recipients_limit=recipients_limit, transactions_limit=transactions_limit)
        octets = client.heard()
        while octets:
            if lost_after is not None and read_octets + len(octets) > lost_after:
                host.hear(octets[: lost_after - read_octets])
                lost_after = None
                break
            read_octets += len(octets)
            octets = client.say(host.hear(octets), read)
        client.transport.lose()
        host = ForgetfulHost(host)
    check(queue)
    kept = [(recipient, data) for recipients, data in host.kept for recipient in recipients]
    for number, (recipients, data) in enumerate(mails):
        message = queue.messages[str(number)]
        for index in range(recipients):
            copies = [what for who, what in kept if who == b"r%d.%d@example.net" % (number, index)]
            state = message.recipient_state(index)
            assert len(copies) <= 1
            assert all(what in {data, data + b"\r\n"} for what in copies)
            if state == RecipientState.RECIPIENT_DELIVERED:
                assert copies
            elif state != RecipientState.RECIPIENT_IN_DOUBT:
                assert not copies


class ForgetfulHost(HonestHost):
    """The same host on its next connection: what it kept stays, the transaction does not."""

    def __init__(self, before: HonestHost) -> None:
        super().__init__(before._verdicts)
        self.kept = before.kept


class LmtpHost(HonestHost):
    """The same with RFC 2033: a final reply for each recipient, and one mailbox each.

    `finals` are the recipients that were answered, with the octets of all replies up to the end of theirs.
    """

    def __init__(self, verdicts: Iterator[bool]) -> None:
        super().__init__(verdicts)
        self.said = 0
        self.finals: list[tuple[bytes, bool, int]] = []

    def hear(self, octets: bytes) -> bytes:
        self._octets += octets
        answer = b""
        while True:
            reply = self._data() if self._in_data else self._command()
            if reply is None:
                return answer
            answer += reply
            self.said += len(reply)

    def _end(self, data: bytes) -> bytes:
        answer = b""
        for recipient in self._recipients:
            good = self._good()
            answer += b"250 2.0.0 kept\r\n" if good else b"452 4.2.2 full\r\n"
            if good:
                self.kept.append(((recipient,), data))
            self.finals.append((recipient, good, self.said + len(answer)))
        self._over()
        return answer


@settings(max_examples=500, deadline=None)
@given(
    mails=mails,
    bits=capabilities,
    recipients_limit=st.sampled_from([0, 0, 1, 2]),
    verdicts=st.lists(st.sampled_from([True, True, True, False]), max_size=40),
    read=st.integers(1, 200),
    lost_after=st.one_of(st.none(), st.integers(0, 300)),
)
def test_an_lmtp_host_that_goes_between_two_replies_leaves_exactly_those_without_one_in_doubt(
    mails: list[tuple[int, bytes]],
    bits: int,
    recipients_limit: int,
    verdicts: list[bool],
    read: int,
    lost_after: int | None,
    journal: Journal,
) -> None:
    queue = Queue(journal)
    for number, (recipients, data) in enumerate(mails):
        queue.mail(str(number), [b"r%d.%d@example.net" % (number, i) for i in range(recipients)], data=data)
    host = LmtpHost(iter(verdicts))
    client = queue.connect(bits, recipients_limit=recipients_limit, lmtp=True)
    said = 0  # octets of the host that arrived
    octets = client.heard()
    while octets:
        answer = host.hear(octets)
        if lost_after is not None and said + len(answer) > lost_after:
            answer = answer[: lost_after - said]
            client.say(answer, read)
            said += len(answer)
            break
        octets = client.say(answer, read)
        said += len(answer)
    client.transport.lose()
    check(queue)
    kept = [(recipient, data) for recipients, data in host.kept for recipient in recipients]
    answered = {recipient: (good, end) for recipient, good, end in host.finals}
    for number, (recipients, data) in enumerate(mails):
        message = queue.messages[str(number)]
        for index in range(recipients):
            who = b"r%d.%d@example.net" % (number, index)
            copies = [what for recipient, what in kept if recipient == who]
            alone = b"Return-Path: <s@example.org>\r\nDelivered-To: " + who + b"\r\n"
            shared = b"Return-Path: <s@example.org>\r\n"
            assert all(
                what in {top + data + end for top in (alone, shared) for end in (b"", b"\r\n")} for what in copies
            )
            assert recipients_limit != 1 or all(what.startswith(alone) for what in copies)
            state = message.recipient_state(index)
            good, end = answered.get(who, (False, 0))
            if who not in answered:
                # no mail data for it was complete; with BDAT it may have left all the same
                assert state != RecipientState.RECIPIENT_DELIVERED
            elif end > said:
                assert state == RecipientState.RECIPIENT_IN_DOUBT
            else:
                assert (state == RecipientState.RECIPIENT_DELIVERED) is good
                assert state != RecipientState.RECIPIENT_IN_DOUBT
