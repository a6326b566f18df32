"""The processes of a node, as their supervisor has them: which there are, which are due, which have ended, which hang.

Job: Children keeps them in the order in which they are started; replaces some one after the other, when a change of the
configuration asks for it; finds the dead and those that hang (angarium.app.hang_watch), has the latter killed, and
counts both by kind. What has happened is told as an Incident, for the event log.

Input: what a process is started with (angarium.app.child). Everything is called from the supervisor's loop; only
`terminate` waits, and calls `alive` meanwhile.

Fails: StartFailure when a child dies MOST_EARLY_DEATHS times before the node serves for the first time. The events
process is excepted: the node does without one that cannot start.
"""

from __future__ import annotations

import logging
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from angarium._core.counters import Slot
from angarium.app.hang_watch import HangWatch, doing
from angarium.app.start_failure import StartFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from angarium._core.counters import Counters
    from angarium.app.child import Child, Launch

__all__ = ["Children", "Incident"]

log = logging.getLogger("angarium")

MOST_EARLY_DEATHS = 3  # of a child that was never ready: the relay does not start
WAIT_S = 0.5
MOST_INCIDENTS = 100  # that wait for a worker that can write them down; the first ones stay
HANGS = {
    "worker": Slot.NODE_HANGS_WORKER,
    "lookup": Slot.NODE_HANGS_LOOKUP,
    "access": Slot.NODE_HANGS_ACCESS,
    "events": Slot.NODE_HANGS_EVENTS,
    "admin": Slot.NODE_HANGS_ADMIN,
    "sink": Slot.NODE_HANGS_SINK,
}
DEATHS = {
    "worker": Slot.NODE_DEATHS_WORKER,
    "lookup": Slot.NODE_DEATHS_LOOKUP,
    "access": Slot.NODE_DEATHS_ACCESS,
    "events": Slot.NODE_DEATHS_EVENTS,
    "admin": Slot.NODE_DEATHS_ADMIN,
    "sink": Slot.NODE_DEATHS_SINK,
}


@dataclass(frozen=True)
class Incident:
    """What befell a process: a `process_hung` or a `process_ended`, and the fields of that event."""

    what: Literal["hung", "ended"]
    fields: dict[str, Any]


class Children:
    """Of one node."""

    def __init__(self, launch: Launch, counters: Counters, patience_s: float) -> None:
        """counters: the supervisor's region. patience_s: HangWatch's."""
        self._launch = launch
        self._counters = counters
        self.watch = HangWatch(patience_s)
        self.members: list[Child] = []
        self.incidents: list[Incident] = []
        self.announced = False  # all have served: the node has started
        self.stopping = False
        self._replaced: list[Child] = []  # for the last change of the configuration
        self._replacing: list[Child] = []

    def __iter__(self) -> Iterator[Child]:
        return iter(self.members)

    @property
    def workers_that_hear(self) -> list[Child]:
        """To whom orders can be given."""
        return [child for child in self.members if child.role == "worker" and child.channel is not None]

    @property
    def all_serve(self) -> bool:
        """Whether the node serves. It does without a process that keeps the event log, if that cannot start."""
        return all(child.ready or (child.role == "events" and child.early_deaths) for child in self.members)

    # -------------------------------------------------------------- their lives

    def start(self, children: Iterable[Child]) -> None:
        """Start these."""
        for child in children:
            child.start(self._launch)

    def add_or_end(self, child: Child, needed: bool) -> None:
        """Have a process or do without; who asks meanwhile waits in its socket."""
        child.leaving = not needed
        if child.leaving:
            child.terminate()
            if child.process is None and child in self.members:
                self._remove(child)
        elif child not in self.members:
            self.members.insert(1, child)
            child.start_at = time.monotonic()

    def note_ready(self, child: Child) -> None:
        """Its ready descriptor is readable."""
        if child.read_ready() and self._replacing:
            self._replace_next()

    def reap(self, now: float) -> list[Child]:
        """Those that have ended, and are started again or (`leaving`) not. StartFailure: see above."""
        ended = []
        for child in tuple(self.members):
            was_ready, hung = child.ready, child.hung
            status = child.take_end()
            if status is None:
                continue
            ended.append(child)
            self.watch.forget(child)
            if self.stopping:
                child.board.absent(child.role, child.place)
            elif child.leaving:
                self._remove(child)
            elif child.retiring and not hung:
                child.start_at = now
            else:
                self._note_death(child, status, now, was_ready, hung)
        return ended

    def _note_death(self, child: Child, status: int, now: float, was_ready: bool, hung: bool) -> None:
        why = "hung" if hung else f"signal {-status}" if status < 0 else f"exit status {status}"
        child.early_deaths += not was_ready
        if not self.announced and child.role != "events" and child.early_deaths >= MOST_EARLY_DEATHS:
            raise StartFailure(f"{child.name} cannot start ({why}); see its messages above")
        pause_s = child.again(status, now)
        log.error("%s ended (%s); starting it again in %.1f s", child.name, why, pause_s)
        self._counters.add(DEATHS[child.role], 1)
        self._tell(Incident("ended", {"process": child.name, "why": why, "retry_s": pause_s}))

    def _remove(self, child: Child) -> None:
        self.members.remove(child)
        child.board.absent(child.role, child.place)

    def terminate(self, roles: tuple[str, ...], alive: Callable[[], None]) -> None:
        """Have those of these kinds end, and wait; `alive` is called again and again meanwhile."""
        running = [child for child in self.members if child.role in roles and child.process is not None]
        for child in running:
            child.terminate()
        for child in running:
            process = cast("subprocess.Popen[bytes]", child.process)
            while True:
                alive()
                child.kill_due(time.monotonic())
                try:
                    process.wait(WAIT_S)
                except subprocess.TimeoutExpired:
                    continue
                break
            child.board.absent(child.role, child.place)

    # -------------------------------------------------------------- those that hang

    def look(self, now: float) -> None:
        """Find those that hang, have them killed, and kill those whose time is over."""
        running = [child for child in self.members if child.process is not None]
        for watched in self.watch.look(now, [child for child in running if not child.retiring and not child.leaving]):
            self._on_hang(cast("Child", watched))
        for child in running:
            child.kill_due(now)

    def _on_hang(self, child: Child) -> None:
        assert child.process is not None
        silent_s = self.watch.silent_s(child)
        what, traced = doing(child.process.pid)
        log.error(
            "%s (process %d) has not answered for %.0f s (%s)%s",
            child.name,
            child.process.pid,
            silent_s,
            what or "the kernel does not say why",
            "; it is let alone" if traced else "; it was killed, and does not end" if child.hung else "; killing it",
        )
        if self.watch.times_found(child) == 1:
            self._counters.add(HANGS[child.role], 1)
            self._tell(Incident("hung", {"process": child.name, "silent_s": silent_s, "text": what}))
        if not traced:
            child.kill_hung()

    def _tell(self, incident: Incident) -> None:
        if len(self.incidents) < MOST_INCIDENTS:
            self.incidents.append(incident)

    def is_well(self, child: Child) -> bool:
        """Whether it serves, and has beaten at the last look."""
        return child.ready and not child.retiring and not child.hung and self.watch.silent_s(child) == 0

    def trouble_of(self, child: Child, now: float) -> str:
        """What is wrong with a process, for people; "": it serves, or is about to."""
        if child.process is None:
            return f"{child.name} has ended, and is started again"
        if child.hung:
            return f"{child.name} hangs, and is being killed"
        if self.watch.times_found(child):
            return f"{child.name} has not answered for {self.watch.silent_s(child):.0f} s"
        if not child.ready and now - child.started > child.start_s:
            return f"{child.name} has not been ready for {now - child.started:.0f} s"
        return ""

    # -------------------------------------------------------------- a change of the configuration

    def replace(self, children: list[Child]) -> None:
        """Let these end and start again, one after the other; their sockets stay open meanwhile."""
        self._replaced = children
        self._replacing = list(children)
        self._replace_next()

    @property
    def settled(self) -> bool:
        """Whether every process that was to be replaced serves."""
        return not self._replacing and all(child.ready and not child.retiring for child in self._replaced)

    def _replace_next(self) -> None:
        if any(child.retiring for child in self.members):
            return
        while self._replacing:
            child = self._replacing.pop(0)
            if child.process is not None:
                child.retire()
                return
