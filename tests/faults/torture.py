"""Kill the relay under load, hundreds of times, and account for every message.

    python -m tests.faults.torture --node-kills 150 --worker-kills 100 --hop-kills 30 --report torture.json

Each round waits a random time (0.05 to 0.6 s) after the relay is ready, then kills one worker, the whole node,
the supervisor alone, or the next hop. At the end the queue drains and the accounts are read: *lost* is what was
acknowledged and never arrived; a *duplicate* is explained when the event log has an `in_doubt` event for its
queue id. The relay's own ledger has to agree with the senders: it balances, its accepted recipients are what was
acknowledged and perhaps what had no reply, and a restart changes none of its numbers.

The report is JSON, with the machine described, and Markdown beside it. Exit status 1 when anything was lost,
unexplained, or out of balance.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import shlex
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.node import TRACEBACK, Node
from tests.support.load import Ledger, NextHop, Senders

if TYPE_CHECKING:
    from collections.abc import Callable

DRAIN_S = 90.0
PAUSE_S = (0.05, 0.6)
LEDGER = re.compile(
    r'^angarium_queue_ledger_(?:recipients_total\{outcome="(\w+)"\}|(dropped|queued|drift)_recipients(?:_total)?(?:\{.*)?)$'
)
LOOK_S = 0.1
TRACEBACK_CHARACTERS = 3000
LEAST_ACKNOWLEDGED = 800  # so that "nothing lost" says something
LEDGER_S = 30.0  # the metrics follow the ledger after a second
ENDS = ("delivered", "bounced", "expired", "dropped", "queued")


@dataclass
class Plan:
    """What is to be killed, how often, under what load."""

    worker_kills: int = 0
    node_kills: int = 0
    supervisor_kills: int = 0
    hop_kills: int = 0
    silent_share: float = 0.0  # of the messages, for which the next hop closes after the final dot
    seed: int = 0
    connections: int = 16
    body_octets: int = 600
    chunking: bool = True
    durability: str = "fsync"
    most_ahead: int = 1000  # messages that senders may be ahead of the next hop


@dataclass
class Report:
    """What was done and what came of it."""

    plan: Plan
    seconds: float = 0.0
    kills: dict[str, int] = field(default_factory=lambda: {"worker": 0, "node": 0, "supervisor": 0, "next_hop": 0})
    acknowledged: int = 0
    unanswered: int = 0
    unanswered_delivered: int = 0
    refused: int = 0
    delivered: int = 0
    closed_unanswered: int = 0
    in_doubt_events: int = 0
    duplicates_explained: int = 0
    duplicates_unexplained: int = 0
    lost: int = 0
    worst: int = 0  # arrivals of one message
    tracebacks: int = 0
    ledger: dict[str, int] = field(default_factory=dict)  # the relay's own, in recipients
    ledger_drift: int = 0  # accepted, less what the ledger says became of it
    ledger_strange: int = 0  # accepted by the ledger, less what the senders know of
    ledger_restarted: bool = True  # whether a restart left it as it was
    details: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Nothing lost, nothing unexplained, and the ledger agrees."""
        return not (
            self.lost
            or self.duplicates_unexplained
            or self.tracebacks
            or self.ledger_drift
            or self.ledger_strange
            or not self.ledger_restarted
        )


async def torture(folder: Path, plan: Plan) -> Report:
    """Carry the plan out in folder."""
    randomly = random.Random(plan.seed)
    ledger = Ledger()
    hop = NextHop(ledger, chunking=plan.chunking)
    hop.silent = lambda: randomly.random() < plan.silent_share
    await hop.start()
    node = Node(folder, hop.port, {"queue": {"durability": plan.durability}})
    report = Report(plan)
    began = time.monotonic()
    try:
        await node.up()
        senders = Senders(
            ledger,
            node.smtp_port,
            connections=plan.connections,
            body_octets=plan.body_octets,
            most_ahead=plan.most_ahead,
        )
        senders.start()
        kinds = (
            ["worker"] * plan.worker_kills
            + ["node"] * plan.node_kills
            + ["supervisor"] * plan.supervisor_kills
            + ["next_hop"] * plan.hop_kills
        )
        randomly.shuffle(kinds)
        for kind in kinds:
            before = len(ledger.acknowledged)
            if not await ledger.wait_for(lambda before=before: len(ledger.acknowledged) > before + 10, DRAIN_S):
                raise AssertionError(f"no mail is accepted any more\n{node.stderr[-4000:]}")
            await asyncio.sleep(randomly.uniform(*PAUSE_S))
            await _kill(node, hop, kind, randomly)
            report.kills[kind] += 1
        # a machine that is busy with other things gets there as well
        await ledger.wait_for(lambda: min(len(ledger.acknowledged), len(ledger.arrivals)) > LEAST_ACKNOWLEDGED, DRAIN_S)
        await senders.stop()
        hop.silent = lambda: False
        await node.serving()
        await ledger.wait_for(lambda: not ledger.missing, DRAIN_S)
        await node.settled(DRAIN_S)
        await _read_ledger(report, ledger, node)
        await node.down()
        _account(report, ledger, hop, node)
    finally:
        report.seconds = round(time.monotonic() - began, 1)
        await node.close()
        await hop.crash()
    return report


async def _kill(node: Node, hop: NextHop, kind: str, randomly: random.Random) -> None:
    if kind == "worker":
        workers = node.children("worker")
        if workers:
            await node.kill_pids(randomly.choice(workers))
    elif kind == "node":
        await node.kill_everything()
        await node.up()
    elif kind == "supervisor":
        await node.kill_supervisor()
        await node.up()
    else:
        await hop.crash()
        await asyncio.sleep(randomly.uniform(0.0, 0.3))
        await hop.start()


def ledger_of(metrics: dict[str, float]) -> dict[str, int]:
    """The relay's ledger by what became of recipients; labels (the reason of a drop) are added up."""
    found: dict[str, int] = {}
    for sample, value in metrics.items():
        match = LEDGER.match(sample)
        if match is not None:
            name = match[1] or match[2]
            found[name] = found.get(name, 0) + int(value)
    return found


async def _read_ledger(report: Report, ledger: Ledger, node: Node) -> None:
    """With an empty queue, and once more after a restart."""
    known = len(ledger.acknowledged)
    before = await _ledger_when(node, lambda found: found["queued"] == 0 and found["accepted"] >= known)
    await node.down()
    await node.up()
    await node.serving()
    after = await _ledger_when(node, lambda found: found == before)
    report.ledger = before
    report.ledger_restarted = before == after
    report.ledger_drift = before["accepted"] - sum(before[end] for end in ENDS) or before["drift"]
    report.ledger_strange = max(0, before["accepted"] - known - len(ledger.unanswered), known - before["accepted"])
    if not report.ledger_restarted:
        report.details.append(f"the ledger before a restart: {before}, after it: {after}")


async def _ledger_when(node: Node, condition: Callable[[dict[str, int]], bool]) -> dict[str, int]:
    """The ledger by the metrics once condition holds, or as it is after LEDGER_S."""
    until = time.monotonic() + LEDGER_S
    while True:
        found = ledger_of(await asyncio.to_thread(node.metrics))
        if condition(found) or time.monotonic() > until:
            return found
        await asyncio.sleep(LOOK_S)


def _account(report: Report, ledger: Ledger, hop: NextHop, node: Node) -> None:
    in_doubt = {event["id"] for event in node.events("in_doubt")}
    report.acknowledged = len(ledger.acknowledged)
    report.unanswered = len(ledger.unanswered)
    report.unanswered_delivered = len(ledger.unanswered & ledger.arrivals.keys())
    report.refused = len(ledger.refused)
    report.delivered = sum(len(ids) for ids in ledger.arrivals.values())
    report.closed_unanswered = hop.closed_unanswered
    report.in_doubt_events = len(in_doubt)
    report.worst = max((len(ids) for ids in ledger.arrivals.values()), default=0)
    for token, ids in ledger.twice.items():
        if len(set(ids)) == 1 and ids[0] in in_doubt:
            report.duplicates_explained += len(ids) - 1
        else:
            report.duplicates_unexplained += len(ids) - 1
            report.details.append(f"unexplained: {token} arrived as {ids}")
    report.lost = len(ledger.missing)
    report.details += [f"lost: {token} as {ledger.acknowledged[token]}" for token in sorted(ledger.missing)]
    tracebacks = list(TRACEBACK.finditer(node.stderr))
    report.tracebacks = len(tracebacks)
    report.details += [node.stderr[found.start() : found.start() + TRACEBACK_CHARACTERS] for found in tracebacks]
    del report.details[50:]


def render(result: dict[str, Any]) -> str:
    """The report in Markdown."""
    plan, machine = result["plan"], result["machine"]
    kills = result["kills"]
    names = {
        "node": "the whole node",
        "worker": "a worker",
        "supervisor": "the supervisor alone",
        "next_hop": "next hop",
    }
    rows = [
        ("kills", f"{sum(kills.values())}: " + ", ".join(f"{kills[kind]} of {name}" for kind, name in names.items())),
        ("answered 250", f"{result['acknowledged']:,}"),
        ("sent, no final reply seen", f"{result['unanswered']:,}, {result['unanswered_delivered']:,} of them arrived"),
        ("arrived", f"{result['delivered']:,}"),
        ("**lost**", f"**{result['lost']}**"),
        ("duplicates, each in doubt by the event log", f"{result['duplicates_explained']:,}"),
        ("duplicates unexplained", f"{result['duplicates_unexplained']}"),
        ("final dots that the next hop left unanswered", f"{result['closed_unanswered']:,}"),
    ]
    if result["ledger"]:
        rows += [
            (
                "the relay's ledger, recipients",
                ", ".join(f"{key} {value:,}" for key, value in result["ledger"].items()),
            ),
            ("drift of the ledger", f"{result['ledger_drift']}"),
            ("accepted by the ledger beyond what the senders know", f"{result['ledger_strange']}"),
            ("the same after a restart", "yes" if result["ledger_restarted"] else "**no**"),
        ]
    lines = [
        "# Torture: kill -9 under load",
        "",
        f"{result['seconds']:.0f} s, class `{plan['durability']}`, {plan['connections']} connections, about "
        f"{plan['body_octets']} octets each, {'BDAT' if plan['chunking'] else 'DATA'} to the next hop, seed "
        f"{plan['seed']}. Result: **{'sound' if result['sound'] else 'NOT SOUND'}**.",
        "",
        "| what | count |",
        "| --- | --- |",
        *(f"| {what} | {count} |" for what, count in rows),
        "",
    ]
    if result["details"]:
        lines += [*(f"- {detail}" for detail in result["details"]), ""]
    lines += [
        "## The machine",
        "",
        f"- {machine['cores']} × {machine['cpu']}{' (virtual)' if machine['virtual'] else ''}, "
        f"{(machine['memory_octets'] or 0) / 2**30:.0f} GiB, {machine['system']}, Linux {machine['kernel']}",
        f"- spool: {machine['spool']['filesystem']}, {machine['spool']['fdatasync_per_s']['recycled_file']:,.0f} "
        "fdatasync/s on a recycled file",
        f"- commit {machine['commit'] or 'none'}{', changed since' if machine['uncommitted_changes'] else ''}",
        "",
        "## Repeating it",
        "",
        "```sh",
        result["command"],
        "```",
        "",
    ]
    return "\n".join(lines)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.torture", description="Kill the relay under load and account for every message."
    )
    parser.add_argument("--node-kills", type=int, default=150)
    parser.add_argument("--worker-kills", type=int, default=100)
    parser.add_argument("--supervisor-kills", type=int, default=20)
    parser.add_argument("--hop-kills", type=int, default=30)
    parser.add_argument("--silent-share", type=float, default=0.01, help="of final dots, left unanswered")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--body-octets", type=int, default=600)
    parser.add_argument("--durability", choices=("fsync", "async"), default="fsync")
    parser.add_argument("--no-chunking", action="store_true", help="DATA to the next hop instead of BDAT")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--folder", type=Path, help="of the spool, kept; else a temporary one")
    parser.add_argument("--report", type=Path, help="JSON (default bench/results/torture-DATE.json)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    from bench.load.machine import describe_machine
    from bench.load.spool import Spool
    from bench.load.stage import RESULTS, now, write

    options = parse_arguments(argv)
    plan = Plan(
        worker_kills=options.worker_kills,
        node_kills=options.node_kills,
        supervisor_kills=options.supervisor_kills,
        hop_kills=options.hop_kills,
        silent_share=options.silent_share,
        seed=options.seed,
        connections=options.connections,
        body_octets=options.body_octets,
        chunking=not options.no_chunking,
        durability=options.durability,
    )
    started = now()
    with tempfile.TemporaryDirectory(prefix="angarium-torture-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        report = asyncio.run(torture(folder, plan))
        machine = describe_machine(Spool(folder, "plain directory"), "none")
    result = {
        "kind": "torture",
        "command": "python -m tests.faults.torture " + shlex.join(sys.argv[1:] if argv is None else argv),
        "started": started,
        "finished": now(),
        "machine": machine,
        **asdict(report),
        "sound": report.sound,
    }
    out: Path = options.report or RESULTS / f"torture-{time.strftime('%Y%m%d-%H%M%S')}.json"
    write(result, out)
    out.with_suffix(".md").write_text(render(result), encoding="utf-8")
    print(render(result))
    print(f"result: {out}, report: {out.with_suffix('.md')}")
    return 0 if report.sound else 1


if __name__ == "__main__":
    sys.exit(main())
