"""Octets on disk beside octets alive, under a mix of short- and long-lived mail.

Mail comes at an even rate. Most of it is delivered at once; some is refused for a while (its next hop turns between
refusing and accepting every `TURN_S`), some for as long as the bench runs, so that every segment of the journal keeps a
little that lives. Every second the blocks of all segments, spares and free ones included, are set against the octets of
the messages queued. The few segments that each shard always has, whatever is queued (docs/durability.md says how many),
are left out of the ratio, and told beside it; it counts from `space_least_mib` alive on. After the mail stops the bench
goes on for a while, until only the long-lived mail is left.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from angarium.queue.compaction import LEEWAY

from .flood import Plan
from .node import Node, used_octets
from .program import Program

if TYPE_CHECKING:
    from .stand import Stand

TURN_S = 15.0
SPARES = 4  # of a journal: prepared for what comes next
SHARES = {"short": 0.75, "medium": 0.15, "long": 0.10}
AFTER_SHARE = 0.25  # of the seconds: how long it goes on without new mail
SAMPLE_S = 1.0


def run(stand: Stand) -> dict[str, Any]:
    sizes, ports = stand.sizes, stand.ports
    node = Node(
        stand.ground,
        [
            ("*.short.example", f"smtp://127.0.0.1:{ports.sink}"),
            ("*.medium.example", f"smtp://127.0.0.1:{ports.refusing}"),
            ("*", f"smtp://127.0.0.1:{ports.slow}"),
        ],
        name="mix",
        queue={
            "segment_size": f'"{sizes.space_segment_mib}MiB"',
            "retry": '{ first = "10s", factor = 1.5, longest = "1m", expire = "5d", warn_after = "0s" }',
        },
        delivery={"tls": '"none"'},
    )
    samples: list[dict[str, Any]] = []
    with contextlib.ExitStack() as undo:
        undo.callback(stand.fast_sink().close)
        undo.callback(stand.refusing_sink(ports.slow).close)
        undo.callback(node.stop)
        node.start()
        settings = node.settings()
        before = node.metrics()
        floods = [start_flood(stand, node, zone, share, undo) for zone, share in SHARES.items()]
        turning = Turning(stand)
        undo.callback(turning.close)
        stand.wait(lambda: node.metric("angarium_queue_mail_data_bytes") > 0, "the first mail")
        began = time.monotonic()
        stop_at = began + sizes.space_seconds * (1 + AFTER_SHARE)
        while (now := time.monotonic()) < stop_at:
            turning.turn(now, always_accept=now - began > sizes.space_seconds)
            samples.append(sample(node, now - began))
            time.sleep(max(0.0, SAMPLE_S - (time.monotonic() - now)))
        after = node.metrics()
        sent = [program.finish(sizes.limit_s) for program in floods]
        node.kill()
        node.clear()
    result = {
        "settings": settings,
        "sent": sum(each["accepted"] for each in sent),
        "samples": samples,
        "write_amplification": gain(before, after, "angarium_queue_journal_written_bytes_total")
        / max(1.0, gain(before, after, "angarium_ingress_mail_data_bytes_total")),
        **evaluate(samples, sizes.space_least_mib << 20, constant_octets(stand)),
    }
    stand.say(
        f"space: at most {result['most']:.2f} times what is alive beside {result['constant_octets'] / 1e6:.0f} MB, "
        f"{result['last']:.2f} at the end, "
        f"{result['write_amplification']:.2f} times the mail written"
    )
    return result


def start_flood(stand: Stand, node: Node, zone: str, share: float, undo: contextlib.ExitStack) -> Program:
    sizes = stand.sizes
    rate = sizes.space_rate * share
    plan = Plan(
        node.port,
        max(1, round(rate * sizes.space_seconds)),
        domains=100,
        zone=f"{zone}.example",
        octets=sizes.space_octets,
        sessions=8,
        rate=rate,
    )
    program = Program("flood", json.dumps(asdict(plan)))
    undo.callback(program.close)
    return program


class Turning:
    """The next hop that changes its mind: it refuses, then it accepts, then it refuses."""

    def __init__(self, stand: Stand) -> None:
        self._stand = stand
        self._accepts = False
        self._sink = stand.refusing_sink()
        self._turned_at = time.monotonic()

    def turn(self, now: float, *, always_accept: bool) -> None:
        wanted = True if always_accept else self._accepts ^ (now - self._turned_at > TURN_S)
        if wanted == self._accepts:
            return
        self._sink.close()
        self._sink = self._stand.accepting_again() if wanted else self._stand.refusing_sink()
        self._accepts, self._turned_at = wanted, now

    def close(self) -> None:
        self._sink.close()


def sample(node: Node, at_s: float) -> dict[str, Any]:
    metrics = node.metrics()
    return {
        "at_s": round(at_s, 2),
        "messages": int(metrics["angarium_queue_messages"]),
        "alive_octets": int(metrics["angarium_queue_mail_data_bytes"]),
        "journal_octets": int(metrics["angarium_queue_journal_bytes"]),
        "disk_octets": used_octets(node.queue / "shards"),
    }


def gain(before: dict[str, float], after: dict[str, float], name: str) -> float:
    return after[name] - before[name]


def constant_octets(stand: Stand) -> int:
    """The segments that the shards in use have whatever is queued: those of compaction's leeway, and the spares."""
    return stand.ground.workers * (LEEWAY + SPARES) * (stand.sizes.space_segment_mib << 20)


def evaluate(samples: list[dict[str, Any]], least_octets: int, constant: int) -> dict[str, Any]:
    """Ratios over the samples with at least so much alive, without the constant; zeros when there are none."""
    counted = [each for each in samples if each["alive_octets"] >= max(1, least_octets)]
    if not counted:
        return {"counted": 0, "constant_octets": constant, "most": 0.0, "most_whole": 0.0, "median": 0.0, "last": 0.0}
    ratios = [max(0, each["disk_octets"] - constant) / each["alive_octets"] for each in counted]
    ranked = sorted(ratios)
    return {
        "counted": len(ratios),
        "constant_octets": constant,
        "most": ranked[-1],
        "most_whole": max(each["disk_octets"] / each["alive_octets"] for each in counted),
        "median": ranked[len(ranked) // 2],
        "last": ratios[-1],
    }
