"""Arithmetic on a result: medians with their spread, ratios between relays, and the goals the project has set itself.

A result is the dictionary that `bench.load run` writes; nothing here runs anything.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

Result = dict[str, Any]
Key = tuple[int, int, str]  # size, sessions, mode


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of some figures."""

    median: float
    least: float
    most: float
    count: int


def spread(values: Iterable[float]) -> Spread | None:
    figures = sorted(values)
    if not figures:
        return None
    return Spread(statistics.median(figures), figures[0], figures[-1], len(figures))


@dataclass(frozen=True)
class Goal:
    """End-to-end rate at least `rate` times Postfix's, CPU per message at most 1/`cpu` of it; `aim_…` is hoped for."""

    key: Key
    rate: float
    cpu: float | None = None
    aim_rate: float | None = None
    aim_cpu: float | None = None


GOALS = (
    Goal((1024, 100, "reuse"), 9, 16, 12, 22),
    Goal((1024, 20, "reuse"), 5),
    Goal((10240, 100, "reuse"), 8, 16),
    Goal((102400, 100, "reuse"), 2.5, 5),
    Goal((1024, 100, "new"), 3.5),
    Goal((1024, 20, "new"), 3.5),
)
WORKER_AT_REST_OCTETS = 60_000_000


def key_of(run: dict[str, Any]) -> Key:
    return run["size_octets"], run["sessions"], run["mode"]


def good_runs(result: Result, relay: str, key: Key) -> list[dict[str, Any]]:
    """The run that counts for each repetition: of the attempts that succeeded, the least disturbed one."""
    best: dict[int, dict[str, Any]] = {}
    for run in result["runs"]:
        if run["relay"] == relay and key_of(run) == key and run["ok"]:
            known = best.setdefault(run["repetition"], run)
            if run["foreign_share"] < known["foreign_share"]:
                best[run["repetition"]] = run
    return [best[repetition] for repetition in sorted(best)]


def scenarios(result: Result) -> list[Key]:
    return list(dict.fromkeys(key_of(run) for run in result["runs"]))


def relays(result: Result) -> list[str]:
    return list(dict.fromkeys(run["relay"] for run in result["runs"]))


def figure(result: Result, relay: str, key: Key, name: str) -> Spread | None:
    return spread(run[name] for run in good_runs(result, relay, key) if run[name] is not None)


def ratio(result: Result, key: Key, above: str, below: str, name: str) -> Spread | None:
    """Ratio of the two medians; its least and most are those of the pairs, n-th run against n-th run."""
    upper = {run["repetition"]: run[name] for run in good_runs(result, above, key)}
    lower = {run["repetition"]: run[name] for run in good_runs(result, below, key)}
    pairs = [upper[n] / lower[n] for n in sorted(upper.keys() & lower.keys()) if upper[n] and lower[n]]
    if not pairs:
        return None
    medians = statistics.median(upper.values()) / statistics.median(lower.values())
    return Spread(medians, min(pairs), max(pairs), len(pairs))


def slope(points: list[tuple[float, float]]) -> float:
    """Least-squares slope of y over x; 0 when the points do not spread over x."""
    if len({x for x, _ in points}) < 2:
        return 0.0
    return statistics.linear_regression([x for x, _ in points], [y for _, y in points]).slope
