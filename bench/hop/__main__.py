"""python -m bench.hop run | report

policy   Angarium beside itself: one route to an address without TLS, and by MX behind a thousand routes for others,
         with DNSSEC, DANE, MTA-STS, TLS reports and policies on. The next hop offers no TLS, so the wire is the same.
tls      Angarium and Postfix to a next hop that wants TLS: stunnel in front of the sink, and no certificate verified.

Relays take turns, as in `bench.load`. Run from the top of a checkout, as root: mail hosts listen on port 25. The result
is JSON; `report` turns one into Markdown. Exits 0 when every run came to its end, 1 when one did not, 2 on wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.domains.names import ZONE, Names
from bench.domains.relays import SMTP_PORT
from bench.load.accounting import open_group
from bench.load.relays import Ground, RelayFailure
from bench.load.report import machine_section, rate_text, table, with_spread
from bench.load.series import Plan, Series
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
from bench.load.traffic import MissingTool, Sink
from bench.load.trial import Scenario
from bench.queue.judge import of, paired, percent, ratio_text, times

from .relays import AngariumFixed, AngariumPolicy, AngariumTls, PostfixTls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.load.relays import Relay

SCENARIOS = ("policy", "tls")
LEAST_SHARE = 0.97
HOST = "127.0.0.2"
RESOLVER, RESOLVER_PORT = "127.53.0.1", 53
FIRST_PORT = 2525
GREETING_S = 10.0
STUNNEL = """\
foreground = yes
pid =
syslog = no
debug = 3
[smtp]
accept = 127.0.0.1:{port}
connect = 127.0.0.1:{sink}
cert = {folder}/certificate.pem
key = {folder}/key.pem
protocol = smtp
"""


def greets(port: int, process: subprocess.Popen[bytes]) -> bool:
    """Whether the program greets in time; it speaks with nobody who does not say EHLO, so that is all it is asked."""
    until = time.monotonic() + GREETING_S
    while process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            if connection.recv(200).startswith(b"220"):
                return True
        time.sleep(0.05)
    return False


@contextlib.contextmanager
def tls_in_front(folder: Path, sink: Sink, port: int) -> Iterator[None]:
    """A stunnel that offers STARTTLS on `port` and hands on to the sink."""
    program = shutil.which("stunnel4") or shutil.which("stunnel")
    if program is None:
        raise MissingTool("stunnel is not installed (`make peers` does that)")
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", "/CN=sink.bench.test", "-days", "7"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")),
        ],
        check=True,
        capture_output=True,
    )
    (folder / "stunnel.conf").write_text(STUNNEL.format(port=port, sink=sink.port, folder=folder), encoding="ascii")
    with (folder / "stunnel.log").open("ab") as log:
        process = subprocess.Popen(
            [program, str(folder / "stunnel.conf")], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        if not greets(port, process):
            raise RelayFailure(f"stunnel does not answer on port {port}; log: {folder / 'stunnel.log'}")
        sink.count_too(process.pid)
        yield
    finally:
        process.terminate()
        process.wait()


def run(options: argparse.Namespace) -> int:
    out: Path = options.out or RESULTS / f"hop-{time.strftime('%Y%m%d-%H%M%S')}.json"
    with contextlib.ExitStack() as stack:
        stack.enter_context(alone())
        autogroup_off = stack.enter_context(undisturbed(options.nice))
        options.state.mkdir(parents=True, exist_ok=True)
        group = open_group()
        stack.callback(group.close)
        disk = stack.enter_context(open_spool(options.disk, options.spool, options.image, options.image_gib))
        first: int = options.first_port
        ground = Ground(
            disk,
            options.state,
            group,
            options.durability,
            options.workers,
            relay_port=first,
            sink_port=first + 1,
            admin_port=first + 2,
        )
        relays: dict[str, list[Relay]] = {}
        ways = {"policy": lambda: policy(stack, options, ground), "tls": lambda: tls(stack, options, ground)}
        result: dict[str, Any] = {}
        ok = True
        for name in options.scenarios:
            sink, relays[name], recipient = ways[name]()
            if not result:
                result = describe("hop", "bench.hop", options, ground, relays[name], autogroup_off)
                result |= {"runs": [], "scenarios": {}}
            scenario = Scenario(options.octets, options.sessions, "reuse", recipient)
            plan = Plan([scenario], options.reps, options.seconds, messages=options.messages)
            series = Series(ground, sink, plan, say)
            series.run(relays[name])
            sink.close()
            ok &= all(any(run.ok and run.relay == relay.name for run in series.runs) for relay in relays[name])
            result["scenarios"][name] = {
                "relays": {
                    relay.name: {"summary": relay.summary, "settings": relay.settings()} for relay in relays[name]
                },
                "runs": [each.as_json() for each in series.runs],
            }
            result["finished"] = now()
            write(result, out)
        out.with_suffix(".md").write_text(render(result), encoding="utf-8")
        say(f"result: {out}, report: {out.with_suffix('.md')}")
        return 0 if ok else 1


def policy(stack: contextlib.ExitStack, options: argparse.Namespace, ground: Ground) -> tuple[Sink, list[Relay], str]:
    sink = Sink(options.state, SMTP_PORT, host=HOST)
    stack.callback(sink.close)
    names = Names(
        options.state / "names",
        domains=1,
        hosts=1,
        host_addresses=(HOST,),
        address=RESOLVER,
        port=RESOLVER_PORT,
        authority=ground.relay_port + 3,
    )
    stack.callback(names.close)
    names.start()
    return sink, available([AngariumFixed(ground, HOST), AngariumPolicy(ground, names)]), f"rcpt@d0.{ZONE}"


def tls(stack: contextlib.ExitStack, options: argparse.Namespace, ground: Ground) -> tuple[Sink, list[Relay], str]:
    sink = Sink(options.state, ground.sink_port)
    stack.callback(sink.close)
    port = ground.relay_port + 4
    stack.enter_context(tls_in_front(options.state / "stunnel", sink, port))
    return sink, available([AngariumTls(ground, port), PostfixTls(ground, port)]), "rcpt@dst.example"


def section(name: str, scenario: dict[str, Any]) -> list[str]:
    measured = [run for run in scenario["runs"] if run["repetition"]]
    runs = [run for run in measured if not run["disturbed"]]
    lines = [f"## {name}", ""]
    if {run["relay"] for run in runs} != set(scenario["relays"]):
        runs = measured
        lines += ["Runs that other work on the machine disturbed count here, for want of others.", ""]
    if name == "policy":
        ratio = paired(runs, "relay", "policy", "fixed", "end_to_end_rate")
        if ratio is not None:
            met = "yes" if ratio.median >= LEAST_SHARE else "**no**"
            row = [
                "end to end, with everything on beside the least",
                f"≥ {LEAST_SHARE:.0%}",
                ratio_text(ratio, percent),
                met,
            ]
            lines += table(["what", "goal", "reached", "met"], [row])
    else:
        ratio = paired(runs, "relay", "angarium", "postfix", "end_to_end_rate")
        if ratio is not None:
            lines += table(["what", "reached"], [["end to end under TLS, beside Postfix", ratio_text(ratio, times)]])
    rows = [
        [
            told["summary"],
            with_spread(of(runs, relay, "end_to_end_rate"), rate_text),
            with_spread(of(runs, relay, "relay_cpu_us"), rate_text),
            with_spread(of(runs, relay, "sink_sessions"), rate_text),
        ]
        for relay, told in scenario["relays"].items()
    ]
    return [*lines, *table(["relay", "end to end/s", "CPU µs/message", "sessions at the sink"], rows)]


def render(result: dict[str, Any]) -> str:
    """The report."""
    given = result["options"]
    lines = [
        "# The way to the next hop",
        "",
        f"{given['octets']:,} octets a message, {given['sessions']} sessions, kept connections. Median (least–most).",
        "",
    ]
    for name, scenario in result["scenarios"].items():
        lines += section(name, scenario)
    lines += machine_section(result)
    return "\n".join(lines) + "\n"


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.hop", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    runs = verbs.add_parser("run", help="the scenarios, one after the other")
    add_options(runs)
    runs.add_argument("--scenarios", type=lambda text: text.split(","), default=list(SCENARIOS), help="of policy,tls")
    runs.add_argument("--octets", type=int, default=1024, help="(default 1024)")
    runs.add_argument("--sessions", type=int, default=100, help="(default 100)")
    runs.add_argument("--reps", type=int, default=5, help="repetitions (default 5)")
    runs.add_argument("--seconds", type=float, default=8.0, help="aimed length of a run (default 8)")
    runs.add_argument("--first-port", type=int, default=FIRST_PORT, help=f"of five in a row (default {FIRST_PORT})")
    runs.add_argument("--messages", type=int, help="messages of a run, instead of --seconds")
    report = verbs.add_parser("report", help="Markdown from a result")
    report.add_argument("file", type=Path)
    options = parser.parse_args(argv)
    for name in getattr(options, "scenarios", ()):
        if name not in SCENARIOS:
            parser.error(f"{name!r} is none of {', '.join(SCENARIOS)}")
    return options


def main() -> int:
    return carry_out(parse_arguments(), run, render)


if __name__ == "__main__":
    raise SystemExit(main())
