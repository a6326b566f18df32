"""python -m bench.load run | soak | report | relays

Run from the top of a checkout. Results are JSON; `report` turns one into Markdown. Exits 0 when every run succeeded, 1
when a run or the set-up failed, 2 on wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .accounting import open_group
from .relays import RELAYS, Ground, Relay
from .report import render
from .series import Plan, Series, list_processes, running
from .soak import soak
from .spool import open_spool
from .stage import (
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
from .traffic import MODES, Sink
from .trial import Scenario


def numbers(text: str) -> list[int]:
    """ "1024,10k,100k" → octets; k is KiB."""
    return [int(part[:-1]) * 1024 if part.endswith("k") else int(part) for part in text.split(",")]


def names(allowed: tuple[str, ...]) -> Any:
    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        for name in chosen:
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(allowed)}")
        return chosen

    return parse


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)

    common = argparse.ArgumentParser(add_help=False)
    add_options(common)

    run = verbs.add_parser("run", parents=[common], help="the matrix of scenarios, relays alternating")
    run.add_argument(
        "--relays", type=names(tuple(RELAYS)), default=["angarium", "postfix"], help=f"of {','.join(RELAYS)}"
    )
    run.add_argument(
        "--sizes", type=numbers, default=[1024, 10240, 102400], help="octets, k for KiB (default 1k,10k,100k)"
    )
    run.add_argument("--sessions", type=numbers, default=[20, 100], help="(default 20,100)")
    run.add_argument(
        "--modes",
        type=names(MODES),
        default=list(MODES),
        help="reuse: many messages a connection, new: a connection each",
    )
    run.add_argument("--reps", type=int, default=3, help="repetitions (default 3)")
    run.add_argument("--seconds", type=float, default=11.0, help="aimed length of a run (default 11)")
    run.add_argument("--messages", type=int, help="messages of a run, instead of --seconds")
    run.add_argument("--limit", type=float, default=120.0, help="longest a run may take (default 120 s)")
    run.add_argument("--retries", type=int, default=2, help="how often a disturbed run is repeated (default 2)")

    long = verbs.add_parser("soak", parents=[common], help="many messages, memory of each process sampled every second")
    long.add_argument("--relay", choices=[name for name in RELAYS if name != "direct"], default="angarium")
    long.add_argument("--messages", type=int, default=1_000_000)
    long.add_argument("--size", type=int, default=1024)
    long.add_argument("--sessions", type=int, default=100)
    long.add_argument("--limit", type=float, default=3600.0, help="longest it may take (default 3600 s)")

    report = verbs.add_parser("report", help="Markdown from a result")
    report.add_argument("file", type=Path)
    verbs.add_parser("relays", parents=[common], help="which relays can run here")
    return parser.parse_args(argv)


@dataclass
class Bench:
    """All that a series or a soak works with."""

    options: argparse.Namespace
    ground: Ground
    relays: list[Relay]
    sink: Sink
    result: dict[str, Any]
    out: Path


def measure(options: argparse.Namespace) -> int:
    out: Path = options.out or RESULTS / f"{options.verb}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    with contextlib.ExitStack() as stack:
        stack.enter_context(alone())
        autogroup_off = stack.enter_context(undisturbed(options.nice))
        options.state.mkdir(parents=True, exist_ok=True)
        group = open_group()
        stack.callback(group.close)
        disk = stack.enter_context(open_spool(options.disk, options.spool, options.image, options.image_gib))
        if disk.kind != "loop ext4":
            say(f"spool: {disk.folder}, a plain directory; its file system is part of the result")
        ground = Ground(disk, options.state, group, options.durability, options.workers)
        relays = available(
            [RELAYS[name](ground) for name in ([options.relay] if options.verb == "soak" else options.relays)]
        )
        if not relays:
            say("nothing to measure")
            return 1
        sink = Sink(options.state)
        stack.callback(sink.close)
        result = describe(options.verb, "bench.load", options, ground, relays, autogroup_off)
        bench = Bench(options, ground, relays, sink, result, out)
        ok = run_soak(bench) if options.verb == "soak" else run_series(bench)
        out.with_suffix(".md").write_text(render(result), encoding="utf-8")
        say(f"result: {out}, report: {out.with_suffix('.md')}")
        return 0 if ok else 1


def run_series(bench: Bench) -> bool:
    options, result = bench.options, bench.result
    # The most telling scenarios come first, so that an interrupted series is of use.
    matrix = itertools.product(options.modes, options.sizes, sorted(options.sessions, reverse=True))
    plan = Plan(
        [Scenario(size, sessions, mode) for mode, size, sessions in matrix],
        repetitions=options.reps,
        seconds=options.seconds,
        messages=options.messages,
        retries=options.retries,
        limit_s=options.limit,
    )

    def keep(series: Series) -> None:
        result.update(finished=now(), at_rest=series.at_rest, runs=[run.as_json() for run in series.runs])
        write(result, bench.out)

    series = Series(bench.ground, bench.sink, plan, say, keep)
    series.run(bench.relays)
    return bool(series.runs) and all(run.ok for run in series.runs)


def run_soak(bench: Bench) -> bool:
    options, result = bench.options, bench.result
    with running(bench.relays[0]) as relay:
        time.sleep(1)
        result["at_rest"] = {relay.name: list_processes(bench.ground)}
        result["runs"] = []
        result["soak"] = soak(
            relay,
            bench.sink,
            Scenario(options.size, options.sessions, "reuse"),
            options.messages,
            limit_s=options.limit,
            say=say,
        )
        result["finished"] = now()
        write(result, bench.out)
    if not result["soak"]["ok"]:
        say(f"FAILED: {result['soak']['error']}")
    return bool(result["soak"]["ok"])


def list_relays(options: argparse.Namespace) -> int:
    from .accounting import ProcessTree
    from .spool import Spool

    ground = Ground(Spool(options.spool, "plain directory"), options.state, ProcessTree())
    for name, kind in RELAYS.items():
        say(f"{name:10} {kind.summary}: {kind(ground).unavailable() or 'can run here'}")
    return 0


def main() -> int:
    options = parse_arguments()
    if options.verb == "relays":
        return list_relays(options)
    return carry_out(options, measure, render)


if __name__ == "__main__":
    raise SystemExit(main())
