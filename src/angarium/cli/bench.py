"""`angarium bench`: load generator, relay and sink in one command.

By default it starts a relay of its own (temporary spool and configuration, free loopback ports) between a generator and
a sink, each in its own process, and reports accept and end-to-end rate, latency percentiles, and the relay's CPU time
per message. With `--target` only the generator runs, against a relay that is there already; an address that is not of
this machine is refused unless `--i-own-this-host` is given. Exits 1 when messages failed or went missing.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import platform
import selectors
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from angarium.cli.loadgen import Histogram, Plan
from angarium.cli.measured_relay import MeasuredRelay, RelayNotReady, greets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Show = Callable[[dict[str, Any], dict[str, Any] | None], None]

DRAIN_STALL_S: Final = 20.0
POLL_S: Final = 0.2
MEMORY_EVERY_S: Final = 1.0
MICRO: Final = 1e6


class BenchFailure(Exception):
    """The bench could not run; the message says why in one line."""


class Worker:
    """The generator's or the sink's process, which writes JSON lines; `latest` is the last complete one."""

    def __init__(self, *argv: str) -> None:
        self.latest: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.ended = False
        self._rest = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "angarium.cli.loadgen", *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def fileno(self) -> int:
        if self._process.stdout is None:
            raise BenchFailure("the worker has no standard output")
        return self._process.stdout.fileno()

    def read(self) -> None:
        """Take what has been written; to be called when `fileno` is readable."""
        octets = os.read(self.fileno(), 1 << 16)
        self.ended = not octets
        *lines, self._rest = (self._rest + octets).split(b"\n")
        for line in lines:
            self.latest = json.loads(line)
            self.history.append({name: value for name, value in self.latest.items() if name != "latency"})

    def close(self) -> None:
        """End it. (Were this process killed, the sink would end with its input, and the generator at its limit.)"""
        if self._process.stdin is not None:
            self._process.stdin.close()
        if not self.ended:
            self._process.terminate()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@dataclass
class Measurement:
    """What was seen from outside while the load ran."""

    generator: Worker
    sink: Worker | None = None
    relay: MeasuredRelay | None = None
    relay_cpu_s: float = 0.0
    peak_pss_octets: int = 0
    relay_settings: dict[str, Any] = field(default_factory=dict)


def resolve_target(target: str, owned: bool) -> tuple[str, int]:
    """HOST:PORT → one numeric address and the port. Only loopback addresses pass, unless the host is the user's own."""
    host, colon, port = target.rpartition(":")
    if not colon or not port.isdigit() or not 0 < int(port) < 65536:
        raise click.BadParameter("HOST:PORT is wanted, as in 127.0.0.1:2525", param_hint="--target")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise click.BadParameter(f"{host}: {error.strerror}", param_hint="--target") from error
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        if not owned and not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
            raise click.BadParameter(
                f"{address} is not of this machine; a load test of a host that is not yours is an attack. "
                "--i-own-this-host says that it is yours",
                param_hint="--target",
            )
    return addresses[0], int(port)


@contextlib.contextmanager
def started_sink() -> Iterator[Worker]:
    sink = Worker("sink")
    try:
        sink.read()
        if "port" not in sink.latest:
            raise BenchFailure("the sink does not start")
        yield sink
    finally:
        sink.close()


def follow(measurement: Measurement, show: Show) -> None:
    """Run the load to its end: the generator's last line, then the sink's last message or a stall."""
    generator, sink, relay = measurement.generator, measurement.sink, measurement.relay
    cpu_before = relay.cpu_s() if relay else 0.0
    memory_at = 0.0
    last_count, last_at = 0, time.monotonic()
    with selectors.DefaultSelector() as ready:
        ready.register(generator, selectors.EVENT_READ, generator)
        if sink:
            ready.register(sink, selectors.EVENT_READ, sink)
        while True:
            for key, _ in ready.select(POLL_S):
                worker: Worker = key.data
                worker.read()
                if worker.ended:
                    ready.unregister(worker)
            now = time.monotonic()
            show(generator.latest, sink.latest if sink else None)
            if relay and now - memory_at > MEMORY_EVERY_S:
                memory_at = now
                measurement.peak_pss_octets = max(measurement.peak_pss_octets, relay.memory_octets())
            if generator.ended and not generator.latest.get("finished"):
                raise BenchFailure("the generator ended before its work")
            if sink is None:
                if generator.ended:
                    break
                continue
            if sink.ended:
                raise BenchFailure("the sink ended before its work")
            count = sink.latest.get("messages", 0)
            if count != last_count:
                last_count, last_at = count, now
            if generator.ended and (count >= generator.latest["accepted"] or now - last_at > DRAIN_STALL_S):
                break
    if relay:
        measurement.relay_cpu_s = relay.cpu_s() - cpu_before


def assemble(plan: Plan, measurement: Measurement) -> dict[str, Any]:
    """The result, as `--json` writes it. Rates are messages a second, times seconds, CPU microseconds a message."""
    generator = measurement.generator.latest
    started_at = generator["started_at"]
    accepted = generator["accepted"]
    accept_s = max(generator["at"] - started_at, 1e-9)
    latency = Histogram.from_pairs(
        [(a, b) for a, b in generator["latency"]["buckets"]], generator["latency"]["longest_s"]
    )
    percentiles = {name: latency.percentile(share) for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))}
    result: dict[str, Any] = {
        "format": 1,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "plan": asdict(plan),
        "machine": {"system": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()},
        "accepted": accepted,
        "failed": generator["failed"],
        "failures": generator["failures"],
        "connections": generator["connections"],
        "accept_s": accept_s,
        "accept_rate": accepted / accept_s,
        "received": None,
        "end_to_end_s": None,
        "end_to_end_rate": None,
        "latency_s": {**percentiles, "max": latency.longest_s, "buckets": latency.as_pairs()},
        "generator_cpu_us": generator["cpu_s"] / max(1, accepted) * MICRO,
        "sink_cpu_us": None,
        "relay": None,
        "timeline": {
            "accepted": [
                (0.0, 0),
                *((seen["at"] - started_at, seen["accepted"]) for seen in measurement.generator.history),
            ],
            "received": [],
        },
    }
    if measurement.sink is not None:
        sink = measurement.sink.latest
        received = sink.get("messages", 0)
        end_to_end_s = max(sink.get("last_at", 0.0) - started_at, 1e-9)
        seen_by_sink = [seen for seen in measurement.sink.history if seen.get("at", 0.0) > started_at]
        result |= {
            "received": received,
            "end_to_end_s": end_to_end_s if received else 0.0,
            "end_to_end_rate": received / end_to_end_s if received else 0.0,
            "sink_cpu_us": sink.get("cpu_s", 0.0) / max(1, received) * MICRO,
        }
        result["timeline"]["received"] = [
            (0.0, 0),
            *((seen["at"] - started_at, seen["messages"]) for seen in seen_by_sink),
        ]
    if measurement.relay is not None:
        result["relay"] = {
            **measurement.relay_settings,
            "filesystem": measurement.relay.filesystem,
            "cpu_us": measurement.relay_cpu_s / max(1, accepted) * MICRO,
            "peak_pss_octets": measurement.peak_pss_octets,
        }
    return result


@contextlib.contextmanager
def progress_bar(plan: Plan, quiet: bool) -> Iterator[Show]:
    """A function that shows the generator's and the sink's latest counters, on standard error."""
    if quiet:
        yield lambda generator, sink: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as progress:
        accepted = progress.add_task("accepted", total=plan.messages, rate="")
        received = progress.add_task("in the sink", total=plan.messages, rate="", visible=False)

        def show(generator: dict[str, Any], sink: dict[str, Any] | None) -> None:
            elapsed = generator.get("at", 0.0) - generator.get("started_at", 0.0)
            count = generator.get("accepted", 0)
            progress.update(accepted, completed=count, rate=f"{count / elapsed:,.0f}/s" if elapsed > 0 else "")
            if sink is not None:
                progress.update(received, completed=sink.get("messages", 0), visible=True)
            progress.refresh()

        yield show


def print_report(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from angarium.cli.bench_report import latency_bars, rates, sparkline, summary_rows

    console = Console(highlight=False)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for what, how_much in summary_rows(result):
        table.add_row(f"[bold]{what}[/]", how_much)
    for name in ("accepted", "received"):
        line = sparkline([rate for _, rate in rates(result["timeline"][name])])
        if line:
            table.add_row(f"{name}/s", f"[cyan]{line}[/]")
    console.print(table)
    latency = result["latency_s"]
    bars = Table(box=None, show_header=False, padding=(0, 2, 0, 0), title="time to 250", title_justify="left")
    for bound, bar, count in latency_bars(Histogram.from_pairs(latency["buckets"], latency["max"])):
        bars.add_row(f"< {bound}", f"[cyan]{bar}[/]", f"{count:,}")
    console.print(bars)
    for text, count in sorted(result["failures"].items(), key=lambda item: -item[1])[:10]:
        console.print(f"failed {count:,} times: {text}", markup=False)


def parse_size(context: click.Context, parameter: click.Parameter, value: str) -> int:
    """ "10k" → 10240."""
    digits, factor = (value[:-1], 1024) if value.lower().endswith("k") else (value, 1)
    if not digits.isdigit() or not 0 < int(digits) * factor <= 1 << 30:
        raise click.BadParameter("octets are wanted, or KiB with a k, as in 10k")
    return int(digits) * factor


@click.command()
@click.option("--messages", type=click.IntRange(1, 100_000_000), help="How many to send. [default: 20000]")
@click.option("--duration", type=click.FloatRange(0.1, 86_400), help="Seconds to send for, instead.")
@click.option(
    "--size", callback=parse_size, default="1k", show_default=True, help="Octets of a message; 10k is 10 KiB."
)
@click.option("--sessions", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Connections at once.")
@click.option("--reuse/--no-reuse", default=True, show_default=True, help="Many messages a connection, or one.")
@click.option("--pipelining", is_flag=True, help="Send MAIL, RCPT and DATA in one go.")
@click.option("--workers", type=click.IntRange(1, 256), default=2, show_default=True, help="Workers of the relay.")
@click.option(
    "--durability",
    type=click.Choice(["fsync", "async", "memory"]),
    default="fsync",
    show_default=True,
    help="Its promise.",
)
@click.option(
    "--spool",
    type=click.Path(file_okay=False, exists=True, writable=True, path_type=Path),
    default=Path("/var/tmp"),  # noqa: S108 - /tmp may be memory, and a sync of that costs nothing
    show_default=True,
    help="Where its temporary spool goes: on the disk to be measured.",
)
@click.option("--target", metavar="HOST:PORT", help="Load a relay that runs already; nothing else is started.")
@click.option("--recipient", default="recipient@bench.invalid", show_default=True, help="To whom.")
@click.option("--i-own-this-host", "owned", is_flag=True, help="Allow a --target that is not of this machine.")
@click.option(
    "--limit", type=click.FloatRange(1, 86_400), default=600.0, show_default=True, help="Seconds it may take."
)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the result there.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Write a plot (SVG) there.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def bench(
    *,
    messages: int | None,
    duration: float | None,
    size: int,
    sessions: int,
    reuse: bool,
    pipelining: bool,
    workers: int,
    durability: str,
    spool: Path,
    target: str | None,
    recipient: str,
    owned: bool,
    limit: float,
    json_file: Path | None,
    plot: Path | None,
    quiet: bool,
) -> None:
    """Measure how much mail this machine relays: generator, relay and sink in one command."""
    if messages is not None and duration is not None:
        raise click.UsageError("--messages and --duration exclude each other")
    plan = Plan(
        host="127.0.0.1",
        port=0,
        size_octets=size,
        sessions=sessions,
        messages=messages if messages or duration else 20_000,
        duration_s=duration,
        reuse=reuse,
        pipelining=pipelining,
        limit_s=limit,
        recipient=recipient,
    )
    settings = {"workers": workers, "durability": durability}
    try:
        if target is not None:
            host, port = resolve_target(target, owned)
            result = load_target(replace(plan, host=host, port=port), quiet)
        else:
            result = load_own_relay(plan, settings, spool, quiet)
    except (BenchFailure, RelayNotReady) as error:
        raise click.ClickException(str(error)) from error
    if json_file is not None:
        json_file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if plot is not None:
        from angarium.cli.bench_report import render_svg

        plot.write_text(render_svg(result), encoding="utf-8")
    print_report(result)
    missing = 0 if result["received"] is None else max(0, result["accepted"] - result["received"])
    if missing:
        raise click.ClickException(f"{missing:,} accepted messages did not reach the sink")
    if result["failures"]:
        raise click.ClickException("not every message was accepted")


def load_target(plan: Plan, quiet: bool) -> dict[str, Any]:
    """The generator alone, against a relay that is not ours to watch."""
    if not greets(plan.host, plan.port):
        raise BenchFailure(f"no SMTP server greets on {plan.host}:{plan.port}")
    with started_generator(plan) as generator, progress_bar(plan, quiet) as show:
        measurement = Measurement(generator)
        follow(measurement, show)
        return assemble(plan, measurement)


def load_own_relay(plan: Plan, settings: dict[str, Any], spool: Path, quiet: bool) -> dict[str, Any]:
    """Generator, relay and sink."""
    with started_sink() as sink:
        next_hop = f"smtp://127.0.0.1:{sink.latest['port']}"
        with MeasuredRelay(next_hop, folder=spool, **settings) as relay:
            plan = replace(plan, port=relay.port)
            with started_generator(plan) as generator, progress_bar(plan, quiet) as show:
                measurement = Measurement(generator, sink, relay, relay_settings=settings)
                follow(measurement, show)
                return assemble(plan, measurement)


@contextlib.contextmanager
def started_generator(plan: Plan) -> Iterator[Worker]:
    generator = Worker("generate", json.dumps(asdict(plan)))
    try:
        yield generator
    finally:
        generator.close()
