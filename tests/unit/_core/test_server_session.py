"""What transcripts cannot say of the server's session: bounds, back-pressure, several clients, odd moments."""

from __future__ import annotations

import gc
import json
import re
import socket
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from angarium._core.counters import Slab, Slot, client_key
from angarium._core.event_log import EventLog
from angarium._core.listener_profile import ListenerProfile
from angarium._core.record import memory_octets
from angarium._core.server_session import repair_newlines
from tests.support.session import FakeSsl, FakeTransport, Server, ServerDialogue, connections_of

if TYPE_CHECKING:
    from pathlib import Path

STASH_LIMIT = 1 << 16
READ_OCTETS = 1 << 18
HELLO = b"HELO client.example\r\n"
ENVELOPE = b"MAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.net>\r\n"
MESSAGE = ENVELOPE + b"DATA\r\nx: y\r\n.\r\n"
GREETING = b"220 relay.example.org ESMTP Angarium\r\n"
OK = b"250 2.0.0 OK\r\n"


def codes(replies: bytes) -> list[int]:
    return [int(line[:3]) for line in replies.splitlines()]


# ---------------------------------------------------------------- replies


def test_the_replies_to_a_pipeline_are_one_write() -> None:
    client = Server(commit="sync").connect()
    client.transport.writes.clear()
    client.transport.deliver(HELLO + MESSAGE + MESSAGE + b"QUIT\r\n")
    assert [codes(octets) for octets in client.transport.writes] == [[250, 250, 250, 354, 250, 250, 250, 354, 250, 221]]


def test_no_250_before_the_commit() -> None:
    server = Server(commit="held")
    client = server.connect()
    client.say(HELLO)
    assert codes(client.say(MESSAGE + b"NOOP\r\n")) == [250, 250, 354]
    done, _ = server.pending.popleft()
    done()
    client.run()
    assert codes(client.transport.take()) == [250, 250]


def test_a_commit_is_told_once() -> None:
    server = Server(commit="held")
    client = server.connect()
    client.say(HELLO + MESSAGE)
    done, _ = server.pending.popleft()
    done()
    done()
    done(5)
    assert codes(client.transport.take()) == [250]


def test_ids_are_unique_and_in_order() -> None:
    server = Server(commit="sync")
    server.connect().say(HELLO + MESSAGE * 50)
    numbers = [taken.message.id for taken in server.accepted]
    assert len(numbers) == 50
    assert sorted(set(numbers)) == numbers


def test_octets_behind_the_end_are_ignored() -> None:
    client = Server().connect()
    client.transport.deliver(b"QUIT\r\n")
    written = len(client.transport.written)
    client.session.feed(b"NOOP\r\n" * 3)
    assert len(client.transport.written) == written
    client.run()
    assert client.session.closed


# ---------------------------------------------------------------- bounds


def test_input_while_a_commit_is_outstanding_is_bounded() -> None:
    server = Server(commit="held", commands_per_second=0)
    client = server.connect()
    client.say(HELLO)
    commands = b"NOOP\r\n" * 40_000
    for _ in range(3):
        client.transport.deliver(MESSAGE + commands, step=4096)
        assert not client.transport.reading
        assert len(commands) - len(client.transport.incoming) <= STASH_LIMIT + 4096
        done, _ = server.pending.popleft()
        done()
        assert client.transport.reading
        client.transport.pump(4096)
        assert not client.transport.incoming
        assert client.transport.take().count(b"250 2.0.0 OK") == 40_000


def test_no_read_makes_more_than_one_buffer_of_stash() -> None:
    server = Server(commit="held", commands_per_second=0)
    client = server.connect()
    client.say(HELLO)
    client.transport.deliver(MESSAGE + b"NOOP\r\n" * 500_000)
    assert not client.transport.reading
    assert 500_000 * 6 - len(client.transport.incoming) <= STASH_LIMIT + 2 * READ_OCTETS
    client.transport.take()
    server.commit = "later"
    client.run()
    assert codes(client.transport.take()) == [250] * 500_001
    assert client.transport.reading


def test_a_client_that_does_not_read_is_not_read() -> None:
    client = Server(commit="sync", commands_per_second=0).connect()
    client.say(HELLO)
    client.session.pause_writing()
    assert not client.transport.reading
    client.session.feed(b"NOOP\r\n" * 10)
    assert client.transport.take() == b""
    client.session.resume_writing()
    assert codes(client.transport.take()) == [250] * 10
    assert client.transport.reading


def test_writing_that_pauses_in_mid_pipeline_stops_the_commands() -> None:
    client = Server(commit="held").connect()
    client.transport.on_write = client.session.pause_writing
    client.transport.deliver(HELLO)
    client.transport.deliver(b"HELP\r\n" * 1000)
    assert not client.transport.reading
    assert client.transport.take() == GREETING + b"250 relay.example.org\r\n"
    client.transport.on_write = None
    client.session.resume_writing()
    client.run()
    # as many as are allowed in a second, HELO included
    assert client.transport.take().count(b"214 ") == 999


def test_a_line_of_megabytes_is_one_error() -> None:
    client = Server().connect()
    client.transport.take()
    for _ in range(64):
        assert client.say(b"x" * 65536) == b""
    assert client.say(b"\r\nNOOP\r\n") == b"500 5.5.2 Command line too long\r\n" + OK


def test_a_silent_commit_outlives_the_idle_timeout() -> None:
    server = Server(commit="held", idle_timeout_s=-1, data_timeout_s=-1)
    client = server.connect()
    client.say(HELLO + MESSAGE)
    server.reception.sweep()
    assert not client.closed
    server.commit = "later"
    client.run()
    assert codes(client.transport.take()) == [250]
    server.reception.sweep()
    client.run()
    assert client.transport.take() == b"421 4.4.2 Idle for too long\r\n"


def test_a_throttled_client_stays_throttled() -> None:
    server = Server(commit="sync", commands_per_second=10, idle_timeout_s=1e18)
    client = server.connect()
    client.transport.take()
    client.transport.deliver(b"NOOP\r\n" * 35)
    said = [len(codes(client.transport.take()))]
    for _ in range(4):
        server.reception.sweep()
        client.run()
        said.append(len(codes(client.transport.take())))
    assert said == [10, 10, 10, 5, 0]
    assert server.value(Slot.INGRESS_THROTTLED) == 3


def test_a_client_whose_commands_are_asked_about_is_throttled_all_the_same() -> None:
    """The command that reaches the limit may wait for a decision: the second is waited for behind it."""
    server = Server(
        domains=(b"ours.example",), known=(b"ada@ours.example",), commands_per_second=10, idle_timeout_s=1e18
    )
    client = server.connect()
    client.transport.take()
    client.transport.deliver(HELLO + b"MAIL FROM:<a@client.example>\r\n" + b"RCPT TO:<ada@ours.example>\r\n" * 33)
    client.run()
    said = [len(codes(client.transport.take()))]
    for _ in range(4):
        server.reception.sweep()
        client.run()
        said.append(len(codes(client.transport.take())))
    assert said == [10, 10, 10, 5, 0]
    assert server.value(Slot.INGRESS_THROTTLED) == 3


def test_a_size_that_is_stated_and_not_kept_costs_no_more_than_is_stated() -> None:
    gc.collect()
    before = memory_octets()
    server = Server()
    client = server.connect()
    client.say(b"EHLO c\r\nMAIL FROM:<a@b.example> SIZE=52428800\r\nRCPT TO:<c@example.net>\r\nDATA\r\nx")
    assert memory_octets() - before < 1 << 20
    client.transport.lose()
    assert memory_octets() == before


def test_a_message_that_is_refused_in_mid_way_is_not_kept_in_memory() -> None:
    gc.collect()
    before = memory_octets()
    server = Server(message_octets=100_000)
    client = server.connect()
    client.say(HELLO + ENVELOPE + b"DATA\r\n")
    for _ in range(100):
        client.say(b"x" * 50_000)
        assert memory_octets() - before < 400_000
    assert memory_octets() - before < 10_000
    assert client.say(b"\r\n.\r\n") == b"552 5.3.4 Message exceeds the size limit\r\n"
    assert memory_octets() == before


def test_no_transaction_begins_while_memory_is_short() -> None:
    server = Server(commit="held", memory_octets=1 << 20)
    holder, client = server.connect(), server.connect()
    for one in (holder, client):
        one.say(HELLO)
    holder.say(ENVELOPE + b"DATA\r\nx: y\r\n.\r\n")
    server.memory.resize(1)
    assert client.say(ENVELOPE) == (
        b"452 4.3.1 Out of memory for mail; try again later\r\n503 5.5.1 Send MAIL first\r\n"
    )
    server.memory.resize(1 << 20)
    assert codes(client.say(ENVELOPE)) == [250, 250]
    assert server.value(Slot.INGRESS_REJECTED_MEMORY_FULL) == 1


# ---------------------------------------------------------------- releases, priorities, tenants


def test_a_hold_is_kept_in_the_record_and_age_counts_from_its_end() -> None:
    server = Server(commit="sync", future_release_s=86400)
    client = server.connect()
    before = int(time.time())
    client.say(b"EHLO c\r\n" + MESSAGE.replace(b">\r\nRCPT", b"> HOLDFOR=3600\r\nRCPT"))
    until = datetime.fromtimestamp(before + 7200, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
    client.say(MESSAGE.replace(b">\r\nRCPT", b"> HOLDUNTIL=" + until + b"\r\nRCPT"))
    client.say(MESSAGE)
    after = int(time.time())
    held_for, held_until, free = server.accepted
    assert before + 3600 <= held_for.envelope["hold_until"] <= after + 3600
    assert held_until.envelope["hold_until"] == before + 7200
    assert free.envelope["hold_until"] == 0
    for taken in server.accepted:
        assert before <= taken.envelope["received_us"] * 1e-6 <= after + 1
        assert taken.message.received_us == max(taken.envelope["received_us"], taken.envelope["hold_until"] * 1_000_000)


def test_ehlo_says_how_far_away_a_release_may_be() -> None:
    client = Server(future_release_s=86400).connect()
    before = int(time.time())
    said = re.search(rb"250-FUTURERELEASE 86400 (\S+)\r\n", client.say(b"EHLO c\r\n"))
    assert said
    latest = datetime.fromisoformat(said[1].decode()).timestamp()
    assert before + 86400 <= latest <= time.time() + 86400
    # what is said may be asked for
    assert codes(client.say(b"MAIL FROM:<> HOLDUNTIL=" + said[1] + b"\r\n")) == [250]


def test_the_event_names_tenant_traffic_priority_and_release(tmp_path: Path) -> None:
    counters = Slab.create(1).region(0)
    log = EventLog(str(tmp_path / "events.jsonl"), counters)
    server = Server(
        commit="sync", counters=counters, events=log, future_release_s=86400, priorities=b"",
        terms={"tenant": b"news", "bulk": True},
    )  # fmt: skip
    client = server.connect()
    client.say(b"EHLO c\r\n" + MESSAGE.replace(b">\r\nRCPT", b"> HOLDFOR=60 MT-PRIORITY=-3\r\nRCPT"))
    client.say(MESSAGE.replace(b">\r\nRCPT", b"> MT-PRIORITY=9\r\nRCPT"))
    client.say(b"MAIL FROM:<> SIZE=99999999999\r\n")
    log.flush()
    first, second, refused = (json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines())
    assert (first["tenant"], first["traffic"], first["priority"]) == ("news", "bulk", -3)
    held_until = datetime.fromisoformat(first["hold_until"]).timestamp()
    assert held_until == server.accepted[0].envelope["hold_until"]
    assert (second["priority"], "hold_until" in second) == (9, False)
    assert (refused["event"], refused["tenant"]) == ("rejection", "news")


def test_a_pair_is_terms_enough() -> None:
    server = Server(durability=1)
    profile = ListenerProfile(
        hostname=b"relay.example.org", name=b"relay", client_policy=lambda address: (True, False), durability=2
    )
    terms = profile.policy_of("192.0.2.1")
    assert (terms.may_relay, terms.bare_newlines, terms.durability, terms.tenant) == (True, False, 2, b"")
    assert server.profile.policy_of("192.0.2.1").durability == 1


# ---------------------------------------------------------------- several clients


@pytest.mark.parametrize(
    ("first", "same", "other"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
        ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.100"),
        ("2001:db8:0:1::1", "2001:db8:0:1::2", "2001:db8:0:2::1"),
        ("fe80::1%eth0", "fe80::2%eth1", "::1"),
    ],
)
def test_connections_of_one_client_are_limited(first: str, same: str, other: str) -> None:
    server = Server(connections_per_client=1)
    one = server.connect((first, 1))
    refused = server.connect((same, 2))
    assert refused.transport.take() == b"421 4.7.0 Too many connections from your address; try again later\r\n"
    assert server.connect((other, 3)).transport.take() == GREETING
    assert server.value(Slot.INGRESS_REFUSED_CLIENT) == 1
    one.transport.lose()
    refused.run()
    assert server.connect((same, 4)).transport.take() == GREETING


def test_a_client_without_an_address_is_served() -> None:
    server = Server(connections_per_client=1)
    client = server.connect("")
    assert client.transport.take() == GREETING
    client.transport.lose()
    assert server.reception.sessions == 0


def test_connections_of_the_node_are_limited_over_all_workers() -> None:
    slab = Slab.create(2)
    here = Server(connections=2, counters=slab.region(0))
    there = Server(connections=2, counters=slab.region(1))
    slab.close()
    one, other = here.connect(("192.0.2.1", 1)), there.connect(("192.0.2.2", 1))
    assert one.transport.take() == other.transport.take() == GREETING
    refused = here.connect(("192.0.2.3", 1))
    assert refused.transport.take() == b"421 4.3.2 Too many connections; try again later\r\n"
    refused.run()
    assert here.value(Slot.INGRESS_REFUSED_NODE) == 1
    other.transport.lose()
    assert here.connect(("192.0.2.3", 2)).transport.take() == GREETING


def test_a_draining_node_takes_no_client() -> None:
    server = Server()
    server.reception.drain()
    client = server.connect()
    assert client.transport.take() == b"421 4.3.2 Shutting down; try again later\r\n"
    assert client.closed


def test_drain_ends_who_is_free_and_waits_for_who_is_not() -> None:
    server = Server(commit="held")
    free, busy, waiting = server.connect(), server.connect(), server.connect()
    for client in (free, busy, waiting):
        client.say(HELLO)
    busy.say(ENVELOPE)
    waiting.say(MESSAGE)
    server.reception.drain()
    assert [client.closed for client in (free, busy, waiting)] == [True, False, False]
    server.commit = "later"
    waiting.run()
    assert codes(waiting.transport.take()) == [250, 421]
    assert codes(busy.say(b"DATA\r\n.\r\n")) == [354, 250, 421]
    assert busy.closed
    for client in (free, busy, waiting):
        client.run()
    assert server.reception.sessions == 0


def test_client_policy_is_asked_once_an_address() -> None:
    server = Server()
    for port in range(3):
        server.connect(("192.0.2.1", port))
    server.connect(("192.0.2.2", 1))
    assert server.asked == ["192.0.2.1", "192.0.2.2"]
    server.profile.forget_clients()
    server.connect(("192.0.2.1", 9))
    assert server.asked == ["192.0.2.1", "192.0.2.2", "192.0.2.1"]


# ---------------------------------------------------------------- ends


@pytest.mark.parametrize("tls", [False, True])
def test_a_client_that_closes_its_half_gets_its_answers(tls: bool) -> None:
    server = Server(commit="held")
    client = server.connect(tls=tls)
    client.say(HELLO + MESSAGE + b"NOOP\r\n")
    client.transport.take()
    assert client.session.eof_received()
    server.commit = "later"
    client.run()
    assert codes(client.transport.take()) == [250, 250]
    assert client.closed


def test_a_throttled_client_that_closes_its_half_gets_its_answers() -> None:
    server = Server(commands_per_second=1, idle_timeout_s=1e18)
    client = server.connect()
    client.say(HELLO + b"NOOP\r\n")
    assert client.session.eof_received()
    server.reception.sweep()
    assert not client.closed
    server.reception.sweep()
    client.run()
    assert client.transport.take() == OK
    assert client.closed


def test_a_client_that_closes_its_half_with_nothing_outstanding_is_gone() -> None:
    client = Server().connect()
    client.say(HELLO)
    assert not client.session.eof_received()


def test_a_message_whose_client_is_gone_is_ours_all_the_same(tmp_path: Path) -> None:
    counters = Slab.create(1).region(0)
    events = EventLog(str(tmp_path / "events.jsonl"), counters)
    server = Server(commit="held", counters=counters, events=events)
    client = server.connect()
    client.say(b"EHLO c\r\nMAIL FROM:<a@client.example> SMTPUTF8\r\nRCPT TO:<b@example.net>\r\nDATA\r\n.\r\n")
    client.transport.lose()
    assert server.reception.sessions == 0
    done, _ = server.pending.popleft()
    done()
    assert server.value(Slot.INGRESS_MESSAGES_FSYNC) == 1
    events.close()
    event = json.loads((tmp_path / "events.jsonl").read_text())
    assert (event["event"], event["reverse_path"], event["protocol"]) == ("reception", "a@client.example", "UTF8SMTP")


def test_a_message_that_fails_when_its_client_is_gone_is_told_to_nobody() -> None:
    server = Server(commit="held")
    client = server.connect()
    client.say(HELLO + MESSAGE)
    client.transport.lose()
    done, _ = server.pending.popleft()
    done(5)
    assert client.transport.take() == b""


DIALOGUE = (
    b"EHLO client.example\r\nMAIL FROM:<a@client.example> SIZE=100\r\nRCPT TO:<b@example.net>\r\nRCPT TO:<bad>\r\n"
    b"DATA\r\nSubject: x\r\n\r\n..dot\r\n.\r\n"
    b"MAIL FROM:<>\r\nRCPT TO:<c@example.net>\r\nBDAT 6\r\nx: y\r\nBDAT 3 LAST\r\nabcRSET\r\nHELP\r\nQUIT\r\n"
)


@pytest.mark.parametrize("commit", ["held", "later", "sync"])
def test_a_client_may_go_at_every_octet(commit: str) -> None:
    slab = Slab.create(1)
    counters = slab.region(0)
    slab.close()
    key = client_key(socket.inet_aton("192.0.2.1"))
    gc.collect()
    before = memory_octets()
    for end in range(len(DIALOGUE) + 1):
        server = Server(commit=commit, counters=counters)
        client = server.connect()
        client.say(DIALOGUE[:end])
        assert counters.client_connections(key) == (0 if client.session.closed else 1)
        client.transport.lose()
        assert client.transport.protocol.closed
        assert server.reception.sessions == 0
        assert counters.value(Slot.INGRESS_CONNECTIONS) == 0
        assert counters.client_connections(key) == 0
        while server.pending:
            server.pending.popleft()[0]()
    del server, client
    gc.collect()
    assert memory_octets() == before


def test_sessions_leave_the_list_in_any_order() -> None:
    server = Server(idle_timeout_s=-1)
    clients = [server.connect((f"192.0.2.{n}", 1)) for n in range(6)]
    for n in (3, 0, 5):
        clients[n].transport.lose()
    assert server.reception.sessions == 3
    for client in clients:
        client.transport.take()
    server.reception.sweep()
    assert [bool(client.transport.take()) for client in clients] == [False, True, True, False, True, False]
    for client in clients:
        client.run()
    assert server.reception.sessions == 0
    assert connections_of(server, socket.inet_aton("192.0.2.1")) == 0


def test_a_client_that_does_not_take_its_last_reply_is_cut_off() -> None:
    server = Server(idle_timeout_s=-1)
    client = server.connect()
    client.transport.deliver(b"QUIT\r\n")
    assert client.transport.closing
    assert not client.transport.aborted
    server.reception.sweep()
    assert client.transport.aborted
    client.run()
    server.reception.sweep()
    assert server.reception.sessions == 0


# ---------------------------------------------------------------- TLS


def test_octets_that_come_with_the_handshake_are_kept() -> None:
    # an asyncio transport may hand over decrypted octets before start_tls() has returned
    server = Server(tls=True)
    client = server.connect()
    client.transport.deliver(HELLO + b"STARTTLS\r\nNOOP\r\n")
    client.session.feed(b"MAIL FROM:<injected@client.example>\r\n")  # it waits for its turn, still in plaintext
    client.run()
    client.session.feed(b"EHLO client.example\r\nNO")
    transport = FakeTransport(client.session, client.peer, FakeSsl())
    client.session.tls_established(transport)
    client.session.feed(b"OP\r\n")
    assert transport.take().endswith(b"250 REQUIRETLS\r\n" + OK)
    assert client.session.tls_version == b"TLSv1.3"


def test_what_came_with_starttls_is_gone_before_the_handshake_begins() -> None:
    client = Server(tls=True).connect()
    client.say(HELLO + b"STARTTLS\r\nEHLO injected.example\r\nNOOP\r\n")
    transport = FakeTransport(client.session, client.peer, FakeSsl())
    client.session.tls_established(transport)
    assert transport.take() == b""
    client.session.feed(b"MAIL FROM:<a@client.example>\r\n")
    assert transport.take() == b"503 5.5.1 Send EHLO first\r\n"


def test_a_handshake_that_is_too_late_ends_the_new_transport() -> None:
    server = Server(tls=True)
    client = server.connect()
    client.say(HELLO + b"STARTTLS\r\n")
    client.transport.lose()
    transport = FakeTransport(client.session, client.peer, FakeSsl())
    client.session.tls_established(transport)
    assert transport.aborted


# ---------------------------------------------------------------- events


def test_rejections_say_who_and_why(tmp_path: Path) -> None:
    counters = Slab.create(1).region(0)
    events = EventLog(str(tmp_path / "events.jsonl"), counters)
    server = Server(may_relay=False, counters=counters, events=events, message_octets=10)
    client = server.connect()
    client.say(b"EHLO c\r\nMAIL FROM:<big@client.example> SIZE=11\r\n")
    client.say(ENVELOPE)
    events.close()
    seen = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [(event["event"], event["reverse_path"], event["recipient"], event["reply"]["code"]) for event in seen] == [
        ("rejection", "big@client.example", "", 552),
        ("rejection", "a@client.example", "b@example.net", 550),
    ]
    assert {event["client"] for event in seen} == {"192.0.2.1"}


@pytest.mark.parametrize(
    ("data", "repaired"),
    [
        (b"", b""),
        (b"a\r\nb\r\n", b"a\r\nb\r\n"),
        (b"a\nb\rc", b"a\r\nb\r\nc"),
        (b"\r\r\n\n", b"\r\n\r\n\r\n"),
        (b"a\n\r", b"a\r\n\r\n"),
    ],
)
def test_newlines_are_repaired(data: bytes, repaired: bytes) -> None:
    assert repair_newlines(data) == repaired


# ---------------------------------------------------------------- another configuration


def profile(*, may_relay: bool = True, **changed: Any) -> ListenerProfile:
    """The profile that another configuration makes of the server's listener."""
    return ListenerProfile(
        hostname=b"other.example.org", name=b"relay", client_policy=lambda _: (may_relay, False), **changed
    )


def test_a_session_between_two_transactions_goes_on_under_new_terms_at_once() -> None:
    server = Server(commit="sync")
    client = server.connect()
    client.say(HELLO)
    old = server.profile
    new = profile(may_relay=False)
    server.reception.follow({old: new})
    assert client.session.profile is new
    assert old.successor is new
    assert codes(client.say(b"MAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.net>\r\n")) == [250, 550]


def test_what_the_last_ehlo_offered_is_taken_until_the_next() -> None:
    server = Server(commit="sync", priorities=b"")
    client = server.connect()
    assert b"MT-PRIORITY" in client.say(b"EHLO client.example\r\n")
    server.reception.follow({server.profile: profile()})
    assert codes(client.say(b"MAIL FROM:<a@client.example> MT-PRIORITY=3\r\nRSET\r\n")) == [250, 250]
    offered = client.say(b"EHLO client.example\r\n")
    assert offered.startswith(b"250-other.example.org\r\n")
    assert b"MT-PRIORITY" not in offered
    assert codes(client.say(b"MAIL FROM:<a@client.example> MT-PRIORITY=3\r\n")) == [555]


@pytest.mark.parametrize(
    ("before", "rest", "replies"),
    [
        (b"MAIL FROM:<a@client.example>\r\n", b"RCPT TO:<b@example.net>\r\nDATA\r\nx: y\r\n.\r\n", [250, 354, 250]),
        (ENVELOPE, b"DATA\r\nx: y\r\n.\r\n", [354, 250]),
        (ENVELOPE + b"DATA\r\nx: ", b"y\r\n.\r\n", [250]),
        (ENVELOPE + b"BDAT 6\r\nx: y\r\n", b"BDAT 2 LAST\r\n\r\n", [250]),
        (ENVELOPE + b"BDAT 8 LAST\r\nx: ", b"y\r\n\r\n", [250]),
    ],
    ids=["MAIL", "RCPT", "DATA", "between chunks", "within a chunk"],
)
def test_a_transaction_ends_under_the_terms_that_it_began_with(before: bytes, rest: bytes, replies: list[int]) -> None:
    server = Server(commit="sync")
    client = server.connect()
    client.say(HELLO + before)
    old = server.profile
    new = profile(may_relay=False, recipients=1, message_octets=1)
    server.reception.follow({old: new})
    assert client.session.profile is old
    assert codes(client.say(rest)) == replies
    assert len(server.accepted) == 1
    assert codes(client.say(b"MAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.net>\r\n")) == [250, 550]
    assert client.session.profile is new


def test_a_commit_that_is_waited_for_is_answered_under_the_old_terms() -> None:
    server = Server(commit="held")
    client = server.connect()
    client.say(HELLO)
    client.say(MESSAGE + ENVELOPE)
    new = profile(may_relay=False)
    server.reception.follow({server.profile: new})
    done, _ = server.pending.popleft()
    done()
    client.run()
    # what stands behind it in the pipeline is the next transaction
    assert codes(client.transport.take()) == [250, 250, 550]
    assert len(server.accepted) == 1


def test_ten_changes_within_one_transaction_leave_nothing_between() -> None:
    server = Server(commit="sync")
    client = server.connect()
    client.say(HELLO + b"MAIL FROM:<a@client.example>\r\n")
    old = current = server.profile
    for number in range(10):
        following = profile(recipients=number + 1)
        server.reception.follow({current: following})
        current = following
    assert old.successor is current
    assert codes(client.say(b"RSET\r\nMAIL FROM:<a@client.example>\r\n")) == [250, 250]
    assert client.session.profile is current


def test_sessions_of_a_listener_that_went_away_keep_their_terms() -> None:
    server = Server(commit="sync")
    client = server.connect()
    server.reception.follow({})
    assert codes(client.say(HELLO + MESSAGE)) == [220, 250, 250, 250, 354, 250]


def test_another_idle_timeout_holds_for_who_is_idle_already() -> None:
    server = Server(commit="sync", idle_timeout_s=3600)
    client = server.connect()
    client.say(HELLO)
    server.reception.follow({server.profile: profile(idle_timeout_s=-3600)})
    server.reception.sweep()
    assert codes(client.transport.take()) == [421]


def test_a_session_that_starts_tls_meanwhile_has_the_new_terms_behind_it() -> None:
    server = Server(commit="sync", tls=True)
    client = server.connect()
    client.say(b"EHLO client.example\r\nSTARTTLS\r\n")
    new = profile(may_relay=False)
    server.reception.follow({server.profile: new})
    client.handshake()
    assert client.say(b"EHLO client.example\r\n").startswith(b"250-other.example.org\r\n")
    assert codes(client.say(ENVELOPE)) == [250, 550]


# ---------------------------------------------------------------- thousands at once: some in each turn of the loop


def ended(clients: list[ServerDialogue]) -> list[int]:
    """Which of them have been told 421, by number."""
    return [number for number, client in enumerate(clients) if b"421" in bytes(client.transport.written)]


def test_a_sweep_goes_on_where_it_stopped() -> None:
    server = Server(idle_timeout_s=-1)
    clients = [server.connect() for _ in range(4)]
    newest_first = [3, 2, 1, 0]
    for count in range(1, 5):
        server.reception.sweep(0.0)
        assert ended(clients) == sorted(newest_first[:count]), "one, when there is no time for any"
        assert server.reception.unswept == (count < 4)


def test_who_leaves_and_who_comes_while_a_sweep_waits_changes_nothing_for_the_others() -> None:
    server = Server(idle_timeout_s=-1)
    clients = [server.connect() for _ in range(5)]
    server.reception.sweep(0.0)  # of 4
    clients.append(server.connect())
    clients[3].transport.lose()  # it would have been next
    clients[2].transport.lose()
    server.reception.sweep(0.0)
    assert ended(clients) == [1, 4]
    clients[0].transport.lose()  # it would have been the last
    assert server.reception.unswept
    server.reception.sweep(0.0)
    assert not server.reception.unswept, "who came later belongs to the next sweep"
    assert ended(clients) == [1, 4]
    server.reception.sweep(0.0)
    assert ended(clients) == [1, 4, 5]


def test_throttled_sessions_all_have_their_turn_however_short_it_is() -> None:
    server = Server(commit="sync", commands_per_second=2, idle_timeout_s=1e18)
    clients = [server.connect() for _ in range(3)]
    for client in clients:
        client.transport.take()
        client.transport.deliver(b"NOOP\r\n" * 6)
        client.transport.take()
    said = []
    for _ in range(6):  # whoever has gone on is throttled again at once, and is not in front of the others
        server.reception.sweep(0.0)
        said.append([len(codes(client.transport.take())) for client in clients])
    assert said == [[0, 0, 2], [0, 2, 0], [2, 0, 0]] * 2


def test_a_drain_ends_sessions_some_at_a_time() -> None:
    server = Server()
    clients = [server.connect() for _ in range(4)]
    clients[2].say(HELLO + ENVELOPE)  # it stays until its transaction is over
    again = [server.reception.drain(0.0) for _ in range(4)]
    assert ended(clients) == [0, 1, 3]
    assert again == [True, True, False, False]
    assert server.connect().transport.take() == b"421 4.3.2 Shutting down; try again later\r\n"


def test_sessions_follow_another_configuration_some_at_a_time_and_who_begins_at_once() -> None:
    server = Server(commit="sync")
    clients = [server.connect() for _ in range(4)]
    for client in clients:
        client.say(HELLO)
    old, new = server.profile, profile(may_relay=False)
    assert server.reception.follow({old: new}, 0.0)
    assert [client.session.profile is new for client in clients] == [False, False, False, True]
    clients[2].transport.lose()  # it would have been next
    assert codes(clients[0].say(b"MAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.net>\r\n")) == [250, 550]
    assert clients[0].session.profile is new, "who begins a transaction does not wait for his turn"
    newest = profile(may_relay=True)
    assert server.reception.follow({new: newest}, 0.0), "another change begins anew"
    while server.reception.follow({}, 0.0):
        pass
    clients[0].say(b"RSET\r\n")
    assert [clients[n].session.profile is newest for n in (0, 1, 3)] == [False, True, True]
    assert codes(clients[0].say(b"MAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.net>\r\n")) == [250, 250]
