"""The matrix of scenarios, the relays taking turns.

For each scenario and repetition every relay in turn is started, warmed up, measured and stopped (A B A B …), so that a
machine that drifts touches all alike; the n-th runs of two relays are a pair. A first calibrating run decides how many
messages make a run of the wanted length. A disturbed or failed run is repeated a few times; all runs stay in the
result, marked.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .accounting import command_line, pss_octets, rss_octets
from .relays import PROJECT
from .trial import Run, Scenario, run_trial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .relays import Ground, Relay
    from .traffic import Sink

AT_REST_S = 1.5
WARM_UP_SHARE = 5  # a warm-up has this fraction of a run's messages


@dataclass
class Plan:
    scenarios: list[Scenario]
    repetitions: int = 3
    seconds: float = 11.0
    messages: int | None = None  # instead of calibrating
    most_messages: int = 400_000
    calibrate: int = 2_000
    retries: int = 2
    limit_s: float = 120.0


@dataclass
class Series:
    """Runs a plan; `say` gets a line for people, `keep` gets the series after every run, so that an interrupted one is
    not lost.
    """

    ground: Ground
    sink: Sink
    plan: Plan
    say: Callable[[str], None]
    keep: Callable[[Series], None] = lambda series: None
    runs: list[Run] = field(default_factory=list)
    at_rest: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    counts: dict[tuple[str, Scenario], int] = field(default_factory=dict)

    def run(self, relays: list[Relay]) -> None:
        for scenario in self.plan.scenarios:
            for repetition in range(1, self.plan.repetitions + 1):
                for relay in relays:
                    with running(relay):
                        self.note_at_rest(relay)
                        self.measure(relay, scenario, repetition)
                    self.keep(self)

    def note_at_rest(self, relay: Relay) -> None:
        if relay.measured and relay.name not in self.at_rest:
            time.sleep(AT_REST_S)
            self.at_rest[relay.name] = list_processes(self.ground)

    def measure(self, relay: Relay, scenario: Scenario, repetition: int) -> None:
        count = self.warm_up(relay, scenario)
        for attempt in range(self.plan.retries + 1):
            run = run_trial(relay, self.sink, scenario, count, limit_s=self.plan.limit_s, repetition=repetition)
            self.runs.append(run)
            self.say(line_for(run))
            if not relay.wait_until_empty():
                self.say(f"{relay.name}: the queue does not empty, purging it")
                relay.purge()
            if run.ok and not run.disturbed:
                return
            if attempt < self.plan.retries:
                self.say("  … once more")

    def warm_up(self, relay: Relay, scenario: Scenario) -> int:
        """Bring a fresh relay to working temperature; returns the number of messages of a measured run."""
        key = (relay.name, scenario)
        known = self.counts.get(key)
        least = scenario.sessions * 3
        if known is not None:
            count = max(least, known // WARM_UP_SHARE)
        else:
            count = max(least, self.plan.calibrate if scenario.size_octets <= 50_000 else self.plan.calibrate // 4)
        run = run_trial(relay, self.sink, scenario, count, limit_s=self.plan.limit_s)
        if not run.ok:
            self.say(f"{relay.name}: warm-up failed: {run.error}")
        relay.wait_until_empty()
        if known is None:
            rate = min(run.end_to_end_rate, run.accept_rate) or 1.0
            known = self.plan.messages or int(min(self.plan.most_messages, max(least, rate * self.plan.seconds)))
            self.counts[key] = known
        return known


@contextlib.contextmanager
def running(relay: Relay) -> Iterator[Relay]:
    try:
        relay.start()
        yield relay
    finally:
        relay.stop()


def list_processes(ground: Ground) -> list[dict[str, Any]]:
    return [
        {
            "pid": pid,
            "command": command_line(pid).replace(str(PROJECT), "."),
            "rss_octets": rss_octets(pid),
            "pss_octets": pss_octets(pid),
        }
        for pid in ground.group.pids()
    ]


def line_for(run: Run) -> str:
    cpu = f"{run.relay_cpu_us:7.0f} µs" if run.relay_cpu_us is not None else "         -"
    memory = f"{run.peak_pss_octets / 1e6:5.0f} MB" if run.peak_pss_octets else "       -"
    state = "" if run.ok else f"  FAILED: {run.error}"
    state += "  DISTURBED" if run.disturbed else ""
    return (
        f"{run.relay:10} {run.size_octets:>7} o {run.sessions:>4} {run.mode:5} {run.repetition}:"
        f"  accept {run.accept_rate:8.0f}/s"
        f"  end to end {run.end_to_end_rate:8.0f}/s  CPU {cpu}  PSS {memory}  idle {run.idle_share:4.0%}"
        f"  foreign {run.foreign_share:5.1%}{state}"
    )
