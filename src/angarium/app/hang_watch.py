"""Which processes of the node hang: their event loop does not turn, though they have not ended.

Job: HangWatch looks at the heartbeats (angarium.admin.heartbeat) LOOKS times within the patience, and finds the
processes whose last beat was the same at every look. It counts its own looks and compares no clocks: when the machine
slept, a virtual machine was paused or the supervisor itself was stopped, that is one look, however long it took, and
every process has the whole patience before it again. One that has not served yet may take its `start_s`, counted the
same way: a worker reads its journals, and beats behind each.

`doing` tells what the kernel says of a process, for the log, and whether a debugger holds it: such a one hangs because
somebody wants it to, and is let alone.

Fails: never. What /proc does not show is not said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["LOOKS", "HangWatch", "Watched", "doing"]

LOOKS = 10

_STATES = {
    "R": "it is busy",
    "S": "it waits, and its loop does not turn",
    "D": "it waits for a disk or for a network file system",
    "T": "it was stopped by a signal",
    "t": "a debugger holds it",
    "Z": "it has ended",
}


class Watched(Protocol):
    """A process as this module sees it."""

    @property
    def ready(self) -> bool:
        """Whether it has served since it was started."""

    @property
    def start_s(self) -> float:
        """How long it may go without a beat until then."""

    @property
    def beat(self) -> int:
        """Its last heartbeat."""


@dataclass(slots=True)
class _Seen:
    beat: int
    looks: int = 0  # in a row that found this beat
    found: int = 0  # how many times it was found to hang


class HangWatch:
    """Of one node. patience_s 0: nobody is watched."""

    def __init__(self, patience_s: float) -> None:
        self.interval_s = patience_s / LOOKS
        self.due = 0.0  # monotonic
        self._seen: dict[Watched, _Seen] = {}

    @property
    def watches(self) -> bool:
        """Whether there is a patience that can end."""
        return self.interval_s > 0

    def change(self, patience_s: float) -> None:
        """Have this patience from now on; if it is another one, what was seen counts for nothing."""
        if patience_s / LOOKS == self.interval_s:
            return
        self.interval_s = patience_s / LOOKS
        self.due = 0.0
        self._seen.clear()

    def look(self, now: float, processes: Iterable[Watched]) -> list[Watched]:
        """Look, if it is time to. Those of these processes that hang: once when it begins, then after each patience."""
        if not self.watches or now < self.due:
            return []
        self.due = now + self.interval_s
        before, self._seen = self._seen, {}
        found = []
        for process in processes:
            beat = process.beat
            seen = before.get(process)
            if seen is None or seen.beat != beat:
                seen = _Seen(beat)
            else:
                seen.looks += 1
            self._seen[process] = seen
            most = LOOKS if process.ready else max(LOOKS, round(process.start_s / self.interval_s))
            if seen.looks >= most * (seen.found + 1):
                seen.found += 1
                found.append(process)
        return found

    def forget(self, process: Watched) -> None:
        """It has ended: its successor begins anew."""
        self._seen.pop(process, None)

    def silent_s(self, process: Watched) -> float:
        """For how long a process has not been seen to beat, in whole looks; 0 for one that is not watched."""
        seen = self._seen.get(process)
        return 0.0 if seen is None else seen.looks * self.interval_s

    def times_found(self, process: Watched) -> int:
        """How many times it was found to hang since it has beaten last."""
        seen = self._seen.get(process)
        return 0 if seen is None else seen.found


def doing(pid: int) -> tuple[str, bool]:
    """What the kernel says that a process does, "" if it does not, and whether a debugger holds it."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            fields = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    except OSError:
        return "", False
    traced = fields.get("TracerPid", "0").strip() != "0"
    return _STATES.get(fields.get("State", "")[:1], ""), traced
