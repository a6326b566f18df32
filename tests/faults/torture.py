"""Kill the relay under load, hundreds of times, and account for every message.

    python -m tests.faults.torture --worker-kills 100 --node-kills 100 --hop-kills 50 --report torture.json

Each round waits a random time (0.05 to 0.6 s) after the relay is ready, then kills one worker, the whole node,
the supervisor alone, or the next hop. At the end the queue drains and the ledger is read: *lost* is what was
acknowledged and never arrived; a *duplicate* is explained when the event log has an `in_doubt` event for its
queue id. Exit status 1 when anything was lost or unexplained.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.faults.node import TRACEBACK, Node
from tests.support.load import Ledger, NextHop, Senders

DRAIN_S = 90.0
PAUSE_S = (0.05, 0.6)


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
    details: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Nothing lost, nothing unexplained."""
        return not self.lost and not self.duplicates_unexplained and not self.tracebacks


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
            if not await ledger.wait_for(lambda before=before: len(ledger.acknowledged) > before + 10, 30):
                raise AssertionError(f"no mail is accepted any more\n{node.stderr[-4000:]}")
            await asyncio.sleep(randomly.uniform(*PAUSE_S))
            await _kill(node, hop, kind, randomly)
            report.kills[kind] += 1
        await senders.stop()
        hop.silent = lambda: False
        await node.serving()
        await ledger.wait_for(lambda: not ledger.missing, DRAIN_S)
        await node.settled(DRAIN_S)
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
    report.tracebacks = len(TRACEBACK.findall(node.stderr))
    del report.details[50:]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Kill the relay under load and account for every message.")
    parser.add_argument("--worker-kills", type=int, default=100)
    parser.add_argument("--node-kills", type=int, default=100)
    parser.add_argument("--supervisor-kills", type=int, default=0)
    parser.add_argument("--hop-kills", type=int, default=0)
    parser.add_argument("--silent-share", type=float, default=0.0)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--body-octets", type=int, default=600)
    parser.add_argument("--no-chunking", action="store_true")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--report", type=Path, default=Path("torture.json"))
    options = parser.parse_args()
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
    )
    with tempfile.TemporaryDirectory(prefix="angarium-torture-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        report = asyncio.run(torture(folder, plan))
    result = asdict(report) | {"sound": report.sound}
    options.report.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    sys.exit(0 if report.sound else 1)


if __name__ == "__main__":
    main()
