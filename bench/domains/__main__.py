"""python -m bench.domains run | report

Every message goes to a domain of its own that nobody has heard of before. One run of a relay: the resolver's cache is
emptied, the relay started on an empty queue, the mail sent; timed until the last message is at the sink. So intake,
look-ups and delivery go on side by side, as they do in life.

With --cores apart, half of the cores is the relay's, and the other half is left to resolver, mail hosts and generator,
which in life are other machines; shared: all of them on all cores, so that the faster relay has less of them.

Run from the top of a checkout, as root: mail hosts listen on port 25, and Postfix asks a resolver at port 53. The
result is JSON; `report` turns one into Markdown. Exits 0 when every run came to its end, 1 when one did not, 2 on wrong
usage.
"""

from __future__ import annotations

import argparse
import contextlib
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.load.accounting import MemorySampler, open_group, wait_for_quiet, wait_until_settled
from bench.load.machine import cores_of, on_cores, sync_rates
from bench.load.relays import Ground, RelayFailure
from bench.load.report import machine_section, rate_text, table, with_spread
from bench.load.series import running
from bench.load.spool import open_spool
from bench.load.stage import (
    RESULTS,
    add_options,
    alone,
    available,
    carry_out,
    describe,
    now,
    say,
    undisturbed,
    write,
)
from bench.load.traffic import Sink
from bench.load.trial import PROBE_SYNCS, probe_speed
from bench.queue.flood import Plan, flood
from bench.queue.judge import of, paired, ratio_text, times

from .names import ZONE, Names
from .relays import SMTP_PORT, AngariumByMx, PostfixByMx

if TYPE_CHECKING:
    from bench.load.relays import Relay

TIMES = 5.0  # the goal beside Postfix
STALL_S = 60.0
LOOK_S = 0.004


@dataclass(frozen=True)
class Sizes:
    """How large and how long. `hosts` mail hosts are shared out among the domains; 0: each domain has its own."""

    domains: int = 100_000
    hosts: int = 1000
    octets: int = 1024
    sessions: int = 100
    repetitions: int = 3
    limit_s: float = 1200.0


@dataclass(frozen=True)
class Place:
    """Addresses and ports."""

    hosts: tuple[str, ...] = tuple(f"127.0.0.{last}" for last in range(32, 64))  # of the mail hosts in turn, at port 25
    resolver: str = "127.53.0.1"
    resolver_port: int = 53
    authority_port: int = 5353
    relay_port: int = 2525
    admin_port: int = 8925


def measure(relay: Relay, names: Names, sizes: Sizes, place: Place) -> dict[str, Any]:
    """One relay once, with an empty queue before and after."""
    names.fresh()
    machine = {
        "quiet_before": wait_for_quiet(relay.ground.quiet_limit_s),
        "probe_ms": probe_speed(),
        "fdatasync_per_s": sync_rates(relay.ground.spool.folder, PROBE_SYNCS)["recycled_file"],
        "disturbed": False,
    }
    with running(relay), contextlib.ExitStack() as stack:
        # several, since smtp-sink looks at the timers of all its sessions at each step of one
        sinks = [Sink(relay.ground.state, SMTP_PORT, host=host) for host in place.hosts]
        for sink in sinks:
            stack.callback(sink.close)
        group = relay.ground.group
        wait_until_settled(group)
        before, sampler = group.cpu(), MemorySampler(group)
        sampler.start()
        try:
            result = transport(relay, sinks, sizes)
        finally:
            sampler.finish()
        result["cpu_us"] = (group.cpu() - before).total_s / max(1, result["arrived"]) * 1e6
        result |= {**machine, "peak_pss_octets": sampler.peak_pss, "sessions": sum(sink.sessions() for sink in sinks)}
        if not relay.wait_until_empty():
            relay.purge()
    return result


def transport(relay: Relay, sinks: list[Sink], sizes: Sizes) -> dict[str, Any]:
    """Send all of it, and wait for all of it."""
    plan = Plan(
        relay.port, sizes.domains, domains=sizes.domains, zone=ZONE, octets=sizes.octets, sessions=sizes.sessions
    )
    sent: dict[str, Any] = {}

    def send() -> None:
        try:
            sent.update(flood(plan, limit_s=sizes.limit_s))
        except RelayFailure as failure:
            sent["error"] = str(failure)

    sender = threading.Thread(target=send, name="flood")
    start = last_at = time.monotonic()
    sender.start()
    count = 0
    while count < sizes.domains:
        time.sleep(LOOK_S)
        seen, at = sum(sink.messages() for sink in sinks), time.monotonic()
        if seen > count:
            count, last_at = seen, at
        if at - last_at > STALL_S or at - start > sizes.limit_s:
            break
    sender.join()
    took = last_at - start
    return {
        "arrived": count,
        "took_s": took,
        "rate": count / took if count else 0.0,
        "accept_rate": sent["accepted"] / sent["seconds"] if sent.get("seconds") else 0.0,
        "error": sent.get("error", ""),
        "ok": count >= sizes.domains and "error" not in sent,
    }


def run(options: argparse.Namespace) -> int:
    sizes = Sizes(**{name: getattr(options, name) for name in Sizes.__dataclass_fields__})
    place = Place()
    out: Path = options.out or RESULTS / f"domains-{time.strftime('%Y%m%d-%H%M%S')}.json"
    with contextlib.ExitStack() as stack:
        stack.enter_context(alone())
        autogroup_off = stack.enter_context(undisturbed(options.nice))
        options.state.mkdir(parents=True, exist_ok=True)
        group = open_group()
        stack.callback(group.close)
        relay_cores, harness_cores = cores_of(options.cores)
        stack.enter_context(on_cores(harness_cores))
        disk = stack.enter_context(open_spool(options.disk, options.spool, options.image, options.image_gib))
        ground = Ground(
            disk,
            options.state,
            group,
            options.durability,
            min(options.workers, len(relay_cores)),
            place.relay_port,
            admin_port=place.admin_port,
        )
        names = make_names(options.state / "names", sizes, place)
        stack.callback(names.close)
        names.start()
        relays = available([AngariumByMx(ground, names, relay_cores), PostfixByMx(ground, names, relay_cores)])
        with on_cores(relay_cores | harness_cores):
            result = describe("domains", "bench.domains", options, ground, relays, autogroup_off)
        result |= {"runs": [], "cores": options.cores}
        result["sizes"] = {name: getattr(sizes, name) for name in Sizes.__dataclass_fields__}
        for repetition in range(1, sizes.repetitions + 1):
            for relay in relays:
                done = {"relay": relay.name, "repetition": repetition, **measure(relay, names, sizes, place)}
                result["runs"].append(done)
                result["finished"] = now()
                say(
                    f"{relay.name:8} {repetition}: {done['rate']:7,.0f}/s, {done['cpu_us']:7,.0f} µs CPU a message, "
                    f"{done['sessions']:,} sessions {done['error']}"
                )
                write(result, out)
        out.with_suffix(".md").write_text(render(result), encoding="utf-8")
        say(f"result: {out}, report: {out.with_suffix('.md')}")
        return 0 if all(each["ok"] for each in result["runs"]) else 1


def make_names(folder: Path, sizes: Sizes, place: Place) -> Names:
    """The DNS of this bench."""
    return Names(
        folder,
        domains=sizes.domains,
        hosts=sizes.hosts or sizes.domains,
        host_addresses=place.hosts,
        address=place.resolver,
        port=place.resolver_port,
        authority=place.authority_port,
    )


def render(result: dict[str, Any]) -> str:
    """The report."""
    sizes, runs = result["sizes"], result["runs"]
    hosts = f"{sizes['hosts']:,} mail hosts" if sizes["hosts"] else "a mail host each"
    lines = [
        f"# {sizes['domains']:,} distinct domains, {hosts}",
        "",
        f"A message of {sizes['octets']:,} octets to each, over {sizes['sessions']} sessions; the resolver's cache is",
        "empty before each run. Timed from the first connection to the last message at the sink.",
        "Half of the cores is the relay's; resolver, mail hosts and generator have the others."
        if result["cores"] == "apart"
        else "Relay, resolver, mail hosts and generator share the cores.",
        "",
    ]
    ratio = paired(runs, "relay", "angarium", "postfix", "rate")
    if ratio is not None:
        met = "yes" if ratio.median >= TIMES else "**no**"
        row = ["end to end, beside Postfix", f"≥ {TIMES:g}×", ratio_text(ratio, times), met]
        lines += table(["what", "goal", "reached", "met"], [row])
    relays = list(dict.fromkeys(each["relay"] for each in runs))
    rows = [
        [
            relay,
            with_spread(of(runs, relay, "rate"), rate_text),
            with_spread(of(runs, relay, "accept_rate"), rate_text),
            with_spread(of(runs, relay, "cpu_us"), rate_text),
            with_spread(of(runs, relay, "sessions"), rate_text),
        ]
        for relay in relays
    ]
    lines += table(["relay", "end to end/s", "accepted/s", "relay CPU µs/message", "sessions at the sink"], rows)
    lines += machine_section(result)
    return "\n".join(lines) + "\n"


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.domains", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    runs = verbs.add_parser("run", help="Angarium and Postfix in turn")
    add_options(runs)
    for name, field in Sizes.__dataclass_fields__.items():
        runs.add_argument(
            "--" + name.replace("_", "-"),
            type=type(field.default),
            default=field.default,
            help=f"(default {field.default})",
        )
    runs.add_argument("--cores", choices=("apart", "shared"), default="apart", help="(default apart)")
    report = verbs.add_parser("report", help="Markdown from a result")
    report.add_argument("file", type=Path)
    return parser.parse_args(argv)


def main() -> int:
    return carry_out(parse_arguments(), run, render)


if __name__ == "__main__":
    raise SystemExit(main())
