"""A million messages through one relay while the memory of each of its processes is watched.

A relay's memory may rise while its buffers fill; then it has to stay. The slope is taken over the part after the first
`SETTLED_SHARE` of the messages, in octets per message: one leaked object of a hundred octets a message shows as 100.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from typing import TYPE_CHECKING, Any

from .accounting import command_line, pss_octets, read_load, wait_until_settled
from .figures import slope
from .relays import PROJECT
from .series import AT_REST_S
from .traffic import Generator, Sink
from .trial import MICRO, STALL_S, Scenario

if TYPE_CHECKING:
    from collections.abc import Callable

    from .accounting import ProcessGroup
    from .relays import Relay

Samples = list[tuple[int, int]]
SAMPLE_S = 1.0
SETTLED_SHARE = 0.1
KEPT_POINTS = 400


def sample_memory(group: ProcessGroup) -> dict[int, int]:
    return {pid: pss_octets(pid) for pid in group.pids()}


def soak(
    relay: Relay, sink: Sink, scenario: Scenario, messages: int, *, limit_s: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """The relay has to be running. Raises nothing for what it does: `ok` is false when messages are missing."""
    group = relay.ground.group
    time.sleep(AT_REST_S)
    at_rest = sample_memory(group)
    samples: list[dict[str, Any]] = []
    base, cpu, load = sink.messages(), group.cpu(), read_load()
    start = last_at = time.monotonic()
    generator = Generator(relay.ground.state, relay.port, messages, **dataclasses.asdict(scenario))
    count = last_count = 0
    try:
        while count < messages:
            time.sleep(SAMPLE_S)
            now = time.monotonic()
            count = sink.messages() - base
            memory = sample_memory(group)
            samples.append({"at_s": round(now - start, 2), "received": count, "pss_octets": memory})
            if count != last_count:
                last_count, last_at = count, now
            if len(samples) % 10 == 0:
                total = sum(memory.values()) / 1e6
                say(
                    f"{count:>9,} of {messages:,} received, {count / (now - start):8,.0f}/s,"
                    f" PSS of all processes {total:6.1f} MB"
                )
            if (generator.poll() and now - last_at > STALL_S) or now - start > limit_s:
                break
        deadline = time.monotonic() + STALL_S
        while not generator.poll() and time.monotonic() < deadline:
            time.sleep(0.1)
        ok = count >= messages and generator.exit_code == 0
        error = "" if ok else generator.errors() or "messages are missing"
    finally:
        generator.close()
    took_s = last_at - start
    wait_until_settled(group)
    samples.append({"at_s": round(time.monotonic() - start, 2), "received": count, "pss_octets": sample_memory(group)})
    spent = group.cpu() - cpu
    return {
        "ok": ok,
        "error": error,
        "messages": messages,
        "received": count,
        "duplicates": max(0, sink.messages() - base - messages),
        "size_octets": scenario.size_octets,
        "sessions": scenario.sessions,
        "end_to_end_rate": round(count / took_s, 1) if count else 0.0,
        "relay_cpu_us": round(spent.total_s / messages * MICRO, 2),
        "steal_s": round(read_load().since(load).steal_s, 2),
        "processes": describe_all(at_rest, samples, messages),
        "samples": samples[:: max(1, len(samples) // KEPT_POINTS)],
    }


def describe(command: str, samples: Samples, at_rest: int, after: int, messages: int) -> dict[str, Any]:
    """One process, or all of them together, over the whole run. `samples` pairs messages received with PSS."""
    settled = [(float(received), float(memory)) for received, memory in samples if received >= messages * SETTLED_SHARE]
    first = [memory for received, memory in samples if received < messages / 2]
    second = [memory for received, memory in samples if received >= messages / 2]
    return {
        "command": command.replace(str(PROJECT), "."),
        "at_rest_octets": at_rest,
        "first_half_octets": int(statistics.median(first or [at_rest])),
        "second_half_octets": int(statistics.median(second or [at_rest])),
        "peak_octets": max([at_rest, *(memory for _, memory in samples)]),
        "after_octets": after,
        "slope_octets_per_message": round(slope(settled), 4),
    }


def describe_all(at_rest: dict[int, int], samples: list[dict[str, Any]], messages: int) -> list[dict[str, Any]]:
    """Each process that was there at rest, by pid, and last the sum over all processes there ever were."""
    described = []
    for pid, rest in at_rest.items():
        own = [(sample["received"], sample["pss_octets"][pid]) for sample in samples if pid in sample["pss_octets"]]
        described.append(describe(command_line(pid) or "ended", own, rest, pss_octets(pid), messages))
    total = [(sample["received"], sum(sample["pss_octets"].values())) for sample in samples]
    after = sum(samples[-1]["pss_octets"].values()) if samples else 0
    described.append(describe("all processes", total, sum(at_rest.values()), after, messages))
    return described
