"""What a relay cost, and what else the machine did meanwhile.

A `ProcessGroup` holds every process of one relay. With a cgroup (v1 `cpuacct` or v2) the kernel adds up the CPU time of
all of them, also of those that have ended; without one, the process tree is read from /proc, where an ended child
counts as soon as its parent has waited for it. Times are seconds of CPU, sizes octets.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

PAGE_OCTETS = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
CGROUP_NAME = "angarium-bench"
SMAPS_EVERY = 4  # PSS costs the kernel a walk over the page tables: read it every fourth time only


@dataclass(frozen=True)
class CpuTime:
    user_s: float
    system_s: float

    @property
    def total_s(self) -> float:
        return self.user_s + self.system_s

    def __sub__(self, earlier: CpuTime) -> CpuTime:
        return CpuTime(self.user_s - earlier.user_s, self.system_s - earlier.system_s)


@dataclass(frozen=True)
class Process:
    """One living process as /proc shows it; `waited` is the CPU time of its ended children."""

    pid: int
    parent: int
    state: str
    own: CpuTime
    waited: CpuTime


def read_process(pid: int) -> Process | None:
    """The process, or None when it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rsplit(")", 1)[1].split()
    ticks = [int(value) / TICKS_PER_S for value in fields[11:15]]
    return Process(pid, int(fields[1]), fields[0], CpuTime(ticks[0], ticks[1]), CpuTime(ticks[2], ticks[3]))


def all_processes() -> list[Process]:
    found = (read_process(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [process for process in found if process is not None]


def descendants(root: int) -> list[Process]:
    """`root` and all that descend from it and still live."""
    processes = all_processes()
    members = {root}
    grown = True
    while grown:
        more = {process.pid for process in processes if process.parent in members} - members
        members |= more
        grown = bool(more)
    return [process for process in processes if process.pid in members]


class ProcessGroup(Protocol):
    """All processes of one relay."""

    kind: str

    def command(self, argv: list[str]) -> list[str]:
        """`argv`, wrapped so that the program and its descendants belong to the group."""

    def watch(self, root: int) -> None:
        """Name the relay's first process (only the group read from /proc needs it)."""

    def pids(self) -> list[int]: ...

    def cpu(self) -> CpuTime: ...

    def close(self) -> None: ...


class ControlGroup:
    """A cgroup, made under `parent` and removed on close."""

    def __init__(self, parent: Path, kind: str, name: str = CGROUP_NAME) -> None:
        self.kind = kind
        self.folder = parent / name
        self.folder.mkdir(exist_ok=True)

    def command(self, argv: list[str]) -> list[str]:
        # The shell enters the group and then becomes the program: no fork hook in a process that has threads.
        return ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.folder / "cgroup.procs"), *argv]

    def watch(self, root: int) -> None:
        pass

    def pids(self) -> list[int]:
        return [int(line) for line in (self.folder / "cgroup.procs").read_text().split()]

    def cpu(self) -> CpuTime:
        if self.kind == "cgroup v1 cpuacct":
            user, system = ((self.folder / f"cpuacct.usage_{part}").read_text() for part in ("user", "sys"))
            return CpuTime(int(user) / 1e9, int(system) / 1e9)
        usage = dict(line.split() for line in (self.folder / "cpu.stat").read_text().splitlines())
        return CpuTime(int(usage["user_usec"]) / 1e6, int(usage["system_usec"]) / 1e6)

    def close(self) -> None:
        for _ in range(50):
            try:
                self.folder.rmdir()
            except FileNotFoundError:
                return
            except OSError:  # a process of the group is still on its way out
                time.sleep(0.1)
            else:
                return


class ProcessTree:
    """The descendants of the relay's first process, read from /proc. Clock ticks are its resolution."""

    kind = "/proc, ended children included"

    def __init__(self) -> None:
        self.root: int | None = None

    def command(self, argv: list[str]) -> list[str]:
        return argv

    def watch(self, root: int) -> None:
        self.root = root

    def pids(self) -> list[int]:
        return [] if self.root is None else [process.pid for process in descendants(self.root)]

    def cpu(self) -> CpuTime:
        members = [] if self.root is None else descendants(self.root)
        return CpuTime(
            sum(process.own.user_s + process.waited.user_s for process in members),
            sum(process.own.system_s + process.waited.system_s for process in members),
        )

    def close(self) -> None:
        self.root = None


def open_group(name: str = CGROUP_NAME) -> ProcessGroup:
    """The best accounting this machine and this user can have; two relays at a time need two names."""
    v1 = Path("/sys/fs/cgroup/cpuacct")
    v2 = [root for root in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")) if (root / "cgroup.procs").exists()]
    choices = [(v1, "cgroup v1 cpuacct")] if (v1 / "cpuacct.usage_user").exists() else []
    for parent, kind in [*choices, *((root, "cgroup v2") for root in v2)]:
        try:
            return ControlGroup(parent, kind, name)
        except OSError:
            continue
    return ProcessTree()


def rss_octets(pid: int) -> int:
    """Resident set; 0 when the process has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_OCTETS
    except (FileNotFoundError, ProcessLookupError):
        return 0


def pss_octets(pid: int) -> int:
    """Proportional set size: shared pages divided among those who share them. 0 when ended or not ours to read."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        pass
    return 0


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


class MemorySampler(threading.Thread):
    """Samples the group's memory until `finish`, and keeps the peaks of the sums over all its processes."""

    def __init__(self, group: ProcessGroup, every_s: float = 0.5) -> None:
        super().__init__(daemon=True)
        self.group = group
        self.every_s = every_s
        self.peak_rss = self.peak_pss = self.peak_processes = 0
        self._done = threading.Event()

    def run(self) -> None:
        turn = 0
        while not self._done.wait(self.every_s):
            pids = self.group.pids()
            self.peak_processes = max(self.peak_processes, len(pids))
            self.peak_rss = max(self.peak_rss, sum(map(rss_octets, pids)))
            if turn % SMAPS_EVERY == 0:
                self.peak_pss = max(self.peak_pss, sum(map(pss_octets, pids)))
            turn += 1

    def finish(self) -> None:
        self._done.set()
        self.join()


@dataclass(frozen=True)
class MachineLoad:
    """CPU seconds of the whole machine by state, of kernel threads, and what one block device has written."""

    user_s: float
    system_s: float
    idle_s: float
    iowait_s: float
    interrupt_s: float
    steal_s: float
    kernel_threads_s: float = 0.0
    writes: int = 0
    written_octets: int = 0
    flushes: int = 0
    at: float = field(default_factory=time.monotonic)

    @property
    def all_s(self) -> float:
        return self.user_s + self.system_s + self.idle_s + self.iowait_s + self.interrupt_s + self.steal_s

    @property
    def busy_s(self) -> float:
        return self.user_s + self.system_s + self.interrupt_s

    def since(self, earlier: MachineLoad) -> MachineLoad:
        names = list(self.__dataclass_fields__)
        return MachineLoad(**{name: getattr(self, name) - getattr(earlier, name) for name in names})


def read_load(device: str | None = None, kernel_threads: bool = False) -> MachineLoad:
    """`device` is "major:minor" of the spool's block device; kernel threads (journal, writeback, softirq) cost a walk
    of /proc.
    """
    values = [int(value) / TICKS_PER_S for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    threads_s = 0.0
    if kernel_threads:
        threads_s = sum(process.own.total_s for process in all_processes() if process.parent == 2 or process.pid == 2)
    writes = written = flushes = 0
    for line in Path("/proc/diskstats").read_text().splitlines() if device else ():
        fields = line.split()
        if f"{fields[0]}:{fields[1]}" == device:
            writes, written = int(fields[7]), int(fields[9]) * 512
            flushes = int(fields[18]) if len(fields) > 18 else 0
    return MachineLoad(
        user_s=values[0] + values[1],
        system_s=values[2],
        idle_s=values[3],
        iowait_s=values[4],
        interrupt_s=values[5] + values[6],
        steal_s=values[7],
        kernel_threads_s=threads_s,
        writes=writes,
        written_octets=written,
        flushes=flushes,
    )


def wait_for_quiet(limit_s: float = 60, busy_share: float = 0.08) -> bool:
    """Wait until less than `busy_share` of the machine is used over 0.4 s; False when `limit_s` passes first."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        before = read_load()
        time.sleep(0.4)
        spent = read_load().since(before)
        if spent.busy_s < busy_share * spent.all_s:
            return True
    return False


def wait_until_settled(group: ProcessGroup, limit_s: float = 10) -> None:
    """Wait until the relay has done what it does after the last delivery: that is part of its cost."""
    deadline = time.monotonic() + limit_s
    last = group.cpu().total_s
    while time.monotonic() < deadline:
        time.sleep(0.2)
        now = group.cpu().total_s
        if now - last < 0.006:
            return
        last = now
