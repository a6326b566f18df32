"""What "auto" and "25%" come to on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from angarium.config.model import Config

__all__ = [
    "machine_memory_octets",
    "memory_budget_octets",
    "needs_access",
    "needs_events",
    "shard_count",
    "worker_count",
]

_MOST_WORKERS = 256
_FEWEST_SHARDS = 8  # an empty shard is a folder and a sleeping thread


def _usable_cores() -> int:
    """Those that this process may run on, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0))


def worker_count(config: Config) -> int:
    """Worker processes: as configured, else one per core, and never more than there are shards."""
    if config.node.workers != "auto":
        return config.node.workers
    most = _MOST_WORKERS if config.queue.shards == "auto" else config.queue.shards
    return min(_usable_cores(), most)


def shard_count(config: Config) -> int:
    """Shards of a spool that is made now: as configured, else enough for more workers later.

    A spool that exists keeps its number.
    """
    return max(_FEWEST_SHARDS, worker_count(config)) if config.queue.shards == "auto" else config.queue.shards


def memory_budget_octets(config: Config) -> int:
    """Octets of mail data that the whole node may keep in memory."""
    budget = config.queue.memory_budget
    if budget.octets is not None:
        return budget.octets
    return int(machine_memory_octets() * (budget.percent or 0) / 100)


def machine_memory_octets(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Physical memory, or the control group's limit when that is less (a container, a systemd unit with MemoryMax)."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = (cgroup / "memory.max").read_text().strip()
    except OSError:  # no such limit: the root group, version 1, or no control groups at all
        return physical
    return min(physical, int(limit)) if limit.isdigit() else physical


def needs_access(config: Config) -> bool:
    """Whether the node has an access process: there are log-ins to verify."""
    return bool(config.credentials)


def needs_events(config: Config) -> bool:
    """Whether the node has a process that keeps the event log and sends it on."""
    return config.event_file is not None
