"""python -m bench.instructions run OTHER | report FILE

What a change costs, in instructions: workers and event log process of this checkout and of another one (OTHER: its
folder, set up with `make setup`) under valgrind's callgrind, which counts what a processor is told to do and so gives
the same figure whatever else the machine does. (Time does not: on a virtual machine it swings by more than the few
percent asked for. What the kernel does is not counted; system calls are those that the code asks for.)

What is done for each second, not for each message, is counted in a phase without mail and taken off; then it is told
by itself, in CPU time outside of valgrind: a relay without mail whose /metrics are scraped once a second, in
OpenMetrics, as a Prometheus would.

The result is JSON, the report Markdown beside it. Exits 0 when every run came to its end, 1 when one did not, 2 on
wrong usage. Needs valgrind."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from .commits import scraped
from .load.machine import first_match, git
from .load.relays import RelayFailure
from .load.report import table
from .load.stage import RESULTS, alone, carry_out, now, say, write
from .load.traffic import MissingTool

if TYPE_CHECKING:
    from collections.abc import Iterable

HERE = Path(__file__).parents[1]
ROLES = ("worker", "events")
PATIENCE_S = 600.0
SETTLE_S = 3.0
WARM_UP = 300  # messages: connections, caches, the first segment

# Runs in the other checkout's Python; what it uses of Angarium is older than both.
DRIVER = """
import json, os, sys, time
import angarium.cli.measured_relay as measured
from angarium.cli import bench
from angarium.cli.loadgen import Plan

given = json.loads(sys.argv[1])
measured.START_LIMIT_S = measured.STOP_LIMIT_S = given["patience_s"]
sys.executable = given["python"]

def say(**what):
    print(json.dumps(what), flush=True)
    sys.stdin.readline()

with bench.started_sink() as sink:
    hop = f"smtp://127.0.0.1:{sink.latest['port']}"
    with measured.MeasuredRelay(hop, workers=1, durability="fsync", folder=measured.Path(given["folder"])) as relay:
        def load(messages):
            plan = Plan(host="127.0.0.1", port=relay.port, size_octets=1024, sessions=given["sessions"],
                        messages=messages, duration_s=None, reuse=True, pipelining=True, limit_s=given["patience_s"],
                        recipient="recipient@bench.invalid")
            before = sink.latest.get("messages", 0)
            with bench.started_generator(plan) as generator:
                bench.follow(bench.Measurement(generator, sink, relay), lambda *latest: None)
            while sink.latest.get("messages", 0) < before + messages and not sink.ended:
                sink.read()
            time.sleep(given["settle_s"])  # journal, event log
            if generator.latest["failed"] or generator.latest["accepted"] != messages:
                sys.exit(f"of {messages} messages {generator.latest['accepted']} were accepted")

        if given["messages"]:
            load(given["warm_up"])
        say(phase="ready", config=str(relay.config))
        for phase in ("idle", "load"):
            began, cpu_s = time.monotonic(), relay.cpu_s()
            if phase == "load" and given["messages"]:
                load(given["messages"])
            else:
                time.sleep(given["idle_s"] if phase == "idle" else 0)
            say(phase=phase, seconds=time.monotonic() - began, cpu_s=relay.cpu_s() - cpu_s,
                received=sink.latest.get("messages", 0))
"""

SHIM = """#!/bin/sh
case "$*" in
{watched}
"-m angarium.cli.main serve "*)
  shift 2
  exec {real} -c "import runpy, sys; sys.executable = '{shim}'
runpy.run_module('angarium.cli.main', run_name='__main__', alter_sys=True)" "$@" ;;
*) exec {real} "$@" ;;
esac
"""
WATCHED = """"-m angarium.app.process {role}"*)
  exec valgrind -q --tool=callgrind --callgrind-out-file={folder}/{role}.out {real} "$@" ;;"""


def shim(folder: Path, real: Path, roles: Iterable[str]) -> Path:
    """A Python that starts these processes of a relay under callgrind."""
    made = folder / "python"
    watched = "\n".join(WATCHED.format(role=role, folder=folder, real=real) for role in roles)
    made.write_text(SHIM.format(watched=watched, real=real, shim=made), encoding="utf-8")
    made.chmod(0o755)
    return made


def dump(folder: Path, role: str, number: int) -> int:
    """Instructions since the dump before, of the process of this role; 0 where the checkout has none such."""
    base = folder / f"{role}.out"
    process = process_of(base)
    if process is None:
        return 0
    subprocess.run(["callgrind_control", "-d", str(process)], capture_output=True, check=True, timeout=60)
    file = base.with_name(f"{base.name}.{number}")
    found = first_match(str(file), r"^(?:totals|summary): (\d+)")
    if not found:
        raise RelayFailure(f"{file}: callgrind has written no sum")
    return int(found)


def process_of(out: Path) -> int | None:
    """The process whose profile goes there."""
    wanted = f"--callgrind-out-file={out}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if wanted in (entry / "cmdline").read_bytes().split(b"\0"):
                    return int(entry.name)
    return None


def drive(tree: Path, options: argparse.Namespace, *, messages: int, idle_s: float, roles: Iterable[str]) -> Any:
    """One relay of a checkout through both phases: what the driver says of each, and the instructions of each role."""
    with tempfile.TemporaryDirectory(dir=options.spool, prefix="angarium-instructions-") as name:
        folder, real = Path(name), tree / ".venv/bin/python"
        given = {
            "patience_s": PATIENCE_S,
            "python": str(shim(folder, real, roles)),
            "folder": name,
            "sessions": options.sessions,
            "messages": messages,
            "warm_up": WARM_UP,
            "settle_s": SETTLE_S,
            "idle_s": idle_s,
        }
        errors = folder / "errors"
        phases: dict[str, Any] = {}
        with errors.open("wb") as stderr, scraped(folder, [0]) if not roles else contextlib.nullcontext():
            process = subprocess.Popen(
                [real, "-c", DRIVER, json.dumps(given)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, "PYTHONHASHSEED": "0"},
            )
            with process:
                assert process.stdin is not None
                assert process.stdout is not None
                for number, line in enumerate(process.stdout, 1):
                    said = json.loads(line)
                    said["instructions"] = {role: dump(folder, role, number) for role in roles}
                    phases[said["phase"]] = said
                    process.stdin.write("\n")
                    process.stdin.flush()
        if options.profiles and roles:
            shutil.copytree(folder, options.profiles / tree.name, ignore=lambda *_: ["python"], dirs_exist_ok=True)
        if not process.returncode and roles and not phases.get("load", {}).get("instructions", {}).get("worker"):
            raise RelayFailure(f"{tree}: no worker was counted")
        if process.returncode or "load" not in phases:
            raise RelayFailure(f"{tree}: {errors.read_text(encoding='utf-8', errors='replace').strip()[-500:]}")
    return phases


def each_message(phases: dict[str, Any], role: str, messages: int) -> float:
    """Instructions of a role for each message, without those that a relay without mail does in the same time."""
    idle, load = phases["idle"], phases["load"]
    a_second = idle["instructions"][role] / idle["seconds"]
    return float((load["instructions"][role] - a_second * load["seconds"]) / messages)


def run(options: argparse.Namespace) -> int:
    if shutil.which("callgrind_control") is None:
        raise MissingTool("callgrind_control not found: install Debian's valgrind package")
    out: Path = options.out or RESULTS / f"instructions-{time.strftime('%Y%m%d-%H%M%S')}.json"
    trees = {"this": HERE, "other": options.other.resolve()}
    result: dict[str, Any] = {
        "kind": "instructions",
        "command": "python -m bench.instructions run OTHER",
        "started": now(),
        "options": {
            name: getattr(options, name) for name in ("messages", "repetitions", "sessions", "idle_s", "scraped_s")
        },
        "machine": {
            "cores": os.cpu_count(),
            "cpu": first_match("/proc/cpuinfo", r"^model name\s*:\s*(.+)$"),
        },
        "commits": {name: git("-C", str(tree), "rev-parse", "--short", "HEAD") for name, tree in trees.items()},
        "runs": [],
    }
    with alone():
        for repetition in range(1, options.repetitions + 1):
            for name, tree in trees.items():
                phases = drive(tree, options, messages=options.messages, idle_s=options.idle_s, roles=ROLES)
                without = drive(tree, options, messages=0, idle_s=options.scraped_s, roles=())["idle"]
                one: dict[str, Any] = {
                    "repetition": repetition,
                    "tree": name,
                    "phases": phases,
                    "instructions": {role: each_message(phases, role, options.messages) for role in ROLES},
                    "idle_cores": without["cpu_s"] / without["seconds"],
                }
                result["runs"].append(one)
                shown = ", ".join(f"{role} {count:,.0f}" for role, count in one["instructions"].items())
                say(f"{name} {repetition}: instructions a message: {shown}; idle {one['idle_cores']:.2%} of a core")
    result["finished"] = now()
    write(result, out)
    out.with_suffix(".md").write_text(render(result), encoding="utf-8")
    say(f"result: {out}")
    return 0


def render(result: dict[str, Any]) -> str:
    """The report."""
    given, machine, commits = result["options"], result["machine"], result["commits"]

    def figures(tree: str, name: str) -> list[float]:
        runs = [one for one in result["runs"] if one["tree"] == tree]
        if name == "idle":
            return [one["idle_cores"] for one in runs]
        if name == "all":
            return [sum(one["instructions"].values()) for one in runs]
        return [one["instructions"][name] for one in runs]

    def spread(values: list[float], form: str) -> str:
        return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"

    columns = {"worker": ",.0f", "events": ",.0f", "all": ",.0f", "idle": ".2%"}
    rows = [
        [f"{tree}: {commits[tree]}", *(spread(figures(tree, name), form) for name, form in columns.items())]
        for tree in ("this", "other")
    ]
    medians = [[median(figures(tree, name)) for tree in ("this", "other")] for name in columns]
    shares = [f"{this / other:.1%}" if other else "–" for this, other in medians]
    rows.append(["this / other", *shares])
    head = ["checkout", "worker", "event log process", "both", "without mail, of a core"]
    return "\n".join(
        [
            "# Instructions of one commit beside another",
            "",
            f"Instructions for each message of 1 KiB (callgrind, without the kernel's), {given['sessions']} kept",
            "connections, pipelined, fsync, relayed to a sink, one worker. What is done each second is taken off; the",
            "last column is CPU time of the whole relay without mail and without valgrind, /metrics scraped every",
            f"second. {given['messages']:,} messages a run; median (least to most) of {given['repetitions']}.",
            "",
            *table(head, rows),
            f"{machine['cores']} × {machine['cpu']}.",
            "",
        ]
    )


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.instructions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    runs = verbs.add_parser("run")
    runs.add_argument("other", type=Path, help="folder of the other checkout")
    runs.add_argument("--messages", type=int, default=3000, help="(default 3000)")
    runs.add_argument("--repetitions", type=int, default=3, help="(default 3)")
    runs.add_argument("--sessions", type=int, default=20, help="(default 20)")
    runs.add_argument("--idle-s", type=float, default=20.0, help="without mail, counted (default 20)")
    runs.add_argument("--scraped-s", type=float, default=30.0, help="without mail, timed (default 30)")
    runs.add_argument("--spool", type=Path, default=Path("/var/tmp"), help="where the relays have their files")
    runs.add_argument("--profiles", type=Path, help="keep callgrind's files there, a folder for each checkout")
    runs.add_argument("--out", type=Path, help="JSON result (default bench/results/instructions-DATE.json)")
    report = verbs.add_parser("report", help="Markdown from a result")
    report.add_argument("file", type=Path)
    return parser.parse_args(argv)


def main() -> int:
    return carry_out(parse_arguments(), run, render)


if __name__ == "__main__":
    raise SystemExit(main())
