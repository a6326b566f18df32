"""Accept while the next hop is down, then drain when it comes up: each relay in turn.

Nothing listens on the sink's port while the generator runs. When it has its last 250 and the relay has come to rest,
the sink starts, and at once the relay is told to try everything, as an operator would: `angarium queue retry`,
`postqueue -f`. It is told again whenever nothing has arrived for `PATIENCE_S`. The drain is timed from the start of the
sink to the last message, so what a relay needs to notice is part of it.
"""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from bench.load.accounting import MemorySampler, wait_for_quiet, wait_until_settled
from bench.load.machine import sync_rates
from bench.load.series import running
from bench.load.traffic import Generator
from bench.load.trial import PROBE_SYNCS, STALL_S, probe_speed

from .node import used_octets

if TYPE_CHECKING:
    from bench.load.relays import Relay
    from bench.load.traffic import Sink

    from .stand import Stand

PATIENCE_S = 3.0
REST_S = 30.0
MODE = "reuse"


def run(stand: Stand, relays: list[Relay]) -> dict[str, Any]:
    runs = []
    for repetition in range(1, stand.sizes.dead_repetitions + 1):
        for relay in relays:
            with running(relay):
                done = {"relay": relay.name, "repetition": repetition, **measure(stand, relay)}
            runs.append(done)
            stand.say(
                f"dead hop: {relay.name:8} {repetition}: accept {done['accept_rate']:7,.0f}/s, "
                f"drain {done['drain_rate']:7,.0f}/s, first after {done['first_s']:.1f} s {done['error']}"
            )
    return {"messages": stand.sizes.dead_messages, "octets": stand.sizes.dead_octets, "runs": runs}


def measure(stand: Stand, relay: Relay) -> dict[str, Any]:
    """One relay once; its queue is empty before, and emptied after."""
    sizes, group = stand.sizes, relay.ground.group
    quiet = wait_for_quiet(relay.ground.quiet_limit_s)
    result: dict[str, Any] = {
        "quiet_before": quiet,
        "probe_ms": probe_speed(),
        "fdatasync_per_s": sync_rates(stand.ground.spool.folder, PROBE_SYNCS)["recycled_file"],
        "disturbed": False,
    }
    disk = used_octets(relay.queue)
    cpu = group.cpu()
    sampler = MemorySampler(group)
    sampler.start()
    try:
        result |= accept(stand, relay)
        wait_until_settled(group, REST_S)
        accepted = group.cpu()
        result["accept_cpu_us"] = (accepted - cpu).total_s / sizes.dead_messages * 1e6
        result["disk_octets"] = used_octets(relay.queue) - disk
        with contextlib.closing(stand.fast_sink()) as sink:
            result |= drain(stand, relay, sink)
            wait_until_settled(group)
            result["duplicates"] = max(0, sink.messages() - sizes.dead_messages)
        result["drain_cpu_us"] = (group.cpu() - accepted).total_s / max(1, result["drained"]) * 1e6
    finally:
        sampler.finish()
    result["peak_pss_octets"] = sampler.peak_pss
    result["ok"] = not result["error"] and result["drained"] >= sizes.dead_messages
    if not relay.wait_until_empty():
        relay.purge()
    return result


def accept(stand: Stand, relay: Relay) -> dict[str, Any]:
    sizes = stand.sizes
    start = time.monotonic()
    generator = Generator(
        stand.ground.state,
        relay.port,
        sizes.dead_messages,
        size_octets=sizes.dead_octets,
        sessions=sizes.sessions,
        mode=MODE,
    )
    try:
        while not generator.poll() and time.monotonic() - start < sizes.limit_s:
            time.sleep(0.004)
        took = time.monotonic() - start
        ok = generator.exit_code == 0
        return {
            "accept_s": took,
            "accept_rate": sizes.dead_messages / took if ok else 0.0,
            "error": "" if ok else generator.errors() or "the generator did not end",
        }
    finally:
        generator.close()


def drain(stand: Stand, relay: Relay, sink: Sink) -> dict[str, Any]:
    wanted = stand.sizes.dead_messages
    start = last_at = asked_at = time.monotonic()
    with ThreadPoolExecutor(1) as asker:
        asking = asker.submit(relay.retry_all)
        asked, count, first_at = 1, 0, 0.0
        while count < wanted:
            time.sleep(0.004)
            now = time.monotonic()
            seen = sink.messages()
            if seen > count:
                first_at = first_at or now
                count, last_at = seen, now
            if now - max(last_at, asked_at) > PATIENCE_S and asking.done():
                asking.result()
                asking = asker.submit(relay.retry_all)
                asked, asked_at = asked + 1, now
            if now - last_at > STALL_S * 4:
                break
        asking.result()
    return {
        "drained": count,
        "drain_s": last_at - start,
        "drain_rate": count / (last_at - start) if count else 0.0,
        "first_s": first_at - start if first_at else 0.0,
        "asked": asked,
    }
