"""python -m bench.commits run OTHER | report FILE

What a change costs: `angarium bench` of this checkout beside that of another one (OTHER: its folder, set up with `make
setup`), taking turns; generator, relay and sink on the same cores, kept connections, pipelined. The admin process of
whichever runs is scraped once a second, in OpenMetrics, as a Prometheus would. By pairs: messages a second end to end,
and the relay's CPU time for each message, which swings less.

The result is JSON, the report Markdown beside it. Exits 0 when every run came to its end, 1 when one did not, 2 on
wrong usage."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from statistics import mean, median, stdev
from typing import TYPE_CHECKING, Any

from .load.machine import first_match, git
from .load.relays import RelayFailure
from .load.report import table
from .load.stage import RESULTS, alone, carry_out, now, say, undisturbed, write

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parents[1]
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
PATIENCE_S = 120.0


@contextlib.contextmanager
def scraped(folder: Path, count: list[int]) -> Iterator[None]:
    """Look at /metrics of the relay that has its files in `folder`, once a second."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(1.0):
            for file in folder.glob("angarium-bench-*/angarium.toml"):
                found = re.search(r'\[admin\]\nlisten = "(.*)"', file.read_text(encoding="utf-8"))
                request = urllib.request.Request(f"http://{found[1] if found else ''}/metrics")
                request.add_header("Accept", OPEN_METRICS)
                with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5) as answer:
                    answer.read()
                    count[0] += 1

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def measure(tree: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One run of a checkout's own `angarium bench`."""
    scrapes = [0]
    with tempfile.TemporaryDirectory(dir=options.spool, prefix="angarium-commits-") as folder:
        out = Path(folder) / "result.json"
        argv = [tree / ".venv/bin/angarium", "bench", "--duration", str(options.seconds), "--pipelining", "--quiet"]
        argv += ["--sessions", str(options.sessions), "--spool", folder, "--json", out]
        with scraped(Path(folder), scrapes):
            done = subprocess.run(
                [str(part) for part in argv],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=options.seconds + PATIENCE_S,
                check=False,
            )
        if done.returncode:
            raise RelayFailure(f"{tree}: {done.stderr.strip()[-500:]}")
        found = json.loads(out.read_text(encoding="utf-8"))
    return {
        "accepted": found["accepted"],
        "failed": found["failed"],
        "rate": found["end_to_end_rate"],
        "relay_cpu_us": found["relay"]["cpu_us"],
        "scrapes": scrapes[0],
    }


def run(options: argparse.Namespace) -> int:
    out: Path = options.out or RESULTS / f"commits-{time.strftime('%Y%m%d-%H%M%S')}.json"
    other = options.other.resolve()
    result: dict[str, Any] = {
        "kind": "commits",
        "command": "python -m bench.commits " + " ".join(sys.argv[1:2]),
        "started": now(),
        "options": {"pairs": options.pairs, "seconds": options.seconds, "sessions": options.sessions},
        "machine": {
            "cores": os.cpu_count(),
            "cpu": first_match("/proc/cpuinfo", r"^model name\s*:\s*(.+)$"),
            "load": round(os.getloadavg()[0], 2),
        },
        "commits": {
            "this": git("rev-parse", "--short", "HEAD"),
            "other": subprocess.run(
                ["git", "-C", other, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
            ).stdout.strip(),
        },
        "runs": [],
    }
    trees = {"this": HERE, "other": other}
    with alone(), undisturbed(options.nice):
        for pair in range(options.pairs + 1):  # the first one warms up
            for name in ("this", "other") if pair % 2 else ("other", "this"):
                one = {"pair": pair, "tree": name, **measure(trees[name], options)}
                result["runs"].append(one)
                say(f"{name} {pair}: {one['rate']:,.0f}/s, relay {one['relay_cpu_us']:.1f} µs/message")
    result["finished"] = now()
    write(result, out)
    out.with_suffix(".md").write_text(render(result), encoding="utf-8")
    say(f"result: {out}")
    return int(any(one["failed"] or not one["accepted"] for one in result["runs"]))


def render(result: dict[str, Any]) -> str:
    """The report."""
    given, machine, commits = result["options"], result["machine"], result["commits"]
    measured = [one for one in result["runs"] if one["pair"]]

    def figures(tree: str, name: str) -> list[float]:
        return [one[name] for one in sorted(measured, key=lambda one: one["pair"]) if one["tree"] == tree]

    def spread(values: list[float], form: str) -> str:
        return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"

    shares = {
        name: [a / b for a, b in zip(figures("this", name), figures("other", name), strict=True)]
        for name in ("rate", "relay_cpu_us")
    }
    head = ["checkout", "messages/s", "relay CPU µs/message", "scrapes a run"]
    rows = [
        [
            f"{name}: {commits[name]}",
            spread(figures(name, "rate"), ",.0f"),
            spread(figures(name, "relay_cpu_us"), ".1f"),
            f"{median(figures(name, 'scrapes')):g}",
        ]
        for name in ("this", "other")
    ]
    rows.append(["this / other, by pairs", *(spread(shares[name], ".1%") for name in ("rate", "relay_cpu_us")), ""])
    if len(shares["rate"]) > 1:
        error = {name: stdev(values) / len(values) ** 0.5 for name, values in shares.items()}
        rows.append(
            [
                "the same, mean ± standard error",
                *(f"{mean(shares[name]):.1%} ± {error[name]:.1%}" for name in ("rate", "relay_cpu_us")),
                "",
            ]
        )
    return "\n".join(
        [
            "# One commit beside another",
            "",
            f"1 KiB, {given['sessions']} connections that are kept, pipelined, relayed to a sink; {given['pairs']}",
            f"pairs of {given['seconds']:g} s; /metrics scraped every second. Median (least to most).",
            "",
            *table(head, rows),
            f"{machine['cores']} × {machine['cpu']}; load before: {machine['load']}.",
            "",
        ]
    )


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.commits", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    runs = verbs.add_parser("run")
    runs.add_argument("other", type=Path, help="folder of the other checkout")
    runs.add_argument("--pairs", type=int, default=6, help="(default 6)")
    runs.add_argument("--seconds", type=float, default=8.0, help="of a run (default 8)")
    runs.add_argument("--sessions", type=int, default=100, help="(default 100)")
    runs.add_argument("--spool", type=Path, default=Path("/var/tmp"), help="where the relays have their files")
    runs.add_argument("--nice", type=int, default=-10, help="priority, where allowed")
    runs.add_argument("--out", type=Path, help="JSON result (default bench/results/commits-DATE.json)")
    report = verbs.add_parser("report", help="Markdown from a result")
    report.add_argument("file", type=Path)
    return parser.parse_args(argv)


def main() -> int:
    return carry_out(parse_arguments(), run, render)


if __name__ == "__main__":
    raise SystemExit(main())
