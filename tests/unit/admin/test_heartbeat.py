"""What each process says of itself, as all others read it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

import pytest

from angarium.admin.heartbeat import BEAT_S, SILENT_S, Board, State
from tests.support.heartbeats import board_of

S = 1_000_000_000


def test_another_process_reads_what_one_writes() -> None:
    board = Board.create(2)
    board.starting("worker", 1, 0)
    script = (
        "import sys; from angarium.admin.heartbeat import Board, State;"
        "Board.attach(int(sys.argv[1])).heart('worker', 1).say(State.DISK_FULL, events_failing=True)"
    )
    before = time.monotonic_ns()
    subprocess.run([sys.executable, "-c", script, str(board.fd)], pass_fds=[board.fd], check=True, timeout=60)
    assert before < board.beat_of("worker", 1) < time.monotonic_ns()
    vital = board.vital("worker", 1, board.beat_of("worker", 1))
    assert (vital.name, vital.state, vital.silent_s, vital.events_failing) == ("worker 1", State.DISK_FULL, 0.0, True)
    assert vital.why_not == "takes no mail: the disk is full"
    assert vital.answers
    assert board.beat_of("worker", 0) == 0  # no record but its own


def test_a_process_from_its_start_to_its_end() -> None:
    board = Board.create(1)
    assert board.vitals(0) == []
    board.starting("access", 0, 100 * S)
    board.started("access", 0, 4711)
    (vital,) = board.vitals(102 * S)
    assert (vital.name, vital.pid, vital.answers) == ("access", 4711, False)
    assert vital.why_not == "is starting, for 2 s now"
    board.heart("access").say(State.SERVING)
    beat = board.beat_of("access", 0)
    assert board.vital("access", 0, beat).why_not is None
    late = board.vital("access", 0, beat + round((SILENT_S + 1) * S))
    assert (late.answers, late.why_not) == (False, "has not answered for 5 s")
    board.ended("access", 0, -9, beat + 3 * S)
    gone = board.vital("access", 0, beat + S)
    assert (gone.pid, gone.answers) == (0, False)
    assert gone.why_not == "has ended (signal SIGKILL), and is started again in 2.0 s"
    board.ended("access", 0, 3, beat)
    assert board.vital("access", 0, beat + S).why_not == "has ended (exit status 3), and is started again in 0.0 s"
    board.absent("access")
    assert board.vitals(0) == []


def test_a_successor_has_not_beaten_yet() -> None:
    board = board_of(1)
    assert board.beat_of("worker", 0) > 0
    board.starting("worker", 0, 5 * S)
    assert board.beat_of("worker", 0) == 0
    assert board.vital("worker", 0, 6 * S).state == State.STARTING


def test_the_order_is_one_that_people_read() -> None:
    board = board_of(3, "events", "lookup")
    assert [vital.name for vital in board.vitals(0)] == [
        *("supervisor", "worker 0", "worker 1", "worker 2", "lookup", "events"),
    ]


def test_what_is_no_board_is_refused() -> None:
    for octets in (0, 64, 4096):
        fd = os.memfd_create("no-board")
        os.ftruncate(fd, octets)
        with pytest.raises(ValueError, match="no board"):
            Board.attach(fd)
        os.close(fd)
    with pytest.raises(IndexError):
        Board.create(2).heart("worker", 2)


async def test_a_loop_that_turns_beats() -> None:
    board = Board.create(1)
    board.starting("lookup", 0, 0)
    board.heart("lookup").beat_by(asyncio.get_running_loop())
    first = board.beat_of("lookup", 0)
    async with asyncio.timeout(60 * BEAT_S):
        while board.beat_of("lookup", 0) == first:  # shared memory tells nobody
            await asyncio.sleep(BEAT_S / 10)
    assert board.vital("lookup", 0, first).state == State.SERVING
