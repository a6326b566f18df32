"""The goals that the project has set itself for its queue, and what a result reached of them; nothing runs here."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.load.figures import Spread, spread

if TYPE_CHECKING:
    from collections.abc import Callable

Result = dict[str, Any]
MOST_OCTETS = 200
ACCEPT_SHARE = 0.90
MOST_PAUSE_S = 0.05
MOST_LIST_S = 1.0
MOST_RECOVERY_S = 10.0  # a million messages, per worker
DRAIN_SHARE = 1.0
ACCEPT_TIMES = 6.0
DRAIN_TIMES = 5.0
MOST_SPACE = 2.0


@dataclass(frozen=True)
class Verdict:
    """One goal: what was asked, what was reached, and whether that is it."""

    what: str
    goal: str
    reached: str
    met: bool


def paired(runs: list[dict[str, Any]], key: str, above: str, below: str, figure: str) -> Spread | None:
    """Ratio of the medians of two relays; its least and most are those of the pairs, n-th run against n-th run."""
    upper = {run["repetition"]: run[figure] for run in runs if run[key] == above and run["ok"]}
    lower = {run["repetition"]: run[figure] for run in runs if run[key] == below and run["ok"]}
    pairs = [upper[n] / lower[n] for n in sorted(upper.keys() & lower.keys()) if lower[n]]
    if not pairs:
        return None
    medians = statistics.median(upper.values()) / statistics.median(lower.values())
    return Spread(medians, min(pairs), max(pairs), len(pairs))


def of(runs: list[dict[str, Any]], relay: str, figure: str) -> Spread | None:
    return spread(run[figure] for run in runs if run["relay"] == relay and run["ok"])


def ratio_text(figures: Spread, text: Callable[[float], str]) -> str:
    if figures.count == 1:
        return text(figures.median)
    return f"{text(figures.median)} ({text(figures.least)}–{text(figures.most)})"


def percent(value: float) -> str:
    return f"{value:.0%}"


def times(value: float) -> str:
    return f"{value:.1f}×"


def depth(scenario: dict[str, Any]) -> list[Verdict]:
    verdicts = []
    for name, words in (("octets_per_message", "after the fill"), ("octets_per_message_recovered", "after a restart")):
        octets = scenario[name]
        verdicts.append(
            Verdict(
                f"worker memory per queued message, {words}",
                f"≤ {MOST_OCTETS} octets",
                f"{octets:.0f}",
                octets <= MOST_OCTETS,
            )
        )
    accept = paired(scenario["accept"], "relay", "full", "empty", "accept_rate")
    if accept:
        verdicts.append(
            Verdict(
                "accept rate, full queue beside empty",
                f"≥ {ACCEPT_SHARE:.0%}",
                ratio_text(accept, percent),
                accept.median >= ACCEPT_SHARE,
            )
        )
    for name, words in (("pass", "a retry pass"), ("drain", "the drain")):
        loop = scenario[name]["loop"]
        longest = loop["longest_s_at_most"]
        noop = scenario[name]["noop"]
        verdicts.append(
            Verdict(
                f"longest pause of a worker's loop in {words}",
                f"≤ {MOST_PAUSE_S * 1e3:.0f} ms",
                f"≤ {longest * 1e3:.0f} ms ({loop['over_50_ms']} of {loop['observed']} over 50); "
                f"longest NOOP {noop.get('longest_ms', 0):.0f} ms",
                longest <= MOST_PAUSE_S,
            )
        )
    lists = {name: look for name, look in scenario["operators"]["looks"].items() if "list" in name}
    slowest = max(max(look["seconds"]) for look in lists.values())
    verdicts.append(
        Verdict(
            "a filtered list of a hundred, the command's start included",
            f"≤ {MOST_LIST_S:g} s",
            f"{slowest:.2f} s, the slowest of {sum(len(look['seconds']) for look in lists.values())}",
            slowest <= MOST_LIST_S,
        )
    )
    for way, words in (("stop", "SIGTERM"), ("kill", "kill -9")):
        recovery = scenario["recovery"][way]
        seconds = recovery["seconds_per_million_per_worker"]
        whole = recovery["found"] == recovery["queued"]
        verdicts.append(
            Verdict(
                f"recovery of a million messages by one worker, after {words}",
                f"≤ {MOST_RECOVERY_S:.0f} s",
                f"{seconds:.1f} s; {recovery['found']:,} of {recovery['queued']:,} found",
                seconds <= MOST_RECOVERY_S and whole,
            )
        )
    relay = of(scenario["accept"], "empty", "end_to_end_rate")
    if relay:
        share = scenario["drain"]["rate"] / relay.median
        verdicts.append(
            Verdict(
                "drain rate beside the relay's end-to-end rate",
                f"≥ {DRAIN_SHARE:.0%}",
                f"{share:.0%} ({scenario['drain']['rate']:,.0f}/s beside {relay.median:,.0f}/s)",
                share >= DRAIN_SHARE,
            )
        )
    return verdicts


def dead_hop(scenario: dict[str, Any]) -> list[Verdict]:
    verdicts = []
    for figure, words, least in (
        ("accept_rate", "accept rate with a dead next hop, beside Postfix", ACCEPT_TIMES),
        ("drain_rate", "drain rate when it comes up, beside Postfix", DRAIN_TIMES),
    ):
        ratio = paired(scenario["runs"], "relay", "angarium", "postfix", figure)
        if ratio:
            verdicts.append(Verdict(words, f"≥ {least:g}×", ratio_text(ratio, times), ratio.median >= least))
    return verdicts


def head_of_line(scenario: dict[str, Any]) -> list[Verdict]:
    """No figure is asked for: the pile must not add more than a pause of the loop may be."""
    without, with_pile = scenario["without"]["delivery"], scenario["with"]["delivery"]
    added = with_pile.get("p99_ms", 0.0) - without.get("p99_ms", 0.0)
    whole = not scenario["with"]["missing"]
    return [
        Verdict(
            f"mail to others beside {scenario['pile']:,} messages to one slow domain: added to the 99th percentile",
            f"≤ {MOST_PAUSE_S * 1e3:.0f} ms",
            f"{added:+.1f} ms ({without.get('p99_ms', 0):.1f} → {with_pile.get('p99_ms', 0):.1f} ms), "
            f"{scenario['with']['missing']} missing",
            whole and added <= MOST_PAUSE_S * 1e3,
        )
    ]


def space(scenario: dict[str, Any]) -> list[Verdict]:
    return [
        Verdict(
            "octets on disk beside octets alive, at most, the constant left out",
            f"≤ {MOST_SPACE:g}",
            f"{scenario['most']:.2f} (median {scenario['median']:.2f}, at the end {scenario['last']:.2f}); with the "
            f"{scenario['constant_octets'] / 1e6:.0f} MB that are always there {scenario['most_whole']:.2f}",
            bool(scenario["counted"]) and scenario["most"] <= MOST_SPACE,
        )
    ]


JUDGES: dict[str, Callable[[dict[str, Any]], list[Verdict]]] = {
    "depth": depth,
    "dead_hop": dead_hop,
    "head_of_line": head_of_line,
    "space": space,
}


def judge(result: Result) -> list[Verdict]:
    """Every goal that this result says something about."""
    return [
        verdict
        for name, scenario in result["scenarios"].items()
        if name in JUDGES and "error" not in scenario
        for verdict in JUDGES[name](scenario)
    ]
