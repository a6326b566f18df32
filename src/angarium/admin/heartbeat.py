"""How every process of the node is, in one piece of shared memory: its heartbeat, its state, its process id.

Job: a Board is a memfd with a record of 64 octets for each process. Each process writes the moment of its last beat and
its state into its own record, from its event loop (Heart): two stores, and nobody is woken. The supervisor writes there
that a process is being started, or has ended; it does so only while that process does not run. Whoever wants to know
reads: the supervisor to find those that hang (angarium.app.hang_watch), the admin process for /healthz, /readyz and
/metrics (angarium.admin.health), which so ask nobody and wait for nobody.

The moments are those of CLOCK_MONOTONIC, which is one for all processes of a machine and stands still while it sleeps.
A record is read word by word, not as of one moment.

Fails: OSError when the memory cannot be made or mapped, ValueError for a descriptor that is no board.
"""

from __future__ import annotations

import enum
import mmap
import os
import signal
import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = ["BEAT_S", "KINDS", "SILENT_S", "WHY_NOT", "Board", "Heart", "State", "Vital"]

BEAT_S = 0.5  # between two beats, at the most, of a process that is well
SILENT_S = 4.0  # a process whose last beat is older does not answer
KINDS: Final = ("worker", "lookup", "access", "events", "admin", "sink", "supervisor")

_OTHERS = KINDS[1:]  # one of each, behind the workers
_MAGIC = 0x4452414F42474E41  # "ANGBOARD"
_WORDS = 8  # of a record: a cache line, so that no two processes write to one
_BEAT, _STATE, _PID, _SINCE, _STATUS, _AGAIN, _EVENTS_FAILING = range(7)


class State(enum.IntEnum):
    """What a process does. All from REFUSING on, and SERVING, it says itself; the others are said by the supervisor."""

    ABSENT = 0  # the configuration needs none
    STARTING = 1
    ENDED = 2  # and is started again
    SERVING = 3
    DRAINING = 4  # from here on: it runs, and takes no mail
    DISK_FULL = 5
    DISK_FAILED = 6
    MEMORY_FULL = 7
    STOPPING = 8
    DISK_SILENT = 9


WHY_NOT: dict[State, str] = {
    State.ABSENT: "is not started",
    State.STARTING: "is starting",
    State.ENDED: "has ended",
    State.DRAINING: "takes no mail: the node is being drained",
    State.DISK_FULL: "takes no mail: the disk is full",
    State.DISK_FAILED: "takes no mail: a write to the disk failed; it is tried again every five seconds",
    State.MEMORY_FULL: "takes no mail: the memory budget is used up",
    State.STOPPING: "is stopping",
    State.DISK_SILENT: "takes no mail: the disk does not answer; clients wait for their 250",
}


@dataclass(frozen=True, slots=True)
class Vital:
    """One process at one moment. `name` is unique in the node; times are seconds before (or, `again_s`, behind) it."""

    kind: str
    number: int  # of a worker, else 0
    state: State
    pid: int
    silent_s: float  # since its last beat, or since it was started
    age_s: float  # since it was started
    status: int  # of one that has ended: its exit status, or below zero the signal
    again_s: float  # then it is started again
    events_failing: bool  # it cannot write the event log

    @property
    def name(self) -> str:
        """For people."""
        return f"worker {self.number}" if self.kind == "worker" else self.kind

    @property
    def answers(self) -> bool:
        """Whether it runs, is past its start, and its loop turns."""
        return self.state >= State.SERVING and self.silent_s <= SILENT_S

    @property
    def why_not(self) -> str | None:
        """What is wrong with it, in words that go behind its name; None: nothing."""
        if self.state == State.ENDED:
            how = f"signal {signal.Signals(-self.status).name}" if self.status < 0 else f"exit status {self.status}"
            return f"has ended ({how}), and is started again in {max(0.0, self.again_s):.1f} s"
        if self.state >= State.SERVING and self.silent_s > SILENT_S:
            return f"has not answered for {self.silent_s:.0f} s"
        if self.state == State.STARTING:
            return f"is starting, for {self.age_s:.0f} s now"
        return WHY_NOT.get(self.state)


class Board:
    """The records of all processes. Make one with create() or attach()."""

    def __init__(self, memory: mmap.mmap, fd: int) -> None:
        """memory: as create() and attach() map it; fd: what was mapped, the caller's."""
        self.fd = fd
        self._words = memoryview(memory).cast("Q")
        if self._words[0] != _MAGIC or len(self._words) < _WORDS * (1 + len(_OTHERS)):
            raise ValueError("the descriptor is no board of heartbeats")
        self.workers = self._words[1]

    @staticmethod
    def create(workers: int) -> Board:
        """A new one, all processes absent. Its descriptor is closed on exec, so pass it on explicitly, and with it."""
        octets = 8 * _WORDS * (1 + workers + len(_OTHERS))
        fd = os.memfd_create("angarium-heartbeats", os.MFD_CLOEXEC)
        os.ftruncate(fd, octets)
        memory = mmap.mmap(fd, octets)
        memory[:16] = _MAGIC.to_bytes(8, "little") + workers.to_bytes(8, "little")
        board = Board(memory, fd)
        weakref.finalize(board, os.close, fd)
        return board

    @staticmethod
    def attach(fd: int) -> Board:
        """The one behind a descriptor, which stays the caller's."""
        octets = os.fstat(fd).st_size
        if octets < 8 * _WORDS * (1 + len(_OTHERS)):
            raise ValueError("the descriptor is no board of heartbeats")
        return Board(mmap.mmap(fd, octets), fd)

    def heart(self, kind: str, number: int = 0) -> Heart:
        """The record of one process, for itself to write."""
        return Heart(self._words, self._place(kind, number))

    def starting(self, kind: str, number: int, now_ns: int) -> None:
        """It is about to be started."""
        place = self._place(kind, number)
        for word in (_BEAT, _PID, _STATUS, _AGAIN, _EVENTS_FAILING):
            self._words[place + word] = 0
        self._words[place + _SINCE] = now_ns
        self._words[place + _STATE] = State.STARTING

    def started(self, kind: str, number: int, pid: int) -> None:
        """This is its process id."""
        self._words[self._place(kind, number) + _PID] = pid

    def ended(self, kind: str, number: int, status: int, again_ns: int) -> None:
        """It has ended, with this exit status or (below zero) by this signal, and is started again at `again_ns`."""
        place = self._place(kind, number)
        self._words[place + _PID] = self._words[place + _EVENTS_FAILING] = 0
        self._words[place + _STATUS] = status & 0xFFFF_FFFF_FFFF_FFFF
        self._words[place + _AGAIN] = again_ns
        self._words[place + _STATE] = State.ENDED

    def absent(self, kind: str, number: int = 0) -> None:
        """There is none, and is to be none."""
        self._words[self._place(kind, number) + _STATE] = State.ABSENT

    def beat_of(self, kind: str, number: int) -> int:
        """Its last beat; 0: there was none since it was started."""
        return self._words[self._place(kind, number) + _BEAT]

    def vital(self, kind: str, number: int, now_ns: int) -> Vital:
        """One process. now_ns: CLOCK_MONOTONIC."""
        record = self._words[(place := self._place(kind, number)) : place + _WORDS]
        status = record[_STATUS]
        return Vital(
            kind,
            number,
            State(record[_STATE]),
            record[_PID],
            max(0, now_ns - max(record[_BEAT], record[_SINCE])) * 1e-9,
            max(0, now_ns - record[_SINCE]) * 1e-9,
            status - (1 << 64) if status >> 63 else status,
            (record[_AGAIN] - now_ns) * 1e-9,
            bool(record[_EVENTS_FAILING]),
        )

    def vitals(self, now_ns: int) -> list[Vital]:
        """All processes that there are to be: the supervisor, the workers, the others."""
        kinds = [("supervisor", 0), *(("worker", number) for number in range(self.workers))]
        kinds += [(kind, 0) for kind in _OTHERS if kind != "supervisor"]
        found = (self.vital(kind, number, now_ns) for kind, number in kinds)
        return [vital for vital in found if vital.state != State.ABSENT]

    def _place(self, kind: str, number: int) -> int:
        if kind == "worker":
            if not 0 <= number < self.workers:
                raise IndexError(f"worker {number} of {self.workers}")
            return _WORDS * (1 + number)
        return _WORDS * (1 + self.workers + _OTHERS.index(kind))


class Heart:
    """The record of the process that has it."""

    def __init__(self, words: memoryview, place: int) -> None:
        """Board.heart() makes it."""
        self._words = words
        self._place = place

    def beat(self) -> None:
        """The loop turns."""
        self._words[self._place] = time.monotonic_ns()

    def say(self, state: State, *, events_failing: bool = False) -> None:
        """What this process does from now on."""
        self._words[self._place + _STATE] = state
        self._words[self._place + _EVENTS_FAILING] = events_failing
        self.beat()

    def beat_by(self, loop: AbstractEventLoop) -> None:
        """Serve, and beat every BEAT_S from a timer of this loop as long as it turns."""
        self.say(State.SERVING)
        self._again(loop)

    def _again(self, loop: AbstractEventLoop) -> None:
        self.beat()
        loop.call_later(BEAT_S, self._again, loop)
