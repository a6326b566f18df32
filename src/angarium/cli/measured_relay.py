"""A relay of one's own to measure: started with a temporary spool and configuration, watched, stopped.

`MeasuredRelay` runs `angarium serve` on two free loopback ports, everything routed to one next hop, and reads from
/proc what its processes cost. It fails with `RelayNotReady` when the relay does not greet in time, and says why with
the end of its log.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

START_LIMIT_S: Final = 20.0
STOP_LIMIT_S: Final = 20.0
LOG_LINES: Final = 3
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


class RelayNotReady(Exception):
    """The relay ended or did not greet; the message holds the last lines of its log."""


def free_port() -> int:
    """A loopback port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def greets(host: str, port: int) -> bool:
    """Whether an SMTP server answers there with its 220."""
    try:
        with socket.create_connection((host, port), timeout=5) as connection:
            greeting = connection.recv(512)
            connection.sendall(b"QUIT\r\n")
            connection.recv(512)
    except OSError:
        return False
    return greeting.startswith(b"220")


def process_tree(root: int) -> dict[int, list[int]]:
    """pid → [own user, own system, user and system of ended children] in ticks, for `root` and its descendants."""
    parents: dict[int, int] = {}
    ticks: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            fields = Path(f"/proc/{name}/stat").read_text(encoding="ascii", errors="replace").rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        parents[int(name)] = int(fields[1])
        ticks[int(name)] = [int(value) for value in fields[11:15]]
    members = {root} & parents.keys()
    while grown := {pid for pid, parent in parents.items() if parent in members} - members:
        members |= grown
    return {pid: ticks[pid] for pid in members}


def pss_octets(pid: int) -> int:
    """Memory of one process, shared pages divided among their users; 0 when it has ended."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        pass
    return 0


def filesystem_of(folder: Path) -> str:
    """The type of the file system that `folder` is on, as the kernel names it."""
    number = os.stat(folder).st_dev
    wanted = f"{os.major(number)}:{os.minor(number)}"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == wanted:
            return after.split()[0]
    return "unknown"


class MeasuredRelay:
    """A context manager: a relay between a generator and `next_hop`, with a temporary folder made in `folder`."""

    def __init__(self, next_hop: str, *, workers: int, durability: str, folder: Path) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="angarium-bench-", dir=folder))
        self.filesystem = filesystem_of(self.folder)
        self._log = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.config = self.folder / "angarium.toml"
        self.config.write_text(
            f"""\
[node]
hostname = "relay.bench.invalid"
spool = "{self.folder}/spool"
workers = {workers}
[admin]
listen = "127.0.0.1:{free_port()}"
[events]
file = "{self.folder}/events.jsonl"
[[listener]]
name = "bench"
listen = "127.0.0.1:{self.port}"
role = "relay"
tls = "none"
relay_networks = ["127.0.0.0/8"]
[queue]
durability = "{durability}"
[[route]]
recipients = ["*"]
next_hop = "{next_hop}"
""",
            encoding="utf-8",
        )

    def __enter__(self) -> MeasuredRelay:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _start(self) -> None:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "angarium.cli.main", "serve", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_LIMIT_S
        while not greets("127.0.0.1", self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                state = "ended" if self._process.poll() is not None else "does not greet"
                lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
                last = " / ".join([line.strip() for line in lines if line.strip()][-LOG_LINES:])
                raise RelayNotReady(f"the relay {state}: {last or 'its log is empty'}")
            time.sleep(0.05)

    def cpu_s(self) -> float:
        """User and system time of all its processes, ended ones included, since they started."""
        if self._process is None:
            return 0.0
        return sum(sum(ticks) for ticks in process_tree(self._process.pid).values()) / TICKS_PER_S

    def memory_octets(self) -> int:
        """PSS of all its processes."""
        return 0 if self._process is None else sum(pss_octets(pid) for pid in process_tree(self._process.pid))

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # the session made for it
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
