"""Markdown from the JSON result: the goals and what was reached, each scenario in figures, the machine, how to repeat
it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.load.report import machine_section, octets_text, rate_text, table, with_spread

from .judge import Result, judge, of

if TYPE_CHECKING:
    from collections.abc import Callable


def goals_section(result: Result) -> list[str]:
    rows = [[each.what, each.goal, each.reached, "yes" if each.met else "**no**"] for each in judge(result)]
    if not rows:
        return []
    return ["## Goals", "", *table(["what", "goal", "reached", "met"], rows)]


def depth_section(scenario: dict[str, Any]) -> list[str]:
    lines = [
        f"## {scenario['messages']:,} deferred messages to {scenario['domains']:,} domains",
        "",
        f"Filled at {scenario['fill']['deferred_rate']:,.0f} messages a second, each accepted and then refused once by",
        f"the next hop; {scenario['disk_octets'] / scenario['messages']:,.0f} octets of disk a message. Memory is that",
        "of all workers together; what a message costs leaves mail data out that is still held in memory.",
        f"From half full to full it was {scenario['octets_per_message_second_half']:.0f} octets a message: there the",
        "heap that a burst leaves behind does not count.",
        "",
    ]
    names = {
        "memory_empty": "empty queue, warm",
        "memory_half": "half full",
        "memory_full": "full",
        "memory_recovered": "full, after a restart",
        "memory_drained": "drained",
    }
    rows = [
        [words, *(octets_text(scenario[name][kind]) for kind in ("pss", "rss", "mail_data"))]
        for name, words in names.items()
    ]
    lines += table(["workers' memory", "PSS MB", "RSS MB", "of it mail data MB"], rows)
    rows = [
        [
            relay,
            with_spread(of(scenario["accept"], relay, "accept_rate"), rate_text),
            with_spread(of(scenario["accept"], relay, "end_to_end_rate"), rate_text),
            with_spread(of(scenario["accept"], relay, "relay_cpu_us"), rate_text),
        ]
        for relay in ("empty", "full")
    ]
    lines += table(["queue", "accepted/s", "end to end/s", "relay CPU µs/message"], rows)
    filled = scenario["fill"]
    rows = [
        [
            "fill: accepted, refused once",
            f"{filled['accepted']:,} in {filled['seconds']:.0f} s",
            rate_text(filled["deferred_rate"]),
            f"≤ {filled['loop']['longest_s_at_most'] * 1e3:.0f}",
            "–",
            "–",
        ]
    ]
    for name, words in (("pass", "retry pass, all refused again"), ("drain", "drain")):
        step = scenario[name]
        loop, noop = step["loop"], step["noop"]
        rows.append(
            [
                words,
                f"{step.get('attempts', step.get('delivered', 0)):,.0f} in {step['seconds']:.0f} s",
                rate_text(step["rate"]),
                f"≤ {loop['longest_s_at_most'] * 1e3:.0f}",
                f"{noop.get('p50_ms', 0):.1f} / {noop.get('p99_ms', 0):.1f} / {noop.get('longest_ms', 0):.1f}",
                f"{noop['own_longest_ms']:.1f}",
            ]
        )
    head = [
        "step",
        "messages",
        "per second",
        "loop lag ms",
        "NOOP ms: median / 99 % / longest",
        "the prober's own lateness ms",
    ]
    lines += table(head, rows)
    rows = [
        [
            {"stop": "SIGTERM", "kill": "kill -9"}[way],
            f"{found['found']:,}",
            f"{found['seconds']:.1f}",
            f"{found['empty_seconds']:.1f}",
            f"{found['seconds_per_million_per_worker']:.1f}",
        ]
        for way, found in scenario["recovery"].items()
    ]
    head = ["start after", "messages", "seconds", "empty relay", "seconds a million and worker"]
    lines += table(head, rows)
    operators = scenario["operators"]
    rows = [
        [f"`{name}`", f"{look['found']:,}", " ".join(f"{took:.2f}" for took in look["seconds"]), "–", "–"]
        for name, look in operators["looks"].items()
    ]
    rows += [
        [
            f"`{name}`",
            f"{step['done']:,}",
            f"{step['seconds']:.1f}",
            f"≤ {step['loop']['longest_s_at_most'] * 1e3:.0f}",
            f"{step['noop'].get('longest_ms', 0):.1f}",
        ]
        for name, step in operators["actions"].items()
    ]
    return [*lines, *table(["command", "messages", "seconds", "loop lag ms", "longest NOOP ms"], rows)]


def dead_hop_section(scenario: dict[str, Any]) -> list[str]:
    relays = list(dict.fromkeys(run["relay"] for run in scenario["runs"]))
    runs = scenario["runs"]
    rows = [
        [
            relay,
            with_spread(of(runs, relay, "accept_rate"), rate_text),
            with_spread(of(runs, relay, "accept_cpu_us"), rate_text),
            with_spread(of(runs, relay, "drain_rate"), rate_text),
            with_spread(of(runs, relay, "drain_cpu_us"), rate_text),
            with_spread(of(runs, relay, "first_s"), lambda value: f"{value:.1f}"),
            with_spread(of(runs, relay, "peak_pss_octets"), octets_text),
            with_spread(of(runs, relay, "disk_octets"), octets_text),
        ]
        for relay in relays
    ]
    head = ["relay", "accepted/s", "CPU µs", "drained/s", "CPU µs", "s to the first", "peak PSS MB", "disk MB"]
    return [
        "## A dead next hop, then a drain",
        "",
        f"{scenario['messages']:,} messages of {scenario['octets'] / 1024:g} KiB over kept connections while nothing",
        "listens at the next hop; then the sink starts and the relay is told to try all (`angarium queue retry`,",
        "`postqueue -f`). The drain is timed from the start of the sink to the last message. Median (least–most).",
        "",
        *table(head, rows),
    ]


def head_of_line_section(scenario: dict[str, Any]) -> list[str]:
    rows = []
    for name, words in (("without", "no pile"), ("with", "with the pile")):
        for kind in ("accept", "delivery"):
            figures = scenario[name][kind]
            cells = (f"{figures.get(key, 0):.1f}" for key in ("p50_ms", "p90_ms", "p99_ms", "p999_ms", "longest_ms"))
            rows.append([words, kind, f"{figures['count']:,}", *cells])
    head = ["", "until", "messages", "median ms", "90 %", "99 %", "99.9 %", "longest"]
    return [
        "## Head of line",
        "",
        f"A trickle of mail to one domain, beside {scenario['pile']:,} messages for another whose host takes",
        f"{scenario['delay_s']} s for each ({scenario['queued_before']:,} of them were queued before the measurement,",
        f"{scenario['queued_after']:,} after it).",
        "",
        *table(head, rows),
    ]


def space_section(scenario: dict[str, Any]) -> list[str]:
    samples = scenario["samples"]
    shown = samples[:: max(1, len(samples) // 12)]
    rows = [
        [
            f"{each['at_s']:.0f}",
            f"{each['messages']:,}",
            f"{each['alive_octets'] / 1e6:,.1f}",
            f"{each['disk_octets'] / 1e6:,.1f}",
            f"{each['disk_octets'] / each['alive_octets']:.2f}" if each["alive_octets"] else "–",
        ]
        for each in shown
    ]
    return [
        "## Space",
        "",
        f"{scenario['sent']:,} messages, short-lived and long-lived. All segments are in the table, spares and free",
        f"ones too, and with them the {scenario['constant_octets'] / 1e6:.0f} MB that are there always. The",
        f"journal was written {scenario['write_amplification']:.2f} times the mail data accepted.",
        "",
        *table(["second", "messages queued", "alive MB", "on disk MB", "ratio"], rows),
    ]


def ten_million_section(scenario: dict[str, Any]) -> list[str]:
    rows = [[name.replace("_", " "), f"{value:,.1f}"] for name, value in scenario["figures"].items()]
    return [
        f"## {scenario['messages']:,} messages",
        "",
        *scenario["how"],
        "",
        *table(["what", "figure"], rows),
    ]


SECTIONS: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "depth": depth_section,
    "dead_hop": dead_hop_section,
    "head_of_line": head_of_line_section,
    "space": space_section,
    "ten_million": ten_million_section,
}


def render(result: Result) -> str:
    lines = ["# Queue bench", "", f"On loopback, class `{result['options']['durability']}`.", ""]
    lines += goals_section(result)
    for name, scenario in result["scenarios"].items():
        if "error" in scenario:
            lines += [f"## {name}", "", f"Failed: {scenario['error']}", ""]
        else:
            lines += SECTIONS[name](scenario)
    lines += machine_section(result)
    lines += ["## Repeating it", "", "```sh", result["command"], "```", ""]
    return "\n".join(lines)
