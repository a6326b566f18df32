"""A change of the configuration as the supervisor goes through it: all workers or none, whatever becomes of them."""

from __future__ import annotations

import os
import select
import socket
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from angarium.app import reload as module
from angarium.app.channel import Answer, Channel, Order, contents_of, pair
from angarium.app.reading import Reading, Source
from angarium.app.reload import Decision, Phase, Reload
from angarium.config.load import examine_text
from angarium.config.model import dump, load_dump
from angarium.config.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from angarium.config.address import ListenAddress
    from angarium.config.model import Config, Listener

BASE = """
[node]
hostname = "relay.example.org"
spool = "/spool"
workers = 2
[[listener]]
name = "relay"
listen = "127.0.0.1:25"
role = "relay"
relay_networks = ["127.0.0.0/8"]
"""
SECOND = """
[[listener]]
name = "second"
listen = "127.0.0.1:26"
role = "relay"
relay_networks = ["127.0.0.0/8"]
"""


def config_of(text: str) -> Config:
    examination = examine_text(text)
    assert examination.config is not None, examination.problems
    return examination.config


class FakeReader:
    """A process that says what the test has it say."""

    def __init__(self) -> None:
        read_fd, self._write_fd = os.pipe()
        self.stdout = os.fdopen(read_fd, "rb", buffering=0)
        self.returncode: int | None = None
        self.killed = False

    def say(self, octets: bytes) -> None:
        os.write(self._write_fd, octets)

    def end(self) -> None:
        os.close(self._write_fd)

    def kill(self) -> None:
        self.killed = True

    def wait(self, timeout: float | None = None) -> int:
        if timeout == 0 and not self.killed:
            raise subprocess.TimeoutExpired("reader", timeout)
        self.returncode = 1
        return 1


@dataclass(eq=False)
class FakeWorker:
    """A worker that answers what the test has it answer."""

    number: int
    channel: Channel | None = None
    theirs: Channel | None = None
    killed: bool = False
    files: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.channel, self.theirs = pair()

    @property
    def name(self) -> str:
        return f"worker {self.number}"

    def kill(self) -> None:
        self.killed = True

    def close(self) -> None:
        for end in (self.channel, self.theirs):
            assert end is not None
            end.close()
        for fd in self.files:
            os.close(fd)

    def orders(self) -> list[Order]:
        """What it was told since the last call."""
        assert self.theirs is not None
        found = []
        while select.select([self.theirs], [], [], 0)[0]:
            received = self.theirs.next_order()
            assert received is not None
            found.append(received[0])
            self.files += received[1]
        return found


class Node:
    """A supervisor's side without a supervisor."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, text: str = BASE) -> None:
        self.reader = FakeReader()
        monkeypatch.setattr(module, "start_reader", lambda source: self.reader)
        self.workers = [FakeWorker(number) for number in range(2)]
        self.decisions: list[Decision] = []
        self.bound: list[socket.socket] = []
        self.unable: OSError | None = None
        self.reload = Reload(
            3,
            Source("/etc/a.toml"),
            config_of(text),
            members=lambda: self.workers,
            workers=2,
            bind=self._bind,
            decided=self.decisions.append,
        )

    def _bind(self, listener: Listener | ListenAddress, worker: int, first: socket.socket | None) -> socket.socket:
        if self.unable is not None:
            raise self.unable
        self.bound.append(socket.socket())
        return self.bound[-1]

    def read(self, text: str, **more: Any) -> None:
        """The reader has read this."""
        self.reader.say(msgspec.msgpack.encode(Reading(dump(config_of(text)), (), "d1935", **more)))
        self.end_reader()

    def end_reader(self) -> None:
        self.reader.end()
        while self.reload.phase is Phase.READING:
            assert select.select(self.reload.files, [], [], 30)[0]
            self.reload.on_readable()

    def answer(self, number: int, op: str, errors: list[str] | None = None, reload: int = 3) -> None:
        self.reload.on_answer(self.workers[number], Answer(op, reload, errors or []))

    def problems(self) -> list[str]:
        assert self.reload.result is not None
        return [str(problem) for problem in self.reload.result.problems]


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    made = Node(monkeypatch)
    workers = made.workers
    yield made
    made.reader.stdout.close()
    for sock in made.bound:
        sock.close()
    for worker in workers:
        worker.close()


CHANGED = BASE.replace("relay.example.org", "other.example.org")


def test_all_prepare_then_all_commit(node: Node) -> None:
    node.read(CHANGED)
    assert [worker.orders() for worker in node.workers] == [[Order("prepare", 3)]] * 2
    for worker in node.workers:
        assert load_dump(contents_of(worker.files[0])) == config_of(CHANGED)
    node.answer(1, "prepared")
    assert node.reload.waiting_for == ["worker 0"]
    assert [worker.orders() for worker in node.workers] == [[], []]
    assert node.decisions == []
    node.answer(0, "prepared")
    assert [worker.orders() for worker in node.workers] == [[Order("commit", 3)]] * 2
    assert [decision.change.config for decision in node.decisions] == [config_of(CHANGED)]
    assert node.reload.result is None
    node.answer(0, "committed")
    node.answer(1, "committed")
    assert node.reload.phase is Phase.OVER
    result = node.reload.result
    assert result is not None
    assert (result.applied, result.sha256, result.changed) == (True, "d1935", ("node.hostname",))


def test_one_that_cannot_ends_it_for_all(node: Node) -> None:
    node.read(CHANGED)
    node.answer(1, "prepared")
    node.answer(0, "failed", ["no such file", "no such file"])
    assert [worker.orders()[-1].op for worker in node.workers] == ["prepare", "abort"]
    assert node.problems() == ["/etc/a.toml: no such file"]
    assert node.decisions == []
    node.answer(1, "prepared")  # on its way when it was given up
    assert node.decisions == []


def test_answers_of_another_change_count_for_nothing(node: Node) -> None:
    node.read(CHANGED)
    node.answer(0, "prepared", reload=2)
    node.answer(0, "committed")
    assert node.reload.waiting_for == ["worker 0", "worker 1"]


def test_a_worker_that_ends_before_it_has_prepared_ends_the_change(node: Node) -> None:
    node.read(CHANGED)
    node.answer(0, "prepared")
    node.reload.on_end(node.workers[1])
    assert node.problems() == ["/etc/a.toml: worker 1 ended while it prepared the change"]
    assert [order.op for order in node.workers[0].orders()] == ["prepare", "abort"]
    assert node.decisions == []


def test_a_worker_that_ends_between_prepare_and_commit_starts_with_what_is_decided(node: Node) -> None:
    node.read(CHANGED)
    node.answer(0, "prepared")
    node.reload.on_end(node.workers[0])
    assert node.decisions == []
    node.answer(1, "prepared")
    assert len(node.decisions) == 1
    assert node.reload.taking == [node.workers[1]]
    assert [order.op for order in node.workers[0].orders()] == ["prepare"]
    node.answer(1, "committed")
    assert node.reload.result is not None
    assert node.reload.result.applied


def test_a_worker_that_ends_at_its_commit_is_not_waited_for(node: Node) -> None:
    node.read(CHANGED)
    node.answer(0, "prepared")
    node.answer(1, "prepared")
    node.answer(0, "committed")
    node.reload.on_end(node.workers[1])
    assert node.reload.result is not None
    assert node.reload.result.applied


def test_one_that_does_not_prepare_in_time_ends_the_change(node: Node) -> None:
    node.read(CHANGED)
    node.answer(0, "prepared")
    node.reload.on_due()
    assert node.problems() == ["/etc/a.toml: worker 1: not prepared within 60 s"]
    assert not node.workers[1].killed


def test_one_that_does_not_commit_in_time_is_killed(node: Node) -> None:
    node.read(CHANGED)
    node.answer(0, "prepared")
    node.answer(1, "prepared")
    node.answer(0, "committed")
    node.reload.on_due()
    assert [worker.killed for worker in node.workers] == [False, True]
    assert node.reload.result is not None
    assert node.reload.result.applied


def test_without_workers_it_is_decided_at_once(node: Node) -> None:
    node.workers = []
    node.read(CHANGED)
    assert len(node.decisions) == 1
    assert node.reload.result is not None
    assert node.reload.result.applied


# ------------------------------------------------------------------ reading


def test_what_is_wrong_with_the_file_is_the_result(node: Node) -> None:
    problem = Problem("/etc/a.toml", 4, 1, "node.hostnam", "is no key", "hostname")
    node.reader.say(msgspec.msgpack.encode(Reading(None, (problem,), "d1935")))
    node.end_reader()
    assert node.problems() == ['/etc/a.toml:4:1: node.hostnam: is no key (did you mean "hostname"?)']
    assert [worker.orders() for worker in node.workers] == [[], []]


@pytest.mark.parametrize("octets", [b"", b"Traceback"])
def test_a_reader_that_dies_has_read_nothing(node: Node, octets: bytes) -> None:
    node.reader.say(octets)
    node.end_reader()
    (problem,) = node.problems()
    assert "could not be read" in problem


def test_a_reader_that_takes_too_long_is_ended(node: Node) -> None:
    node.reload.on_due()
    assert node.reader.killed
    assert node.problems() == ["/etc/a.toml: the file could not be read within 30 s"]


@pytest.mark.parametrize("begun", [False, True])
def test_a_node_that_stops_gives_up(node: Node, begun: bool) -> None:
    if begun:
        node.read(CHANGED)
    node.reload.give_up()
    assert node.problems() == ["/etc/a.toml: the relay is being stopped"]
    assert [order.op for order in node.workers[0].orders()] == (["prepare", "abort"] if begun else [])


def test_a_process_of_its_own_reads_the_file(tmp_path: Path) -> None:
    from angarium.app.reading import start_reader

    file = tmp_path / "a.toml"
    file.write_text(BASE)
    with start_reader(Source(str(file))) as process:
        assert process.stdout is not None
        reading = msgspec.msgpack.decode(process.stdout.read(), type=Reading)
    assert reading.config is not None
    assert load_dump(reading.config) == config_of(BASE)
    assert len(reading.sha256) == 64
    assert reading.places["listener[0].listen"] == (8, 1)
    file.write_text(BASE + "[quue]\n")
    with start_reader(Source(str(file))) as process:
        assert process.stdout is not None
        reading = msgspec.msgpack.decode(process.stdout.read(), type=Reading)
    assert reading.config is None
    assert reading.problems[0].suggestion == "queue"


# ------------------------------------------------------------------ sockets


def test_a_new_listener_is_bound_once_for_each_worker(node: Node) -> None:
    node.read(BASE + SECOND)
    for worker in node.workers:
        assert worker.orders() == [Order("prepare", 3, ["127.0.0.1:26"])]
        assert len(worker.files) == 2
    node.answer(0, "prepared")
    node.answer(1, "prepared")
    assert node.decisions[0].sockets == {"127.0.0.1:26": node.bound}
    assert len(node.bound) == 2


def test_sockets_are_closed_when_nothing_comes_of_it(node: Node) -> None:
    node.read(BASE + SECOND)
    node.answer(0, "failed", ["it is broken"])
    assert [sock.fileno() for sock in node.bound] == [-1, -1]


def test_an_address_that_is_taken_is_an_error_with_its_place(node: Node) -> None:
    node.unable = OSError("cannot listen on 127.0.0.1:26: Address already in use")
    node.read(BASE + SECOND, places={"listener[1].listen": (14, 1)})
    assert node.problems() == [
        "/etc/a.toml:14:1: listener[1].listen: cannot listen on 127.0.0.1:26: Address already in use"
    ]
    assert [worker.orders() for worker in node.workers] == [[], []]


def take(node: Node) -> Config:
    """The configuration that came into force."""
    for number in range(2):
        node.answer(number, "prepared")
    return node.decisions[0].change.config


def test_a_new_listener_that_only_root_could_bind_waits_for_a_restart(node: Node) -> None:
    node.unable = PermissionError("cannot listen")
    node.read(CHANGED + SECOND)
    assert take(node) == config_of(CHANGED)
    assert node.decisions[0].change.waiting == ("listener.second.listen",)


def test_a_listener_that_cannot_move_stays_with_its_new_settings(node: Node) -> None:
    node.unable = PermissionError("cannot listen")
    node.read(CHANGED.replace("127.0.0.1:25", "127.0.0.1:24"))
    assert take(node) == config_of(CHANGED)
    assert node.decisions[0].change.waiting == ("listener.relay.listen",)


def test_the_admin_address_moves(node: Node) -> None:
    node.read(BASE + '[admin]\nlisten = "127.0.0.1:8099"\n')
    assert take(node).admin.listen.port == 8099
    assert node.decisions[0].admin is node.bound[0]


def test_an_admin_address_that_only_root_could_bind_waits_for_a_restart(node: Node) -> None:
    node.unable = PermissionError("cannot listen")
    node.read(CHANGED + '[admin]\nlisten = "127.0.0.1:80"\n')
    assert take(node) == config_of(CHANGED)
    assert node.decisions[0].change.waiting == ("admin.listen",)


def test_a_worker_that_reads_no_orders_ends_the_change(node: Node) -> None:
    channel = node.workers[1].channel
    assert channel is not None

    def flood() -> None:
        while True:
            channel.order(Order("result", fields={"x": "y" * 10_000}))

    with pytest.raises(BlockingIOError):
        flood()
    node.read(CHANGED)
    (problem,) = node.problems()
    assert "worker 1 takes no orders" in problem
