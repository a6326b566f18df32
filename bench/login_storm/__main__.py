"""python -m bench.login_storm storm | submission | report

storm       wrong passwords at a rate, from one client and from many, while somebody else sends, connects and logs in at
            the same relay: what he waits for, with and without the storm.
submission  TLS and AUTH on kept connections beside plain SMTP, taking turns: messages a second, and the relay's CPU
            time for each message, generator and relay on the same cores.

Each writes JSON and a report into bench/results. Nothing leaves the loopback. Exits 0 when every run came to its end, 1
when one did not, 2 on wrong usage."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import trustme
import uvloop

from angarium.cli.measured_relay import MeasuredRelay, RelayNotReady, free_port
from angarium.policy.credentials_file import editing, make_entry
from bench.load.machine import cores_of, first_match, git, on_cores
from bench.load.relays import RelayFailure
from bench.load.stage import RESULTS, alone, carry_out, now, say, undisturbed, write

from .clients import Others, plain
from .report import render

LOG_IN, PASSWORD = "user1@bench.invalid", "correct horse battery"
SOME_LOG_INS = 20
MORE = """\
[tls]
certificate = "{folder}/chain.pem"
key = "{folder}/key.pem"
[[listener]]
name = "submissions"
listen = "127.0.0.1:{port}"
role = "submission"
tls = "implicit"
[[credentials]]
kind = "file"
file = "{folder}/users"
"""


class LogInRelay(MeasuredRelay):
    """The relay of `angarium bench`, with a submission listener over TLS and some log-ins."""

    def __init__(self, *, workers: int | None, durability: str, folder: Path) -> None:
        super().__init__(
            "discard:", workers=workers or len(os.sched_getaffinity(0)), durability=durability, folder=folder
        )
        self.tls_port = free_port()
        certificate = trustme.CA().issue_cert("relay.bench.invalid")
        (self.folder / "chain.pem").write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
        (self.folder / "key.pem").write_bytes(certificate.private_key_pem.bytes())
        entry = make_entry(PASSWORD)
        with editing(self.folder / "users") as entries:
            entries.update({f"user{number}@bench.invalid": entry for number in range(SOME_LOG_INS)})
        before, found, routes = self.config.read_text(encoding="utf-8").partition("[[route]]")
        more = MORE.format(folder=self.folder, port=self.tls_port)
        self.config.write_text(before + more + found + routes, encoding="utf-8")


def client(*arguments: str) -> subprocess.Popen[bytes]:
    """One of the clients, in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "bench.login_storm.clients", *arguments], stdout=subprocess.PIPE)


def storm(options: argparse.Namespace, result: dict[str, Any]) -> bool:
    ok = True
    relay_cores, client_cores = cores_of(options.cores)
    for addresses in (0, *options.addresses):
        with contextlib.ExitStack() as stack:
            with on_cores(relay_cores):
                made = LogInRelay(workers=options.workers, durability=options.durability, folder=options.spool)
                relay = stack.enter_context(made)
            stack.enter_context(on_cores(client_cores))
            run = _storm_from(addresses, relay, options)
        result["runs"].append(run)
        accept = run["others"]["accept"]
        say(f"{addresses} attacking addresses: {run['storm'].get('attempts_s', 0)}/s, accept p99 {accept['p99_ms']} ms")
        ok = ok and accept["count"] > 0
    return ok


def _storm_from(addresses: int, relay: LogInRelay, options: argparse.Namespace) -> dict[str, Any]:
    others = Others(relay.port, relay.tls_port, LOG_IN, PASSWORD)
    attacker = None
    if addresses:
        seconds = options.seconds + 2
        plan = {"port": relay.tls_port, "rate": options.rate, "seconds": seconds, "addresses": addresses}
        attacker = client("storm", json.dumps(plan))
    cpu_before, begun = relay.cpu_s(), time.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(others.run(options.seconds, options.messages_s))
    cores = (relay.cpu_s() - cpu_before) / (time.monotonic() - begun)
    said: dict[str, Any] = {}
    if attacker is not None:
        said = json.loads(attacker.communicate()[0])
        said["attempts_s"] = round(said["attempts"] / said["seconds"], 1)
    return {"addresses": addresses, "storm": said, "others": others.as_json(), "relay_cores": round(cores, 3)}


def submission(options: argparse.Namespace, result: dict[str, Any]) -> bool:
    ok = True
    auth = plain(LOG_IN, PASSWORD).decode().strip()
    with LogInRelay(workers=options.workers, durability=options.durability, folder=options.spool) as relay:
        for repetition in range(options.reps + 1):  # the first one warms up
            for way, port, said in (("plain", relay.port, ""), ("submission", relay.tls_port, auth)):
                seconds = options.seconds if repetition else 1.0
                run = {"repetition": repetition, "way": way, **_send(relay, port, said, seconds, options)}
                result["runs"].append(run)
                ok = ok and run["accepted"] > 0 and not run["failed"]
                say(f"{way} {repetition}: {run['rate']:,.0f}/s, relay {run['relay_cpu_us']:.1f} µs/message")
    return ok


def _send(relay: LogInRelay, port: int, auth: str, seconds: float, options: argparse.Namespace) -> dict[str, Any]:
    plan = {
        "host": "127.0.0.1",
        "port": port,
        "sessions": options.sessions,
        "duration_s": seconds,
        "pipelining": True,
        "size_octets": options.octets,
    }
    cpu_before = relay.cpu_s()
    counters = json.loads(client("submit", json.dumps(plan), auth).communicate()[0])
    cpu_s = relay.cpu_s() - cpu_before
    accepted = counters["accepted"]
    return {
        "accepted": accepted,
        "failed": counters["failed"],
        "failures": counters["failures"],
        "rate": accepted / (counters["at"] - counters["started_at"]),
        "relay_cpu_us": cpu_s / max(accepted, 1) * 1e6,
        "generator_cpu_us": counters["cpu_s"] / max(accepted, 1) * 1e6,
    }


SCENARIOS = {"storm": storm, "submission": submission}


def _addresses(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.login_storm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, seconds in (("storm", 20.0), ("submission", 6.0)):
        one = verbs.add_parser(name)
        one.add_argument("--workers", type=int, help="(default: one for each core of the relay)")
        one.add_argument("--durability", choices=("fsync", "async", "memory"), default="fsync", help="(default fsync)")
        one.add_argument("--spool", type=Path, default=Path("/var/tmp"), help="folder of the relay's files")
        one.add_argument("--out", type=Path, help="JSON result (default bench/results/login-NAME-DATE.json)")
        one.add_argument("--nice", type=int, default=-10, help="priority of relay and clients, where allowed")
        one.add_argument("--seconds", type=float, default=seconds, help=f"of a run (default {seconds:g})")
    storms, sends = verbs.choices["storm"], verbs.choices["submission"]
    storms.add_argument(
        "--cores",
        choices=("apart", "shared"),
        default="apart",
        help="apart: half of them the relay's, half the clients', who in life are elsewhere (default apart)",
    )
    storms.add_argument("--rate", type=float, default=1000.0, help="attempts a second (default 1000)")
    storms.add_argument("--messages-s", type=float, default=100.0, help="of somebody else (default 100)")
    storms.add_argument("--addresses", type=_addresses, default=[1, 100], help="that attack (default 1,100)")
    sends.add_argument("--reps", type=int, default=5, help="repetitions (default 5)")
    sends.add_argument("--sessions", type=int, default=50, help="(default 50)")
    sends.add_argument("--octets", type=int, default=1024, help="(default 1024)")
    report = verbs.add_parser("report", help="Markdown from a result")
    report.add_argument("file", type=Path)
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> int:
    out: Path = options.out or RESULTS / f"login-{options.verb}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    given = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    result: dict[str, Any] = {
        "kind": options.verb,
        "command": "python -m bench.login_storm " + " ".join(sys.argv[1:]),
        "started": now(),
        "options": given,
        "machine": {
            "cores": os.cpu_count(),
            "cpu": first_match("/proc/cpuinfo", r"^model name\s*:\s*(.+)$") or platform.machine(),
            "kernel": platform.release(),
            "commit": git("rev-parse", "--short", "HEAD"),
            "load": round(os.getloadavg()[0], 2),
        },
        "runs": [],
    }
    with alone(), undisturbed(options.nice):
        try:
            ok = SCENARIOS[options.verb](options, result)
        except RelayNotReady as failure:
            raise RelayFailure(str(failure)) from failure
    result["finished"] = now()
    write(result, out)
    out.with_suffix(".md").write_text(render(result), encoding="utf-8")
    say(f"result: {out}")
    return 0 if ok else 1


def main() -> int:
    return carry_out(parse_arguments(), run, render)


if __name__ == "__main__":
    raise SystemExit(main())
