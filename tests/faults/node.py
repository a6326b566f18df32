"""A whole relay as child processes that a test may kill: start, wait until it is ready, kill -9 by pid, look at it from outside.

Processes are found below the supervisor that was started here, in /proc, and killed by pid; their end is awaited by pidfd.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.support.load import reserve_port

START_S = 30.0

CONFIG = """\
[node]
hostname = "relay.test"
spool = "{spool}"
workers = {workers}
[admin]
listen = "127.0.0.1:{admin}"
[events]
file = "{events}"
[limits]
{limits}
[queue]
segment_size = "{segment}"
shards = {shards}
durability = "{durability}"
retry = {{ first = "500ms", factor = 1, longest = "500ms", expire = "1h" }}
{queue}
[delivery]
tls = "none"
connections_per_host = {connections}
{delivery}
{tables}
[[listener]]
name = "relay"
listen = "127.0.0.1:{smtp}"
role = "relay"
relay_networks = ["127.0.0.0/8"]
{listener}
[[route]]
recipients = ["*"]
next_hop = "smtp://127.0.0.1:{next_hop}"
"""


class Node:
    """One relay on ports of its own; start and kill it as often as you like, the spool and the ports stay."""

    def __init__(
        self,
        folder: Path,
        next_hop: int,
        *,
        workers: int = 2,
        shards: int | None = None,
        spool: Path | None = None,
        limits: str = "",
        queue: str = "",
        delivery: str = "",
        tables: str = "",
        listener: str = "",
        segment: str = "4MiB",
        durability: str = "fsync",
        connections: int = 10,
    ) -> None:
        self.folder = folder
        self.workers = workers
        self.events_file = folder / "events.jsonl"
        self.stderr_file = folder / "stderr.txt"
        self.spool = spool or folder / "spool"
        self._held = [reserve_port(), reserve_port(shared=False)]
        self.port, self.admin_port = (sock.getsockname()[1] for sock in self._held)
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self.config_file = folder / "angarium.toml"
        self.config_file.write_text(
            CONFIG.format(
                spool=self.spool,
                workers=workers,
                shards=shards or workers,
                admin=self.admin_port,
                events=self.events_file,
                limits=limits,
                queue=queue,
                delivery=delivery,
                tables=tables,
                listener=listener,
                segment=segment,
                durability=durability,
                connections=connections,
                smtp=self.port,
                next_hop=next_hop,
            )
        )

    # -------------------------------------------------------------- life

    def spawn(self) -> None:
        """Start the supervisor; ready() tells when it serves."""
        with self.stderr_file.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "angarium.cli.main", "serve", "--config", str(self.config_file)],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
            )
        self.starts += 1

    async def start(self) -> None:
        """Start and wait until every worker serves and the admin process answers."""
        self.spawn()
        await self.ready()

    async def ready(self, workers: int | None = None) -> None:
        """Wait until so many workers (all) accept mail."""
        wanted = self.workers if workers is None else workers
        until = time.monotonic() + START_S
        last: object = None
        while time.monotonic() < until:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"the relay ended: {self.stderr()[-3000:]}")
            with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
                last = status = json.loads((await self.get("/api/v1/status"))[1])
                accepting = [x for x in status["workers"] if x["answering"] and x["status"]["accepting"]]
                if len(accepting) >= wanted:
                    return
            await asyncio.sleep(0.02)
        raise AssertionError(f"not ready in {START_S} s: {last}\n{self.stderr()[-3000:]}")

    async def stop(self) -> int:
        """SIGTERM; the supervisor's exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
            try:
                await asyncio.to_thread(self.process.wait, 40)
            except subprocess.TimeoutExpired:
                await self.kill_all()
                raise
        return self.process.returncode

    async def close(self) -> None:
        """End whatever runs and give the ports back."""
        if self.process is not None and self.process.poll() is None:
            await self.kill_all()
        for sock in self._held:
            sock.close()

    # -------------------------------------------------------------- processes

    def children(self, role: str | None = None) -> list[int]:
        """Pids of the supervisor's children, of one role (worker, admin) or all."""
        assert self.process is not None
        pid = self.process.pid
        try:
            pids = [int(x) for x in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:
            return []
        return [x for x in pids if role is None or _arguments(x)[-1:] == [role]]

    async def kill(self, *pids: int) -> None:
        """kill -9, and wait until they are gone."""
        fds = []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                fds.append(os.pidfd_open(pid))
                signal.pidfd_send_signal(fds[-1], signal.SIGKILL)
        await asyncio.to_thread(_await_end, fds)

    async def kill_all(self) -> None:
        """kill -9 of everything, the supervisor first."""
        assert self.process is not None
        await self.kill(self.process.pid, *self.children())
        self.process.wait()

    # -------------------------------------------------------------- looking at it

    async def get(self, path: str) -> tuple[int, str]:
        """A GET of the admin process: (status, body)."""
        return await asyncio.to_thread(self._get, path)

    def _get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    async def metric(self, name: str, labels: str = "") -> float:
        """One sample of /metrics."""
        _, text = await self.get("/metrics")
        found = re.search(rf"^angarium_{name}{re.escape(labels)} (\S+)$", text, re.MULTILINE)
        assert found, f"no metric {name}{labels}"
        return float(found[1])

    async def metric_becomes(self, name: str, value: float, timeout_s: float = 10.0) -> None:
        """Wait until a metric has this value."""
        until = time.monotonic() + timeout_s
        while (now := await self.metric(name)) != value:
            assert time.monotonic() < until, f"{name} is {now}, not {value}"
            await asyncio.sleep(0.05)

    async def settled(self, timeout_s: float = 60.0) -> None:
        """Wait until the queue is empty."""
        await self.metric_becomes("queue_messages", 0, timeout_s)

    def stderr(self) -> str:
        """All that the relay's processes said."""
        return self.stderr_file.read_text(errors="replace") if self.stderr_file.exists() else ""

    def events(self, name: str | None = None) -> list[dict[str, object]]:
        """The event log; a line torn by kill -9 is left out."""
        found = []
        for line in self.events_file.read_bytes().splitlines() if self.events_file.exists() else ():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if name is None or event["event"] == name:
                found.append(event)
        return found

    def memory_octets(self) -> int:
        """Proportional set size of all workers together."""
        return sum(pss_octets(pid) for pid in self.children("worker"))


def pss_octets(pid: int) -> int:
    """Proportional set size of a process."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no Pss line")


def _arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def _await_end(fds: list[int]) -> None:
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    left = set(fds)
    while left:
        for fd, _ in poll.poll(10_000):
            poll.unregister(fd)
            left.discard(fd)
            os.close(fd)
