"""The machine a result was measured on, as far as it bears on the figures."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .relays import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .spool import Spool

PROBE_OCTETS = 4096
PROBE_SYNCS = 300


def first_match(path: str, pattern: str) -> str | None:
    try:
        found = re.search(pattern, Path(path).read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    return found.group(1).strip().strip('"') if found else None


def git(*argv: str) -> str | None:
    done = subprocess.run(["git", *argv], cwd=PROJECT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def describe_mount(folder: Path) -> dict[str, Any]:
    """File system, options, and whether an ext4 has a journal (the kernel lists one under /proc/fs/jbd2)."""
    number = os.stat(folder).st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == device:
            kind, source, options = rest.split()[:3]
            described: dict[str, Any] = {
                "filesystem": kind,
                "source": source,
                "options": f"{fields.split()[5]};{options}",
            }
            if kind == "ext4":
                journals = Path("/proc/fs/jbd2")
                name = Path(source).name
                described["journal"] = journals.is_dir() and any(
                    entry.name.startswith(f"{name}-") for entry in journals.iterdir()
                )
            return described
    return {"filesystem": "unknown"}


def sync_rates(folder: Path, syncs: int = PROBE_SYNCS) -> dict[str, float]:
    """fdatasync calls per second after writes of 4 KiB: to a file that grows, and to one already written (a recycled
    segment).
    """
    path = folder / f".sync-probe-{os.getpid()}"
    block = os.urandom(PROBE_OCTETS)
    rates = {}
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for name in ("growing_file", "recycled_file"):
            os.lseek(descriptor, 0, os.SEEK_SET)
            start = time.monotonic()
            for _ in range(syncs):
                os.write(descriptor, block)
                os.fdatasync(descriptor)
            rates[name] = round(syncs / (time.monotonic() - start), 1)
    finally:
        os.close(descriptor)
        path.unlink()
    return rates


def cores_of(how: str) -> tuple[frozenset[int], frozenset[int]]:
    """The relay's, and those of everything else."""
    cores = sorted(os.sched_getaffinity(0))
    if how == "shared" or len(cores) == 1:
        return frozenset(cores), frozenset(cores)
    return frozenset(cores[: len(cores) // 2]), frozenset(cores[len(cores) // 2 :])


@contextlib.contextmanager
def on_cores(cores: frozenset[int]) -> Iterator[None]:
    """What is started here runs on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def describe_machine(spool: Spool, accounting: str) -> dict[str, Any]:
    memory_kib = first_match("/proc/meminfo", r"^MemTotal:\s+(\d+)")
    hypervisor = "hypervisor" in (first_match("/proc/cpuinfo", r"^flags\s*:(.*)$") or "").split()
    return {
        "cpu": first_match("/proc/cpuinfo", r"^model name\s*:(.*)$") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "virtual": hypervisor,
        "memory_octets": int(memory_kib) * 1024 if memory_kib else None,
        "kernel": platform.release(),
        "system": first_match("/etc/os-release", r"^PRETTY_NAME=(.*)$"),
        "clocksource": first_match("/sys/devices/system/clocksource/clocksource0/current_clocksource", r"^(.*)$"),
        "spool": {"kind": spool.kind, **describe_mount(spool.folder), "fdatasync_per_s": sync_rates(spool.folder)},
        "accounting": accounting,
        "commit": git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(git("status", "--porcelain")),
    }
