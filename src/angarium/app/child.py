"""One process of a node as its supervisor has it: started, ready, asked to end, killed, seen to have ended.

Input: a Launch, which knows what every process is given. A child's orders are a file in memory on its standard input,
so that nobody waits for a child that does not read. Its record on the board of heartbeats (angarium.admin.heartbeat) is
written here while it does not run.

A child is killed in two steps, `hung`: SIGUSR2, on which it writes to standard error where its threads are
(angarium.app.process), and DUMP_S later SIGKILL. One that was asked to end is killed STOP_S later.

Fails: OSError when a process cannot be started.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from angarium.app.channel import Channel, file_of, pair

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from angarium.admin.heartbeat import Board

__all__ = ["CALM_S", "PAUSE_FIRST_S", "PAUSE_LONGEST_S", "STOP_S", "Child", "Launch"]

log = logging.getLogger("angarium")

PAUSE_FIRST_S = 0.2
PAUSE_LONGEST_S = 30.0
CALM_S = 60.0  # a child that lived so long dies afresh
STOP_S = 30.0  # then a child that was asked to end and has not is killed
DUMP_S = 1.0
START_S = {"worker": 600.0}  # without a heartbeat, until it is ready; a worker may read a long journal for one
START_OTHERS_S = 120.0


@dataclass(frozen=True)
class Launch:
    """What a process is started with. orders: of a child, its ready and its channel descriptor, octets for its standard
    input. fds: open files that every child has."""

    board: Board
    orders: Callable[[Child, int, int], bytes]
    fds: tuple[int, ...]


@dataclass(eq=False)
class Child:
    """One process and how it has fared. Moments are of time.monotonic()."""

    role: str
    number: int
    sockets: list[socket.socket]
    board: Board = field(repr=False)
    process: subprocess.Popen[bytes] | None = None
    ready_fd: int = -1
    ready: bool = False
    started: float = 0.0
    pause_s: float = field(default_factory=lambda: PAUSE_FIRST_S)
    early_deaths: int = 0  # before it was ready
    start_at: float | None = None
    kill_at: float | None = None
    hung: bool = False  # it is being killed for that
    retiring: bool = False
    leaving: bool = False  # it is not started again
    channel: Channel | None = None  # to a worker

    @property
    def name(self) -> str:
        """For the log."""
        return self.role if self.role != "worker" else f"worker {self.number}"

    @property
    def place(self) -> int:
        """Its number among its kind: other processes are one of theirs."""
        return self.number if self.role == "worker" else 0

    @property
    def beat(self) -> int:
        """Its last heartbeat."""
        return self.board.beat_of(self.role, self.place)

    @property
    def start_s(self) -> float:
        """How long it may go without one until it is ready."""
        return START_S.get(self.role, START_OTHERS_S)

    def start(self, launch: Launch) -> None:
        """Start it."""
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        theirs: Channel | None = None
        if self.role == "worker":
            self.channel, theirs = pair()
        channel_fd = -1 if theirs is None else theirs.fileno()
        orders = file_of(launch.orders(self, write_fd, channel_fd))
        self.board.starting(self.role, self.place, time.monotonic_ns())
        sockets = [sock.fileno() for sock in self.sockets]
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "angarium.app.process", self.role],
                stdin=orders,
                pass_fds=(*sockets, *launch.fds, write_fd, *([] if theirs is None else [channel_fd])),
            )
        finally:
            os.close(write_fd)
            os.close(orders)
            if theirs is not None:
                theirs.close()
        self.board.started(self.role, self.place, self.process.pid)
        os.set_blocking(read_fd, False)
        self.ready_fd = read_fd
        self.ready = self.retiring = self.hung = False
        self.started = time.monotonic()
        self.start_at = self.kill_at = None

    def read_ready(self) -> bool:
        """Its ready descriptor is readable: whether it serves. If not it died before; `take_end` says so."""
        octets = os.read(self.ready_fd, 16)
        self._close_ready()
        self.ready = bool(octets)
        return self.ready

    def send(self, number: int) -> None:
        """A signal, if it runs."""
        if self.process is not None:
            self.process.send_signal(number)

    def terminate(self) -> None:
        """Ask it to end; after STOP_S it must, or earlier if it is being killed already."""
        if self.process is not None:
            self.process.terminate()
            if self.kill_at is None:
                self.kill_at = time.monotonic() + STOP_S

    def retire(self) -> None:
        """Ask it to end, and start it again at once when it has."""
        if self.process is not None:
            self.retiring = True
            self.terminate()

    def kill(self) -> None:
        """End it at once; it is started again."""
        if self.process is not None:
            self.process.kill()

    def kill_hung(self) -> None:
        """End it, and have it say where it hangs if it still can."""
        self.hung = True
        self.send(signal.SIGUSR2)
        self.kill_at = time.monotonic() + DUMP_S

    def kill_due(self, now: float) -> None:
        """Kill it when its time is over."""
        if self.kill_at is None or now < self.kill_at or self.process is None:
            return
        if not self.hung:
            log.error("%s does not end; killing it", self.name)
        self.process.kill()
        self.kill_at = None

    def take_end(self) -> int | None:
        """If it has ended, the status of subprocess, and nothing of it is left; None: it runs, or there is none."""
        if self.process is None or self.process.poll() is None:
            return None
        status: int = self.process.returncode
        self.process = None
        self.close_channel()
        self._close_ready()
        self.ready = False
        self.kill_at = None
        return status

    def again(self, status: int, now: float) -> float:
        """It has ended by itself: when it is started again, in seconds from now; the longer the more often."""
        if now - self.started > CALM_S:
            self.pause_s = PAUSE_FIRST_S
        pause_s = self.pause_s
        self.start_at = now + pause_s
        self.pause_s = min(pause_s * 2, PAUSE_LONGEST_S)
        self.board.ended(self.role, self.place, status, round(self.start_at * 1e9))
        return pause_s

    def close_channel(self) -> None:
        """Nothing is said to it any more."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None

    def _close_ready(self) -> None:
        if self.ready_fd >= 0:
            os.close(self.ready_fd)
            self.ready_fd = -1
