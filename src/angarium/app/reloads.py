"""The reloads of a node, one after the other, and which configuration is in force.

Input: requests (`begin`, from commands and SIGHUP), and calls of the supervisor when something is readable, answered,
ended or due. Output: the supervisor's own functions are called when a change is decided; who asked is answered when it
is over, and when the processes that are replaced for it serve again, or REPLACE_S later.

A request that comes while a reload runs begins another one behind it, for the file may have been read already; all
that come meanwhile share it. It never fails: what is wrong is the answer.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from angarium.app.in_force import InForce
from angarium.app.reload import Phase, Reload

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from angarium._core.counters import Counters
    from angarium.app.channel import Answer
    from angarium.app.node_socket import Client
    from angarium.app.reading import Source
    from angarium.app.reload import Decision, Member, Result
    from angarium.config.address import ListenAddress
    from angarium.config.model import Config, Listener

__all__ = ["Reloads"]

log = logging.getLogger("angarium")

REPLACE_S = 20.0


class Reloads:
    """Of one node."""

    def __init__(
        self,
        source: Source | None,
        sha256: str,
        *,
        running: Callable[[], Config],
        members: Callable[[], Sequence[Member]],
        workers: int,
        bind: Callable[[Listener | ListenAddress, int, socket.socket | None], socket.socket],
        decided: Callable[[Decision], None],
        settled: Callable[[], bool],
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        """source: the file; None: there is none, and nothing to read again. sha256: of it as it was read at the start.

        `running` is the configuration in force, `members` the workers that are ready, `settled()` whether every process
        that was replaced serves; `tell` has the event log take the fields of the event `reload`. The rest as for
        Reload.
        """
        self._source = source
        self._in_force = InForce("" if source is None else source.file, sha256)
        self._running = running
        self._members = members
        self._workers = workers
        self._bind = bind
        self._decided = decided
        self._settled = settled
        self._tell = tell
        self._current: Reload | None = None
        self._asking: list[Client] = []  # who waits for it
        self._again: list[Client] | None = None  # who asked meanwhile; None: nobody
        self._count = 0
        self._replaced_by = 0.0

    def count_in(self, counters: Counters) -> None:
        """Where the metrics are written."""
        self._in_force.count_in(counters)

    def begin(self, clients: list[Client]) -> None:
        """Read the configuration again, for these clients or for nobody."""
        if self._source is None:
            log.warning("reload: nothing to read again in the sandbox")
            for client in clients:
                client.answer({"ok": False, "error": "the sandbox runs without a configuration file"})
            return
        if self._current is not None:
            self._again = (self._again or []) + clients
            return
        log.info("reload: reading %s", self._source.file)
        self._asking = clients
        self._count += 1
        self._current = Reload(
            self._count,
            self._source,
            self._running(),
            members=self._members,
            workers=self._workers,
            bind=self._bind,
            decided=self._take,
        )

    def _take(self, decision: Decision) -> None:
        self._replaced_by = time.monotonic() + REPLACE_S
        self._decided(decision)

    # -------------------------------------------------------------- what the supervisor waits for

    @property
    def files(self) -> list[int]:
        """What else is to be looked at for input."""
        return [] if self._current is None else self._current.files

    @property
    def due(self) -> float | None:
        """When `advance` is to be called at the latest (monotonic); None: not for that."""
        if self._current is None:
            return None
        return self._replaced_by if self._current.phase is Phase.OVER else self._current.due

    @property
    def count(self) -> int:
        """How many have begun."""
        return self._count

    @property
    def under_way(self) -> bool:
        """Whether one has begun that is not over."""
        return self._current is not None

    @property
    def undecided(self) -> bool:
        """Whether it is open which configuration a worker is to start with."""
        return self._current is not None and self._current.phase is Phase.PREPARING

    @property
    def taking(self) -> list[Member]:
        """The workers that take what was decided while they serve."""
        return [] if self._current is None else self._current.taking

    # -------------------------------------------------------------- what happens

    def on_answer(self, member: Member, answer: Answer) -> None:
        """A worker has said something."""
        if self._current is not None:
            self._current.on_answer(member, answer)

    def on_end(self, member: Member) -> None:
        """A worker has ended."""
        if self._current is not None:
            self._current.on_end(member)

    def advance(self, readable: bool) -> None:
        """Go on as far as possible; `readable`: one of `files` is."""
        reload = self._current
        if reload is None:
            return
        if readable:
            reload.on_readable()
        now = time.monotonic()
        if reload.phase is not Phase.OVER and now >= reload.due:
            reload.on_due()
        if reload.result is None or (reload.result.applied and now < self._replaced_by and not self._settled()):
            return
        self._end(reload.result)

    def give_up(self) -> None:
        """The node stops."""
        if self._current is not None:
            self._current.give_up()

    def _end(self, result: Result) -> None:
        self._current = None
        self._tell(self._in_force.note(result))
        for client in self._asking:
            client.answer({"ok": result.applied, "result": result})
        self._asking = []
        if self._again is not None:
            again, self._again = self._again, None
            self.begin(again)

    def status(self) -> dict[str, Any]:
        """As `angarium status` and GET /api/v1/status have it."""
        return self._in_force.status(self._current)
