"""python -m bench.queue run | report

Run from the top of a checkout, as root for Postfix and for a disk of the bench's own. Results are JSON; `report` turns
one into Markdown. Exits 0 when every scenario came to its end (whether its goals were met is in the report), 1 when one
did not, 2 on wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.load.accounting import open_group
from bench.load.relays import Angarium, Ground, Postfix, RelayFailure
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

from . import dead_hop, depth, head_of_line, space, ten_million
from .judge import judge
from .report import render
from .stand import Ports, Sizes, Stand

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.load.relays import Relay

SCENARIOS = ("depth", "dead_hop", "head_of_line", "space")
TEN_MILLION = "ten_million"  # by its own option only: it takes as long as all the others
DEFAULTS = Sizes()
IMAGE_GIB = 8
TEN_MILLION_GIB = 16


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.queue", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="the scenarios, one after the other")
    add_options(run, image_gib=IMAGE_GIB)
    run.add_argument(
        "--scenarios",
        type=lambda text: text.split(","),
        default=list(SCENARIOS),
        help=f"of {','.join(SCENARIOS)} (default all)",
    )
    run.add_argument("--ten-million", action="store_true", help="that scenario alone, on a disk of 16 GiB")
    run.add_argument("--first-port", type=int, help="use eight ports from here on, beside a sandbox for example")
    run.add_argument("--without-postfix", action="store_true", help="leave Postfix out of dead_hop")
    for field in dataclasses.fields(Sizes):
        run.add_argument(
            "--" + field.name.replace("_", "-"),
            type=type(field.default),
            default=field.default,
            help=f"(default {field.default})",
        )
    report = verbs.add_parser("report", help="Markdown from a result")
    report.add_argument("file", type=Path)
    options = parser.parse_args(argv)
    if getattr(options, TEN_MILLION, False):
        options.scenarios, options.image_gib = [], max(options.image_gib, TEN_MILLION_GIB)
    for name in getattr(options, "scenarios", ()):
        if name not in SCENARIOS:
            parser.error(f"{name!r} is none of {', '.join(SCENARIOS)}")
    return options


def measure(options: argparse.Namespace) -> int:
    out: Path = options.out or RESULTS / f"queue-{time.strftime('%Y%m%d-%H%M%S')}.json"
    with contextlib.ExitStack() as stack:
        stack.enter_context(alone())
        autogroup_off = stack.enter_context(undisturbed(options.nice))
        options.state.mkdir(parents=True, exist_ok=True)
        groups = open_group(), open_group("angarium-bench-second")
        for group in groups:
            stack.callback(group.close)
        disk = stack.enter_context(open_spool(options.disk, options.spool, options.image, options.image_gib))
        ports = Ports.starting_at(options.first_port) if options.first_port else Ports()
        ground = Ground(
            disk,
            options.state,
            groups[0],
            options.durability,
            options.workers,
            relay_port=ports.relay,
            sink_port=ports.sink,
            admin_port=ports.admin,
        )
        sizes = Sizes(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Sizes)})
        relays = pair(ground, options)
        result = describe("queue", "bench.queue", options, ground, relays, autogroup_off)
        result |= {"runs": [], "scenarios": {}}
        chosen = options.scenarios or [TEN_MILLION]
        run_all(Stand(ground, groups[1], ports, sizes), relays, chosen, result, lambda: write(result, out))
        out.with_suffix(".md").write_text(render(result), encoding="utf-8")
        for verdict in judge(result):
            say(f"{'met   ' if verdict.met else 'MISSED'} {verdict.what}: {verdict.reached} (goal {verdict.goal})")
        say(f"result: {out}, report: {out.with_suffix('.md')}")
        return 1 if any("error" in scenario for scenario in result["scenarios"].values()) else 0


def pair(ground: Ground, options: argparse.Namespace) -> list[Relay]:
    """Angarium, and Postfix where it can run."""
    beside = "dead_hop" in options.scenarios and not options.without_postfix
    return [Angarium(ground), *available([Postfix(ground)] if beside else [])]


def run_all(
    stand: Stand, relays: list[Relay], scenarios: list[str], result: dict[str, Any], keep: Callable[[], None]
) -> None:
    """One after the other; one that fails is noted, and the others run."""
    runs: dict[str, Callable[[], dict[str, Any]]] = {
        "depth": lambda: depth.run(stand),
        "dead_hop": lambda: dead_hop.run(stand, relays),
        "head_of_line": lambda: head_of_line.run(stand),
        "space": lambda: space.run(stand),
        TEN_MILLION: lambda: ten_million.run(stand),
    }
    for name in scenarios:
        began = time.monotonic()
        try:
            result["scenarios"][name] = runs[name]()
        except RelayFailure as error:
            stand.say(f"{name} FAILED: {error}")
            result["scenarios"][name] = {"error": str(error)}
        result["scenarios"][name]["took_s"] = round(time.monotonic() - began, 1)
        result["finished"] = now()
        keep()


def main() -> int:
    return carry_out(parse_arguments(), measure, render)


if __name__ == "__main__":
    raise SystemExit(main())
