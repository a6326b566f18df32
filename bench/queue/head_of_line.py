"""A pile of mail for one slow domain must not delay mail to others.

A trickle of messages to another domain goes through the relay and is timed, first with an empty queue, then with the
pile behind it: one domain whose host takes `DELAY_S` to answer DATA, on as many connections as the relay allows itself.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from bench.load.accounting import wait_for_quiet, wait_until_settled

from .flood import Plan, flood
from .node import Node
from .program import Program

if TYPE_CHECKING:
    from .stand import Stand

DELAY_S = 10
REST_S = 30.0


def run(stand: Stand) -> dict[str, Any]:
    sizes, ports = stand.sizes, stand.ports
    node = Node(
        stand.ground,
        [
            ("*.slow.example", f"smtp://127.0.0.1:{ports.slow}"),
            ("probe.example", f"smtp://127.0.0.1:{ports.probe}"),
            ("*", "discard:"),
        ],
        name="line",
        delivery={"tls": '"none"'},
    )
    result: dict[str, Any] = {"pile": sizes.pile, "delay_s": DELAY_S}
    with contextlib.ExitStack() as undo:
        undo.callback(stand.slow_sink(DELAY_S).close)
        undo.callback(node.stop)
        node.start()
        result["settings"] = node.settings()
        probe(stand, node, sizes.probe_seconds / 4)  # to working temperature
        result["without"] = probe(stand, node, sizes.probe_seconds)
        plan = Plan(node.port, sizes.pile, zone="slow.example", octets=sizes.pile_octets, sessions=sizes.sessions)
        result["fill"] = flood(plan, limit_s=sizes.limit_s)
        wait_until_settled(stand.ground.group, REST_S)
        result["queued_before"] = node.queue_length()
        result["with"] = probe(stand, node, sizes.probe_seconds)
        result["queued_after"] = node.queue_length()
        node.kill()  # what is left of the pile goes with its spool
        node.clear()
    for name in ("without", "with"):
        stand.say(f"head of line: {name:7} the pile: delivery {json.dumps(result[name]['delivery'])}")
    return result


def probe(stand: Stand, node: Node, seconds: float) -> dict[str, Any]:
    wait_for_quiet(stand.ground.quiet_limit_s)
    plan = {"port": node.port, "sink_port": stand.ports.probe, "rate": stand.sizes.probe_rate, "seconds": seconds}
    prober = Program("probe", "stream", json.dumps(plan))
    try:
        return prober.finish(stand.sizes.limit_s)
    finally:
        prober.close()
