"""Processes that die, hang or do not end, with small programs in the place of the real ones."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from angarium._core.counters import Slab, Slot
from angarium.admin.heartbeat import Board, State
from angarium.app import child as child_module
from angarium.app.child import Child, Launch
from angarium.app.children import Children
from angarium.app.start_failure import StartFailure
from tests.support.relay import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# says on its ready descriptor, which is the last of its orders, that it serves; then does what it is told to
PROGRAM = """
import os, signal, sys, time
orders = sys.stdin.read().split()
{before}
os.write(int(orders[0]), b"1")
{after}
"""


class Family:
    """Children of one kind of program."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, before: str = "", after: str = "") -> None:
        program = folder / "program"
        program.write_text(f"#!{sys.executable}\n{PROGRAM.format(before=before, after=after)}")
        program.chmod(0o700)
        monkeypatch.setattr(child_module.sys, "executable", str(program))
        self.board = Board.create(1)
        self.slab = Slab.create(1)
        launch = Launch(self.board, lambda child, ready_fd, channel_fd: f"{ready_fd} {channel_fd}".encode(), ())
        self.children = Children(launch, self.slab.region(0), 10.0)
        self.child = Child("lookup", 1, [], self.board)
        self.children.members = [self.child]
        self.children.start([self.child])

    def wait_ready(self) -> None:
        def is_ready() -> bool:
            try:
                self.children.note_ready(self.child)
            except BlockingIOError:
                return False
            return True

        wait_until(is_ready, "the program to serve")

    def wait_end(self) -> None:
        wait_until(lambda: self.children.reap(time.monotonic()), "the program to end")

    def close(self) -> None:
        if self.child.process is not None:
            self.child.process.kill()
            self.child.process.wait()
        self.slab.close()


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Family]]:
    made: list[Family] = []

    def make(**parts: str) -> Family:
        made.append(Family(tmp_path, monkeypatch, **parts))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_one_that_dies_is_started_again_after_growing_pauses(family: Callable[..., Family]) -> None:
    one = family(after="sys.exit(3)")
    children, child = one.children, one.child
    children.announced = True
    pauses = []
    for _ in range(3):
        one.wait_end()
        now = time.monotonic()
        vital = one.board.vital("lookup", 0, round(now * 1e9))
        assert vital.state == State.ENDED
        assert vital.why_not is not None
        assert vital.why_not.startswith("has ended (exit status 3)")
        incident = children.incidents.pop()
        assert (incident.what, incident.fields["process"], incident.fields["why"]) == (
            "ended",
            "lookup",
            "exit status 3",
        )
        pauses.append(incident.fields["retry_s"])
        assert child.start_at is not None
        children.start([child])
        assert one.board.vital("lookup", 0, round(now * 1e9)).state == State.STARTING
    assert pauses == [0.2, 0.4, 0.8]
    assert one.slab.total(Slot.NODE_DEATHS_LOOKUP) == 3
    assert one.slab.total(Slot.NODE_HANGS_LOOKUP) == 0


def test_one_that_never_serves_ends_the_start_and_later_does_not(family: Callable[..., Family]) -> None:
    one = family(before="sys.exit(1)")
    for _ in range(2):
        one.wait_end()
        one.children.start([one.child])
    with pytest.raises(StartFailure, match=r"lookup cannot start \(exit status 1\)"):
        one.wait_end()


def test_one_that_hangs_is_told_once_asked_where_it_is_and_killed(
    family: Callable[..., Family], tmp_path: Path
) -> None:
    said = tmp_path / "asked"
    one = family(
        before=f"signal.signal(signal.SIGUSR2, lambda *_: open({str(said)!r}, 'w').close())",
        after="while True: time.sleep(60)",
    )
    children, child = one.children, one.child
    one.wait_ready()
    children.announced = True
    now = children.watch.due
    for _ in range(11):
        assert children.incidents == []
        assert children.is_well(child) is (children.watch.silent_s(child) == 0)
        children.look(now)
        now += 1.0
    (incident,) = children.incidents
    assert incident.what == "hung"
    assert incident.fields["silent_s"] == 10.0
    assert children.trouble_of(child, now) == "lookup hangs, and is being killed"
    wait_until(said.exists, "it to have been asked where it is")
    assert child.process is not None
    assert child.process.poll() is None
    assert child.kill_at is not None
    children.look(max(now, child.kill_at))
    one.wait_end()
    assert [incident.fields.get("why") for incident in children.incidents] == [None, "hung"]
    assert one.slab.total(Slot.NODE_HANGS_LOOKUP) == one.slab.total(Slot.NODE_DEATHS_LOOKUP) == 1


def test_one_that_beats_is_let_alone(family: Callable[..., Family]) -> None:
    one = family(after="while True: time.sleep(60)")
    one.wait_ready()
    now = one.children.watch.due
    for _ in range(30):
        one.board.heart("lookup").beat()
        one.children.look(now)
        now += 1.0
    assert one.children.incidents == []
    assert one.children.is_well(one.child)


def test_one_that_does_not_end_for_a_reload_is_killed_and_started_again(
    family: Callable[..., Family], caplog: pytest.LogCaptureFixture
) -> None:
    one = family(before="signal.signal(signal.SIGTERM, signal.SIG_IGN)", after="while True: time.sleep(60)")
    one.wait_ready()
    one.children.announced = True
    one.children.replace([one.child])
    assert not one.children.settled
    assert one.child.kill_at is not None
    one.children.look(one.child.kill_at - 0.1)
    assert one.child.kill_at is not None
    one.children.look(one.child.kill_at)
    one.wait_end()
    assert "lookup does not end; killing it" in caplog.text
    assert one.child.start_at is not None
    assert one.children.incidents == []  # it was asked to
    one.children.start([one.child])
    one.wait_ready()
    assert one.children.settled


def test_at_the_end_the_supervisor_says_that_it_is_there(
    family: Callable[..., Family], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "STOP_S", 0.0)
    one = family(before="signal.signal(signal.SIGTERM, signal.SIG_IGN)", after="while True: time.sleep(60)")
    one.wait_ready()
    one.children.stopping = True
    alive: list[None] = []
    one.children.terminate(("worker", "lookup"), lambda: alive.append(None))
    assert alive
    assert one.child.take_end() == -signal.SIGKILL


def test_a_child_that_does_not_read_its_orders_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a pipe would take, for a process that is stopped before it reads."""
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\nkill -STOP $$\ncat > "$(dirname "$0")/read"\n')
    program.chmod(0o700)
    monkeypatch.setattr(child_module.sys, "executable", str(program))
    board = Board.create(1)
    child = Child("lookup", 1, [], board)
    child.start(Launch(board, lambda *_: b"x" * (1 << 20), ()))
    process = child.process
    assert isinstance(process, subprocess.Popen)
    try:
        wait_until(lambda: _state(process.pid) == "T", "it to stop")
        process.send_signal(signal.SIGCONT)
        process.wait(60)
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "read").stat().st_size == 1 << 20
    assert child.take_end() == 0


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0]
