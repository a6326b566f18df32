"""One Angarium of the bench's: `angarium serve` with routes and queue settings of its own, seen from outside.

Everything is read from the admin API, /metrics and /proc. Fails: RelayFailure, with the path of the log.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import time
from typing import TYPE_CHECKING, Any

from bench.load.accounting import descendants, pss_octets, read_process, rss_octets
from bench.load.relays import STOP_LIMIT_S, Angarium, RelayFailure

if TYPE_CHECKING:
    from pathlib import Path

    from bench.load.relays import Ground

READY = "angarium is ready"
RECOVERY_LIMIT_S = 300.0
ANSWER_S = 120.0
LAG = "angarium_worker_loop_lag_seconds"
PAUSE_S = 0.05  # the goal: no pause of a worker's loop is longer


class Node(Angarium):
    """`routes` are (pattern, next hop), the first match wins; `queue` are keys of [queue] as TOML values."""

    start_limit_s = RECOVERY_LIMIT_S

    def __init__(
        self,
        ground: Ground,
        routes: list[tuple[str, str]],
        *,
        name: str = "angarium",
        queue: dict[str, str] | None = None,
        delivery: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self._routes = routes
        self._queue = {"durability": f'"{ground.durability}"', **(queue or {})}
        self._delivery = delivery or {}
        super().__init__(ground)

    def settings(self) -> str:
        lines = [
            "[node]",
            'hostname = "relay.bench.test"',
            f'spool = "{self.queue}"',
            f"workers = {self.ground.workers}",
            "[admin]",
            f'listen = "127.0.0.1:{self.ground.admin_port}"',
            "[events]",
            f'file = "{self.state}/events.jsonl"',
            "[[listener]]",
            'name = "bench"',
            f'listen = "127.0.0.1:{self.port}"',
            'role = "relay"',
            'tls = "none"',
            'relay_networks = ["127.0.0.0/8"]',
            "[queue]",
            *(f"{key} = {value}" for key, value in self._queue.items()),
            "[delivery]",
            *(f"{key} = {value}" for key, value in self._delivery.items()),
        ]
        for pattern, next_hop in self._routes:
            lines += ["[[route]]", f'recipients = ["{pattern}"]', f'next_hop = "{next_hop}"']
        return "\n".join(lines) + "\n"

    # -------------------------------------------------------------- life

    def start(self) -> None:
        """Start it, and wait until every worker serves."""
        self.start_timed()

    def start_timed(self) -> float:
        """Seconds from the start of the process until every worker has recovered its shards and serves."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        before = self._said()
        began = time.monotonic()
        super().start()
        process = self.process
        assert process is not None
        while self._said() == before:
            if process.poll() is not None or time.monotonic() - began > RECOVERY_LIMIT_S:
                raise RelayFailure(f"{self.name} does not get ready; log: {self.log}")
            time.sleep(0.01)
        return time.monotonic() - began

    def _said(self) -> int:
        return self.log.read_bytes().count(READY.encode()) if self.log.exists() else 0

    def kill(self) -> None:
        """kill -9 of the session that start() made: the supervisor and its children, and nothing else.

        Returns when they are gone: a process with much memory takes a moment, and holds the spool's lock meanwhile.
        """
        process, self.process = self.process, None
        assert process is not None
        pids = [member.pid for member in descendants(process.pid)]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + STOP_LIMIT_S
        while any(member is not None and member.state != "Z" for member in map(read_process, pids)):
            if time.monotonic() > deadline:
                raise RelayFailure(f"{self.name}: processes of {process.pid} do not end")
            time.sleep(0.005)

    def forget_events(self) -> None:
        """Empty the event log: a million deferrals are some hundred megabytes."""
        os.truncate(self.state / "events.jsonl", 0)

    def clear(self) -> None:
        """A spool of nothing; the relay must not run."""
        shutil.rmtree(self.queue, ignore_errors=True)

    # -------------------------------------------------------------- what it says

    def get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.ground.admin_port, timeout=ANSWER_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            octets = answer.read()
        except OSError as error:
            raise RelayFailure(f"{self.name}: {path}: {error}; log: {self.log}") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise RelayFailure(f"{self.name}: {path}: HTTP {answer.status} {octets[:200]!r}")
        return octets

    def metrics(self) -> dict[str, float]:
        """Every sample by its name and labels, as the exposition writes them."""
        lines = (line for line in self.get("/metrics").decode().splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def metric(self, name: str) -> float:
        return self.metrics()[name]

    def summary(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.get("/api/v1/queue/summary"))
        return answer

    def queue_length(self) -> int:
        return int(self.summary()["messages"])

    def worker_pids(self) -> list[int]:
        reports = json.loads(self.get("/api/v1/status"))["workers"]
        return [report["status"]["pid"] for report in reports if report["status"] is not None]

    def memory(self) -> dict[str, int]:
        """Of the workers together, in octets: PSS, RSS, and how much of it is mail data."""
        pids = self.worker_pids()
        if len(pids) != self.ground.workers:
            raise RelayFailure(f"{self.name}: {len(pids)} workers answer; log: {self.log}")
        return {
            "pss": sum(map(pss_octets, pids)),
            "rss": sum(map(rss_octets, pids)),
            "mail_data": int(self.metric("angarium_queue_memory_bytes")),
        }

    def disk_octets(self) -> int:
        """Blocks that the spool's files take."""
        return used_octets(self.queue)


def used_octets(folder: Path) -> int:
    """What `du` says; a file that vanishes meanwhile counts as nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


def pauses(before: dict[str, float], after: dict[str, float]) -> dict[str, Any]:
    """What the histogram of loop lags gained between two scrapes.

    `longest_s_at_most` is the upper bound of the highest bucket that grew: the longest pause was no longer.
    """
    bounds: list[tuple[float, float]] = []
    for name, value in after.items():
        if name.startswith(f"{LAG}_bucket"):
            bound = float(name.partition('le="')[2].partition('"')[0])
            bounds.append((bound, value - before.get(name, 0.0)))
    bounds.sort()
    total = bounds[-1][1] if bounds else 0.0
    longest = next((bound for bound, count in bounds if count >= total), 0.0) if total else 0.0
    within = max((count for bound, count in bounds if bound <= PAUSE_S), default=0.0)
    return {"observed": int(total), "longest_s_at_most": longest, "over_50_ms": int(total - within)}
