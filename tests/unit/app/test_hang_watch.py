"""A process that hangs is found after the patience, whatever the clocks do meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest

from angarium.app.hang_watch import LOOKS, HangWatch, doing
from tests.support.relay import wait_until


@dataclass(eq=False)
class Process:
    ready: bool = True
    beat: int = 1
    start_s: float = 120.0


def look(watch: HangWatch, seconds: float, *processes: Process, beating: tuple[Process, ...] = ()) -> list[Process]:
    """The supervisor's loop for so many seconds, from when a look is due."""
    found: list[Process] = []
    until = watch.due + seconds
    while watch.due < until:
        for process in beating:
            process.beat += 1
        found += watch.look(watch.due, processes)  # type: ignore[arg-type]
    return found


def test_one_that_does_not_beat_is_found_within_the_patience_and_a_look() -> None:
    watch = HangWatch(30.0)
    well, stuck = Process(), Process()
    assert look(watch, 30.0, well, stuck, beating=(well,)) == []
    assert look(watch, 3.0, well, stuck, beating=(well,)) == [stuck]
    assert (watch.silent_s(stuck), watch.silent_s(well)) == (30.0, 0.0)
    assert (watch.times_found(stuck), watch.times_found(well)) == (1, 0)
    assert look(watch, 60.0, well, stuck, beating=(well,)) == [stuck, stuck]  # and after each further patience
    assert watch.times_found(stuck) == 3


def test_one_that_beats_again_is_well_and_is_found_anew() -> None:
    watch = HangWatch(10.0)
    process = Process()
    assert look(watch, 11.0, process) == [process]
    process.beat += 1
    assert look(watch, 1.0, process) == []
    assert (watch.silent_s(process), watch.times_found(process)) == (0.0, 0)
    assert look(watch, 10.0, process) == [process]


@pytest.mark.parametrize("away_s", [31.0, 3600.0, 86400.0 * 30])
def test_time_in_which_the_supervisor_did_not_run_counts_as_one_look(away_s: float) -> None:
    """The machine slept, a virtual machine was paused, or somebody has stopped this process: nobody has beaten."""
    watch = HangWatch(30.0)
    process = Process()
    assert look(watch, 3.0 * (LOOKS - 2), process) == []
    assert watch.look(watch.due + away_s, [process]) == []  # type: ignore[list-item]
    process.beat += 1  # it goes on as well
    assert look(watch, 30.0, process) == []


def test_a_clock_that_goes_back_finds_nobody() -> None:
    watch = HangWatch(30.0)
    process = Process()
    look(watch, 9.0, process)
    assert watch.look(0.0, [process]) == []  # type: ignore[list-item]


def test_one_that_starts_may_take_longer_as_long_as_it_gets_on() -> None:
    watch = HangWatch(30.0)
    worker = Process(ready=False, beat=0, start_s=600.0)
    assert look(watch, 300.0, worker) == []
    worker.beat += 1  # it has read a journal
    assert look(watch, 600.0, worker) == []
    assert look(watch, 3.0, worker) == [worker]


def test_the_successor_of_one_that_hung_begins_anew() -> None:
    watch = HangWatch(30.0)
    process = Process(ready=False, beat=0, start_s=30.0)
    assert look(watch, 33.0, process) == [process]
    watch.forget(process)
    assert look(watch, 30.0, process) == []
    assert look(watch, 3.0, process) == [process]


def test_another_patience_holds_at_once() -> None:
    watch = HangWatch(30.0)
    process = Process()
    look(watch, 27.0, process)
    watch.change(30.0)  # a reload that leaves it as it is
    assert watch.silent_s(process) == 24.0
    watch.change(10.0)
    assert look(watch, 10.0, process) == []
    assert look(watch, 1.0, process) == [process]
    watch.change(0.0)
    assert not watch.watches
    assert watch.look(1e9, [process]) == []  # type: ignore[list-item]


def test_what_the_kernel_says_of_a_process() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        try:
            process.send_signal(signal.SIGSTOP)
            wait_until(lambda: doing(process.pid)[0] == "it was stopped by a signal", "it to stop")
            assert not doing(process.pid)[1]
        finally:
            process.kill()
    assert doing(process.pid) == ("", False)
    assert doing(os.getpid())[0] == "it is busy"
