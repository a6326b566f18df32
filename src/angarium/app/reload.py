"""One change of a running node's configuration, as the supervisor goes through it.

    reading     a process of its own reads and checks the file
    preparing   sockets of new listeners are bound; every worker builds what the configuration says, and changes nothing
    committing  it is decided: it is the configuration in force, every worker takes what it has built
    over

Until it is decided, anything that goes wrong ends it: all workers let go of what they built, and the configuration
before stays. After it is decided nothing takes it back: a worker that ends, or does not take it in time and is ended,
starts again with the configuration in force. So no two workers run two configurations but for the moment between their
commits. A worker that is down, or not yet ready, when it begins is not waited for; it is started with what was decided.

Input: where the file is, the workers and their channels, and functions of the supervisor. It waits for nothing: the
supervisor calls it when one of `files` is readable, when a worker answers or ends, and when `due` has come.

Fails: every failure is a Problem of the Result. Bounds: READ_S, PREPARE_S, COMMIT_S.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

import msgspec

from angarium.app.channel import MOST_FILES, Answer, Channel, Order, file_of
from angarium.app.reading import Reading, Source, start_reader
from angarium.config.change import Change, changed_keys, settle
from angarium.config.model import Config, dump, load_dump
from angarium.config.problem import Problem

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from angarium.config.address import ListenAddress
    from angarium.config.model import Listener

__all__ = ["Decision", "Member", "Phase", "Reload", "Result"]

log = logging.getLogger("angarium")

READ_S = 30.0
PREPARE_S = 60.0
COMMIT_S = 30.0
READ_OCTETS = 1 << 20
_OF_A_SOCKET = ("socket_mode", "socket_group")  # what a Unix socket was made with
LAST_S = 1.0  # for a reader that has said all to end


class Phase(Enum):
    """How far it is."""

    READING = "reading"
    PREPARING = "preparing"
    COMMITTING = "committing"
    OVER = "over"


class Member(Protocol):
    """A worker, as the supervisor knows it."""

    number: int
    channel: Channel | None

    @property
    def name(self) -> str:
        """For the log."""

    def kill(self) -> None:
        """End it at once; it is started again."""


class Result(msgspec.Struct):
    """What came of it. `changed`, `waiting`: keys; the latter wait for a restart."""

    applied: bool
    sha256: str = ""
    changed: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Decision:
    """What came into force: with sockets for the listeners that are new, one for each worker, and the admin's."""

    change: Change
    sockets: dict[str, list[socket.socket]]
    admin: socket.socket | None


class Reload:
    """From the request to the result."""

    def __init__(
        self,
        number: int,
        source: Source,
        running: Config,
        *,
        members: Callable[[], Sequence[Member]],
        workers: int,
        bind: Callable[[Listener | ListenAddress, int, socket.socket | None], socket.socket],
        decided: Callable[[Decision], None],
    ) -> None:
        """Begin. `members`: the workers that are ready. `bind(listener, worker, first)` makes the listening socket of a
        worker, `first` being that of worker 0, or that of an address for the admin process; OSError when it cannot."""
        self.number = number
        self.phase = Phase.READING
        self.result: Result | None = None
        self._source = source
        self._running = running
        self._members = members
        self._workers = workers
        self._bind = bind
        self._decided = decided
        self._reader = start_reader(source)
        assert self._reader.stdout is not None
        self._output = self._reader.stdout
        os.set_blocking(self._output.fileno(), False)
        self._read = bytearray()
        self.due = time.monotonic() + READ_S
        self._reading = Reading(None, (), "")
        self._sockets: dict[str, list[socket.socket]] = {}
        self._admin: socket.socket | None = None
        self._change: Change | None = None
        self._waited_for: dict[int, Member] = {}  # who has not prepared, or not committed
        self._prepared: dict[int, Member] = {}

    @property
    def files(self) -> list[int]:
        """What the supervisor waits for beside its workers."""
        return [self._output.fileno()] if self.phase is Phase.READING else []

    @property
    def waiting_for(self) -> list[str]:
        """The workers that have not answered yet."""
        return [member.name for member in self._waited_for.values()]

    @property
    def taking(self) -> list[Member]:
        """The workers that take the configuration while they serve; every other one starts with it."""
        return list(self._waited_for.values()) if self.phase is Phase.COMMITTING else []

    # -------------------------------------------------------------- reading

    def on_readable(self) -> None:
        """The reader has written something, or ended."""
        with contextlib.suppress(BlockingIOError):
            octets = os.read(self._output.fileno(), READ_OCTETS)
            if octets:
                self._read += octets
                return
            self._end_reader(LAST_S)
            try:
                self._reading = msgspec.msgpack.decode(bytes(self._read), type=Reading)
            except msgspec.MsgspecError:
                self._refuse(f"the file could not be read: the process that read it ended ({self._reader.returncode})")
                return
            self._read.clear()
            self._on_reading()

    def _end_reader(self, patience_s: float = 0.0) -> None:
        self._output.close()
        try:
            self._reader.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._reader.kill()
            self._reader.wait()

    def _on_reading(self) -> None:
        reading = self._reading
        if reading.config is None:
            self._over(Result(False, reading.sha256, problems=reading.problems))
            return
        change = settle(self._running, load_dump(reading.config))
        try:
            change = self._bind_new(change)
        except _Refused as refusal:
            self._over(Result(False, reading.sha256, problems=(refusal.problem,)))
            return
        self._change = change
        self._prepare(change)

    # -------------------------------------------------------------- sockets

    def _bind_new(self, change: Change) -> Change:
        """Bind what is new. A port that only root may have, when root's rights were given up, waits for a restart."""
        running, config = self._running, change.config
        open_now = {str(listener.listen): listener for listener in running.listener}
        by_name = {listener.name: listener for listener in running.listener}
        listeners = []
        waiting = list(change.waiting)
        for position, listener in enumerate(config.listener):
            before = open_now.get(str(listener.listen))
            if before is not None:
                changed = [name for name in _OF_A_SOCKET if getattr(before, name) != getattr(listener, name)]
                waiting += [f"listener.{listener.name}.{name}" for name in changed]
                kept = {name: getattr(before, name) for name in changed}
                listeners.append(msgspec.structs.replace(listener, **kept))
            elif self._open(listener, f"listener[{position}].listen"):
                listeners.append(listener)
            else:
                waiting.append(f"listener.{listener.name}.listen")
                before = by_name.get(listener.name)
                if before is not None and before.listen not in {other.listen for other in config.listener}:
                    listeners.append(msgspec.structs.replace(listener, listen=before.listen))
        if len(self._sockets) >= MOST_FILES:
            raise self._refusal("", f"{len(self._sockets)} new listeners are too many for one reload; restart")
        admin = config.admin
        if str(admin.listen) != str(running.admin.listen):
            try:
                self._admin = self._bind(admin.listen, 0, None)
            except PermissionError:
                waiting.append("admin.listen")
                admin = msgspec.structs.replace(admin, listen=running.admin.listen)
            except OSError as failure:
                raise self._refusal("admin.listen", str(failure)) from failure
        if tuple(waiting) == change.waiting:
            return change
        config = msgspec.structs.replace(config, listener=tuple(listeners), admin=admin)
        return Change(config, changed_keys(running, config), tuple(waiting))

    def _open(self, listener: Listener, key: str) -> bool:
        """A socket for each worker; False when only root could bind it."""
        address = str(listener.listen)
        sockets = self._sockets[address] = []
        try:
            for number in range(self._workers):
                sockets.append(self._bind(listener, number, sockets[0] if sockets else None))
        except PermissionError:
            for sock in self._sockets.pop(address):
                sock.close()
            return False
        except OSError as failure:
            raise self._refusal(key, str(failure)) from failure
        return True

    def _refusal(self, key: str, message: str) -> _Refused:
        line, column = self._reading.places.get(key, (0, 0))
        return _Refused(Problem(self._source.file, line, column, key, message))

    # -------------------------------------------------------------- all workers, twice

    def _prepare(self, change: Change) -> None:
        self.phase = Phase.PREPARING
        self.due = time.monotonic() + PREPARE_S
        fd = file_of(dump(change.config))
        try:
            for member in self._members():
                addresses = list(self._sockets)
                files = [fd, *(self._sockets[address][member.number].fileno() for address in addresses)]
                try:
                    assert member.channel is not None
                    member.channel.order(Order("prepare", self.number, addresses), files)
                except OSError as failure:
                    self._refuse(f"{member.name} takes no orders: {failure.strerror}")
                    return
                self._waited_for[member.number] = member
        finally:
            os.close(fd)
        self._go_on()

    def on_answer(self, member: Member, answer: Answer) -> None:
        """A worker has done its part, or cannot."""
        if answer.number != self.number or member.number not in self._waited_for:
            return  # of a change that is over
        if self.phase is Phase.PREPARING and answer.op == "failed":
            del self._waited_for[member.number]
            problems = tuple(self._problem(error) for error in dict.fromkeys(answer.errors))
            self._abort(Result(False, self._reading.sha256, problems=problems))
        elif answer.op == ("prepared" if self.phase is Phase.PREPARING else "committed"):
            if self.phase is Phase.PREPARING:
                self._prepared[member.number] = member
            del self._waited_for[member.number]
            self._go_on()

    def on_end(self, member: Member) -> None:
        """A worker has ended. What it had built is gone; what it was to build may have been too much for it."""
        self._prepared.pop(member.number, None)
        if self._waited_for.pop(member.number, None) is None:
            return
        if self.phase is Phase.PREPARING:
            self._refuse(f"{member.name} ended while it prepared the change")
        else:
            self._go_on()

    def on_due(self) -> None:
        """What it waits for has not come in time."""
        if self.phase is Phase.READING:
            self._end_reader()
            self._refuse(f"the file could not be read within {READ_S:g} s")
        elif self.phase is Phase.PREPARING:
            self._refuse(f"{', '.join(self.waiting_for)}: not prepared within {PREPARE_S:g} s")
        elif self.phase is Phase.COMMITTING:
            for member in list(self._waited_for.values()):
                log.error("%s does not take the configuration; killing it", member.name)
                member.kill()
                self._waited_for.pop(member.number, None)
            self._go_on()

    def give_up(self) -> None:
        """The node stops."""
        if self.phase is Phase.READING:
            self._end_reader()
        if self.phase in (Phase.READING, Phase.PREPARING):
            self._refuse("the relay is being stopped")

    def _go_on(self) -> None:
        if self._waited_for:
            return
        change = self._change
        assert change is not None
        if self.phase is Phase.PREPARING:
            self.phase = Phase.COMMITTING
            self.due = time.monotonic() + COMMIT_S
            self._waited_for = self._prepared
            self._prepared = {}
            self._decided(Decision(change, self._sockets, self._admin))
            for member in list(self._waited_for.values()):
                try:
                    assert member.channel is not None
                    member.channel.order(Order("commit", self.number))
                except OSError:
                    member.kill()
                    self._waited_for.pop(member.number, None)
            if self._waited_for:
                return
        reading = self._reading
        self._over(Result(True, reading.sha256, change.changed, change.waiting, reading.problems))

    # -------------------------------------------------------------- the end

    def _problem(self, message: str) -> Problem:
        return Problem(self._source.file, 0, 0, "", message)

    def _refuse(self, message: str) -> None:
        self._abort(Result(False, self._reading.sha256, problems=(self._problem(message),)))

    def _abort(self, result: Result) -> None:
        for member in (*self._waited_for.values(), *self._prepared.values()):
            if member.channel is not None:
                with contextlib.suppress(OSError):
                    member.channel.order(Order("abort", self.number))
        self._waited_for.clear()
        self._over(result)

    def _over(self, result: Result) -> None:
        if not result.applied:
            for sock in (sock for sockets in self._sockets.values() for sock in sockets):
                sock.close()
            if self._admin is not None:
                self._admin.close()
        self.phase = Phase.OVER
        self.result = result


class _Refused(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem
