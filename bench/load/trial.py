"""One measured run: a number of messages of one size through one relay, from the generator to the sink.

The clock starts with the generator. `accept` ends when the generator has its last 250, `end_to_end` when the sink has
counted the last message; the relay's CPU time also includes what it does after that. A run during which other work took
more than `FOREIGN_LIMIT` of the machine is marked as disturbed.
"""

from __future__ import annotations

import dataclasses
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .accounting import CpuTime, MemorySampler, read_load, wait_for_quiet, wait_until_settled
from .machine import sync_rates
from .traffic import Generator, Sink

if TYPE_CHECKING:
    from .relays import Relay

FOREIGN_LIMIT = 0.06
POLL_S = 0.004
STALL_S = 15
PROBE_STEPS = 500_000
PROBE_SYNCS = 50
MICRO = 1e6


@dataclass(frozen=True)
class Scenario:
    size_octets: int
    sessions: int
    mode: str  # "reuse": a connection carries many messages; "new": a connection per message
    recipient: str = "rcpt@dst.example"

    def __str__(self) -> str:
        return f"{self.size_octets} octets, {self.sessions} sessions, {self.mode}"


@dataclass
class Run:
    """The result of one run. Rates are messages per second, CPU is microseconds per message, memory octets."""

    relay: str
    size_octets: int
    sessions: int
    mode: str
    messages: int
    repetition: int = 0
    ok: bool = False
    error: str = ""
    received: int = 0
    duplicates: int = 0
    accept_s: float = 0.0
    end_to_end_s: float = 0.0
    accept_rate: float = 0.0
    end_to_end_rate: float = 0.0
    relay_cpu_us: float | None = None
    relay_cpu_user_us: float | None = None
    relay_cpu_system_us: float | None = None
    generator_cpu_us: float = 0.0
    sink_cpu_us: float = 0.0
    kernel_threads_cpu_us: float = 0.0
    sink_sessions: int = 0
    peak_rss_octets: int | None = None
    peak_pss_octets: int | None = None
    peak_processes: int | None = None
    disk_writes: int = 0
    disk_written_octets: int = 0
    disk_flushes: int = 0
    idle_share: float = 0.0
    iowait_share: float = 0.0
    steal_share: float = 0.0
    harness_share: float = 0.0
    foreign_share: float = 0.0
    quiet_before: bool = True
    disturbed: bool = False
    probe_ms: float = 0.0  # CPU time of a fixed loop just before: whether the machine itself is as fast as before
    fdatasync_per_s: float = 0.0  # of the recycled file, just before: whether the disk is
    started_at: str = ""

    def as_json(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}


def probe_speed() -> float:
    """Milliseconds of CPU that a fixed loop takes: the host of a virtual machine can slow it down unseen by /proc."""
    start = time.process_time()
    total = 0
    for number in range(PROBE_STEPS):
        total += number
    return (time.process_time() - start) * 1e3


def run_trial(
    relay: Relay, sink: Sink, scenario: Scenario, messages: int, *, limit_s: float, repetition: int = 0
) -> Run:
    """Measure once. Never raises for what the relay does: a failed run has `ok` false and says why."""
    ground = relay.ground
    run = Run(relay.name, scenario.size_octets, scenario.sessions, scenario.mode, messages, repetition)
    sink.forget()
    os.sync()
    run.quiet_before = wait_for_quiet(ground.quiet_limit_s)
    run.probe_ms = probe_speed()
    run.fdatasync_per_s = sync_rates(ground.spool.folder, PROBE_SYNCS)["recycled_file"]
    run.started_at = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    base, base_sessions, base_sink_s = sink.messages(), sink.sessions(), sink.cpu_s()
    sampler = MemorySampler(ground.group) if relay.measured else None
    before = ground.group.cpu()
    load = read_load(ground.spool.device, kernel_threads=True)
    own = time.process_time()
    if sampler:
        sampler.start()
    start = time.monotonic()
    generator = Generator(ground.state, relay.port, messages, **dataclasses.asdict(scenario))
    try:
        follow(run, generator, sink, base=base, start=start, limit_s=limit_s)
        harness_s = time.process_time() - own
        spent = read_load(ground.spool.device, kernel_threads=True).since(load)
        sink_s = sink.cpu_s() - base_sink_s
        relay_s = ground.group.cpu() - before
        run.error = "" if run.ok else generator.errors() or "the sink stopped counting"
    finally:
        generator.close()
        if relay.measured:
            wait_until_settled(ground.group)
        if sampler:
            sampler.finish()
    run.duplicates = max(0, sink.messages() - base - messages)
    run.sink_sessions = sink.sessions() - base_sessions
    run.generator_cpu_us = generator.cpu_s / messages * MICRO
    run.sink_cpu_us = sink_s / messages * MICRO
    run.kernel_threads_cpu_us = spent.kernel_threads_s / messages * MICRO
    run.disk_writes, run.disk_written_octets, run.disk_flushes = spent.writes, spent.written_octets, spent.flushes
    run.idle_share, run.iowait_share, run.steal_share = (
        value / spent.all_s for value in (spent.idle_s, spent.iowait_s, spent.steal_s)
    )
    run.harness_share = harness_s / spent.all_s
    known_s = generator.cpu_s + sink_s + relay_s.total_s + spent.kernel_threads_s + harness_s
    run.foreign_share = (spent.busy_s - known_s) / spent.all_s
    run.disturbed = run.foreign_share > FOREIGN_LIMIT
    if sampler:
        count_relay(run, ground.group.cpu() - before, sampler)
    return run


def follow(run: Run, generator: Generator, sink: Sink, *, base: int, start: float, limit_s: float) -> None:
    """Watch the sink's counter until the last message, a stall, or the limit; fill in the times and rates."""
    last_count, last_at = 0, start
    accepted_at: float | None = None
    while True:
        now = time.monotonic()
        count = sink.messages() - base
        if count != last_count:
            last_count, last_at = count, now
        if accepted_at is None and generator.poll():
            accepted_at = now
        if accepted_at is not None and (count >= run.messages or generator.exit_code or now - last_at > STALL_S):
            break
        if now - start > limit_s:
            break
        time.sleep(POLL_S)
    run.received = last_count
    run.ok = last_count >= run.messages and generator.exit_code == 0
    run.accept_s = (accepted_at or now) - start
    run.end_to_end_s = last_at - start
    run.accept_rate = run.messages / run.accept_s if generator.exit_code == 0 else 0.0
    run.end_to_end_rate = last_count / run.end_to_end_s if last_count else 0.0


def count_relay(run: Run, cpu: CpuTime, sampler: MemorySampler) -> None:
    run.relay_cpu_us = cpu.total_s / run.messages * MICRO
    run.relay_cpu_user_us = cpu.user_s / run.messages * MICRO
    run.relay_cpu_system_us = cpu.system_s / run.messages * MICRO
    run.peak_rss_octets, run.peak_pss_octets = sampler.peak_rss, sampler.peak_pss
    run.peak_processes = sampler.peak_processes
