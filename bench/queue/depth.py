"""A queue of a million deferred messages to a hundred thousand domains: what it costs, and what it does not.

Two relays of the same settings run side by side, one to be filled and one that stays empty, and take turns where they
are compared. Both send mail for dst.example to a sink that takes everything and all else to one that answers 450 to
RCPT.

    memory     PSS of the workers with the full queue minus the same before it was filled, without the mail data that is
               still held in memory (angarium_queue_memory_bytes), a message; and the same after a restart
    accept     messages to dst.example through the full relay and the empty one, in turn
    pass       everything is retried at once and refused again: the longest pause of a worker's loop, by its own
               histogram and by the longest NOOP reply
    operators  what `angarium queue` takes over the full queue, the command's own start included: a list of a filtered
               hundred, the summary; hold and release of everything, and the pauses of the loops meanwhile
    recovery   start-up after SIGTERM and after kill -9, less the start-up of the empty relay
    drain      the next hop says yes, everything is retried: messages a second until the last one is there
"""

from __future__ import annotations

import contextlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from bench.load.accounting import wait_until_settled
from bench.load.relays import RETRY_LIMIT_S
from bench.load.trial import Scenario, run_trial

from .flood import Plan, flood
from .node import Node, pauses
from .program import Program

if TYPE_CHECKING:
    from bench.load.traffic import Sink

    from .stand import Stand

DEFERRED = 'angarium_delivery_recipients_total{result="deferred"}'
MODE = "reuse"
DRAIN_PATIENCE_S = 60.0


def settings(stand: Stand) -> dict[str, Any]:
    """Of both relays: mail data does not stay in memory for long."""
    return {
        "routes": [
            ("dst.example", f"smtp://127.0.0.1:{stand.ports.sink}"),
            ("*", f"smtp://127.0.0.1:{stand.ports.refusing}"),
        ],
        "queue": {
            "memory_budget": '"256MB"',
            "retry": f'{{ first = "{stand.sizes.retry_first}", expire = "5d", warn_after = "0s" }}',
        },
        "delivery": {"tls": '"none"'},
    }


def run(stand: Stand) -> dict[str, Any]:
    """All of it; RelayFailure when a step does not come to its end."""
    given = settings(stand)
    full = Node(stand.ground, given["routes"], name="full", queue=given["queue"], delivery=given["delivery"])
    empty = Node(stand.second_ground(), given["routes"], name="empty", queue=given["queue"], delivery=given["delivery"])
    result: dict[str, Any] = {"messages": stand.sizes.messages, "domains": stand.sizes.domains}
    with contextlib.ExitStack() as undo:
        sink = stand.fast_sink()
        undo.callback(sink.close)
        refusing = stand.refusing_sink()
        undo.callback(refusing.close)
        for node in (full, empty):
            undo.callback(node.stop)
            node.start()
        result["settings"] = full.settings()
        count = warm_up(stand, [full, empty], sink)
        result["memory_empty"] = settled_memory(stand, full)
        half = stand.sizes.messages // 2
        fills = [fill(stand, full, 0, half)]
        result["memory_half"] = settled_memory(stand, full)
        fills.append(fill(stand, full, half, stand.sizes.messages - half))
        result["memory_full"] = settled_memory(stand, full)
        result["fill"] = both(fills)
        result["disk_octets"] = full.disk_octets()
        result["octets_per_message"] = per_message(result, "memory_full")
        result["octets_per_message_second_half"] = (
            beside_mail_data(result["memory_full"]) - beside_mail_data(result["memory_half"])
        ) / (stand.sizes.messages - half)
        stand.say(f"depth: {result['octets_per_message']:.0f} octets of memory a message")
        result["accept"] = accept(stand, [empty, full], sink, count)
        result["pass"] = retry_pass(stand, full)
        result["operators"] = operate(stand, full)
        result["recovery"] = recover(stand, full, empty)
        result["memory_recovered"] = settled_memory(stand, full)
        result["octets_per_message_recovered"] = per_message(result, "memory_recovered")
        result["drain"] = drain(stand, full, refusing)
        result["memory_drained"] = settled_memory(stand, full)
        for node in (full, empty):
            node.stop()
            node.clear()
    return result


def warm_up(stand: Stand, nodes: list[Node], sink: Sink) -> int:
    """Bring both to working temperature; the number of messages that takes one the wanted time."""
    scenario = Scenario(stand.sizes.octets, stand.sizes.sessions, MODE)
    rates = []
    for node in nodes:
        done = run_trial(node, sink, scenario, stand.sizes.warm_up, limit_s=stand.sizes.limit_s)
        stand.say(f"depth: {node.name} warm, {done.end_to_end_rate:,.0f}/s {done.error}")
        rates.append(done.end_to_end_rate)
    return max(stand.sizes.warm_up, int(min(rates) * stand.sizes.accept_seconds))


def settled_memory(stand: Stand, node: Node) -> dict[str, int]:
    """What is held a little after the last message: a worker that has nothing to do gives back what it had taken."""
    wait_until_settled(node.ground.group)
    time.sleep(stand.sizes.idle_seconds)
    return node.memory()


def per_message(result: dict[str, Any], name: str) -> float:
    """Memory of the workers beyond that of the empty queue, mail data left out, in octets a message."""
    grown = beside_mail_data(result[name]) - beside_mail_data(result["memory_empty"])
    return float(grown / result["messages"])


def beside_mail_data(memory: dict[str, int]) -> int:
    return memory["pss"] - memory["mail_data"]


def fill(stand: Stand, node: Node, first: int, messages: int) -> dict[str, Any]:
    """Accept messages `first` to `first + messages`, and let each be refused once."""
    sizes = stand.sizes
    before = node.metrics()
    began = time.monotonic()
    said = [began]

    def tell() -> None:
        if time.monotonic() - said[0] > 20:
            said[0] = time.monotonic()
            queued = node.metric("angarium_queue_messages")
            stand.say(f"depth: {queued:,.0f} of {sizes.messages:,} queued")

    plan = Plan(node.port, messages, sizes.domains, octets=sizes.octets, sessions=sizes.sessions, first=first)
    sent = flood(plan, limit_s=sizes.limit_s, meanwhile=tell)
    refused = before[DEFERRED] + messages
    stand.wait(lambda: node.metric(DEFERRED) >= refused, "every message to be refused once")
    stand.wait(lambda: node.metric("angarium_delivery_ready_messages") == 0, "no message to be ready")
    took = time.monotonic() - began
    stand.say(f"depth: {messages:,} deferred in {took:.0f} s")
    return {**sent, "seconds": took, "loop": pauses(before, node.metrics())}


def both(fills: list[dict[str, Any]]) -> dict[str, Any]:
    accepted = sum(each["accepted"] for each in fills)
    seconds = sum(each["seconds"] for each in fills)
    refused = {text: count for each in fills for text, count in each["refused"].items()}
    loops = [each["loop"] for each in fills]
    return {
        "accepted": accepted,
        "seconds": seconds,
        "deferred_rate": accepted / seconds,
        "refused": refused,
        "loop": {
            "observed": sum(loop["observed"] for loop in loops),
            "longest_s_at_most": max(loop["longest_s_at_most"] for loop in loops),
            "over_50_ms": sum(loop["over_50_ms"] for loop in loops),
        },
    }


def accept(stand: Stand, nodes: list[Node], sink: Sink, count: int) -> list[dict[str, Any]]:
    """The empty relay and the full one, in turn."""
    scenario = Scenario(stand.sizes.octets, stand.sizes.sessions, MODE)
    runs = []
    for repetition in range(1, stand.sizes.accept_repetitions + 1):
        for node in nodes if repetition % 2 else reversed(nodes):
            done = run_trial(node, sink, scenario, count, limit_s=stand.sizes.limit_s, repetition=repetition)
            stand.say(
                f"depth: {node.name:5} {repetition}: accept {done.accept_rate:8,.0f}/s, "
                f"end to end {done.end_to_end_rate:8,.0f}/s {done.error}"
            )
            runs.append(done.as_json())
    return runs


@contextlib.contextmanager
def watched(stand: Stand, node: Node, into: dict[str, Any]) -> Any:
    """Pauses of the node's loops meanwhile, as its metrics and a client see them."""
    prober = Program("probe", "noop", json.dumps({"port": node.port}))
    try:
        prober.wait_begun()
        before = node.metrics()
        yield before
        into["loop"] = pauses(before, node.metrics())
        into["noop"] = prober.finish(stand.sizes.limit_s)
    finally:
        prober.close()


def retry_pass(stand: Stand, node: Node) -> dict[str, Any]:
    """Everything is tried again at once, and refused."""
    result: dict[str, Any] = {}
    node.forget_events()
    with ThreadPoolExecutor(1) as asker, watched(stand, node, result) as before:
        began = time.monotonic()
        asked = asker.submit(node.retry_all)
        wanted = before[DEFERRED] + stand.sizes.messages
        while node.metric(DEFERRED) < wanted and time.monotonic() - began < stand.sizes.pass_seconds:
            time.sleep(stand.look_s)
        result["seconds"] = time.monotonic() - began
        result["attempts"] = node.metric(DEFERRED) - before[DEFERRED]
        asked.result()
    result["rate"] = result["attempts"] / result["seconds"]
    stand.say(
        f"depth: retry pass {result['rate']:,.0f}/s, loop lag at most {result['loop']['longest_s_at_most']:g} s, "
        f"longest NOOP {result['noop']['longest_ms']:.0f} ms"
    )
    return result


LOOKS = {
    "queue list --to-domain": ["queue", "list", "--to-domain", "d7.many.example", "--limit", "100"],
    "queue list --from": ["queue", "list", "--from", "sender@src.example", "--limit", "100"],
    "queue list --state scheduled": ["queue", "list", "--state", "scheduled", "--limit", "100"],
    "queue list --older-than": ["queue", "list", "--older-than", "1s", "--limit", "100"],
    "queue summary": ["queue", "summary"],
}
LOOK_REPETITIONS = 3


def operate(stand: Stand, node: Node) -> dict[str, Any]:
    """What an operator's commands take: looks several times each, then everything held and released once."""
    result: dict[str, Any] = {"looks": {}, "actions": {}}
    for name, words in LOOKS.items():
        took = []
        for _ in range(LOOK_REPETITIONS):
            began = time.monotonic()
            answer = json.loads(node.run_command(*words, "--json"))
            took.append(time.monotonic() - began)
        result["looks"][name] = {"seconds": took, "found": len(answer) if isinstance(answer, list) else 1}
    refused = node.metric(DEFERRED) + stand.sizes.messages
    for action in ("hold", "release"):
        step: dict[str, Any] = {}
        with watched(stand, node, step):
            began = time.monotonic()
            report = json.loads(node.run_command("queue", action, "--all", "--yes", "--json", limit_s=RETRY_LIMIT_S))
            step["seconds"] = time.monotonic() - began
        result["actions"][f"queue {action} --all"] = step | {"done": report["done"]}
        stand.say(f"depth: {action} of {report['done']:,} in {step['seconds']:.1f} s")
    stand.wait(lambda: node.metric(DEFERRED) >= refused, "what was released to be refused again")
    slowest = max(max(look["seconds"]) for look in result["looks"].values())
    stand.say(f"depth: the slowest look took {slowest:.2f} s")
    return result


def recover(stand: Stand, full: Node, empty: Node) -> dict[str, Any]:
    """Both ways of going down, and what a start costs without mail."""
    result: dict[str, Any] = {}
    queued = full.queue_length()
    for way in ("stop", "kill"):
        for node in (empty, full):
            getattr(node, way)()
        least = empty.start_timed()
        took = full.start_timed()
        found = full.queue_length()
        per_worker = queued / full.ground.workers
        result[way] = {
            "queued": queued,
            "found": found,
            "seconds": took,
            "empty_seconds": least,
            "seconds_per_million_per_worker": max(0.0, took - least) / per_worker * 1e6,
        }
        stand.say(f"depth: {found:,} of {queued:,} back {took:.1f} s after {way}, empty relay {least:.1f} s")
    return result


def drain(stand: Stand, node: Node, refusing: Sink) -> dict[str, Any]:
    """The next hop that refused takes everything from now on."""
    result: dict[str, Any] = {}
    queued = node.queue_length()
    node.forget_events()
    with ThreadPoolExecutor(1) as asker, watched(stand, node, result):
        cpu = node.ground.group.cpu()
        refusing.close()
        with contextlib.closing(stand.accepting_again()) as sink:
            began = last_at = time.monotonic()
            asked = asker.submit(node.retry_all)
            reached = 0
            first_s = 0.0
            while reached < queued and time.monotonic() - last_at < DRAIN_PATIENCE_S:
                time.sleep(0.02)
                count = sink.messages()
                if count > reached:
                    reached, last_at = count, time.monotonic()
                    first_s = first_s or last_at - began
            took = last_at - began
            asked.result()
            wait_until_settled(node.ground.group)
        spent = node.ground.group.cpu() - cpu
    result |= {
        "queued": queued,
        "delivered": reached,
        "first_s": first_s,
        "seconds": took,
        "rate": reached / took if took else 0.0,
        "cpu_us": spent.total_s / max(1, reached) * 1e6,
        "left": node.queue_length(),
    }
    stand.say(f"depth: {reached:,} of {queued:,} drained in {took:.0f} s, {result['rate']:,.0f}/s")
    return result
