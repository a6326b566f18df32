"""A relay that loses processes: tests.support.relay.Relay with kill -9 by pid, for tests whose next hop runs on
the same loop.

Everything that waits does so in a thread, so that senders and next hops of the test go on meanwhile. Processes
are found below the supervisor in /proc, killed by pid, and their end is awaited by pidfd. The ports stay taken
while the relay is down.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.clients import PATIENCE_S
from tests.support.relay import Relay, merged

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TRACEBACK = re.compile(r"Traceback \(most recent call last\)|Exception ignored|Fatal Python error")


class Node(Relay):
    """One relay with two workers before a next hop on 127.0.0.1; however often it is killed, the spool stays."""

    def __init__(self, folder: Path, next_hop: int, config: Mapping[str, Any] | None = None) -> None:
        own = {
            "node": {"workers": 2},
            "queue": {"shards": 2, "segment_size": "1MiB"},
            "delivery": {"tls": "none", "connections_per_host": 10},
            "route": [{"recipients": ["*"], "next_hop": f"smtp://127.0.0.1:{next_hop}"}],
        }
        super().__init__(folder, merged(own, config or {}))
        self._held = [_hold(self.smtp_port, shared=True), _hold(self.admin_port, shared=False)]

    async def up(self) -> None:
        """Start it and wait until it serves."""
        await asyncio.to_thread(self.start)

    async def down(self) -> int:
        """SIGTERM, and wait. The exit status."""
        return await asyncio.to_thread(self.stop)

    async def close(self) -> None:
        """End whatever runs and give the ports back."""
        await asyncio.to_thread(self.kill)
        for sock in self._held:
            sock.close()

    async def until(self, condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
        """Relay.wait, in a thread."""
        return await asyncio.to_thread(self.wait, condition, what, patience_s)

    # -------------------------------------------------------------- processes

    def children(self, role: str) -> list[int]:
        """Pids of the supervisor's children of one role: worker, admin."""
        try:
            pids = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        except OSError:
            return []
        return [int(pid) for pid in pids if arguments(pid)[-1:] == [role]]

    async def kill_pids(self, *pids: int) -> None:
        """kill -9 of processes of this relay, and wait until they are gone."""
        fds = []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                fds.append(os.pidfd_open(pid))
                signal.pidfd_send_signal(fds[-1], signal.SIGKILL)
        await asyncio.to_thread(_await_end, fds)

    async def kill_everything(self) -> None:
        """kill -9 of the supervisor and all its children."""
        await asyncio.to_thread(self.kill)

    async def kill_supervisor(self) -> None:
        """kill -9 of the supervisor alone."""
        assert self.process is not None
        await self.kill_pids(self.process.pid)
        self.process.wait()
        self.process = None

    async def settled(self, patience_s: float = 60.0) -> None:
        """Wait until every worker answers and the queue is empty."""

        def empty() -> bool:
            status = self.api("status")
            serving = all(report["status"] and report["status"]["accepting"] for report in status["workers"])
            return serving and self.summary()["messages"] == 0  # the gauge is a tick behind

        await self.until(_when_it_answers(empty), "an empty queue", patience_s)

    async def serving(self, patience_s: float = 60.0) -> None:
        """Wait until every worker answers."""

        def served() -> bool:
            return all(report["status"] for report in self.api("status")["workers"])

        await self.until(_when_it_answers(served), "every worker to answer", patience_s)

    # -------------------------------------------------------------- from outside

    def memory_octets(self) -> int:
        """Proportional set size of all workers together."""
        return sum(pss_octets(pid) for pid in self.children("worker"))

    async def sound(self) -> None:
        """As before anyone came: it answers, it is ready, no connection is left, nobody complained."""

        def quiet() -> bool:
            return self.metrics()["angarium_ingress_open_connections"] == 0

        await self.until(quiet, "no open connection")
        status, body = await asyncio.to_thread(self.get, "/readyz")
        assert status == 200, body
        assert not TRACEBACK.search(self.stderr), self.stderr[-4000:]


def pss_octets(pid: int) -> int:
    """Proportional set size of a process."""
    found = re.search(r"^Pss:\s+(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def _when_it_answers(condition: Callable[[], bool]) -> Callable[[], bool]:
    def answered() -> bool:
        try:
            return condition()
        except (OSError, AssertionError):
            return False  # the admin process is not up yet

    return answered


def _hold(port: int, *, shared: bool) -> socket.socket:
    """A bound socket that never listens: the port is not given to anybody else, and the relay may bind it."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    return sock


def arguments(pid: str) -> list[str]:
    """The command line of a process; nothing when there is none, or it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def _await_end(fds: list[int]) -> None:
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    while fds:
        for fd, _ in poll.poll():
            poll.unregister(fd)
            fds.remove(fd)
            os.close(fd)
