"""Metrics of the relay's processes, read from /proc.

Job: memory, CPU time and descriptors of the supervisor, the admin and lookup processes and the workers, at a scrape.
Fails: a process that has ended, or that /proc does not show to us, is left out.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from angarium.outcome.metrics.told import PROCESS_CPU, PROCESS_FDS, PROCESS_MEMORY, PROCESS_UP

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.metrics_core import Metric as Family

__all__ = ["ProcessCollector"]

_PAGE_OCTETS = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class ProcessCollector(Collector):
    """Families of PROCESS_METRICS for the processes named in `pids`; None for one that did not answer."""

    def __init__(self, pids: Mapping[str, int | None]) -> None:
        self._pids = pids

    def collect(self) -> Iterator[Family]:
        """The four families."""
        memory = GaugeMetricFamily(PROCESS_MEMORY.name, PROCESS_MEMORY.help, labels=[PROCESS_MEMORY.label])
        cpu = CounterMetricFamily(PROCESS_CPU.name, PROCESS_CPU.help, labels=[PROCESS_CPU.label])
        fds = GaugeMetricFamily(PROCESS_FDS.name, PROCESS_FDS.help, labels=[PROCESS_FDS.label])
        up = GaugeMetricFamily(PROCESS_UP.name, PROCESS_UP.help, labels=[PROCESS_UP.label])
        for process, pid in self._pids.items():
            up.add_metric([process], 0 if pid is None else 1)
            if pid is None:
                continue
            try:
                with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
                    # the second field is the program's name in parentheses, and may hold anything
                    fields = stat.read().rpartition(")")[2].split()
            except OSError:
                continue
            cpu.add_metric([process], (int(fields[11]) + int(fields[12])) / _TICKS_PER_S)
            memory.add_metric([process], int(fields[21]) * _PAGE_OCTETS)
            try:
                fds.add_metric([process], len(os.listdir(f"/proc/{pid}/fd")))
            except OSError:
                continue  # of another user: only its own may look
        yield from (memory, cpu, fds, up)
