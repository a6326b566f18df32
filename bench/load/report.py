"""Markdown from a JSON result: the goals and what was reached, every scenario in figures, the machine, how to repeat
it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .figures import (
    GOALS,
    WORKER_AT_REST_OCTETS,
    Key,
    Result,
    Spread,
    figure,
    good_runs,
    ratio,
    relays,
    scenarios,
    spread,
)

if TYPE_CHECKING:
    from collections.abc import Callable

MODE_WORDS = {"reuse": "reused", "new": "one each"}


def rate_text(value: float) -> str:
    return f"{value:,.0f}"


def octets_text(value: float) -> str:
    return f"{value / 1e6:,.0f}"


def with_spread(figures: Spread | None, text: Callable[[float], str]) -> str:
    if figures is None:
        return "–"
    if figures.count == 1:
        return text(figures.median)
    return f"**{text(figures.median)}** ({text(figures.least)}–{text(figures.most)})"


def scenario_cells(key: Key) -> str:
    return f"{key[0] / 1024:g} KiB | {key[1]} | {MODE_WORDS[key[2]]}"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + " --- |" * sum(cell.count("|") + 1 for cell in head),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


def goals_section(result: Result) -> list[str]:
    present = scenarios(result)
    rows = []
    for goal in GOALS:
        if goal.key not in present:
            continue
        rate = ratio(result, goal.key, "angarium", "postfix", "end_to_end_rate")
        cpu = ratio(result, goal.key, "postfix", "angarium", "relay_cpu_us")
        if rate is None or cpu is None:
            continue
        met = rate.median >= goal.rate and (goal.cpu is None or cpu.median >= goal.cpu)
        aim = f" (aim {goal.aim_rate:g}×)" if goal.aim_rate else ""
        cpu_goal = (
            "–" if goal.cpu is None else f"1/{goal.cpu:g}" + (f" (aim 1/{goal.aim_cpu:g})" if goal.aim_cpu else "")
        )
        rows.append(
            [
                scenario_cells(goal.key),
                f"{goal.rate:g}×{aim}",
                with_spread(rate, lambda value: f"{value:.1f}×"),
                cpu_goal,
                with_spread(cpu, lambda value: f"1/{value:.1f}"),
                "yes" if met else "**no**",
            ]
        )
    if not rows:
        return []
    head = ["size | sessions | connections", "goal: rate", "reached", "goal: CPU", "reached", "met"]
    return [
        "## Angarium against Postfix",
        "",
        "End-to-end rate and CPU time per message as ratios of the medians; in brackets the least and the most",
        "of the paired runs.",
        "",
        *table(head, rows),
    ]


def figures_section(result: Result) -> list[str]:
    rows = []
    for key in scenarios(result):
        for relay in relays(result):
            if not good_runs(result, relay, key):
                continue
            rows.append(
                [
                    scenario_cells(key),
                    relay,
                    with_spread(figure(result, relay, key, "accept_rate"), rate_text),
                    with_spread(figure(result, relay, key, "end_to_end_rate"), rate_text),
                    with_spread(figure(result, relay, key, "relay_cpu_us"), rate_text),
                    with_spread(figure(result, relay, key, "peak_pss_octets"), octets_text),
                ]
            )
    head = [
        "size | sessions | connections",
        "relay",
        "accepted/s",
        "end to end/s",
        "relay CPU µs/message",
        "peak PSS MB",
    ]
    return [
        "## All scenarios",
        "",
        "Median (least–most) of the repetitions. *Accepted* ends at the last 250, *end to end* at the last message in",
        "the sink. CPU is user and system time of all processes of the relay, finished ones and the work after the",
        "last delivery included.",
        "",
        *table(head, rows),
    ]


def elsewhere_section(result: Result) -> list[str]:
    """Where the rest of the machine's time went: what a rate is bounded by."""
    rows = []
    for key in scenarios(result):
        for relay in relays(result):
            runs = good_runs(result, relay, key)
            if not runs:
                continue
            names = ("generator_cpu_us", "sink_cpu_us", "kernel_threads_cpu_us")
            cpu = [with_spread(figure(result, relay, key, name), rate_text) for name in names]
            flushes = figure(result, relay, key, "disk_flushes")
            messages = figure(result, relay, key, "messages")
            written = figure(result, relay, key, "disk_written_octets")
            per_flush = messages.median / flushes.median if messages and flushes and flushes.median else None
            per_message = written.median / messages.median if messages and written else 0.0
            unused = [figure(result, relay, key, name) for name in ("idle_share", "iowait_share")]
            rows.append(
                [
                    scenario_cells(key),
                    relay,
                    *cpu,
                    f"{per_flush:,.1f}" if per_flush else "–",
                    f"{per_message / 1024:,.1f}",
                    " + ".join(f"{share.median:.0%}" for share in unused if share),
                ]
            )
    head = [
        "size | sessions | connections",
        "relay",
        "generator µs",
        "sink µs",
        "kernel threads µs",
        "messages a disk flush",
    ]
    return ["## The rest of the machine", "", *table([*head, "KiB written a message", "idle + disk wait"], rows)]


def memory_section(result: Result) -> list[str]:
    lines = ["## Memory at rest", "", "Each process of the relay after its start, before the first message.", ""]
    rows = []
    for relay, processes in result["at_rest"].items():
        for process in processes:
            command = process["command"].replace("|", "\\|")
            rows.append(
                [relay, f"`{command}`", f"{process['pss_octets'] / 1e6:.1f}", f"{process['rss_octets'] / 1e6:.1f}"]
            )
    if not rows:
        return []
    goal = f"Goal: at most {WORKER_AT_REST_OCTETS / 1e6:.0f} MB for each of Angarium's workers."
    return [*lines, *table(["relay", "process", "PSS MB", "RSS MB"], rows), goal, ""]


def machine_section(result: Result) -> list[str]:
    machine = result["machine"]
    spool = machine["spool"]
    journal = {True: ", journaled", False: ", without a journal"}.get(spool.get("journal"), "")
    rates = spool["fdatasync_per_s"]
    lines = [
        "## The machine",
        "",
        f"- {machine['cores']} × {machine['cpu']}{' (virtual)' if machine['virtual'] else ''}, "
        f"{(machine['memory_octets'] or 0) / 2**30:.0f} GiB, {machine['system']}, Linux {machine['kernel']}",
        f"- spool: {spool['kind']}, {spool['filesystem']}{journal} ({spool.get('options', '')}); one writer, 4 KiB "
        f"each: {rates['growing_file']:,.0f} fdatasync/s on a growing file, {rates['recycled_file']:,.0f} on a "
        "recycled one",
        f"- CPU accounting: {machine['accounting']}; priority {result['options']['nice']}; scheduling by session "
        f"{'off' if result['autogroup_off'] else 'on'}",
        f"- commit {machine['commit'] or 'none'}{', changed since' if machine['uncommitted_changes'] else ''}",
    ]
    for name, relay in result["relays"].items():
        lines.append(f"- {name}: {relay['summary']}; {relay['version'] or '–'}; durability: {relay['durability']}")
    lines.append("")
    if not result["runs"]:
        return lines
    probe = spread(run["probe_ms"] for run in result["runs"])
    sync = spread(run["fdatasync_per_s"] for run in result["runs"])
    if probe and sync:
        lines += [
            f"Before each run a fixed loop took {probe.median:.0f} ms of CPU ({probe.least:.0f}–{probe.most:.0f}), and "
            f"the disk did {sync.median:,.0f} fdatasync/s on a recycled file ({sync.least:,.0f}–{sync.most:,.0f}): "
            "how steady the machine itself was.",
            "",
        ]
    disturbed = sum(run["disturbed"] for run in result["runs"])
    failed = sum(not run["ok"] for run in result["runs"])
    lines += [
        f"{len(result['runs'])} runs from {result['started']} to {result['finished']}; "
        f"{disturbed} disturbed, {failed} failed.",
    ]
    return [*lines, ""]


def failures_section(result: Result) -> list[str]:
    failed = [run for run in result["runs"] if not run["ok"]]
    if not failed:
        return []
    lines = ["## Failed runs", ""]
    for run in failed:
        lines.append(
            f"- {run['relay']}, {run['size_octets']} octets, {run['sessions']} sessions, {run['mode']}: {run['error']}"
        )
    return [*lines, ""]


def soak_report(result: Result) -> str:
    soak = result["soak"]
    lines = [
        "# Memory over a long run",
        "",
        f"{soak['received']:,} messages of {soak['size_octets']:,} octets over {soak['sessions']} connections: "
        f"{soak['end_to_end_rate']:,.0f}/s end to end, {soak['relay_cpu_us']:,.0f} µs of CPU a message, "
        f"{soak['duplicates']} more received than sent. PSS sampled every second.",
        "",
    ]
    rows = [
        [
            f"{process['command']}",
            f"{process['at_rest_octets'] / 1e6:.1f}",
            f"{process['first_half_octets'] / 1e6:.1f}",
            f"{process['second_half_octets'] / 1e6:.1f}",
            f"{process['peak_octets'] / 1e6:.1f}",
            f"{process['after_octets'] / 1e6:.1f}",
            f"{process['slope_octets_per_message']:+.2f}",
        ]
        for process in soak["processes"]
    ]
    head = [
        "process",
        "at rest MB",
        "median, 1st half",
        "median, 2nd half",
        "peak",
        "afterwards",
        "slope, octets a message",
    ]
    lines += table(head, rows)
    return "\n".join([*lines, *machine_section(result)])


def render(result: Result) -> str:
    if result["kind"] == "soak":
        return soak_report(result)
    sections = (
        goals_section,
        figures_section,
        elsewhere_section,
        memory_section,
        failures_section,
        machine_section,
    )
    lines = ["# Load bench", "", f"Store and forward on loopback, class `{result['options']['durability']}`.", ""]
    for section in sections:
        lines += section(result)
    lines += ["## Repeating it", "", "```sh", result["command"], "```", ""]
    return "\n".join(lines)
