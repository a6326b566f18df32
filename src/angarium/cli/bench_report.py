"""What `angarium bench` shows of a result: tables of numbers, bars for the terminal, a plot as SVG.

A result is a plain dictionary (see `bench.assemble`), and everything here turns one into text; nothing measures.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final
from xml.sax.saxutils import escape

from angarium.cli.loadgen import Histogram

if TYPE_CHECKING:
    from collections.abc import Sequence

BARS: Final = " ▁▂▃▄▅▆▇█"
PERCENTILES: Final = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
CURVE: Final = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999, 1.0)

Point = tuple[float, float]


def rates(points: Sequence[Point]) -> list[Point]:
    """(time, count so far) → (time, count per second since the point before). Points at the same time are merged."""
    return [
        (later, (more - less) / (later - earlier))
        for (earlier, less), (later, more) in pairwise(points)
        if later > earlier
    ]


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """`values`, averaged into at most `width` columns, as bars from 0 to the largest."""
    if not values:
        return ""
    columns = min(width, len(values))
    edges = [index * len(values) // columns for index in range(columns + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    top = max(means)
    if top <= 0:
        return BARS[0] * columns
    return "".join(BARS[round(mean / top * (len(BARS) - 1))] for mean in means)


def duration_text(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def latency_bars(histogram: Histogram, rows: int = 12, width: int = 40) -> list[tuple[str, str, int]]:
    """(upper bound, bar, count) for bounds that double, without the empty ones at both ends; at most `rows`, slowest
    last.
    """
    by_power: dict[int, int] = {}
    for lower, count in histogram.as_pairs():
        power = lower.bit_length()
        by_power[power] = by_power.get(power, 0) + count
    if not by_power:
        return []
    powers = range(min(by_power), max(by_power) + 1)[-rows:]
    if min(by_power) < powers[0]:  # what does not fit is counted in the first row
        by_power[powers[0]] = sum(count for power, count in by_power.items() if power <= powers[0])
    top = max(by_power[power] for power in powers if power in by_power)
    table = []
    for power in powers:
        count = by_power.get(power, 0)
        filled = max(1, round(count / top * width)) if count else 0
        table.append((duration_text((1 << power) / 1e6), "█" * filled, count))
    return table


def summary_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    """What a person wants to know, as (what, how much)."""
    rows = [
        ("accepted", f"{result['accepted']:,} messages in {result['accept_s']:.2f} s: {result['accept_rate']:,.0f}/s")
    ]
    if result["end_to_end_s"] is not None:
        rows.append(
            (
                "end to end",
                f"{result['received']:,} in {result['end_to_end_s']:.2f} s: {result['end_to_end_rate']:,.0f}/s",
            )
        )
    latency = result["latency_s"]
    rows.append(
        ("time to 250", ", ".join(f"{name} {duration_text(latency[name])}" for name in ("p50", "p90", "p99", "max")))
    )
    if result["relay"] is not None:
        relay = result["relay"]
        rows += [
            ("relay", f"{relay['cpu_us']:,.0f} µs of CPU a message, {relay['peak_pss_octets'] / 1e6:,.0f} MB"),
            (
                "promise",
                f"durability={relay['durability']}, {relay['workers']} workers, spool on {relay['filesystem']}",
            ),
        ]
    rows.append(("generator", f"{result['generator_cpu_us']:,.0f} µs of CPU a message on the same machine"))
    if result["sink_cpu_us"] is not None:
        rows.append(("sink", f"{result['sink_cpu_us']:,.0f} µs"))
    if result["failed"]:
        rows.append(("failed", f"{result['failed']:,}"))
    return rows


STYLE: Final = """
.paper{fill:#fff}.ink{fill:#1f2328}.faint{fill:#59636e}.line{stroke:#d1d9e0;stroke-width:1}
.accepted{stroke:#0969da;fill:none;stroke-width:2}.received{stroke:#bc4c00;fill:none;stroke-width:2}
.accepted-ink{fill:#0969da}.received-ink{fill:#bc4c00}
text{font:12px system-ui,sans-serif}.title{font-size:15px;font-weight:600}
@media (prefers-color-scheme:dark){.paper{fill:#0d1117}.ink{fill:#f0f6fc}.faint{fill:#9198a1}.line{stroke:#3d444d}
.accepted{stroke:#4493f8}.received{stroke:#f0883e}.accepted-ink{fill:#4493f8}.received-ink{fill:#f0883e}}
"""
WIDTH: Final = 860
LEFT, RIGHT, PANEL = 70, 20, 190


def polyline(points: Sequence[Point], style: str) -> str:
    return f'<polyline class="{style}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


def label(x: float, y: float, text: str, style: str = "faint", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" text-anchor="{anchor}">{escape(text)}</text>'


def round_up(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 1.0
    while power * 10 <= value:
        power *= 10
    while power > value > 0:
        power /= 10
    return next((power * step for step in (1, 2, 5) if power * step >= value), power * 10)


def rate_panel(result: dict[str, Any], top: float) -> list[str]:
    """Messages per second over time: accepted, and received by the sink."""
    series = {name: rates([(x, y) for x, y in result["timeline"][name]]) for name in ("accepted", "received")}
    ends = [points[-1][0] for points in series.values() if points]
    peak = round_up(max([1.0, *(rate for points in series.values() for _, rate in points)]))
    end = max(ends, default=1.0)
    width = WIDTH - LEFT - RIGHT
    drawn = [label(LEFT, top - 12, "messages a second", "ink")]
    for step in range(5):
        y = top + PANEL - PANEL * step / 4
        drawn.append(f'<line class="line" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        drawn.append(label(LEFT - 8, y + 4, f"{peak * step / 4:,.0f}", anchor="end"))
    for step in range(6):
        drawn.append(label(LEFT + width * step / 5, top + PANEL + 18, f"{end * step / 5:.1f} s", anchor="middle"))
    for offset, (name, points) in enumerate((name, points) for name, points in series.items() if points):
        placed = [(LEFT + x / end * width, top + PANEL - min(rate, peak) / peak * PANEL) for x, rate in points]
        drawn.append(polyline(placed, name))
        drawn.append(label(WIDTH - RIGHT - 90 * offset, top - 12, name, f"{name}-ink", "end"))
    return drawn


def latency_panel(result: dict[str, Any], top: float) -> list[str]:
    """Time to 250 over the share of messages that were as fast, the slow end stretched."""
    latency = result["latency_s"]
    histogram = Histogram.from_pairs([(a, b) for a, b in latency["buckets"]], latency["max"])
    width = WIDTH - LEFT - RIGHT
    times = [histogram.percentile(share) for share in CURVE]
    peak = round_up(max(times[-1] * 1e3, 0.001))
    drawn = [label(LEFT, top - 12, "time to 250, milliseconds, by share of messages", "ink")]
    for step in range(5):
        y = top + PANEL - PANEL * step / 4
        drawn.append(f'<line class="line" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        drawn.append(label(LEFT - 8, y + 4, f"{peak * step / 4:g}", anchor="end"))
    placed = []
    for index, (share, seconds) in enumerate(zip(CURVE, times, strict=True)):
        x = LEFT + width * index / (len(CURVE) - 1)
        placed.append((x, top + PANEL - seconds * 1e3 / peak * PANEL))
        drawn.append(label(x, top + PANEL + 18, f"{share * 100:g} %", anchor="middle"))
    return [*drawn, polyline(placed, "accepted")]


def render_svg(result: dict[str, Any]) -> str:
    """The whole plot: rates over time above, latency below. Follows the viewer's light or dark setting."""
    plan = result["plan"]
    title = (
        f"angarium bench: {plan['size_octets']:,} octets, {plan['sessions']} sessions, "
        f"{'connections reused' if plan['reuse'] else 'a connection for every message'}"
    )
    height = 2 * PANEL + 190
    body = [
        f'<rect class="paper" width="{WIDTH}" height="{height}"/>',
        label(LEFT, 28, title, "ink title"),
        *rate_panel(result, 70),
        *latency_panel(result, 70 + PANEL + 75),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}">\n'
        f"<style>{STYLE}</style>\n" + "\n".join(body) + "\n</svg>\n"
    )
