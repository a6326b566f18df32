"""From the queue to a connection and back: who goes where, who waits, and what is left in the journal."""

from __future__ import annotations

import errno
import gc
import os
import select
import time
from typing import TYPE_CHECKING, Any

import pytest

from angarium._core.client_session import Capability
from angarium._core.counters import Slab, Slot
from angarium._core.dispatch import Delivery, Dispatcher, JournalIntake, ReadyQueue
from angarium._core.event_log import EventLog
from angarium._core.journal import CallbackReceiver, Journal
from angarium._core.listener_profile import ListenerProfile
from angarium._core.memory_budget import MemoryBudget, MemoryState
from angarium._core.record import (
    MailBuffer,
    Message,
    MessageFlag,
    MessageState,
    RecipientState,
    load_message,
    make_accepted,
    memory_octets,
    new_message,
    shard_of,
)
from angarium._core.recovery import read_in_flight
from angarium._core.server_session import Reception
from tests.support.session import DATA, FakeTransport, Host, Queue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PIPELINING = Capability.CAPABILITY_PIPELINING
DELIVERED, FAILED, DEFERRED = (
    RecipientState.RECIPIENT_DELIVERED,
    RecipientState.RECIPIENT_FAILED,
    RecipientState.RECIPIENT_DEFERRED,
)


class Node:
    """A dispatcher with its shards' journals; what Python does with messages is written down."""

    def __init__(self, folder: Path, shards: int = 1, segment_octets: int = 1 << 20, slab: Slab | None = None) -> None:
        slab = Slab.create(1) if slab is None else slab
        self.counters = slab.region(0)
        slab.close()
        self.dispatcher = Dispatcher(self.counters, EventLog(None, self.counters))
        self.journals = []
        for shard in range(shards):
            (folder / str(shard)).mkdir()
            journal = Journal(str(folder / str(shard)), shard, segment_octets, self.counters, self.dispatcher)
            self.dispatcher.journals[shard] = journal
            self.journals.append(journal)
        self.intake = JournalIntake(self.dispatcher, self.journals)
        self.placed: list[Message] = []
        self.loaded: list[tuple[Message, ReadyQueue | None]] = []
        self.settled: list[Delivery] = []
        self.rounds: list[Message] = []
        self.partly: list[Message] = []
        self.told: list[int] = []
        self.handed: list[Delivery] = []
        self.asked: list[ReadyQueue] = []
        self.dispatcher.place = self.placed.append
        self.dispatcher.load = lambda message, ready: self.loaded.append((message, ready))
        self.dispatcher.settle = self._settle
        self.dispatcher.reconsider = self.rounds.append
        self.dispatcher.partial = self.partly.append
        self.receiver = CallbackReceiver(lambda message, error: self.told.append(error))

    def _settle(self, delivery: Delivery) -> None:
        self.settled.append(delivery)

    def queue(self, **more: Any) -> ReadyQueue:
        """A ready queue whose connections are only asked for."""
        return ReadyQueue(self.dispatcher, b"smtp://host:25", b"host", connect=self.asked.append, **more)

    def hand(self, **more: Any) -> ReadyQueue:
        """A ready queue whose deliveries are handed over."""
        return ReadyQueue(self.dispatcher, b"discard:", b"discard", hand_over=self.handed.append, **more)

    def make(self, *to: bytes, data: bytes = DATA, durability: int = 0, **more: Any) -> Message:
        envelope = {
            "reverse_path": b"s@example.org",
            "recipients": [(path, 0, b"") for path in to or (b"a@example.net",)],
            "durability": durability,
            "received_us": time.time_ns() // 1000,
            **more,
        }
        return new_message(make_accepted(envelope, data, self.intake.new_id()))

    def accept(self, *to: bytes, **more: Any) -> Message:
        """A message that is in the journal, and ours."""
        message = self.make(*to, **more)
        self.intake.submit(message, self.receiver)
        self.settle()
        return message

    def settle(self) -> None:
        """Until nobody waits for a commit."""
        for journal in self.journals:
            while journal.waiting:
                poll = select.poll()
                poll.register(journal.event_fd, select.POLLIN)
                assert poll.poll(30_000), "the commit thread said nothing"
                journal.on_commit()

    def read(self) -> None:
        """What was asked for is read from disk."""
        for message, ready in self.loaded:
            message.buffer = load_message(self.dispatcher.journal(message).read_record(message))
            self.dispatcher.loaded(message, ready)
        self.loaded.clear()

    def wait(self, at: float, *to: bytes, **more: Any) -> Message:
        """A message that is ours and waits until `at`, its mail data on disk only."""
        message = self.make(*to, **more)
        self.dispatcher.journal(message).append(message, self.receiver)
        self.dispatcher.table.insert(message)
        message.state = MessageState.MESSAGE_SCHEDULED
        self.settle()
        self.dispatcher.wait(message, at)
        message.buffer = None
        return message

    def break_disk(self, journal: Journal) -> None:
        """The next write to the journal's segment fails, and has failed when this returns."""
        message = self.make()
        journal.append(message, self.receiver)
        self.settle()
        full = os.open("/dev/full", os.O_RDWR)
        os.dup2(full, journal.segments[-1].fileno)
        os.close(full)
        journal.append(self.make(), self.receiver)
        self.settle()
        assert journal.failed == errno.ENOSPC
        self.told.clear()
        self.dispatcher.drop(message)
        self.dispatcher.unrecorded.clear()

    def close(self) -> None:
        for journal in self.journals:
            journal.close()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.close()


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    nodes = []

    def make(**more: Any) -> Node:
        nodes.append(Node(tmp_path, **more))
        return nodes[-1]

    yield make
    for node in nodes:
        node.close()


def finish(node: Node, delivery: Delivery, *states: int) -> None:
    """Settle as the recorder would."""
    for index, state in zip(delivery.indices(), states, strict=True):
        delivery.message.set_recipient_state(index, state)
    node.dispatcher.finish(delivery)


# ---------------------------------------------------------------- ready queues


def test_connections_are_asked_for_as_mail_gathers(node: Node) -> None:
    queue = node.queue(limit=3)
    for asked in (1, 2, 3, 3, 3):
        node.dispatcher.send(node.make(), queue, [0])
        assert len(node.asked) == queue.connecting == asked
    assert queue.backlog == node.dispatcher.ready == 5


def test_one_connection_serves_until_more_waits_than_there_are(node: Node) -> None:
    queue = node.queue()
    queue.open = 2
    for asked in (0, 0, 1, 2):
        node.dispatcher.send(node.make(), queue, [0])
        assert len(node.asked) == asked
        queue.connecting = 0
        queue.open = 2 + asked


def test_grow_asks_for_one_more_while_mail_waits(node: Node) -> None:
    queue = node.queue(limit=3)
    queue.grow()
    assert node.asked == []
    queue.open = 1
    node.dispatcher.send(node.make(), queue, [0])
    assert node.asked == []
    queue.grow()
    assert len(node.asked) == 1
    queue.grow()  # one is on its way
    assert len(node.asked) == 1
    queue.connecting, queue.open = 0, 3
    queue.grow()  # the limit
    assert len(node.asked) == 1


def test_a_blocked_queue_opens_nothing_until_its_time(node: Node) -> None:
    queue = node.queue(limit=1)
    node.dispatcher.send(node.make(), queue, [0])
    assert node.asked == [queue]
    queue.connecting = 0
    queue.blocked_until = time.monotonic() + 3600
    queue.grow()
    queue.wake()
    assert len(node.asked) == 1
    queue.blocked_until = time.monotonic() - 1
    queue.wake()
    assert len(node.asked) == 2


def test_an_urgent_delivery_goes_first(node: Node) -> None:
    queue = node.queue(limit=0)
    bulk, normal, urgent = node.make(flags=MessageFlag.MESSAGE_BULK), node.make(), node.make(priority=5)
    for message in (bulk, normal, urgent):
        node.dispatcher.send(message, queue, [0])
    taken = []
    while (delivery := queue.take()) is not None:
        taken.append(delivery.message)
    assert taken == [urgent, normal, bulk]
    assert node.dispatcher.ready == 0


def test_no_limit_means_no_connection(node: Node) -> None:
    queue = node.queue(limit=0)
    node.dispatcher.send(node.make(), queue, [0])
    queue.grow()
    assert node.asked == []


def test_what_was_taken_and_not_begun_goes_first_again(node: Node) -> None:
    queue = node.queue()
    first, second = node.make(), node.make()
    for message in (first, second):
        node.dispatcher.send(message, queue, [0])
    delivery = queue.take()
    assert delivery is not None
    assert delivery.message is first
    assert delivery.transfers == 1
    assert delivery.seconds() >= 0
    assert queue.backlog == node.dispatcher.ready == 1
    queue.put_back(delivery)
    again, last = queue.take(), queue.take()
    assert again is delivery
    assert again.transfers == 2
    assert last is not None
    assert last.message is second
    assert queue.take() is None
    assert queue.backlog == node.dispatcher.ready == 0


def test_deliveries_are_handed_over_where_there_are_no_connections(node: Node) -> None:
    queue = node.hand(limit=0)
    queue.blocked_until = time.monotonic() + 3600
    messages = [node.make() for _ in range(3)]
    for message in messages:
        node.dispatcher.send(message, queue, [0])
    assert [delivery.message for delivery in node.handed] == messages
    assert queue.backlog == 0


def test_a_stopped_dispatcher_moves_nothing(node: Node) -> None:
    queue = node.hand()
    node.dispatcher.stopped = True
    node.dispatcher.send(node.make(), queue, [0])
    queue.wake()
    queue.grow()
    assert node.handed == []
    assert queue.take() is None
    node.dispatcher.stopped = False
    queue.wake()
    assert len(node.handed) == 1


def test_redirect(node: Node) -> None:
    waiting, queue = node.queue(), node.hand()
    node.dispatcher.send(node.make(b"a@example.net", b"b@example.net"), waiting, [1])
    delivery = waiting.take()
    assert delivery is not None
    node.dispatcher.redirect(delivery, queue)
    assert node.handed == [delivery]
    assert delivery.queue is queue
    assert delivery.indices() == [1]
    assert delivery.transfers == 1
    assert delivery.message.outstanding == 1


# ---------------------------------------------------------------- the way of a message


def test_a_domain_that_is_known_needs_no_placing(node: Node) -> None:
    queue = node.hand()
    node.dispatcher.remember(b"example.net", queue)
    for path in (b"a@example.net", b"B@EXAMPLE.NET", b'"a@b"@Example.Net'):
        message = node.make(path)
        node.dispatcher.adopt(message)
        assert node.handed.pop().message is message
    assert node.placed == []
    for paths in (
        [b"a@sub.example.net"],
        [b"a@example.ne"],
        [b"a@example.net", b"b@example.net"],
        [b"a@" + b"x" * 256],
    ):
        node.dispatcher.adopt(node.make(*paths))
    assert len(node.placed) == 4
    assert node.handed == []


def test_a_domain_whose_names_are_too_old_is_placed_again(node: Node) -> None:
    queue = node.hand(expires=time.monotonic() - 1)
    node.dispatcher.remember(b"example.net", queue)
    message = node.make()
    node.dispatcher.adopt(message)
    assert node.placed == [message]


@pytest.mark.parametrize("flag", [MessageFlag.MESSAGE_REQUIRETLS, MessageFlag.MESSAGE_TLS_REQUIRED_NO])
def test_what_asks_for_tls_of_its_own_never_takes_the_way_of_its_domain(node: Node, flag: int) -> None:
    """Neither when it comes, nor from the scheduled queue that it shares with the rest, nor held up by them or they by
    it."""
    usual = node.queue(limit=0)
    own = node.queue(limit=0)
    node.dispatcher.remember(b"example.net", usual)
    node.dispatcher.place = lambda message: (node.placed.append(message), node.dispatcher.send(message, own, [0]))
    fresh, plain = node.make(flags=flag), node.make()
    for message in (fresh, plain):
        node.dispatcher.adopt(message)
    assert node.placed == [fresh]
    assert [queue.backlog for queue in (usual, own)] == [1, 1]
    waiting, beside = node.make(flags=flag), node.make()
    node.dispatcher.stopped = True  # so that they wait in their domain's scheduled queue
    for message in (waiting, beside):
        node.dispatcher.adopt(message)
    assert node.placed == [fresh]
    node.dispatcher.stopped = False
    node.dispatcher.tick()
    assert node.placed == [fresh, waiting]
    assert [queue.backlog for queue in (usual, own)] == [2, 2]
    own.block(60, b"its TLS is no good")
    assert own.backlog == 0
    later = node.make()
    node.dispatcher.adopt(later)
    assert usual.backlog == 3  # the domain itself is not left alone


def test_a_message_is_adopted_once(node: Node) -> None:
    message = node.make()
    node.dispatcher.adopt(message)
    node.dispatcher.adopt(message)
    assert node.placed == [message]
    assert len(node.dispatcher.table) == 1


def test_a_message_that_cannot_be_placed_is_reconsidered(node: Node) -> None:
    message = node.make()
    node.dispatcher.adopt(message)
    assert node.rounds == [message]


# ---------------------------------------------------------------- room


def test_what_a_next_hop_has_no_room_for_waits_and_is_taken_in_when_there_is(node: Node) -> None:
    queue = node.queue(limit=0)
    node.dispatcher.remember(b"example.net", queue)
    node.dispatcher.queue_limit = 4
    messages = [node.make() for _ in range(9)]
    for message in messages:
        node.dispatcher.adopt(message)
    assert (queue.backlog, queue.attached, len(node.dispatcher.schedule)) == (4, 1, 5)
    found = node.dispatcher.schedule.queue(messages[-1])
    assert found is not None
    assert found.waits_for_room
    assert [message.state for message in messages[4:]] == [MessageState.MESSAGE_SCHEDULED] * 5
    taken = []
    while (delivery := queue.take()) is not None:
        assert queue.backlog <= 4
        taken.append(delivery.message)
    assert taken == messages
    assert (queue.backlog, queue.attached, node.dispatcher.ready) == (0, 0, 0)
    later = node.make()
    node.dispatcher.adopt(later)
    assert later.state == MessageState.MESSAGE_READY


def test_one_next_hop_does_not_fill_the_queues_of_all(node: Node) -> None:
    slow, other = node.queue(limit=0), node.hand()
    node.dispatcher.remember(b"slow.example", slow)
    node.dispatcher.remember(b"example.net", other)
    node.dispatcher.ready_limit = 80
    messages = [node.make(b"a@slow.example") for _ in range(40)]
    for message in messages:
        node.dispatcher.adopt(message)
    assert slow.backlog == 9  # an eighth of the room that is left
    message = node.make(b"b@example.net")
    node.dispatcher.adopt(message)
    assert node.handed[0].message is message


def test_many_slow_next_hops_leave_room_for_one_more(node: Node) -> None:
    node.dispatcher.ready_limit = 40
    slow = [node.queue(limit=0) for _ in range(12)]
    for number, queue in enumerate(slow):
        node.dispatcher.remember(b"%d.example" % number, queue)
        for _ in range(20):
            node.dispatcher.adopt(node.make(b"a@%d.example" % number))
    assert all(4 <= queue.backlog <= 5 for queue in slow)
    assert node.dispatcher.ready <= 80
    other = node.hand()
    node.dispatcher.remember(b"example.net", other)
    message = node.make()
    node.dispatcher.adopt(message)
    assert node.handed[0].message is message


def test_tenants_share_a_next_hop_by_weight_and_their_domains_take_turns(node: Node) -> None:
    queue = node.queue(limit=0)
    domains = (b"a.example", b"b.example")
    for domain in domains:
        node.dispatcher.remember(domain, queue)
    node.dispatcher.queue_limit = 8
    node.dispatcher.weights[b"large"] = 3
    for _ in range(8):
        node.dispatcher.adopt(node.make(b"x@a.example"))
    data = b"x: y\r\n\r\n" + b"z" * 66_000  # a message a turn, for weight 1
    for tenant in (b"small", b"large"):
        for domain in domains:
            for _ in range(30):
                node.dispatcher.adopt(node.make(b"x@" + domain, data=data, tenant=tenant))
    taken = [queue.take() for _ in range(88)][8:]
    tenants = [delivery.message.loaded.envelope()["tenant"] for delivery in taken if delivery]
    assert 55 <= tenants.count(b"large") <= 65  # three of four
    places = [delivery.message.loaded.recipient(0)[0] for delivery in taken if delivery]
    assert abs(places.count(b"x@a.example") - places.count(b"x@b.example")) <= 4


def test_fresh_mail_goes_before_what_was_tried(node: Node) -> None:
    queue = node.queue(limit=0)
    node.dispatcher.remember(b"example.net", queue)
    node.dispatcher.queue_limit = 4
    retry = node.make()
    retry.set_attempts(1)
    node.dispatcher.table.insert(retry)
    node.dispatcher.wait(retry, time.time() - 5)
    for _ in range(4):
        node.dispatcher.adopt(node.make())
    fresh = node.make()
    node.dispatcher.adopt(fresh)
    node.dispatcher.tick()
    taken = [delivery.message for _ in range(6) if (delivery := queue.take())]
    assert taken[4:] == [fresh, retry]


def test_transactional_mail_does_not_wait_behind_bulk_mail(node: Node) -> None:
    queue = node.queue(limit=0)
    node.dispatcher.remember(b"example.net", queue)
    node.dispatcher.queue_limit = 4
    for _ in range(10):
        node.dispatcher.adopt(node.make(flags=MessageFlag.MESSAGE_BULK))
    queue.take()
    urgent = node.make()
    node.dispatcher.adopt(urgent)
    delivery = queue.take()
    assert delivery is not None
    assert delivery.message is urgent


# ---------------------------------------------------------------- time


def test_tick_takes_what_is_due_and_no_more(node: Node) -> None:
    queue = node.queue(limit=0)
    node.dispatcher.remember(b"example.net", queue)
    node.dispatcher.remember(b"example.org", queue)
    now = time.time()
    due = [node.wait(now - 5), node.wait(now - 3), node.wait(now - 4, b"a@example.org")]
    node.wait(now + 3600)
    node.dispatcher.stopped = True
    assert node.dispatcher.tick() == 0
    node.dispatcher.stopped = False
    assert node.dispatcher.tick(most=1) == 1
    assert {message for message, _ in node.loaded} == set(due[:2])
    assert node.dispatcher.tick() == 1
    assert node.dispatcher.tick() == 0
    assert queue.loading == node.dispatcher.loading == 3
    node.read()
    assert (queue.backlog, queue.loading, len(node.dispatcher.schedule)) == (3, 0, 1)


def test_tick_gives_way_to_the_loop(node: Node) -> None:
    queue = node.queue(limit=0)
    for number in range(5):
        node.dispatcher.remember(b"%d.example" % number, queue)
        node.wait(0.0, b"a@%d.example" % number)
    assert [node.dispatcher.tick(most_s=-1) for _ in range(6)] == [1, 1, 1, 1, 1, 0]


def test_a_released_time_in_the_future_is_waited_for(node: Node) -> None:
    node.dispatcher.remember(b"example.net", node.hand())
    at = int(time.time()) + 3600
    message = node.accept(hold_until=at)
    assert (message.state, message.next_attempt, node.handed) == (MessageState.MESSAGE_SCHEDULED, at, [])
    assert message.buffer is None  # it will not go soon
    past = node.accept(hold_until=int(time.time()) - 1)
    assert node.handed[0].message is past


def test_mail_whose_way_is_not_known_finds_it_one_first_then_more(node: Node) -> None:
    for _ in range(5):
        node.wait(0.0)
    assert node.dispatcher.tick() == 1
    assert [ready for _, ready in node.loaded] == [None]
    assert node.dispatcher.tick() == 0  # not before the first has had time to find the way
    node.read()
    assert len(node.placed) == 1
    assert len(node.dispatcher.schedule) == 4


def test_what_is_unusual_is_held_until_it_is_released(node: Node) -> None:
    node.dispatcher.remember(b"example.net", node.hand())
    message = node.accept(flags=MessageFlag.MESSAGE_UNUSUAL)
    assert (message.state, node.handed, message.buffer) == (MessageState.MESSAGE_HELD, [], None)
    node.dispatcher.release(message)
    assert message.state == MessageState.MESSAGE_SCHEDULED
    assert not message.flags & MessageFlag.MESSAGE_UNUSUAL
    assert message.next_attempt <= time.time()


def test_a_release_does_not_pass_the_limit_of_the_sender(node: Node) -> None:
    at = int(time.time()) + 3600
    both = MessageFlag.MESSAGE_UNUSUAL | MessageFlag.MESSAGE_OVER_QUOTA
    message = node.accept(flags=both, hold_until=at)
    assert message.state == MessageState.MESSAGE_HELD
    node.dispatcher.release(message)
    assert (message.state, message.next_attempt) == (MessageState.MESSAGE_SCHEDULED, at)
    # an operator who says "now" means it
    assert node.dispatcher.retry_now(message)
    assert message.next_attempt <= time.time()


def test_what_is_over_the_limit_goes_by_itself(node: Node) -> None:
    node.dispatcher.remember(b"example.net", node.queue(limit=0))
    at = int(time.time()) + 1
    message = node.accept(flags=MessageFlag.MESSAGE_OVER_QUOTA, hold_until=at)
    assert (message.state, message.next_attempt) == (MessageState.MESSAGE_SCHEDULED, at)
    node.dispatcher.wait(message, time.time() - 1)  # its time has come
    assert node.dispatcher.tick() == 1
    assert message.state in (MessageState.MESSAGE_READY, MessageState.MESSAGE_SCHEDULED)
    assert node.dispatcher.loading + node.dispatcher.ready == 1


def test_a_message_waits_for_the_release_that_was_asked_for(node: Node) -> None:
    release = int(time.time()) + 3600
    held, past = node.accept(hold_until=release), node.accept(hold_until=release - 7200)
    assert node.placed == [past]
    assert (held.state, held.next_attempt) == (MessageState.MESSAGE_SCHEDULED, release)
    # expiry, warnings and the age in events count from the release
    assert held.received_us == release * 1_000_000
    assert past.received_us < time.time_ns() // 1000
    assert node.dispatcher.tick() == 0


def test_mail_data_leaves_the_memory_when_it_is_short(node: Node) -> None:
    queue = node.queue(limit=0)
    node.dispatcher.remember(b"example.net", queue)
    node.dispatcher.queue_limit = 1
    node.accept()
    kept, dropped = node.make(data=b"x" * 50_000), node.make(data=b"y" * 50_000)
    node.intake.submit(kept, None)
    node.settle()
    node.dispatcher.memory_soft_octets = 1
    gc.collect()
    before = memory_octets()
    node.intake.submit(dropped, None)
    node.settle()
    assert kept.buffer is not None
    assert dropped.buffer is None
    assert before - memory_octets() > 50_000
    # when its turn comes it is read from disk
    for _ in range(3):
        queue.take()
    assert node.loaded == [(dropped, queue)]
    node.read()
    assert dropped.loaded.mail_data() == b"y" * 50_000
    delivery = queue.take()
    assert delivery is not None
    assert delivery.message is dropped


def test_nothing_is_read_from_disk_while_memory_is_short(node: Node) -> None:
    queue = node.queue(limit=0)
    node.dispatcher.remember(b"example.net", queue)
    node.accept()
    node.wait(0.0)
    node.dispatcher.memory_load_octets = 1
    assert node.dispatcher.tick() == 0
    assert node.loaded == []
    queue.take()
    assert node.dispatcher.tick() == 1  # when nothing is under way, something must go
    assert len(node.loaded) == 1


def test_what_cannot_be_read_makes_room_for_others(node: Node) -> None:
    queue = node.queue(limit=0)
    node.dispatcher.remember(b"example.net", queue)
    node.dispatcher.queue_limit = 1
    broken, other = node.wait(1.0), node.wait(2.0)
    node.dispatcher.tick()
    assert [message for message, _ in node.loaded] == [broken]
    node.loaded.clear()
    node.dispatcher.wait(broken, time.time() + 3600)
    node.dispatcher.loaded(broken, queue)
    assert [message for message, _ in node.loaded] == [other]


# ---------------------------------------------------------------- next hops that cannot be reached


def test_a_dead_next_hop_gives_everything_back_untouched_but_the_probe(node: Node) -> None:
    queue = node.queue(limit=1)
    node.dispatcher.remember(b"a.example", queue)
    node.dispatcher.remember(b"b.example", queue)
    messages = [node.accept(b"x@a.example"), node.accept(b"x@b.example"), node.accept(b"y@a.example")]
    probe = queue.take()
    assert probe is not None
    queue.failures = 1
    queue.block(100.0, b"connection refused")
    finish(node, probe, DEFERRED)
    assert node.rounds == [messages[0]]
    assert (queue.backlog, node.dispatcher.ready, len(node.dispatcher.schedule)) == (0, 0, 2)
    for message in messages[1:]:
        assert (message.attempts, message.outstanding, message.state) == (0, 0, MessageState.MESSAGE_SCHEDULED)
        found = node.dispatcher.schedule.queue(message)
        assert found is not None
        assert found.reason == b"connection refused"
        assert 90 < found.not_before - time.time() <= 100
    # what comes now waits with them, and nothing is opened
    asked = len(node.asked)
    late = node.accept(b"z@b.example")
    assert late.state == MessageState.MESSAGE_SCHEDULED
    assert len(node.asked) == asked
    assert node.dispatcher.tick() == 0


def test_a_dead_next_hop_is_probed_with_one_message_then_taken_up_in_full(node: Node) -> None:
    queue = node.queue(limit=1)
    for number in range(3):
        node.dispatcher.remember(b"%d.example" % number, queue)
    queue.failures = 1
    queue.block(0.0, b"connection refused")
    queue.connecting = 0
    for number in range(9):
        node.wait(0.0, b"a@%d.example" % (number % 3))
    assert node.dispatcher.tick(most_s=60) == 3
    assert (len(node.loaded), queue.attached) == (1, 3)
    node.read()
    assert (queue.backlog, len(node.asked)) == (1, 1)
    node.dispatcher.grow()
    assert len(node.asked) == 1
    # the connection is open
    queue.failures, queue.connecting, queue.open = 0, 0, 1
    assert queue.take() is not None
    assert len(node.loaded) == 8


def test_mail_to_several_domains_goes_to_those_that_can_be_reached(node: Node) -> None:
    dead, well = node.queue(), node.hand()
    dead.failures = 1
    dead.block(100.0, b"connection refused")

    def place(message: Message) -> None:
        for index in message.unfinished():
            node.dispatcher.send(message, dead if index == 0 else well, [index])

    node.dispatcher.place = place
    message = node.accept(b"a@dead.example", b"b@well.example")
    assert (dead.backlog, message.outstanding) == (0, 1)
    finish(node, node.handed[0], DELIVERED)
    assert node.rounds == [message]
    # now only the dead one is left: it waits for the probe's time, and that is no attempt
    node.rounds.clear()
    node.dispatcher.wait(message, 0.0)
    node.dispatcher.tick()
    assert (node.rounds, message.state) == ([], MessageState.MESSAGE_SCHEDULED)
    assert 50 < message.next_attempt - time.time() <= 60


def test_the_first_message_for_a_next_hop_at_rest_waits_with_the_rest(node: Node) -> None:
    node.dispatcher.suspend("site", b"host", 0.0, "maintenance")
    queue = node.queue()
    assert queue.rests

    def place(message: Message) -> None:
        node.dispatcher.remember(b"example.net", queue)
        node.dispatcher.send(message, queue, [0])

    node.dispatcher.place = place
    first, second = node.accept(), node.accept()
    assert node.dispatcher.tick() == 0
    node.dispatcher.resume("site", b"host")
    queue.apply_suspensions()
    assert node.dispatcher.tick() == 1
    assert queue.backlog == 2
    assert {first.state, second.state} == {MessageState.MESSAGE_READY}


def test_names_that_cannot_be_had_are_asked_for_once_an_interval(node: Node) -> None:
    first, second = node.accept(), node.accept()
    for message in (first, second):
        node.dispatcher.wait(message, 0.0)
    node.dispatcher.leave_alone(first, 50.0, b"no answer")
    assert node.dispatcher.failures_of(second) == 1
    assert node.dispatcher.tick() == 0
    found = node.dispatcher.schedule.queue(second)
    assert found is not None
    assert found.reason == b"no answer"


# ---------------------------------------------------------------- operators


def test_a_waiting_message_is_held_and_released(node: Node) -> None:
    node.dispatcher.remember(b"example.net", node.hand())
    message = node.wait(0.0)
    assert node.dispatcher.hold(message)
    assert node.dispatcher.tick() == 0
    assert message.state == MessageState.MESSAGE_HELD
    assert not node.dispatcher.retry_now(message)
    node.dispatcher.release(message)
    assert node.dispatcher.tick() == 1


def test_a_message_under_way_is_held_when_it_comes_back(node: Node) -> None:
    node.dispatcher.remember(b"example.net", node.hand())
    message = node.accept()
    assert not node.dispatcher.hold(message)
    node.dispatcher.wait(message, 0.0)
    assert message.state == MessageState.MESSAGE_HELD
    assert len(node.dispatcher.schedule) == 0


def test_retry_now_passes_by_the_time_and_the_rest_of_the_next_hop(node: Node) -> None:
    queue = node.queue(limit=0)
    node.dispatcher.remember(b"example.net", queue)
    queue.failures = 3
    queue.block(1000.0, b"connection refused")
    message = node.wait(time.time() + 3600)
    node.dispatcher.leave_alone(message, 1000.0, b"connection refused")
    assert node.dispatcher.retry_now(message)
    assert node.dispatcher.tick() == 1
    assert [found for found, _ in node.loaded] == [message]


def test_retry_now_passes_by_the_rest_of_a_next_hop_that_only_some_of_a_domain_takes(node: Node) -> None:
    queue = node.queue()
    queue.failures = 3
    queue.block(1000.0, b"connection refused")
    node.dispatcher.place = lambda message: node.dispatcher.send(message, queue, [0])
    messages = [node.accept() for _ in range(2)]
    # nothing was tried: each waits by itself, and the queue of their domain is free for others
    scheduled = node.dispatcher.schedule.queue(messages[0])
    assert scheduled is not None
    assert scheduled.not_before == 0
    assert [message.next_attempt - time.time() > 50 for message in messages] == [True, True]
    assert node.dispatcher.retry_now(messages[0])
    assert node.dispatcher.tick() == 1
    node.read()
    assert (queue.backlog, queue.rests, len(node.asked)) == (1, False, 1)
    # it fails again: the next hop is left alone as before
    delivery = queue.take()
    assert delivery is not None
    queue.block(1000.0, b"connection refused")
    finish(node, delivery, DEFERRED)
    node.dispatcher.wait(messages[0], 0.0)
    node.dispatcher.tick()
    node.read()
    assert (queue.backlog, queue.rests) == (0, True)


def test_a_message_waits_by_itself_as_long_as_its_next_hop_is_probed(node: Node) -> None:
    queue = node.queue()
    queue.failures = 3
    node.dispatcher.place = lambda message: node.dispatcher.send(message, queue, [0])
    probe, other = node.accept(), node.accept()
    assert (queue.backlog, probe.state) == (1, MessageState.MESSAGE_READY)
    assert 5 < other.next_attempt - time.time() <= 8


def test_mail_that_is_too_large_for_its_next_hop_is_placed(node: Node) -> None:
    queue = node.queue()
    queue.largest_octets = 2 * len(DATA)
    node.dispatcher.remember(b"example.net", queue)
    small = node.accept()
    assert (queue.backlog, node.placed, small.state) == (1, [], MessageState.MESSAGE_READY)
    large = node.accept(data=DATA * 3)
    assert (queue.backlog, node.placed) == (1, [large])


def test_a_suspended_domain_keeps_fresh_mail_and_lets_it_go_afterwards(node: Node) -> None:
    node.dispatcher.remember(b"example.net", node.hand())
    node.dispatcher.suspend("domain", b"example.net", 0.0, "complaints")
    message = node.accept()
    assert (message.state, node.handed) == (MessageState.MESSAGE_SCHEDULED, [])
    assert node.dispatcher.tick() == 0
    assert node.dispatcher.resume("domain", b"example.net")
    assert node.dispatcher.tick() == 1
    assert [delivery.message for delivery in node.handed] == [message]


@pytest.mark.parametrize(("kind", "name"), [("site", b"host"), ("source", b"default")])
def test_a_suspended_site_or_source_rests_and_comes_back(node: Node, kind: str, name: bytes) -> None:
    queue = node.queue(limit=0)
    node.dispatcher.remember(b"example.net", queue)
    messages = [node.accept() for _ in range(3)]
    assert queue.backlog == 3
    node.dispatcher.suspend(kind, name, 0.0, "maintenance")
    queue.apply_suspensions()
    assert (queue.backlog, queue.rests, queue.take()) == (0, True, None)
    found = node.dispatcher.schedule.queue(messages[0])
    assert found is not None
    assert found.reason == b"suspended: %s %s: maintenance" % (kind.encode(), name)
    assert node.dispatcher.tick() == 0
    assert node.dispatcher.resume(kind, name)
    queue.apply_suspensions()
    assert node.dispatcher.tick() == 1
    assert queue.backlog == 3


# ---------------------------------------------------------------- other routes


def test_what_waits_in_a_ready_queue_that_retires_finds_its_way_again(node: Node) -> None:
    queue = node.queue(limit=1)
    node.dispatcher.remember(b"example.net", queue)
    messages = [node.accept() for _ in range(3)]
    busy = queue.take()
    assert busy is not None
    node.dispatcher.by_domain.clear()
    queue.retire()
    assert (queue.retired, queue.backlog, queue.attached) == (True, 0, 0)
    assert [message.state for message in messages] == [
        MessageState.MESSAGE_READY,
        MessageState.MESSAGE_SCHEDULED,
        MessageState.MESSAGE_SCHEDULED,
    ]
    assert all(message.attempts == 0 for message in messages)
    node.dispatcher.tick()
    assert set(node.placed) <= set(messages[1:])
    assert node.placed
    # what was under way and is handed back does not go the old way again
    queue.put_back(busy)
    assert (queue.backlog, node.asked) == (0, [queue])
    assert messages[0].state == MessageState.MESSAGE_SCHEDULED
    assert messages[0].attempts == 0


def test_what_waits_for_room_in_a_ready_queue_that_retires_goes_back_to_the_timer(node: Node) -> None:
    queue = node.queue(limit=0)
    queue.failures = 1  # room for one
    node.dispatcher.remember(b"example.net", queue)
    messages = [node.wait(time.time() - 1) for _ in range(3)]
    assert node.dispatcher.tick() == 1
    assert queue.attached == 1
    other = node.hand()
    node.dispatcher.by_domain.clear()
    queue.retire()
    assert queue.attached == 0
    node.dispatcher.remember(b"example.net", other)
    node.read()  # the one that was being read for the old way
    for _ in messages:
        node.dispatcher.tick()
        node.read()
    assert {delivery.message for delivery in node.handed} | set(node.placed) == set(messages)
    assert queue.backlog == 0


def test_a_delivery_that_waited_for_names_is_given_back(node: Node) -> None:
    node.dispatcher.place = lambda message: node.dispatcher.send(message, node.hand(), message.unfinished())
    message = node.accept()
    (delivery,) = node.handed
    node.dispatcher.give_back(delivery)
    assert (message.state, message.attempts) == (MessageState.MESSAGE_SCHEDULED, 0)
    assert node.dispatcher.tick() == 1
    assert len(node.handed) == 2


def test_weights_that_change_hold_for_who_waits_already(node: Node) -> None:
    queue = node.queue(limit=0)
    queue.failures = 1
    node.dispatcher.remember(b"example.net", queue)
    sizes = {b"one": 0, b"two": 0}
    for tenant in sizes:
        for _ in range(40):
            node.wait(time.time() - 1, tenant=tenant, data=DATA * 800)
    node.dispatcher.tick()
    node.dispatcher.tick()
    node.dispatcher.weights[b"two"] = 4
    queue.reweigh()
    for _ in range(30):
        node.read()
        taken = queue.take()
        assert taken is not None
        sizes[taken.mail_buffer().envelope()["tenant"]] += 1
        queue.wake()
    assert sizes[b"two"] > sizes[b"one"] + 5


# ---------------------------------------------------------------- the end of their time


def test_the_sweep_finds_what_is_over_and_what_is_late(node: Node) -> None:
    node.dispatcher.set_retry_schedules([1000.0], [100.0])
    now_us = time.time_ns() // 1000
    over = node.wait(0.0, received_us=now_us - 1_100_000_000)
    late = node.wait(time.time() + 50, received_us=now_us - 200_000_000)
    late.set_attempts(1)
    node.wait(0.0, received_us=now_us - 50_000_000)
    held = node.wait(0.0, received_us=now_us - 5_000_000_000)
    node.dispatcher.hold(held)
    node.wait(time.time() + 50, received_us=now_us + 50_000_000)  # its sender wants it later: it counts from then
    # its time was made shorter: it has an attempt left
    node.wait(time.time() + 500, received_us=now_us - 1_100_000_000)
    found_over, found_late = node.dispatcher.sweep(node.dispatcher.table.capacity)
    assert (found_over, found_late) == ([over], [late])
    late.warned = True
    assert node.dispatcher.sweep(node.dispatcher.table.capacity) == ([over], [])
    assert node.dispatcher.withdraw(over)
    assert not node.dispatcher.withdraw(over)
    assert node.dispatcher.sweep(node.dispatcher.table.capacity) == ([], [])


def test_what_is_put_off_again_and_again_ends_all_the_same(node: Node) -> None:
    node.dispatcher.set_retry_schedules([1000.0], [0.0])
    over = node.wait(time.time() + 55, received_us=time.time_ns() // 1000 - 1_100_000_000)  # one of its hosts is dead
    assert node.dispatcher.sweep(node.dispatcher.table.capacity) == ([over], [])
    assert node.dispatcher.withdraw(over)


def test_a_sweep_over_the_soft_mark_takes_mail_data_from_memory(node: Node) -> None:
    node.dispatcher.set_retry_schedules([1000.0], [0.0])
    queue = node.queue(limit=0)
    node.dispatcher.remember(b"example.net", queue)
    node.dispatcher.queue_limit = 1
    ready, waits = node.accept(), node.accept()
    node.dispatcher.sweep(node.dispatcher.table.capacity)
    assert waits.buffer is not None
    node.dispatcher.memory_soft_octets = 1
    node.dispatcher.sweep(node.dispatcher.table.capacity)
    assert (waits.buffer, waits.state) == (None, MessageState.MESSAGE_SCHEDULED)
    assert ready.buffer is not None


def test_a_sweep_in_parts_sees_everything_once(node: Node) -> None:
    node.dispatcher.set_retry_schedules([1.0], [0.0])
    messages = {node.wait(0.0, received_us=1_000_000 * number) for number in range(1, 40)}
    found: list[Message] = []
    for _ in range(node.dispatcher.table.capacity // 64):
        found += node.dispatcher.sweep(64)[0]
    assert len(found) == len(messages)
    assert set(found) == messages


def test_mail_of_class_memory_stays_in_memory(node: Node) -> None:
    node.dispatcher.memory_soft_octets = 1
    node.dispatcher.stopped = True
    message = node.make(durability=2)
    node.intake.submit(message)
    assert message.state == MessageState.MESSAGE_SCHEDULED
    assert message.buffer is not None


def test_mail_of_class_memory_is_written_when_it_will_not_be_tried_at_once(node: Node) -> None:
    queue = node.queue()
    node.dispatcher.remember(b"example.net", queue)
    node.dispatcher.remember(b"example.org", node.queue(limit=0))
    ready = node.make(durability=2)
    node.intake.submit(ready)
    assert ready.segment is None
    queue.failures = 1
    queue.block(100.0, b"connection refused")
    late = node.make(durability=2)
    node.intake.submit(late)
    node.dispatcher.suspend("domain", b"example.org", 0.0, "complaints")
    suspended = node.make(b"a@example.org", durability=2)
    node.intake.submit(suspended)
    node.settle()
    for message in (ready, late, suspended):
        assert message.state == MessageState.MESSAGE_SCHEDULED
        assert load_message(node.journals[0].read_record(message)).mail_data() == DATA


# ---------------------------------------------------------------- rounds


def test_a_message_with_several_next_hops(node: Node) -> None:
    queues = [node.hand(), node.hand()]

    def place(message: Message) -> None:
        node.dispatcher.send(message, queues[0], [0, 2])
        node.dispatcher.send(message, queues[1], [1])

    node.dispatcher.place = place
    message = node.accept(b"a@one.example", b"b@two.example", b"c@one.example")
    assert message.outstanding == 2
    one, two = node.handed
    assert (one.indices(), two.indices()) == ([0, 2], [1])
    finish(node, one, DELIVERED, DEFERRED)
    assert (node.partly, node.rounds) == ([message], [])
    finish(node, two, DELIVERED)
    assert node.rounds == [message]
    assert message.unfinished() == [2]
    # the next round is for the one that is left
    node.dispatcher.place = lambda message: node.dispatcher.send(message, queues[0], message.unfinished())
    node.dispatcher.wait(message, 0.0)
    node.dispatcher.tick()
    assert node.handed[-1].indices() == [2]
    finish(node, node.handed[-1], FAILED)
    assert message.state == MessageState.MESSAGE_GONE
    assert len(node.dispatcher.table) == 0


def test_deliveries_that_are_over_while_the_message_is_placed(node: Node) -> None:
    queue = ReadyQueue(
        node.dispatcher,
        b"discard:",
        b"discard",
        hand_over=lambda delivery: node.dispatcher.delivered_by_hand(delivery, 250, b"discarded"),
    )

    def place(message: Message) -> None:
        node.dispatcher.send(message, queue, [0])
        node.dispatcher.send(message, queue, [1])

    node.dispatcher.place = place
    message = node.accept(b"a@one.example", b"b@two.example")
    assert message.state == MessageState.MESSAGE_GONE
    assert node.partly == [message]  # between the two
    assert node.rounds == []
    assert node.counters.value(Slot.DELIVERY_DELIVERED_MESSAGES) == 1
    assert node.counters.value(Slot.DELIVERY_DELIVERED_RECIPIENTS) == 2


def test_a_message_dropped_while_it_is_under_way_stays_dropped(node: Node) -> None:
    queue = node.hand()
    node.dispatcher.place = lambda message: node.dispatcher.send(message, queue, [0, 1])
    message = node.accept(b"a@one.example", b"b@one.example")
    node.dispatcher.drop(message)
    node.dispatcher.drop(message)
    finish(node, node.handed[0], DEFERRED, DELIVERED)
    assert (node.rounds, node.partly) == ([], [])
    assert len(node.dispatcher.table) == 0
    assert node.counters.value(Slot.DELIVERY_DELIVERED_MESSAGES) == 0


def test_done_is_written_when_all_are_final(node: Node) -> None:
    queue = node.hand()
    node.dispatcher.remember(b"example.net", queue)
    message = node.accept()
    assert node.told == [0]
    segment = message.segment
    assert segment is not None
    assert segment.alive == 1
    node.dispatcher.delivered_by_hand(node.handed[0], 250, b"ok")
    assert segment.alive == 0
    assert message.segment is None
    assert message.buffer is None
    assert (len(node.dispatcher.table), len(node.dispatcher.schedule)) == (0, 0)


def test_gauges(node: Node) -> None:
    node.dispatcher.remember(b"example.net", node.queue(limit=0))
    messages = [node.make(b"a@example.net"), node.make(b"a@example.net"), node.make(b"a@example.net", b"b@example.net")]
    for message in messages[:2]:
        node.dispatcher.adopt(message)
    node.dispatcher.stopped = True
    node.dispatcher.adopt(messages[2])
    node.dispatcher.publish_gauges()
    values = [
        node.counters.value(slot)
        for slot in (Slot.QUEUE_MESSAGES, Slot.QUEUE_RECIPIENTS, Slot.DELIVERY_READY, Slot.DELIVERY_SCHEDULED)
    ]
    assert values == [3, 4, 2, 1]
    assert node.counters.value(Slot.QUEUE_OCTETS) == sum(message.record_octets for message in messages)
    assert node.counters.value(Slot.QUEUE_MEMORY_OCTETS) == memory_octets()


def test_indices_of_a_delivery(node: Node) -> None:
    queue = node.hand()
    message = node.make(b"a@example.net", b"b@example.net", b"c@example.net")
    node.dispatcher.send(message, queue, [0, 1, 2])
    node.dispatcher.send(message, queue, [0, 2])
    assert [delivery.indices() for delivery in node.handed] == [[0, 1, 2], [0, 2]]
    assert [delivery.recipients for delivery in node.handed] == [3, 2]
    assert node.handed[1].mail_buffer().recipient(2)[0] == b"c@example.net"
    assert "discard" in repr(node.handed[0])
    assert "backlog=0" in repr(queue)


# ---------------------------------------------------------------- the journal


def in_flight(node: Node) -> list[int]:
    return list(read_in_flight(os.path.join(node.journals[0].folder, "in-flight")))


def test_a_message_is_in_flight_from_its_last_octets_to_its_outcome(node: Node) -> None:
    queue = Queue(node.journals[0])
    message = node.make()
    node.journals[0].append(message, node.receiver)
    node.settle()
    node.placed.clear()
    message.state = MessageState.MESSAGE_COMMITTING
    queue.messages["a"] = message
    queue.outcomes[message.id] = {}
    queue.dispatcher.adopt(message)
    host = queue.connect(PIPELINING)
    host.say(b"250 ok\r\n250 ok\r\n")
    assert in_flight(node) == []
    host.say(b"354 go\r\n")
    assert in_flight(node) == [message.id]
    host.say(b"250 ok\r\n")
    assert message.state == MessageState.MESSAGE_GONE
    node.journals[0].flush()
    poll = select.poll()
    poll.register(node.journals[0].event_fd, select.POLLIN)
    while in_flight(node):
        assert poll.poll(30_000)
        node.journals[0].on_commit()


def test_a_disk_that_fails_does_not_stop_what_is_in_memory(node: Node) -> None:
    queue = node.hand()
    node.dispatcher.remember(b"example.net", queue)
    messages = [node.accept(), node.accept()]
    segment = messages[0].segment
    assert segment is not None
    node.break_disk(node.journals[0])
    deliveries = [delivery for delivery in node.handed if delivery.message in messages]
    for delivery in deliveries:
        node.dispatcher.delivered_by_hand(delivery, 250, b"ok")
    assert len(node.dispatcher.table) == 0
    assert [message for message, _ in node.dispatcher.unrecorded] == messages
    alive = segment.alive
    node.dispatcher.tick()
    assert [message for message, _ in node.dispatcher.unrecorded] == messages
    assert node.journals[0].heal()
    node.dispatcher.tick()
    assert node.dispatcher.unrecorded == []
    assert alive - segment.alive == 2
    assert [message.segment for message in messages] == [None, None]


def test_persist_writes_a_message_of_class_memory(node: Node) -> None:
    node.dispatcher.remember(b"example.net", node.hand())
    message = node.make(durability=2)
    node.intake.submit(message, node.receiver)
    assert node.told == [0]
    assert message.segment is None
    assert node.dispatcher.persist(message)
    assert message.segment is not None
    node.settle()
    assert load_message(node.journals[0].read_record(message)).mail_data() == DATA
    assert node.dispatcher.persist(message)  # it is there already
    assert len(node.dispatcher.table) == 1


def test_persist_says_when_the_disk_takes_nothing(node: Node) -> None:
    node.break_disk(node.journals[0])
    message = node.make(durability=2)
    node.intake.submit(message)
    assert not node.dispatcher.persist(message)
    assert message.segment is None
    assert message.buffer is not None


# ---------------------------------------------------------------- intake


def test_all_mail_goes_to_one_journal_while_it_is_well(make_node: Callable[..., Node]) -> None:
    node = make_node(shards=3)
    assert {shard_of(node.intake.new_id()) for _ in range(10)} == {0}
    node.journals[0].full = True
    assert {shard_of(node.intake.new_id()) for _ in range(10)} == {1}
    node.break_disk(node.journals[1])
    assert {shard_of(node.intake.new_id()) for _ in range(10)} == {2}
    # the first is well again, and so is the third: it stays
    node.journals[0].full = False
    assert {shard_of(node.intake.new_id()) for _ in range(10)} == {2}
    assert node.intake.accepting
    message = node.accept()
    assert message.segment is not None
    assert os.path.dirname(message.segment.path) == node.journals[2].folder


@pytest.mark.parametrize(
    ("cause", "reply"),
    [
        ("full", b"452 4.3.1 Out of disk space for mail; try again later\r\n"),
        ("failed", b"451 4.3.0 Mail cannot be stored at the moment; try again later\r\n"),
    ],
)
def test_no_journal_takes_mail(node: Node, cause: str, reply: bytes) -> None:
    profile = ListenerProfile(hostname=b"relay.example.org", name=b"relay", client_policy=lambda address: (True, False))
    reception = Reception(node.counters, node.dispatcher.events, node.intake)
    session = reception.session(profile)
    transport = FakeTransport(session)
    session.connection_made(transport)  # type: ignore[arg-type]
    session.feed(b"HELO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nx: y\r\n")
    transport.take()
    if cause == "full":
        node.journals[0].full = True
    else:
        node.break_disk(node.journals[0])
    assert not node.intake.accepting
    session.feed(b".\r\nMAIL FROM:<a@b.example>\r\n")
    assert transport.take() == reply * 2
    assert node.counters.value(Slot.INGRESS_REJECTED_STORAGE) == 2
    if cause == "full":
        node.journals[0].full = False
    else:
        assert node.journals[0].heal()
    assert node.intake.accepting
    session.feed(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nx: y\r\n.\r\n")
    node.settle()
    assert transport.take().endswith(b" durability=fsync\r\n")
    transport.lose()


def test_mail_of_the_node_s_own_is_taken_when_that_of_clients_is_not(node: Node) -> None:
    profile = ListenerProfile(hostname=b"relay.example.org", name=b"relay", client_policy=lambda address: (True, False))
    memory = MemoryBudget(node.counters, 1 << 20)
    reception = Reception(node.counters, node.dispatcher.events, node.intake, memory)
    session = reception.session(profile)
    transport = FakeTransport(session)
    session.connection_made(transport)  # type: ignore[arg-type]
    ballast = MailBuffer(2 << 20)
    assert memory.refresh() == MemoryState.MEMORY_REFUSING
    session.feed(b"HELO c\r\nMAIL FROM:<a@b.example>\r\n")
    assert transport.take().endswith(b"452 4.3.1 Out of memory for mail; try again later\r\n")
    notification = node.accept()
    assert node.told == [0]
    assert node.placed == [notification]
    del ballast
    assert memory.refresh() == MemoryState.MEMORY_BELOW
    session.feed(b"MAIL FROM:<a@b.example>\r\n")
    assert transport.take() == b"250 2.1.0 Sender OK\r\n"
    transport.lose()


def test_a_sync_that_fails_is_told_to_the_client(node: Node) -> None:
    profile = ListenerProfile(hostname=b"relay.example.org", name=b"relay", client_policy=lambda address: (True, False))
    reception = Reception(node.counters, node.dispatcher.events, node.intake)
    node.accept()
    session = reception.session(profile)
    transport = FakeTransport(session)
    session.connection_made(transport)  # type: ignore[arg-type]
    full = os.open("/dev/full", os.O_RDWR)
    os.dup2(full, node.journals[0].segments[-1].fileno)
    os.close(full)
    session.feed(b"HELO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nx: y\r\n.\r\nNOOP\r\n")
    transport.take()
    node.settle()
    assert transport.take() == b"452 4.3.1 Out of disk space for mail; try again later\r\n250 2.0.0 OK\r\n"
    assert len(node.dispatcher.table) == 1  # the one before
    transport.lose()


def test_class_memory_is_answered_before_it_is_dispatched(node: Node) -> None:
    order: list[str] = []
    node.dispatcher.place = lambda message: order.append("placed")
    node.intake.submit(node.make(durability=2), CallbackReceiver(lambda message, error: order.append("told")))
    assert order == ["told", "placed"]


def test_nobody_needs_to_wait_for_a_commit(node: Node) -> None:
    message = node.make()
    node.intake.submit(message)
    node.settle()
    assert node.placed == [message]


# ---------------------------------------------------------------- splitting


def test_recipients_too_many_for_one_transaction_keep_the_message_under_way(node: Node) -> None:
    queue = Queue(node.journals[0])
    message = queue.mail("a", [b"%d@example.net" % i for i in range(5)])
    host: Host = queue.connect(PIPELINING, recipients_limit=2)
    assert message.outstanding == 2
    host.say(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n250 ok\r\n")
    assert message.outstanding == 2
    assert queue.partly == [message.id]
    host.say(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n250 ok\r\n")
    assert message.outstanding == 1
    host.say(b"250 ok\r\n250 ok\r\n354 go\r\n250 ok\r\n")
    assert message.state == MessageState.MESSAGE_GONE
    assert queue.rounds == []
    assert queue.outcome("a") == dict.fromkeys(range(5), "delivered")
