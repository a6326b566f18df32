"""What transcripts cannot say of the client's session: single writes, large messages, several hosts, slow hosts."""

from __future__ import annotations

import gc
import json
import weakref
from typing import TYPE_CHECKING

import pytest

from angarium._core.client_session import PHASE_NAMES, Capability, ClientSession, Egress, Phase
from angarium._core.counters import Slab, Slot
from angarium._core.event_log import EventLog
from angarium._core.journal import CallbackTaker, Journal
from angarium._core.record import memory_octets
from tests.support.session import DATA, FakeTransport, Host, Queue

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PIPELINING = Capability.CAPABILITY_PIPELINING
PRIORITY = Capability.CAPABILITY_PRIORITY
CHUNKING = PIPELINING | Capability.CAPABILITY_CHUNKING
ENVELOPE = b"MAIL FROM:<s@example.org>\r\nRCPT TO:<%b@example.net>\r\n"
HELLO_TEXT = "host.example[192.0.2.25]:25"


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journal]:
    folder = tmp_path_factory.mktemp("shard")
    journal = Journal(str(folder), 0, 1 << 20, Slab.create(1).region(0), CallbackTaker(lambda message: None))
    yield journal
    journal.close()


@pytest.fixture
def queue(journal: Journal) -> Queue:
    return Queue(journal)


def up_to_content(host: Host) -> None:
    host.say(b"250 ok\r\n250 ok\r\n354 go\r\n")


# ---------------------------------------------------------------- writes


def test_the_content_and_the_next_envelope_are_one_write(queue: Queue) -> None:
    queue.mail("a", [b"a@example.net"])
    queue.mail("b", [b"b@example.net"])
    host = queue.connect(PIPELINING)
    up_to_content(host)
    assert host.transport.writes == [
        ENVELOPE % b"a" + b"DATA\r\n",
        DATA + b".\r\n" + ENVELOPE % b"b" + b"DATA\r\n",
    ]


def test_a_chunk_and_its_envelope_are_one_write(queue: Queue) -> None:
    queue.mail("a", [b"a@example.net"])
    host = queue.connect(CHUNKING)
    assert host.transport.writes == [ENVELOPE % b"a" + b"BDAT 24 LAST\r\n" + DATA]


def test_a_small_message_does_not_go_ahead_of_itself_where_chunks_are_taken(queue: Queue) -> None:
    # a large message goes with DATA; the small one behind it with BDAT, in its turn
    queue.mail("large", [b"a@example.net"], data=b"x" * 70_000 + b"\r\n")
    small = queue.mail("small", [b"b@example.net"])
    host = queue.connect(CHUNKING)
    up_to_content(host)
    assert host.transport.writes[-1].endswith(b"xxx\r\n.\r\n")
    assert queue.ready.backlog == 1
    host.say(b"250 ok\r\n")
    assert host.transport.writes[-1] == ENVELOPE % b"b" + b"BDAT 24 LAST\r\n" + DATA
    host.say(b"250 ok\r\n250 ok\r\n250 ok\r\n")
    assert queue.outcome("small") == {0: "delivered"}
    assert small.outstanding == 0


@pytest.mark.parametrize("end", [b"", b"\r\n", b"\r", b"\n"])
def test_a_large_message_is_sent_from_where_it_lies(queue: Queue, end: bytes) -> None:
    data = b"Subject: large\r\n\r\n" + b"0123456789abcdef" * 20_000 + end
    queue.mail("a", [b"a@example.net"], data=data)
    queue.mail("b", [b"b@example.net"])
    host = queue.connect(PIPELINING)
    up_to_content(host)
    tail = b".\r\n" if end == b"\r\n" else b"\r\n.\r\n"
    assert host.transport.writes[1] == data + tail + ENVELOPE % b"b" + b"DATA\r\n"


def test_a_large_message_with_dots(queue: Queue) -> None:
    data = b".line\r\n" * 20_000
    queue.mail("a", [b"a@example.net"], data=data)
    host = queue.connect(PIPELINING)
    up_to_content(host)
    assert host.transport.writes[1] == b"..line\r\n" * 20_000 + b".\r\n"


def test_an_envelope_larger_than_the_scratch_memory(queue: Queue) -> None:
    recipients = [b"recipient-%d@%s.example.net" % (i, b"x" * 60) for i in range(500)]
    queue.mail("a", recipients)
    host = queue.connect(PIPELINING)
    wanted = (
        b"MAIL FROM:<s@example.org>\r\n" + b"".join(b"RCPT TO:<%b>\r\n" % path for path in recipients) + b"DATA\r\n"
    )
    assert host.heard() == wanted
    host.say(b"250 ok\r\n" * 501 + b"354 go\r\n250 ok\r\n")
    assert queue.outcome("a") == dict.fromkeys(range(500), "delivered")


@pytest.mark.parametrize(
    ("priority", "capabilities", "parameter"),
    [
        (9, PRIORITY, b" MT-PRIORITY=9"),
        (1, PRIORITY, b" MT-PRIORITY=1"),
        (-1, PRIORITY, b" MT-PRIORITY=-1"),
        (-9, PRIORITY, b" MT-PRIORITY=-9"),
        (0, PRIORITY, b""),
        (9, 0, b""),
    ],
)
def test_the_priority_goes_to_hosts_that_know_priorities(
    queue: Queue, priority: int, capabilities: int, parameter: bytes
) -> None:
    queue.mail("a", [b"a@example.net"], priority=priority)
    host = queue.connect(PIPELINING | capabilities)
    assert host.heard().startswith(b"MAIL FROM:<s@example.org>" + parameter + b"\r\nRCPT")


def test_no_next_hop_is_asked_to_hold_what_was_held_here(queue: Queue) -> None:
    queue.mail("a", [b"a@example.net"], hold_until=1_000_000_000)
    host = queue.connect(255 & ~Capability.CAPABILITY_CHUNKING)
    assert b"HOLD" not in host.heard()


# ---------------------------------------------------------------- several connections


def test_deliveries_go_to_whoever_is_free(queue: Queue) -> None:
    one, other = queue.connect(PIPELINING), queue.connect(PIPELINING)
    assert len(queue.ready.idle) == 2
    queue.mail("a", [b"a@example.net"])
    queue.mail("b", [b"b@example.net"])
    heard = sorted(host.heard() for host in (one, other))
    assert heard == [ENVELOPE % b"a" + b"DATA\r\n", ENVELOPE % b"b" + b"DATA\r\n"]
    assert queue.ready.idle == []
    assert queue.wanted == 0
    assert queue.counters.value(Slot.DELIVERY_CONNECTIONS_REUSED) == 2


def test_the_connection_used_last_is_used_first(queue: Queue) -> None:
    # so that those that are not needed become idle for long enough to be closed
    one, other = queue.connect(0), queue.connect(0)
    for name in ("a", "b", "c"):
        queue.mail(name, [b"x@example.net"])
        assert one.heard() == b""
        assert other.heard() == b"MAIL FROM:<s@example.org>\r\n"
        other.say(b"550 no\r\n")


def test_what_a_dead_connection_leaves_goes_to_one_that_lives(queue: Queue) -> None:
    queue.mail("a", [b"a@example.net"])
    queue.mail("b", [b"b@example.net"])
    one = queue.connect(PIPELINING)
    up_to_content(one)
    other = queue.connect(PIPELINING)
    assert other.heard() == b""
    one.transport.lose()
    assert queue.outcome("a")[0].startswith("in_doubt")
    assert other.heard() == ENVELOPE % b"b" + b"DATA\r\n"


def test_connections_that_die_one_after_the_other_make_an_attempt(queue: Queue) -> None:
    hosts = [queue.connect() for _ in range(6)]
    for number, host in enumerate(hosts):
        queue.ready.idle.remove(host.session)
        queue.ready.idle.append(host.session)
        queue.mail(f"before {number}", [b"x@example.net"])
        host.say(b"550 no\r\n503 no\r\n503 no\r\n")
        host.heard()
    queue.mail("a", [b"a@example.net"])
    for _ in range(4):
        assert queue.outcome("a") == {}
        (carrier,) = [host for host in hosts if host.heard() == ENVELOPE % b"a" + b"DATA\r\n"]
        carrier.transport.lose()
    assert queue.outcome("a") == {0: f"deferred 0 - MAIL {HELLO_TEXT}: the host closed the connection"}
    assert queue.ready.open == 2


def test_a_closed_connection_gets_nothing(queue: Queue) -> None:
    host = queue.connect(PIPELINING)
    host.transport.lose()
    queue.mail("a", [b"a@example.net"])
    assert queue.ready.backlog == 1
    assert host.transport.take() == b""


def test_a_connection_that_quits_gets_nothing(queue: Queue) -> None:
    host = queue.connect(PIPELINING)
    queue.egress.quit_idle()
    queue.egress.quit_idle()
    queue.mail("a", [b"a@example.net"])
    assert host.heard() == b"QUIT\r\n"
    assert queue.ready.backlog == 1
    host.transport.deliver(b"221 bye\r\n250 and more\r\n")
    host.run()
    assert (queue.ready.open, queue.egress.sessions) == (0, 0)
    assert queue.ready.backlog == 1


def test_a_tail_of_hosts_does_not_hold_a_connection_each(queue: Queue) -> None:
    queue.egress.idle_limit = 16
    hosts = [queue.connect() for _ in range(3)]
    assert [host.heard() for host in hosts] == [b"", b"", b"QUIT\r\n"], (
        "an eighth of the places, for those used once at most"
    )
    assert queue.egress.idle == queue.egress.idle_once == len(queue.ready.idle) == 2
    for name in ("a", "b"):  # the connection used last carries both
        queue.mail(name, [b"x@example.net"])
        assert queue.egress.idle == 1
        hosts[1].say(b"250 ok\r\n250 ok\r\n354 go\r\n250 ok\r\n")
        assert queue.egress.idle == 2
    assert queue.egress.idle_once == 1, "the other has been of use again"
    more = [queue.connect() for _ in range(2)]
    assert [host.heard() for host in more] == [b"", b"QUIT\r\n"]
    assert (queue.egress.idle, queue.egress.idle_once) == (3, 2)
    queue.egress.idle_limit = 2
    queue.mail("c", [b"x@example.net"])
    heard = more[0].say(b"250 ok\r\n250 ok\r\n354 go\r\n250 ok\r\n")
    assert heard.endswith(b"QUIT\r\n"), "no place for what was used again either"
    hosts[0].transport.lose()
    assert (queue.egress.idle, queue.egress.idle_once) == (1, 0)
    queue.egress.quit_idle()
    assert queue.egress.idle == 0


def test_sessions_leave_the_list_in_any_order(queue: Queue) -> None:
    hosts = [queue.connect() for _ in range(5)]
    for n in (2, 0, 4):
        hosts[n].transport.lose()
    assert queue.egress.sessions == queue.ready.open == len(queue.ready.idle) == 2
    queue.egress.quit_idle()
    assert [host.heard() for host in hosts] == [b"", b"QUIT\r\n", b"", b"QUIT\r\n", b""]


def test_a_stopped_dispatcher_gives_nothing_more(queue: Queue) -> None:
    queue.mail("a", [b"a@example.net"])
    queue.mail("b", [b"b@example.net"])
    host = queue.connect(PIPELINING)
    queue.dispatcher.stopped = True
    assert host.say(b"250 ok\r\n250 ok\r\n354 go\r\n").endswith(DATA + b".\r\n")
    host.say(b"250 ok\r\n")
    assert queue.outcome("a") == {0: "delivered"}
    assert queue.ready.backlog == 1


# ---------------------------------------------------------------- a host that takes octets slowly


def test_a_host_that_takes_nothing_of_the_content(journal: Journal) -> None:
    queue = Queue(journal, block_timeout_s=-1)
    queue.mail("a", [b"a@example.net"], data=b"x" * 500_000)
    host = queue.connect(PIPELINING)
    host.transport.unsent = 400_000
    host.transport.on_write = host.session.pause_writing
    up_to_content(host)
    queue.egress.sweep()
    assert host.session.closed
    # the end of the data never left: nothing is in doubt
    assert queue.outcome("a") == {0: f"deferred 0 - CONTENT {HELLO_TEXT}: timed out sending the mail data"}


def test_a_host_that_takes_the_content_bit_by_bit(journal: Journal) -> None:
    queue = Queue(journal, block_timeout_s=-1)
    queue.mail("a", [b"a@example.net"], data=b"x" * 500_000)
    host = queue.connect(PIPELINING)
    host.transport.unsent = 400_000
    host.transport.on_write = host.session.pause_writing
    up_to_content(host)
    for unsent in (300_000, 200_000, 100_000):
        host.transport.unsent = unsent
        queue.egress.sweep()
        assert not host.session.closed
    host.session.resume_writing()
    queue.egress.sweep()  # now the timeout of the final reply holds
    assert not host.session.closed
    host.say(b"250 ok\r\n")
    assert queue.outcome("a") == {0: "delivered"}


def test_a_connection_lost_while_the_content_leaves(queue: Queue) -> None:
    queue.mail("a", [b"a@example.net"], data=b"x" * 500_000)
    host = queue.connect(PIPELINING)
    up_to_content(host)
    host.session.pause_writing()
    host.transport.lose()
    assert queue.outcome("a")[0].startswith("deferred 0 - CONTENT ")


def test_with_an_envelope_behind_the_content_nobody_knows_what_left(queue: Queue) -> None:
    queue.mail("a", [b"a@example.net"], data=b"x" * 500_000)
    queue.mail("b", [b"b@example.net"])
    host = queue.connect(PIPELINING)
    up_to_content(host)
    host.session.pause_writing()
    host.transport.lose()
    assert queue.outcome("a")[0].startswith("in_doubt 0 - FINAL ")


def test_every_recipient_of_a_pipelined_envelope_has_its_time(journal: Journal) -> None:
    queue = Queue(journal, rcpt_timeout_s=-1)
    queue.mail("a", [b"a@example.net", b"b@example.net", b"c@example.net"])
    host = queue.connect(PIPELINING)
    host.say(b"250 ok\r\n")
    queue.egress.rcpt_timeout_s = 1000
    host.say(b"250 ok\r\n")  # in time for the first; now the second has as long
    queue.egress.sweep()
    assert not host.session.closed
    queue.egress.rcpt_timeout_s = -1
    host.say(b"250 ok\r\n")
    queue.egress.sweep()
    assert host.session.closed
    assert queue.outcome("a")[2] == f"deferred 0 - RCPT {HELLO_TEXT}: timed out waiting for the reply to RCPT"


@pytest.mark.parametrize("others", [0, 1])
def test_a_host_that_stops_taking_the_content_is_left_for_the_next(journal: Journal, others: int) -> None:
    queue = Queue(journal, block_timeout_s=-1)
    asked: list[tuple[object, ...]] = []
    queue.ready.trouble = lambda *what: asked.append(what) is None and len(asked) <= others
    queue.mail("a", [b"a@example.net"], data=b"x" * 500_000)
    host = queue.connect(PIPELINING)
    host.transport.unsent = 400_000
    host.transport.on_write = host.session.pause_writing
    up_to_content(host)
    queue.egress.sweep()
    assert host.session.closed
    text = f"{HELLO_TEXT}: timed out sending the mail data".encode()
    assert asked == [(queue.ready, HELLO_TEXT.encode(), 1, 0, text, Phase.PHASE_CONTENT)]
    if others:
        assert queue.outcome("a") == {}
        assert queue.connect(PIPELINING).heard() == ENVELOPE % b"a" + b"DATA\r\n"
    else:
        assert queue.outcome("a") == {0: f"deferred 0 - CONTENT {text.decode()}"}


def test_a_large_message_by_lmtp_is_sent_from_where_it_lies(queue: Queue) -> None:
    data = b"Subject: large\r\n\r\n" + b"0123456789abcdef" * 20_000 + b"\r\n"
    queue.mail("a", [b"a@example.net"], data=data)
    host = queue.connect(PIPELINING, lmtp=True)
    up_to_content(host)
    top = b"Return-Path: <s@example.org>\r\nDelivered-To: a@example.net\r\n"
    assert host.transport.writes[1] == top + data + b".\r\n"


# ---------------------------------------------------------------- bookkeeping


def test_the_memory_of_a_delivered_message_is_given_back(queue: Queue) -> None:
    gc.collect()
    before = memory_octets()
    queue.mail("a", [b"a@example.net"], data=b"x" * 100_000)
    host = queue.connect(PIPELINING)
    up_to_content(host)
    host.say(b"250 ok\r\n")
    assert queue.messages["a"].buffer is None
    assert memory_octets() == before


def test_a_closed_session_is_forgotten(queue: Queue) -> None:
    queue.mail("a", [b"a@example.net"])
    host = queue.connect(PIPELINING)
    up_to_content(host)
    host.transport.lose()
    seen = weakref.ref(host.transport)  # which the session holds
    queue.outcomes.clear()
    del host
    gc.collect()
    assert seen() is None
    assert queue.egress.sessions == 0


def test_counters_and_events(journal: Journal, tmp_path: Path) -> None:
    events = EventLog(str(tmp_path / "events.jsonl"), Slab.create(1).region(0))
    queue = Queue(journal, events=events)
    queue.mail("a", [b"a@example.net", b"b@example.net"])
    host = queue.connect(PIPELINING)
    host.say(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n250 2.0.0 Ok: queued as 4XyZ\r\n")
    events.close()
    seen = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [(event["event"], event["recipient"], event["class"]) for event in seen] == [
        ("delivery", "a@example.net", "delivered"),
        ("delivery", "b@example.net", "delivered"),
    ]
    assert seen[0]["reply"] == {"code": 250, "enhanced": "2.0.0", "text": "Ok: queued as 4XyZ"}
    assert seen[0]["next_hop"] == "smtp://host.example:25"
    counters = queue.counters
    assert counters.value(Slot.DELIVERY_ATTEMPTS) == 1
    assert counters.value(Slot.DELIVERY_DELIVERED_RECIPIENTS) == 2
    assert counters.value(Slot.DELIVERY_DELIVERED_MESSAGES) == 1
    assert counters.value(Slot.DELIVERY_OCTETS) == len(DATA)


def test_a_connection_without_a_transport_yet_takes_the_one_it_is_given(queue: Queue) -> None:
    session = ClientSession(queue.egress, queue.ready, None, b"host", PIPELINING)
    transport = FakeTransport(session)
    session.connection_made(transport)  # type: ignore[arg-type]
    session.start()
    queue.mail("a", [b"a@example.net"])
    assert transport.take() == ENVELOPE % b"a" + b"DATA\r\n"
    assert not session.eof_received()
    transport.lose()


def test_every_phase_has_a_name() -> None:
    assert len(PHASE_NAMES) == len(Phase)


def test_the_timeouts_are_those_of_the_rfc() -> None:
    egress = Egress(Slab.create(1).region(0))
    assert (egress.mail_timeout_s, egress.rcpt_timeout_s, egress.data_timeout_s) == (300, 300, 120)
    assert (egress.block_timeout_s, egress.final_timeout_s) == (180, 600)


# ---------------------------------------------------------------- thousands at once: some in each turn of the loop


def test_a_sweep_goes_on_where_it_stopped(journal: Journal) -> None:
    queue = Queue(journal, mail_timeout_s=-1)
    for name in "abc":
        queue.mail(name, [b"x@example.net"])
    hosts = [queue.connect() for _ in range(3)]
    left = []
    while True:
        queue.egress.sweep(0.0)
        left.append([host.session.closed for host in hosts])
        if not queue.egress.unswept:
            break
    assert left == [[False, False, True], [False, True, True], [True, True, True]]
    assert [bool(queue.outcome(name)) for name in "abc"] == [True] * 3


def test_who_leaves_and_who_comes_while_a_sweep_waits_changes_nothing_for_the_others(journal: Journal) -> None:
    queue = Queue(journal, idle_s=-1)
    hosts = [queue.connect() for _ in range(5)]
    queue.egress.sweep(0.0)  # of 4
    hosts.append(queue.connect())
    hosts[3].transport.lose()  # it would have been next
    queue.egress.sweep(0.0)
    assert [host.heard() for host in hosts] == [b"", b"", b"QUIT\r\n", b"", b"QUIT\r\n", b""]
    queue.egress.sweep()
    assert [host.heard() for host in hosts] == [b"QUIT\r\n", b"QUIT\r\n", b"", b"", b"", b""]
    assert not queue.egress.unswept


def test_idle_connections_are_closed_some_at_a_time(queue: Queue) -> None:
    hosts = [queue.connect() for _ in range(3)]
    closed = []
    for _ in range(3):
        queue.egress.quit_idle(0.0)
        closed.append([host.heard() for host in hosts])
    assert closed == [[b"", b"", b"QUIT\r\n"], [b"", b"QUIT\r\n", b""], [b"QUIT\r\n", b"", b""]]
