"""Markdown from a result of bench.login_storm."""

from __future__ import annotations

from statistics import median
from typing import Any

from bench.load.report import table

ACCEPT_P99_MS = 50.0
LEAST_SHARE = 0.7
GOAL = ["what", "goal", "reached", "met"]


def render(result: dict[str, Any]) -> str:
    """The report."""
    machine = result["machine"]
    lines = _storm(result) if result["kind"] == "storm" else _submission(result)
    lines += [
        "## The machine",
        "",
        f"- {machine['cores']} × {machine['cpu']}, Linux {machine['kernel']}; load before: {machine['load']}",
        f"- {_workers(result['options'])}, durability {result['options']['durability']}, event log on",
        f"- spool in {result['options']['spool']}",
        f"- commit {machine['commit'] or 'none'}",
        "",
    ]
    return "\n".join(lines)


def _workers(options: dict[str, Any]) -> str:
    return f"{options['workers']} workers" if options["workers"] else "a worker for each core of the relay"


def _storm(result: dict[str, Any]) -> list[str]:
    given = result["options"]
    worst = max(run["others"]["accept"]["p99_ms"] for run in result["runs"] if run["addresses"])
    head = ["attacking addresses", "attempts/s", "answers", "accept p50", "p99", "longest", "greeting p99"]
    head += ["log-in p50", "p99", "cores of the relay"]
    return [
        "# A storm of wrong passwords",
        "",
        f"{given['rate']:,.0f} wrong passwords a second over TLS for {given['seconds']:g} s, of log-ins that exist and",
        f"others, while somebody else sends {given['messages_s']:g} messages a second over ten plaintext connections",
        "that are kept, connects 20 times a second and logs in over TLS up to five times a second. Times are in",
        "milliseconds; that of a message is from when it was due until its 250. "
        + (
            "Half of the cores is the relay's, half the clients'."
            if given["cores"] == "apart"
            else "The storm's clients run on the same cores."
        ),
        "",
        *table(
            GOAL, [["accept p99 of others", f"< {ACCEPT_P99_MS:g} ms", f"{worst:.1f} ms", _met(worst < ACCEPT_P99_MS)]]
        ),
        *table(head, [_storm_row(run) for run in result["runs"]]),
    ]


def _storm_row(run: dict[str, Any]) -> list[str]:
    others, said = run["others"], run["storm"]
    replies = ", ".join(f"{code}: {count:,}" for code, count in sorted(said.get("replies", {}).items()))
    return [
        str(run["addresses"]) if run["addresses"] else "none",
        f"{said.get('attempts_s', 0):,.0f}",
        replies or "–",
        *(f"{others['accept'][key]:.1f}" for key in ("p50_ms", "p99_ms", "longest_ms")),
        f"{others['greeting']['p99_ms']:.1f}",
        *(f"{others['log_in'][key]:.1f}" for key in ("p50_ms", "p99_ms")),
        f"{run['relay_cores']:.2f}",
    ]


def _submission(result: dict[str, Any]) -> list[str]:
    given = result["options"]
    measured = [run for run in result["runs"] if run["repetition"]]

    def figures(way: str, name: str) -> list[float]:
        return [run[name] for run in measured if run["way"] == way]

    def share(name: str) -> float:
        pairs = zip(figures("submission", name), figures("plain", name), strict=True)
        return median(of_submission / of_plain for of_submission, of_plain in pairs)

    rows = [
        [way, *(_spread(figures(way, name)) for name in ("rate", "relay_cpu_us", "generator_cpu_us"))]
        for way in ("plain", "submission")
    ]
    rate = share("rate")
    return [
        "# Submission beside plain SMTP",
        "",
        f"{given['octets']:,} octets a message, {given['sessions']} connections that are kept, pipelined, discarded at",
        "the next hop. Submission is TLS 1.3, and AUTH PLAIN once a connection. The generator is a Python program on",
        "the same cores, and pays for its own side of TLS. Median (least–most).",
        "",
        *table(
            GOAL,
            [["rate with TLS and AUTH", f"≥ {LEAST_SHARE:.0%} of plain", f"{rate:.1%}", _met(rate >= LEAST_SHARE)]],
        ),
        *table(["way", "messages/s", "relay CPU µs/message", "generator CPU µs/message"], rows),
    ]


def _spread(values: list[float]) -> str:
    return f"{median(values):,.1f} ({min(values):,.1f}–{max(values):,.1f})"


def _met(met: bool) -> str:
    return "yes" if met else "**no**"
