"""Whatever a client sends, in whatever pieces: an answer to each command, a proper end, and nothing left behind."""

from __future__ import annotations

import gc
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from angarium._core.counters import Counters, Slab, Slot, client_key
from angarium._core.record import memory_octets
from tests.support.session import Server, ServerDialogue

if TYPE_CHECKING:
    from collections.abc import Iterable

STASH_LIMIT = 1 << 16
READ_OCTETS = 1 << 18

REPLY = re.compile(rb"(?:([2-5][0-9]{2})-[\x20-\x7e]*\r\n)*([2-5][0-9]{2})[ ][\x20-\x7e]*\r\n")

verbs = st.sampled_from(
    [
        *(b"EHLO c.example", b"HELO c.example", b"EHLO", b"LHLO x", b"STARTTLS"),
        *(b"MAIL FROM:<a@b.example>", b"MAIL FROM:<>", b"MAIL FROM:<\xc3\xa9@b.example> SMTPUTF8"),
        *(b"MAIL FROM:<a@b.example> SIZE=50", b"MAIL FROM:<a@b.example> SIZE=5000"),
        *(b"MAIL FROM:<a@b.example> HOLDFOR=60 MT-PRIORITY=7", b"MAIL FROM:<a@b.example> HOLDFOR=61"),
        *(b"RCPT TO:<c@d.example>", b"RCPT TO:<e@f.example> NOTIFY=NEVER", b"RCPT TO:<>", b"RCPT TO:<Postmaster>"),
        *(b"DATA", b"BDAT 5", b"BDAT 5 LAST", b"BDAT 0 LAST", b"BDAT 2000", b"BDAT", b"BDAT 99999999999999999999"),
        *(b"RSET", b"NOOP", b"QUIT", b"VRFY x", b"EXPN x", b"HELP"),
        *(b"AUTH PLAIN", b"AUTH PLAIN AHVzZXIAc2VjcmV0", b"AUTH LOGIN", b"*"),
        *(b".", b"..", b"X-Angarium-Durability: memory", b"Subject: x", b"x: y", b"", b"12345", b"\0"),
    ]
)
line_end = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"", b"\r\r\n"])
lines = st.tuples(verbs, line_end).map(b"".join)
transaction = st.sampled_from(
    [
        b"EHLO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nx: y\r\n\r\nz\r\n.\r\n",
        b"EHLO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 6\r\nx: y\r\nBDAT 0 LAST\r\n",
        b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n",
    ]
)
streams = st.lists(
    st.one_of(lines, lines, lines, transaction, st.binary(max_size=30), st.sampled_from([b"y" * 3000, b"\0" * 100])),
    max_size=25,
).map(b"".join)
cuts = st.lists(st.integers(0, 5000), max_size=10)


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


@pytest.fixture(scope="module")
def counters() -> Counters:
    slab = Slab.create(1)
    counters = slab.region(0)
    slab.close()
    return counters


# by SMTP for those who may relay; by LMTP for strangers to domains of ours, with recipients that are verified
ROLES: dict[str, dict[str, Any]] = {
    "relay": {},
    "inbound": {"may_relay": False, "lmtp": True, "domains": (b"d.example", b"f.example"), "known": (b"c@d.example",)},
}
roles = st.sampled_from(sorted(ROLES))


def greeted(stream: bytes, role: str) -> bytes:
    """The stream, with the greeting of the role's protocol."""
    return stream.replace(b"EHLO", b"LHLO") if role == "inbound" else stream


def start(commit: str, counters: Counters, *, tls: bool = False, role: str = "relay") -> tuple[Server, ServerDialogue]:
    server = Server(
        **ROLES[role],
        commit=commit,
        counters=counters,
        auth=(b"PLAIN", b"LOGIN"),
        message_octets=1000,
        errors=8,
        commands_per_second=0,
        recipients=3,
        future_release_s=60,
        priorities=b"MIXER",
        terms={"tenant": b"shop", "durability": 1, "durability_floor": 2, "highest_priority": 5},
    )
    return server, server.connect(tls=tls)


def codes(replies: bytes) -> list[int]:
    """The codes of well-formed replies; nothing else may be there."""
    found, position = [], 0
    while position < len(replies):
        match = REPLY.match(replies, position)
        assert match, replies[position : position + 100]
        found.append(int(match[2]))
        position = match.end()
    return found


def without_ids(replies: bytes) -> bytes:
    return re.sub(rb"queued as \w{13}", b"queued as ID", re.sub(rb"\d{4}-\d\d-\d\dT[\d:]{8}Z", b"TIME", replies))


@settings(max_examples=400, deadline=None)
@given(stream=streams, cuts=cuts, commit=st.sampled_from(["later", "sync"]), tls=st.booleans(), role=roles)
def test_the_split_of_the_input_does_not_matter(
    stream: bytes, cuts: list[int], commit: str, tls: bool, role: str, counters: Counters
) -> None:
    heard = []
    stored = []
    stream = greeted(stream, role)
    for parts in (pieces(stream, cuts), [stream]):
        server, client = start(commit, counters, tls=tls, role=role)
        heard.append(without_ids(b"".join([client.transport.take(), *(client.say(part) for part in parts)])))
        stored.append(
            [(taken.envelope["recipients"], taken.mail_data.partition(b"; ")[2][31:]) for taken in server.accepted]
        )
        ended = client.closed
        client.transport.lose()
    assert heard[0] == heard[1]
    assert stored[0] == stored[1]
    seen = codes(heard[0])
    assert seen[0] == 220
    assert ended == (421 in seen or 221 in seen)
    told = sum(len(recipients) for recipients, _ in stored[0]) if role == "inbound" else len(stored[0])
    assert heard[0].count(b"queued as ID") == told


@settings(max_examples=200, deadline=None)
@given(stream=streams, cuts=cuts, commit=st.sampled_from(["later", "sync", "held"]), tls=st.booleans(), role=roles)
def test_nothing_is_left_behind(
    stream: bytes, cuts: list[int], commit: str, tls: bool, role: str, counters: Counters
) -> None:
    before = memory_octets()
    server, client = start(commit, counters, tls=tls, role=role)
    for part in pieces(greeted(stream, role), cuts):
        client.transport.deliver(part)
        client.run()
    client.transport.lose()
    assert server.reception.sessions == 0
    assert counters.value(Slot.INGRESS_CONNECTIONS) == 0
    assert counters.client_connections(client_key(bytes((192, 0, 2, 1)))) == 0
    while server.pending:
        server.pending.popleft()[0](5)
    del server, client
    if memory_octets() > before:
        gc.collect()
    assert memory_octets() <= before  # less, when what an earlier example left was collected meanwhile


@settings(max_examples=50, deadline=None)
@given(
    chunks=st.lists(st.one_of(st.binary(max_size=100), lines), min_size=1, max_size=20), times=st.integers(1, 20_000)
)
def test_what_waits_is_bounded(chunks: list[bytes], times: int, counters: Counters) -> None:
    server, client = start("held", counters)
    client.say(b"EHLO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n.\r\n")
    flood = b"".join(chunks) * times
    flood = flood[:3_000_000]
    client.transport.deliver(flood)
    assert len(flood) - len(client.transport.incoming) <= STASH_LIMIT + READ_OCTETS
    client.transport.incoming.clear()
    client.transport.lose()
    server.pending.popleft()[0]()


@settings(max_examples=200, deadline=None)
@given(
    name=st.lists(st.integers(33, 126), min_size=1, max_size=255).map(bytes),
    body=st.one_of(st.binary(max_size=60), st.sampled_from([b" x", b"\tx", b"", b"by evil"])),
)
def test_no_greeting_and_no_body_can_forge_the_trace_field(name: bytes, body: bytes, counters: Counters) -> None:
    server, client = start("sync", counters)
    client.say(b"HELO " + name + b"\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n")
    client.say(b"BDAT %d LAST\r\n" % len(body) + body)
    for taken in server.accepted:
        data = taken.mail_data
        match = re.match(
            rb"Received: from [A-Za-z0-9.:_?\[\]-]{1,255} \(\[192\.0\.2\.1\]\)\r\n"
            rb"\tby relay\.example\.org with SMTP id [0-9A-Z]{13}\r\n"
            rb"\tfor <c@d\.example>; [A-Za-z0-9,: ]{25} \+0000\r\n",
            data,
        )
        assert match, data
        rest = data[match.end() :]
        assert rest in {body, b"\r\n" + body}
        assert not rest.startswith((b" ", b"\t"))
    client.transport.lose()
